//! The broker inside one process: a bounded log in memory.
//!
//! The log keeps entries encoded, as the other brokers carry them. So the bound counts the memory that is really held:
//! the body of an HTTP request is a slice of a larger read buffer, which an envelope that is not encoded would keep
//! alive. And entries take the same path as those of a shared queue.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use grpc::envelope::Envelope;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{Broker, ConsumeError, Consumer, Delivery, Offset, Position, PublishError, Source};
use crate::metrics::BrokerMetrics;

/// Most dead letters kept. Newer ones push older ones out.
const DEAD_LETTERS_MAX: usize = 16;

/// How much a [`MemoryBroker`] holds. At either bound a publish is refused as [`PublishError::Full`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Encoded envelopes not yet acknowledged by every group, bytes.
    pub bytes: usize,
    /// Their number.
    pub entries: usize,
}

/// The broker inside one process. Cheap to clone; all clones are one broker.
#[derive(Clone)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

struct Shared {
    source: Source,
    limits: MemoryLimits,
    metrics: BrokerMetrics,
    log: Mutex<Log>,
    /// Notified when a waiting consumer may go on: an entry came, an owner went, or the broker was closed.
    changed: Notify,
}

#[derive(Default)]
struct Log {
    entries: VecDeque<Bytes>,
    /// Offset of `entries[0]`.
    first: u64,
    /// Sum of the entries' lengths.
    bytes: usize,
    groups: HashMap<String, Group>,
    dead_letters: VecDeque<Bytes>,
    consumers: u64,
    closed: bool,
}

struct Group {
    /// Offset of the first entry not acknowledged.
    acked: u64,
    /// The consumer that gets the entries now.
    owner: Option<u64>,
}

impl MemoryBroker {
    /// An empty broker.
    pub fn new(limits: MemoryLimits, metrics: BrokerMetrics) -> Self {
        let shared = Shared {
            source: Source::new(format!("memory-{}", Uuid::new_v4())),
            limits,
            metrics,
            log: Mutex::default(),
            changed: Notify::new(),
        };
        MemoryBroker { shared: Arc::new(shared) }
    }

    /// Appends entries as they are, all or none, like another program that writes to a shared queue.
    ///
    /// # Errors
    /// As [`Broker::publish`].
    pub fn publish_bytes(&self, entries: Vec<Bytes>) -> Result<(), PublishError> {
        let Shared { limits, metrics, .. } = &*self.shared;
        let size: usize = entries.iter().map(Bytes::len).sum();
        if size > limits.bytes || entries.len() > limits.entries {
            return Err(PublishError::TooLarge { size, entries: entries.len() });
        }
        let mut log = self.shared.log();
        if log.closed {
            return Err(PublishError::Unavailable("it is closed".into()));
        }
        if log.bytes + size > limits.bytes || log.entries.len() + entries.len() > limits.entries {
            let Log { bytes, entries, .. } = &*log;
            return Err(PublishError::Full(format!("{bytes} bytes in {} entries wait", entries.len())));
        }
        log.bytes += size;
        log.entries.extend(entries);
        metrics.set_depth(log.entries.len(), log.bytes);
        drop(log);
        self.shared.changed.notify_waiters();
        Ok(())
    }

    /// The latest dead letters, oldest first.
    pub fn dead_letters(&self) -> Vec<Bytes> {
        self.shared.log().dead_letters.iter().cloned().collect()
    }

    /// Entries not yet acknowledged by every group.
    pub fn depth(&self) -> usize {
        self.shared.log().entries.len()
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn publish(&self, envelopes: Vec<Envelope>) -> Result<(), PublishError> {
        self.publish_bytes(envelopes.iter().map(Envelope::to_bytes).collect())
    }

    async fn consume(&self, group: &str) -> Result<Box<dyn Consumer>, ConsumeError> {
        let mut log = self.shared.log();
        log.consumers += 1;
        let id = log.consumers;
        let first = log.first;
        log.groups.entry(group.to_owned()).or_insert(Group { acked: first, owner: None });
        drop(log);
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(MemoryConsumer { shared, group: group.to_owned(), id, next: 0 }))
    }

    async fn dead_letter(&self, deliveries: Vec<Delivery>) {
        let mut log = self.shared.log();
        for delivery in deliveries {
            if log.dead_letters.len() == DEAD_LETTERS_MAX {
                log.dead_letters.pop_front();
            }
            log.dead_letters.push_back(delivery.bytes);
        }
    }

    async fn close(&self) {
        self.shared.log().closed = true;
        self.shared.changed.notify_waiters();
    }

