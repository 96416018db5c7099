//! Sleep and wake without a lost wake.
//!
//! One side *stores* something the other waits for (an item in a queue, a free place), the other *stores* that it is about
//! to wait; then each *loads* what the other stored. The sequentially consistent fence between store and load on both
//! sides makes it impossible that both load the old value: either the waiting side sees the change and does not sleep, or
//! the changing side sees the sleeper and wakes it. The atomics themselves can stay relaxed; what they guard is published
//! by the queue.

use seam::Bug;

use super::sync::{AtomicBool, AtomicUsize, Ordering, fence};

/// A way to end a sleep.
pub trait Wake {
    /// Ends the current sleep, or the next when it has not quite begun. May cost a system call.
    fn wake(&self);
}

/// Nobody sleeps: for producers that never leave a wish.
impl Wake for () {
    fn wake(&self) {}
}

/// Whether one thread or task sleeps, and how to wake it.
#[derive(Debug, Default)]
pub struct WakeFlag<W> {
    sleeping: AtomicBool,
    waker: W,
}

impl<W> WakeFlag<W> {
    /// The flag of somebody who is awake and can be woken by `waker`.
    pub fn new(waker: W) -> Self {
        Self { sleeping: AtomicBool::new(false), waker }
    }

    /// For the sleeper: announces the sleep, then looks once more whether there is something to do. `true`: sleep, until
    /// woken. `false`: do not, there is.
    ///
    /// `ready` must look at everything others wake by this flag for.
    #[must_use = "true means that the caller must now wait for the wake"]
    pub fn try_sleep(&self, ready: impl FnOnce() -> bool) -> bool {
        // A swap like the one in `wake`, so that the two have one order, for loom too.
        self.sleeping.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let sleeps = seam::planted(Bug::LostWake) || !ready();
        if !sleeps {
            self.awake();
        }
        sleeps
    }

    /// For the sleeper: nobody needs to wake it now. Calling it late only costs others a wake too many.
    pub fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// How the sleeper is woken.
    pub fn waker(&self) -> &W {
        &self.waker
    }
}

impl<W: Wake> WakeFlag<W> {
    /// For the others, after they made something visible: wakes the sleeper if it sleeps and nobody has woken it yet.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            self.waker.wake();
        }
    }
}

/// A producer's wish for free places in its queue.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    /// Places wished for; 0: no wish.
    places: AtomicUsize,
}

impl Wish {
    /// For the producer: whether `places` are free; if not, the wish stands. `free` must ask the queue afresh.
    pub(crate) fn satisfied(&self, places: usize, free: impl FnOnce() -> usize) -> bool {
        self.places.store(places, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let satisfied = free() >= places;
        if satisfied {
            self.places.store(0, Ordering::Relaxed);
        }
        satisfied
    }

    /// For the consumer, after it took something: whether a wish came true by that. At most once per wish.
    #[must_use = "true means that the producer must be woken"]
    pub(crate) fn grant(&self, free: impl FnOnce() -> usize) -> bool {
        fence(Ordering::SeqCst);
        let places = self.places.load(Ordering::Relaxed);
        places != 0 && free() >= places && self.places.swap(0, Ordering::Relaxed) != 0
    }
}
