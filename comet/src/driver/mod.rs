//! What moves bytes and time for a shard. A driver holds no rule of the protocol.
//!
//! The contract, which one conformance suite checks for each driver:
//!
//! - what a shard sends to one connection arrives in order, whole, with one write at a time; short writes are continued;
//! - each [`Action::Send`](shard::Action::Send) is answered by one [`sent`](shard::Shard::sent), each
//!   connection's reading ends with one [`input_ended`](shard::Shard::input_ended), and a descriptor is closed
//!   once, after both;
//! - a held connection is not read, but its hang-up is seen;
//! - what the front puts into the mailbox is seen, however the shard sleeps.
//!
//! - [`reactor`]: over real sockets, on monoio (io_uring, or epoll where the kernel refuses it) or glommio.
//! - `sim`: the simulator's, with its feature.
//! - [`launch`]: choice of the driver, listeners, threads.

pub mod launch;
pub mod reactor;
#[cfg(feature = "sim")]
pub mod sim;
