//! A driver without sockets. It does what the shard says, in order, one write at a time, and checks that the shard may
//! say so.

use std::{collections::{HashMap, VecDeque}, time::Duration};

use contract::Transport;
use proto::{frame::Header, ids::RoomId};
use seam::Time;
use shard::{Action, Flow, FlushState, Outputs, Sent, Shard, mail::{ConnectionId, Handover, ToFront}, queue::Run, wheel::TICK_MICROS};

use super::client::Client;

/// Client messages that logic may still answer.
const ASKED_MAX: usize = 32;

pub(crate) struct Socket {
    pub(crate) id: ConnectionId,
    pub(crate) transport: Transport,
    client: Client,
    write: Option<(Run, Time)>,
    /// The client does not read.
    pub(crate) stalled: bool,
    /// The client keeps its side open when ours is shut.
    pub(crate) stubborn: bool,
    pub(crate) unread: VecDeque<u8>,
    /// How the client's side ended: broken where true.
    pub(crate) ending: Option<bool>,
    /// Logic has given its word on the login, which it does once.
    pub(crate) decided: bool,
    held: bool,
    reading: bool,
    finished: bool,
    shut: bool,
}

/// A connection on its way to another shard.
pub(crate) struct Detached {
    pub(crate) state: Box<Handover>,
    pub(crate) socket: Socket,
}

/// What the front was told, counted.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) opened: u64,
    pub(crate) ended: u64,
    /// Sessions without a connection.
    pub(crate) abandoned: u64,
    pub(crate) drained: u64,
}

pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) shard: Shard,
    pub(crate) out: Outputs,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) detached: Vec<Detached>,
    /// Connections that are over, for late words about them.
    pub(crate) over: Option<ConnectionId>,
    pub(crate) asked: VecDeque<(ConnectionId, Header)>,
    /// Free places in the ring to the front.
    pub(crate) ring: usize,
    /// Connections flushed at once; 0: only when a script says so.
    pub(crate) flush_budget: usize,
    /// Bytes of one read.
    pub(crate) read_size: usize,
    pub(crate) load: u64,
    pub(crate) granted: u64,
    pub(crate) draining: bool,
    pub(crate) told: Told,
    stopped_accepting: bool,
    rooms: HashMap<RoomId, u32>,
    flush_at: Option<Time>,
    next_tick: Time,
    writes: VecDeque<ConnectionId>,
    readers: VecDeque<ConnectionId>,
    bytes_read: u64,
    bytes_written: u64,
    frames_written: u64,
}

impl World {
    pub(crate) fn new(shard: Shard, now: Time) -> World {
        World {
            now,
            shard,
            out: Outputs::default(),
            sockets: Vec::new(),
            detached: Vec::new(),
            over: None,
            asked: VecDeque::new(),
            ring: usize::MAX,
            flush_budget: 0,
            read_size: usize::MAX,
            load: 0,
            granted: 0,
            draining: false,
            told: Told::default(),
            stopped_accepting: false,
            rooms: HashMap::new(),
            flush_at: None,
            next_tick: now.after(Duration::from_micros(TICK_MICROS)),
            writes: VecDeque::new(),
            readers: VecDeque::new(),
            bytes_read: 0,
            bytes_written: 0,
            frames_written: 0,
        }
    }

    pub(crate) fn socket(&mut self, id: ConnectionId) -> Option<&mut Socket> {
        self.sockets.iter_mut().find(|socket| socket.id == id)
    }

    pub(crate) fn add(&mut self, id: ConnectionId, transport: Transport) {
        self.insert(Socket {
            id,
            transport,
            client: Client::new(transport),
            write: None,
            stalled: false,
            stubborn: false,
            unread: VecDeque::new(),
            ending: None,
            decided: false,
            held: false,
            reading: true,
            finished: false,
            shut: false,
        });
    }

    fn insert(&mut self, socket: Socket) {
        assert!(
            self.sockets.iter().all(|other| other.id != socket.id),
            "{:?} names one connection",
            socket.id
        );
        self.sockets.push(socket);
    }

    /// There is something to read of a connection: bytes or its end.
    pub(crate) fn readable(&mut self, id: ConnectionId) {
        self.readers.push_back(id);
    }

    /// A stalled client takes its write.
    pub(crate) fn writable(&mut self, id: ConnectionId) {
        self.writes.push_back(id);
    }

