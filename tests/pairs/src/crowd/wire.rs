//! The client's side of the wire without its socket: bytes in, things heard out.

use proto::{
    frame,
    frame::{Frame, FrameReader, Header},
    op::Op,
    websocket::{ClientUpgrade, Item, MessageLimits, Opcode, Reader, client_frame},
};

/// The longest body and message taken, in bytes.
const BODY_MAX: usize = 1 << 20;

const LIMITS: MessageLimits = MessageLimits { message_max: BODY_MAX, fragments_max: 100 };

/// Masks hide nothing here.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Frames on TCP.
    Tcp,
    /// Frames in WebSocket messages.
    WebSocket,
}

/// What is spoken on a connection, and what is incomplete of it.
pub(super) enum Wire {
    Tcp(FrameReader),
    Upgrading(ClientUpgrade),
    WebSocket(Reader),
}

/// Something heard.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The connection is a WebSocket now.
    Upgraded,
    /// A frame; those inside operation 9 come one by one.
    Frame(Op, Vec<u8>),
    /// To be answered.
    Ping(Vec<u8>),
    /// The server closes, with this code when it gave one.
    Close(Option<u16>),
}

impl Wire {
    pub(super) fn new(transport: Transport) -> Wire {
        match transport {
            Transport::Tcp => Wire::Tcp(FrameReader::new()),
            Transport::WebSocket => Wire::Upgrading(ClientUpgrade::new(*b"any sixteen byte")),
        }
    }

    /// What has to be said before the login; nothing on TCP.
    pub(super) fn upgrade(&self) -> Option<Vec<u8>> {
        match self {
            Wire::Upgrading(upgrade) => Some(upgrade.request("localhost", "/sub", &[])),
            _ => None,
        }
    }

    /// The bytes of a frame.
    pub(super) fn say(&self, op: Op, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame::encode(Header { ver: 1, op, seq: 1 }, body, &mut bytes);
        if matches!(self, Wire::Tcp(_)) {
            return bytes;
        }
        let mut message = Vec::new();
        client_frame(Opcode::Binary, &bytes, MASK, &mut message);
        message
    }

    /// The bytes of the answer to a ping.
    pub(super) fn pong(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        client_frame(Opcode::Pong, payload, MASK, &mut bytes);
        bytes
    }

    /// The bytes that close a WebSocket in order; on TCP the end of the stream says it.
    pub(super) fn farewell(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if matches!(self, Wire::WebSocket(_)) {
            client_frame(Opcode::Close, &1000_u16.to_be_bytes(), MASK, &mut bytes);
        }
        bytes
    }

    /// Takes in what was read; an error names what cannot be understood.
    pub(super) fn hear(&mut self, input: &mut [u8], out: &mut Vec<Heard>) -> Result<(), String> {
        match self {
            Wire::Tcp(reader) => {
                let mut input = &*input;
                while let Some(frame) = reader.next(&mut input, BODY_MAX).map_err(|bad| bad.to_string())? {
                    unpack(frame, out)?;
                }
                Ok(())
            }
            Wire::Upgrading(upgrade) => {
                let mut rest = &*input;
                if !upgrade.push(&mut rest).map_err(|error| error.to_string())? {
                    return Ok(());
                }
                let used = input.len() - rest.len();
                *self = Wire::WebSocket(Reader::of_server());
                out.push(Heard::Upgraded);
                self.hear(&mut input[used..], out)
            }
            Wire::WebSocket(reader) => {
                let mut input = input;
                while let Some(item) = reader.next(&mut input, &LIMITS).map_err(|bad| bad.to_string())? {
                    match item {
                        Item::Message(message) => {
                            for frame in frame::frames_of_message(message, BODY_MAX) {
                                unpack(frame.map_err(|bad| bad.to_string())?, out)?;
                            }
                        }
                        Item::Ping(payload) => out.push(Heard::Ping(payload.to_vec())),
                        Item::Pong => {}
                        Item::Close(code) => {
                            out.push(Heard::Close(code));
                            return Ok(());
                        }
                    }
                }
                Ok(())
            }
        }
    }
}

fn unpack(frame: Frame<'_>, out: &mut Vec<Heard>) -> Result<(), String> {
    if frame.header.op != Op::RAW {
        out.push(Heard::Frame(frame.header.op, frame.body.to_vec()));
        return Ok(());
    }
    for inner in frame::frames_of_message(frame.body, BODY_MAX) {
        let inner = inner.map_err(|bad| bad.to_string())?;
        out.push(Heard::Frame(inner.header.op, inner.body.to_vec()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proto::encoded::Encoded;

    use super::*;

    #[test]
    fn what_a_server_says_is_heard_on_both_transports_wherever_it_is_cut() {
        let push = |text: &str| Encoded::push(Op(1000), text.as_bytes());
        let (a, b) = (push("a"), push("b"));
        let frames = [Heard::Frame(Op(1000), b"a".to_vec()), Heard::Frame(Op(1000), b"b".to_vec())];
        let close = [0x88, 2, 0x11, 0x39];
        for (bytes, wire) in [
            ([a.tcp(), b.tcp()].concat(), Wire::new(Transport::Tcp)),
            ([a.ws(), b.ws(), &close].concat(), Wire::WebSocket(Reader::of_server())),
        ] {
            let mut wire = wire;
            let mut heard = Vec::new();
            bytes.iter().for_each(|byte| wire.hear(&mut [*byte], &mut heard).expect("it is sound"));
            assert_eq!(heard[..2], frames);
            assert!(heard[2..].iter().all(|heard| *heard == Heard::Close(Some(4409))), "{heard:?}");
        }
    }
}
