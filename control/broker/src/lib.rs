//! Where accepted pushes wait between logic and job.
//!
//! One trait, one conformance suite (module `conformance`), and four implementations: in memory, a Redis list, Redis
//! streams with owners, Kafka.
//!
//! - **Sources.** A log is one or several sources (memory and a Redis list: one; streams and Kafka: one per stream or
//!   partition). Order is kept inside a source; a source has one owner per group at a time.
//! - **Positions** are opaque: job only hands them back. Inside one source they increase, so that a receiver may drop
//!   what it has taken. 128 bits hold a Kafka offset, a Redis stream id (`ms-seq`) and a counter alike. The name of a
//!   source holds the incarnation of its log: a log that was wiped or made anew is a new source, because its positions
//!   start again.
//! - **Acknowledgement is cumulative per source**, not per entry: job dispatches in order and knows the contiguous low
//!   watermark anyway, Kafka can commit nothing else, and one acknowledgement a batch costs less than one an entry.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic when nobody takes it, or wait for ever

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use grpc::envelope::Envelope;
use proto::ids::Key;

mod choice;
#[cfg(all(feature = "kafka", feature = "redis"))]
mod chosen;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(feature = "kafka")]
mod kafka;
mod memory;
pub mod metrics;
#[cfg(any(test, feature = "kafka", feature = "redis"))]
mod record;
#[cfg(feature = "redis")]
mod redis_list;
#[cfg(feature = "redis")]
mod redis_shared;
#[cfg(feature = "redis")]
mod redis_stream;
#[cfg(all(test, feature = "redis"))]
mod redis_testing;

pub use choice::{BrokerChoice, ConsumeConfig, MemoryLimitsConfig, QueueLimitsConfig};
#[cfg(all(feature = "kafka", feature = "redis"))]
pub use chosen::ChosenBroker;
#[cfg(feature = "kafka")]
pub use kafka::{Assignor, KafkaBroker, KafkaConfig, KafkaJobConfig, KafkaStartError};
pub use memory::{MemoryBroker, MemoryLimits};
#[cfg(feature = "redis")]
pub use redis_list::RedisListBroker;
#[cfg(feature = "redis")]
pub use redis_stream::RedisStreamBroker;

/// One ordered log of a broker, its incarnation included.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(Arc<str>);

impl Source {
    /// A source of this name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Source(name.into())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Place of an entry inside one source; larger is later, and nothing else is to be read out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offset(pub u128);

/// Place of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The log.
    pub source: Source,
    /// The place in it.
    pub offset: Offset,
}

/// One entry handed to a consumer. Bytes, not an [`Envelope`]: a shared queue may hold what anybody wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Where it stands.
    pub position: Position,
    /// What [`Envelope::parse`] reads, if it is one.
    pub bytes: Bytes,
}

/// Why a publish is not on the broker, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The bound is reached because job or comet is behind. Retried by the caller, later.
    #[error("the broker is full: {0}")]
    Full(String),
    /// The broker is away or closed. Retried by the caller, later.
    #[error("the broker is unavailable: {0}")]
    Unavailable(String),
    /// The broker was silent, or broke off, under the publish: it may have all of it, a part, or nothing. Who retries may
    /// publish it twice.
    #[error("the broker did not say whether it took it: {0}")]
    Unknown(String),
    /// One publish larger than this broker can ever hold. Never retried.
    #[error("{size} bytes in {entries} entries are more than the broker ever holds")]
    TooLarge {
        /// Bytes of the publish.
        size: usize,
        /// Entries of the publish.
        entries: usize,
    },
}

/// Why a consumer has nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsumeError {
    /// The broker was closed and everything in it was handed out. Final.
    #[error("the broker is closed and empty")]
    Ended,
    /// The broker is away. Retried with backoff, for ever: a consumer never ends because of it.
    #[error("the broker is unavailable: {0}")]
    Unavailable(String),
}

/// The log between logic and job.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Appends all envelopes in order, or none of them. When it returns `Ok` the broker has them as durably as it can.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was appended, but for [`PublishError::Unknown`].
    async fn publish(&self, envelopes: Vec<Envelope>) -> Result<(), PublishError>;

    /// The source, as a number, that a record whose first key is `key` goes to. Keys of one push are grouped by it, so
    /// that the pushes to one key stay in order. One source: always 0.
    fn partition(&self, key: &Key) -> u32 {
        let _ = key;
        0
    }

    /// Joins a group. The group goes on after what it acknowledged last; a group never seen before starts at the oldest
    /// entry still there.
    ///
    /// # Errors
    /// [`ConsumeError::Unavailable`].
    async fn consume(&self, group: &str) -> Result<Box<dyn Consumer>, ConsumeError>;

    /// Puts entries that went nowhere aside, as they are, where an operator finds them: those that nobody can read, and
    /// pushes that no comet took. The latest are kept. Their positions are acknowledged as usual. Takes no longer
    /// than one command to the broker may; what it does not take is logged and counted.
    async fn dead_letter(&self, deliveries: Vec<Delivery>);

    /// Takes no publish any more: those get [`PublishError::Unavailable`]. When the log does not outlive the process,
    /// consumers get the rest and then [`ConsumeError::Ended`].
    async fn close(&self);

    /// Whether entries survive the end of this process. If not, job empties the broker before it ends.
    fn outlives_process(&self) -> bool;
}

/// One member of a group. Dropping it gives its sources back; what it did not acknowledge comes again, in order, to the
/// next owner.
#[async_trait]
pub trait Consumer: Send {
    /// The next entries, at least one and at most `max`, in order within each source. Waits while there are none or
    /// while another member owns the sources. Cancel safe: an entry is handed out only when the call returns.
    ///
    /// # Errors
    /// [`ConsumeError`].
    async fn next_batch(&mut self, max: usize) -> Result<Vec<Delivery>, ConsumeError>;

    /// Says that everything in the position's source up to and including it was dispatched or given up. Positions not
    /// handed out to this consumer, and sources it no longer owns, change nothing.
    ///
    /// # Errors
    /// [`ConsumeError::Unavailable`]: the entries may come again.
    async fn ack(&mut self, position: &Position) -> Result<(), ConsumeError>;

    /// Leaves the group as dropping does, and waits (a few seconds at most) until the broker knows: for a process that
    /// ends, which a drop cannot wait for.
    async fn leave(self: Box<Self>) {
        drop(self);
    }
}
