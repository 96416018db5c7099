//! A shard, its driver, its clients and its front, all of them fake but the shard.
//!
//! The driver keeps the contract of the real ones: actions in order, one write at a time, a held connection is read
//! again when it is resumed or ended, mail leaves as far as the ring takes it. After every event [`World`] checks what
//! must always hold, and when it goes out of scope it ends every connection and checks that nothing is left behind.

mod check;
mod driver;

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use bytes::Bytes;
use contract::{Session, Transport};
use hashbrown::HashMap;
use proto::{
    close::CloseReason,
    encoded::Encoded,
    frame::Header,
    ids::{Generation, Key, Mid, RoomId},
    op::Op,
    websocket::{MessageLimits, UpgradeRules},
};
use seam::Time;

use super::{
    super::{
        Batch, Outputs, Rate, Shard, ShardConfig, SlowConsumer,
        mail::{ConnectionId, Handover, Outcome, Push, PushTo, ToShard, Verdict},
        queue::Run,
        stats::DropReason,
        wheel::TICK_MICROS,
    },
    wire::{self, Got},
};

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
    /// How long what the client sends lies in the kernel before it is read.
    pub(super) age: Duration,
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
            age: Duration::ZERO,
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
    LoginThere(ConnectionId),
    Abandoned(Key),
    Opened(Key),
    Ended { key: Key, fenced: bool, replaced: bool, known: bool },
    Renew(Key),
    Sessions { keys: Vec<Key>, next: Option<u32> },
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
    /// Bytes that the driver read.
    read: u64,
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
            read: 0,
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

    /// The client sends bytes and ends its side, or breaks the connection, before any of it is read.
    pub(super) fn send_and_leave(&mut self, id: ConnectionId, bytes: &[u8], lost: bool) {
        let socket = self.socket_mut(id);
        socket.unread.extend(bytes);
        socket.ending = Some(lost);
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
        self.mail(ToShard::Kick { key: Key::new(key), below: below.map(Generation), reason, text: None });
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
            accepted: None,
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

    /// Mails that wait for room in the ring.
    pub(super) fn mail_waiting(&self) -> usize {
        self.out.mail.len()
    }

    /// The front takes so many mails more from the ring.
    pub(super) fn take_mail(&mut self, mails: usize) {
        self.ring = self.ring.saturating_add(mails);
        self.settle();
    }

    // What the counters say.

    pub(super) fn drops(&self, reason: DropReason) -> u64 {
        self.shard.stats().drops.get(&reason).copied().unwrap_or(0)
    }

    pub(super) fn closes(&self, reason: CloseReason) -> u64 {
        self.shard.stats().closes.get(&reason).copied().unwrap_or(0)
    }

    pub(super) fn bad(&self, proto: &'static str, reason: &'static str) -> u64 {
        self.shard.stats().bad_input.get(&(proto, reason)).copied().unwrap_or(0)
    }
}
