//! A shard, its driver, its clients and its front, all of them fake but the shard.
//!
//! The driver keeps the contract of the real ones: actions in order, one write at a time, a held connection is read
//! again when it is resumed or ended, mail leaves as far as the ring takes it. After every event [`World`] checks what
//! must always hold, and when it goes out of scope it ends every connection and checks that nothing is left behind.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use bytes::Bytes;
use cluster::services::{Session, Transport};
use proto::{
    close::CloseReason,
    encoded::Encoded,
    frame::Header,
    ids::{Generation, Key, Mid, RoomId},
    op::Op,
    websocket::{MessageLimits, UpgradeRules},
};

use super::{
    super::{
        Action, Batch, Flow, FlushState, Outputs, ROOMS_PAGE, Rate, Sent, Shard, ShardConfig, SlowConsumer,
        mail::{ConnectionId, Handover, Outcome, Push, PushTo, ToFront, ToShard, Verdict},
        queue::Run,
        stats::DropReason,
        wheel::TICK_MICROS,
    },
    wire::{self, Got},
};
use crate::clock::Time;

/// A moment between two ticks of the clock.
const START: Time = Time::from_micros(12_345_678);

/// What a fake socket and its client are at.
#[derive(Debug)]
pub(super) struct Socket {
    transport: Transport,
    /// What the client got and no test has looked at.
    inbox: Vec<u8>,
    /// Every write that was taken, as it was handed out.
    pub(super) runs: Vec<Run>,
    write: Option<(Run, Time)>,
    /// The client does not read: writes stay under way until [`World::take_write`].
    pub(super) stalled: bool,
    /// What the client sent and the driver has not read.
    unread: VecDeque<u8>,
    /// How the client's side ended, true when it broke, while the driver has not seen it.
    pub(super) ending: Option<bool>,
    held: bool,
    reading: bool,
    ends_told: u32,
    /// Our side is shut.
    pub(super) finished: bool,
    /// Both sides are shut, with a reset where true.
    pub(super) shut: Option<bool>,
    /// The client keeps its side open although ours is shut.
    pub(super) stubborn: bool,
}

impl Socket {
    fn new(transport: Transport) -> Socket {
        Socket {
            transport,
            inbox: Vec::new(),
            runs: Vec::new(),
            write: None,
            stalled: false,
            unread: VecDeque::new(),
            ending: None,
            held: false,
            reading: true,
            ends_told: 0,
            finished: false,
            shut: None,
            stubborn: false,
        }
    }
}

/// One way to end a connection.
pub(super) type End = fn(&mut World, ConnectionId);

/// A connection on its way to another shard.
#[derive(Debug)]
pub(super) struct Detached {
    pub(super) id: ConnectionId,
    pub(super) to: u16,
    pub(super) state: Box<Handover>,
    pub(super) socket: Socket,
}

/// Mail to the front, as far as tests compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Login { id: ConnectionId, cookie: String, token: Vec<u8> },
    LoginGone(ConnectionId),
    Abandoned(Key),
    Opened(Key),
    Ended { key: Key, replaced: bool, known: bool },
    Renew(Key),
    Message { id: ConnectionId, op: i32, room: Option<RoomId>, body: Vec<u8> },
    Drained,
}

pub(super) struct World {
    pub(super) now: Time,
    pub(super) shard: Shard,
    out: Outputs,
    sockets: HashMap<ConnectionId, Socket>,
    /// Connections that are over, for a look at what they got.
    over: HashMap<ConnectionId, Socket>,
    pub(super) detached: Vec<Detached>,
    said: Vec<Said>,
    /// Members of each room as last reported.
    pub(super) reported: HashMap<RoomId, u32>,
    /// Free places in the ring to the front.
    pub(super) ring: usize,
    /// Whether pushes are flushed at the end of each step, and how many connections at once.
    pub(super) auto_flush: Option<usize>,
    /// Most bytes that one read takes.
    pub(super) read_size: usize,
    /// Busy share of the driver's thread, in thousandths.
    pub(super) load: u64,
    pub(super) stopped_accepting: bool,
    /// Whether everything is checked after each event.
    pub(super) checks: bool,
    flush_at: Option<Time>,
    next_tick: Time,
    writes: VecDeque<ConnectionId>,
    readers: VecDeque<ConnectionId>,
    /// Frames and bytes that clients were seen to take, and the writes that brought them.
    taken: (u64, u64, u64),
    moved: u64,
}

