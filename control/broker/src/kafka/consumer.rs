//! One member of a consumer group: the consumer that job holds, and the thread that speaks with Kafka.
//!
//! librdkafka blocks while it gives partitions back and while it leaves, so the member has a thread of its own. Each
//! partition has its own queue in librdkafka. If job takes nothing, entries stay there, within librdkafka's bounds, and
//! the thread still serves the group.
//!
//! The thread commits what is acknowledged without waiting for an answer. A second thread checks whether Kafka has it
//! ([`progress`]).

mod callbacks;
mod offsets;
mod progress;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use host::backoff::Backoff;
use rdkafka::{
    ClientConfig, Message,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use tracing::{debug, warn};

use self::{callbacks::Context, progress::Looker};
use super::{
    assignment::Assignment,
    client::{Servers, Voice, settings},
    config::Assignor,
    wake_flag::WakeFlag,
};
use crate::{ConsumeError, Consumer, Delivery, Position, metrics::BrokerMetrics};

/// The thread commits acknowledgements together, this often. If job is killed, what it had not committed comes again.
const COMMIT_EVERY: Duration = Duration::from_millis(100);

/// How often it commits while Kafka does not say what it has. The longer pause keeps few commits waiting in librdkafka.
const COMMIT_UNANSWERED_EVERY: Duration = Duration::from_secs(1);

/// How long the thread sleeps at most if nothing happens.
const IDLE: Duration = Duration::from_secs(1);

/// How long a process waits for its members to leave their groups.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// First and longest pause before a client that died is replaced. The pause doubles each time.
const REBIRTH: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];

/// What a consumer needs to become a member.
pub(super) struct Membership {
    pub(super) servers: Servers,
    pub(super) topic: String,
    pub(super) group: String,
    pub(super) assignor: Assignor,
    pub(super) voice: Voice,
    /// Number of members that were dropped and have not left yet.
    pub(super) leaving: watch::Sender<usize>,
    pub(super) metrics: BrokerMetrics,
}

impl Membership {
    fn settings(&self) -> ClientConfig {
        let mut config = settings(&self.servers);
        config
            .set("group.id", &self.group)
            .set("partition.assignment.strategy", self.assignor.name())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("allow.auto.create.topics", "true")
            // The shortest that brokers allow by default. The partitions of a killed job wait this long for another
            // one.
            .set("session.timeout.ms", "6000")
            // Within this time members hear of a rebalance.
            .set("heartbeat.interval.ms", "1000")
            // How much librdkafka fetches ahead, for each partition.
            .set("queued.min.messages", "4096")
            .set("queued.max.messages.kbytes", "4096")
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.error.backoff.ms", "100");
        config
    }
}

/// A member of a group.
pub(super) struct KafkaConsumer {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when entries have arrived.
    arrived: Notify,
    /// Wakes the thread.
    wake: Arc<WakeFlag>,
    membership: Membership,
}

struct State {
    parts: Assignment,
    /// The thread has found no room for more entries.
    is_full: bool,
    /// An acknowledgement waits to be committed.
    is_dirty: bool,
    /// Kafka answered when it was last asked where the group stands.
    is_answered: bool,
    /// Since when the oldest acknowledgement waits that Kafka perhaps does not have.
    behind_since: Option<Instant>,
    /// The group has members that share differently, like goim's, and this member has logged that it stands by.
    stands_by: bool,
    is_leaving: bool,
}

impl KafkaConsumer {
    pub(super) fn join(membership: Membership) -> Result<Self, ConsumeError> {
        let state = State {
            parts: Assignment::new(&membership.topic),
            is_full: false,
            is_dirty: false,
            is_answered: true,
            behind_since: None,
            stands_by: false,
            is_leaving: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            arrived: Notify::new(),
            wake: Arc::default(),
            membership,
        });
        let unavailable = |error: String| ConsumeError::Unavailable(error);
        let client = shared.new_client().map_err(|error| unavailable(error.to_string()))?;
        let of_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("kafka-consumer".into())
            .spawn(move || of_thread.run(client))
            .map_err(|error| unavailable(error.to_string()))?;
        Ok(KafkaConsumer { shared })
    }
}

