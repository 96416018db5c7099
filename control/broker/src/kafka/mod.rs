//! The broker on Kafka. It works beside Go's logic and job, with goim's topic, group, record keys and partitioner.
//!
//! - **A publish** is written once, since the producer is idempotent, and acknowledged by all in-sync replicas. If the
//!   brokers are known to be away, it is refused before anything is queued. Records that are still in the queue after
//!   three seconds are taken out. If a record was sent and not acknowledged, nobody knows whether it is there: brokers
//!   that died or froze in between may hold it, or hold some records of a publish and not the others. Such a publish
//!   counts as unknown, not as refused. Transactions would not help, since Go's jobs read uncommitted records.
//! - **A source** is a partition. Kafka does not tell its clients which log a partition is. So the group's first owner
//!   makes up a UUID as its incarnation, and keeps it in the metadata of each committed offset. Kafka deletes these
//!   together with the topic, and a broker that was wiped has none. A Go job in the group commits without one, and the
//!   next owner makes up another: entries that come again after such a change are not recognized. If a topic is deleted
//!   while jobs run, they notice only when its offsets go back, so stop the jobs first.
//! - **Dead letters** go to the topic `<topic>.dead`, with the source and the offset as headers.

mod assignment;
mod client;
mod config;
mod consumer;
mod monitor;
mod placement;
mod producer;
mod wake_flag;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use ::config::ConfigError;
use async_trait::async_trait;
use bytes::Bytes;
use grpc::envelope::Envelope;
use host::telemetry::OUTSIDERS;
use proto::ids::Key;
use rdkafka::message::{Header, OwnedHeaders};
use tokio::sync::watch;
use tracing::{Level, warn};

pub use self::config::{
    Assignor, KafkaConfig, KafkaGroupConfig, KafkaJobConfig, KafkaServersConfig, KafkaTopicConfig, Sasl,
};
use self::{
    client::{Servers, Voice},
    consumer::{KafkaConsumer, Membership},
    placement::partition_of,
    producer::{InFlight, Landing, Producer, Record},
};
use super::{Broker, ConsumeError, Consumer, Delivery, PublishError, record::record_key};
use crate::metrics::BrokerMetrics;

/// How long [`Broker::close`] waits for records that are on their way.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// librdkafka refuses to make a client, or a file of TLS is not what it was when the configuration was checked. Halley does
/// not try again: the operator has to change what the error names.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a Kafka client: {0}")]
pub struct KafkaStartError(String);

impl From<ConfigError> for KafkaStartError {
    fn from(error: ConfigError) -> Self {
        KafkaStartError(error.to_string())
    }
}

/// The broker on Kafka.
pub struct KafkaBroker {
    shared: Arc<Shared>,
    assignor: Assignor,
    /// Number of members that were dropped and have not left yet.
    leaving: watch::Sender<usize>,
}

struct Shared {
    servers: Servers,
    topic: String,
    dead_topic: String,
    producer: RwLock<Arc<Producer>>,
    in_flight: InFlight,
    /// Number of partitions when the topic was last seen; 0 = never seen.
    partitions: AtomicU32,
    ready: watch::Sender<bool>,
    voice: Voice,
    is_closed: AtomicBool,
    /// Tells the monitor to end.
    is_dropped: AtomicBool,
    metrics: BrokerMetrics,
}

impl KafkaBroker {
    /// For logic: the broker publishes.
    ///
    /// # Errors
    /// As [`start_job`](Self::start_job).
    pub async fn start_logic(config: &KafkaConfig, metrics: BrokerMetrics) -> Result<Self, KafkaStartError> {
        let KafkaConfig { queue, servers, tls } = config;
        Self::start(&queue.topic, Servers::new(servers, tls)?, Assignor::default(), metrics).await
    }

    /// For job: the broker consumes. The group of the section is for [`Broker::consume`].
    ///
    /// # Errors
    /// librdkafka refuses the settings. Brokers that are away are no error: the monitor looks for them for ever, and a
    /// start waits for its first look, a few seconds at most.
    pub async fn start_job(config: &KafkaJobConfig, metrics: BrokerMetrics) -> Result<Self, KafkaStartError> {
        let KafkaJobConfig { queue, servers, tls } = config;
        Self::start(&queue.topic, Servers::new(servers, tls)?, queue.assignor, metrics).await
    }

