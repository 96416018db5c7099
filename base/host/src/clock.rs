//! The only place of this crate that reads a clock. Crates without a clock of their own use it too.

use std::time::{Instant, SystemTime};

/// The monotonic clock.
#[allow(clippy::disallowed_methods)] // the module that exists for it
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock, for what people and other machines read.
#[allow(clippy::disallowed_methods)] // the module that exists for it
pub fn wall() -> SystemTime {
    SystemTime::now()
}
