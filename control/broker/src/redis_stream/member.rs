//! Takes streams, renews their leases, and gives back those beyond the share.

use std::{sync::Arc, time::Duration};

use store::RedisError;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tracing::warn;

use super::{scripts::Member, share::Share};
use crate::metrics::BrokerMetrics;

/// How long a stream stays with an owner that does not renew its lease.
pub(super) const LEASE: Duration = Duration::from_secs(5);

/// How often a member renews its leases. It may take this long until the others notice a job that came or left.
const RENEW: Duration = Duration::from_millis(500);

/// How often it renews while streams change hands. It may take this long until a stream that was given back has a new
/// owner.
const RENEW_SOON: Duration = Duration::from_millis(50);

/// How long a member renews that often after its share has changed.
const SETTLING: Duration = Duration::from_secs(2);

/// The member ends a lease earlier by this much, because during a lease its clock and Redis' clock may drift apart.
const LEASE_MARGIN: Duration = Duration::from_millis(500);

/// A member of a group and its share.
pub(super) struct Membership {
    pub(super) member: Member,
    pub(super) share: Share,
    /// Held while acknowledgements are stored, so that an older one is never stored after a newer one.
    storing: Mutex<()>,
}

impl Membership {
    pub(super) fn new(member: Member) -> Self {
        let share = Share::new(&member.topic);
        Membership { member, share, storing: Mutex::new(()) }
    }

    /// Renews the leases for ever.
    pub(super) async fn keep(self: Arc<Self>, metrics: BrokerMetrics) {
        let mut told: Option<RedisError> = None;
        let (mut share, mut settled) = (0, Instant::now());
        loop {
            match self.renew().await {
                Ok(now) => {
                    told = None;
                    if std::mem::replace(&mut share, now) != now {
                        settled = Instant::now() + SETTLING;
                    }
                }
                // The connection logs an outage, and so does every failed read.
                Err(RedisError::Away(_) | RedisError::Unknown(_)) => {}
                Err(error) => {
                    if told.as_ref() != Some(&error) {
                        warn!(
                            "the streams of {} cannot be renewed, trying again: {error}",
                            self.member.topic.name
                        );
                        told = Some(error);
                    }
                }
            }
            metrics.set_entries(self.share.len());
            let pause = if Instant::now() < settled { RENEW_SOON } else { RENEW };
            let _ = timeout(pause, self.share.hurry.notified()).await;
        }
    }

    /// Renews, and returns how many streams are this member's share. If storing or giving back fails, the leases are
    /// renewed all the same.
    async fn renew(&self) -> Result<usize, RedisError> {
        let stored = self.store().await;
        let done = self.share.take_done();
        let released = if done.is_empty() { Ok(()) } else { self.member.release(done).await };
        // Counted from before Redis renews, so that our lease never ends later than in Redis.
        let until = Instant::now() + LEASE - LEASE_MARGIN;
        let held = self.member.hold(LEASE, &self.share.todo(LEASE)).await?;
        let share = held.share;
        self.share.update(held, until);
        stored.and(released)?;
        Ok(share)
    }

    /// Stores what was acknowledged. The next renewal tries again what fails. A failure in one stream does not stop the
    /// others.
    pub(super) async fn store(&self) -> Result<(), RedisError> {
        let _storing = self.storing.lock().await;
        let mut result = Ok(());
        for to_store in self.share.to_store() {
            match self.member.acknowledge(to_store.stream, &to_store.incarnation, to_store.id).await {
                Ok(true) => self.share.has_stored(&to_store),
                Ok(false) => self.share.hurry.notify_one(),
                Err(error @ (RedisError::Away(_) | RedisError::Unknown(_))) => return Err(error),
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Gives everything back.
    pub(super) async fn leave(&self) -> Result<(), RedisError> {
        self.store().await?;
        self.member.leave().await
    }
}
