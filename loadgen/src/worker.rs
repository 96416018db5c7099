//! The event loop of one thread: some of the fleet's clients, one epoll, one read buffer.
//!
//! Sockets are registered once, edge-triggered. A read that does not fill the buffer has emptied the
//! socket, so a delivery costs one `recv` and no allocation. Every turn asks for all sockets that are
//! ready, however many: so what a turn finds has not waited longer than since the turn before.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Write},
    sync::Arc,
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, event::Event, net::TcpStream};
use proto::{frame::Header, op::Op};

use crate::{
    beats::Beats,
    client::{Client, Ears, Expected, Joining, Link, State},
    clock::{self, Clock, ns},
    fleet::Fleet,
    rng::Rng,
    runqueue::RunQueue,
    socket,
    tally::Measured,
    tls::Tls,
    wire::Wire,
};

/// The bytes read at once.
const BUFFER_LEN: usize = 64 * 1024;

/// The clients of one thread.
pub(crate) struct Worker {
    fleet: Arc<Fleet>,
    expected: Option<Expected>,
    clock: Clock,
    rng: Rng,
    /// Client `n` here is client `first + n * step` of the fleet.
    first: u32,
    step: u32,
    clients: Vec<Client>,
    poll: Poll,
    events: Events,
    buffer: Box<[u8]>,
    /// Where the kernel notes when what was read had arrived.
    arrival: Vec<u8>,
    /// What was read, without TLS.
    plain: Vec<u8>,
    /// TLS has something to send.
    to_send: bool,
    /// Bytes to send, built here and empty between uses.
    out: Vec<u8>,
    /// Who joins and since when, oldest first; may name clients that are done.
    joining: VecDeque<(u64, u32)>,
    in_flight: u32,
    beats: Beats,
    /// When the sockets were last asked which are ready.
    looked_ns: u64,
    /// Of the thread that turns this worker; none before its first sleep.
    queue: Option<RunQueue>,
    pub(crate) measured: Measured,
}

/// Which part of the fleet a worker has.
#[derive(Clone, Copy)]
pub(crate) struct Share {
    pub(crate) number: u32,
    pub(crate) of: u32,
}

/// How a connection is given up by its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// In order: FIN.
    Close,
    /// As a crash would: RST.
    Reset,
}

impl Worker {
    /// The clients of `share`, none connected yet. With `expected`, the messages of this run are checked.
    pub(crate) fn new(
        fleet: Arc<Fleet>,
        share: Share,
        expected: Option<Expected>,
        clock: Clock,
        seed: u64,
    ) -> io::Result<Self> {
        let count = (fleet.count + share.of - 1 - share.number) / share.of;
        let now = clock.now_ns();
        Ok(Self {
            beats: Beats::new(fleet.heartbeat, count, now),
            fleet,
            expected,
            clock,
            rng: Rng::seeded(seed),
            first: share.number,
            step: share.of,
            clients: (0..count).map(|_| Client::new()).collect(),
            poll: Poll::new()?,
            events: Events::with_capacity((count as usize).max(64)),
            buffer: vec![0; BUFFER_LEN].into_boxed_slice(),
            arrival: socket::arrival_space(),
            plain: Vec::new(),
            to_send: false,
            out: Vec::new(),
            joining: VecDeque::new(),
            in_flight: 0,
            looked_ns: now,
            queue: None,
            measured: Measured::new(),
        })
    }

    /// How many clients it has.
    pub(crate) fn count(&self) -> u32 {
        self.clients.len() as u32
    }

    /// How many of them are between connect and the login's answer.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Is client `n` of this worker without a connection?
    pub(crate) fn is_away(&self, n: u32) -> bool {
        matches!(self.clients[n as usize].state, State::Away)
    }

    /// Is client `n` of this worker logged in?
    pub(crate) fn is_open(&self, n: u32) -> bool {
        matches!(self.clients[n as usize].state, State::Open(_))
    }

    /// The place in the fleet of client `n` of this worker.
    pub(crate) fn index(&self, n: u32) -> u32 {
        self.first + n * self.step
    }

    /// Connects client `n`, which must be away. A failure is counted like one that shows later.
    pub(crate) fn connect(&mut self, n: u32) {
        let since_ns = self.clock.now_ns();
        match self.start_connect(n) {
            Ok((socket, tls)) => {
                let wire = Wire::new(&self.fleet.transport, &mut self.rng);
                let client = &mut self.clients[n as usize];
                client.farewell = None;
                client.unsent.clear();
                client.state =
                    State::Joining(Link { socket, tls, wire }, Joining { since_ns, connected: false });
                self.in_flight += 1;
                self.joining.push_back((since_ns, n));
            }
            Err(error) => self.measured.tally.failures.add(&socket::reason(&error)),
        }
    }