/// What goim-example's configuration amounts to, pushes leaving at once.
pub(super) fn config() -> ShardConfig {
    ShardConfig {
        handshake: Duration::from_secs(5),
        frame: Duration::from_secs(10),
        upgrade: UpgradeRules::default(),
        message: MessageLimits::default(),
        body_max: 4096,
        queue_bytes_max: 64 * 1024,
        slow_consumer: SlowConsumer::DropOldest,
        rate: Rate { per_second: 100, burst: 400 },
        rooms_max: 32,
        accepts_max: 128,
        unauthenticated_max: 1000,
        connections_max: 10_000,
        ignored_max: 8,
        refusals_max: 16,
        renew: Duration::from_secs(300),
        unknown_reply_same: false,
        batch: Batch::Off,
    }
}

/// Logic's word on a login: four minutes and a half of silence, no room, nothing accepted, no generation.
pub(super) fn session(key: &str) -> Session {
    Session {
        mid: Mid(123),
        key: Key::new(key),
        room: None,
        rooms: Vec::new(),
        accepts: Vec::new(),
        heartbeat: Duration::from_secs(270),
        generation: None,
    }
}

/// The same, in a room.
pub(super) fn session_in(key: &str, name: &str) -> Session {
    Session { room: Some(room(name)), ..session(key) }
}

pub(super) fn room(name: &str) -> RoomId {
    RoomId::parse(name).expect("a room id")
}

pub(super) fn rooms(names: &[&str]) -> Vec<RoomId> {
    names.iter().map(|name| room(name)).collect()
}

impl World {
    pub(super) fn new() -> World {
        World::with(|_| ())
    }

    /// A world whose shard is configured otherwise.
    pub(super) fn with(change: impl FnOnce(&mut ShardConfig)) -> World {
        let mut config = config();
        change(&mut config);
        World {
            now: START,
            shard: Shard::new(3, config, START),
            out: Outputs::default(),
            sockets: HashMap::new(),
            over: HashMap::new(),
            detached: Vec::new(),
            said: Vec::new(),
            reported: HashMap::new(),
            ring: usize::MAX,
            auto_flush: Some(1000),
            read_size: usize::MAX,
            load: 0,
            stopped_accepting: false,
            checks: true,
            flush_at: None,
            next_tick: START.after(Duration::from_micros(TICK_MICROS)),
            writes: VecDeque::new(),
            readers: VecDeque::new(),
            taken: (0, 0, 0),
            moved: 0,
        }
    }

    // What clients do.

    /// A socket is accepted; `None` when the shard has no room for it.
    pub(super) fn accept(&mut self, transport: Transport) -> Option<ConnectionId> {
        let peer = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let id = self.shard.accepted(self.now, transport, peer, &mut self.out);
        if let Some(id) = id {
            assert!(self.sockets.insert(id, Socket::new(transport)).is_none(), "{id:?} names one connection");
        }
        self.settle();
        id
    }

    /// A client that may log in: on WebSocket the upgrade is done.
    pub(super) fn connect(&mut self, transport: Transport) -> ConnectionId {
        let id = self.accept(transport).expect("room for one more");
        if transport == Transport::WebSocket {
            self.send(id, &wire::upgrade("/sub", &[]));
            assert_eq!(self.got(id), [Got::Http(101)]);
        }
        id
    }

    /// A client in the lobby.
    pub(super) fn ask_login(&mut self, transport: Transport) -> ConnectionId {
        let id = self.connect(transport);
        self.say(id, 7, 1, b"{}");
        id
    }

    /// A client that is logged in, in place; the answer to its login is read already.
    pub(super) fn open(&mut self, transport: Transport, session: Session) -> ConnectionId {
        let id = self.ask_login(transport);
        self.verdict(id, Outcome::Open(session));
        assert_eq!(self.bytes(id), wire::reply(transport, &wire::frame(8, 1, b"")));
        self.said();
        id
    }

    /// The client sends bytes.
    pub(super) fn send(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        assert!(socket.ending.is_none(), "a client that ended its side sends nothing");
        socket.unread.extend(bytes);
        self.readers.push_back(id);
        self.settle();
    }

    /// The client sends one frame, in a message of its own.
    pub(super) fn say(&mut self, id: ConnectionId, op: i32, seq: i32, body: &[u8]) {
        let transport = self.socket(id).transport;
        self.send(id, &wire::sent(transport, &wire::frame(op, seq, body)));
    }

