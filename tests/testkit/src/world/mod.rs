//! A shard, its driver, its clients and its front, all of them fake but the shard.
//!
//! The driver keeps the contract of the real ones: actions in order, one write at a time, a held connection is read
//! again when it is resumed or ended, mail leaves as far as the ring takes it. After every event [`World`] checks what
//! must always hold, and when it goes out of scope it ends every connection and checks that nothing is left behind.

mod check;
mod clients;
mod driver;
mod front;
mod said;
mod secure;
mod socket;

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use contract::{Session, Transport};
use proto::{
    close::CloseReason,
    frame::{FrameReader, Header},
    ids::{Key, Mid, RoomId},
    op::Op,
    websocket::{MessageLimits, Reader, UpgradeRules},
};
use seam::Time;
use shard::{
    Batch, Outputs, Rate, Sent, Shard, ShardConfig, SlowConsumer, Wire,
    mail::{Carried, ConnectionId, Handover, Ticket},
    queue::Run,
    stats::DropReason,
    wheel::TICK_MICROS,
};

pub use self::{
    front::push_of,
    said::Said,
    socket::{Detached, Socket},
};
use self::{said::Sessions, socket::Sockets};

/// Where clients come from.
pub const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A proxy that is trusted, as is the rest of 198.51.100.0/24.
pub const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));

/// A moment between two ticks of the clock.
pub const START: Time = Time::from_micros(12_345_678);

/// One way to end a connection.
pub type End = fn(&mut World, ConnectionId);

/// A shard with its driver, its clients and its front.
pub struct World {
    /// What the clock shows.
    pub now: Time,
    /// The shard; whoever calls it past the world has to [`World::settle`].
    pub shard: Shard,
    out: Outputs,
    sockets: Sockets,
    /// Connections that are over, in that order, for a look at what they got.
    over: Vec<Socket>,
    /// Connections on their way to other shards.
    pub detached: Vec<Detached>,
    said: Vec<Said>,
    /// The addresses that the front was told with logins, opened connections and their ends.
    addresses: Vec<IpAddr>,
    sessions: Sessions,
    draining: bool,
    /// Members of each room as last reported.
    pub reported: HashMap<RoomId, u32>,
    /// Free places in the ring to the front.
    pub ring: usize,
    /// Whether pushes are flushed at the end of each step, and how many connections at once.
    pub auto_flush: Option<usize>,
    /// Most bytes that one read takes.
    pub read_size: usize,
    /// Busy share of the driver's thread, in thousandths.
    pub load: u64,
    /// The listeners are closed.
    pub stopped_accepting: bool,
    /// Whether everything is checked after each event.
    pub checks: bool,
    /// Whether all clients come with TLS, as `HALLEY_TEST_TLS` has it in the environment.
    pub over_tls: bool,
    flush_at: Option<Time>,
    next_tick: Time,
    writes: VecDeque<ConnectionId>,
    readers: VecDeque<ConnectionId>,
    /// Frames and bytes that clients were seen to take, and the writes that brought them.
    taken: (u64, u64, u64),
    /// Bytes that the driver read.
    read: u64,
}

/// What goim-example's configuration amounts to, pushes leaving at once.
pub fn config() -> ShardConfig {
    ShardConfig {
        handshake: Duration::from_secs(5),
        frame: Duration::from_secs(10),
        upgrade: UpgradeRules {
            proxies: ["198.51.100.0/24".parse().expect("a network")].into_iter().collect(),
            ..UpgradeRules::default()
        },
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
        acceptors: secure::acceptors(),
        tls_handshake: Duration::from_secs(5),
        tls_handshakes_max: 100,
    }
}

