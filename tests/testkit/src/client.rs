//! A raw client: one blocking socket, both transports, every byte visible.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use contract::Transport;
use serde_json::Value;

use crate::{
    clock::{PATIENCE, Stopwatch},
    login::Login,
    wire::{self, BINARY, CLOSE, Frame, PONG, UPGRADE_ACCEPT, from_server_len, masked, pack_len},
};

/// How long a client listens to believe that nothing comes.
pub const SILENCE: Duration = Duration::from_millis(250);

/// How a connection ended, as the client saw it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct End {
    /// Frames that came before.
    pub frames: Vec<Frame>,
    /// Code and text of the WebSocket close.
    pub close: Option<(u16, String)>,
    /// A reset instead of an end.
    pub reset: bool,
}

impl End {
    /// Code of the WebSocket close.
    pub fn code(&self) -> Option<u16> {
        self.close.as_ref().map(|(code, _)| *code)
    }

    /// Body of operation 6, which has to be the last frame.
    pub fn reason(&self) -> Option<Value> {
        let frame = self.frames.iter().find(|frame| frame.op == 6)?;
        assert_eq!(Some(frame), self.frames.last(), "something came after operation 6");
        Some(serde_json::from_slice(&frame.body).expect("operation 6 carries JSON"))
    }
}

/// One connection.
pub struct Client {
    /// How it is connected.
    pub transport: Transport,
    /// Its socket.
    pub stream: TcpStream,
    /// What comes on the WebSocket port before this is HTTP.
    upgraded: bool,
    input: Vec<u8>,
    /// Frames of a message that were not asked for yet.
    frames: VecDeque<Frame>,
}

impl Client {
    /// A connection of which the server has seen nothing but the accept.
    pub fn raw(transport: Transport, address: SocketAddr) -> Client {
        Client::try_raw(transport, address).expect("the server accepts")
    }

    /// None when nobody is there.
    pub fn try_raw(transport: Transport, address: SocketAddr) -> Option<Client> {
        Some(Client::on(transport, TcpStream::connect_timeout(&address, PATIENCE).ok()?))
    }

    /// On a connection that is there.
    pub fn on(transport: Transport, stream: TcpStream) -> Client {
        stream.set_nodelay(true).expect("a socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        Client { transport, stream, upgraded: false, input: Vec::new(), frames: VecDeque::new() }
    }

    /// Upgrades to a WebSocket, with further header lines (each with its line end).
    #[track_caller]
    pub fn upgrade(&mut self, target: &str, headers: &str) {
        let head = self.try_upgrade(target, headers).expect("an HTTP answer in time");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains(UPGRADE_ACCEPT), "{head}");
    }

    /// The head of the answer; none when the connection ends first.
    pub fn try_upgrade(&mut self, target: &str, headers: &str) -> Option<String> {
        self.write(&wire::upgrade(target, headers));
        self.try_head()
    }

    /// The head of an HTTP answer.
    #[track_caller]
    pub fn head(&mut self) -> String {
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
    pub fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Frames as they are: on TCP one after the other, on WebSocket in one binary message.
    pub fn send_bytes(&mut self, frames: &[u8]) {
        self.write(&wire::sent(self.transport, frames));
    }

    /// One frame of version 1.
    pub fn send(&mut self, op: i32, seq: i32, body: impl Into<Vec<u8>>) {
        self.send_bytes(&Frame::new(op, seq, body).bytes());
    }

    /// Logs in.
    #[track_caller]
    pub fn login(&mut self, login: &Login) {
        self.send(7, 1, login.body());
        self.expect_reply(Frame::new(8, 1, ""));
    }

    /// The next bytes have to be exactly these.
    #[track_caller]
    pub fn expect_bytes(&mut self, expected: &[u8]) {
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
    pub fn expect_reply(&mut self, frame: Frame) {
        self.expect_bytes(&wire::reply(self.transport, &frame.bytes()));
    }

    /// The next bytes have to be this push: version 1, sequence 0, on WebSocket inside operation 9.
    #[track_caller]
    pub fn expect_push(&mut self, op: i32, body: impl Into<Vec<u8>>) {
        self.expect_push_with_seq(op, 0, body);
    }

    /// The same with the sequence number that the sender of a message gets back.
    #[track_caller]
    pub fn expect_push_with_seq(&mut self, op: i32, seq: i32, body: impl Into<Vec<u8>>) {
        self.expect_bytes(&wire::pushed(self.transport, &Frame::new(op, seq, body).bytes()));
    }

    /// The next frame, taken out of operation 9.
    #[track_caller]
    pub fn frame(&mut self) -> Frame {
        match self.next(PATIENCE) {
            Next::Frame(frame) => frame,
            Next::Silence => panic!("no frame within {PATIENCE:?}"),
            Next::End(end) => panic!("the connection ended: {end:?}"),
        }
    }

    /// Nothing comes for a while, and the connection stays.
    #[track_caller]
    pub fn expect_silence(&mut self) {
        match self.next(SILENCE) {
            Next::Silence => {}
            Next::Frame(frame) => panic!("a frame came: {frame:?} {}", frame.text()),
            Next::End(end) => panic!("the connection ended: {end:?}"),
        }
    }

    /// Reads to the end of the connection.
    #[track_caller]
    pub fn end(&mut self) -> End {
        self.end_within(PATIENCE)
    }

    /// The same with a time of one's own.
    #[track_caller]
    pub fn end_within(&mut self, limit: Duration) -> End {
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
    pub fn next(&mut self, limit: Duration) -> Next {
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
            Transport::WebSocket if !self.upgraded => None,
            Transport::WebSocket => {
                let (len, header) =
                    from_server_len(&self.input).filter(|(len, _)| *len <= self.input.len())?;
                let bytes: Vec<u8> = self.input.drain(..len).collect();
                let payload = &bytes[header..];
                match bytes[0] {
                    BINARY => {
                        let frames = Frame::all(payload);
                        match frames.as_slice() {
                            [raw] if raw.op == 9 => self.frames.extend(Frame::all(&raw.body)),
                            _ => self.frames.extend(frames),
                        }
                        Some(None)
                    }
                    CLOSE => {
                        let code = payload.get(..2).map_or(0, |code| u16::from_be_bytes([code[0], code[1]]));
                        let text = String::from_utf8(payload.get(2..).unwrap_or_default().to_vec());
                        Some(Some((code, text.expect("the text of a close is UTF-8"))))
                    }
                    PONG => Some(None),
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
    pub fn leave(mut self) {
        match self.transport {
            Transport::Tcp => {
                let _ = self.stream.shutdown(Shutdown::Write);
            }
            Transport::WebSocket => self.write(&masked(CLOSE, &1000u16.to_be_bytes())),
        }
        self.end();
    }
}

/// What a client saw next.
#[derive(Debug)]
pub enum Next {
    /// A frame, taken out of operation 9.
    Frame(Frame),
    /// Nothing in the time.
    Silence,
    /// The end of the connection.
    End(End),
}

#[derive(Debug, PartialEq)]
enum Filled {
    More,
    Nothing,
    End { reset: bool },
}
