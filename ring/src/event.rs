//! Waking a thread that sleeps in the kernel, from another thread.
//!
//! monoio without its feature `sync` hangs when a task is woken from a foreign thread, so nothing of a
//! runtime crosses threads here: the sender writes to an eventfd, the receiver's runtime waits for it.

use std::{
    future::Future,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    pin::Pin,
    rc::Rc,
    sync::Arc,
};

use rustix::{event::EventfdFlags, io::Errno};

use crate::runtime::Runtime;

/// Wakes the thread that holds the [`WakeReceiver`]. Cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct WakeSender(Arc<OwnedFd>);

impl WakeSender {
    /// Ends the receiver's current or next [`wait`](WakeReceiver::wait). One system call. Several
    /// wakes before the receiver looks are one.
    ///
    /// It publishes nothing by itself: what the receiver shall see must have been stored before.
    pub fn wake(&self) {
        let result = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
        // EAGAIN: the counter is at its maximum, so the receiver is being woken anyway. A receiver
        // that is gone is no error either, the eventfd lives as long as its last descriptor.
        debug_assert!(
            matches!(result, Ok(8) | Err(Errno::AGAIN)),
            "an eventfd takes 8 bytes or is full: {result:?}"
        );
    }
}

/// The receiving end on its way to the thread that will sleep.
#[derive(Debug)]
pub struct WakeReceiverSeed(OwnedFd);

impl WakeReceiverSeed {
    /// Takes the wakes sent so far without waiting; true when there was one. For a thread that never sleeps in the
    /// kernel: the simulator's.
    pub fn try_take(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }

    /// Registers the receiver with the runtime of the calling thread.
    ///
    /// # Errors
    /// What ioctl(2) or epoll_ctl(2) report.
    ///
    /// # Panics
    /// Outside of the runtime.
    pub fn into_receiver<R: Runtime>(self) -> io::Result<WakeReceiver<R>> {
        Ok(WakeReceiver { event: Rc::new(R::event(self.0)?), waiting: None })
    }
}

/// The end that sleeps. Belongs to the thread of one runtime.
pub struct WakeReceiver<R: Runtime> {
    event: Rc<R::Event>,
    /// The wait in the kernel. It stays armed when the future of `wait` is dropped, so that a loop
    /// selecting between a wake and a timer does not arm one more at each tick.
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>>>>>,
}

impl<R: Runtime> std::fmt::Debug for WakeReceiver<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WakeReceiver").field("is_waiting", &self.waiting.is_some()).finish_non_exhaustive()
    }
}

impl<R: Runtime> WakeReceiver<R> {
    /// Returns after a wake that no earlier `wait` has returned for; wakes sent meanwhile are one.
    ///
    /// May be dropped while pending and called again; no wake is lost.
    ///
    /// # Errors
    /// What the runtime reports for the wait; none are known.
    pub async fn wait(&mut self) -> io::Result<()> {
        let event = &self.event;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(R::wait(Rc::clone(event))));
        let result = waiting.as_mut().await;
        self.waiting = None;
        result
    }
}

/// Takes what was written to a nonblocking eventfd, so that it is waited for again.
pub(crate) fn drain(eventfd: BorrowedFd<'_>) {
    let drained = rustix::io::read(eventfd, &mut [0; 8]);
    debug_assert!(
        matches!(drained, Ok(8) | Err(Errno::AGAIN)),
        "an eventfd gives 8 bytes or is empty: {drained:?}"
    );
}

/// A connected pair: the sender for other threads, the seed for the thread that sleeps.
///
/// # Errors
/// What eventfd(2) and dup(2) report: too many open files.
pub fn wake_pair() -> io::Result<(WakeSender, WakeReceiverSeed)> {
    let receiving = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    // Each end owns a descriptor: a wake after the receiver's end never hits a reused number.
    let sending = receiving.as_fd().try_clone_to_owned()?;
    Ok((WakeSender(Arc::new(sending)), WakeReceiverSeed(receiving)))
}
