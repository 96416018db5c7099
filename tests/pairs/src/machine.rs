//! Whether the machine itself stood still: on one that is overloaded every bound is broken sooner or later.

use std::{
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use crate::clock::{At, ms, now};

/// Stalls that are noted.
const NOTED: Duration = ms(500);

static STALLS: Mutex<Vec<(At, Duration)>> = Mutex::new(Vec::new());

/// Watches from now on whether a thread that wants to run does.
pub fn watch() {
    static WATCHED: OnceLock<()> = OnceLock::new();
    WATCHED.get_or_init(|| {
        thread::spawn(|| {
            loop {
                let before = now();
                thread::sleep(ms(20));
                let late = now() - before;
                if late > NOTED {
                    STALLS.lock().unwrap_or_else(PoisonError::into_inner).push((now(), late));
                }
            }
        });
    });
}

/// The longest time since then in which nothing ran; none worth noting.
pub fn stalled_since(then: At) -> Option<Duration> {
    let stalls = STALLS.lock().unwrap_or_else(PoisonError::into_inner);
    stalls.iter().filter(|(at, _)| *at >= then).map(|(_, late)| *late).max()
}
