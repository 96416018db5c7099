//! Letting the kernel in between two pieces of long work.
//!
//! monoio 0.2 has no fair yield: a task that wakes itself goes to the *front* of the run queue and
//! runs again up to twice as often as there are tasks before the ring is looked at, and timers are
//! looked at only once the run queue is empty. glommio 0.9 looks at its rings when the run queue is
//! empty, or after 100 ms. Waiting for an eventfd instead lets everything else run first: submissions,
//! completions, timers, the other tasks.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    rc::Rc,
    task::{Poll, Waker},
};

use crate::{
    event::{WakeReceiver, WakeSender, wake_pair},
    runtime::Runtime,
};

/// The turns of one runtime. A handle for any number of its tasks.
#[derive(Clone)]
pub struct Turns(Rc<Shared>);

struct Shared {
    wake: WakeSender,
    /// How often the runtime has come round for us.
    passed: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Turns {
    /// Starts counting the turns of the runtime this is called in; costs one task and two
    /// descriptors, and nothing while nobody waits.
    ///
    /// # Errors
    /// Too many open files.
    ///
    /// # Panics
    /// Outside of the runtime.
    pub fn start<R: Runtime>() -> io::Result<Self> {
        let (wake, seed) = wake_pair()?;
        let receiver = seed.into_receiver::<R>()?;
        let shared = Rc::new(Shared { wake, passed: Cell::new(0), waiting: RefCell::default() });
        R::spawn(count_turns(Rc::clone(&shared), receiver));
        Ok(Self(shared))
    }

    /// Returns once the runtime has submitted, reaped and fired what was due, and the tasks ready
    /// before this one have run. At worst every second call of a task rides on a turn that another
    /// task had already asked for.
    ///
    /// Costs a few microseconds: call it every few hundred sends, not after each.
    pub async fn next(&self) {
        let shared = &self.0;
        let before = shared.passed.get();
        poll_fn(|cx| {
            if shared.passed.get() != before {
                return Poll::Ready(());
            }
            let mut waiting = shared.waiting.borrow_mut();
            if waiting.is_empty() {
                shared.wake.wake();
            }
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turns").field("passed", &self.0.passed.get()).finish_non_exhaustive()
    }
}

/// Ends with an error of the wait, or with the runtime.
async fn count_turns<R: Runtime>(shared: Rc<Shared>, mut receiver: WakeReceiver<R>) {
    while receiver.wait().await.is_ok() {
        shared.passed.set(shared.passed.get() + 1);
        // Taken out first: a woken task may wait again at once.
        let waiting = shared.waiting.take();
        waiting.into_iter().for_each(Waker::wake);
    }
}
