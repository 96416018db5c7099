//! The clocks.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A monotonic moment: microseconds since the process first asked for the time. Shards and front count from the same
/// moment, so their times can be compared. The simulator makes its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

static ORIGIN: OnceLock<Instant> = OnceLock::new();

impl Time {
    /// Reads the monotonic clock.
    #[allow(clippy::disallowed_methods)] // the module that exists for it
    pub fn now() -> Time {
        if let Some(micros) = crate::simulated_micros() {
            return Time(micros);
        }
        Time(Instant::now().duration_since(*ORIGIN.get_or_init(Instant::now)).as_micros() as u64)
    }

    /// The moment `micros` µs after the origin.
    pub const fn from_micros(micros: u64) -> Time {
        Time(micros)
    }

    /// Microseconds since the origin.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero if that lies ahead.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The moment earlier by `age`; the origin if that would lie before it.
    pub const fn before(self, age: Duration) -> Time {
        Time(self.0.saturating_sub(age.as_micros() as u64))
    }

    /// The moment later by `delay`.
    pub const fn after(self, delay: Duration) -> Time {
        Time(self.0.saturating_add(delay.as_micros() as u64))
    }
}

/// Wall clock in microseconds since 1970, for latencies that cross processes.
#[allow(clippy::disallowed_methods)] // the module that exists for it
pub fn wall_micros() -> u64 {
    if let Some(micros) = crate::simulated_wall_micros() {
        return micros;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