    fn start_connect(&mut self, n: u32) -> io::Result<(TcpStream, Option<Tls>)> {
        let index = self.index(n);
        let target = self.fleet.target(index);
        let tls = self.fleet.tls.as_ref().map(|trust| trust.start(&target.name)).transpose();
        let tls = tls.map_err(io::Error::other)?;
        let mut stream = socket::connect(target.addr, self.fleet.source(index))?;
        let both = Interest::READABLE | Interest::WRITABLE;
        if self.expected.is_some() {
            socket::note_arrivals(&stream);
        }
        self.poll.registry().register(&mut stream, Token(n as usize), both)?;
        Ok((stream, tls))
    }

    /// Ends the connection of client `n` from this side; nothing when it has none.
    pub(crate) fn leave(&mut self, n: u32, how: Leave) {
        let client = &mut self.clients[n as usize];
        let link = match std::mem::replace(&mut client.state, State::Away) {
            State::Away => return,
            State::Joining(link, _) => {
                self.in_flight -= 1;
                link
            }
            State::Open(link) => {
                self.measured.tally.open -= 1;
                link
            }
        };
        if how == Leave::Reset {
            socket::reset_on_close(&link.socket);
        }
    }

    /// Everything that is due and ready; sleeps up to `timeout` when nothing is.
    pub(crate) fn turn(&mut self, timeout: Duration) -> io::Result<()> {
        let now = self.clock.now_ns();
        self.expire(now);
        self.beat(now);

        let mut ready_ns = self.looked_ns;
        self.look(Duration::ZERO)?;
        if self.events.is_empty() && !timeout.is_zero() {
            let queue = self.queue.get_or_insert_with(RunQueue::of_this_thread);
            queue.waited_since();
            self.look(timeout)?;
            let waited = self.queue.as_mut().map_or(0, RunQueue::waited_since);
            ready_ns = self.looked_ns.saturating_sub(waited);
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            self.on_event(event, ready_ns);
        }
        self.events = events;
        Ok(())
    }

    /// Asks which sockets are ready and notes when.
    fn look(&mut self, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        self.looked_ns = self.clock.now_ns();
        Ok(())
    }

    fn on_event(&mut self, event: &Event, ready_ns: u64) {
        let n = event.token().0 as u32;
        let client = &mut self.clients[n as usize];
        match &mut client.state {
            State::Away => return,
            State::Joining(link, joining) if !joining.connected => {
                if let Ok(Some(error)) = link.socket.take_error() {
                    return self.lose(n, &socket::reason(&error));
                }
                if !event.is_writable() {
                    return;
                }
                joining.connected = true;
                self.introduce(n);
            }
            _ if event.is_writable() && !client.unsent.is_empty() => self.send(n),
            _ => {}
        }
        if event.is_readable() || event.is_read_closed() {
            self.read(n, event.is_read_closed(), ready_ns);
        }
    }

    /// Says the first words on a new connection.
    fn introduce(&mut self, n: u32) {
        let target = self.fleet.target(self.index(n)).name.clone();
        let Some(link) = self.clients[n as usize].link() else { return };
        if link.wire.is_open() {
            self.log_in(n);
        } else {
            link.wire.upgrade(&target, &mut self.out);
            self.send(n);
        }
    }

    fn log_in(&mut self, n: u32) {
        let body = self.fleet.login_body(self.index(n));
        self.say(n, Header { ver: 1, op: Op::AUTH, seq: 1 }, &body);
    }

    /// Sends one frame.
    fn say(&mut self, n: u32, header: Header, body: &[u8]) {
        let Some(link) = self.clients[n as usize].link() else { return };
        link.wire.say(header, body, self.rng.mask(), &mut self.out);
        self.send(n);
    }

