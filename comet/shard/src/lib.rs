//! The rules of the gateway, without IO.
//!
//! A [`Shard`] owns a share of the connections, the rooms they are in and their timers. Its caller tells it what
//! happened (a socket was accepted, bytes came, a write ended, mail came from the front, time passed) and at which
//! time. It answers with [`Action`]s for its driver and with mail for the front. It opens no socket, reads no clock,
//! spawns nothing, takes no lock, and shares nothing with other shards but immutable bytes. So the same code runs under
//! every driver and under the simulator.
//!
//! | module | subject |
//! | --- | --- |
//! | [`connection`] | the state of one socket; every transition |
//! | [`wire`], [`input`] | bytes to frames |
//! | [`port`] | what listening sockets are for |
//! | [`proxied`] | whose connection it is, where a proxy passes it on |
//! | [`secure`] | TLS, before bytes are frames and after frames are bytes |
//! | [`operation`] | what each operation does |
//! | [`login`] | lobby, verdict, hand-over, replacement |
//! | [`fanout`] | pushes to send queues to writes |
//! | [`closing`] | every way to end |
//! | [`room`], [`queue`], [`wheel`], [`rate`], [`slots`] | the parts that these are built from |
//! | [`mail`] | what shards and front say to each other |
//! | [`stats`] | the counters |
//! | `inspect` | a look inside for tests, with the feature of that name |

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

mod closing;
mod connection;
mod fanout;
mod input;
#[cfg(feature = "inspect")]
pub mod inspect;
mod login;
pub mod mail;
mod operation;
mod port;
mod proxied;
pub mod queue;
mod rate;
mod room;
mod secure;
mod slots;
pub mod stats;
pub mod wheel;
mod wire;

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use hashbrown::HashTable;
use proto::{
    close::CloseReason,
    ids::Key,
    websocket::{MessageLimits, UpgradeRules},
};
use seam::{Bug, RandomState};

pub use self::{
    fanout::FlushState,
    input::Flow,
    port::{Acceptors, Port},
    queue::{Run, SlowConsumer},
    rate::Rate,
    wire::Wire,
};
use seam::Time;

use self::{
    connection::{Connection, State},
    fanout::Fanout,
    mail::{ConnectionId, Handover, Ticket, ToFront, ToShard},
    queue::{JoinedRuns, Outgoing},
    room::Rooms,
    slots::Slots,
    stats::Stats,
    wheel::{Entry, Tick, Wheel},
};

/// How long a closing connection may take to read what is queued and to end its side.
const LINGER: Duration = Duration::from_secs(1);

/// How much mail may wait for a full mailbox to the front. Beyond it the shard holds connections that would add to it,
/// so each of them owes one mail at most.
pub const MAIL_WAITING_MAX: usize = 1024;

/// Most rooms in one report to the front.
const ROOMS_PAGE: usize = 1024;

/// What the driver has to do.
#[derive(Debug)]
pub enum Action {
    /// Write a run. There is one write at a time per connection; the driver reports its end by [`Shard::sent`].
    Send {
        /// The connection.
        id: ConnectionId,
        /// The bytes.
        run: Run,
    },
    /// Read again after [`Flow::Hold`].
    Resume {
        /// The connection.
        id: ConnectionId,
    },
    /// Shut our side of the connection, but go on reading.
    Finish {
        /// The connection.
        id: ConnectionId,
    },
    /// Shut both sides, with a reset if `reset`. This ends the reading too ([`Shard::input_ended`]).
    Shut {
        /// The connection.
        id: ConnectionId,
        /// Throw away at once what the peer has not taken.
        reset: bool,
    },
    /// Close the descriptor: the shard has no more use for the connection. The slot may be used again.
    Release {
        /// The connection.
        id: ConnectionId,
    },
    /// Take the descriptor off and mail it to the shard `to`. No operation on it is in flight. The slot may be used
    /// again.
    Detach {
        /// The connection's id until now.
        id: ConnectionId,
        /// The shard that owns the key.
        to: u16,
        /// Its state, with which it goes on there.
        state: Box<Handover>,
    },
    /// Close the listeners.
    StopAccepting,
}

