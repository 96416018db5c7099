//! Takes streams, renews them, and gives surplus back.

use std::{sync::Arc, time::Duration};

use store::RedisError;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tracing::warn;

use super::{scripts::Member, share::Share};
use crate::metrics::BrokerMetrics;

/// How long a stream stays with an owner that says nothing.
pub(super) const LEASE: Duration = Duration::from_secs(5);

/// How often a lease is renewed. As long may it take until a job that came or left is noticed.
const RENEW: Duration = Duration::from_millis(500);

/// How often while streams change hands. As long may it take until one that was given back has a new owner.
const RENEW_SOON: Duration = Duration::from_millis(50);

/// How long streams change hands after the share of this member changed.
const SETTLING: Duration = Duration::from_secs(2);

/// Taken off the end of a lease here, for what the clocks differ in a lease.
const LEASE_MARGIN: Duration = Duration::from_millis(500);

/// A member of a group and its share.
pub(super) struct Membership {
    pub(super) member: Member,
    pub(super) share: Share,
    /// Held while acknowledgements are stored, so that an older one is never stored behind a newer one.
    storing: Mutex<()>,
}

impl Membership {
    pub(super) fn new(member: Member) -> Self {
        let share = Share::new(&member.topic);
        Membership { member, share, storing: Mutex::new(()) }
    }

    /// Renews for ever.
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
                // An outage is told by the connection, and at every batch that cannot be read.
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

    /// The answer: how many streams are this member's share. What cannot be stored or given back costs no lease.
    async fn renew(&self) -> Result<usize, RedisError> {
        let stored = self.store().await;
        let done = self.share.take_done();
        let released = if done.is_empty() { Ok(()) } else { self.member.release(done).await };
        // Counted from before Redis did it.
        let until = Instant::now() + LEASE - LEASE_MARGIN;
        let held = self.member.hold(LEASE, &self.share.todo(LEASE)).await?;
        let share = held.share;
        self.share.update(held, until);
        stored.and(released)?;
        Ok(share)
    }

    /// Stores what was acknowledged. What fails is tried again with the next renewal; a stream that fails leaves the
    /// others alone.
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
