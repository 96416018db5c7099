//! Which comet holds which device.
//!
//! Every change is fenced: each login of a key has a [`Generation`], larger than those before it, and what an older
//! login does late (its end, its renewal, even its own arrival) never touches a newer one (goim's G9: of quick
//! reconnects one in a hundred ended up online but unreachable). A Go comet knows no generations; its end counts only
//! while the stored comet is itself.
//!
//! Generations are times of the store's clock, so one that lies ahead of it tells of a clock that was set back since. Against
//! that one a login that comes now is the newer, whatever the numbers say, and of two sessions that are renewed the one
//! that is not from the future: a device that comes back gets in.
//!
//! A session that nobody renews for the store's time to live (`redis.expire`) is gone.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic when nobody takes it, or wait for ever

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
        /// The fence that it has: its own, or, where the login before it had that or a later one, one more than that.
        generation: Generation,
    },
    /// A newer login was stored first: nothing changed, and this login's connection is to be closed as replaced.
    Superseded {
        /// The newer login.
        by: Holder,
    },
    /// The stored login is dated ahead of the store's clock, so that nobody knows which is newer: nothing changed, and the
    /// client is to come again.
    Undecided {
        /// The stored login.
        by: Holder,
    },
}

/// How far ahead of the store's clock a generation may lie before the clock must have been set back since: much more than
/// two logics disagree by, and less than a clock is set by.
const AHEAD: Duration = Duration::from_secs(1);

/// Sessions from the future that logins met.
static FROM_THE_FUTURE: LogLimit = LogLimit::new(1, Duration::from_secs(10));

/// Says why a login was met as it was.
fn log_from_the_future(key: &Key, of: Generation, now_us: u64, what: &str) {
    let ahead = Duration::from_micros(u64::try_from(of.0).unwrap_or(0).saturating_sub(now_us));
    FROM_THE_FUTURE.log(Level::WARN, || {
        warn!(
            "the session of {key} began {ahead:.1?} ahead of the session store's clock, which must have been set back \
             since: {what}"
        );
    });
}

/// A newcomer took the key.
const TAKEN_OVER: &str = "the login that came now has its key";

/// It could not.
const UNDECIDED: &str = "a login that waited is not known to be newer, and has to come again";

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

/// The store did not do it, or did not say so. Retried by the caller, later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionsUnavailable {
    /// It did not.
    #[error("the session store is unavailable: {0}")]
    Away(String),
    /// It was silent under the call, which it may have carried out.
    #[error("the session store did not say whether it did it: {0}")]
    Unknown(String),
}

/// The sessions of the cluster.
#[async_trait]
pub trait Sessions: Send + Sync + 'static {
    /// Time of the store's clock, µs since the epoch, from which generations are made: every logic of one store has the
    /// same, however its own clock is set. 0 while that clock is not known; then nothing can be put.
    fn now_us(&self) -> u64;

    /// Changes whenever the store may have lost sessions. None while it was not reached yet.
    fn incarnation(&self) -> Option<u64>;

    /// Stores a login, unless a newer one of the same key is there. A key has one session, whatever its user was. Two
    /// logins of one generation, which two logics may make, get two; but for the same user on the same comet, where they are
    /// one row.
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
