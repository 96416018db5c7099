//! What moves bytes and time for a shard. A driver holds no rule of the protocol.
//!
//! The contract, which one conformance suite checks for each driver:
//!
//! - what a shard sends to one connection arrives in order, whole, with one write at a time; short writes are continued;
//! - each [`Action::Send`](shard::Action::Send) is answered by one [`sent`](shard::Shard::sent), each
//!   connection's reading ends with one [`input_ended`](shard::Shard::input_ended), and a descriptor is closed
//!   once, after both;
//! - a held connection is not read, but its hang-up is seen, even behind bytes that nobody reads;
//! - a client that cannot be written to holds nobody else up;
//! - what the front puts into the mailbox is seen, however the shard sleeps;
//! - a connection that cannot be handed over, for want of a descriptor, ends with its session, which is told;
//! - a client that left before it was accepted need not be told.
//!
//! What [`reactor`] asks of a runtime beyond its signatures stands at [`ring::Runtime`] and [`ring::Socket`].
//!
//! - [`reactor`]: over real sockets, on monoio (io_uring, or epoll where the kernel refuses it) or glommio.
//! - `sim`: the simulator's, with its feature.
//! - [`launch`]: choice of the driver, listeners, threads.

pub mod launch;
pub mod reactor;
#[cfg(feature = "sim")]
pub mod sim;
