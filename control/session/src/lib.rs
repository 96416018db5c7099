//! Which comet holds which device.
//!
//! Every login of a key has a [`Generation`] that is higher than those before it. Whatever an older login does late
//! (its end, its renewal, even its own arrival), it never touches a newer one. In goim it does: of quick reconnects one
//! in a hundred ended up online but unreachable (G9). A Go comet knows no generations; its end counts only if the
//! stored session is its own.
//!
//! Generations are times of the store's clock. If one lies ahead of that clock, the clock was set back since. A login
//! that comes now is newer than such a session, whatever the numbers say; and if two sessions are renewed, the one that
//! is not ahead is newer. So a device that comes back gets in.
//!
//! A session that nobody renews for the store's time to live (`redis.expire`) is gone.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

use std::time::Duration;

use async_trait::async_trait;
use contract::SessionRef;
use host::telemetry::LogLimit;
use proto::ids::{Generation, Key, Mid, ServerId};
use tracing::{Level, warn};

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod counts;
mod memory;
pub mod metrics;
#[cfg(test)]
mod model;
#[cfg(feature = "redis")]
mod redis;

#[cfg(feature = "redis")]
pub use self::redis::RedisSessions;
pub use memory::MemorySessions;

/// A login to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSession {
    /// The user.
    pub mid: Mid,
    /// The device.
    pub key: Key,
    /// The comet that holds the connection.
    pub server: ServerId,
    /// The generation of the login.
    pub generation: Generation,
}

/// Who holds a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The comet.
    pub server: ServerId,
    /// The generation of the login there; 0 if a comet that knows no generations put it back.
    pub generation: Generation,
}

/// A session as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSession {
    /// The user. None if a Go logic stored the session and it was looked up by key, since goim stores no user under a
    /// key.
    pub mid: Option<Mid>,
    /// The device.
    pub key: Key,
    /// The comet that holds the connection.
    pub server: ServerId,
    /// The generation. None if a Go logic stored the session, or a comet that knows no generations put it back.
    pub generation: Option<Generation>,
}

/// What became of a [`NewSession`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is now the session of its key.
    Stored {
        /// Who held the key before, even if that connection ended long ago.
        previous: Option<Holder>,
        /// The generation that it got: its own, or one more than that of the login before it, if that was not lower.
        generation: Generation,
    },
    /// A newer login was stored first. Nothing changed, and the connection of this login has to be closed as replaced.
    Superseded {
        /// The newer login.
        by: Holder,
    },
    /// The stored login is dated ahead of the store's clock, so nobody knows which one is newer. Nothing changed, and
    /// the client has to come again.
    Undecided {
        /// The stored login.
        by: Holder,
    },
}

/// If a generation lies further ahead of the store's clock than this, the clock was set back since. It is much more
/// than two logics disagree by, and less than what clocks are set by.
const AHEAD: Duration = Duration::from_secs(1);

/// Limits the lines about sessions that lie ahead of the clock.
static FROM_THE_FUTURE: LogLimit = LogLimit::new(1, Duration::from_secs(10));

/// Logs why a login that met such a session was treated as it was.
fn log_from_the_future(key: &Key, of: Generation, now_us: u64, what: &str) {
    let ahead = Duration::from_micros(u64::try_from(of.0).unwrap_or(0).saturating_sub(now_us));
    FROM_THE_FUTURE.log(Level::WARN, || {
        warn!(
            "the session of {key} began {ahead:.1?} ahead of the session store's clock, which must have been set back \
             since: {what}"
        );
    });
}

/// The new login took the key.
const TAKEN_OVER: &str = "the login that came now has its key";

/// The new login could not take it.
const UNDECIDED: &str = "a login that waited is not known to be newer, and has to come again";

/// What became of a session's renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It is the stored session.
    Current,
    /// Another login holds the key. Nothing changed.
    Superseded {
        /// The holder.
        by: Holder,
    },
}

/// The store did not do it, or did not say that it did. The caller may try again later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionsUnavailable {
    /// The store did not do it.
    #[error("the session store is unavailable: {0}")]
    Away(String),
    /// The store was silent during the call, which it may have carried out.
    #[error("the session store did not say whether it did it: {0}")]
    Unknown(String),
}

/// The sessions of the cluster.
#[async_trait]
pub trait Sessions: Send + Sync + 'static {
    /// Time of the store's clock, µs since the epoch. Generations are made from it, so all logics of one store use the
    /// same time, whatever their own clocks say. 0 while it is not known; then nothing can be put.
    fn now_us(&self) -> u64;

    /// A number that changes whenever the store may have lost sessions. None until the store was reached.
    fn incarnation(&self) -> Option<u64>;

    /// Stores a login, unless a newer one of the same key is there. A key has one session, whichever users it had. If
    /// two logics gave two logins the same generation, the second gets a higher one. But if both are of one user on one
    /// comet, they count as one login.
    async fn put(&self, session: NewSession) -> Result<Put, SessionsUnavailable>;

    /// Ends a session. True if it was the stored one: the same generation, or, if none is given, the same comet.
    async fn end(&self, session: &SessionRef) -> Result<bool, SessionsUnavailable>;

    /// Starts the time to live of each session again. Tells what became of each, in the order given. Puts a session
    /// back if the store has lost it or holds an older login.
    async fn renew(&self, sessions: &[SessionRef]) -> Result<Vec<Renewal>, SessionsUnavailable>;

    /// The session of each key, in the order asked.
    async fn sessions_of_keys(&self, keys: &[Key])
    -> Result<Vec<Option<StoredSession>>, SessionsUnavailable>;

    /// The comet of each key, in the order asked.
    async fn servers_of_keys(&self, keys: &[Key]) -> Result<Vec<Option<ServerId>>, SessionsUnavailable>;

    /// The sessions of each user, in the order asked; those of one user in any order. An offline user has none.
    async fn sessions_of_mids(&self, mids: &[Mid]) -> Result<Vec<Vec<StoredSession>>, SessionsUnavailable>;
}