/// Where a shard puts what it wants others to do.
#[derive(Debug, Default)]
pub struct Outputs {
    /// For the driver, in order.
    pub actions: Vec<Action>,
    /// For the front, in order. The mail stays here until the driver takes it.
    pub mail: VecDeque<ToFront>,
    /// How much of the mail that the driver took still waits for a place in the mailbox. The driver sets this.
    pub waiting: usize,
}

impl Outputs {
    /// Whether the way to the front is full, so that no connection may add to it.
    fn is_congested(&self) -> bool {
        self.mail.len() + self.waiting >= seam::bound(MAIL_WAITING_MAX)
    }
}

/// When queued pushes leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    /// As soon as the mailbox is drained.
    Off,
    /// At once while the shard is idle; later, up to the window, as its load grows.
    Adaptive(Duration),
    /// Always after the window.
    Fixed(Duration),
}

/// The configuration of a shard. Whoever parses the configuration checks the bounds.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Longest time from accept to login, and again from login to logic's verdict.
    pub handshake: Duration,
    /// Longest time until an incomplete frame is complete.
    pub frame: Duration,
    /// Which upgrades are accepted.
    pub upgrade: UpgradeRules,
    /// Bounds of WebSocket messages.
    pub message: MessageLimits,
    /// Most body bytes of a client's frame.
    pub body_max: usize,
    /// Most bytes that may wait for one connection.
    pub queue_bytes_max: u32,
    /// What happens when more would have to wait.
    pub slow_consumer: SlowConsumer,
    /// How much a client may send.
    pub rate: Rate,
    /// Most rooms of one device.
    pub rooms_max: usize,
    /// Most operations that one device accepts.
    pub accepts_max: usize,
    /// Most connections of this shard that have not logged in.
    pub unauthenticated_max: usize,
    /// Most connections of this shard in all.
    pub connections_max: usize,
    /// Most operations that may come before the login.
    pub ignored_max: u8,
    /// Most refused requests of one connection. One more closes it.
    pub refusals_max: u8,
    /// The first sign of life after this time renews the session.
    pub renew: Duration,
    /// Answer an unknown operation with its own number, as the original goim does, instead of the next number.
    pub unknown_reply_same: bool,
    /// When pushes leave.
    pub batch: Batch,
    /// TLS of the ports that have it.
    pub acceptors: Acceptors,
    /// Longest time from accept to the end of a TLS handshake. The login has its own time after it.
    pub tls_handshake: Duration,
    /// Most TLS handshakes of this shard that have begun and are not done.
    pub tls_handshakes_max: usize,
}

/// One shard: the rules for its share of the connections.
pub struct Shard {
    index: u16,
    config: ShardConfig,
    slots: Slots,
    keys: HashTable<u32>,
    key_hasher: RandomState,
    rooms: Rooms,
    wheel: Wheel,
    fanout: Fanout,
    joined: JoinedRuns,
    stats: Stats,
    /// Connections before their login, oldest first. Entries of connections that have logged in or left are skipped.
    unauthenticated: VecDeque<(u32, u32)>,
    unauthenticated_now: usize,
    /// TLS handshakes that have begun and are not done.
    handshakes_now: usize,
    /// What a read of a TLS connection held, for as long as the event lasts.
    text: Vec<u8>,
    /// Connections that wait for the way to the front, the one that has waited longest first.
    congested: VecDeque<ConnectionId>,
    last_ticket: u64,
    draining: Option<closing::Draining>,
    /// How many connections came from other shards. Those whose client left on the way count too.
    arrivals: u64,
    reported: Stats,
    /// The connections whose frames were read since the simulator last asked.
    #[cfg(feature = "sim")]
    read: Vec<ConnectionId>,
    /// The connections that have shown that they live since the simulator last asked.
    #[cfg(feature = "sim")]
    heard: Vec<ConnectionId>,
}

impl Shard {
    /// An empty shard.
    pub fn new(index: u16, config: ShardConfig, now: Time) -> Shard {
        Shard {
            index,
            slots: Slots::new(index),
            keys: HashTable::new(),
            key_hasher: RandomState::new(),
            rooms: Rooms::default(),
            wheel: Wheel::new(now),
            fanout: Fanout::new(config.batch),
            joined: JoinedRuns::default(),
            stats: Stats::default(),
            unauthenticated: VecDeque::new(),
            unauthenticated_now: 0,
            handshakes_now: 0,
            text: Vec::new(),
            congested: VecDeque::new(),
            last_ticket: 0,
            draining: None,
            arrivals: 0,
            reported: Stats::default(),
            #[cfg(feature = "sim")]
            read: Vec::new(),
            #[cfg(feature = "sim")]
            heard: Vec::new(),
            config,
        }
    }

