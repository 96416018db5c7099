//! The client's side of both wires: what it writes, and what comes out of what it reads.

use contract::Transport;
use proto::{frame::{FrameReader, HEADER_LEN, Header, encode, frames_of_message}, op::Op, websocket::{Item, MessageLimits, Opcode, Reader, client_frame}};

/// Something the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    /// A goim frame.
    Frame { op: i32, seq: i32, body: Vec<u8> },
    /// The head of an HTTP answer, with its status.
    Http(u16),
    /// A WebSocket pong.
    Pong,
    /// A WebSocket close, with its code.
    Close(Option<u16>),
}

/// Reads what a server sends.
pub(crate) struct ServerStream {
    state: State,
    /// Bytes so far.
    pub(crate) bytes: u64,
}

enum State {
    Tcp(FrameReader),
    Head(Vec<u8>),
    WebSocket(Reader),
    /// The upgrade was refused: what follows is for people.
    Refused,
}

impl ServerStream {
    pub(crate) fn new(transport: Transport) -> ServerStream {
        let state = match transport {
            Transport::Tcp => State::Tcp(FrameReader::new()),
            Transport::WebSocket => State::Head(Vec::new()),
        };
        ServerStream { state, bytes: 0 }
    }

    /// Appends what is complete, each with the offset in the stream at which its input ended.
    pub(crate) fn push(&mut self, bytes: &[u8], got: &mut Vec<(u64, Got)>) -> Result<(), String> {
        let mut owned = bytes.to_vec();
        let end = self.bytes + bytes.len() as u64;
        self.bytes = end;
        let mut at = 0;
        if let State::Head(head) = &mut self.state {
            while at < owned.len() && !head.ends_with(b"\r\n\r\n") {
                head.push(owned[at]);
                at += 1;
            }
            if !head.ends_with(b"\r\n\r\n") {
                return Ok(());
            }
            let status = std::str::from_utf8(&head[9..12]).ok().and_then(|text| text.parse().ok());
            let status: u16 = status.ok_or("an answer that is no HTTP")?;
            got.push((end - (owned.len() - at) as u64, Got::Http(status)));
            self.state = match status {
                101 => State::WebSocket(Reader::of_server()),
                _ => State::Refused,
            };
        }
        match &mut self.state {
            State::Head(_) | State::Refused => {}
            State::Tcp(reader) => {
                let mut rest = &owned[..];
                while let Some(frame) = reader.next(&mut rest, 1 << 24).map_err(|error| error.to_string())? {
                    let frame = (frame.header, frame.body.to_vec());
                    got.push((end - rest.len() as u64, frame_got(frame.0, frame.1)));
                }
            }
            State::WebSocket(reader) => {
                let mut rest = &mut owned[at..];
                let limits = MessageLimits { message_max: 1 << 24, fragments_max: 100 };
                loop {
                    let item = reader.next(&mut rest, &limits).map_err(|error| error.to_string())?;
                    let mut found = Vec::new();
                    match item {
                        None => break,
                        Some(Item::Message(message)) => unwrap(message, &mut found)?,
                        Some(Item::Close(code)) => found.push(Got::Close(code)),
                        Some(Item::Pong) => found.push(Got::Pong),
                        Some(Item::Ping(_)) => return Err("the server sent a ping".into()),
                    }
                    let at = end - rest.len() as u64;
                    got.extend(found.into_iter().map(|found| (at, found)));
                }
            }
        }
        Ok(())
    }
}

fn frame_got(header: Header, body: Vec<u8>) -> Got {
    Got::Frame { op: header.op.0, seq: header.seq, body }
}

/// Frames of a message; those in operation 9 come out of it.
fn unwrap(message: &[u8], got: &mut Vec<Got>) -> Result<(), String> {
    for frame in frames_of_message(message, 1 << 24) {
        let frame = frame.map_err(|error| error.to_string())?;
        match frame.header.op {
            Op::RAW => unwrap(frame.body, got)?,
            _ => got.push(frame_got(frame.header, frame.body.to_vec())),
        }
    }
    Ok(())
}

/// One frame as a client writes it.
pub(crate) fn client_bytes(transport: Transport, op: Op, seq: i32, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_LEN + body.len());
    encode(Header { ver: 1, op, seq }, body, &mut frame);
    match transport {
        Transport::Tcp => frame,
        Transport::WebSocket => masked(Opcode::Binary, &frame),
    }
}

/// One WebSocket frame of a client.
pub(crate) fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    client_frame(opcode, payload, [1, 2, 3, 4], &mut bytes);
    bytes
}

/// The head of an upgrade.
pub(crate) fn upgrade(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}
