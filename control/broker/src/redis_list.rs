//! goim-example's queue: one list in Redis. Publishers push on its left, consumers pop on its right.
//!
//! It works together with Go: a Go job reads what this publishes, this reads what a Go logic publishes, and several
//! jobs share one list. The price is goim's too. A popped entry is gone: if job dies, what it had taken is lost, so a
//! push is delivered at most once, and two jobs keep no order between them. Groups have no meaning here, and
//! acknowledgements change nothing.
//!
//! To lose little, a consumer pops only what it is asked for. When it ends, it puts back what it has not handed out.
//! Needs Redis 6.2.

use std::{
    collections::VecDeque,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use grpc::envelope::Envelope;
use host::awake;
use redis::{RedisResult, Script};
use store::{Connection, Redis, RedisError};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tracing::warn;
use uuid::Uuid;

use super::{
    Broker, ConsumeError, Consumer, Delivery, Offset, Position, PublishError, Source,
    redis_shared::{Trouble, check_size, put_dead_letters, refused},
};
use crate::metrics::BrokerMetrics;

#[cfg(test)]
mod tests;

/// How long a consumer waits for an answer. A Redis that stands still carries out the pop when it goes on, and if its
/// connection was given up meanwhile, the popped entries are lost. A Redis that is gone ends its connection within this
/// time.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// Longest wait of one `BRPOP`. After it the reader notices that its consumer has ended. It cannot cut the wait off,
/// since that would lose what was popped.
const WAIT: Duration = Duration::from_millis(500);

/// Longest time for [`Consumer::leave`]: one wait, and putting entries back.
const LEAVE_MAX: Duration = Duration::from_secs(3);

/// Appends all elements, unless the list would then hold more than `ARGV[1]`. The first one is popped first. If they do
/// not fit, the answer is how many elements there are.
static PUBLISH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local waiting = redis.call('LLEN', KEYS[1])
        if waiting + #ARGV - 1 > tonumber(ARGV[1]) then
            return waiting
        end
        -- Lua passes a few thousand arguments at once.
        for first = 2, #ARGV, 1000 do
            redis.call('LPUSH', KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
        end
        return false
        ",
    )
});

/// The list of one topic.
pub struct RedisListBroker {
    redis: Redis,
    topic: Arc<str>,
    entries_max: usize,
    metrics: BrokerMetrics,
    closed: AtomicBool,
}

impl RedisListBroker {
    /// The list `topic` (`kafka.topic`, as in goim). It holds at most `entries_max` entries; beyond that a publish is
    /// refused as [`PublishError::Full`].
    pub fn new(redis: Redis, topic: &str, entries_max: usize, metrics: BrokerMetrics) -> Self {
        warn!(
            "the queue is the Redis list {topic}: a push is delivered at most once, what a dying job had taken is lost; \
             redis.mode = \"stream\" loses nothing"
        );
        RedisListBroker { redis, topic: topic.into(), entries_max, metrics, closed: AtomicBool::new(false) }
    }
}

#[async_trait]
impl Broker for RedisListBroker {
    async fn publish(&self, envelopes: Vec<Envelope>) -> Result<(), PublishError> {
        if self.closed.load(Relaxed) {
            return Err(PublishError::Unavailable("it is closed".into()));
        }
        check_size(&envelopes, self.entries_max)?;
        let mut publish = PUBLISH.prepare_invoke();
        publish.key(&*self.topic).arg(self.entries_max);
        for envelope in &envelopes {
            publish.arg(&envelope.to_bytes()[..]);
        }
        match self.redis.script::<Option<usize>>(&publish).await {
            Ok(None) => Ok(()),
            Ok(Some(waiting)) => {
                Err(PublishError::Full(format!("{waiting} entries wait in the list {}", self.topic)))
            }
            Err(error) => Err(refused(error)),
        }
    }

