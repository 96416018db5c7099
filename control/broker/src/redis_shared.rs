//! What the list and the streams have in common.

use std::time::Duration;

use grpc::envelope::Envelope;
use host::{backoff::Backoff, telemetry::OUTSIDERS};
use store::{Redis, RedisError};
use tokio::time::Instant;
use tracing::{Level, warn};

use super::{Delivery, PublishError};
use crate::metrics::BrokerMetrics;

/// Most bytes of one publish. Redis closes the connection at 1 GiB in one command, and while it reads one, all other
/// clients wait.
pub(super) const PUBLISH_BYTES_MAX: usize = 256 << 20;

/// How many dead letters are kept for an operator. Newer ones push older ones out.
const DEAD_LETTERS_MAX: i64 = 10_000;

/// First pause after a reader failed. It doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// Longest pause after a reader failed.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// After this time the same trouble is reported again.
const TELL: Duration = Duration::from_secs(30);

/// The failures of a reader in a row. They are reported once and then from time to time, and the pauses between
/// attempts grow.
pub(super) struct Trouble {
    backoff: Backoff,
    told: Option<(RedisError, Instant)>,
}

impl Default for Trouble {
    fn default() -> Self {
        Trouble { backoff: Backoff::new(PAUSE_MIN, PAUSE_MAX), told: None }
    }
}

impl Trouble {
    /// The reader reads again.
    pub(super) fn is_over(&mut self) {
        *self = Trouble::default();
    }

    /// Waits before the next attempt. Returns the error if the consumer has to hear of it.
    pub(super) async fn pause(&mut self, error: RedisError) -> Option<RedisError> {
        self.backoff.pause().await;
        let is_known =
            self.told.as_ref().is_some_and(|(told, at)| told.is_like(&error) && at.elapsed() < TELL);
        (!is_known).then(|| {
            self.told = Some((error.clone(), Instant::now()));
            error
        })
    }
}

/// Refuses a publish that can never fit, before anything is encoded.
pub(super) fn check_size(envelopes: &[Envelope], entries_max: usize) -> Result<(), PublishError> {
    let size: usize = envelopes.iter().map(Envelope::size).sum();
    if size > PUBLISH_BYTES_MAX || envelopes.len() > entries_max {
        return Err(PublishError::TooLarge { size, entries: envelopes.len() });
    }
    Ok(())
}

/// What an error of Redis means to logic.
pub(super) fn refused(error: RedisError) -> PublishError {
    match error {
        RedisError::Full(_) => PublishError::Full(error.to_string()),
        RedisError::Unknown(_) => PublishError::Unknown(error.to_string()),
        _ => PublishError::Unavailable(error.to_string()),
    }
}

/// Puts entries on the list `<topic>.dead`, the latest first.
pub(super) async fn put_dead_letters(redis: &Redis, topic: &str, dead: &[Delivery], metrics: &BrokerMetrics) {
    if dead.is_empty() {
        return;
    }
    let list = format!("{topic}.dead");
    let mut both = redis::pipe();
    let push = both.atomic().cmd("LPUSH").arg(&list);
    dead.iter().for_each(|delivery| {
        push.arg(&delivery.bytes[..]);
    });
    both.cmd("LTRIM").arg(&list).arg(0).arg(DEAD_LETTERS_MAX - 1);
    match redis.pipeline::<(i64, ())>(&both).await {
        // What is beyond the maximum is pushed out and lost.
        Ok((kept, ())) => {
            metrics.dead_letters_lost.inc_by((kept - DEAD_LETTERS_MAX).max(0) as u64);
        }
        Err(error) => {
            metrics.dead_letters_lost.inc_by(dead.len() as u64);
            OUTSIDERS.log(Level::WARN, || {
                warn!("{} dead letters are lost, they cannot be put on the list {list}: {error}", dead.len());
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn trouble_is_told_once_in_a_while_and_tried_again_ever_more_slowly() {
        let away = || RedisError::Away("no answer".to_owned());
        let mut trouble = Trouble::default();
        let started = Instant::now();
        assert_eq!(trouble.pause(away()).await, Some(away()));
        assert_eq!(started.elapsed(), PAUSE_MIN);
        let mut told = 0;
        while started.elapsed() < 3 * TELL {
            told += usize::from(trouble.pause(away()).await.is_some());
        }
        assert!((2..=3).contains(&told), "{told}");
        let before = Instant::now();
        let wrong = RedisError::WrongType("t".to_owned());
        assert_eq!(trouble.pause(wrong.clone()).await, Some(wrong), "another trouble");
        assert_eq!(before.elapsed(), PAUSE_MAX);
        trouble.is_over();
        assert_eq!(trouble.pause(away()).await, Some(away()));
    }
}