#[async_trait]
impl Consumer for KafkaConsumer {
    async fn next_batch(&mut self, max: usize) -> Result<Vec<Delivery>, ConsumeError> {
        loop {
            // Register before looking, so that nothing is missed that arrives between the look and the wait.
            let mut arrived = std::pin::pin!(self.shared.arrived.notified());
            arrived.as_mut().enable();
            let taken = self.shared.hand_out(max.max(1));
            if !taken.is_empty() {
                return Ok(taken);
            }
            arrived.await;
        }
    }

    async fn ack(&mut self, position: &Position) -> Result<(), ConsumeError> {
        let mut state = self.shared.state();
        if state.parts.acknowledge(position) {
            state.behind_since.get_or_insert_with(Instant::now);
            if !std::mem::replace(&mut state.is_dirty, true) {
                drop(state);
                self.shared.wake.set();
            }
        }
        Ok(())
    }

    async fn leave(self: Box<Self>) {
        let leaving = self.shared.membership.leaving.clone();
        drop(self);
        all_left(&leaving).await;
    }
}

/// Waits, a few seconds at most, until members that were dropped have committed and left.
pub(super) async fn all_left(leaving: &watch::Sender<usize>) {
    if timeout(LEAVE_MAX, leaving.subscribe().wait_for(|members| *members == 0)).await.is_err() {
        warn!("Kafka does not take the last commits: their entries will come again");
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.shared.membership.leaving.send_modify(|members| *members += 1);
        self.shared.state().is_leaving = true;
        self.shared.wake.set();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_out(&self, max: usize) -> Vec<Delivery> {
        let mut state = self.state();
        let taken = state.parts.hand_out(max);
        if !taken.is_empty() && std::mem::take(&mut state.is_full) {
            drop(state);
            self.wake.set();
        }
        taken
    }

    /// Makes a client and has it join the group.
    fn new_client(self: &Arc<Self>) -> Result<Client, KafkaError> {
        let context = Context::new(Arc::clone(self));
        let mut client = BaseConsumer::from_config_and_context(&self.membership.settings(), context)?;
        client.set_nonempty_callback(waking(&self.wake));
        let consumer = Arc::new(client);
        consumer.context().speaks_through(&consumer);
        consumer.subscribe(&[&self.membership.topic])?;
        let looker = Looker::start(Arc::clone(self), Arc::clone(&consumer))
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Client { consumer, looker: Some(looker), turn: 0 })
    }

    fn tell_age(&self) {
        let mut state = self.state();
        if !state.parts.is_behind() {
            state.behind_since = None;
        }
        let age = state.behind_since.map_or(Duration::ZERO, |since| since.elapsed());
        drop(state);
        self.membership.metrics.set_commit_age(age);
    }

    /// Runs the thread of the member.
    fn run(self: Arc<Self>, mut client: Client) {
        let [first, max] = REBIRTH;
        let mut backoff = Backoff::new(first, max);
        loop {
            match client.serve(&self) {
                Ok(()) => break,
                Err(error) => {
                    warn!("the Kafka client died and is made anew: {error}");
                    drop(client);
                    self.disown();
                }
            }
            client = loop {
                thread::sleep(backoff.step());
                if self.state().is_leaving {
                    return self.left();
                }
                match self.new_client() {
                    Ok(client) => break client,
                    Err(error) => warn!("cannot make a Kafka client, trying again: {error}"),
                }
            };
        }
        // Dropping the client commits what was acknowledged and gives the partitions back.
        drop(client);
        self.left();
    }

    fn disown(&self) {
        self.state().parts.give_up_all();
    }

    fn left(&self) {
        self.membership.leaving.send_modify(|members| *members -= 1);
    }
}

fn waking(wake: &Arc<WakeFlag>) -> impl Fn() + Send + Sync + 'static {
    let wake = Arc::clone(wake);
    move || wake.set()
}

/// The member's client, which its thread uses.
struct Client {
    consumer: Arc<BaseConsumer<Context>>,
    /// None while the client ends.
    looker: Option<Looker>,
    /// Turns with each round. It decides which partition comes first.
    turn: usize,
}

