//! The clients of one system: one thread, one epoll, the same loop whatever they speak.

use std::{
    io::{ErrorKind, Write},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use loadgen::{
    clock::{self, Clock, ns},
    latency::Times,
    message::{self, Body},
    socket,
};
use mio::{Events, Interest, Poll, Token, net::TcpStream};

use crate::wire::{Heard, Language, Wire};

/// The bytes read at once.
const BUFFER_LEN: usize = 64 * 1024;

/// Connects and logins that may be under way at once.
pub(crate) const IN_FLIGHT: usize = 100;

/// Longest wait for one more client to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

/// The clients that are connected.
pub(crate) struct Fleet {
    language: Language,
    server: SocketAddr,
    clock: Clock,
    run: u32,
    size: usize,
    clients: Vec<Client>,
    poll: Poll,
    events: Events,
    buffer: Box<[u8]>,
    arrival: Vec<u8>,
    joined: usize,
    /// Messages below this belong to an earlier load and came too late.
    first: u32,
    pub(crate) heard: HeardSoFar,
}

struct Client {
    socket: TcpStream,
    wire: Box<dyn Wire>,
    connected: bool,
    joined: bool,
    /// The next message it should hear.
    next: u32,
}

/// What all clients together heard since this was last taken.
#[derive(Default)]
pub(crate) struct HeardSoFar {
    /// Messages of this run.
    pub(crate) messages: u64,
    /// Reads that brought some.
    pub(crate) reads: u64,
    /// Those that came when a later one had been there already.
    pub(crate) disordered: u64,
    /// From the planned send time to the read.
    pub(crate) latency: Times,
    /// The part of it that a message waited for this program.
    pub(crate) reader: Times,
}

impl Fleet {
    /// No client yet. Messages are those of `run`, `size` bytes long.
    pub(crate) fn new(
        language: Language,
        server: SocketAddr,
        clock: Clock,
        run: u32,
        size: usize,
    ) -> Result<Self> {
        Ok(Self {
            language,
            server,
            clock,
            run,
            size,
            clients: Vec::new(),
            poll: Poll::new()?,
            events: Events::with_capacity(16_384),
            buffer: vec![0; BUFFER_LEN].into_boxed_slice(),
            arrival: socket::arrival_space(),
            joined: 0,
            first: 0,
            heard: HeardSoFar::default(),
        })
    }

    /// How many are in the room.
    pub(crate) fn joined(&self) -> usize {
        self.joined
    }

    /// Lets clients join until there are `count`, a hundred under way at any time.
    pub(crate) fn join(&mut self, count: usize) -> Result<()> {
        let mut progress = (self.joined, self.clock.now_ns());
        while self.joined < count {
            while self.clients.len() < count && self.clients.len() - self.joined < IN_FLIGHT {
                self.connect()?;
            }
            self.turn(Duration::from_millis(100))?;
            match self.joined > progress.0 {
                true => progress = (self.joined, self.clock.now_ns()),
                false if self.clock.now_ns() - progress.1 > ns(JOIN_TIMEOUT) => {
                    bail!("only {} of {count} clients could join", self.joined)
                }
                false => {}
            }
        }
        Ok(())
    }

    /// From here on the next message of every client is number `seq`.
    pub(crate) fn expect_from(&mut self, seq: u32) {
        self.first = seq;
        self.clients.iter_mut().for_each(|client| client.next = seq);
        self.heard = HeardSoFar::default();
    }

    /// Reads until `messages` were heard or nothing came for `patience`.
    pub(crate) fn hear(&mut self, messages: u64, patience: Duration) -> Result<()> {
        let mut last = (self.heard.messages, self.clock.now_ns());
        while self.heard.messages < messages {
            self.turn(Duration::from_millis(100))?;
            if self.heard.messages > last.0 {
                last = (self.heard.messages, self.clock.now_ns());
            } else if self.clock.now_ns() - last.1 > ns(patience) {
                break;
            }
        }
        Ok(())
    }

    /// Reads for `time`.
    pub(crate) fn idle(&mut self, time: Duration) -> Result<()> {
        let end = self.clock.now_ns() + ns(time);
        while self.clock.now_ns() < end {
            self.turn(Duration::from_millis(50))?;
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<()> {
        let mut socket = socket::connect(self.server, None)?;
        socket::note_arrivals(&socket);
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(self.clients.len()), both)?;
        let wire = self.language.client(self.clients.len() as u32);
        self.clients.push(Client { socket, wire, connected: false, joined: false, next: 0 });
        Ok(())
    }

    fn turn(&mut self, timeout: Duration) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let n = event.token().0;
            let client = &mut self.clients[n];
            if !client.connected && event.is_writable() {
                client.connected = true;
                if let Some(error) = client.socket.take_error()? {
                    bail!("a client could not connect: {error}");
                }
                let hello = client.wire.hello();
                say(client, &hello)?;
                if self.language.joins_by_connecting() {
                    client.joined = true;
                    self.joined += 1;
                }
            }
            if event.is_readable() {
                self.read(n)?;
            }
        }
        self.events = events;
        Ok(())
    }

    fn read(&mut self, n: usize) -> Result<()> {
        loop {
            let client = &mut self.clients[n];
            let (length, arrived) = match socket::receive(&client.socket, &mut self.buffer, &mut self.arrival)
            {
                Ok((0, _)) => bail!("the server closed the connection of client {n}"),
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let now = self.clock.now_ns();
            let waited = arrived.map_or(0, |arrived| ns(clock::wall()).saturating_sub(arrived));
            let Client { wire, next, joined, .. } = client;
            let (heard, total, run, size) = (&mut self.heard, &mut self.joined, self.run, self.size);
            let first = self.first;
            let (mut answers, before) = (Vec::new(), heard.messages);
            wire.hear(&mut self.buffer[..length], &mut |what| match what {
                Heard::Joined => *total += usize::from(!std::mem::replace(joined, true)),
                Heard::Say(bytes) => answers.extend(bytes),
                Heard::Message(body) => {
                    let Body::Ours(stamp) = message::read(body, run, size) else { return };
                    if stamp.seq < first {
                        return;
                    }
                    if stamp.seq < *next {
                        heard.disordered += 1;
                    }
                    *next = stamp.seq + 1;
                    heard.messages += 1;
                    heard.latency.record_ns(now.saturating_sub(stamp.planned_ns));
                    heard.reader.record_ns(waited);
                }
            })
            .map_err(|what| anyhow::anyhow!("client {n} did not understand the server: {what}"))?;
            heard.reads += u64::from(heard.messages > before);
            if !answers.is_empty() {
                say(client, &answers)?;
            }
            if length < self.buffer.len() {
                return Ok(());
            }
        }
    }
}

/// Says a few bytes, which a fresh socket takes whole.
fn say(client: &mut Client, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let said = client.socket.write(bytes)?;
    ensure!(said == bytes.len(), "a socket that took {said} of {} bytes", bytes.len());
    Ok(())
}
