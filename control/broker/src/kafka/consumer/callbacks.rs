//! What librdkafka asks of a member: to take over partitions and to give them back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use host::telemetry::OUTSIDERS;
use rdkafka::{
    ClientContext, Offset as KafkaOffset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{
        BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol,
        base_consumer::PartitionQueue,
    },
    error::KafkaError,
    statistics::Statistics,
    types::RDKafkaRespErr,
};
use tokio::time::Instant;
use tracing::{Level, info, warn};

use super::{COMMIT_EVERY, Shared, offsets, waking};
use crate::{kafka::assignment::Progress, metrics::CommitFailure};

/// How long a member waits for the last acknowledgements of partitions that it gives back.
const WIND_UP_MAX: Duration = Duration::from_secs(5);

/// How often it looks whether they have come.
const WIND_UP_LOOK: Duration = Duration::from_millis(10);

/// librdkafka calls this on the thread of the member.
pub(super) struct Context {
    shared: Arc<Shared>,
    consumer: OnceLock<Weak<BaseConsumer<Context>>>,
    /// The queues of the owned partitions. Each keeps the consumer alive.
    queues: Mutex<BTreeMap<i32, Arc<PartitionQueue<Context>>>>,
}

impl Context {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Context { shared, consumer: OnceLock::new(), queues: Mutex::default() }
    }

    /// Sets the consumer. Called once, before it joins.
    pub(super) fn speaks_through(&self, consumer: &Arc<BaseConsumer<Self>>) {
        self.consumer.get_or_init(|| Arc::downgrade(consumer));
    }

    /// The queues of the owned partitions, from which the thread takes entries.
    pub(super) fn queues(&self) -> Vec<Arc<PartitionQueue<Self>>> {
        self.lock_queues().values().cloned().collect()
    }

    pub(super) fn drop_queues(&self) {
        // Dropping a queue may drop the consumer, which calls back, so the lock must be free.
        let queues = std::mem::take(&mut *self.lock_queues());
        drop(queues);
    }

    fn lock_queues(&self) -> MutexGuard<'_, BTreeMap<i32, Arc<PartitionQueue<Self>>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives each partition a queue of its own before anything is fetched. Otherwise the first entries would come by
    /// the consumer's queue, and later ones could overtake them.
    fn split(&self, partitions: &TopicPartitionList) {
        // None while the consumer is being dropped. Then it fetches nothing any more.
        let Some(consumer) = self.consumer.get().and_then(Weak::upgrade) else { return };
        for element in partitions.elements() {
            let partition = element.partition();
            // If an old queue went after the new one is there, it would turn off the new one's wake-up.
            drop(self.lock_queues().remove(&partition));
            if let Some(mut queue) = consumer.split_partition_queue(element.topic(), partition) {
                queue.set_nonempty_callback(waking(&self.shared.wake));
                self.lock_queues().insert(partition, Arc::new(queue));
            }
        }
    }

    /// Wakes the thread after each event. The poll that served an event does not say whether another one waits behind
    /// it, and librdkafka wakes only for the first.
    fn look_again(&self) {
        self.shared.wake.set();
    }

    pub(super) fn list(&self, progress: &[Progress]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(progress.len());
        for Progress { partition, offset, incarnation } in progress {
            let mut element = list.add_partition(&self.shared.membership.topic, *partition);
            element.set_metadata(incarnation);
            // An offset of a record is never out of range.
            let _ = element.set_offset(KafkaOffset::Offset(offset.unwrap_or(0)));
        }
        list
    }

    /// Tells librdkafka to commit this, in the order of the calls. It never answers a commit that is not waited for.
    pub(super) fn commit(&self, client: &BaseConsumer<Self>, progress: &[Progress], mode: CommitMode) {
        if progress.is_empty() {
            return;
        }
        match client.commit(&self.list(progress), mode) {
            Ok(()) => self.shared.state().parts.sent(progress),
            Err(error) => {
                self.shared.membership.metrics.commit_failures.of(CommitFailure::Refused).inc();
                self.shared.state().is_dirty = true;
                OUTSIDERS
                    .log(Level::WARN, || warn!("cannot commit to Kafka, entries may come again: {error}"));
            }
        }
    }

    /// Where the group stands in these partitions; empty if Kafka does not say.
    fn progress(&self, client: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> Vec<Progress> {
        offsets::committed(client, partitions).unwrap_or_else(|error| {
            self.shared.membership.metrics.commit_failures.of(CommitFailure::Timeout).inc();
            warn!("Kafka does not say where the group stands, entries may come again: {error}");
            Vec::new()
        })
    }

    fn take_over(&self, client: &BaseConsumer<Self>, partitions: &mut TopicPartitionList) {
        let progress = self.progress(client, partitions);
        let mut state = self.shared.state();
        for mut element in partitions.elements() {
            let known = progress.iter().find(|known| known.partition == element.partition()).cloned();
            if let Some(start) = state.parts.take_over(element.partition(), known) {
                let _ = element.set_offset(KafkaOffset::Offset(start));
            }
        }
        state.stands_by = false;
        // Commit also what was acknowledged while somebody else may have owned them.
        state.is_dirty |= !state.parts.to_commit().is_empty();
        info!(group = self.shared.membership.group, partitions = ?state.parts.owned(), "consuming from Kafka");
    }

    /// Waits until the comets have taken what was handed out of these partitions, because the next owner would send it
    /// again. This wait is short: while it lasts, the thread fetches nothing from the other partitions either.
    fn wind_up(&self, client: &BaseConsumer<Self>, partitions: &[i32]) {
        let (began, mut committed_at) = (Instant::now(), Instant::now());
        while began.elapsed() < WIND_UP_MAX && !client.assignment_lost() {
            let mut state = self.shared.state();
            // A consumer that leaves has waited already, or does not want to.
            if state.is_leaving || !state.parts.wind_up(partitions) {
                return;
            }
            // The thread commits otherwise, but it is waiting here.
            let is_due = state.is_dirty && committed_at.elapsed() >= COMMIT_EVERY;
            let progress = if is_due { state.parts.to_commit() } else { Vec::new() };
            state.is_dirty &= !is_due;
            drop(state);
            if is_due {
                self.commit(client, &progress, CommitMode::Async);
                committed_at = Instant::now();
            }
            self.shared.wake.wait(WIND_UP_LOOK);
        }
    }

    fn give_back(&self, client: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let given: Vec<i32> = partitions.elements().iter().map(|element| element.partition()).collect();
        self.wind_up(client, &given);
        let mut state = self.shared.state();
        let last = state.parts.to_commit_last(&given);
        given.iter().for_each(|partition| state.parts.give_up(*partition));
        drop(state);
        for partition in given {
            let queue = self.lock_queues().remove(&partition);
            drop(queue);
        }
        // A lost partition belongs to another member, who decides what is committed. For the others this waits for the
        // answer, since the next owner begins there. The wait ends at the latest after the time that a coordinator may
        // be away or silent (`session.timeout.ms`, `socket.timeout.ms`).
        if !client.assignment_lost() {
            self.commit(client, &last, CommitMode::Sync);
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.shared.membership.voice.log(level, facility, line);
        self.look_again();
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.shared.membership.voice.error(error, reason);
        self.look_again();
    }

    fn stats(&self, _: Statistics) {}
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        client: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let is_cooperative = matches!(client.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let done = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                self.take_over(client, partitions);
                self.split(partitions);
                if is_cooperative { client.incremental_assign(partitions) } else { client.assign(partitions) }
            }
            _ => {
                self.give_back(client, partitions);
                if is_cooperative { client.incremental_unassign(partitions) } else { client.unassign() }
            }
        };
        if let Err(error) = done {
            warn!("a rebalance of the Kafka group failed: {error}");
        }
        self.look_again();
    }
}