    /// Ignores the group: all consumers of the topic take from one list.
    async fn consume(&self, _: &str) -> Result<Box<dyn Consumer>, ConsumeError> {
        let (demand, demands) = mpsc::channel(1);
        let (redis, topic) = (self.redis.clone(), Arc::clone(&self.topic));
        let reader = Reader { redis, topic, connection: None, trouble: Trouble::default() };
        Ok(Box::new(ListConsumer {
            source: Source::new(format!("{}-{}", self.topic, Uuid::new_v4())),
            handed_out: 0,
            popped: VecDeque::new(),
            asked: None,
            demand: Some(demand),
            reader: Some(tokio::spawn(reader.run(demands))),
            redis: self.redis.clone(),
            topic: Arc::clone(&self.topic),
        }))
    }

    async fn dead_letter(&self, deliveries: Vec<Delivery>) {
        put_dead_letters(&self.redis, &self.topic, &deliveries, &self.metrics).await;
    }

    async fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    fn outlives_process(&self) -> bool {
        true
    }
}

type Popped = Result<VecDeque<Bytes>, RedisError>;

/// How many elements are wanted at most, and who gets the answer.
type Demand = (usize, oneshot::Sender<Popped>);

struct ListConsumer {
    /// A source of this consumer alone. It counts positions itself, since Redis does not number the entries of a list.
    source: Source,
    handed_out: u128,
    /// Popped but not handed out, oldest first. Empty while the reader has an open demand.
    popped: VecDeque<Bytes>,
    /// The answer to the last demand. It outlives a `next_batch` that was dropped.
    asked: Option<oneshot::Receiver<Popped>>,
    /// None once the consumer is leaving.
    demand: Option<mpsc::Sender<Demand>>,
    reader: Option<JoinHandle<()>>,
    redis: Redis,
    topic: Arc<str>,
}

impl ListConsumer {
    /// Stops the reader, and returns what was not handed out.
    fn stop(&mut self) -> VecDeque<Bytes> {
        self.demand = None;
        if let Some(mut asked) = self.asked.take() {
            // From now on the reader cannot answer, so it puts back itself what it pops.
            asked.close();
            if let Ok(Ok(popped)) = asked.try_recv() {
                return popped;
            }
        }
        std::mem::take(&mut self.popped)
    }
}

#[async_trait]
impl Consumer for ListConsumer {
    async fn next_batch(&mut self, max: usize) -> Result<Vec<Delivery>, ConsumeError> {
        let ended = || ConsumeError::Unavailable("the reader of the list has ended".to_owned());
        while self.popped.is_empty() {
            if self.asked.is_none() {
                let (answer, asked) = oneshot::channel();
                let demand = self.demand.as_ref().ok_or_else(ended)?;
                // The reader takes each demand before it answers the one before, so there is room.
                demand.try_send((max.max(1), answer)).map_err(|_| ended())?;
                self.asked = Some(asked);
            }
            let Some(asked) = &mut self.asked else { continue };
            let answer = asked.await;
            self.asked = None;
            self.popped =
                answer.map_err(|_| ended())?.map_err(|error| ConsumeError::Unavailable(error.to_string()))?;
        }
        let count = self.popped.len().min(max.max(1));
        let deliver = |bytes| {
            self.handed_out += 1;
            Delivery {
                position: Position { source: self.source.clone(), offset: Offset(self.handed_out) },
                bytes,
            }
        };
        Ok(self.popped.drain(..count).map(deliver).collect())
    }

    async fn ack(&mut self, _: &Position) -> Result<(), ConsumeError> {
        Ok(())
    }

    async fn leave(mut self: Box<Self>) {
        let rest = self.stop();
        let reader = self.reader.take();
        let _ = timeout(LEAVE_MAX, async {
            put_back(&self.redis, &self.topic, rest).await;
            if let Some(reader) = reader {
                let _ = reader.await;
            }
        })
        .await;
    }
}

