//! One connection: the login, then a task that hears and notes until it ends.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use contract::Transport;
use proto::op::Op;
use serde_json::Value;
use testkit::wire::{self, CLOSE, Heard, PONG, ServerStream, masked};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::{interval, sleep, timeout},
};

use super::record::Record;
use crate::{
    backend,
    clock::{ms, secs},
    ledger::{Connection, End},
};

/// A client lives: well within `node.heartbeat` of the harness.
const BEAT: Duration = secs(4);

/// So long a client that closed reads on for the server's end.
const FAREWELL: Duration = secs(5);

/// How long who went silent keeps its socket: until the server must have noticed.
const SILENCE: Duration = secs(25);

/// What a line is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Change the first room.
    Room(String),
    /// Close in order and read to the end.
    Leave,
    /// Reset the connection.
    BreakOff,
    /// Say and read nothing any more, the socket stays.
    FallSilent,
}

/// How a line ended, for the person whose it is.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) end: End,
    /// The server asked to come back no sooner.
    pub(super) delay: Duration,
}

/// A line that is open.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) task: JoinHandle<Ended>,
}

/// Connects and logs in within `patience`; whoever gives up closes.
pub(super) async fn open(
    address: SocketAddr,
    transport: Transport,
    login: &str,
    patience: Duration,
    record: &Record,
    connection: Connection,
) -> Result<Line, String> {
    let opening = timeout(patience, log_in(address, transport, login)).await;
    let (stream, server, early) = opening.map_err(|_| format!("no login within {patience:?}"))??;
    let mut connection = connection;
    connection.opened = crate::clock::now();
    connection.stays.iter_mut().for_each(|stay| stay.from = connection.opened);
    let number = record.lock().opened(connection);
    let (orders, ordered) = mpsc::channel(16);
    let hearing = Hearing {
        stream,
        transport,
        server,
        record: record.clone(),
        number,
        close: None,
        delay: Duration::ZERO,
    };
    Ok(Line { number, orders, task: tokio::spawn(hearing.run(early, ordered)) })
}

async fn log_in(
    address: SocketAddr,
    transport: Transport,
    login: &str,
) -> Result<(TcpStream, ServerStream, VecDeque<Heard>), String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    // Only a matter of speed.
    let _ = stream.set_nodelay(true);
    let mut server = ServerStream::new(transport);
    let login = say(transport, Op::AUTH, login.as_bytes());
    let first = match transport {
        Transport::Tcp => login.clone(),
        Transport::WebSocket => wire::upgrade("/sub", ""),
    };
    stream.write_all(&first).await.map_err(|error| error.to_string())?;
    let (mut buffer, mut heard) = (vec![0; 16 << 10], VecDeque::new());
    loop {
        let length = match stream.read(&mut buffer).await {
            Ok(0) => return Err("closed before the login was answered".to_owned()),
            Ok(length) => length,
            Err(error) => return Err(error.to_string()),
        };
        heard.extend(hear(&mut server, &buffer[..length])?);
        while let Some(next) = heard.pop_front() {
            match next {
                Heard::Http(101) => stream.write_all(&login).await.map_err(|error| error.to_string())?,
                Heard::Http(status) => return Err(format!("refused: HTTP {status}")),
                Heard::Frame(frame) if Op(frame.op) == Op::AUTH_REPLY => return Ok((stream, server, heard)),
                Heard::Frame(frame) if Op(frame.op) == Op::DISCONNECT_REPLY => {
                    return Err(format!("refused: {}", frame.text()));
                }
                Heard::Close(code) => return Err(format!("refused: close {code:?}")),
                Heard::Frame(_) | Heard::Ping(_) | Heard::Pong => {}
            }
        }
    }
}

/// The bytes of one frame.
fn say(transport: Transport, op: Op, body: &[u8]) -> Vec<u8> {
    wire::sent(transport, &wire::frame(op.0, 1, body))
}

/// What a server says with these bytes.
fn hear(server: &mut ServerStream, bytes: &[u8]) -> Result<impl Iterator<Item = Heard> + use<>, String> {
    let mut heard = Vec::new();
    server.push(bytes, &mut heard)?;
    Ok(heard.into_iter().map(|(_, heard)| heard))
}

struct Hearing {
    stream: TcpStream,
    transport: Transport,
    server: ServerStream,
    record: Record,
    number: u64,
    /// The code that the server gave.
    close: Option<u16>,
    delay: Duration,
}