impl Client {
    /// Serves the group until the member leaves, or until the client is dead.
    fn serve(&mut self, shared: &Shared) -> Result<(), KafkaError> {
        let mut committed_at = Instant::now();
        loop {
            // This serves rebalances, which go to the context. Entries come by the queues of their partitions.
            while let Some(event) = self.consumer.poll(Duration::ZERO) {
                let event = event.map(|message| take_in(shared, [entry(&message)]));
                event.or_else(|error| survive(shared, &error))?;
            }
            let is_drained = self.fetch(shared)?;
            let mut wait = if is_drained { IDLE } else { Duration::ZERO };
            let state = shared.state();
            if state.is_leaving {
                return Ok(());
            }
            if state.is_dirty {
                let every = if state.is_answered { COMMIT_EVERY } else { COMMIT_UNANSWERED_EVERY };
                let left = every.saturating_sub(committed_at.elapsed());
                if left.is_zero() {
                    self.commit(state);
                    committed_at = Instant::now();
                } else {
                    wait = wait.min(left);
                    drop(state);
                }
            } else {
                drop(state);
            }
            if !wait.is_zero() {
                shared.wake.wait(wait);
            }
        }
    }

    /// Takes entries of the partitions while there is room; false if there may be more.
    fn fetch(&mut self, shared: &Shared) -> Result<bool, KafkaError> {
        /// Most entries of one partition, and most bytes of them, before the next one has its turn.
        const AT_ONCE: usize = 128;
        const BYTES_AT_ONCE: usize = 1 << 20;
        let mut is_drained = true;
        let queues = self.consumer.context().queues();
        let first = self.turn;
        self.turn = self.turn.wrapping_add(1);
        for place in 0..queues.len() {
            {
                let mut state = shared.state();
                state.is_full = !state.parts.has_room();
                if state.is_full {
                    // `hand_out` wakes the thread when there is room again.
                    return Ok(true);
                }
            }
            let queue = &queues[(first + place) % queues.len()];
            let mut entries = Vec::new();
            let (mut bytes, mut failed) = (0, None);
            let has_had_its_turn = loop {
                if entries.len() == AT_ONCE || bytes >= BYTES_AT_ONCE {
                    break true;
                }
                match queue.poll(Duration::ZERO) {
                    Some(Ok(message)) => {
                        bytes += message.payload_len();
                        entries.push(entry(&message));
                    }
                    Some(Err(error)) => failed = Some(error),
                    None => break false,
                }
            };
            is_drained &= !has_had_its_turn;
            if !entries.is_empty() {
                take_in(shared, entries);
            }
            failed.map_or(Ok(()), |error| survive(shared, &error))?;
        }
        Ok(is_drained)
    }

    /// Commits what was acknowledged, without waiting for an answer.
    fn commit(&self, mut state: MutexGuard<'_, State>) {
        state.is_dirty = false;
        let progress = state.parts.to_commit();
        // librdkafka may call back, so the state must not be locked.
        drop(state);
        self.consumer.context().commit(&self.consumer, &progress, CommitMode::Async);
    }
}

impl Drop for Client {
    /// The consumer leaves its group when it is dropped, so nobody else may hold it.
    fn drop(&mut self) {
        self.looker = None;
        self.consumer.context().drop_queues();
    }
}

fn entry(message: &impl Message) -> (i32, i64, Bytes) {
    // A record without a value is no push either. job finds out.
    let value = message.payload().map(Bytes::copy_from_slice).unwrap_or_default();
    (message.partition(), message.offset(), value)
}

fn take_in(shared: &Shared, entries: impl IntoIterator<Item = (i32, i64, Bytes)>) {
    let mut state = shared.state();
    for (partition, offset, value) in entries {
        if state.parts.fetched(partition, offset, value) {
            let topic = &shared.membership.topic;
            warn!(
                "partition {partition} of {topic} starts again at {offset}: the topic was made anew, or lost its end"
            );
        }
    }
    drop(state);
    shared.arrived.notify_waiters();
}

/// Returns fatal errors only. librdkafka recovers from everything else by itself.
fn survive(shared: &Shared, error: &KafkaError) -> Result<(), KafkaError> {
    if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
        return Err(error.clone());
    }
    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::InconsistentGroupProtocol)
        && !std::mem::replace(&mut shared.state().stands_by, true)
    {
        let Membership { group, assignor, .. } = &shared.membership;
        warn!(
            "the group {group} has members that do not share by {}, such as Go jobs: standing by until the last of them \
             has left",
            assignor.name()
        );
    }
    debug!("Kafka, while consuming: {error}");
    Ok(())
}
