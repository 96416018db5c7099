//! Both wires as a client sees them, written out by hand: none of this is the code under test.

use contract::Transport;
use proto::websocket::{ClientUpgrade, Opcode, client_frame};

/// Both ways in.
pub(super) const BOTH: [Transport; 2] = [Transport::Tcp, Transport::WebSocket];

/// One frame of version 1.
pub(super) fn frame(op: i32, seq: i32, body: &[u8]) -> Vec<u8> {
    versioned(1, op, seq, body)
}

/// One frame.
pub(super) fn versioned(ver: i16, op: i32, seq: i32, body: &[u8]) -> Vec<u8> {
    raw_frame(16 + body.len() as i32, 16, ver, op, seq, body)
}

/// One frame whose lengths may lie.
pub(super) fn raw_frame(pack_len: i32, header_len: i16, ver: i16, op: i32, seq: i32, body: &[u8]) -> Vec<u8> {
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

/// A WebSocket frame of a server.
pub(super) fn from_server(first: u8, payload: &[u8]) -> Vec<u8> {
    let len = payload.len();
    let mut bytes = vec![first];
    match len {
        0..=125 => bytes.push(len as u8),
        126..=0xffff => bytes.extend([&[126][..], &(len as u16).to_be_bytes()].concat()),
        _ => bytes.extend([&[127][..], &(len as u64).to_be_bytes()].concat()),
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// A reply as the client of a transport gets it.
pub(super) fn reply(transport: Transport, frame: &[u8]) -> Vec<u8> {
    match transport {
        Transport::Tcp => frame.to_vec(),
        Transport::WebSocket => from_server(0x82, frame),
    }
}

/// Pushed frames as the client of a transport gets them: on WebSocket inside an operation 9 frame.
pub(super) fn pushed(transport: Transport, frames: &[u8]) -> Vec<u8> {
    match transport {
        Transport::Tcp => frames.to_vec(),
        Transport::WebSocket => from_server(0x82, &frame(9, 0, frames)),
    }
}

/// A WebSocket close of a server.
pub(super) fn close(code: u16, text: &str) -> Vec<u8> {
    from_server(0x88, &[&code.to_be_bytes()[..], text.as_bytes()].concat())
}

/// A WebSocket frame of a client.
pub(super) fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    client_frame(opcode, payload, [0x5a, 0x01, 0xff, 0x80], &mut bytes);
    bytes
}

/// A piece of a client's fragmented message: the first one has `Opcode::Binary`, the last one is `fin`.
pub(super) fn fragment(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = masked(opcode, payload);
    if !fin {
        bytes[0] &= 0x7f;
    }
    bytes
}

/// Frames as the client of a transport sends them: on WebSocket all in one message.
pub(super) fn sent(transport: Transport, frames: &[u8]) -> Vec<u8> {
    match transport {
        Transport::Tcp => frames.to_vec(),
        Transport::WebSocket => masked(Opcode::Binary, frames),
    }
}

/// A client's upgrade request.
pub(super) fn upgrade(target: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    ClientUpgrade::new([7; 16]).request("halley.test", target, headers)
}

/// One thing a client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// A frame outside of operation 9.
    Reply { op: i32, seq: i32, body: Vec<u8> },
    /// A frame of a push.
    Push { op: i32, seq: i32, body: Vec<u8> },
    /// A WebSocket close.
    Close { code: u16, text: String },
    /// A WebSocket pong.
    Pong(Vec<u8>),
    /// A WebSocket close without a code.
    BareClose,
    /// Status of an HTTP answer.
    Http(u16),
}

/// Reads everything a client got. On TCP a frame of version 1 and sequence number 0 counts as a push unless its
/// operation is the wire's own.
pub(super) fn read(transport: Transport, mut bytes: &[u8]) -> Vec<Got> {
    let mut got = Vec::new();
    if transport == Transport::Tcp {
        frames(bytes, |op, seq, body| match op {
            1..=21 | 2_000_000_000.. => got.push(Got::Reply { op, seq, body }),
            _ if seq == 0 => got.push(Got::Push { op, seq, body }),
            _ => got.push(Got::Reply { op, seq, body }),
        });
        return got;
    }
    while !bytes.is_empty() {
        if let Some(head) = bytes.strip_prefix(b"HTTP/1.1 ") {
            let end = head.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
            let status = std::str::from_utf8(&head[..3]).expect("text").parse().expect("a status");
            got.push(Got::Http(status));
            bytes = if status == 101 { &head[end..] } else { &[] };
            continue;
        }
        let (header, len) = match bytes[1] {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            127 => {
                (10, usize::from(u16::from_be_bytes([bytes[8], bytes[9]])) + (usize::from(bytes[7]) << 16))
            }
            len => (2, usize::from(len)),
        };
        let payload = &bytes[header..header + len];
        match (bytes[0], payload) {
            (0x82, payload) => frames(payload, |op, seq, body| match op {
                9 => frames(&body, |op, seq, body| got.push(Got::Push { op, seq, body })),
                _ => got.push(Got::Reply { op, seq, body }),
            }),
            (0x88, []) => got.push(Got::BareClose),
            (0x88, [high, low, text @ ..]) => got.push(Got::Close {
                code: u16::from_be_bytes([*high, *low]),
                text: String::from_utf8(text.to_vec()).expect("UTF-8"),
            }),
            (0x8a, payload) => got.push(Got::Pong(payload.to_vec())),
            (first, _) => panic!("a server does not send {first:02x}"),
        }
        bytes = &bytes[header + len..];
    }
    got
}

fn frames(mut bytes: &[u8], mut each: impl FnMut(i32, i32, Vec<u8>)) {
    let int = |bytes: &[u8], at: usize| i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    while !bytes.is_empty() {
        let len = int(bytes, 0) as usize;
        assert_eq!(bytes[4..8], [0, 16, 0, 1], "headerLen and version of a frame of {len} bytes");
        each(int(bytes, 8), int(bytes, 12), bytes[16..len].to_vec());
        bytes = &bytes[len..];
    }
}

/// The bodies of pushes, as text.
pub(super) fn bodies(got: &[Got]) -> Vec<String> {
    got.iter()
        .filter_map(|got| match got {
            Got::Push { body, .. } => Some(String::from_utf8(body.clone()).expect("text")),
            _ => None,
        })
        .collect()
}

/// Bytes in the notation of the protocol's document: hex digits, `"text"`, white space and `|` for the eye.
pub(super) fn hex(notation: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (at, part) in notation.split('"').enumerate() {
        if at % 2 == 1 {
            bytes.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<u8> = part.bytes().filter(u8::is_ascii_hexdigit).collect();
        let digit = |at: usize| (digits[at] as char).to_digit(16).expect("a hex digit") as u8;
        bytes.extend((0..digits.len()).step_by(2).map(|at| digit(at) << 4 | digit(at + 1)));
    }
    bytes
}
