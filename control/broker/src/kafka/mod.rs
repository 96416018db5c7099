//! The broker on Kafka, beside Go's logic and job: goim's topic, group, record keys and partitioner.
//!
//! - **A publish** is acknowledged by all in-sync replicas, once: the producer is idempotent. While the brokers are known
//!   to be away it is refused before anything is queued. Records that are still in the queue after three seconds are
//!   taken out. Whether a record that was sent and not acknowledged is there nobody knows: brokers that die, or freeze, in
//!   between may hold it, or some records of a publish that had several and not the others. Such a publish is called unknown,
//!   not refused. Transactions would not help: Go's jobs read uncommitted records.
//! - **A source** is a partition. Which log a partition is no client of Kafka is told, so its incarnation is a UUID that
//!   the group's first owner makes up and keeps in the metadata of each committed offset. Kafka deletes those with the
//!   topic, and a broker that was wiped has none. A Go job in the group commits without one, and the next owner then makes
//!   up another: entries that come again at such a change of hands are not known again. A topic that is deleted under
//!   running jobs is noticed when its offsets go back, and only then: stop the jobs first.
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

use async_trait::async_trait;
use bytes::Bytes;
use grpc::envelope::Envelope;
use host::telemetry::OUTSIDERS;
use proto::ids::Key;
use rdkafka::message::{Header, OwnedHeaders};
use tokio::sync::watch;
use tracing::{Level, warn};

pub use self::config::{Assignor, KafkaConfig, KafkaJobConfig};
use self::{
    client::Voice,
    consumer::{KafkaConsumer, Membership},
    placement::partition_of,
    producer::{InFlight, Landing, Producer, Record},
    wake_flag::WakeFlag,
};
use super::{Broker, ConsumeError, Consumer, Delivery, PublishError, record::record_key};
use crate::metrics::BrokerMetrics;

/// How long [`Broker::close`] waits for what is on its way.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Why there is no Kafka client. Nothing is retried: the operator changes what it names.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a Kafka client: {0}")]
pub struct KafkaStartError(String);

/// The broker on Kafka.
pub struct KafkaBroker {
    shared: Arc<Shared>,
    assignor: Assignor,
    /// Members that were dropped and have not yet left.
    leaving: watch::Sender<usize>,
}

struct Shared {
    brokers: Vec<String>,
    topic: String,
    dead_topic: String,
    producer: RwLock<Arc<Producer>>,
    in_flight: InFlight,
    /// Partitions of the topic when it was last seen; 0 = never.
    partitions: AtomicU32,
    ready: watch::Sender<bool>,
    voice: Voice,
    is_closed: AtomicBool,
    /// The monitor is to end.
    is_dropped: AtomicBool,
    metrics: BrokerMetrics,
}

impl KafkaBroker {
    /// logic's: for publishing.
    ///
    /// # Errors
    /// As [`start_job`](Self::start_job).
    pub async fn start_logic(config: &KafkaConfig, metrics: BrokerMetrics) -> Result<Self, KafkaStartError> {
        Self::start(&config.topic, &config.brokers, Assignor::default(), metrics).await
    }

    /// job's: for consuming; `config.group` is for [`Broker::consume`].
    ///
    /// # Errors
    /// When librdkafka refuses the settings. Brokers that are away are no error: they are looked for, for ever, and the
    /// first look is waited for, a few seconds at most.
    pub async fn start_job(config: &KafkaJobConfig, metrics: BrokerMetrics) -> Result<Self, KafkaStartError> {
        Self::start(&config.topic, &config.brokers, config.assignor, metrics).await
    }

    async fn start(
        topic: &str,
        brokers: &[String],
        assignor: Assignor,
        metrics: BrokerMetrics,
    ) -> Result<Self, KafkaStartError> {
        if brokers.is_empty() {
            return Err(KafkaStartError("kafka.brokers is empty".into()));
        }
        let voice = Voice { trouble: Arc::new(WakeFlag::default()) };
        let producer =
            Producer::new(brokers, voice.clone()).map_err(|error| KafkaStartError(error.to_string()))?;
        let shared = Arc::new(Shared {
            brokers: brokers.to_vec(),
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
        // It ends only with the monitor.
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

    /// As the producer files it, which knows of new partitions a few seconds earlier or later than this does.
    fn partition(&self, key: &Key) -> u32 {
        partition_of(key.as_str(), self.shared.partitions.load(Relaxed).max(1))
    }

    async fn consume(&self, group: &str) -> Result<Box<dyn Consumer>, ConsumeError> {
        let membership = Membership {
            brokers: self.shared.brokers.clone(),
            topic: self.shared.topic.clone(),
            group: group.to_owned(),
            assignor: self.assignor,
            voice: self.shared.voice.clone(),
            leaving: self.leaving.clone(),
            metrics: self.shared.metrics.clone(),
        };
        Ok(Box::new(KafkaConsumer::join(membership)?))
    }

    /// Nobody waits for it: what cannot be put aside is counted and logged, and the partition goes on.
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

    /// Waits for what is on its way, and for consumers that were dropped to have committed and left.
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
