//! The bytes of the client wire, written down a second time: what the server sends is compared with these, not with the
//! codec it uses itself.

use serde_json::{Map, Value, json};

/// One goim frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) ver: i16,
    pub(crate) op: i32,
    pub(crate) seq: i32,
    pub(crate) body: Vec<u8>,
}

impl Frame {
    /// A frame of version 1.
    pub(crate) fn new(op: i32, seq: i32, body: impl Into<Vec<u8>>) -> Frame {
        Frame { ver: 1, op, seq, body: body.into() }
    }

    /// `packLen i32 | headerLen i16 = 16 | ver i16 | op i32 | seq i32 | body`, big-endian.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 + self.body.len());
        bytes.extend_from_slice(&(16 + self.body.len() as i32).to_be_bytes());
        bytes.extend_from_slice(&16i16.to_be_bytes());
        bytes.extend_from_slice(&self.ver.to_be_bytes());
        bytes.extend_from_slice(&self.op.to_be_bytes());
        bytes.extend_from_slice(&self.seq.to_be_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The frames that `bytes` consist of.
    #[track_caller]
    pub(crate) fn all(mut bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let len = pack_len(bytes).expect("a header");
            assert_eq!(bytes[4..6], [0, 16], "headerLen in {bytes:02x?}");
            let word = |at: usize| i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
            frames.push(Frame {
                ver: i16::from_be_bytes([bytes[6], bytes[7]]),
                op: word(8),
                seq: word(12),
                body: bytes[16..len].to_vec(),
            });
            bytes = &bytes[len..];
        }
        frames
    }

    /// The body as text, for messages of failed tests and JSON.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Length of the frame at the start of `bytes`, when its header is there.
pub(crate) fn pack_len(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..16)?;
    usize::try_from(i32::from_be_bytes(header[..4].try_into().ok()?)).ok()
}

/// An unmasked WebSocket frame as a server sends it.
pub(crate) fn ws_frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first_byte];
    match payload.len() {
        len @ 0..=125 => bytes.push(len as u8),
        len @ 126..=0xffff => {
            bytes.push(126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// A masked WebSocket frame as a client sends it.
pub(crate) fn masked(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = ws_frame(first_byte, payload);
    let header = bytes.len() - payload.len();
    bytes[1] |= 0x80;
    bytes.truncate(header);
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// Total length of the server's WebSocket frame at the start of `bytes`, and where its payload begins.
pub(crate) fn ws_len(bytes: &[u8]) -> Option<(usize, usize)> {
    let (payload, header) = match bytes.get(1)? {
        len @ 0..=125 => (usize::from(*len), 2),
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 10),
        _ => panic!("the server masked a frame: {:02x?}", &bytes[..2]),
    };
    Some((header + payload, header))
}

/// The bytes that a text of hexadecimal digits stands for; spaces and `|` are for the reader, text in quotes stands for
/// itself.
#[track_caller]
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (at, part) in text.split('"').enumerate() {
        if at % 2 == 1 {
            bytes.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<u8> = part.bytes().filter(u8::is_ascii_hexdigit).collect();
        for pair in digits.chunks(2) {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            bytes.push(u8::from_str_radix(pair, 16).expect("two digits"));
        }
    }
    bytes
}

/// Body of operation 7. What is not said is left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Login(Map<String, Value>);

impl Login {
    pub(crate) fn key(key: &str) -> Login {
        Login::default().with("key", key)
    }

    pub(crate) fn mid(self, mid: i64) -> Login {
        self.with("mid", mid)
    }

    pub(crate) fn room(self, room: &str) -> Login {
        self.with("room_id", room)
    }

    pub(crate) fn accepts(self, ops: &[i32]) -> Login {
        self.with("accepts", ops)
    }

    /// Halley's: several rooms at once.
    pub(crate) fn rooms(self, rooms: &[&str]) -> Login {
        self.with("rooms", rooms)
    }

    /// Halley's: operation 6 before a close.
    pub(crate) fn reasons(self) -> Login {
        self.with("features", ["reasons"].as_slice())
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        Value::Object(self.0.clone()).to_string().into_bytes()
    }

    fn with(mut self, name: &str, value: impl serde::Serialize) -> Login {
        self.0.insert(name.to_owned(), json!(value));
        self
    }
}
