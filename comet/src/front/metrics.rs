//! The gateway's counters for Prometheus: those of the shards, of which each tick brings a copy, and the front's.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use contract::{Dispatch, Payload, Receivers};
use host::telemetry::OUTSIDERS;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder},
    metrics::MetricType,
    registry::Registry,
};
use proto::close::CloseReason;
use seam::wall_micros;
use shard::stats::{BAD_INPUT, BUCKETS, DropReason, HandshakeKind, Histogram, PerTransport, Stats};
use tls::Version;
use tracing::{Level, debug, warn};

use super::lock;

/// Some of the counters at one moment, over all shards, for the page.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Sockets open now, logged in or not.
    pub connections: PerTransport,
    /// Connections logged in now.
    pub open: u64,
    /// Frames written to clients since the start, pushes and replies.
    pub deliveries: u64,
    /// Frames not delivered, by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Bad input by protocol and reason.
    pub bad_input: BTreeMap<(&'static str, &'static str), u64>,
    /// Time from logic's acceptance of a push until the front begins its dispatch.
    pub accept_to_dispatch: Histogram,
    /// Time from the front's hand-out until the shard takes it.
    pub dispatch_to_shard: Histogram,
    /// Time from the begin of a write to its end.
    pub shard_to_written: Histogram,
    /// Time of the whole way, from logic's acceptance of the oldest push in a write to the write's end.
    pub accept_to_written: Histogram,
}

/// Counters of one comet.
#[derive(Debug, Default)]
pub struct Metrics {
    shards: Mutex<Vec<Stats>>,
    front: Mutex<FrontCounters>,
}

/// Values of the front's labels. Each counter stands at 0 from the start, because `rate()` would miss the first count
/// otherwise.
const DISPATCHES: [&str; 3] = ["keys", "room", "all"];
const LOGINS: [&str; 4] = ["accepted", "refused", "unavailable", "client_left"];
const LOGIC_FAILURES: [&str; 6] =
    ["connect", "heartbeat", "renew_online", "incarnation", "receive", "disconnect"];
const GIVEN_UP: [&str; 7] =
    ["heartbeat", "disconnect", "receive", "replaced", "announce", "connect", "reply"];

/// Clients that were given the wrong port. The operator hears of the first.
const WRONG_PORT: [(&str, &str); 2] = [
    (
        "plain_text",
        "a client without TLS came to a port with it (tcp.tlsBind, websocket.tlsBind) and was cut off",
    ),
    ("clear_port", "a client with TLS came to a port without it (tcp.bind, websocket.bind) and was cut off"),
];

#[derive(Debug)]
struct FrontCounters {
    dispatches: BTreeMap<&'static str, u64>,
    dispatched_bytes: u64,
    logins: BTreeMap<&'static str, u64>,
    logic_failures: BTreeMap<&'static str, u64>,
    given_up: BTreeMap<&'static str, u64>,
    accepted_to_dispatch: Histogram,
}

impl Default for FrontCounters {
    fn default() -> Self {
        FrontCounters {
            dispatches: zeros(DISPATCHES),
            dispatched_bytes: 0,
            logins: zeros(LOGINS),
            logic_failures: zeros(LOGIC_FAILURES),
            given_up: zeros(GIVEN_UP),
            accepted_to_dispatch: Histogram::default(),
        }
    }
}

fn zeros<L: Ord>(labels: impl IntoIterator<Item = L>) -> BTreeMap<L, u64> {
    labels.into_iter().map(|label| (label, 0)).collect()
}

fn count(counts: &mut BTreeMap<&'static str, u64>, label: &'static str) {
    debug_assert!(counts.contains_key(label), "{label} is missing in the list of its label's values");
    *counts.entry(label).or_default() += 1;
}

impl Metrics {
    /// Counters of a comet with this many shards.
    pub fn new(shards: usize) -> Arc<Metrics> {
        Arc::new(Metrics { shards: Mutex::new(vec![Stats::default(); shards]), ..Metrics::default() })
    }

    /// Registers the counters with a process's registry.
    pub fn register(self: &Arc<Metrics>, registry: &mut Registry) {
        registry.register_collector(Box::new(Arc::clone(self)));
    }

