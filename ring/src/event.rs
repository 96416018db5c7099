//! Waking a thread that sleeps in the kernel, from another thread.
//!
//! monoio without its feature `sync` hangs when a task is woken from a foreign thread, so nothing of
//! monoio crosses threads here: the sender writes to an eventfd, the receiver's driver watches it.

use std::{
    future::Future,
    io,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    rc::Rc,
    sync::Arc,
};

use monoio::net::UnixStream;
use rustix::{event::EventfdFlags, io::Errno};

use crate::socket::borrow;

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

    /// Registers the receiver with the monoio runtime of the calling thread.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports, on the epoll driver.
    ///
    /// # Panics
    /// Outside of a monoio runtime.
    pub fn into_receiver(self) -> io::Result<WakeReceiver> {
        // A `UnixStream` is monoio's plainest owner of a descriptor that can be awaited.
        let stream = UnixStream::from_std(self.0.into())?;
        Ok(WakeReceiver { stream: Rc::new(stream), waiting: None })
    }
}

/// The end that sleeps. Belongs to the thread of one monoio runtime.
pub struct WakeReceiver {
    stream: Rc<UnixStream>,
    /// The wait in the kernel. It stays armed when the future of `wait` is dropped, so that a loop
    /// selecting between a wake and a timer does not arm one more at each tick.
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>>>>>,
}

impl std::fmt::Debug for WakeReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WakeReceiver").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl WakeReceiver {
    /// Returns after a wake that no earlier `wait` has returned for; wakes sent meanwhile are one.
    ///
    /// May be dropped while pending and called again; no wake is lost.
    ///
    /// # Errors
    /// What the driver reports for the wait; none are known.
    pub async fn wait(&mut self) -> io::Result<()> {
        let stream = &self.stream;
        let waiting = self.waiting.get_or_insert_with(|| {
            let stream = Rc::clone(stream);
            Box::pin(async move { stream.readable(false).await })
        });
        let result = waiting.as_mut().await;
        self.waiting = None;
        let drained = rustix::io::read(borrow(&*self.stream), &mut [0; 8]);
        debug_assert!(
            matches!(drained, Ok(8) | Err(Errno::AGAIN)),
            "an eventfd gives 8 bytes or is empty: {drained:?}"
        );
        result
    }
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
