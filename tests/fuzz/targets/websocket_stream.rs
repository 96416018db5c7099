#![no_main]
//! RFC 6455 after the upgrade: a stream says the same however it is cut, and stays within the limits.

use fuzz::{Cut, bounded, choose};
use libfuzzer_sys::fuzz_target;
use proto::{
    frame::{CLIENT_BODY_MAX, frames_of_message},
    websocket::{Item, MessageLimits, Reader, WsViolation},
};

const LIMITS: [MessageLimits; 2] = [
    MessageLimits { message_max: 64 * 1024, fragments_max: 100 },
    MessageLimits { message_max: 20, fragments_max: 3 },
];

const READERS: [fn() -> Reader; 2] = [Reader::new, Reader::of_server];

#[derive(Debug, PartialEq)]
enum Said {
    Message(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
}

/// What was said, and how the stream ended: with part of something, or with a violation.
type Heard = (Vec<Said>, Result<bool, WsViolation>);

fuzz_target!(|input: &[u8]| bounded(|| {
    let (limits, input) = choose(&LIMITS, input);
    let (reader, input) = choose(&READERS, input);
    let cut = Cut::new(input);
    let whole = read(reader(), &[cut.stream], &limits);
    assert_eq!(read(reader(), &cut.pieces, &limits), whole);
    for said in &whole.0 {
        if let Said::Message(message) = said {
            frames_of_message(message, CLIENT_BODY_MAX).for_each(drop);
        }
    }
}));

fn read(mut reader: Reader, pieces: &[&[u8]], limits: &MessageLimits) -> Heard {
    let mut said = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            let item = match reader.next(&mut input, limits) {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(violation) => {
                    assert_eq!(
                        reader.next(&mut &mut [0x82, 0x80][..], limits),
                        Err(violation),
                        "it stays failed"
                    );
                    return (said, Err(violation));
                }
            };
            assert!(!matches!(said.last(), Some(Said::Close(_))), "nothing is said after a close");
            said.push(match item {
                Item::Message(message) => {
                    assert!(message.len() <= limits.message_max);
                    Said::Message(message.to_vec())
                }
                Item::Ping(payload) => {
                    assert!(payload.len() <= 125);
                    Said::Ping(payload.to_vec())
                }
                Item::Pong => Said::Pong,
                Item::Close(code) => Said::Close(code),
            });
        }
        assert!(input.is_empty(), "bytes are left");
    }
    (said, Ok(reader.has_partial()))
}
