//! What logic and job count. Names start with `halley_`; counters end in `_total` (the library adds it).
//!
//! Each struct is made once, registered once, and cheap to clone: clones count into the same metrics. A label's counter
//! is looked up when the struct is made, never per push.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Upper bounds of latencies, seconds: from a memory broker's microseconds to the ten seconds of `dispatch.giveUp`.
const LATENCY_BUCKETS: [f64; 15] =
    [1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 2.0, 10.0];

/// Statuses that the HTTP API answers with when it refuses or fails: each stands at 0 until it happens.
pub(crate) const HTTP_ERRORS: [u16; 10] = [400, 401, 403, 404, 405, 408, 413, 429, 503, 504];

/// Declares the values of one label.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $key:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl Label for $name {
            const KEY: &'static str = $key;
            const WORDS: &'static [&'static str] = &[$($word,)*];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

/// The values of a label, known when the program is compiled.
pub trait Label: Copy + 'static {
    /// The label's name.
    const KEY: &'static str;
    /// Its values, by [`index`](Self::index).
    const WORDS: &'static [&'static str];

    /// Place of this value.
    fn index(self) -> usize;
}

label! {
    /// What a push is addressed to.
    PushKind, "kind" {
        /// Devices.
        Keys = "keys",
        /// Users.
        Mids = "mids",
        /// Rooms.
        Room = "room",
        /// Everybody.
        All = "all",
    }
}

label! {
    /// How a login ended.
    LoginResult, "result" {
        /// Accepted.
        Ok = "ok",
        /// Refused for good.
        Refused = "refused",
        /// The session store was away.
        Unavailable = "unavailable",
        /// A newer login of the same key came first.
        Superseded = "superseded",
        /// It was found when its comet had stopped waiting: not begun.
        Late = "late",
        /// The key's session lies ahead of the store's clock: the client has to come again.
        Undecided = "undecided",
    }
}

label! {
    /// What became of the kick of a connection whose key logged in on another comet.
    ReplacedKick, "result" {
        /// Its comet has it.
        Taken = "taken",
        /// Its comet is away or gone, or too many were under way.
        Failed = "failed",
        /// Its comet is goim's, which knows no kick.
        Unsupported = "unsupported",
    }
}

label! {
    /// What became of a client's message.
    MessageResult, "result" {
        /// Published to the sender's room.
        Room = "room",
        /// Answered with an empty body: no room, refused by configuration, or an operation nobody serves.
        Empty = "empty",
        /// The broker did not take it.
        Failed = "failed",
    }
}

label! {
    /// Why a dispatch did not reach a comet. When it reached no other either, it is a dead letter.
    DropReason, "reason" {
        /// Not acknowledged within `dispatch.giveUp`, or beyond the link's queue.
        CometUnreachable = "comet_unreachable",
        /// No comet is there, or not the one that holds the keys.
        NoComet = "no_comet",
        /// comet called it malformed.
        Invalid = "invalid",
        /// An entry of the broker that nobody can read.
        Poison = "poison",
    }
}

label! {
    /// How a command to Redis failed.
    RedisFailure, "reason" {
        /// It did not answer in time, or the connection broke: it may have been carried out.
        Unknown = "unknown",
        /// It did not do it, and said why.
        Refused = "refused",
    }
}

label! {
    /// Why what is done with may come again: it is not known to be committed.
    CommitFailure, "reason" {
        /// The broker has not got what it was told to commit. It is told again.
        Refused = "refused",
        /// The broker did not say in time what it has got.
        Timeout = "timeout",
    }
}

/// One pair of name and value.
type Labels = [(&'static str, &'static str); 1];

/// One counter per value of a label, all there from the start, so that a counter that never moved reads 0.
#[derive(Clone, Debug)]
pub struct CounterBy<L> {
    family: Family<Labels, Counter>,
    counters: Arc<[Counter]>,
    label: std::marker::PhantomData<L>,
}

impl<L: Label> Default for CounterBy<L> {
    fn default() -> Self {
        let family = Family::<Labels, Counter>::default();
        let counters = L::WORDS.iter().map(|word| family.get_or_create_owned(&[(L::KEY, word)])).collect();
        CounterBy { family, counters, label: std::marker::PhantomData }
    }
}

impl<L: Label> CounterBy<L> {
    /// The counter of one value.
    pub fn of(&self, label: L) -> &Counter {
        &self.counters[label.index()]
    }

    /// Every value of the label with its count.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        L::WORDS.iter().copied().zip(self.counters.iter().map(|counter| counter.get()))
    }
}

