//! What the rules and the front tell each other. Every mail is a value: nothing is shared but immutable bytes.
//!
//! A connection on its way from one shard to another is none of this: it has a descriptor, so drivers mail it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use contract::{ClientMessage, Session, Transport};
use proto::{
    close::CloseReason,
    encoded::Encoded,
    frame::Header,
    ids::{Generation, Key, Mid, RoomId},
    op::Op,
};
use seam::Time;

use super::{stats::Stats, wire::Wire};

/// Names one connection of this process, for ever: a slot that is used again has another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The shard that holds it.
    pub shard: u16,
    /// Its slot there.
    pub slot: u32,
    /// Which tenant of the slot it is.
    pub generation: u32,
}

/// Order of accepts in this process: later accepted connections have higher tickets, on whichever shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Front to shard.
#[derive(Debug)]
pub enum ToShard {
    /// Part of a dispatch; held back by credit.
    Push(Box<Push>),
    /// Logic's word on a login in this shard's lobby.
    Verdict(Box<Verdict>),
    /// Logic is about to be asked, later than the client was last looked for: the driver looks again, and what is still
    /// there is told by [`ToFront::LoginThere`].
    Look(ConnectionId),
    /// A login of one of this shard's keys was accepted after its client had left.
    Abandoned(Session),
    /// Close the connection of a key, if its generation is below `below` (none: whatever it is).
    Kick {
        /// The device key.
        key: Key,
        /// Only older generations are closed.
        below: Option<Generation>,
        /// What the client is told.
        reason: CloseReason,
        /// In these words; none: the reason's own.
        text: Option<Arc<str>>,
    },
    /// Logic's answer to a client message, for the sender.
    Reply {
        /// The sender.
        id: ConnectionId,
        /// Header of the message.
        header: Header,
        /// Body of the reply.
        body: Bytes,
    },
    /// People of these rooms on other shards and other comets.
    Elsewhere(Vec<(RoomId, u32)>),
    /// Tell the open sessions of some slots.
    Sessions {
        /// The first of these slots.
        from: u32,
    },
    /// Stop accepting and close everybody, spread over this time.
    Drain {
        /// Time over which the closes are spread.
        over: Duration,
    },
}

/// One push as a shard gets it: encoded once, for all shards and both wires.
#[derive(Clone, Debug)]
pub struct Push {
    /// Which of this shard's connections get it.
    pub to: PushTo,
    /// Checked against what a client accepts; not for rooms.
    pub filter: Op,
    /// The frame.
    pub encoded: Encoded,
    /// A client's own room message: that client's copy differs in the sequence number.
    pub origin: Option<(Key, Encoded)>,
    /// When logic accepted it; none where job does not say.
    pub accepted: Option<Time>,
    /// When the front handed it out.
    pub dispatched: Time,
}

/// Receivers of a [`Push`] on one shard.
#[derive(Clone, Debug)]
pub enum PushTo {
    /// These devices; they are this shard's.
    Keys(Vec<Key>),
    /// Members of a room.
    Room(RoomId),
    /// Everybody, at most this many a second; 0 = at once.
    All {
        /// Connections a second on this shard.
        speed: u32,
    },
}

