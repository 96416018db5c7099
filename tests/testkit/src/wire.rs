//! Both wires as a client sees them, written down a second time: none of this is the code under test.

mod read;
mod stream;

use contract::Transport;

pub use self::{
    read::{Got, bodies, read},
    stream::{Heard, ServerStream},
};

/// Both ways in.
pub const BOTH: [Transport; 2] = [Transport::Tcp, Transport::WebSocket];

/// First byte of a WebSocket frame that is a whole text message.
pub const TEXT: u8 = 0x81;
/// The same of a binary message, which is how goim's frames travel.
pub const BINARY: u8 = 0x82;
/// First byte of the last fragment of a message, where that is not its only one.
pub const CONTINUATION: u8 = 0x80;
/// First byte of a close.
pub const CLOSE: u8 = 0x88;
/// First byte of a ping.
pub const PING: u8 = 0x89;
/// First byte of a pong.
pub const PONG: u8 = 0x8a;

/// Masks hide nothing here.
const MASK: [u8; 4] = [0x5a, 0x01, 0xff, 0x80];

/// One goim frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its version.
    pub ver: i16,
    /// Its operation.
    pub op: i32,
    /// Its sequence number.
    pub seq: i32,
    /// Its body.
    pub body: Vec<u8>,
}

impl Frame {
    /// A frame of version 1.
    pub fn new(op: i32, seq: i32, body: impl Into<Vec<u8>>) -> Frame {
        Frame { ver: 1, op, seq, body: body.into() }
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        versioned(self.ver, self.op, self.seq, &self.body)
    }

    /// The frames that `bytes` consist of.
    ///
    /// # Panics
    /// They do not consist of frames.
    #[track_caller]
    pub fn all(mut bytes: &[u8]) -> Vec<Frame> {
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

    /// Its body as text, for messages of failed tests and JSON.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The bytes of one frame of version 1.
pub fn frame(op: i32, seq: i32, body: &[u8]) -> Vec<u8> {
    versioned(1, op, seq, body)
}

/// The bytes of one frame.
pub fn versioned(ver: i16, op: i32, seq: i32, body: &[u8]) -> Vec<u8> {
    raw_frame(16 + body.len() as i32, 16, ver, op, seq, body)
}

/// One frame whose lengths may lie: `packLen i32 | headerLen i16 | ver i16 | op i32 | seq i32 | body`, big-endian.
pub fn raw_frame(pack_len: i32, header_len: i16, ver: i16, op: i32, seq: i32, body: &[u8]) -> Vec<u8> {
    [
        &pack_len.to_be_bytes()[..],
        &header_len.to_be_bytes(),
        &ver.to_be_bytes(),
        &op.to_be_bytes(),
        &seq.to_be_bytes(),
        body,
    ]
    .concat()
}

/// Length of the frame at the start of `bytes`, when its header is there.
pub fn pack_len(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..16)?;
    usize::try_from(i32::from_be_bytes(header[..4].try_into().ok()?)).ok()
}

/// A WebSocket frame of a server: not masked.
pub fn from_server(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(len as u8),
        len @ 126..=0xffff => bytes.extend([&[126][..], &(len as u16).to_be_bytes()].concat()),
        len => bytes.extend([&[127][..], &(len as u64).to_be_bytes()].concat()),
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// A WebSocket frame of a client: masked.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = from_server(first, payload);
    let header = bytes.len() - payload.len();
    bytes[1] |= 0x80;
    bytes.truncate(header);
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A piece of a client's fragmented message: the first one is `TEXT` or `BINARY`, the others are `CONTINUATION`, the last
/// one is `fin`.
pub fn fragment(first: u8, fin: bool, payload: &[u8]) -> Vec<u8> {
    masked(if fin { first } else { first & 0x7f }, payload)
}

/// Total length of the server's WebSocket frame at the start of `bytes`, and where its payload begins, when its header is
/// there.
///
/// # Panics
/// It is masked.
pub fn from_server_len(bytes: &[u8]) -> Option<(usize, usize)> {
    let (payload, header) = match bytes.get(1)? {
        len @ 0..=125 => (usize::from(*len), 2),
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 10),
        _ => panic!("the server masked a frame: {:02x?}", &bytes[..2]),
    };
    Some((header + payload, header))
}

/// Frames as the client of a transport sends them: on WebSocket all in one message.
pub fn sent(transport: Transport, frames: &[u8]) -> Vec<u8> {
    match transport {
        Transport::Tcp => frames.to_vec(),
        Transport::WebSocket => masked(BINARY, frames),
    }
}

/// A reply as the client of a transport gets it.
pub fn reply(transport: Transport, frame: &[u8]) -> Vec<u8> {
    match transport {
        Transport::Tcp => frame.to_vec(),
        Transport::WebSocket => from_server(BINARY, frame),
    }
}

/// Pushed frames as the client of a transport gets them: on WebSocket inside an operation 9 frame.
pub fn pushed(transport: Transport, frames: &[u8]) -> Vec<u8> {
    match transport {
        Transport::Tcp => frames.to_vec(),
        Transport::WebSocket => from_server(BINARY, &frame(9, 0, frames)),
    }
}

/// A WebSocket close of a server.
pub fn close(code: u16, text: &str) -> Vec<u8> {
    from_server(CLOSE, &[&code.to_be_bytes()[..], text.as_bytes()].concat())
}

/// A client's upgrade request with more header lines, each with its line end.
pub fn upgrade(target: &str, headers: &str) -> Vec<u8> {
    // RFC 6455 section 1.3 has this key, and the answer to it.
    format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
    )
    .into_bytes()
}

/// The line of a good answer to [`upgrade`].
pub const UPGRADE_ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

/// Bytes in the notation of the protocol's document: hex digits and `"text"`; white space and `|` are for the eye.
///
/// # Panics
/// It is written otherwise.
#[track_caller]
pub fn hex(notation: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (at, part) in notation.split('"').enumerate() {
        if at % 2 == 1 {
            bytes.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<u8> =
            part.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'|').collect();
        assert!(digits.len().is_multiple_of(2), "odd number of digits in {notation:?}");
        for pair in digits.chunks(2) {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            bytes.push(u8::from_str_radix(pair, 16).unwrap_or_else(|_| panic!("{pair:?} is not hex")));
        }
    }
    bytes
}