/// Logic's word on a login: four minutes and a half of silence, no room, nothing accepted, no generation.
pub fn session(key: &str) -> Session {
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
pub fn session_in(key: &str, name: &str) -> Session {
    Session { room: Some(room(name)), ..session(key) }
}

/// A connection of that session on its way between two shards, nothing behind its login.
pub fn handover(ticket: Ticket, transport: Transport, session: Session) -> Handover {
    Handover {
        ticket,
        arrived: Time::default(),
        peer: PEER,
        transport,
        header: Header { ver: 1, op: Op::AUTH, seq: 1 },
        session,
        reasons: false,
        wire: match transport {
            Transport::Tcp => Wire::Tcp(FrameReader::new()),
            Transport::WebSocket => Wire::WebSocket(Reader::default()),
        },
        tls: None,
        carried: Carried::default(),
    }
}

/// The end of a write that took all of a run, which was handed out at `since`.
pub fn written(run: &Run, since: Time) -> Sent {
    let written = run.as_slice().len() as u64;
    Sent { complete: true, written, frames: run.frames, accepted: run.accepted, since }
}

/// A room.
///
/// # Panics
/// Its name is none.
pub fn room(name: &str) -> RoomId {
    RoomId::parse(name).expect("a room id")
}

/// Some rooms.
pub fn rooms(names: &[&str]) -> Vec<RoomId> {
    names.iter().map(|name| room(name)).collect()
}

impl Default for World {
    fn default() -> World {
        World::new()
    }
}

impl World {
    /// An empty shard as [`config`] says, and nobody there.
    pub fn new() -> World {
        World::with(|_| ())
    }

    /// A world whose shard is configured otherwise.
    pub fn with(change: impl FnOnce(&mut ShardConfig)) -> World {
        let mut config = config();
        change(&mut config);
        World {
            now: START,
            shard: Shard::new(3, config, START),
            out: Outputs::default(),
            sockets: Sockets::default(),
            over: Vec::new(),
            detached: Vec::new(),
            said: Vec::new(),
            addresses: Vec::new(),
            sessions: Sessions::default(),
            draining: false,
            reported: HashMap::new(),
            ring: usize::MAX,
            auto_flush: Some(1000),
            read_size: usize::MAX,
            load: 0,
            stopped_accepting: false,
            checks: true,
            over_tls: std::env::var_os("HALLEY_TEST_TLS").is_some(),
            flush_at: None,
            next_tick: START.after(Duration::from_micros(TICK_MICROS)),
            writes: VecDeque::new(),
            readers: VecDeque::new(),
            taken: (0, 0, 0),
            read: 0,
        }
    }

    /// Connections that are here, by slot.
    pub fn ids(&self) -> Vec<ConnectionId> {
        self.sockets.iter().map(|socket| socket.id).collect()
    }

    /// A socket, as long as anybody may look at it.
    ///
    /// # Panics
    /// It was never here, has left for another shard, or was forgotten.
    pub fn socket(&self, id: ConnectionId) -> &Socket {
        let socket = self.sockets.get(id);
        socket
            .or_else(|| self.over.iter().find(|socket| socket.id == id))
            .expect("a connection of this world")
    }

    /// The same, to change how it behaves.
    ///
    /// # Panics
    /// As [`World::socket`].
    pub fn socket_mut(&mut self, id: ConnectionId) -> &mut Socket {
        let socket = self.sockets.get_mut(id);
        socket
            .or_else(|| self.over.iter_mut().find(|socket| socket.id == id))
            .expect("a connection of this world")
    }

    /// The client does not take the write under way.
    pub fn is_writing(&self, id: ConnectionId) -> bool {
        self.socket(id).write.is_some()
    }

    /// The driver does not read.
    pub fn is_held(&self, id: ConnectionId) -> bool {
        self.socket(id).held
    }

    /// The driver has let go of it.
    pub fn is_over(&self, id: ConnectionId) -> bool {
        self.over.iter().any(|socket| socket.id == id)
    }

    /// Throws away what nobody has looked at: what clients got, and the connections that are over. Gives the last of these.
    pub fn forget(&mut self) -> Option<ConnectionId> {
        for socket in self.sockets.iter_mut() {
            socket.inbox.clear();
            socket.runs.clear();
        }
        self.over.drain(..).next_back().map(|socket| socket.id)
    }

    /// Frames dropped for a reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.shard.stats().drops.get(&reason).copied().unwrap_or(0)
    }

    /// Connections closed for a reason.
    pub fn closes(&self, reason: CloseReason) -> u64 {
        self.shard.stats().closes.get(&reason).copied().unwrap_or(0)
    }

    /// Bad input of a kind.
    pub fn bad(&self, proto: &'static str, reason: &'static str) -> u64 {
        self.shard.stats().bad_input.get(&(proto, reason)).copied().unwrap_or(0)
    }
}
