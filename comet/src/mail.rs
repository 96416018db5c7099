//! What travels through the mailboxes: mail of the rules and for them, and connections that change shards.
//!
//! The rules know no descriptor. So the driver of one shard takes a connection apart, and the driver of another puts it
//! together; the front only passes it on. On both ways it keeps its place among the mail of the rules.

use std::os::fd::OwnedFd;

use shard::mail;

/// Front to shard.
#[derive(Debug)]
pub enum ToShard {
    /// For the rules.
    Rules(mail::ToShard),
    /// For the driver: a connection that logged in on another shard comes to live here.
    Attach(Box<Attach>),
}

/// Shard to front.
#[derive(Debug)]
pub enum ToFront {
    /// Of the rules.
    Rules(mail::ToFront),
    /// Of the driver: a connection is on its way to the shard that owns its key.
    Moved {
        /// That shard.
        to: u16,
        /// The connection.
        attach: Box<Attach>,
    },
}

/// Everything of a connection that changes shards.
#[derive(Debug)]
pub struct Attach {
    /// What its driver needs.
    pub descriptor: Descriptor,
    /// What the rules need.
    pub state: mail::Handover,
}

/// A socket between two drivers.
#[derive(Debug)]
pub enum Descriptor {
    /// A real one, with no operation in flight.
    Os(OwnedFd),
    /// One of the simulator's.
    #[cfg(feature = "sim")]
    Simulated(crate::driver::sim::network::SocketId),
}

impl Descriptor {
    /// The real one.
    pub fn os(self) -> Option<OwnedFd> {
        match self {
            Descriptor::Os(fd) => Some(fd),
            #[cfg(feature = "sim")]
            Descriptor::Simulated(_) => None,
        }
    }
}

impl From<mail::ToShard> for ToShard {
    fn from(mail: mail::ToShard) -> ToShard {
        ToShard::Rules(mail)
    }
}

impl From<mail::ToFront> for ToFront {
    fn from(mail: mail::ToFront) -> ToFront {
        ToFront::Rules(mail)
    }
}
