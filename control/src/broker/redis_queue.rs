//! What the list and the streams in Redis have in common.

use cluster::telemetry::OUTSIDERS;
use proto::envelope::Envelope;
use tracing::{Level, warn};

use super::PublishError;
use crate::redis::{Redis, RedisError};

/// Most bytes of one publish. Redis hangs up at 1 GiB in one command, and everybody waits while it reads.
pub(super) const PUBLISH_BYTES_MAX: usize = 256 << 20;

/// Unreadable entries kept for an operator to look at; older ones go.
const DEAD_LETTERS_MAX: isize = 10_000;

/// Refuses what never fits, before anything is encoded.
pub(super) fn check_size(envelopes: &[Envelope], entries_max: usize) -> Result<(), PublishError> {
    let size: usize = envelopes.iter().map(Envelope::size).sum();
    if size > PUBLISH_BYTES_MAX || envelopes.len() > entries_max {
        return Err(PublishError::TooLarge { size, entries: envelopes.len() });
    }
    Ok(())
}

/// What logic hears of an error of Redis. After a connection that broke nobody knows whether the entries are there.
pub(super) fn refused(error: RedisError) -> PublishError {
    match error {
        RedisError::Full(_) => PublishError::Full(error.to_string()),
        _ => PublishError::Unavailable(error.to_string()),
    }
}

/// Puts an entry that nobody can read on the list `<topic>.dead`, the latest first.
pub(super) async fn put_dead_letter(redis: &Redis, topic: &str, entry: &[u8]) {
    let list = format!("{topic}.dead");
    let mut both = redis::pipe();
    both.atomic().cmd("LPUSH").arg(&list).arg(entry).cmd("LTRIM").arg(&list).arg(0).arg(DEAD_LETTERS_MAX - 1);
    if let Err(error) = redis.pipeline::<()>(&both).await {
        OUTSIDERS.log(Level::WARN, || {
            let size = entry.len();
            warn!("an entry of {size} bytes that is no push is lost, it cannot be put on {list}: {error}");
        });
    }
}