impl Drop for ListConsumer {
    fn drop(&mut self) {
        let rest = self.stop();
        if let (false, Ok(runtime)) = (rest.is_empty(), Handle::try_current()) {
            let (redis, topic) = (self.redis.clone(), Arc::clone(&self.topic));
            runtime.spawn(async move { put_back(&redis, &topic, rest).await });
        }
    }
}

/// Puts elements back so that they are popped next, in their order.
async fn put_back(redis: &Redis, topic: &str, popped: VecDeque<Bytes>) {
    if popped.is_empty() {
        return;
    }
    let mut push = redis::cmd("RPUSH");
    push.arg(topic);
    popped.iter().rev().for_each(|element| {
        push.arg(&element[..]);
    });
    if let Err(error) = redis.command::<()>(&push).await {
        warn!("{} pushes are lost, they cannot be put back on the list {topic}: {error}", popped.len());
    }
}

/// Pops elements on demand, on a connection of its own.
struct Reader {
    redis: Redis,
    topic: Arc<str>,
    connection: Option<Connection>,
    trouble: Trouble,
}

impl Reader {
    async fn run(mut self, mut demands: mpsc::Receiver<Demand>) {
        while let Some((max, answer)) = demands.recv().await {
            let popped = loop {
                let error = match self.pop(max, &answer).await {
                    Ok(popped) => break Ok(popped),
                    Err(error) => error,
                };
                self.redis.metrics().failed(&error);
                self.connection = None;
                if let Some(error) = self.trouble.pause(error).await {
                    break Err(error);
                }
            };
            if let Err(Ok(popped)) = answer.send(popped) {
                put_back(&self.redis, &self.topic, popped).await;
            }
        }
    }

    /// Pops up to `max` elements. Returns none only if nobody waits for them any more.
    async fn pop(&mut self, max: usize, answer: &oneshot::Sender<Popped>) -> Popped {
        if answer.is_closed() {
            return Ok(VecDeque::new());
        }
        let mut connection = match &self.connection {
            Some(connection) => connection.clone(),
            None => self.connection.insert(self.redis.dedicated().await?).clone(),
        };
        let mut waiting = redis::cmd("RPOP");
        waiting.arg(&*self.topic).arg(max);
        let mut next = redis::cmd("BRPOP");
        next.arg(&*self.topic).arg(WAIT.as_secs_f64());
        while !answer.is_closed() {
            let popped: Option<Vec<Vec<u8>>> = self.answer(waiting.query_async(&mut connection)).await?;
            self.trouble.is_over();
            if let Some(popped) = popped {
                return Ok(popped.into_iter().map(Bytes::from).collect());
            }
            let popped: Option<(Vec<u8>, Vec<u8>)> = self.answer(next.query_async(&mut connection)).await?;
            if let Some((_, popped)) = popped {
                return Ok(VecDeque::from([Bytes::from(popped)]));
            }
        }
        Ok(VecDeque::new())
    }

    /// Waits for the answer of a pop for long, because what was popped is on no list any more: the answer may have come
    /// while this process stood still, or Redis may stand still. But if the shared connection was made anew meanwhile,
    /// perhaps to another Redis after a failover, this waits only a little longer.
    async fn answer<T>(&self, command: impl Future<Output = RedisResult<T>>) -> Result<T, RedisError> {
        let mut ready = self.redis.ready();
        ready.mark_unchanged();
        let deadline = self.redis.deadline();
        let connected_anew = async {
            // The connection holds the sender.
            while ready.changed().await.is_ok() && !*ready.borrow_and_update() {}
            awake::sleep(WAIT + deadline).await;
        };
        tokio::select! {
            biased;
            answer = awake::timeout(ANSWER_MAX, command) => {
                let silent = |_| RedisError::Unknown(format!("no answer within {ANSWER_MAX:?}"));
                answer.map_err(silent)?.map_err(|error| RedisError::from(error).under_way())
            }
            () = connected_anew => {
                Err(RedisError::Unknown("no answer, though Redis was connected to once more".to_owned()))
            }
        }
    }
}
