//! Which comet holds which device.
//!
//! Every change is fenced: each login of a key has a [`Generation`], larger than those before it, and what an older
//! login does late (its end, its renewal, even its own arrival) never touches a newer one (goim's G9: of quick
//! reconnects one in a hundred ended up online but unreachable). A Go comet knows no generations; its end counts only
//! while the stored comet is itself.
//!
//! A session that nobody renews for the store's time to live (`redis.expire`) is gone.

use async_trait::async_trait;
use cluster::services::SessionRef;
use proto::ids::{Generation, Key, Mid, ServerId};

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod memory;
#[cfg(test)]
mod model;
#[cfg(feature = "redis")]
mod redis;

pub use memory::MemorySessions;
#[cfg(feature = "redis")]
pub use redis::RedisSessions;

/// A login to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSession {
    /// The user.
    pub mid: Mid,
    /// The device.
    pub key: Key,
    /// The comet that holds the connection.
    pub server: ServerId,
    /// The fence.
    pub generation: Generation,
}

/// Who holds a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The comet.
    pub server: ServerId,
    /// The fence of the login there; 0 when it was put back by a comet that knows none.
    pub generation: Generation,
}

/// A session as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSession {
    /// The user; none when a Go logic stored it and it was looked up by key, under which goim keeps no user.
    pub mid: Option<Mid>,
    /// The device.
    pub key: Key,
    /// The comet that holds the connection.
    pub server: ServerId,
    /// The fence; none when a Go logic stored it, or a comet that knows none put it back.
    pub generation: Option<Generation>,
}

/// What became of a [`NewSession`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is the key's session now.
    Stored {
        /// Whose it was before, however long ended its connection may be.
        previous: Option<Holder>,
    },
    /// A newer login was stored first: nothing changed, and this login's connection is to be closed as replaced.
    Superseded {
        /// The newer login.
        by: Holder,
    },
}

/// What became of a session's renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It is the stored session.
    Current,
    /// Another login holds the key: nothing changed.
    Superseded {
        /// The holder.
        by: Holder,
    },
}

/// The store is away. Retried by the caller, later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session store is unavailable: {0}")]
pub struct SessionsUnavailable(pub String);

/// The sessions of the cluster.
#[async_trait]
pub trait Sessions: Send + Sync + 'static {
    /// Time of the store's clock, µs since the epoch, from which generations are made: every logic of one store has the
    /// same, however its own clock is set. 0 while that clock is not known; then nothing can be put.
    fn now_us(&self) -> u64 {
        crate::clock::wall_us()
    }

    /// Changes whenever the store may have lost sessions. None while it was not reached yet.
    fn incarnation(&self) -> Option<u64>;

    /// Stores a login, unless a newer one of the same key is there. A key has one session, whatever its user was.
    async fn put(&self, session: NewSession) -> Result<Put, SessionsUnavailable>;

    /// Ends a session; true when it was the stored one: the same generation or, when none is given, the same comet.
    async fn end(&self, session: &SessionRef) -> Result<bool, SessionsUnavailable>;

    /// Starts the time to live of each session again, and says of each what became of it, in the order given. Puts a
    /// session back when the store lost it, or holds an older login.
    async fn renew(&self, sessions: &[SessionRef]) -> Result<Vec<Renewal>, SessionsUnavailable>;

    /// The session of each key, in the order asked.
    async fn sessions_of_keys(&self, keys: &[Key])
    -> Result<Vec<Option<StoredSession>>, SessionsUnavailable>;

    /// The comet of each key, in the order asked.
    async fn servers_of_keys(&self, keys: &[Key]) -> Result<Vec<Option<ServerId>>, SessionsUnavailable>;

    /// The sessions of each user, in the order asked, those of one in any order; none for who is offline.
    async fn sessions_of_mids(&self, mids: &[Mid]) -> Result<Vec<Vec<StoredSession>>, SessionsUnavailable>;
}
