//! What the rules and the front tell each other. Every mail is a value, and the two share nothing but immutable bytes.
//!
//! A connection that moves between shards is not among these mails. It has a descriptor, so the drivers mail it.

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
use tls::Tls;

use super::{port::Acceptors, stats::Stats, wire::Wire};

/// Names one connection of this process for ever. If a slot is used again, the generation differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The shard that holds it.
    pub shard: u16,
    /// Its slot there.
    pub slot: u32,
    /// Tells this tenant of the slot from earlier and later ones.
    pub generation: u32,
}

/// A place in the order of accepts in this process. A connection that was accepted later has a higher ticket, on
/// whichever shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// From the front to a shard.
#[derive(Debug)]
pub enum ToShard {
    /// Part of a dispatch. The sender waits while only reserved places of the mailbox are free.
    Push(Box<Push>),
    /// The verdict on a login in this shard's lobby.
    Verdict(Box<Verdict>),
    /// logic is about to be asked, and the last look for the client was too long ago. The driver looks again, and if
    /// the client is still there, the shard says so by [`ToFront::LoginThere`].
    Look(ConnectionId),
    /// logic accepted a login of one of this shard's keys after its client had left.
    Abandoned(Session),
    /// Close the connection of a key if its generation is below `below`, or whatever it is if there is none.
    Kick {
        /// Only sessions with a lower generation are closed.
        key: Key,
        /// Only older generations are closed.
        below: Option<Generation>,
        /// What the client is told.
        reason: CloseReason,
        /// The words for the client; none: those of the reason.
        text: Option<Arc<str>>,
    },
    /// logic's answer to a client message, for the sender.
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
    /// Send back the open sessions of some slots.
    Sessions {
        /// The first of these slots.
        from: u32,
    },
    /// The TLS of connections from now on: the certificates have changed.
    Acceptors(Box<Acceptors>),
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
    /// Clients get the push only if they accept this operation. Not checked for rooms.
    pub filter: Op,
    /// The frame.
    pub encoded: Encoded,
    /// Set if a client sent this message to its room: its key, and its own copy, which differs in the sequence number.
    pub origin: Option<(Key, Encoded)>,
    /// When logic accepted it; none if job does not say.
    pub accepted: Option<Time>,
    /// When the front handed it out.
    pub dispatched: Time,
}

/// Receivers of a [`Push`] on one shard.
#[derive(Clone, Debug)]
pub enum PushTo {
    /// These devices. This shard owns all of them.
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
    /// This shard owns the key: open the connection here.
    Open(Session),
    /// Another shard owns the key: take the connection off and hand it over.
    Move {
        /// The shard that owns the key.
        to: u16,
        /// The session that it will have there.
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

/// The state of a connection that moves to another shard: everything but the descriptor, which only drivers know.
#[derive(Debug)]
pub struct Handover {
    /// Its place in the order of accepts.
    pub ticket: Ticket,
    /// When its login came.
    pub arrived: Time,
    /// Address of the client.
    pub peer: IpAddr,
    /// How the client came.
    pub transport: Transport,
    /// Header of the login, for the reply.
    pub header: Header,
    /// What logic said about the login.
    pub session: Session,
    /// The client asked for operation 6 before a close.
    pub reasons: bool,
    /// State of the wire, with a frame that has begun to arrive.
    pub wire: Wire,
    /// TLS, with a record that has begun to arrive.
    pub tls: Option<Tls>,
    /// Bytes that came after the login and were not parsed yet, without TLS.
    pub carried: Carried,
}

/// Input that waits until a connection goes on.
#[derive(Debug, Default)]
pub struct Carried {
    /// Whole frames, from a WebSocket message of which the first frames were already read.
    pub frames: Vec<u8>,
    /// The bytes behind them, as they came from the socket.
    pub raw: Vec<u8>,
}

/// From a shard to the front.
#[derive(Debug)]
pub enum ToFront {
    /// A client wants to log in; it waits in the lobby for the verdict.
    Login(Box<Login>),
    /// A client left the lobby, so its login needs no verdict any more.
    LoginGone(ConnectionId),
    /// The client is still in the lobby. This answers [`ToShard::Look`].
    LoginThere(ConnectionId),
    /// logic accepted a login whose client had left. The shard that owns the key decides what becomes of the session.
    Abandoned(Session),
    /// A login became an open connection.
    Opened {
        /// The user.
        mid: Mid,
        /// The device key.
        key: Key,
        /// Its generation.
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
        /// Its generation. None also if the newer login that has the key has none, or the same.
        generation: Option<Generation>,
        /// Address of the client; `None` if logic accepted the login only after the client had left.
        peer: Option<IpAddr>,
        /// Why it ended. If it was replaced, a newer login has the key, and a logic without generations must not hear
        /// of the end.
        reason: CloseReason,
    },
    /// A session is alive and due for renewal.
    Renew {
        /// The user.
        mid: Mid,
        /// The device key.
        key: Key,
        /// Its generation.
        generation: Option<Generation>,
    },
    /// Open sessions. This answers [`ToShard::Sessions`]. Sessions whose end was mailed before are not among them.
    Sessions {
        /// The sessions.
        sessions: Vec<OpenSession>,
        /// The slot to go on from; none if these were the last.
        next: Option<u32>,
    },
    /// A client message for logic.
    Message {
        /// The sender, for the reply.
        id: ConnectionId,
        /// The message.
        message: Box<ClientMessage>,
    },
    /// How many members rooms have on this shard; 0 for a room that is gone.
    Rooms(Vec<(RoomId, u32)>),
    /// Counters of the shard since its start.
    Stats(Box<Stats>),
    /// The shard drains, and its last connection is gone. It says so again if more arrive after that and are gone.
    Drained {
        /// How many connections have come from other shards so far. If the front has sent more, some are still on their
        /// way.
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
    /// Its generation.
    pub generation: Option<Generation>,
}

/// A login as the lobby hands it out. logic needs no more than this.
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
    /// When the last of its bytes came, even if they were read later.
    pub arrived: Time,
    /// When the driver last looked for its client.
    pub looked: Time,
    /// When the lobby gives up.
    pub deadline: Time,
}
