//! A raw client: one blocking socket, both transports, every byte visible.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

use super::{
    clock::{PATIENCE, Stopwatch},
    wire::{Frame, Login, masked, pack_len, ws_frame, ws_len},
};

/// How long a client listens to believe that nothing comes.
pub(crate) const SILENCE: Duration = Duration::from_millis(250);

/// The two ways in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Ws,
}

/// For tests that hold on both.
pub(crate) const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Ws];

/// How a connection ended, as the client saw it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct End {
    /// Frames that came before.
    pub(crate) frames: Vec<Frame>,
    /// Code and text of the WebSocket close.
    pub(crate) close: Option<(u16, String)>,
    /// A reset instead of an end.
    pub(crate) reset: bool,
}

impl End {
    pub(crate) fn code(&self) -> Option<u16> {
        self.close.as_ref().map(|(code, _)| *code)
    }

    /// Body of operation 6, which has to be the last frame.
    pub(crate) fn reason(&self) -> Option<Value> {
        let frame = self.frames.iter().find(|frame| frame.op == 6)?;
        assert_eq!(Some(frame), self.frames.last(), "something came after operation 6");
        Some(serde_json::from_slice(&frame.body).expect("operation 6 carries JSON"))
    }
}

/// One connection.
pub(crate) struct Client {
    pub(crate) transport: Transport,
    pub(crate) stream: TcpStream,
    /// What comes on the WebSocket port before this is HTTP.
    upgraded: bool,
    input: Vec<u8>,
    /// Frames of a message that were not asked for yet.
    frames: VecDeque<Frame>,
}

impl Client {
    /// A connection of which the server has seen nothing but the accept.
    pub(crate) fn raw(transport: Transport, address: SocketAddr) -> Client {
        Client::try_raw(transport, address).expect("the server accepts")
    }

    /// None when nobody is there.
    pub(crate) fn try_raw(transport: Transport, address: SocketAddr) -> Option<Client> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
        stream.set_nodelay(true).expect("a socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        Some(Client { transport, stream, upgraded: false, input: Vec::new(), frames: VecDeque::new() })
    }

    /// Upgrades to a WebSocket, with further header lines (each with its line end).
    #[track_caller]
    pub(crate) fn upgrade(&mut self, target: &str, headers: &str) {
        let head = self.try_upgrade(target, headers).expect("an HTTP answer in time");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        // RFC 6455 section 1.3 has this pair.
        assert!(head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    }

    /// The head of the answer; none when the connection ends first.
    pub(crate) fn try_upgrade(&mut self, target: &str, headers: &str) -> Option<String> {
        self.write(
            format!(
                "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
            )
            .as_bytes(),
        );
        self.try_head()
    }

    /// The head of an HTTP answer.
    #[track_caller]
    pub(crate) fn head(&mut self) -> String {
        self.try_head().unwrap_or_else(|| panic!("no HTTP answer, only {:?}", self.input))
    }

    fn try_head(&mut self) -> Option<String> {
        let started = Stopwatch::start();
        loop {
            if let Some(at) = self.input.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.input.drain(..at + 4).collect();
                let head = String::from_utf8(head).expect("an HTTP head is ASCII");
                self.upgraded = head.starts_with("HTTP/1.1 101 ");
                return Some(head);
            }
            let left = started.left(PATIENCE)?;
            if self.fill(left) != Filled::More {
                return None;
            }
        }
    }

    /// Bytes on the socket, as they are. An error is the server's right: it may have closed.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Frames as they are: on TCP one after the other, on WebSocket in one binary message.
    pub(crate) fn send_bytes(&mut self, frames: &[u8]) {
        match self.transport {
            Transport::Tcp => self.write(frames),
            Transport::Ws => self.write(&masked(0x82, frames)),
        }
    }

    /// One frame of version 1.
    pub(crate) fn send(&mut self, op: i32, seq: i32, body: impl Into<Vec<u8>>) {
        self.send_bytes(&Frame::new(op, seq, body).bytes());
    }

    /// Logs in.
    #[track_caller]
    pub(crate) fn login(&mut self, login: &Login) {
        self.send(7, 1, login.body());
        self.expect_reply(Frame::new(8, 1, ""));
    }

    /// The next bytes have to be exactly these.
    #[track_caller]
    pub(crate) fn expect_bytes(&mut self, expected: &[u8]) {
        assert!(self.frames.is_empty(), "{:?} were not read", self.frames);
        let started = Stopwatch::start();
        while self.input.len() < expected.len() {
            let Some(left) = started.left(PATIENCE) else { break };
            if self.fill(left) != Filled::More {
                break;
            }
        }
        let len = expected.len().min(self.input.len());
        let found: Vec<u8> = self.input.drain(..len).collect();
        assert_eq!(found, expected, "\n found    {found:02x?}\n expected {expected:02x?}");
    }

    /// The next bytes have to be this reply: a bare frame, on WebSocket alone in its message.
    #[track_caller]
    pub(crate) fn expect_reply(&mut self, frame: Frame) {
        let frame = frame.bytes();
        match self.transport {
            Transport::Tcp => self.expect_bytes(&frame),
            Transport::Ws => self.expect_bytes(&ws_frame(0x82, &frame)),
        }
    }

