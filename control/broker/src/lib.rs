//! The queue in which accepted pushes wait between logic and job.
//!
//! There is one trait, one conformance suite (module `conformance`), and four implementations: memory, a Redis list,
//! Redis streams with owners, and Kafka.
//!
//! - **Sources.** A log has one or more sources: memory and a Redis list have one, streams and Kafka one per stream or
//!   partition. Order is kept within a source. In each group a source has one owner at a time.
//! - **Positions** are opaque: job only hands them back. Within a source they increase, so a receiver may drop what it
//!   has already taken. 128 bits hold a Kafka offset, a Redis stream id (`ms-seq`) and a counter alike. The name of a
//!   source contains the incarnation of its log: a log that was wiped or made anew is a new source, because its
//!   positions start again.
//! - **Acknowledgement is cumulative per source**, not per entry. job dispatches in order and knows the watermark
//!   anyway, Kafka can commit nothing else, and one acknowledgement a batch costs less than one an entry.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

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
pub use kafka::{
    Assignor, KafkaBroker, KafkaConfig, KafkaGroupConfig, KafkaJobConfig, KafkaServersConfig,
    KafkaStartError, KafkaTopicConfig, Sasl,
};
pub use memory::{MemoryBroker, MemoryLimits};
#[cfg(feature = "redis")]
pub use redis_list::RedisListBroker;
#[cfg(feature = "redis")]
pub use redis_stream::RedisStreamBroker;

/// One ordered log of a broker. Its name contains the incarnation.
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

/// Place of an entry within one source. A larger one is later; it has no other meaning.
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

/// One entry handed to a consumer. It holds bytes, not an [`Envelope`], since anybody may have written to a shared
/// queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Where it stands.
    pub position: Position,
    /// What [`Envelope::parse`] reads, if it is one.
    pub bytes: Bytes,
}

/// Why a publish is not on the broker, as far as one knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The bound is reached because job or comet is behind. The caller may try again later.
    #[error("the broker is full: {0}")]
    Full(String),
    /// The broker is away or closed. The caller may try again later.
    #[error("the broker is unavailable: {0}")]
    Unavailable(String),
    /// The broker fell silent or broke off during the publish. It may have all of it, a part, or nothing. A caller that
    /// tries again may publish it twice.
    #[error("the broker did not say whether it took it: {0}")]
    Unknown(String),
    /// The publish is larger than this broker can ever hold. Trying again is of no use.
    #[error("{size} bytes in {entries} entries are more than the broker ever holds")]
    TooLarge {
        /// Bytes of the publish.
        size: usize,
        /// Entries of the publish.
        entries: usize,
    },
}

/// Why a consumer gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsumeError {
    /// The broker was closed and everything in it was handed out. Final.
    #[error("the broker is closed and empty")]
    Ended,
    /// The broker is away. job tries again for ever, with pauses: a consumer never ends because of this.
    #[error("the broker is unavailable: {0}")]
    Unavailable(String),
}

/// The log between logic and job.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Appends all envelopes in order, or none of them. When it returns `Ok` the broker has them as durably as it can.
    ///
    /// # Errors
    /// [`PublishError`]. Nothing was appended, except perhaps after [`PublishError::Unknown`].
    async fn publish(&self, envelopes: Vec<Envelope>) -> Result<(), PublishError>;

    /// The number of the source for a record whose first key is `key`. logic groups the keys of a push by it, so that
    /// pushes to one key stay in order. Always 0 if there is one source.
    fn partition(&self, key: &Key) -> u32 {
        let _ = key;
        0
    }

    /// Joins a group. The group goes on after what it last acknowledged; a new group starts at the oldest entry that is
    /// still there.
    ///
    /// # Errors
    /// [`ConsumeError::Unavailable`].
    async fn consume(&self, group: &str) -> Result<Box<dyn Consumer>, ConsumeError>;

    /// Puts entries that went nowhere aside, unchanged, where an operator finds them: entries that are no push, and
    /// pushes that no comet took. The latest are kept. Their positions have to be acknowledged as usual. This takes no
    /// longer than one command to the broker may; what the broker does not take is logged and counted.
    async fn dead_letter(&self, deliveries: Vec<Delivery>);

    /// Takes no more publishes: they get [`PublishError::Unavailable`]. If the log does not outlive the process,
    /// consumers get the rest and then [`ConsumeError::Ended`].
    async fn close(&self);

    /// Whether entries survive the end of this process. If not, job empties the broker before it ends.
    fn outlives_process(&self) -> bool;
}

/// One member of a group. Dropping it gives its sources back. The next owner gets what was not acknowledged again, in
/// order.
#[async_trait]
pub trait Consumer: Send {
    /// The next entries, at least one and at most `max`, in order within each source. Waits while there are none, or
    /// while another member owns the sources. Cancel safe: an entry counts as handed out only when the call returns.
    ///
    /// # Errors
    /// [`ConsumeError`].
    async fn next_batch(&mut self, max: usize) -> Result<Vec<Delivery>, ConsumeError>;

    /// Tells that everything up to and including this position of its source was dispatched or given up. Nothing
    /// changes if the position was not handed out to this consumer, or if it no longer owns the source.
    ///
    /// # Errors
    /// [`ConsumeError::Unavailable`]: the entries may come again.
    async fn ack(&mut self, position: &Position) -> Result<(), ConsumeError>;

    /// Leaves the group as dropping does, and waits, a few seconds at most, until the broker knows. A process that ends
    /// uses this, since a drop cannot wait.
    async fn leave(self: Box<Self>) {
        drop(self);
    }
}
