//! Whether every write of a server makes sense to its client.

use contract::Transport;
use proto::{
    frame::{FrameReader, frames_of_message},
    op::Op,
    websocket::{self, Item, MessageLimits},
};

const LIMITS: MessageLimits = MessageLimits { message_max: usize::MAX, fragments_max: 1 };

/// A client that reads with the crate `proto`, as Halley's own clients do.
#[derive(Debug)]
pub(super) enum Reader {
    Tcp(FrameReader),
    /// Before the answer to the upgrade.
    Http,
    WebSocket(websocket::Reader),
    /// Refused: no more bytes may come.
    Refused,
}

impl Reader {
    pub(super) fn new(transport: Transport) -> Reader {
        match transport {
            Transport::Tcp => Reader::Tcp(FrameReader::new()),
            Transport::WebSocket => Reader::Http,
        }
    }

    /// Checks one write of the server: whole frames, whole messages.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        match self {
            Reader::Tcp(reader) => {
                let mut input = bytes;
                while reader.next(&mut input, usize::MAX).expect("good frames").is_some() {}
                assert!(!reader.has_partial(), "a write ends with a whole frame");
            }
            Reader::Http => self.upgraded(bytes),
            Reader::WebSocket(reader) => messages(reader, bytes),
            Reader::Refused => panic!("{bytes:?} behind a refusal"),
        }
    }

    fn upgraded(&mut self, bytes: &[u8]) {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
        if !bytes.starts_with(b"HTTP/1.1 101 ") {
            *self = Reader::Refused;
            return;
        }
        let mut reader = websocket::Reader::of_server();
        messages(&mut reader, &bytes[end..]);
        *self = Reader::WebSocket(reader);
    }
}

fn messages(reader: &mut websocket::Reader, bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    let mut input = &mut bytes[..];
    while let Some(item) = reader.next(&mut input, &LIMITS).expect("good messages") {
        let Item::Message(message) = item else { continue };
        for frame in frames_of_message(message, usize::MAX) {
            let frame = frame.expect("good frames in a message");
            if frame.header.op == Op::RAW {
                assert!(frames_of_message(frame.body, usize::MAX).all(|frame| frame.is_ok()));
            }
        }
    }
    assert!(!reader.has_partial(), "a write ends with a whole message");
}
