//! The one place of this crate that reads the wall clock, which only measures and numbers; every timer runs on tokio's monotonic one.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since the epoch; 0 when the clock stands before it.
#[expect(clippy::disallowed_methods, reason = "the module that exists for it")]
pub(crate) fn wall_us() -> u64 {
    if let Some(micros) = cluster::sim::wall_micros() {
        return micros;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