/// A histogram of seconds, with buckets from 10 µs to 10 s.
#[derive(Clone, Debug)]
pub struct Latency(Histogram);

impl Default for Latency {
    fn default() -> Self {
        Latency(Histogram::new(LATENCY_BUCKETS))
    }
}

impl Latency {
    /// Adds one measurement.
    pub fn observe(&self, latency: Duration) {
        self.0.observe(latency.as_secs_f64());
    }

    /// Adds the time from `since_us` (wall clock, µs since the epoch; 0 = unknown, not counted) to `now_us`. A clock
    /// that was set back counts as no time.
    pub fn observe_since(&self, since_us: u64, now_us: u64) {
        if since_us != 0 {
            self.observe(Duration::from_micros(now_us.saturating_sub(since_us)));
        }
    }
}

/// What a broker measures.
#[derive(Clone, Debug, Default)]
pub struct BrokerMetrics {
    entries: Gauge,
    bytes: Gauge,
    /// Dead letters that could not be put aside either, or went for newer ones.
    pub dead_letters_lost: Counter,
    /// Acknowledgements that the broker did not confirm.
    pub commit_failures: CounterBy<CommitFailure>,
    commit_age: Gauge<f64, AtomicU64>,
}

impl BrokerMetrics {
    /// Adds the metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let (entries, bytes) = (self.entries.clone(), self.bytes.clone());
        registry.register("halley_broker_entries", "Entries not yet acknowledged", entries);
        registry.register("halley_broker_bytes", "Bytes of the entries not yet acknowledged", bytes);
        registry.register(
            "halley_dead_letters_lost",
            "Dead letters that could not be put aside, or went for newer ones",
            self.dead_letters_lost.clone(),
        );
        registry.register(
            "halley_broker_commit_failures",
            "Acknowledgements that the broker did not confirm",
            self.commit_failures.family.clone(),
        );
        registry.register(
            "halley_broker_commit_age_seconds",
            "How long the oldest acknowledgement has waited for the broker to confirm it",
            self.commit_age.clone(),
        );
    }

    /// Says how long the oldest acknowledgement that the broker has not confirmed has waited.
    pub fn set_commit_age(&self, age: Duration) {
        self.commit_age.set(age.as_secs_f64());
    }

    /// Says how much is in the broker now.
    pub fn set_depth(&self, entries: usize, bytes: usize) {
        self.set_entries(entries);
        self.bytes.set(bytes as i64);
    }

    /// Says how many entries are in the broker now, where nobody counts their bytes.
    pub fn set_entries(&self, entries: usize) {
        self.entries.set(entries as i64);
    }
}

/// What the connection to Redis measures.
#[derive(Clone, Debug, Default)]
pub struct RedisMetrics {
    /// Commands that were sent and not carried out, as far as is known.
    pub failures: CounterBy<RedisFailure>,
}

impl RedisMetrics {
    /// Counts an error. What was never sent is told by the readiness, and counted by who had something to send.
    #[cfg(feature = "redis")]
    pub(crate) fn failed(&self, error: &crate::redis::RedisError) {
        let reason = match error {
            crate::redis::RedisError::Away(_) => return,
            crate::redis::RedisError::Unknown(_) => RedisFailure::Unknown,
            _ => RedisFailure::Refused,
        };
        self.failures.of(reason).inc();
    }

    /// Adds the metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "halley_redis_failures",
            "Commands to Redis that failed, or were not answered",
            self.failures.family.clone(),
        );
    }
}

/// What a session store measures.
#[derive(Clone, Debug, Default)]
pub struct SessionMetrics {
    sessions: Gauge,
}

impl SessionMetrics {
    /// Adds the metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("halley_sessions", "Sessions stored", self.sessions.clone());
    }

    /// Says how many sessions there are now.
    pub fn set_sessions(&self, sessions: usize) {
        self.sessions.set(sessions as i64);
    }
}