    /// A connection that left another shard arrives, or its client has left on the way.
    pub(crate) fn arrive(&mut self, Detached { state, mut socket }: Detached) {
        if socket.ending.is_some() {
            return self.shard.left_on_the_way(*state, &mut self.out);
        }
        socket.id = self.shard.attached(self.now, *state, &mut self.out);
        socket.held = true;
        self.insert(socket);
    }

    /// Time passes, with its ticks and with the flushes that were waiting for it.
    pub(crate) fn advance(&mut self, time: Duration) {
        let end = self.now.after(time);
        loop {
            let flush_at = self.flush_at.filter(|at| *at > self.now).unwrap_or(end);
            self.now = self.next_tick.min(flush_at).min(end);
            if self.now == self.next_tick {
                self.next_tick = self.next_tick.after(Duration::from_micros(TICK_MICROS));
                self.shard.tick(self.now, self.load, 0, &mut self.out);
                // A held connection that its client left is read on.
                let left = self.sockets.iter_mut().filter(|socket| socket.held && socket.ending.is_some());
                for socket in left {
                    socket.held = false;
                    self.readers.push_back(socket.id);
                }
            }
            self.settle();
            if self.now == end {
                return;
            }
        }
    }

    /// Carries out everything that is to be done, until nothing more happens by itself.
    pub(crate) fn settle(&mut self) {
        loop {
            for action in std::mem::take(&mut self.out.actions) {
                self.act(action);
            }
            while self.ring > 0
                && let Some(mail) = self.out.mail.pop_front()
            {
                self.ring -= usize::from(self.ring != usize::MAX);
                self.note(mail);
            }
            if self.out.mail.is_empty() && self.shard.is_congested() {
                self.shard.mail_taken(self.now, &mut self.out);
            } else if let Some(id) = self.writes.pop_front() {
                self.end_write(id, true);
            } else if let Some(id) = self.readers.pop_front() {
                self.read(id);
            } else if !self.flush_if_wanted() {
                break;
            }
        }
        self.check();
    }

    fn flush_if_wanted(&mut self) -> bool {
        self.flush_at = None;
        if self.flush_budget == 0 || !self.shard.wants_flush() {
            return false;
        }
        match self.shard.flush(self.now, self.flush_budget, &mut self.out) {
            FlushState::Wait(until) => {
                assert!(until > self.now);
                self.flush_at = Some(until);
                false
            }
            FlushState::Idle | FlushState::More => true,
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { id, run } => {
                let now = self.now;
                let socket = self.live(id);
                assert!(socket.write.is_none(), "one write at a time");
                assert!(!socket.finished && !socket.shut, "nothing is written to a socket that is shut");
                assert!(!run.as_slice().is_empty(), "a write has something to write");
                socket.write = Some((run, now));
                if !socket.stalled {
                    self.writes.push_back(id);
                }
            }
            Action::Resume { id } => {
                self.live(id).held = false;
                self.readers.push_back(id);
            }
            Action::Finish { id } => {
                let socket = self.live(id);
                assert!(!socket.finished && !socket.shut, "our side is shut once");
                assert!(socket.write.is_none(), "everything is written before our side is shut");
                (socket.finished, socket.held) = (true, false);
                if !socket.stubborn {
                    socket.ending.get_or_insert(false);
                }
                self.readers.push_back(id);
            }
            Action::Shut { id, reset: _ } => {
                let socket = self.live(id);
                assert!(!socket.shut, "a socket is shut once");
                (socket.shut, socket.held) = (true, false);
                socket.ending.get_or_insert(false);
                self.readers.push_back(id);
                self.writes.push_back(id);
            }
            Action::Release { id } => {
                let socket = self.remove(id);
                assert!(
                    socket.shut && socket.write.is_none() && !socket.reading,
                    "the driver holds nothing of it"
                );
                self.over = Some(id);
            }
            Action::Detach { id, to: _, state } => {
                let socket = self.remove(id);
                assert!(
                    socket.held && socket.reading && socket.write.is_none(),
                    "nothing of it is in flight"
                );
                assert!(!socket.finished && !socket.shut);
                self.detached.push(Detached { state, socket });
            }
            Action::StopAccepting => {
                assert!(!std::mem::replace(&mut self.stopped_accepting, true), "told once");
            }
        }
    }

    fn live(&mut self, id: ConnectionId) -> &mut Socket {
        self.socket(id).unwrap_or_else(|| panic!("no action for {id:?}, which was released"))
    }

    fn remove(&mut self, id: ConnectionId) -> Socket {
        let at = self.sockets.iter().position(|socket| socket.id == id);
        self.sockets.remove(at.unwrap_or_else(|| panic!("{id:?} leaves once")))
    }

