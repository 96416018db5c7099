//! A goim server just large enough to prove the tool on: logins, heartbeats, pushes to everybody, online counts, and
//! faults planted on request. A thread per connection; TCP and WebSocket on one port.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use proto::{
    close::{CloseReason, close_payload, disconnect_body},
    encoded::Encoded,
    frame::{Frame, FrameReader, Header, frames_of_message},
    op::Op,
    websocket::{Item, MessageLimits, Opcode, Reader, Upgrade, UpgradeRules},
};

/// What goes wrong, with the fourth push unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// One client does not get it.
    Lose,
    /// One client gets it twice.
    Duplicate,
    /// One client gets it after the fifth.
    Reorder,
    /// One client gets it with a byte changed.
    Damage,
    /// One client is told why and closed instead.
    Close,
    /// The API refuses it, and nobody gets it.
    Refuse,
    /// All pushes are kept and leave in one write, with the twentieth.
    Join,
    /// Each delivery comes with one of another program.
    Stranger,
    /// The online counts are one too high while anybody is there.
    Miscount,
    /// Logins are not answered.
    Mute,
}

/// The running server; its threads end with the test.
pub(crate) struct Server {
    pub(crate) tcp: SocketAddr,
    pub(crate) http: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Tcp,
    WebSocket,
}

struct Member {
    socket: TcpStream,
    speaks: Speaks,
    number: u64,
}

struct Hub {
    fault: Fault,
    members: Mutex<Vec<Member>>,
    pushes: AtomicU64,
    /// A push held back by a fault.
    kept: Mutex<Vec<Vec<u8>>>,
    connections: AtomicU64,
}

impl Server {
    /// Starts one with this fault.
    pub(crate) fn start(fault: Fault) -> Self {
        let hub = Arc::new(Hub {
            fault,
            members: Mutex::new(Vec::new()),
            pushes: AtomicU64::new(0),
            kept: Mutex::new(Vec::new()),
            connections: AtomicU64::new(0),
        });
        let tcp = listen(hub.clone(), |hub, socket| hub.client(&socket).unwrap_or_default());
        let http = listen(hub, |hub, socket| hub.http(&socket).unwrap_or_default());
        Server { tcp, http: format!("http://{http}") }
    }
}

fn listen(hub: Arc<Hub>, serve: fn(&Hub, TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let hub = hub.clone();
            thread::spawn(move || serve(&hub, socket));
        }
    });
    address
}

impl Hub {
    fn client(&self, socket: &TcpStream) -> Option<()> {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let mut buffer = vec![0; 8192];
        let mut first = [0];
        socket.peek(&mut first).ok()?;
        let speaks = if first[0] == b'G' { Speaks::WebSocket } else { Speaks::Tcp };
        if speaks == Speaks::WebSocket {
            let (rules, peer) = (UpgradeRules::default(), socket.peer_addr().ok()?.ip());
            let mut upgrade = Upgrade::new();
            let request = loop {
                let length = (&*socket).read(&mut buffer).ok().filter(|n| *n > 0)?;
                let mut input = &buffer[..length];
                if let Some(request) = upgrade.push(&mut input, peer, &rules).ok()? {
                    break request;
                }
            };
            (&*socket).write_all(&request.response()).ok()?;
        }
        let (mut frames, mut messages) = (FrameReader::new(), Reader::new());
        let limits = MessageLimits::default();
        loop {
            let length = match (&*socket).read(&mut buffer) {
                Ok(length) if length > 0 => length,
                _ => {
                    self.members.lock().expect("no panic").retain(|member| member.number != number);
                    return None;
                }
            };
            let mut input = &mut buffer[..length];
            match speaks {
                Speaks::Tcp => {
                    let mut input = &*input;
                    while let Some(frame) = frames.next(&mut input, 4096).ok()? {
                        self.answer(frame, socket, speaks, number);
                    }
                }
                Speaks::WebSocket => {
                    while let Some(item) = messages.next(&mut input, &limits).ok()? {
                        let Item::Message(message) = item else { continue };
                        for frame in frames_of_message(message, 4096) {
                            self.answer(frame.ok()?, socket, speaks, number);
                        }
                    }
                }
            }
        }
    }

    fn answer(&self, frame: Frame<'_>, socket: &TcpStream, speaks: Speaks, number: u64) {
        let header = Header { op: frame.header.op.reply(), ..frame.header };
        match frame.header.op {
            Op::AUTH if self.fault == Fault::Mute => {}
            Op::AUTH => {
                let mut members = self.members.lock().expect("no panic");
                send(socket, speaks, &Encoded::reply(header, b""));
                members.push(Member { socket: socket.try_clone().expect("a descriptor"), speaks, number });
            }
            Op::HEARTBEAT => send(socket, speaks, &Encoded::reply(header, &[0, 0, 0, 1])),
            _ => {}
        }
    }

