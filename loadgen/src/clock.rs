//! The one clock: nanoseconds of the monotonic clock since this process started.
//!
//! Planned send times travel inside the messages in this unit, so they mean something only to the
//! process that wrote them; the run id of a message keeps other processes' times out.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A copy of the process's clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: Instant,
}

impl Clock {
    /// Starts counting at zero.
    #[allow(clippy::disallowed_methods, reason = "this file is where time comes from")]
    pub fn start() -> Self {
        Self { epoch: Instant::now() }
    }

    /// Nanoseconds since [`Clock::start`].
    pub fn now_ns(&self) -> u64 {
        ns(self.epoch.elapsed())
    }
}

/// Wall clock time since the start of 1970, UTC.
#[allow(clippy::disallowed_methods, reason = "this file is where time comes from")]
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A duration in nanoseconds; more than 584 years count as 584 years.
pub fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
