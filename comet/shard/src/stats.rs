//! Counters of one shard. They are plain integers that belong to the shard; the front gets a copy with each tick.

use std::collections::BTreeMap;

use contract::Transport;
use proto::close::CloseReason;
use tls::Version;

/// Buckets of a [`Histogram`]: bucket n counts values below 2^n microseconds, the last one all the rest.
pub const BUCKETS: usize = 26;

/// Latencies in powers of two of a microsecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Count per bucket.
    pub counts: [u64; BUCKETS],
    /// Sum of all values in microseconds.
    pub sum_micros: u64,
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, micros: u64) {
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.counts[bucket.min(BUCKETS - 1)] += 1;
        self.sum_micros += micros;
    }

    /// Adds the values of another histogram.
    pub fn add(&mut self, other: &Histogram) {
        self.sum_micros += other.sum_micros;
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, count)| *sum += count);
    }
}

/// Why frames were not delivered. Each reason is a label of `halley_drops_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// The receiver's send queue was full.
    SlowConsumer,
    /// The connection closed with frames waiting.
    Closed,
    /// The key has no connection here.
    Absent,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [DropReason; 3] = [DropReason::SlowConsumer, DropReason::Closed, DropReason::Absent];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            DropReason::SlowConsumer => "slow_consumer",
            DropReason::Closed => "closed",
            DropReason::Absent => "absent",
        }
    }
}

/// Every protocol and reason of bad input. Each counter stands at 0 in the metrics from the start.
pub const BAD_INPUT: [(&str, &str); 49] = [
    ("connection", "unauthenticated_limit"),
    ("frame", "before_login"),
    ("frame", "beyond_message"),
    ("frame", "empty"),
    ("frame", "len"),
    ("frame", "operation"),
    ("frame", "rate"),
    ("frame", "refused_request"),
    ("frame", "tail"),
    ("http", "bad_request"),
    ("http", "head_len"),
    ("http", "head_timeout"),
    ("http", "method"),
    ("http", "origin"),
    ("http", "path"),
    ("http", "version"),
    ("proxy", "malformed"),
    ("proxy", "missing"),
    ("proxy", "timeout"),
    ("proxy", "too_long"),
    ("proxy", "untrusted"),
    ("tls", "alert"),
    ("tls", "bad_message"),
    ("tls", "bad_record"),
    ("tls", "clear_port"),
    ("tls", "handshake_limit"),
    ("tls", "idle_records"),
    ("tls", "incompatible"),
    ("tls", "internal"),
    ("tls", "no_protocol"),
    ("tls", "plain_text"),
    ("tls", "renegotiation"),
    ("tls", "timeout"),
    ("tls", "too_long"),
    ("tls", "used_up"),
    ("websocket", "close_code"),
    ("websocket", "close_len"),
    ("websocket", "fragmented_control"),
    ("websocket", "fragments"),
    ("websocket", "interleaved_message"),
    ("websocket", "length_not_minimal"),
    ("websocket", "length_sign"),
    ("websocket", "long_control"),
    ("websocket", "mask"),
    ("websocket", "message_len"),
    ("websocket", "opcode"),
    ("websocket", "rsv"),
    ("websocket", "stray_continuation"),
    ("websocket", "utf8"),
];

/// Two numbers, one for each transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerTransport {
    /// TCP.
    pub tcp: u64,
    /// WebSocket.
    pub websocket: u64,
}

impl PerTransport {
    /// The number of one transport.
    pub fn of(&mut self, transport: Transport) -> &mut u64 {
        match transport {
            Transport::Tcp => &mut self.tcp,
            Transport::WebSocket => &mut self.websocket,
        }
    }
}

/// TLS of a shard's connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsStats {
    /// Connections with TLS open now, their handshakes done or not.
    pub connections: u64,
    /// Handshakes done.
    pub handshakes: BTreeMap<HandshakeKind, u64>,
}

/// How a handshake was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HandshakeKind {
    /// The version.
    pub version: Version,
    /// With a ticket.
    pub resumed: bool,
}

impl HandshakeKind {
    /// Every kind.
    pub const ALL: [HandshakeKind; 4] = [
        HandshakeKind { version: Version::Tls12, resumed: false },
        HandshakeKind { version: Version::Tls12, resumed: true },
        HandshakeKind { version: Version::Tls13, resumed: false },
        HandshakeKind { version: Version::Tls13, resumed: true },
    ];
}

/// All counters of a shard, since its start unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sockets accepted.
    pub accepted: PerTransport,
    /// Sockets open now, logged in or not.
    pub connections: PerTransport,
    /// TLS.
    pub tls: TlsStats,
    /// Connections logged in now.
    pub open: u64,
    /// Connections that came from another shard.
    pub attached: u64,
    /// Rooms with a member here, now.
    pub rooms: u64,
    /// Pushes taken from the mailbox.
    pub pushes: u64,
    /// Frames written to clients' sockets, pushes and replies.
    pub deliveries: u64,
    /// Writes that carried these frames.
    pub writes: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Frames read.
    pub frames_read: u64,
    /// Bytes that wait in send queues, now.
    pub queue_bytes: u64,
    /// Commands in the mailbox when it was last drained.
    pub mailbox_depth: u64,
    /// Frames not delivered, by reason.
    pub drops: BTreeMap<DropReason, u64>,
    /// Connections closed, by reason.
    pub closes: BTreeMap<CloseReason, u64>,
    /// Bad input by protocol and reason.
    pub bad_input: BTreeMap<(&'static str, &'static str), u64>,
    /// Failed accepts (no descriptor left, most likely).
    pub accept_errors: u64,
    /// Sockets refused because a limit was reached.
    pub refused: u64,
    /// Time from the front's hand-out of a push until the shard takes it.
    pub dispatch_to_shard: Histogram,
    /// Time from the begin of a write to its end.
    pub shard_to_written: Histogram,
    /// Time from logic's acceptance of the oldest push in a write to the write's end.
    pub accept_to_written: Histogram,
    /// Busy share of the last tick in thousandths.
    pub load_permille: u64,
}

impl Stats {
    /// Counts frames that were not delivered.
    pub fn drop_frames(&mut self, reason: DropReason, frames: u64) {
        if frames > 0 {
            *self.drops.entry(reason).or_default() += frames;
        }
    }

    /// Counts one bad input.
    pub fn bad(&mut self, proto: &'static str, reason: &'static str) {
        debug_assert!(BAD_INPUT.contains(&(proto, reason)), "{proto} {reason} is not in BAD_INPUT");
        *self.bad_input.entry((proto, reason)).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_falls_into_the_bucket_whose_bound_is_above_it() {
        let mut histogram = Histogram::default();
        for micros in [0, 1, 2, 3, 1_000, u64::MAX >> 1] {
            histogram.record(micros);
        }
        assert_eq!(histogram.counts[..3], [1, 1, 2]);
        assert_eq!((histogram.counts[10], histogram.counts[BUCKETS - 1]), (1, 1));
    }
}