    /// Sends what is in `out`, after what the socket did not take before.
    fn send(&mut self, n: u32) {
        let client = &mut self.clients[n as usize];
        let (State::Joining(link, _) | State::Open(link)) = &mut client.state else { return };
        match &mut link.tls {
            None => client.unsent.append(&mut self.out),
            Some(tls) => {
                let sealed = tls.seal(&self.out, &mut client.unsent);
                self.out.clear();
                if let Err(error) = sealed {
                    return self.lose(n, &socket::reason(&error));
                }
            }
        }
        while !client.unsent.is_empty() {
            match link.socket.write(&client.unsent) {
                Ok(sent) => drop(client.unsent.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.lose(n, &socket::reason(&error)),
            }
        }
        client.unsent = Vec::new();
    }

    fn read(&mut self, n: u32, ended: bool, ready_ns: u64) {
        loop {
            let index = self.index(n);
            let client = &mut self.clients[n as usize];
            let Some(link) = client.link() else { return };
            let (length, arrived_ns) =
                match socket::receive(&link.socket, &mut self.buffer, &mut self.arrival) {
                    Ok((0, _)) => return self.lose(n, "closed by the server"),
                    Ok(received) => received,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                    Err(error) => return self.lose(n, &socket::reason(&error)),
                };
            self.measured.tally.bytes += length as u64;
            let mut input = &mut self.buffer[..length];
            if let Some(tls) = &mut link.tls {
                self.plain.clear();
                match tls.open(input, &mut self.plain) {
                    Ok(false) => {}
                    Ok(true) => self.to_send = true,
                    Err(reason) => return self.lose(n, &reason),
                }
                input = &mut self.plain;
            }
            let read_ns = self.clock.now_ns();
            // What the kernel noted is exact; without it, the longest it can have been.
            let waited_ns = arrived_ns.map(|arrived| clock::ns(clock::wall()).saturating_sub(arrived));
            let ears = Ears {
                expected: self.expected.as_ref(),
                index,
                measured: &mut self.measured,
                read_ns,
                ready_ns: waited_ns.map_or(ready_ns, |waited| read_ns.saturating_sub(waited)),
            };
            let todo = match client.hear(input, ears) {
                Ok(todo) => todo,
                Err(reason) => return self.lose(n, &reason),
            };
            if todo.logged_in {
                self.joined(n);
            }
            if todo.log_in {
                self.log_in(n);
            }
            if std::mem::take(&mut self.to_send) {
                self.send(n);
            }
            if let (Some(payload), Some(link)) = (todo.pong, self.clients[n as usize].link()) {
                link.wire.pong(&payload, self.rng.mask(), &mut self.out);
                self.send(n);
            }
            if length < self.buffer.len() && !ended {
                return;
            }
        }
    }

    /// The login of client `n` was answered.
    fn joined(&mut self, n: u32) {
        let client = &mut self.clients[n as usize];
        client.state = match std::mem::replace(&mut client.state, State::Away) {
            State::Joining(link, joining) => {
                let now = self.clock.now_ns();
                self.in_flight -= 1;
                self.measured.connects.record_ns(now.saturating_sub(joining.since_ns));
                let tally = &mut self.measured.tally;
                tally.logins += 1;
                tally.open += 1;
                tally.last_login_ns = now;
                State::Open(link)
            }
            other => other,
        };
    }

    /// The connection of client `n` ended, or is of no more use.
    fn lose(&mut self, n: u32, reason: &str) {
        let client = &mut self.clients[n as usize];
        let farewell = client.farewell.take();
        let reason = farewell.as_deref().unwrap_or(reason);
        let tally = &mut self.measured.tally;
        match std::mem::replace(&mut client.state, State::Away) {
            State::Away => {}
            State::Joining(..) => {
                self.in_flight -= 1;
                tally.failures.add(reason);
            }
            State::Open(_) => {
                tally.open -= 1;
                tally.disconnects.add(reason);
            }
        }
    }

    /// Gives up those who join for too long.
    fn expire(&mut self, now: u64) {
        let timeout = ns(self.fleet.connect_timeout);
        while let Some(&(since, n)) = self.joining.front() {
            let joins = match &self.clients[n as usize].state {
                State::Joining(_, joining) => joining.since_ns == since,
                _ => false,
            };
            if joins && now.saturating_sub(since) < timeout {
                return;
            }
            self.joining.pop_front();
            if joins {
                self.lose(n, "login not answered in time");
            }
        }
    }

    fn beat(&mut self, now: u64) {
        for turn in self.beats.due(now) {
            let n = (turn % self.clients.len() as u64) as u32;
            if self.is_open(n) {
                self.say(n, Header { ver: 1, op: Op::HEARTBEAT, seq: 2 }, &[]);
                self.measured.tally.heartbeats_sent += 1;
            }
        }
    }

    /// The clients as they were left, with their places in the fleet.
    pub(crate) fn into_clients(self) -> impl Iterator<Item = (u32, Client)> {
        let (first, step) = (self.first, self.step);
        self.clients.into_iter().zip(0..).map(move |(client, n)| (first + n * step, client))
    }
}