    fn outlives_process(&self) -> bool {
        false
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Removes the entries that every group has acknowledged.
    fn trim(&mut self) {
        let keep_from = self.groups.values().map(|group| group.acked).min().unwrap_or(self.first);
        while self.first < keep_from
            && let Some(entry) = self.entries.pop_front()
        {
            self.first += 1;
            self.bytes -= entry.len();
        }
    }
}

struct MemoryConsumer {
    shared: Arc<Shared>,
    group: String,
    id: u64,
    /// Offset of the next entry to hand out; meaningful only while this consumer owns the group.
    next: u64,
}

impl MemoryConsumer {
    /// Takes entries that are there; `None` if the consumer has to wait.
    fn take(&mut self, max: usize) -> Option<Result<Vec<Delivery>, ConsumeError>> {
        let shared = Arc::clone(&self.shared);
        let mut log = shared.log();
        let end = log.end();
        let group = log.groups.get_mut(&self.group)?;
        match group.owner {
            None => {
                group.owner = Some(self.id);
                self.next = group.acked;
            }
            Some(owner) if owner != self.id => return None,
            Some(_) => {}
        }
        if self.next == end {
            return log.closed.then_some(Err(ConsumeError::Ended));
        }
        let from = (self.next - log.first) as usize;
        let deliveries: Vec<_> = log
            .entries
            .range(from..)
            .take(max)
            .zip(self.next..)
            .map(|(bytes, offset)| Delivery {
                position: Position { source: shared.source.clone(), offset: Offset(offset.into()) },
                bytes: bytes.clone(),
            })
            .collect();
        self.next += deliveries.len() as u64;
        Some(Ok(deliveries))
    }
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next_batch(&mut self, max: usize) -> Result<Vec<Delivery>, ConsumeError> {
        let shared = Arc::clone(&self.shared);
        loop {
            // Register before looking, so that no change between the look and the wait is missed.
            let mut changed = std::pin::pin!(shared.changed.notified());
            changed.as_mut().enable();
            if let Some(taken) = self.take(max.max(1)) {
                return taken;
            }
            changed.await;
        }
    }

    async fn ack(&mut self, position: &Position) -> Result<(), ConsumeError> {
        if position.source != self.shared.source {
            return Ok(());
        }
        let mut log = self.shared.log();
        let (id, next) = (self.id, self.next);
        if let Some(group) = log.groups.get_mut(&self.group).filter(|group| group.owner == Some(id)) {
            let handed_out = position.offset.0 < next.into();
            if handed_out && position.offset.0 >= group.acked.into() {
                group.acked = position.offset.0 as u64 + 1;
                log.trim();
                self.shared.metrics.set_depth(log.entries.len(), log.bytes);
            }
        }
        Ok(())
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        let mut log = self.shared.log();
        if let Some(group) = log.groups.get_mut(&self.group).filter(|group| group.owner == Some(self.id)) {
            group.owner = None;
            drop(log);
            self.shared.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::conformance;

    fn broker(bytes: usize, entries: usize) -> MemoryBroker {
        MemoryBroker::new(MemoryLimits { bytes, entries }, BrokerMetrics::default())
    }

    #[tokio::test]
    async fn memory_conforms() {
        conformance::run(async || {
            let broker = broker(4096, 100);
            let put = broker.clone();
            conformance::Subject {
                broker: Arc::new(broker),
                limits: Some(MemoryLimits { bytes: 4096, entries: 100 }),
                group: "job".into(),
                owners_stay: true,
                acknowledges: true,
                patience: Duration::from_millis(50),
                put_bytes: Box::new(move |bytes| {
                    put.publish_bytes(vec![bytes]).unwrap();
                    Box::pin(std::future::ready(()))
                }),
            }
        })
        .await;
    }

    #[tokio::test]
    async fn acknowledged_entries_leave_the_memory() {
        let broker = broker(10, 3);
        broker.publish_bytes(vec![Bytes::from_static(b"0123456789")]).unwrap();
        assert!(matches!(broker.publish_bytes(vec![Bytes::from_static(b"x")]), Err(PublishError::Full(_))));
        let mut consumer = broker.consume("job").await.unwrap();
        let batch = consumer.next_batch(1).await.unwrap();
        consumer.ack(&batch[0].position).await.unwrap();
        assert_eq!(broker.depth(), 0);
        broker.publish_bytes(vec![Bytes::from_static(b"x")]).unwrap();
    }

    #[tokio::test]
    async fn an_entry_stays_until_the_slowest_group_acknowledged_it() {
        let broker = broker(100, 100);
        broker.publish_bytes(vec![Bytes::from_static(b"x")]).unwrap();
        let (mut a, mut b) = (broker.consume("a").await.unwrap(), broker.consume("b").await.unwrap());
        for (consumer, left) in [(&mut a, 1), (&mut b, 0)] {
            let batch = consumer.next_batch(1).await.unwrap();
            consumer.ack(&batch[0].position).await.unwrap();
            assert_eq!(broker.depth(), left);
        }
    }

    #[tokio::test]
    async fn only_the_latest_dead_letters_are_kept() {
        let broker = broker(100, 100);
        for n in 0..20u8 {
            let position = Position { source: Source::new("s"), offset: Offset(n.into()) };
            broker.dead_letter(vec![Delivery { position, bytes: Bytes::from(vec![n]) }]).await;
        }
        let kept: Vec<u8> = broker.dead_letters().iter().map(|bytes| bytes[0]).collect();
        assert_eq!(kept, (4..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_log_made_anew_is_another_source() {
        assert_ne!(broker(1, 1).shared.source, broker(1, 1).shared.source);
    }
}
