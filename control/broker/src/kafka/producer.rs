//! Puts records on the topic and tells what became of each.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use host::awake;
use rdkafka::{
    ClientContext,
    client::Client,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, OwnedHeaders},
    producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer},
    statistics::Statistics,
    util::Timeout,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::client::{RECORD_BYTES_MAX, Servers, Voice, settings};
use crate::PublishError;

/// How long a record may take to be acknowledged, ms. After that librdkafka gives it up, and takes it out of the queue
/// if it was not sent yet. It does not tell through rust-rdkafka which of the two happened, so nobody knows whether the
/// brokers have the record. librdkafka checks this once a second.
const RECORD_MS_MAX: u32 = 3000;

/// How long a publish waits for the client. The client itself answers sooner.
const LANDING_MAX: Duration = Duration::from_secs(10);

/// Most records that are not acknowledged, and most bytes of them. Beyond that a publish is refused as full.
const IN_FLIGHT_RECORDS_MAX: usize = 65_536;
const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;

/// One record.
pub(super) struct Record<'a> {
    pub(super) topic: &'a str,
    pub(super) key: &'a str,
    pub(super) value: Bytes,
    pub(super) headers: Option<OwnedHeaders>,
}

impl Record<'_> {
    fn size(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

/// Permits for what is not yet acknowledged, over all producers of a broker.
pub(super) struct InFlight {
    records: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl Default for InFlight {
    fn default() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        InFlight { records: semaphore(IN_FLIGHT_RECORDS_MAX), bytes: semaphore(IN_FLIGHT_BYTES_MAX) }
    }
}

/// Tells later what became of a publish.
pub(super) struct Landing(oneshot::Receiver<Result<(), PublishError>>);

impl Landing {
    pub(super) async fn landed(self) -> Result<(), PublishError> {
        let silent = |_| PublishError::Unknown("the Kafka client does not say what became of it".into());
        let landed = awake::timeout(LANDING_MAX, self.0).await.map_err(silent)?;
        // A flight answers at the latest when it is dropped.
        landed.unwrap_or_else(|_| Err(PublishError::Unavailable("it is closed".into())))
    }
}

/// The records of one publish on their way. When the last one has ended, this is dropped and tells the publisher.
pub(super) struct Flight {
    entries: usize,
    size: usize,
    /// The brokers have at least a part of it.
    has_landed: AtomicBool,
    refused: Mutex<Option<PublishError>>,
    landed: Option<oneshot::Sender<Result<(), PublishError>>>,
    /// Held until every record is acknowledged or refused, even if the publisher no longer waits.
    _held: [OwnedSemaphorePermit; 2],
}

impl Flight {
    fn refuse(&self, error: &KafkaError) {
        let error = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                PublishError::TooLarge { size: self.size, entries: self.entries }
            }
            Some(RDKafkaErrorCode::QueueFull) => PublishError::Full("the producer's queue is full".into()),
            Some(code) if is_refusal(code) => PublishError::Unavailable(format!("Kafka: {error}")),
            _ => PublishError::Unknown(format!("Kafka: {error}")),
        };
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(error) = refused.take_if(|_| self.has_landed.load(Relaxed)) {
            refused = Some(PublishError::Unknown(format!("Kafka has a part of it: {error}")));
        }
        if let Some(landed) = self.landed.take() {
            // The receiver is gone if the publisher was cancelled.
            let _ = landed.send(refused.map_or(Ok(()), Err));
        }
    }
}

/// Whether the error says that the record was not taken: Kafka said so, or the client before it asked Kafka. After any
/// other error the record may have been taken.
fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::PolicyViolation
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::NotEnoughReplicas
            | RDKafkaErrorCode::PurgeQueue
    )
}

/// An idempotent producer and its thread.
pub(super) struct Producer(ThreadedProducer<Context>);

struct Context(Voice);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }

    fn stats(&self, _: Statistics) {}
}

impl ProducerContext for Context {
    type DeliveryOpaque = Arc<Flight>;

    fn delivery(&self, result: &DeliveryResult<'_>, flight: Arc<Flight>) {
        match result {
            Ok(_) => flight.has_landed.store(true, Relaxed),
            Err((error, _)) => {
                flight.refuse(error);
                self.0.trouble.set();
            }
        }
    }
}

impl Producer {
    pub(super) fn new(servers: &Servers, voice: Voice) -> Result<Self, KafkaError> {
        let mut config = settings(servers);
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // sarama's default partitioner, and what `partition_of` computes.
            .set("partitioner", "fnv1a_random")
            .set("message.timeout.ms", RECORD_MS_MAX.to_string())
            // Records that are queued at the same time leave together, but none waits for another.
            .set("queue.buffering.max.ms", "0")
            // Well below what brokers take by default, so that no batch of records is too large.
            .set("batch.size", (256 << 10).to_string())
            // These bounds are never reached: `InFlight` has smaller ones, so that a publish is queued whole or not at
            // all.
            .set("queue.buffering.max.messages", (2 * IN_FLIGHT_RECORDS_MAX).to_string())
            .set("queue.buffering.max.kbytes", ((4 * IN_FLIGHT_BYTES_MAX) >> 10).to_string());
        ThreadedProducer::from_config_and_context(&config, Context(voice)).map(Producer)
    }

    /// Queues all records, or none if they exceed a bound. The answer comes when each is acknowledged or refused. It is
    /// the first refusal, if there is one.
    pub(super) fn send(
        &self,
        in_flight: &InFlight,
        records: Vec<Record<'_>>,
    ) -> Result<Landing, PublishError> {
        let (entries, size) = (records.len(), records.iter().map(Record::size).sum::<usize>());
        let is_too_large = records.iter().any(|record| record.size() > RECORD_BYTES_MAX);
        if is_too_large || entries > IN_FLIGHT_RECORDS_MAX || size > IN_FLIGHT_BYTES_MAX {
            return Err(PublishError::TooLarge { size, entries });
        }
        let full = |_| PublishError::Full("too much waits for Kafka's acknowledgement".into());
        let held = [
            Arc::clone(&in_flight.records).try_acquire_many_owned(entries as u32).map_err(full)?,
            Arc::clone(&in_flight.bytes).try_acquire_many_owned(size as u32).map_err(full)?,
        ];
        let (landed, landing) = oneshot::channel();
        let flight = Arc::new(Flight {
            entries,
            size,
            has_landed: AtomicBool::new(false),
            refused: Mutex::default(),
            landed: Some(landed),
            _held: held,
        });
        for Record { topic, key, value, headers } in records {
            let mut record =
                BaseRecord::with_opaque_to(topic, Arc::clone(&flight)).key(key).payload(&value[..]);
            record.headers = headers;
            if let Err((error, _)) = self.0.send(record) {
                flight.refuse(&error);
                break;
            }
        }
        Ok(Landing(landing))
    }

    pub(super) fn client(&self) -> &Client<impl ClientContext> {
        self.0.client()
    }

    /// Blocks the thread until nothing is on its way, or until `longest` has passed.
    pub(super) fn flush(&self, longest: Duration) {
        // What is left after that was refused, or is in the hands of the brokers.
        let _ = self.0.flush(Timeout::After(longest));
    }
}