    /// A socket was accepted. `None`: there is no room for it, so the driver closes it.
    pub fn accepted(
        &mut self,
        now: Time,
        port: impl Into<Port>,
        peer: IpAddr,
        out: &mut Outputs,
    ) -> Option<ConnectionId> {
        let Port { transport, tls, proxied } = port.into();
        *self.stats.accepted.of(transport) += 1;
        if self.draining.is_some() || self.slots.len() >= self.config.connections_max {
            self.stats.refused += 1;
            return None;
        }
        if self.unauthenticated_now >= self.config.unauthenticated_max {
            self.evict_oldest_unauthenticated(now, out);
        }
        let ticket = self.next_ticket(now);
        let handshake = if tls { self.config.tls_handshake } else { self.config.handshake };
        let deadline = Tick::not_before(now.after(handshake));
        let mut connection = Connection::new(ticket, peer, transport, deadline);
        if proxied {
            connection.await_header(deadline, self.config.upgrade.proxies.contains(peer));
        }
        if tls {
            // Without its acceptor, which cannot be, nobody is served there, least of all in plain text.
            let Some(stage) = self.config.acceptors.stage(transport) else {
                self.stats.refused += 1;
                return None;
            };
            connection.tls = Some(stage);
            self.stats.tls.connections += 1;
        }
        let id = self.slots.insert(connection);
        *self.stats.connections.of(transport) += 1;
        self.unauthenticated_now += 1;
        self.forget_logged_in();
        self.unauthenticated.push_back((id.slot, id.generation));
        self.arm(id.slot);
        self.flush_urgent(now, out);
        Some(id)
    }

    /// A connection that logged in on another shard arrived with its descriptor.
    pub fn attached(&mut self, now: Time, state: Handover, out: &mut Outputs) -> ConnectionId {
        self.arrivals += 1;
        self.attach(now, state, out)
    }

    /// A connection that logged in on another shard was on its way here when its client left. Its descriptor was
    /// closed.
    pub fn left_on_the_way(&mut self, state: Handover, out: &mut Outputs) {
        self.arrivals += 1;
        self.abandoned(state.session, out);
    }

    /// Whether this connection waits for logic's verdict.
    pub fn is_in_lobby(&self, id: ConnectionId) -> bool {
        self.slots.get(id).is_some_and(|connection| matches!(connection.state, State::Lobby(_)))
    }

    /// The driver noticed that a held connection has hung up: the client has left.
    pub fn hung_up(&mut self, now: Time, id: ConnectionId, out: &mut Outputs) {
        let reason = CloseReason::ClientClosed;
        self.close(now, id, reason, reason.text(), out);
        self.flush_urgent(now, out);
    }

    /// Bytes came. WebSocket payloads are unmasked in place.
    pub fn received(&mut self, now: Time, id: ConnectionId, bytes: &mut [u8], out: &mut Outputs) -> Flow {
        let Some(connection) = self.slots.get(id) else { return Flow::Hold };
        let awaits_header = connection.awaits_header();
        self.stats.bytes_read += bytes.len() as u64;
        let flow = match awaits_header {
            true => self.header_input(now, id, bytes, out),
            false => self.clients_input(now, id, bytes, out),
        };
        self.end_input(now, id, flow, out)
    }

    /// Takes what the client itself has sent.
    fn clients_input(&mut self, now: Time, id: ConnectionId, bytes: &mut [u8], out: &mut Outputs) -> Flow {
        match self.slots.get(id).is_some_and(|connection| connection.tls.is_some()) {
            true => self.ciphertext(now, id, bytes, out),
            false => self.input(now, id, bytes, out),
        }
    }

    /// Takes a TLS handshake one step further, after [`Flow::Handshake`]. This costs more than anything else a client
    /// can ask for before its login, so the driver does only some in a turn.
    pub fn handshake(&mut self, now: Time, id: ConnectionId, out: &mut Outputs) -> Flow {
        let flow = self.take_handshake(now, id, out);
        self.end_input(now, id, flow, out)
    }

