//! The one place of this program that reads a clock: for the people who wait. Nothing simulated sees it.

use std::time::Instant;

/// The monotonic clock.
#[allow(clippy::disallowed_methods)] // the module that exists for it
pub fn now() -> Instant {
    Instant::now()
}