    /// The client ends its side, or breaks the connection.
    pub(super) fn leave(&mut self, id: ConnectionId, lost: bool) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        socket.ending = socket.ending.or(Some(lost));
        self.readers.push_back(id);
        self.settle();
    }

    /// What the client got since the last look, byte for byte.
    pub(super) fn bytes(&mut self, id: ConnectionId) -> Vec<u8> {
        std::mem::take(&mut self.socket_mut(id).inbox)
    }

    /// What the client got since the last look, read.
    pub(super) fn got(&mut self, id: ConnectionId) -> Vec<Got> {
        let transport = self.socket(id).transport;
        wire::read(transport, &self.bytes(id))
    }

    /// What the client of a connection that is over got, for the last time.
    pub(super) fn last_got(&mut self, id: ConnectionId) -> Option<Vec<Got>> {
        self.over.remove(&id).map(|socket| wire::read(socket.transport, &socket.inbox))
    }

    /// The client takes the write under way, or, where not `complete`, only some of it and no more ever.
    pub(super) fn take_write(&mut self, id: ConnectionId, complete: bool) {
        self.end_write(id, complete);
        self.settle();
    }

    /// The client stops reading, or reads again.
    pub(super) fn stall(&mut self, id: ConnectionId, stalled: bool) {
        let socket = self.socket_mut(id);
        socket.stalled = stalled;
        if !stalled && socket.write.is_some() {
            self.writes.push_back(id);
            self.settle();
        }
    }

    pub(super) fn is_writing(&self, id: ConnectionId) -> bool {
        self.socket(id).write.is_some()
    }

    /// The driver has let go of it.
    pub(super) fn is_over(&self, id: ConnectionId) -> bool {
        self.over.contains_key(&id)
    }

    pub(super) fn is_held(&self, id: ConnectionId) -> bool {
        self.socket(id).held
    }

    pub(super) fn socket(&self, id: ConnectionId) -> &Socket {
        self.sockets.get(&id).or_else(|| self.over.get(&id)).expect("a connection of this world")
    }

    pub(super) fn socket_mut(&mut self, id: ConnectionId) -> &mut Socket {
        self.sockets.get_mut(&id).or_else(|| self.over.get_mut(&id)).expect("a connection of this world")
    }

    // What the front does.

    pub(super) fn mail(&mut self, mail: ToShard) {
        self.mails([mail]);
    }

    /// Several commands that wait in the mailbox when the shard comes to look: they are taken before anything is
    /// flushed.
    pub(super) fn mails(&mut self, mails: impl IntoIterator<Item = ToShard>) {
        for mail in mails {
            self.hand(mail);
        }
        self.settle();
    }

    /// One command of several; the driver does nothing before it has handed over all of them ([`World::mails`]).
    pub(super) fn hand(&mut self, mail: ToShard) {
        self.shard.mail(self.now, mail, &mut self.out);
    }

    /// Logic's word. The driver looks first whether the client is still there.
    pub(super) fn verdict(&mut self, id: ConnectionId, outcome: Outcome) {
        if self.shard.is_in_lobby(id) && self.socket(id).ending.is_some() {
            self.shard.hung_up(self.now, id, &mut self.out);
        }
        self.mail(ToShard::Verdict(Box::new(Verdict { id, outcome })));
    }

    pub(super) fn refuse(&mut self, id: ConnectionId, reason: CloseReason, text: &str) {
        self.verdict(id, Outcome::Refuse { reason, text: text.to_owned() });
    }

    pub(super) fn kick(&mut self, key: &str, below: Option<i64>, reason: CloseReason) {
        self.mail(ToShard::Kick { key: Key::new(key), below: below.map(Generation), reason });
    }

    pub(super) fn reply(&mut self, id: ConnectionId, op: i32, seq: i32, body: &'static [u8]) {
        let header = Header { ver: 1, op: Op(op), seq };
        self.mail(ToShard::Reply { id, header, body: Bytes::from_static(body) });
    }

    /// A push of one message, operation 1000.
    pub(super) fn push_of(&self, to: PushTo, body: &str) -> Push {
        Push {
            to,
            filter: Op(1000),
            encoded: Encoded::push(Op(1000), body.as_bytes()),
            origin: None,
            dispatched: self.now,
        }
    }

    pub(super) fn push(&mut self, to: PushTo, body: &str) {
        let push = self.push_of(to, body);
        self.mail(ToShard::Push(Box::new(push)));
    }

    pub(super) fn push_room(&mut self, name: &str, body: &str) {
        self.push(PushTo::Room(room(name)), body);
    }

    pub(super) fn push_keys(&mut self, keys: &[&str], body: &str) {
        self.push(PushTo::Keys(keys.iter().map(|key| Key::new(*key)).collect()), body);
    }

    /// What the front was told since the last look, counters and rooms left out.
    pub(super) fn said(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.said)
    }

    /// The front takes so many mails more from the ring.
    pub(super) fn take_mail(&mut self, mails: usize) {
        self.ring = self.ring.saturating_add(mails);
        self.settle();
    }

    // What the driver does.

    /// A connection that left another shard arrives.
    pub(super) fn attach(&mut self, detached: Detached) -> ConnectionId {
        let Detached { state, mut socket, .. } = detached;
        let id = self.shard.attached(self.now, *state, &mut self.out);
        socket.held = true;
        assert!(self.sockets.insert(id, socket).is_none(), "{id:?} names one connection");
        self.settle();
        id
    }

    /// The client of a connection on its way to this shard has left.
    pub(super) fn left_on_the_way(&mut self, detached: Detached) {
        assert!(detached.socket.ending.is_some());
        self.shard.left_on_the_way(*detached.state, &mut self.out);
        self.over.insert(detached.id, detached.socket);
        self.settle();
    }

    /// Flushes by hand.
    pub(super) fn flush(&mut self, budget: usize) -> FlushState {
        let state = self.shard.flush(self.now, budget, &mut self.out);
        self.settle();
        state
    }

    /// Time passes, with its ticks and with the flushes that were waiting for it.
    pub(super) fn advance(&mut self, time: Duration) {
        let end = self.now.after(time);
        loop {
            let flush_at = self.flush_at.filter(|at| *at > self.now).unwrap_or(end);
            self.now = self.next_tick.min(flush_at).min(end);
            if self.now == self.next_tick {
                self.next_tick = self.next_tick.after(Duration::from_micros(TICK_MICROS));
                self.shard.tick(self.now, self.load, 0, &mut self.out);
                self.watch_held();
            }
            self.settle();
            if self.now == end {
                return;
            }
        }
    }

    pub(super) fn drops(&self, reason: DropReason) -> u64 {
        self.shard.stats().drops.get(&reason).copied().unwrap_or(0)
    }

    pub(super) fn closes(&self, reason: CloseReason) -> u64 {
        self.shard.stats().closes.get(&reason).copied().unwrap_or(0)
    }

    pub(super) fn bad(&self, proto: &'static str, reason: &'static str) -> u64 {
        self.shard.stats().bad_input.get(&(proto, reason)).copied().unwrap_or(0)
    }

    /// A held connection whose client ended its side is read on.
    fn watch_held(&mut self) {
        let mut gone: Vec<_> =
            self.sockets.iter().filter(|(_, s)| s.held && s.ending.is_some()).map(|(id, _)| *id).collect();
        gone.sort_by_key(|id| (id.slot, id.generation));
        for id in gone {
            self.let_go(id);
        }
    }

    /// Carries out everything that is to be done, until nothing more happens by itself.
    fn settle(&mut self) {
        loop {
            for action in std::mem::take(&mut self.out.actions) {
                self.act(action);
            }
            self.post();
            if self.out.mail.is_empty() && self.shard.is_congested() {
                self.shard.mail_taken(self.now, &mut self.out);
            } else if let Some(id) = self.writes.pop_front() {
                self.end_write(id, true);
            } else if let Some(id) = self.readers.pop_front() {
                self.read_once(id);
            } else if !self.flush_if_wanted() {
                break;
            }
        }
        if self.checks {
            self.check();
        }
    }

    /// True when there may be more to do.
    fn flush_if_wanted(&mut self) -> bool {
        self.flush_at = None;
        let Some(budget) = self.auto_flush.filter(|_| self.shard.wants_flush()) else { return false };
        match self.shard.flush(self.now, budget, &mut self.out) {
            FlushState::Wait(until) => {
                assert!(until > self.now && self.out.actions.is_empty());
                self.flush_at = Some(until);
                false
            }
            FlushState::Idle | FlushState::More => true,
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { id, run } => {
                let socket = live(&mut self.sockets, id);
                assert!(socket.write.is_none(), "one write at a time");
                assert!(
                    !socket.finished && socket.shut.is_none(),
                    "nothing is written to a socket that is shut"
                );
                assert!(!run.as_slice().is_empty(), "a write has something to write");
                socket.write = Some((run, self.now));
                if !socket.stalled {
                    self.writes.push_back(id);
                }
            }
            Action::Resume { id } => {
                live(&mut self.sockets, id);
                self.let_go(id);
            }
            Action::Finish { id } => {
                let socket = live(&mut self.sockets, id);
                assert!(!socket.finished && socket.shut.is_none(), "our side is shut once");
                assert!(socket.write.is_none(), "everything is written before our side is shut");
                socket.finished = true;
                if !socket.stubborn && socket.ending.is_none() {
                    socket.ending = Some(false);
                }
                self.let_go(id);
                self.readers.push_back(id);
            }
            Action::Shut { id, reset } => {
                let socket = live(&mut self.sockets, id);
                assert!(socket.shut.is_none(), "a socket is shut once");
                socket.shut = Some(reset);
                socket.ending = socket.ending.or(Some(false));
                self.let_go(id);
                self.readers.push_back(id);
                self.writes.push_back(id);
            }
            Action::Release { id } => {
                let socket = self.sockets.remove(&id).expect("a connection is released once");
                assert!(socket.write.is_none(), "the driver writes no more");
                assert!(
                    !socket.reading && socket.ends_told == 1,
                    "the driver reads no more and has said so once"
                );
                assert!(socket.shut.is_some(), "a connection is shut before it is released");
                self.over.insert(id, socket);
            }
            Action::Detach { id, to, state } => {
                let socket = self.sockets.remove(&id).expect("a connection leaves once");
                assert!(socket.held && socket.reading, "it is not read while it moves");
                assert!(socket.write.is_none(), "no operation is in flight");
                assert!(!socket.finished && socket.shut.is_none());
                self.moved += 1;
                self.detached.push(Detached { id, to, state, socket });
            }
            Action::StopAccepting => {
                assert!(!std::mem::replace(&mut self.stopped_accepting, true), "told once");
            }
        }
    }

    /// A held connection is read again.
    fn let_go(&mut self, id: ConnectionId) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        if std::mem::take(&mut socket.held) {
            self.readers.push_back(id);
        }
    }

    fn post(&mut self) {
        while self.ring > 0
            && let Some(mail) = self.out.mail.pop_front()
        {
            self.ring = self.ring.saturating_sub(usize::from(self.ring != usize::MAX));
            let said = self.note(mail);
            self.said.extend(said);
        }
    }

    fn note(&mut self, mail: ToFront) -> Option<Said> {
        Some(match mail {
            ToFront::Login(login) => {
                Said::Login { id: login.id, cookie: login.cookie, token: login.token.to_vec() }
            }
            ToFront::LoginGone(id) => Said::LoginGone(id),
            ToFront::Abandoned(session) => Said::Abandoned(session.key),
            ToFront::Moved { .. } => unreachable!("only a driver says so"),
            ToFront::Opened { key, .. } => Said::Opened(key),
            ToFront::Ended { key, replaced, peer, .. } => {
                Said::Ended { key, replaced, known: peer.is_some() }
            }
            ToFront::Renew { key, .. } => Said::Renew(key),
            ToFront::Message { id, message } => {
                Said::Message { id, op: message.header.op.0, room: message.room, body: message.body.to_vec() }
            }
            ToFront::Rooms(counts) => {
                assert!(!counts.is_empty() && counts.len() <= ROOMS_PAGE);
                self.reported.extend(counts);
                return None;
            }
            ToFront::Stats(stats) => {
                assert!(stats.bytes_written <= self.shard.stats().bytes_written);
                return None;
            }
            ToFront::Drained => Said::Drained,
        })
    }

    fn end_write(&mut self, id: ConnectionId, complete: bool) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let Some((run, since)) = socket.write.take() else { return };
        let complete = complete && socket.shut.is_none();
        let bytes = run.as_slice();
        let written = if complete { bytes.len() } else { bytes.len() / 2 };
        self.taken.1 += written as u64;
        self.taken.2 += 1;
        if complete {
            socket.inbox.extend_from_slice(bytes);
            self.taken.0 += u64::from(run.frames);
        }
        let sent = Sent { complete, written: written as u64, frames: run.frames, since };
        if complete {
            socket.runs.push(run);
        }
        self.shard.sent(self.now, id, sent, &mut self.out);
    }

    fn read_once(&mut self, id: ConnectionId) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        if socket.held || !socket.reading {
            return;
        }
        if !socket.unread.is_empty() {
            let len = socket.unread.len().min(self.read_size);
            let mut bytes: Vec<u8> = socket.unread.drain(..len).collect();
            let flow = self.shard.received(self.now, id, &mut bytes, &mut self.out);
            socket.held = flow == Flow::Hold;
            self.readers.push_back(id);
        } else if let Some(lost) = socket.ending {
            socket.reading = false;
            socket.ends_told += 1;
            self.shard.input_ended(self.now, id, lost, &mut self.out);
        }
    }

    /// What holds after every event.
    pub(super) fn check(&mut self) {
        let shard = &mut self.shard;
        let (mut connections, mut open, mut unauthenticated, mut closing) = (0, 0, 0, 0);
        let mut queue_bytes = 0;
        let mut members: HashMap<&str, usize> = HashMap::new();
        for slot in 0..shard.slots.end() {
            let Some((id, connection)) = shard.slots.at_mut(slot) else { continue };
            let socket = self.sockets.get(&id).expect("every connection has its socket");
            connections += 1;
            assert_eq!(connection.send_in_flight, socket.write.is_some(), "{id:?}");
            assert_eq!(connection.reading, socket.reading, "{id:?}");
            assert!(socket.held || !connection.is_holding(), "{id:?} waits and is read all the same");
            queue_bytes += u64::from(connection.queue.bytes());
            assert_eq!(connection.queue.bytes() == 0, connection.queue.is_empty());
            let on_its_way = connection.send_in_flight || connection.dirty;
            assert!(connection.queue.is_empty() || on_its_way, "what waits for {id:?} is forgotten");
            closing += u64::from(connection.is_closing());
            unauthenticated += usize::from(connection.is_unauthenticated());
            let Some(connection) = connection.as_open() else { continue };
            open += 1;
            assert!(!connection.has_first_room || !connection.memberships.is_empty());
            for membership in &connection.memberships {
                assert_eq!(shard.rooms.members(membership.room)[membership.position as usize], slot);
                *members.entry(shard.rooms.id(membership.room).as_str()).or_default() += 1;
            }
            let key = connection.key.clone();
            let of_key =
                shard.keys.find(std::hash::BuildHasher::hash_one(&shard.key_hasher, &key), |other| {
                    shard.slots.key(*other) == Some(&key)
                });
            assert_eq!(of_key, Some(&slot), "one live connection per key");
        }
        assert_eq!(connections, self.sockets.len());
        assert_eq!(connections, shard.slots.len());
        assert_eq!(open, shard.keys.len() as u64);
        assert_eq!(unauthenticated, shard.unauthenticated_now);
        assert_eq!(shard.rooms.len(), members.len(), "an empty room is gone");
        for (name, count) in members {
            assert_eq!(
                shard.rooms.find(&room(name)).map(|index| shard.rooms.members(index).len()),
                Some(count)
            );
        }
        let stats = &shard.stats;
        assert_eq!(stats.open, open);
        assert_eq!(stats.queue_bytes, queue_bytes);
        assert_eq!((stats.deliveries, stats.bytes_written, stats.writes), self.taken);
        assert_eq!(stats.connections.tcp + stats.connections.websocket, connections as u64);
        let began = stats.accepted.tcp + stats.accepted.websocket - stats.refused + stats.attached;
        let ended = began - self.moved - (connections as u64 - closing);
        assert_eq!(stats.closes.values().sum::<u64>(), ended, "every end has its reason");
    }

    /// Ends every connection and checks that nothing of any is left.
    pub(super) fn end(&mut self) {
        self.ring = usize::MAX;
        self.auto_flush = Some(1000);
        let mut ids: Vec<_> = self.sockets.keys().copied().collect();
        ids.sort_by_key(|id| (id.slot, id.generation));
        for id in ids {
            if let Some(socket) = self.sockets.get_mut(&id) {
                (socket.stalled, socket.stubborn) = (false, false);
                self.writes.push_back(id);
            }
            self.leave(id, false);
        }
        self.advance(Duration::from_secs(3));
        assert!(self.sockets.is_empty() && self.shard.slots.len() == 0, "no slot is left");
        assert_eq!((self.shard.keys.len(), self.shard.rooms.len()), (0, 0), "no key and no room is left");
        assert_eq!((self.shard.unauthenticated_now, self.shard.stats.queue_bytes), (0, 0));
        assert!(!self.shard.is_congested() && !self.shard.wants_flush());
        assert!(self.reported.values().all(|members| *members == 0), "every empty room was reported as such");
        self.check();
    }
}

fn live(sockets: &mut HashMap<ConnectionId, Socket>, id: ConnectionId) -> &mut Socket {
    sockets.get_mut(&id).expect("no action for a connection that was released")
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}