    /// Sum of a number over all shards, as of their last ticks.
    pub fn sum(&self, number: impl Fn(&Stats) -> u64) -> u64 {
        lock(&self.shards).iter().map(number).sum()
    }

    /// What the page shows, as of the shards' last ticks.
    pub fn snapshot(&self) -> Snapshot {
        let mut all = Snapshot::default();
        for stats in lock(&self.shards).iter() {
            all.connections.tcp += stats.connections.tcp;
            all.connections.websocket += stats.connections.websocket;
            all.open += stats.open;
            all.deliveries += stats.deliveries;
            stats.drops.iter().for_each(|(reason, n)| *all.drops.entry(reason.label()).or_default() += n);
            stats.bad_input.iter().for_each(|(what, n)| *all.bad_input.entry(*what).or_default() += n);
            all.dispatch_to_shard.add(&stats.dispatch_to_shard);
            all.shard_to_written.add(&stats.shard_to_written);
            all.accept_to_written.add(&stats.accept_to_written);
        }
        all.accept_to_dispatch = lock(&self.front).accepted_to_dispatch;
        all
    }

    /// Takes a shard's counters, and logs new bad input, since a shard never logs. It writes at most one line per
    /// reason and tick, all within the limit for what outsiders cause.
    pub(super) fn shard(&self, shard: u16, stats: Stats) {
        let mut shards = lock(&self.shards);
        for (what, sentence) in WRONG_PORT {
            let is_new = |stats: &Stats| !stats.bad_input.contains_key(&("tls", what));
            if stats.bad_input.contains_key(&("tls", what)) && shards.iter().all(is_new) {
                warn!(
                    "{sentence}; told once, and counted as halley_bad_input_total{{proto=\"tls\",reason=\"{what}\"}}"
                );
            }
        }
        let now = &mut shards[usize::from(shard)];
        let before = std::mem::replace(now, stats);
        for ((proto, reason), count) in &now.bad_input {
            let new = count - before.bad_input.get(&(*proto, *reason)).copied().unwrap_or(0);
            if new > 0 {
                OUTSIDERS.log(Level::DEBUG, || debug!(shard, proto, reason, count = new, "bad input"));
            }
        }
    }

    pub(super) fn dispatched(&self, dispatch: &Dispatch) {
        let kind = match dispatch.receivers {
            Receivers::Keys(_) => "keys",
            Receivers::Room(_) => "room",
            Receivers::All { .. } => "all",
        };
        let (Payload::Message { body, .. } | Payload::Frames(body)) = &dispatch.payload;
        let mut front = lock(&self.front);
        count(&mut front.dispatches, kind);
        front.dispatched_bytes += body.len() as u64;
        if dispatch.accepted_at_us > 0 {
            front.accepted_to_dispatch.record(wall_micros().saturating_sub(dispatch.accepted_at_us));
        }
    }

    pub(super) fn login(&self, result: &'static str) {
        count(&mut lock(&self.front).logins, result);
    }

    pub(super) fn logic_failed(&self, call: &'static str) {
        count(&mut lock(&self.front).logic_failures, call);
    }

    pub(super) fn given_up(&self, what: &'static str) {
        count(&mut lock(&self.front).given_up, what);
    }

    #[cfg(test)]
    pub(super) fn given_up_of(&self, what: &'static str) -> u64 {
        lock(&self.front).given_up.get(what).copied().unwrap_or(0)
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let shards = lock(&self.shards);
        let mut text = Text { encoder: &mut encoder };
        text.shards(&shards)?;
        text.front(&lock(&self.front))
    }
}

/// Writes metrics one after the other.
struct Text<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
}

