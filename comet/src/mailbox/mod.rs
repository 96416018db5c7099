//! Bounded rings between threads, with sleep and wake: nobody blocks, no wake is lost, nobody pays for waking who is awake.
//!
//! A ring has one producer and one consumer, on any two threads ([`channel`]). Whoever may sleep owns one [`Bell`],
//! whatever the number of its rings; the others ring it after they made something visible, once per batch. Ringing is a
//! memory fence and a load while the sleeper is awake, and one wake per sleep otherwise.
//!
//! - A shard sleeps in the kernel, by [`ShardSleeper`]; waking it is one write to an eventfd.
//! - A task of the front sleeps in tokio, by [`TaskBell`].
//!
//! A producer never waits in [`Sender::push`]: a full ring gives the value back. It may then leave a wish for space
//! ([`Sender::has_space`]), and the consumer rings the producer's bell once that much has become free.
//!
//! The protocol is in `bell`, alone with its atomics, so that `tests/mailbox_model.rs` can run it through every
//! interleaving.

mod bell;
mod channel;
mod sleep;

/// What `bell` is built on; the model test puts loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
}

pub use bell::{Bell, Wake};
pub use channel::{Drain, Receiver, Sender, channel};
pub use sleep::{ShardBell, ShardSleeper, TaskBell, TaskWake};
