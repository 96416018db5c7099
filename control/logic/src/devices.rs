//! Devices by name: logic tells who is online, since when and where, and kicks them.

use std::{collections::HashSet, sync::Arc, time::Duration};

use contract::CometApi;
use host::awake;
use proto::{
    close::CloseReason,
    ids::{Generation, Key, Mid, ServerId},
};
use session::{SessionsUnavailable, StoredSession};
use tokio::task::yield_now;

use super::{Logic, Offline, push::split};

/// Tells how to call a comet; none if that is impossible. It is called for every kick, so it keeps what is expensive to
/// make.
pub type Reach = Arc<dyn Fn(&ServerId) -> Option<Arc<dyn CometApi>> + Send + Sync>;

/// Longest time that a comet may take for one kick. It takes long only if a shard is stuck or the comet is far away.
const KICK_MAX: Duration = Duration::from_secs(5);

/// After so many kicks other tasks of the thread run.
const KICKS_IN_A_ROW: usize = 256;

/// Why not everybody was kicked. Whoever could be reached was kicked. Asking again is harmless, except for those who
/// have logged in again meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KickFailure {
    /// Nobody was kicked.
    #[error(transparent)]
    Sessions(#[from] SessionsUnavailable),
    /// The devices of this comet may still be connected.
    #[error("comet {server} does not take the kick: {why}")]
    Comet {
        /// The first comet that failed.
        server: ServerId,
        /// What was wrong.
        why: String,
    },
}

/// Seconds since the epoch at which a session began. Its generation tells, since that is the time of its login.
pub(super) fn since(session: &StoredSession) -> Option<i64> {
    session.generation.map(|generation| generation.0 / 1_000_000)
}

impl Logic {
    /// The session of each key, in the order asked.
    ///
    /// # Errors
    /// The store is away.
    pub async fn sessions_of_keys(
        &self,
        keys: &[Key],
    ) -> Result<Vec<Option<StoredSession>>, SessionsUnavailable> {
        self.sessions.sessions_of_keys(keys).await
    }

    /// The sessions of each user, in the order asked; those of one user by their keys.
    ///
    /// # Errors
    /// The store is away.
    pub async fn sessions_of_mids(
        &self,
        mids: &[Mid],
    ) -> Result<Vec<Vec<StoredSession>>, SessionsUnavailable> {
        let mut found = self.sessions.sessions_of_mids(mids).await?;
        found.iter_mut().for_each(|of_one| of_one.sort_unstable_by(|a, b| a.key.cmp(&b.key)));
        Ok(found)
    }

    /// Closes the connections of these devices as kicked, with `text` for the client (none: the reason's own words).
    /// A login that comes later stays.
    ///
    /// # Errors
    /// [`KickFailure`]; some may be closed.
    pub async fn kick_keys(&self, keys: Vec<Key>, text: Option<Arc<str>>) -> Result<Offline, KickFailure> {
        let sessions = self.sessions_of_keys(&keys).await?;
        let (online, offline) = split(keys.into_iter().zip(sessions));
        self.kick(online.into_iter().map(|(_, session)| session), text).await?;
        Ok(Offline { keys: offline, ..Offline::default() })
    }

    /// The same for all devices of these users.
    ///
    /// # Errors
    /// [`KickFailure`]; some may be closed.
    pub async fn kick_mids(&self, mids: Vec<Mid>, text: Option<Arc<str>>) -> Result<Offline, KickFailure> {
        let sessions = self.sessions_of_mids(&mids).await?;
        let sessions = sessions.into_iter().map(|sessions| Some(sessions).filter(|s| !s.is_empty()));
        let (online, offline) = split(mids.into_iter().zip(sessions));
        self.kick(online.into_iter().flat_map(|(_, sessions)| sessions), text).await?;
        Ok(Offline { mids: offline, ..Offline::default() })
    }

    async fn kick(
        &self,
        sessions: impl Iterator<Item = StoredSession> + Send,
        text: Option<Arc<str>>,
    ) -> Result<(), KickFailure> {
        let (mut failure, mut failed) = (None, HashSet::new());
        for (n, session) in sessions.enumerate() {
            // Each further device of a comet that failed once would wait just as long.
            if failed.contains(&session.server) {
                continue;
            }
            if n % KICKS_IN_A_ROW == KICKS_IN_A_ROW - 1 {
                yield_now().await;
            }
            let server = session.server.clone();
            if let Err(why) = self.kick_one(session, text.clone()).await {
                failed.insert(server.clone());
                failure.get_or_insert(KickFailure::Comet { server, why });
            }
        }
        failure.map_or(Ok(()), Err)
    }

    async fn kick_one(&self, session: StoredSession, text: Option<Arc<str>>) -> Result<(), String> {
        let comet = (self.reach)(&session.server).ok_or("there is no way to it")?;
        // This login and those before it. A login that came since was not meant.
        let below = session.generation.map(|generation| Generation(generation.0.saturating_add(1)));
        match awake::timeout(KICK_MAX, comet.kick(session.key, below, CloseReason::Kicked, text)).await {
            Ok(kicked) => kicked.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", KICK_MAX.as_secs())),
        }
    }
}
