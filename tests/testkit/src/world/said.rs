//! What the front is told.

use std::net::IpAddr;

use proto::{
    close::CloseReason,
    frame::Header,
    ids::{Key, RoomId},
};
use shard::mail::{ConnectionId, ToFront};

use super::World;

/// Mail to the front, as far as tests compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A client wants to log in.
    Login {
        /// The connection in the lobby.
        id: ConnectionId,
        /// Of the upgrade.
        cookie: String,
        /// Body of the login.
        token: Vec<u8>,
    },
    /// A client left the lobby.
    LoginGone(ConnectionId),
    /// A client is still in the lobby.
    LoginThere(ConnectionId),
    /// The session of a client that has left belongs to another shard.
    Abandoned(Key),
    /// A login became an open connection.
    Opened(Key),
    /// An open connection ended, or a session of this shard whose client has left.
    Ended {
        /// Its key.
        key: Key,
        /// It has a generation.
        fenced: bool,
        /// A newer login has the key.
        replaced: bool,
        /// It was open.
        known: bool,
    },
    /// A session is due for renewal.
    Renew(Key),
    /// Open sessions, as asked.
    Sessions {
        /// Their keys.
        keys: Vec<Key>,
        /// Slot to go on from.
        next: Option<u32>,
    },
    /// A client message for logic.
    Message {
        /// The sender.
        id: ConnectionId,
        /// As it came.
        header: Header,
        /// The sender's first room.
        room: Option<RoomId>,
        /// As it came.
        body: Vec<u8>,
    },
    /// The drain is over.
    Drained,
}

/// How many sessions logic granted, and what has become of them.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// Verdicts to let somebody in, and sessions that came from elsewhere.
    pub(super) granted: u64,
    /// Logins that became an open connection.
    pub(super) opened: u64,
    /// Open connections that ended.
    pub(super) ended: u64,
    /// Sessions whose client had left before they became a connection.
    pub(super) abandoned: u64,
    /// Left for another shard.
    pub(super) moved: u64,
    /// Ends of a drain.
    pub(super) drained: u64,
}

impl World {
    /// What the front was told since the last look, counters and rooms left out.
    pub fn said(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.said)
    }

    /// The addresses of clients that the front was told since the last look: with each login, with each opened connection,
    /// and with its end.
    pub fn addresses(&mut self) -> Vec<IpAddr> {
        std::mem::take(&mut self.addresses)
    }

    /// Takes one mail as the front does; counters and rooms are not for the tests to compare.
    pub(super) fn note(&mut self, mail: ToFront) {
        let said = match mail {
            ToFront::Login(login) => {
                self.addresses.push(login.peer);
                let cookie = String::from_utf8_lossy(&login.cookie).into_owned();
                Said::Login { id: login.id, cookie, token: login.token.to_vec() }
            }
            ToFront::LoginGone(id) => Said::LoginGone(id),
            ToFront::LoginThere(id) => Said::LoginThere(id),
            ToFront::Abandoned(session) => {
                self.sessions.abandoned += 1;
                Said::Abandoned(session.key)
            }
            ToFront::Opened { key, peer, .. } => {
                self.addresses.push(peer);
                self.sessions.opened += 1;
                Said::Opened(key)
            }
            ToFront::Ended { key, generation, reason, peer, .. } => {
                self.addresses.extend(peer);
                match peer {
                    Some(_) => self.sessions.ended += 1,
                    None => self.sessions.abandoned += 1,
                }
                let replaced = reason == CloseReason::Replaced;
                Said::Ended { key, fenced: generation.is_some(), replaced, known: peer.is_some() }
            }
            ToFront::Renew { key, .. } => Said::Renew(key),
            ToFront::Sessions { sessions, next } => {
                Said::Sessions { keys: sessions.into_iter().map(|session| session.key).collect(), next }
            }
            ToFront::Message { id, message } => {
                let (header, room, body) = (message.header, message.room, message.body.to_vec());
                Said::Message { id, header, room, body }
            }
            ToFront::Rooms(counts) => {
                assert!(!counts.is_empty() && counts.len() <= 1024);
                self.reported.extend(counts);
                return;
            }
            ToFront::Stats(stats) => {
                assert!(stats.bytes_written <= self.shard.stats().bytes_written);
                return;
            }
            ToFront::Drained { .. } => {
                self.sessions.drained += 1;
                Said::Drained
            }
        };
        self.said.push(said);
    }
}
