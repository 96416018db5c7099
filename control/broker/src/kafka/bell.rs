//! Wakes a thread that waits.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

/// A flag to wait for. Rung while nobody waits, the next wait returns at once.
///
/// librdkafka rings it holding a lock of its own, so nothing else is ever done under the lock in here.
#[derive(Default)]
pub(super) struct Bell {
    is_rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        *self.is_rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    /// Returns when it is rung, at the latest after `longest`.
    pub(super) fn wait(&self, longest: Duration) {
        let is_rung = self.is_rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(is_rung, longest, |is_rung| !*is_rung);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}