impl Text<'_, '_> {
    fn shards(&mut self, shards: &[Stats]) -> fmt::Result {
        let sum = |number: fn(&Stats) -> u64| shards.iter().map(number).sum::<u64>();
        let both = |number: fn(&Stats) -> PerTransport| {
            [
                (("transport", "tcp"), shards.iter().map(|stats| number(stats).tcp).sum::<u64>()),
                (("transport", "websocket"), shards.iter().map(|stats| number(stats).websocket).sum()),
            ]
        };
        self.gauges("halley_connections", "Client sockets open now", both(|stats| stats.connections))?;
        self.counters("halley_accepted", "Client sockets accepted", both(|stats| stats.accepted))?;
        self.gauge("halley_connections_open", "Clients logged in now", sum(|stats| stats.open))?;
        self.counter(
            "halley_attached",
            "Connections handed to the shard of their key",
            sum(|stats| stats.attached),
        )?;
        self.counter(
            "halley_refused",
            "Client sockets closed at once, a limit being reached",
            sum(|stats| stats.refused),
        )?;
        self.counter("halley_accept_errors", "Failed accepts", sum(|stats| stats.accept_errors))?;
        self.gauge(
            "halley_rooms",
            "Rooms, counted on each shard that has members",
            sum(|stats| stats.rooms),
        )?;
        self.counter("halley_shard_pushes", "Push commands taken by shards", sum(|stats| stats.pushes))?;
        self.counter("halley_deliveries", "Frames written to clients", sum(|stats| stats.deliveries))?;
        self.counter("halley_writes", "Writes that took them there", sum(|stats| stats.writes))?;
        self.counter("halley_written_bytes", "Bytes written to clients", sum(|stats| stats.bytes_written))?;
        self.counter("halley_read_bytes", "Bytes read from clients", sum(|stats| stats.bytes_read))?;
        self.counter("halley_read_frames", "Frames read from clients", sum(|stats| stats.frames_read))?;
        self.gauge("halley_queue_bytes", "Bytes that wait in send queues", sum(|stats| stats.queue_bytes))?;
        let shard_labels: Vec<String> = (0..shards.len()).map(|shard| shard.to_string()).collect();
        let per_shard = |number: fn(&Stats) -> u64| {
            shard_labels
                .iter()
                .zip(shards)
                .map(move |(label, stats)| (("shard", label.as_str()), number(stats)))
        };
        self.gauges(
            "halley_mailbox_depth",
            "Commands that waited for a shard",
            per_shard(|stats| stats.mailbox_depth),
        )?;
        self.gauges(
            "halley_shard_load_permille",
            "Busy share of a shard's thread",
            per_shard(|stats| stats.load_permille),
        )?;
        self.tls(shards)?;
        self.drops(shards)?;
        self.stages("dispatch_to_shard", shards.iter().map(|stats| &stats.dispatch_to_shard))?;
        self.stages("shard_to_written", shards.iter().map(|stats| &stats.shard_to_written))?;
        self.latencies(
            "halley_accept_to_written_seconds",
            "From the acceptance of a push to its write's end, per write the oldest push",
            shards.iter().map(|stats| &stats.accept_to_written),
        )
    }

    fn drops(&mut self, shards: &[Stats]) -> fmt::Result {
        let mut drops = zeros(DropReason::ALL.map(DropReason::label));
        let mut closes = zeros(CloseReason::ALL.iter().map(|reason| reason.label()));
        let mut bad = zeros(BAD_INPUT);
        for stats in shards {
            stats.drops.iter().for_each(|(reason, count)| *drops.entry(reason.label()).or_default() += count);
            stats
                .closes
                .iter()
                .for_each(|(reason, count)| *closes.entry(reason.label()).or_default() += count);
            stats.bad_input.iter().for_each(|(reason, count)| *bad.entry(*reason).or_default() += count);
        }
        let reason = |(reason, count)| (("reason", reason), count);
        self.counters("halley_drops", "Frames not delivered", drops.into_iter().map(reason))?;
        self.counters("halley_closes", "Connections closed", closes.into_iter().map(reason))?;
        let proto = |((proto, reason), count)| ([("proto", proto), ("reason", reason)], count);
        self.counters("halley_bad_input", "Input that no client should send", bad.into_iter().map(proto))
    }

