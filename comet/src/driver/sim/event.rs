//! What happens on a simulated shard, for whoever watches.

use seam::Time;
use shard::{
    Action, Flow,
    mail::{self, ConnectionId, Handover},
};

use super::network::SocketId;

/// What happens on a shard, in order: first what it is told, then what it says and does about it.
pub enum Event<'a> {
    /// A socket was accepted.
    Accepted(ConnectionId, SocketId),
    /// A socket was refused, and is closed.
    Refused(SocketId),
    /// Bytes are handed to the shard.
    Received(ConnectionId, SocketId, &'a [u8]),
    /// One frame of the connection was read, in this event or later.
    Read(SocketId),
    /// The client of a logged-in connection has shown that it lives: by a frame, or on WebSocket by a ping.
    Heard(SocketId),
    /// A step of a TLS handshake is taken, with all that was handed to the shard.
    Handshake(SocketId),
    /// Whether the shard wants more than it was handed.
    Flow(SocketId, Flow),
    /// Reading ended; true when the connection broke.
    InputEnded(ConnectionId, SocketId, bool),
    /// A held connection was found hung up.
    HungUp(ConnectionId, SocketId),
    /// A login is older than clients wait.
    TooLate(SocketId),
    /// A write ended; true when all of its frames were taken.
    Sent(ConnectionId, SocketId, bool, u32),
    /// Mail of the front is handed to the shard. With the socket of the connection it names, when there is one.
    Mail(&'a mail::ToShard, Option<SocketId>),
    /// All has been said about it.
    MailDone,
    /// A connection of another shard is handed to this one.
    Attaching(SocketId, &'a Handover),
    /// It is here.
    Attached(ConnectionId, SocketId),
    /// Its client had left.
    LeftOnTheWay(SocketId, &'a Handover),
    /// It is on its way to another shard.
    Moved(SocketId, u16),
    /// Time passed.
    Ticked,
    /// The shard says something to the front.
    Said(&'a mail::ToFront),
    /// The shard wants something done with a socket.
    Act(&'a Action, Option<SocketId>),
}

/// Sees everything that happens on the shards.
pub trait Watch {
    /// It has happened, or is about to, at this moment on this shard.
    fn event(&mut self, now: Time, shard: u16, event: Event<'_>);
}