    /// The next bytes have to be this push: version 1, sequence 0, on WebSocket inside operation 9.
    #[track_caller]
    pub(crate) fn expect_push(&mut self, op: i32, body: impl Into<Vec<u8>>) {
        self.expect_push_with_seq(op, 0, body);
    }

    /// The same with the sequence number that the sender of a message gets back.
    #[track_caller]
    pub(crate) fn expect_push_with_seq(&mut self, op: i32, seq: i32, body: impl Into<Vec<u8>>) {
        let frame = Frame::new(op, seq, body).bytes();
        match self.transport {
            Transport::Tcp => self.expect_bytes(&frame),
            Transport::Ws => self.expect_bytes(&ws_frame(0x82, &Frame::new(9, 0, frame).bytes())),
        }
    }

    /// The next frame, taken out of operation 9.
    #[track_caller]
    pub(crate) fn frame(&mut self) -> Frame {
        match self.next(PATIENCE) {
            Next::Frame(frame) => frame,
            Next::Silence => panic!("no frame within {PATIENCE:?}"),
            Next::End(end) => panic!("the connection ended: {end:?}"),
        }
    }

    /// Nothing comes for a while, and the connection stays.
    #[track_caller]
    pub(crate) fn expect_silence(&mut self) {
        match self.next(SILENCE) {
            Next::Silence => {}
            Next::Frame(frame) => panic!("a frame came: {frame:?} {}", frame.text()),
            Next::End(end) => panic!("the connection ended: {end:?}"),
        }
    }

    /// Reads to the end of the connection.
    #[track_caller]
    pub(crate) fn end(&mut self) -> End {
        self.end_within(PATIENCE)
    }

    /// The same with a time of one's own.
    #[track_caller]
    pub(crate) fn end_within(&mut self, limit: Duration) -> End {
        let (started, mut frames) = (Stopwatch::start(), Vec::new());
        loop {
            let left = started.left(limit).unwrap_or(Duration::from_millis(1));
            match self.next(left) {
                Next::Frame(frame) => frames.push(frame),
                Next::End(end) => return End { frames, ..end },
                Next::Silence => panic!("still open after {limit:?}, {} frames came", frames.len()),
            }
        }
    }

    /// What comes next within `limit`.
    pub(crate) fn next(&mut self, limit: Duration) -> Next {
        let started = Stopwatch::start();
        let mut close = None;
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Next::Frame(frame);
            }
            if let Some(parsed) = self.parse() {
                close = close.or(parsed);
                continue;
            }
            let Some(left) = started.left(limit) else { return Next::Silence };
            match self.fill(left) {
                Filled::More => {}
                Filled::Nothing => return Next::Silence,
                Filled::End { reset } => return Next::End(End { frames: Vec::new(), close, reset }),
            }
        }
    }

    /// Takes one frame or message from what was read: `None` when there is none, else the close if it was one.
    fn parse(&mut self) -> Option<Option<(u16, String)>> {
        match self.transport {
            Transport::Tcp => {
                let len = pack_len(&self.input).filter(|len| *len <= self.input.len())?;
                let bytes: Vec<u8> = self.input.drain(..len).collect();
                self.frames.extend(Frame::all(&bytes));
                Some(None)
            }
            Transport::Ws if !self.upgraded => None,
            Transport::Ws => {
                let (len, header) = ws_len(&self.input).filter(|(len, _)| *len <= self.input.len())?;
                let bytes: Vec<u8> = self.input.drain(..len).collect();
                let payload = &bytes[header..];
                match bytes[0] {
                    0x82 => {
                        let frames = Frame::all(payload);
                        match frames.as_slice() {
                            [raw] if raw.op == 9 => self.frames.extend(Frame::all(&raw.body)),
                            _ => self.frames.extend(frames),
                        }
                        Some(None)
                    }
                    0x88 => {
                        let code = payload.get(..2).map_or(0, |code| u16::from_be_bytes([code[0], code[1]]));
                        let text = String::from_utf8(payload.get(2..).unwrap_or_default().to_vec());
                        Some(Some((code, text.expect("the text of a close is UTF-8"))))
                    }
                    0x8a => Some(None),
                    other => panic!("the server sent a frame that starts with {other:02x}"),
                }
            }
        }
    }

    fn fill(&mut self, limit: Duration) -> Filled {
        self.stream.set_read_timeout(Some(limit)).expect("a socket option");
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => Filled::End { reset: false },
            Ok(read) => {
                self.input.extend_from_slice(&buffer[..read]);
                Filled::More
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Filled::Nothing
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Filled::More,
            Err(_) => Filled::End { reset: true },
        }
    }

    /// Leaves in order: a WebSocket with a close, TCP with its end.
    pub(crate) fn leave(mut self) {
        match self.transport {
            Transport::Tcp => {
                let _ = self.stream.shutdown(Shutdown::Write);
            }
            Transport::Ws => self.write(&masked(0x88, &1000u16.to_be_bytes())),
        }
        self.end();
    }
}

/// What a client saw next.
#[derive(Debug)]
pub(crate) enum Next {
    Frame(Frame),
    Silence,
    End(End),
}

#[derive(Debug, PartialEq)]
enum Filled {
    More,
    Nothing,
    End { reset: bool },
}