    fn end_input(&mut self, now: Time, id: ConnectionId, mut flow: Flow, out: &mut Outputs) -> Flow {
        if flow == Flow::Hold && self.slots.get(id).is_some_and(Connection::is_to_be_asked) {
            flow = Flow::Login;
        }
        self.flush_urgent(now, out);
        flow
    }

    /// The driver reads no more from this connection: the peer ended its side (`lost`: the connection broke), or we
    /// shut it.
    pub fn input_ended(&mut self, now: Time, id: ConnectionId, lost: bool, out: &mut Outputs) {
        let Some(connection) = self.slots.get_mut(id) else { return };
        connection.reading = false;
        match connection.state {
            State::Ended => {}
            // We have said all we had to say, so the peer's end is the answer.
            State::Closing { half_closed: true, .. } => self.shut(id, false, out),
            State::Closing { .. } if !lost => {}
            State::Closing { .. } => self.shut(id, false, out),
            _ => {
                let reason = if lost { CloseReason::ConnectionLost } else { CloseReason::ClientClosed };
                self.close(now, id, reason, reason.text(), out);
            }
        }
        self.release_if_drained(id, out);
    }

    /// A write ended: the peer's socket took all of it, or it failed after `written` bytes.
    pub fn sent(&mut self, now: Time, id: ConnectionId, done: Sent, out: &mut Outputs) {
        self.stats.writes += 1;
        self.stats.bytes_written += done.written;
        if done.complete {
            self.stats.deliveries += u64::from(done.frames);
            self.stats.shard_to_written.record(now.since(done.since).as_micros() as u64);
            if let Some(accepted) = done.accepted {
                self.stats.accept_to_written.record(now.since(accepted).as_micros() as u64);
            }
        } else {
            self.stats.drop_frames(stats::DropReason::Closed, u64::from(done.frames));
        }
        let Some(connection) = self.slots.get_mut(id) else { return };
        connection.send_in_flight = false;
        match connection.state {
            _ if done.complete => {}
            State::Ended => {}
            State::Closing { .. } => self.shut(id, false, out),
            _ => self.close(now, id, CloseReason::ConnectionLost, "", out),
        }
        self.after_send(now, id, out);
        self.flush_urgent(now, out);
        self.release_if_drained(id, out);
    }

    /// Takes a mail of the front.
    pub fn mail(&mut self, now: Time, mail: ToShard, out: &mut Outputs) {
        match mail {
            ToShard::Push(push) => self.push(now, &push, out),
            ToShard::Verdict(verdict) => self.verdict(now, *verdict, out),
            ToShard::Look(id) => self.looked_for(id, out),
            ToShard::Abandoned(session) => self.abandoned(session, out),
            ToShard::Kick { key, below, reason, text } => {
                let text = text.as_deref().unwrap_or(reason.text());
                self.kick(now, &key, below, reason, text, out);
            }
            ToShard::Reply { id, header, body } => self.logic_reply(id, header, &body),
            ToShard::Elsewhere(rooms) => {
                rooms.iter().for_each(|(room, people)| self.rooms.set_elsewhere(room, *people));
            }
            ToShard::Sessions { from } => self.sessions(from, out),
            ToShard::Acceptors(acceptors) => self.config.acceptors = *acceptors,
            ToShard::Drain { over } => self.drain(now, over, out),
        }
        self.flush_urgent(now, out);
    }

    /// The way to the front has room again, so connections that waited for it go on.
    pub fn mail_taken(&mut self, now: Time, out: &mut Outputs) {
        while !out.is_congested() {
            let Some(id) = self.congested.pop_front() else { break };
            self.go_on(now, id, out);
        }
        self.flush_urgent(now, out);
    }

    /// Whether a connection waits for the way to the front.
    pub fn is_congested(&self) -> bool {
        !self.congested.is_empty()
    }

    /// Time passed. The driver calls this about every [`wheel::TICK_MICROS`]. `load` is the busy share of its thread
    /// since the last tick, 0 to 1000; `mailbox_depth` tells how much mail was in the mailbox when it was last drained.
    pub fn tick(&mut self, now: Time, load: u64, mailbox_depth: u64, out: &mut Outputs) {
        self.stats.load_permille = load;
        self.stats.mailbox_depth = mailbox_depth;
        self.fanout.observe_load(load);
        let mut expired = Vec::new();
        self.wheel.expire(now, &mut expired);
        for entry in expired {
            self.expire(now, entry, out);
        }
        self.joined.clear(); // runs of writes that ended outside of a flush
        self.pace(now, out);
        self.drain_some(now, out);
        self.flush_urgent(now, out);
        self.report(out);
    }