    async fn start(
        topic: &str,
        servers: Servers,
        assignor: Assignor,
        metrics: BrokerMetrics,
    ) -> Result<Self, KafkaStartError> {
        if servers.brokers.is_empty() {
            return Err(KafkaStartError("kafka.brokers is empty".into()));
        }
        let voice = Voice::default();
        let producer =
            Producer::new(&servers, voice.clone()).map_err(|error| KafkaStartError(error.to_string()))?;
        let shared = Arc::new(Shared {
            servers,
            topic: topic.to_owned(),
            dead_topic: format!("{topic}.dead"),
            producer: RwLock::new(Arc::new(producer)),
            in_flight: InFlight::default(),
            partitions: AtomicU32::new(0),
            ready: watch::Sender::new(false),
            voice,
            is_closed: AtomicBool::new(false),
            is_dropped: AtomicBool::new(false),
            metrics,
        });
        let looked =
            monitor::start(Arc::clone(&shared)).map_err(|error| KafkaStartError(error.to_string()))?;
        let broker = KafkaBroker { shared, assignor, leaving: watch::Sender::new(0) };
        // The monitor holds the sender, so this fails only if the monitor has ended.
        let _ = looked.await;
        Ok(broker)
    }

    /// Whether the brokers answer and the topic is there.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.shared.ready.subscribe()
    }
}

impl Shared {
    fn producer(&self) -> Arc<Producer> {
        Arc::clone(&self.producer.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn put_aside(&self, delivery: Delivery) -> Result<Landing, PublishError> {
        let (source, offset) = (delivery.position.source, delivery.position.offset.0.to_string());
        let headers = OwnedHeaders::new()
            .insert(Header { key: "source", value: Some(source.as_str()) })
            .insert(Header { key: "offset", value: Some(&offset) });
        let record = Record {
            topic: &self.dead_topic,
            key: source.as_str(),
            value: delivery.bytes,
            headers: Some(headers),
        };
        self.producer().send(&self.in_flight, vec![record])
    }
}

#[async_trait]
impl Broker for KafkaBroker {
    async fn publish(&self, envelopes: Vec<Envelope>) -> Result<(), PublishError> {
        let Shared { topic, in_flight, .. } = &*self.shared;
        if self.shared.is_closed.load(Relaxed) {
            return Err(PublishError::Unavailable("it is closed".into()));
        }
        if !*self.shared.ready.borrow() {
            return Err(PublishError::Unavailable("Kafka is away".into()));
        }
        let keys: Vec<_> = envelopes.iter().map(record_key).collect();
        let record = |(key, value): (_, Bytes)| Record { topic, key, value, headers: None };
        let values = envelopes.iter().map(Envelope::to_bytes);
        let records = keys.iter().map(AsRef::as_ref).zip(values).map(record).collect();
        self.shared.producer().send(in_flight, records)?.landed().await
    }

    /// The partition in which the producer files the key. The producer may learn of new partitions a few seconds before
    /// or after this does.
    fn partition(&self, key: &Key) -> u32 {
        partition_of(key.as_str(), self.shared.partitions.load(Relaxed).max(1))
    }

    async fn consume(&self, group: &str) -> Result<Box<dyn Consumer>, ConsumeError> {
        let membership = Membership {
            servers: self.shared.servers.clone(),
            topic: self.shared.topic.clone(),
            group: group.to_owned(),
            assignor: self.assignor,
            voice: self.shared.voice.clone(),
            leaving: self.leaving.clone(),
            metrics: self.shared.metrics.clone(),
        };
        Ok(Box::new(KafkaConsumer::join(membership)?))
    }

    /// Nobody waits for the result. A dead letter that cannot be put aside is counted and logged, and the partition
    /// goes on.
    async fn dead_letter(&self, deliveries: Vec<Delivery>) {
        let shared = Arc::clone(&self.shared);
        let put = |delivery: Delivery| (delivery.position.clone(), shared.put_aside(delivery));
        let landings: Vec<_> = deliveries.into_iter().map(put).collect();
        tokio::spawn(async move {
            for (position, landing) in landings {
                let landed = match landing {
                    Ok(landing) => landing.landed().await,
                    Err(error) => Err(error),
                };
                if let Err(error) = landed {
                    shared.metrics.dead_letters_lost.inc();
                    OUTSIDERS.log(Level::WARN, || {
                        let (topic, source, offset) = (&shared.dead_topic, &position.source, position.offset.0);
                        warn!(
                            "cannot write to {topic}, the entry {offset} of {source} stays where it is: {error}"
                        );
                    });
                }
            }
        });
    }

    /// Waits until records on their way are acknowledged, and until consumers that were dropped have committed and
    /// left.
    async fn close(&self) {
        self.shared.is_closed.store(true, Relaxed);
        let producer = self.shared.producer();
        let flushed = tokio::task::spawn_blocking(move || producer.flush(FLUSH_MAX));
        consumer::all_left(&self.leaving).await;
        let _ = flushed.await;
    }

    fn outlives_process(&self) -> bool {
        true
    }
}

impl Drop for KafkaBroker {
    fn drop(&mut self) {
        self.shared.is_dropped.store(true, Relaxed);
        self.shared.voice.trouble.set();
    }
}
