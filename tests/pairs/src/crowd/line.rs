//! One connection: the login, then a task that hears and notes until it ends.

use std::{net::SocketAddr, time::Duration};

use proto::op::Op;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::{interval, sleep, timeout},
};

use super::{
    record::Record,
    wire::{Heard, Transport, Wire},
};
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
    let (stream, wire, early) = opening.map_err(|_| format!("no login within {patience:?}"))??;
    let mut connection = connection;
    connection.opened = crate::clock::now();
    connection.stays.iter_mut().for_each(|stay| stay.from = connection.opened);
    let number = record.lock().opened(connection);
    let (orders, ordered) = mpsc::channel(16);
    let hearing =
        Hearing { stream, wire, record: record.clone(), number, close: None, delay: Duration::ZERO };
    Ok(Line { number, orders, task: tokio::spawn(hearing.run(early, ordered)) })
}

async fn log_in(
    address: SocketAddr,
    transport: Transport,
    login: &str,
) -> Result<(TcpStream, Wire, Vec<Heard>), String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    // Only a matter of speed.
    let _ = stream.set_nodelay(true);
    let mut wire = Wire::new(transport);
    let first = wire.upgrade().unwrap_or_else(|| wire.say(Op::AUTH, login.as_bytes()));
    stream.write_all(&first).await.map_err(|error| error.to_string())?;
    let (mut buffer, mut heard) = (vec![0; 16 << 10], Vec::new());
    loop {
        let length = match stream.read(&mut buffer).await {
            Ok(0) => return Err("closed before the login was answered".to_owned()),
            Ok(length) => length,
            Err(error) => return Err(error.to_string()),
        };
        wire.hear(&mut buffer[..length], &mut heard)?;
        while !heard.is_empty() {
            match heard.remove(0) {
                Heard::Upgraded => {
                    let login = wire.say(Op::AUTH, login.as_bytes());
                    stream.write_all(&login).await.map_err(|error| error.to_string())?;
                }
                Heard::Frame(Op::AUTH_REPLY, _) => return Ok((stream, wire, heard)),
                Heard::Frame(Op::DISCONNECT_REPLY, body) => {
                    return Err(format!("refused: {}", String::from_utf8_lossy(&body)));
                }
                Heard::Close(code) => return Err(format!("refused: close {code:?}")),
                Heard::Frame(..) | Heard::Ping(_) => {}
            }
        }
    }
}

struct Hearing {
    stream: TcpStream,
    wire: Wire,
    record: Record,
    number: u64,
    /// The code that the server gave.
    close: Option<u16>,
    delay: Duration,
}

impl Hearing {
    async fn run(mut self, early: Vec<Heard>, mut orders: mpsc::Receiver<Order>) -> Ended {
        self.heard(early).await;
        let (mut beat, mut buffer) = (interval(BEAT), vec![0; 16 << 10]);
        let end = loop {
            tokio::select! {
                read = self.stream.read(&mut buffer) => match read {
                    Ok(length @ 1..) => if let Some(end) = self.take_in(&mut buffer[..length]).await {
                        break end;
                    },
                    _ => break self.close.map_or(End::Lost, End::Closed),
                },
                _ = beat.tick() => self.send(self.wire.say(Op::HEARTBEAT, b"")).await,
                order = orders.recv() => match order {
                    Some(Order::Room(room)) => {
                        self.record.lock().leaving_room(self.number);
                        self.send(self.wire.say(Op::CHANGE_ROOM, room.as_bytes())).await;
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
    async fn take_in(&mut self, input: &mut [u8]) -> Option<End> {
        let mut heard = Vec::new();
        let result = self.wire.hear(input, &mut heard);
        self.heard(heard).await;
        result.err().map(|_| End::Lost)
    }

    async fn heard(&mut self, heard: Vec<Heard>) {
        for heard in heard {
            match heard {
                Heard::Frame(op, body) if op == backend::OP => {
                    if let Some(id) = backend::id_of(&body) {
                        self.record.lock().received(self.number, id);
                    }
                }
                Heard::Frame(Op::CHANGE_ROOM_REPLY, room) => {
                    let room = String::from_utf8_lossy(&room);
                    self.record.lock().in_room(self.number, &room);
                }
                Heard::Frame(Op::DISCONNECT_REPLY, body) => {
                    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
                    self.close = said["code"].as_u64().and_then(|code| code.try_into().ok());
                    self.delay = ms(said["delay_ms"].as_u64().unwrap_or(0));
                    self.record.lock().leaving(self.number);
                }
                Heard::Close(code) => {
                    self.close = self.close.or(Some(code.unwrap_or(0)));
                    self.record.lock().leaving(self.number);
                    self.send(self.wire.farewell()).await;
                }
                Heard::Ping(payload) => self.send(Wire::pong(&payload)).await,
                Heard::Frame(..) | Heard::Upgraded => {}
            }
        }
    }

    /// A write that fails is noticed by the next read.
    async fn send(&mut self, bytes: Vec<u8>) {
        let _ = timeout(FAREWELL, self.stream.write_all(&bytes)).await;
    }

    async fn leave(&mut self, buffer: &mut [u8]) -> End {
        self.record.lock().leaving(self.number);
        match self.wire.farewell() {
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
            self.send(self.wire.say(Op::HEARTBEAT, b"")).await;
        }
    }

    async fn read_to_end(&mut self, buffer: &mut [u8]) {
        while let Ok(length @ 1..) = self.stream.read(buffer).await {
            if self.take_in(&mut buffer[..length]).await.is_some() {
                return;
            }
        }
    }
}