    /// An accept failed, most likely because there are no descriptors left.
    pub fn accept_failed(&mut self) {
        self.stats.accept_errors += 1;
    }

    /// Whether [`Shard::flush`] has something to do, now or later.
    pub fn wants_flush(&self) -> bool {
        self.fanout.is_dirty()
    }

    /// Connections in a room on this shard; for tests and the simulator.
    pub fn room_members(&self, room: &proto::ids::RoomId) -> usize {
        self.rooms.find(room).map_or(0, |index| self.rooms.members(index).len())
    }

    /// Counters since the start.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Slots in use.
    pub fn connections(&self) -> usize {
        self.slots.len()
    }

    /// The connections whose frames were read since the last call; one entry per frame, in order.
    #[cfg(feature = "sim")]
    pub fn take_read(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.read)
    }

    /// The logged-in clients that have shown that they live since the last call.
    #[cfg(feature = "sim")]
    pub fn take_heard(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.heard)
    }

    fn expire(&mut self, now: Time, entry: Entry, out: &mut Outputs) {
        let Some((id, connection)) = self.slots.at_mut(entry.slot) else { return };
        if connection.timer != entry.tick {
            return; // this entry is stale, the connection has another one
        }
        connection.timer = Tick::NEVER;
        let (deadline, reason) = connection.deadline();
        if deadline > Tick::of(now) {
            if seam::planted(Bug::MissedHeartbeat) {
                return;
            }
            return self.arm(entry.slot);
        }
        match connection.state {
            State::Closing { .. } => self.shut(id, true, out),
            State::Ended => {}
            _ => self.close(now, id, reason, reason.text(), out),
        }
    }

    /// Makes sure that the connection has an entry in the wheel no later than its deadline.
    fn arm(&mut self, slot: u32) {
        let Some((_, connection)) = self.slots.at_mut(slot) else { return };
        let (deadline, _) = connection.deadline();
        if deadline < connection.timer {
            connection.timer = self.wheel.schedule(slot, deadline);
        }
    }

    fn report(&mut self, out: &mut Outputs) {
        while !out.is_congested() {
            let changes = self.rooms.take_changes(ROOMS_PAGE);
            if changes.is_empty() {
                break;
            }
            out.mail.push_back(ToFront::Rooms(changes));
        }
        self.stats.rooms = self.rooms.len() as u64;
        if !out.is_congested() && self.stats != self.reported {
            self.reported = self.stats.clone();
            out.mail.push_back(ToFront::Stats(Box::new(self.stats.clone())));
        }
    }

    fn next_ticket(&mut self, now: Time) -> Ticket {
        self.last_ticket = now.as_micros().max(self.last_ticket + 1);
        Ticket((self.last_ticket << 10) | u64::from(self.index & 0x3ff))
    }

    fn find_key(&self, key: &Key) -> Option<u32> {
        self.keys.find(self.key_hasher.hash_one(key), |slot| self.slots.key(*slot) == Some(key)).copied()
    }

    fn insert_key(&mut self, key: &Key, slot: u32) {
        let (slots, hasher) = (&self.slots, &self.key_hasher);
        self.keys.insert_unique(hasher.hash_one(key), slot, |slot| {
            hasher.hash_one(slots.key(*slot).expect("a key in the table has an open connection"))
        });
    }

    fn remove_key(&mut self, key: &Key, slot: u32) {
        if let Ok(entry) = self.keys.find_entry(self.key_hasher.hash_one(key), |other| *other == slot) {
            entry.remove();
        }
    }

    /// Queues a reply for a connection. It leaves at the end of this event.
    fn reply(&mut self, slot: u32, encoded: &proto::encoded::Encoded) {
        self.enqueue(slot, Outgoing::reply(encoded), true);
    }
}

/// How a write ended.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Whether all of the run was taken.
    pub complete: bool,
    /// Bytes that were taken.
    pub written: u64,
    /// Frames of the run.
    pub frames: u32,
    /// When logic accepted the oldest push of the run.
    pub accepted: Option<Time>,
    /// When the run was handed out.
    pub since: Time,
}
