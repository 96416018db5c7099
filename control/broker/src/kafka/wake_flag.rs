//! Wakes a thread that waits.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

/// A flag that a thread can wait for. If it is set while nobody waits, the next wait returns at once.
///
/// librdkafka sets it while holding a lock of its own, so nothing else may be done under the lock in here.
#[derive(Default)]
pub(super) struct WakeFlag {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl WakeFlag {
    pub(super) fn set(&self) {
        *self.is_set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    /// Returns as soon as it is set, at the latest after `longest`.
    pub(super) fn wait(&self, longest: Duration) {
        let is_set = self.is_set.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(is_set, longest, |is_set| !*is_set);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}
