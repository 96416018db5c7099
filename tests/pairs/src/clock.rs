//! The one place that reads a clock.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// A moment: the time since the first one that was asked for in this process.
pub type At = Duration;

/// The present moment.
#[allow(clippy::disallowed_methods)] // the module that exists for it
pub fn now() -> At {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Seconds, for bounds and pauses.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Milliseconds, for bounds and pauses.
pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