/// The end of a login's stay in the lobby.
#[derive(Debug)]
pub struct Verdict {
    /// The connection in the lobby.
    pub id: ConnectionId,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// What becomes of a login.
#[derive(Debug)]
pub enum Outcome {
    /// The key is this shard's: open it here.
    Open(Session),
    /// The key is another shard's: take the connection off and hand it over.
    Move {
        /// The shard that owns the key.
        to: u16,
        /// The session it will have there.
        session: Session,
    },
    /// Close it.
    Refuse {
        /// Close reason.
        reason: CloseReason,
        /// Words for the client.
        text: String,
    },
}

/// Protocol state of a connection that changes shards: all of it but the descriptor, which only drivers know.
#[derive(Debug)]
pub struct Handover {
    /// Order of its accept.
    pub ticket: Ticket,
    /// When its login came.
    pub arrived: Time,
    /// Address of the client.
    pub peer: IpAddr,
    /// How the client came.
    pub transport: Transport,
    /// Header of the login, for the reply.
    pub header: Header,
    /// What logic gave it.
    pub session: Session,
    /// The client asked for operation 6 before a close.
    pub reasons: bool,
    /// Wire state, incomplete frame included.
    pub wire: Wire,
    /// Bytes that came after the login and were not parsed yet.
    pub carried: Carried,
}

/// Input that waits for a connection to go on.
#[derive(Debug, Default)]
pub struct Carried {
    /// Whole frames, out of a WebSocket message that was being read.
    pub frames: Vec<u8>,
    /// What came behind them, as it came from the socket.
    pub raw: Vec<u8>,
}

/// Shard to front.
#[derive(Debug)]
pub enum ToFront {
    /// A client wants to log in; it waits in the lobby for the verdict.
    Login(Box<Login>),
    /// A client left the lobby: no verdict is needed any more.
    LoginGone(ConnectionId),
    /// Its client is still in the lobby, as [`ToShard::Look`] asked.
    LoginThere(ConnectionId),
    /// Logic accepted a login whose client had left: the shard that owns the key says what becomes of the session.
    Abandoned(Session),
    /// A login became an open connection.
    Opened {
        /// The user.
        mid: Mid,
        /// The device key.
        key: Key,
        /// Fence.
        generation: Option<Generation>,
        /// Address of the client.
        peer: IpAddr,
    },
    /// An open connection ended.
    Ended {
        /// The user.
        mid: Mid,
        /// The device key.
        key: Key,
        /// Fence; none also where a newer login without one has the key.
        generation: Option<Generation>,
        /// Address of the client; `None` when the login was accepted but the client had left by then.
        peer: Option<IpAddr>,
        /// Why. When it is replaced, a newer login has the key: a logic without fences must not be told.
        reason: CloseReason,
    },
    /// A session is alive and due for renewal.
    Renew {
        /// The user.
        mid: Mid,
        /// The device key.
        key: Key,
        /// Fence.
        generation: Option<Generation>,
    },
    /// Open sessions, as [`ToShard::Sessions`] asked. Every end that was told before is not among them.
    Sessions {
        /// The sessions.
        sessions: Vec<OpenSession>,
        /// Slot to go on from; none: these were the last.
        next: Option<u32>,
    },
    /// A client message for logic.
    Message {
        /// The sender, for the reply.
        id: ConnectionId,
        /// The message.
        message: Box<ClientMessage>,
    },
    /// Members of rooms on this shard; 0 for a room that is gone.
    Rooms(Vec<(RoomId, u32)>),
    /// Counters of the shard, all since its start.
    Stats(Box<Stats>),
    /// The shard drains, and the last connection is gone. Told again when more have arrived since, and are gone.
    Drained {
        /// Connections that came from other shards so far: fewer than were sent, and some are still on their way.
        arrivals: u64,
    },
}

/// The session of an open connection.
#[derive(Debug)]
pub struct OpenSession {
    /// The user.
    pub mid: Mid,
    /// The device key.
    pub key: Key,
    /// Fence.
    pub generation: Option<Generation>,
}

/// A login as the lobby hands it out: logic needs no more of it.
#[derive(Debug)]
pub struct Login {
    /// The connection in the lobby.
    pub id: ConnectionId,
    /// How the client came.
    pub transport: Transport,
    /// Address of the client.
    pub peer: IpAddr,
    /// `Cookie` of the upgrade, as it came; empty on TCP.
    pub cookie: Box<[u8]>,
    /// Body of the login operation.
    pub token: Bytes,
    /// When the last of its bytes came, however late they were read.
    pub arrived: Time,
    /// When its client was last looked for.
    pub looked: Time,
    /// When the lobby gives up.
    pub deadline: Time,
}
