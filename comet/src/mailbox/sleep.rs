//! The two ways to sleep: a shard in the kernel, a task of the front in tokio.

use std::{
    future::poll_fn,
    io,
    sync::Arc,
    task::{Context, Poll},
};

use atomic_waker::AtomicWaker;
use ring::{Runtime, WakeReceiver, WakeReceiverSeed, WakeSender};

use super::wake_flag::{Wake, WakeFlag};

/// The flag of a shard.
pub type ShardFlag = WakeFlag<WakeSender>;

/// The flag of one task on the tokio side.
pub type TaskFlag = WakeFlag<TaskWake>;

impl Wake for WakeSender {
    fn wake(&self) {
        WakeSender::wake(self);
    }
}

/// A shard's sleep. Belongs to its thread; made there from the seed.
#[derive(Debug)]
pub struct ShardSleeper<R: Runtime> {
    flag: Arc<ShardFlag>,
    receiver: WakeReceiver<R>,
}

impl<R: Runtime> ShardSleeper<R> {
    /// Moves into the runtime of the calling thread. `seed` is the other end of the flag's own wake.
    ///
    /// # Errors
    /// What [`WakeReceiverSeed::into_receiver`] reports.
    pub fn new(flag: Arc<ShardFlag>, seed: WakeReceiverSeed) -> io::Result<Self> {
        Ok(Self { flag, receiver: seed.into_receiver()? })
    }

    /// Sleeps until `ready`, which must look at everything others wake by the flag for: every queue, every wish. May be
    /// dropped while pending, as one of several things waited for.
    ///
    /// # Errors
    /// What the driver reports for the wait; none are known.
    pub async fn sleep_until(&mut self, mut ready: impl FnMut() -> bool) -> io::Result<()> {
        while !ready() && self.flag.try_sleep(&mut ready) {
            let _asleep = Asleep(&self.flag);
            self.receiver.wait().await?;
        }
        Ok(())
    }
}

/// However the wait ends: who is awake wants no wakes.
struct Asleep<'a>(&'a ShardFlag);

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.0.awake();
    }
}

/// Wakes the one task that waits by it, from any thread. Not for tasks of a shard: monoio's cannot be woken from another
/// thread.
#[derive(Debug, Default)]
pub struct TaskWake(AtomicWaker);

impl Wake for TaskWake {
    fn wake(&self) {
        self.0.wake();
    }
}

impl WakeFlag<TaskWake> {
    /// Ready once `ready` is, which must look at everything others wake by the flag for. Only one task may wait by a flag.
    pub fn poll_until(&self, cx: &mut Context<'_>, mut ready: impl FnMut() -> bool) -> Poll<()> {
        if ready() {
            return Poll::Ready(());
        }
        // Before the sleep is announced: from then on the waker may be called.
        self.waker().0.register(cx.waker());
        if self.try_sleep(ready) { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Waits until `ready`; see [`poll_until`](Self::poll_until). May be dropped while pending.
    pub async fn until(&self, mut ready: impl FnMut() -> bool) {
        poll_fn(|cx| self.poll_until(cx, &mut ready)).await;
    }
}