    fn note(&mut self, mail: ToFront) {
        match mail {
            ToFront::Opened { .. } => self.told.opened += 1,
            ToFront::Ended { peer: Some(_), .. } => self.told.ended += 1,
            ToFront::Ended { peer: None, .. } | ToFront::Abandoned(_) => self.told.abandoned += 1,
            ToFront::Rooms(counts) => {
                assert!(!counts.is_empty());
                self.rooms.extend(counts);
            }
            ToFront::Message { id, message } => {
                self.asked.truncate(ASKED_MAX - 1);
                self.asked.push_front((id, message.header));
            }
            ToFront::Drained { .. } => self.told.drained += 1,
            ToFront::Login(_)
            | ToFront::LoginGone(_)
            | ToFront::LoginThere(_)
            | ToFront::Renew { .. }
            | ToFront::Sessions { .. }
            | ToFront::Stats(_) => {}
        }
    }

    /// A write ends: taken whole, or broken in the middle.
    pub(crate) fn end_write(&mut self, id: ConnectionId, complete: bool) {
        let Some(socket) = self.socket(id) else { return };
        let Some((run, since)) = socket.write.take() else { return };
        let complete = complete && !socket.shut;
        if complete {
            socket.client.take(run.as_slice());
        }
        let written = if complete { run.as_slice().len() } else { run.as_slice().len() / 2 } as u64;
        self.bytes_written += written;
        self.frames_written += if complete { u64::from(run.frames) } else { 0 };
        let sent = Sent { complete, written, frames: run.frames, accepted: run.accepted, since };
        self.shard.sent(self.now, id, sent, &mut self.out);
    }

    fn read(&mut self, id: ConnectionId) {
        let read_size = self.read_size;
        let Some(socket) = self.socket(id).filter(|socket| !socket.held && socket.reading) else { return };
        if socket.unread.is_empty() {
            let Some(lost) = socket.ending else { return };
            socket.reading = false;
            return self.shard.input_ended(self.now, id, lost, &mut self.out);
        }
        let len = socket.unread.len().min(read_size);
        let mut bytes: Vec<u8> = socket.unread.drain(..len).collect();
        self.bytes_read += len as u64;
        let flow = self.shard.received(self.now, id, &mut bytes, &mut self.out);
        let socket = self.live(id);
        socket.held = flow != Flow::Read;
        let left = socket.ending.is_some();
        match flow {
            Flow::Login if left => self.shard.hung_up(self.now, id, &mut self.out),
            Flow::Login => self.shard.ask(self.now, id, Duration::ZERO, &mut self.out),
            Flow::Read | Flow::Hold => {}
        }
        self.readers.push_back(id);
    }

    fn check(&self) {
        let stats = self.shard.stats();
        assert_eq!(self.shard.connections(), self.sockets.len());
        assert_eq!(stats.connections.tcp + stats.connections.websocket, self.sockets.len() as u64);
        assert!(stats.open <= self.sockets.len() as u64);
        assert_eq!(stats.bytes_read, self.bytes_read);
        assert_eq!((stats.bytes_written, stats.deliveries), (self.bytes_written, self.frames_written));
    }

    /// Everybody leaves; nothing is left behind.
    pub(crate) fn end(&mut self) {
        (self.ring, self.flush_budget) = (usize::MAX, 1000);
        for socket in &mut self.sockets {
            (socket.stalled, socket.stubborn) = (false, false);
            socket.ending.get_or_insert(false);
            self.writes.push_back(socket.id);
            self.readers.push_back(socket.id);
        }
        self.settle();
        self.advance(Duration::from_secs(3));
        let stats = self.shard.stats();
        assert_eq!(self.sockets.len(), 0, "no connection is left");
        assert_eq!((stats.open, stats.queue_bytes, stats.rooms), (0, 0, 0));
        assert!(!self.shard.is_congested() && !self.shard.wants_flush() && self.out.mail.is_empty());
        assert!(self.rooms.values().all(|members| *members == 0), "every empty room was reported as such");
        assert_eq!(self.told.opened, self.told.ended, "what opened has ended");
        let moving = self.detached.len() as u64;
        assert_eq!(
            self.granted,
            self.told.ended + self.told.abandoned + moving,
            "no session outlives its client"
        );
        assert_eq!(self.draining, self.told.drained > 0, "a drain ends, and nothing else is one");
    }
}
