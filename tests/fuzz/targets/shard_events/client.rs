//! What a client makes of the bytes it gets.

use contract::Transport;
use proto::{frame::{FrameReader, frames_of_message}, op::Op, websocket::{Item, MessageLimits, Opcode, Reader, client_frame}};

const LIMITS: MessageLimits = MessageLimits { message_max: usize::MAX, fragments_max: 1 };

/// Checks that every byte of a server makes sense.
#[derive(Debug)]
pub(crate) enum Client {
    Tcp(FrameReader),
    /// Before the answer to the upgrade.
    Http,
    WebSocket(Reader),
    /// Refused: no more bytes may come.
    Refused,
}

impl Client {
    pub(crate) fn new(transport: Transport) -> Client {
        match transport {
            Transport::Tcp => Client::Tcp(FrameReader::new()),
            Transport::WebSocket => Client::Http,
        }
    }

    /// One write of the server: whole frames, whole messages.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        match self {
            Client::Tcp(reader) => {
                let mut input = bytes;
                while reader.next(&mut input, usize::MAX).expect("good frames").is_some() {}
                assert!(!reader.has_partial(), "a write ends with a whole frame");
            }
            Client::Http => self.upgraded(bytes),
            Client::WebSocket(reader) => messages(reader, bytes),
            Client::Refused => panic!("{bytes:?} behind a refusal"),
        }
    }

    fn upgraded(&mut self, bytes: &[u8]) {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
        if !bytes.starts_with(b"HTTP/1.1 101 ") {
            *self = Client::Refused;
            return;
        }
        let mut reader = Reader::of_server();
        messages(&mut reader, &bytes[end..]);
        *self = Client::WebSocket(reader);
    }
}

fn messages(reader: &mut Reader, bytes: &[u8]) {
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

/// What the client of a transport sends for a payload: on WebSocket a message.
pub(crate) fn sent(transport: Transport, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    match transport {
        Transport::Tcp => payload.to_vec(),
        Transport::WebSocket => {
            let mut bytes = Vec::new();
            client_frame(opcode, payload, [0x5a, 0x01, 0xff, 0x80], &mut bytes);
            bytes
        }
    }
}