    /// Requests with a body and those without, on one kept connection.
    fn http(&self, socket: &TcpStream) -> Option<()> {
        let mut input = BufReader::new(socket);
        loop {
            let (mut line, mut length) = (String::new(), 0);
            input.read_line(&mut line).ok().filter(|n| *n > 0)?;
            loop {
                let mut header = String::new();
                input.read_line(&mut header).ok()?;
                if header.trim().is_empty() {
                    break;
                }
                let (name, value) = header.split_once(':')?;
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.trim().parse().ok()?;
                }
            }
            let mut body = vec![0; length];
            input.read_exact(&mut body).ok()?;
            let (status, answer) = self.request(&line, &body);
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", answer.len());
            (&*socket).write_all(&[head.as_bytes(), answer.as_bytes()].concat()).ok()?;
        }
    }

    fn request(&self, line: &str, body: &[u8]) -> (u16, String) {
        let online = || {
            let members = self.members.lock().expect("no panic").len();
            members + usize::from(self.fault == Fault::Miscount && members > 0)
        };
        if line.starts_with("GET /goim/online/total") {
            return (
                200,
                format!(r#"{{"code":0,"message":"","data":{{"conn_count":{},"ip_count":1}}}}"#, online()),
            );
        }
        if line.starts_with("GET /goim/online/room?type=live&rooms=1000 ") {
            return (200, format!(r#"{{"code":0,"message":"","data":{{"1000":{}}}}}"#, online()));
        }
        if !line.starts_with("POST /goim/push/") || !line.contains("operation=1000") {
            return (404, String::new());
        }
        let number = self.pushes.fetch_add(1, Ordering::Relaxed) + 1;
        if self.fault == Fault::Refuse && number == 4 {
            return (503, r#"{"code":-500,"message":"planted"}"#.to_owned());
        }
        self.push(number, body);
        (200, r#"{"code":0,"message":""}"#.to_owned())
    }

    fn push(&self, number: u64, body: &[u8]) {
        let mut members = self.members.lock().expect("no panic");
        let mut kept = self.kept.lock().expect("no panic");
        if self.fault == Fault::Join {
            kept.push(body.to_vec());
            if number == 20 {
                let mut frames = Vec::new();
                for body in kept.drain(..) {
                    frames.extend_from_slice(Encoded::push(Op(1000), &body).tcp());
                }
                let batch = Encoded::push_frames(&frames).expect("whole frames");
                members.iter().for_each(|member| send(&member.socket, member.speaks, &batch));
            }
            return;
        }
        for (place, member) in members.iter_mut().enumerate() {
            let send = |bodies: &[&[u8]]| {
                for body in bodies {
                    send(&member.socket, member.speaks, &Encoded::push(Op(1000), body));
                }
            };
            match self.fault {
                Fault::Lose if place == 0 && number == 4 => {}
                Fault::Duplicate if place == 0 && number == 4 => send(&[body, body]),
                Fault::Reorder if place == 0 && number == 4 => kept.push(body.to_vec()),
                Fault::Reorder if place == 0 && number == 5 => send(&[body, &kept[0]]),
                Fault::Damage if place == 0 && number == 4 => {
                    let mut damaged = body.to_vec();
                    *damaged.last_mut().expect("a body") ^= 1;
                    send(&[&damaged]);
                }
                Fault::Close if place == 0 && number == 4 => close(member),
                Fault::Stranger => send(&[body, b"from another program"]),
                _ => send(&[body]),
            }
        }
    }
}

fn send(mut socket: &TcpStream, speaks: Speaks, message: &Encoded) {
    let bytes = match speaks {
        Speaks::Tcp => message.tcp(),
        Speaks::WebSocket => message.ws(),
    };
    // A client that is gone is noticed by its reader.
    let _ = socket.write_all(bytes);
}

fn close(member: &Member) {
    let reason = CloseReason::Replaced;
    let header = Header { ver: 1, op: Op::DISCONNECT_REPLY, seq: 0 };
    send(
        &member.socket,
        member.speaks,
        &Encoded::reply(header, &disconnect_body(reason, reason.text(), None)),
    );
    let close = Encoded::ws_control(Opcode::Close, &close_payload(reason, reason.text()));
    send(&member.socket, member.speaks, &close);
    thread::sleep(Duration::from_millis(20));
    let _ = member.socket.shutdown(std::net::Shutdown::Both);
}