impl Hearing {
    async fn run(mut self, early: VecDeque<Heard>, mut orders: mpsc::Receiver<Order>) -> Ended {
        self.heard(early).await;
        let (mut beat, mut buffer) = (interval(BEAT), vec![0; 16 << 10]);
        let end = loop {
            tokio::select! {
                read = self.stream.read(&mut buffer) => match read {
                    Ok(length @ 1..) => if let Some(end) = self.take_in(&buffer[..length]).await {
                        break end;
                    },
                    _ => break self.close.map_or(End::Lost, End::Closed),
                },
                _ = beat.tick() => self.send(say(self.transport, Op::HEARTBEAT, b"")).await,
                order = orders.recv() => match order {
                    Some(Order::Room(room)) => {
                        self.record.lock().leaving_room(self.number);
                        self.send(say(self.transport, Op::CHANGE_ROOM, room.as_bytes())).await;
                    }
                    Some(Order::Leave) => break self.leave(&mut buffer).await,
                    Some(Order::BreakOff) => {
                        // A reset is what is asked for; without it the end is a FIN, which is as sudden.
                        let _ = self.stream.set_zero_linger();
                        break End::BrokenOff;
                    }
                    Some(Order::FallSilent) => {
                        self.record.lock().leaving(self.number);
                        let stream = self.stream;
                        tokio::spawn(async move {
                            sleep(SILENCE).await;
                            drop(stream);
                        });
                        self.record.lock().ended(self.number, End::Silent);
                        return Ended { end: End::Silent, delay: self.delay };
                    }
                    // Replaced by a newer one of its person: it goes on until the server ends it.
                    None => break self.linger(&mut buffer).await,
                },
            }
        };
        self.record.lock().ended(self.number, end.clone());
        Ended { end, delay: self.delay }
    }

    /// Hears what was read; an end when it cannot be understood.
    async fn take_in(&mut self, input: &[u8]) -> Option<End> {
        let mut heard = Vec::new();
        let result = self.server.push(input, &mut heard);
        self.heard(heard.into_iter().map(|(_, heard)| heard)).await;
        result.err().map(|_| End::Lost)
    }

    async fn heard(&mut self, heard: impl IntoIterator<Item = Heard>) {
        for heard in heard {
            match heard {
                Heard::Frame(frame) if Op(frame.op) == backend::OP => {
                    if let Some(id) = backend::id_of(&frame.body) {
                        self.record.lock().received(self.number, id);
                    }
                }
                Heard::Frame(frame) if Op(frame.op) == Op::CHANGE_ROOM_REPLY => {
                    self.record.lock().in_room(self.number, &frame.text());
                }
                Heard::Frame(frame) if Op(frame.op) == Op::DISCONNECT_REPLY => {
                    let said: Value = serde_json::from_slice(&frame.body).unwrap_or_default();
                    self.close = said["code"].as_u64().and_then(|code| code.try_into().ok());
                    self.delay = ms(said["delay_ms"].as_u64().unwrap_or(0));
                    self.record.lock().leaving(self.number);
                }
                Heard::Close(code) => {
                    self.close = self.close.or(Some(code.unwrap_or(0)));
                    self.record.lock().leaving(self.number);
                    self.send(self.farewell()).await;
                }
                Heard::Ping(payload) => self.send(masked(PONG, &payload)).await,
                Heard::Frame(_) | Heard::Pong | Heard::Http(_) => {}
            }
        }
    }

    /// The bytes that close a WebSocket in order; on TCP the end of the stream says it.
    fn farewell(&self) -> Vec<u8> {
        match self.transport {
            Transport::Tcp => Vec::new(),
            Transport::WebSocket => masked(CLOSE, &1000_u16.to_be_bytes()),
        }
    }

    /// A write that fails is noticed by the next read.
    async fn send(&mut self, bytes: Vec<u8>) {
        let _ = timeout(FAREWELL, self.stream.write_all(&bytes)).await;
    }

    async fn leave(&mut self, buffer: &mut [u8]) -> End {
        self.record.lock().leaving(self.number);
        match self.farewell() {
            bytes if bytes.is_empty() => drop(self.stream.shutdown().await),
            bytes => self.send(bytes).await,
        }
        match timeout(FAREWELL, self.read_to_end(buffer)).await {
            Ok(()) => End::Left,
            Err(_) => End::BrokenOff,
        }
    }

    async fn linger(&mut self, buffer: &mut [u8]) -> End {
        let mut beat = interval(BEAT);
        loop {
            tokio::select! {
                () = self.read_to_end(buffer) => return self.close.map_or(End::Lost, End::Closed),
                _ = beat.tick() => {}
            }
            self.send(say(self.transport, Op::HEARTBEAT, b"")).await;
        }
    }

    async fn read_to_end(&mut self, buffer: &mut [u8]) {
        while let Ok(length @ 1..) = self.stream.read(buffer).await {
            if self.take_in(&buffer[..length]).await.is_some() {
                return;
            }
        }
    }
}
