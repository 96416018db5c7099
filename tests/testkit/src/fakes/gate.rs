//! When and how calls of one kind are answered.

use std::{sync::Mutex, time::Duration};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::lock;

/// Calls of one kind pass it: at once and well, unless it was told otherwise. `E` is the error of the call.
pub struct Gate<E> {
    /// Each lets one call pass.
    permits: Semaphore,
    takes: Mutex<Duration>,
    failing: Mutex<Failing<E>>,
    calls: Mutex<Vec<Instant>>,
}

/// The calls that still fail, and with what.
struct Failing<E> {
    calls: usize,
    with: Option<fn() -> E>,
}

impl<E> Failing<E> {
    fn next(&mut self) -> Option<E> {
        self.calls = self.calls.checked_sub(1)?;
        self.with.map(|with| with())
    }
}

impl<E> Default for Gate<E> {
    fn default() -> Self {
        Gate {
            permits: Semaphore::new(Semaphore::MAX_PERMITS),
            takes: Mutex::default(),
            failing: Mutex::new(Failing { calls: 0, with: None }),
            calls: Mutex::default(),
        }
    }
}

impl<E> Gate<E> {
    /// Calls that come from now on are not answered.
    pub fn stop(&self) {
        self.permits.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// All calls are answered again, those that wait included.
    pub fn resume(&self) {
        self.permits.add_permits(Semaphore::MAX_PERMITS - self.permits.available_permits());
    }

    /// So many calls more are answered.
    pub fn admit(&self, calls: usize) {
        self.permits.add_permits(calls);
    }

    /// Answers take so long.
    pub fn take(&self, time: Duration) {
        *lock(&self.takes) = time;
    }

    /// The next calls fail.
    pub fn fail(&self, calls: usize, with: fn() -> E) {
        *lock(&self.failing) = Failing { calls, with: Some(with) };
    }

    /// Nothing fails any more.
    pub fn recover(&self) {
        lock(&self.failing).calls = 0;
    }

    /// When each call came, answered or not.
    pub fn calls(&self) -> Vec<Instant> {
        lock(&self.calls).clone()
    }

    /// How many calls came.
    pub fn count(&self) -> usize {
        lock(&self.calls).len()
    }

    /// One call: what becomes of it is decided as soon as it has a permit.
    pub(super) async fn pass(&self) -> Result<(), E> {
        lock(&self.calls).push(Instant::now());
        // A gate is never closed for good, so that an error means a permit.
        if let Ok(permit) = self.permits.acquire().await {
            permit.forget();
        }
        let error = lock(&self.failing).next();
        let takes = *lock(&self.takes);
        if !takes.is_zero() {
            sleep(takes).await;
        }
        error.map_or(Ok(()), Err)
    }
}