/// What logic measures.
#[derive(Clone, Debug)]
pub struct LogicMetrics {
    /// Pushes accepted.
    pub pushes: CounterBy<PushKind>,
    /// Keys and users of accepted pushes that nobody is online for.
    pub push_offline: Counter,
    /// Requests of the HTTP API that were refused or failed, by status.
    pub http_errors: Family<[(&'static str, u16); 1], Counter>,
    /// How long the broker took to take a push.
    pub publish: Latency,
    /// From the acceptance of a push to the broker having it.
    pub accept_to_broker: Latency,
    /// Logins.
    pub logins: CounterBy<LoginResult>,
    /// Messages of clients.
    pub client_messages: CounterBy<MessageResult>,
    /// Kicks of connections whose key logged in on another comet.
    pub replaced: CounterBy<ReplacedKick>,
}

impl Default for LogicMetrics {
    fn default() -> Self {
        let http_errors = Family::<_, Counter>::default();
        HTTP_ERRORS.iter().for_each(|status| drop(http_errors.get_or_create(&[("code", *status)])));
        LogicMetrics {
            pushes: CounterBy::default(),
            push_offline: Counter::default(),
            http_errors,
            publish: Latency::default(),
            accept_to_broker: Latency::default(),
            logins: CounterBy::default(),
            client_messages: CounterBy::default(),
            replaced: CounterBy::default(),
        }
    }
}

impl LogicMetrics {
    /// Adds the metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("halley_pushes", "Pushes accepted", self.pushes.family.clone());
        registry.register(
            "halley_push_offline",
            "Keys and users of accepted pushes that nobody is online for",
            self.push_offline.clone(),
        );
        registry.register("halley_http_errors", "HTTP answers of 400 and above", self.http_errors.clone());
        registry.register(
            "halley_publish_seconds",
            "How long the broker took to take a push",
            self.publish.0.clone(),
        );
        registry.register(
            "halley_accept_to_broker_seconds",
            "From the acceptance of a push to the broker having it",
            self.accept_to_broker.0.clone(),
        );
        registry.register("halley_logic_logins", "Logins decided", self.logins.family.clone());
        registry.register(
            "halley_client_messages",
            "Messages of clients that logic took",
            self.client_messages.family.clone(),
        );
        registry.register(
            "halley_replaced_kicks",
            "Kicks of connections whose key logged in on another comet",
            self.replaced.family.clone(),
        );
    }

    /// Counts an answer of the HTTP API that is not a success.
    pub fn http_error(&self, status: u16) {
        debug_assert!(HTTP_ERRORS.contains(&status), "{status} is not in HTTP_ERRORS");
        self.http_errors.get_or_create(&[("code", status)]).inc();
    }
}

/// What job measures.
#[derive(Clone, Debug, Default)]
pub struct JobMetrics {
    /// Dispatches a comet acknowledged.
    pub dispatches: Counter,
    /// Dispatches and entries that did not arrive.
    pub drops: CounterBy<DropReason>,
    /// Bytes waiting for a comet.
    pub queue_bytes: Gauge,
    /// From the acceptance of a push to the comet having it.
    pub accept_to_dispatch: Latency,
}

impl JobMetrics {
    /// Adds the metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "halley_job_dispatches",
            "Dispatches acknowledged by a comet",
            self.dispatches.clone(),
        );
        registry.register(
            "halley_dispatch_drops",
            "Dispatches and broker entries that reached no comet",
            self.drops.family.clone(),
        );
        registry.register(
            "halley_dispatch_queue_bytes",
            "Bytes waiting for a comet",
            self.queue_bytes.clone(),
        );
        registry.register(
            "halley_accept_to_dispatch_seconds",
            "From the acceptance of a push to the comet having it",
            self.accept_to_dispatch.0.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_exposed_under_its_name() {
        let mut registry = Registry::default();
        BrokerMetrics::default().register(&mut registry);
        SessionMetrics::default().register(&mut registry);
        let (logic, job) = (LogicMetrics::default(), JobMetrics::default());
        logic.register(&mut registry);
        job.register(&mut registry);
        logic.pushes.of(PushKind::Room).inc();
        logic.http_error(429);
        job.drops.of(DropReason::NoComet).inc_by(3);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "halley_broker_entries 0",
            "halley_dead_letters_lost_total 0",
            "halley_broker_commit_failures_total{reason=\"timeout\"} 0",
            "halley_broker_commit_age_seconds 0.0",
            "halley_sessions 0",
            "halley_pushes_total{kind=\"room\"} 1",
            "halley_pushes_total{kind=\"all\"} 0",
            "halley_http_errors_total{code=\"429\"} 1",
            "halley_http_errors_total{code=\"503\"} 0",
            "halley_dispatch_drops_total{reason=\"no_comet\"} 3",
            "halley_dispatch_drops_total{reason=\"poison\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in:\n{text}");
        }
    }

    #[test]
    fn an_unknown_start_is_not_measured() {
        let (latency, mut registry) = (Latency::default(), Registry::default());
        registry.register("l", "l", latency.0.clone());
        latency.observe_since(0, 5);
        latency.observe_since(7, 5);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("l_count 1\n") && text.contains("l_sum 0.0\n"), "{text}");
    }
}
