//! The simulator's driver (feature `sim`): shards on one thread, sockets that are buffers, time that is told.
//!
//! It owes a shard what every driver does, and chooses everything that a real one leaves to chance by a seed: which task
//! is next, how much a read or a write takes, when the task that takes the mail goes to sleep. Mailboxes and wake-up
//! flags are the real ones, so a wake that is lost in their protocol is lost here.
//!
//! - [`network`]: the sockets, and what goes wrong with them.
//! - [`reactor`]: one shard, a step at a time.
//! - [`event`]: what happens on it, for whoever watches.

pub mod event;
pub mod network;
pub mod reactor;
