//! The one place of the tests of whole programs that reads a clock, and waiting with an end.

use std::{
    thread,
    time::{Duration, Instant, SystemTime},
};

/// Longest time anything may take that is not itself about time. Far above what it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A moment from which time is counted.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Now.
    #[allow(clippy::disallowed_methods)] // the module that exists for it
    pub fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    /// How long ago it was.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// What is left of `within`, `None` when it is over.
    pub fn left(self, within: Duration) -> Option<Duration> {
        within.checked_sub(self.elapsed()).filter(|left| !left.is_zero())
    }
}

/// Seconds since 1970.
///
/// # Panics
/// The clock shows less.
#[allow(clippy::disallowed_methods)] // the module that exists for it
pub fn epoch_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Asks again and again until `probe` gives something, and fails the test when it does not in [`PATIENCE`].
///
/// # Panics
/// It does not.
#[track_caller]
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, probe)
}

/// The same with a time of one's own.
///
/// # Panics
/// It does not in this time.
#[track_caller]
pub fn within<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Stopwatch::start();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
