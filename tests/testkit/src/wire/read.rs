//! What a client makes of the bytes it got.

use contract::Transport;

use super::{BINARY, CLOSE, Frame, PONG, from_server_len};

/// One thing a client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    /// A frame outside of operation 9.
    Reply {
        /// Its operation.
        op: i32,
        /// Its sequence number.
        seq: i32,
        /// Its body.
        body: Vec<u8>,
    },
    /// A frame of a push.
    Push {
        /// Its operation.
        op: i32,
        /// Its sequence number.
        seq: i32,
        /// Its body.
        body: Vec<u8>,
    },
    /// A WebSocket close.
    Close {
        /// Its code.
        code: u16,
        /// Its text.
        text: String,
    },
    /// A WebSocket close without a code.
    BareClose,
    /// A WebSocket pong.
    Pong(Vec<u8>),
    /// Status of an HTTP answer.
    Http(u16),
}

impl Got {
    fn reply(Frame { op, seq, body, .. }: Frame) -> Got {
        Got::Reply { op, seq, body }
    }

    fn push(Frame { op, seq, body, .. }: Frame) -> Got {
        Got::Push { op, seq, body }
    }

    /// TCP does not say what is a push: a frame with the sequence number 0 counts as one unless its operation is the wire's
    /// own.
    fn on_tcp(frame: Frame) -> Got {
        match frame.op {
            1..=21 | 2_000_000_000.. => Got::reply(frame),
            _ if frame.seq == 0 => Got::push(frame),
            _ => Got::reply(frame),
        }
    }
}

/// Reads everything a client got.
///
/// # Panics
/// It is not all whole and right.
pub fn read(transport: Transport, mut bytes: &[u8]) -> Vec<Got> {
    if transport == Transport::Tcp {
        return frames(bytes).map(Got::on_tcp).collect();
    }
    let mut got = Vec::new();
    while !bytes.is_empty() {
        if let Some(head) = bytes.strip_prefix(b"HTTP/1.1 ") {
            let end = head.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
            let status = std::str::from_utf8(&head[..3]).expect("text").parse().expect("a status");
            got.push(Got::Http(status));
            bytes = if status == 101 { &head[end..] } else { &[] };
            continue;
        }
        let (len, header) = from_server_len(bytes).expect("a header");
        match (bytes[0], &bytes[header..len]) {
            (BINARY, payload) => got.extend(frames(payload).flat_map(|frame| match frame.op {
                9 => frames(&frame.body).map(Got::push).collect(),
                _ => vec![Got::reply(frame)],
            })),
            (CLOSE, []) => got.push(Got::BareClose),
            (CLOSE, [high, low, text @ ..]) => got.push(Got::Close {
                code: u16::from_be_bytes([*high, *low]),
                text: String::from_utf8(text.to_vec()).expect("UTF-8"),
            }),
            (PONG, payload) => got.push(Got::Pong(payload.to_vec())),
            (first, _) => panic!("a server does not send {first:02x}"),
        }
        bytes = &bytes[len..];
    }
    got
}

/// The frames of `bytes`, which have to be of version 1.
fn frames(bytes: &[u8]) -> impl Iterator<Item = Frame> + use<> {
    Frame::all(bytes).into_iter().inspect(|frame| assert_eq!(frame.ver, 1, "{frame:?}"))
}

/// The bodies of pushes, as text.
///
/// # Panics
/// One is no text.
pub fn bodies(got: &[Got]) -> Vec<String> {
    got.iter()
        .filter_map(|got| match got {
            Got::Push { body, .. } => Some(String::from_utf8(body.clone()).expect("text")),
            _ => None,
        })
        .collect()
}
