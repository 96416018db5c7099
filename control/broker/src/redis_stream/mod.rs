//! The broker on Redis streams: an accepted push waits until a job has acknowledged it.
//!
//! A push goes to one of several streams by the hash of its record key, so pushes to one key stay in order. Redis' own
//! consumer groups are of no use: they spread the entries of a stream over the consumers, which breaks this order, and
//! they hand out the entries of a dead consumer after newer ones. Here each stream has one owner per group:
//!
//! | key | type | holds |
//! | --- | --- | --- |
//! | `<topic>:<n>` | stream | the entries; one field each, `push`, whose value is the envelope |
//! | `<topic>:<n>:incarnation` | string | new when the stream is made or went back in time: the positions start again |
//! | `<topic>:<n>:acked` | hash | for each group that ever consumed, the id up to which everything is acknowledged |
//! | `<topic>:<n>:epoch` | hash | for each group, how often the stream changed its owner |
//! | `<topic>:<n>:owner:<group>` | string, expires | the consumer that reads it |
//! | `<topic>:members:<group>` | sorted set | the consumers, by when they last renewed |
//! | `<topic>.dead` | list | dead letters, the latest first |
//!
//! | module | subject |
//! | --- | --- |
//! | `scripts` | what Redis does in one step |
//! | `share` | the streams that a consumer owns, and how far it is in each |
//! | `member` | takes streams, renews them, gives them back |
//! | `reader` | reads the owned streams, on a connection of its own |
//! | `consumer` | hands out and acknowledges |
//!
//! All programs of a topic must be configured with the same number of streams. Needs Redis 6.2.

mod consumer;
mod entry;
mod member;
mod reader;
mod scripts;
mod share;

#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use async_trait::async_trait;
use grpc::envelope::Envelope;
use proto::ids::Key;
use store::Redis;

use self::{consumer::StreamConsumer, scripts::Outcome};
use super::{
    Broker, ConsumeError, Consumer, Delivery, PublishError,
    record::{fnv1a, record_key},
    redis_shared::{check_size, put_dead_letters, refused},
};
use crate::metrics::BrokerMetrics;

/// Most entries of one publish, because Redis serves nobody else meanwhile.
const PUBLISH_ENTRIES_MAX: usize = 100_000;

/// The streams of one topic.
pub struct RedisStreamBroker {
    redis: Redis,
    topic: Topic,
    entries_max: usize,
    metrics: BrokerMetrics,
    closed: AtomicBool,
}

/// The name of a topic and the number of its streams.
#[derive(Clone, Debug)]
struct Topic {
    name: Arc<str>,
    streams: u32,
}

impl RedisStreamBroker {
    /// `streams` (1 at least) streams whose names begin with `topic`. Each holds at most `entries_max` entries that not
    /// every group has acknowledged; beyond that a publish is refused as [`PublishError::Full`].
    pub fn new(redis: Redis, topic: &str, streams: u32, entries_max: usize, metrics: BrokerMetrics) -> Self {
        let topic = Topic { name: topic.into(), streams: streams.max(1) };
        RedisStreamBroker { redis, topic, entries_max, metrics, closed: AtomicBool::new(false) }
    }
}

#[async_trait]
impl Broker for RedisStreamBroker {
    async fn publish(&self, envelopes: Vec<Envelope>) -> Result<(), PublishError> {
        if self.closed.load(Relaxed) {
            return Err(PublishError::Unavailable("it is closed".into()));
        }
        check_size(&envelopes, self.entries_max.min(PUBLISH_ENTRIES_MAX))?;
        let entries: Vec<_> = envelopes
            .iter()
            .map(|envelope| (self.topic.stream_of(&record_key(envelope)), envelope.to_bytes()))
            .collect();
        match scripts::publish(&self.redis, &self.topic, self.entries_max, &entries).await {
            Ok(Outcome::Published) => Ok(()),
            Ok(Outcome::Full { stream, waiting }) => {
                let stream = self.topic.stream(stream);
                Err(PublishError::Full(format!("{waiting} entries wait in the stream {stream}")))
            }
            Err(error) => Err(refused(error)),
        }
    }

    fn partition(&self, key: &Key) -> u32 {
        self.topic.stream_of(key.as_str())
    }

    async fn consume(&self, group: &str) -> Result<Box<dyn Consumer>, ConsumeError> {
        let consumer = StreamConsumer::start(&self.redis, &self.topic, group, &self.metrics);
        Ok(Box::new(consumer))
    }

    async fn dead_letter(&self, deliveries: Vec<Delivery>) {
        put_dead_letters(&self.redis, &self.topic.name, &deliveries, &self.metrics).await;
    }

    async fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    fn outlives_process(&self) -> bool {
        true
    }
}

impl Topic {
    /// The stream of a record key: FNV-1a (32 bits) of its bytes, modulo the number of streams.
    fn stream_of(&self, record_key: &str) -> u32 {
        fnv1a(record_key) % self.streams
    }

    /// The numbers of the streams.
    fn numbers(&self) -> std::ops::Range<u32> {
        0..self.streams
    }

    fn stream(&self, number: u32) -> String {
        format!("{}:{number}", self.name)
    }

    fn incarnation(&self, number: u32) -> String {
        format!("{}:{number}:incarnation", self.name)
    }

    fn acked(&self, number: u32) -> String {
        format!("{}:{number}:acked", self.name)
    }

    fn epoch(&self, number: u32) -> String {
        format!("{}:{number}:epoch", self.name)
    }

    fn owner(&self, number: u32, group: &str) -> String {
        format!("{}:{number}:owner:{group}", self.name)
    }

    fn members(&self, group: &str) -> String {
        format!("{}:members:{group}", self.name)
    }
}
