//! A server's stream as a client reads it, in whatever pieces it comes. Unlike [`super::read`] it reads with the crate
//! `proto`, so that it can be fed byte by byte and holds little.

use contract::Transport;
use proto::{
    frame::{self, FrameReader},
    op::Op,
    websocket::{Item, MessageLimits, Reader},
};

use super::Frame;

/// The longest body and message taken.
const BODY_MAX: usize = 1 << 24;

const LIMITS: MessageLimits = MessageLimits { message_max: BODY_MAX, fragments_max: 100 };

/// Something a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The head of an HTTP answer, with its status.
    Http(u16),
    /// A frame; those inside operation 9 come one by one.
    Frame(Frame),
    /// A WebSocket ping, to be answered.
    Ping(Vec<u8>),
    /// A WebSocket pong.
    Pong,
    /// A WebSocket close, with its code where it has one.
    Close(Option<u16>),
}

/// Reads what a server sends.
#[derive(Debug)]
pub struct ServerStream {
    state: State,
    bytes: u64,
}

#[derive(Debug)]
enum State {
    Tcp(FrameReader),
    /// The head of the answer to the upgrade, so far.
    Head(Vec<u8>),
    WebSocket(Reader),
    /// The upgrade was refused: what follows is for people.
    Refused,
}

impl ServerStream {
    /// One from its first byte on.
    pub fn new(transport: Transport) -> ServerStream {
        let state = match transport {
            Transport::Tcp => State::Tcp(FrameReader::new()),
            Transport::WebSocket => State::Head(Vec::new()),
        };
        ServerStream { state, bytes: 0 }
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Part of a head, a frame or a message has come.
    pub fn has_partial(&self) -> bool {
        match &self.state {
            State::Tcp(reader) => reader.has_partial(),
            State::Head(head) => !head.is_empty(),
            State::WebSocket(reader) => reader.has_partial(),
            State::Refused => false,
        }
    }

    /// Appends what is complete, each with the offset in the stream at which it ended.
    ///
    /// # Errors
    /// Words about what makes no sense.
    pub fn push(&mut self, bytes: &[u8], heard: &mut Vec<(u64, Heard)>) -> Result<(), String> {
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
            let status = head.get(9..12).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
            let status: u16 = status.ok_or("an answer that is no HTTP")?;
            heard.push((end - (owned.len() - at) as u64, Heard::Http(status)));
            self.state = match status {
                101 => State::WebSocket(Reader::of_server()),
                _ => State::Refused,
            };
        }
        match &mut self.state {
            State::Head(_) | State::Refused => {}
            State::Tcp(reader) => {
                let mut rest = &owned[..];
                while let Some(frame) = reader.next(&mut rest, BODY_MAX).map_err(|error| error.to_string())? {
                    let mut found = Vec::new();
                    unpack(frame, &mut found)?;
                    let at = end - rest.len() as u64;
                    heard.extend(found.into_iter().map(|found| (at, found)));
                }
            }
            State::WebSocket(reader) => {
                let mut rest = &mut owned[at..];
                while let Some(item) = reader.next(&mut rest, &LIMITS).map_err(|error| error.to_string())? {
                    let mut found = Vec::new();
                    match item {
                        Item::Message(message) => unpack_all(message, &mut found)?,
                        Item::Ping(payload) => found.push(Heard::Ping(payload.to_vec())),
                        Item::Pong => found.push(Heard::Pong),
                        Item::Close(code) => found.push(Heard::Close(code)),
                    }
                    let at = end - rest.len() as u64;
                    heard.extend(found.into_iter().map(|found| (at, found)));
                }
            }
        }
        Ok(())
    }
}

fn unpack_all(frames: &[u8], heard: &mut Vec<Heard>) -> Result<(), String> {
    for frame in frame::frames_of_message(frames, BODY_MAX) {
        unpack(frame.map_err(|error| error.to_string())?, heard)?;
    }
    Ok(())
}

/// A frame, or the frames of an operation 9.
fn unpack(frame: frame::Frame<'_>, heard: &mut Vec<Heard>) -> Result<(), String> {
    let header = frame.header;
    if header.op == Op::RAW {
        return unpack_all(frame.body, heard);
    }
    let (ver, op, seq, body) = (header.ver, header.op.0, header.seq, frame.body.to_vec());
    heard.push(Heard::Frame(Frame { ver, op, seq, body }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{close, frame, from_server, pushed},
        *,
    };

    #[test]
    fn what_a_server_says_is_heard_on_both_transports_wherever_it_is_cut() {
        let pushes = [frame(1000, 0, b"a"), frame(1000, 0, b"b")].concat();
        let head = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
        let tcp = pushed(Transport::Tcp, &pushes);
        let web =
            [head, &pushed(Transport::WebSocket, &pushes)[..], &from_server(0x89, b"p"), &close(4409, "")];
        let frames = ["a", "b"].map(|body| Heard::Frame(Frame::new(1000, 0, body)));
        let around = [Heard::Http(101), Heard::Ping(b"p".to_vec()), Heard::Close(Some(4409))];
        for (transport, bytes) in [(Transport::Tcp, tcp), (Transport::WebSocket, web.concat())] {
            let (mut stream, mut heard) = (ServerStream::new(transport), Vec::new());
            bytes.iter().for_each(|byte| stream.push(&[*byte], &mut heard).expect("it makes sense"));
            assert!(!stream.has_partial() && stream.bytes() == bytes.len() as u64);
            let mut heard: Vec<Heard> = heard.into_iter().map(|(_, heard)| heard).collect();
            if transport == Transport::WebSocket {
                assert_eq!(heard.drain(3..).collect::<Vec<_>>(), around[1..]);
                assert_eq!(heard.remove(0), around[0]);
            }
            assert_eq!(heard, frames);
        }
    }
}