    fn tls(&mut self, shards: &[Stats]) -> fmt::Result {
        let connections = shards.iter().map(|stats| stats.tls.connections).sum();
        self.gauge("halley_tls_connections", "Client sockets with TLS open now", connections)?;
        let mut handshakes = zeros(HandshakeKind::ALL);
        for stats in shards {
            let counts = stats.tls.handshakes.iter();
            counts.for_each(|(kind, count)| *handshakes.entry(*kind).or_default() += count);
        }
        let labels = |(kind, count): (HandshakeKind, u64)| {
            let version = match kind.version {
                Version::Tls12 => "1.2",
                Version::Tls13 => "1.3",
            };
            ([("version", version), ("kind", if kind.resumed { "resumed" } else { "full" })], count)
        };
        self.counters("halley_tls_handshakes", "TLS handshakes done", handshakes.into_iter().map(labels))
    }

    fn front(&mut self, front: &FrontCounters) -> fmt::Result {
        let labelled = |name, counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(label, count)| ((name, *label), *count)).collect::<Vec<_>>()
        };
        self.counters("halley_dispatches", "Dispatches taken from job", labelled("kind", &front.dispatches))?;
        self.counter("halley_dispatched_bytes", "Bytes of dispatched messages", front.dispatched_bytes)?;
        self.counters("halley_logins", "Logins decided", labelled("result", &front.logins))?;
        self.counters(
            "halley_logic_failures",
            "Calls that logic did not answer",
            labelled("call", &front.logic_failures),
        )?;
        self.counters(
            "halley_logic_given_up",
            "Things logic was not told of",
            labelled("what", &front.given_up),
        )?;
        self.stages("accept_to_dispatch", [&front.accepted_to_dispatch].into_iter())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.describe(name, help, MetricType::Counter, |metric| {
            metric.encode_counter::<[(&str, &str); 0], _, u64>(&value, None)
        })
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.describe(name, help, MetricType::Gauge, |metric| metric.encode_gauge(&(value as i64)))
    }

    fn counters<L: Labels>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.describe(name, help, MetricType::Counter, |metric| {
            for (labels, value) in values {
                let labels = labels.pairs();
                metric.encode_family(&labels)?.encode_counter::<[(&str, &str); 0], _, u64>(&value, None)?;
            }
            Ok(())
        })
    }

    fn gauges<L: Labels>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.describe(name, help, MetricType::Gauge, |metric| {
            for (labels, value) in values {
                metric.encode_family(&labels.pairs())?.encode_gauge(&(value as i64))?;
            }
            Ok(())
        })
    }

    /// Latencies of one stage of a push's way, over all shards.
    fn stages<'h>(&mut self, stage: &str, histograms: impl Iterator<Item = &'h Histogram>) -> fmt::Result {
        self.latencies(&format!("halley_stage_{stage}_seconds"), "Time of a push in this stage", histograms)
    }

    fn latencies<'h>(
        &mut self,
        name: &str,
        help: &str,
        histograms: impl Iterator<Item = &'h Histogram>,
    ) -> fmt::Result {
        let mut all = Histogram::default();
        histograms.for_each(|histogram| all.add(histogram));
        // Only every second power of two, which is fine enough and takes half of the lines.
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        for pair in 0..BUCKETS / 2 {
            let bound = match pair {
                last if last == BUCKETS / 2 - 1 => f64::INFINITY,
                pair => (1u64 << (2 * pair + 1)) as f64 / 1e6,
            };
            buckets.push((bound, all.counts[2 * pair] + all.counts[2 * pair + 1]));
        }
        let count = all.counts.iter().sum();
        self.describe(name, help, MetricType::Histogram, |metric| {
            metric.encode_histogram::<[(&str, &str); 0]>(all.sum_micros as f64 / 1e6, count, &buckets, None)
        })
    }

    fn describe(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        encode(&mut self.encoder.encode_descriptor(name, help, None, kind)?)
    }
}

/// One or two labels of a metric.
trait Labels {
    type Pairs: EncodeLabelSet;
    fn pairs(self) -> Self::Pairs;
}

impl<'a> Labels for (&'static str, &'a str) {
    type Pairs = [(&'static str, &'a str); 1];
    fn pairs(self) -> Self::Pairs {
        [self]
    }
}

impl<'a> Labels for [(&'static str, &'a str); 2] {
    type Pairs = [(&'static str, &'a str); 2];
    fn pairs(self) -> Self::Pairs {
        self
    }
}
