//! Bounded queues between threads, with sleep and wake: nobody blocks, no wake is lost, nobody pays for waking who is
//! awake.
//!
//! A queue has one producer and one consumer, on any two threads ([`channel`]). Whoever may sleep owns one [`WakeFlag`],
//! whatever the number of its queues; the others wake it after they made something visible, once per batch. That is a
//! memory fence and a load while the flag says that the sleeper is awake, and one wake per sleep otherwise.
//!
//! - A shard sleeps in the kernel, by [`ShardSleeper`]; waking it is one write to an eventfd.
//! - A task of the front sleeps in tokio, by [`TaskFlag`].
//!
//! A producer never waits in [`Sender::push`]: a full queue gives the value back. It may then leave a wish for space
//! ([`Sender::has_space`]), and the consumer wakes the producer once that much has become free.
//!
//! The protocol is in `wake_flag`, alone with its atomics, so that `tests/mailbox_model.rs` can run it through every
//! interleaving.

mod channel;
mod sleep;
mod wake_flag;

/// What `wake_flag` is built on; the model test puts loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
}

pub use channel::{Drain, Receiver, Sender, channel};
pub use sleep::{ShardFlag, ShardSleeper, TaskFlag, TaskWake};
pub use wake_flag::{Wake, WakeFlag};
