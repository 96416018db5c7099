//! Counters that all HTTP servers of the process share.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
    registry::Registry,
};

/// What a connection was doing when it was closed to free its place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Closed {
    /// It was idle.
    Idle,
    /// It had sent a part of a request's head.
    Head,
    /// Its request waited for a place, and was answered with 503.
    NoPlace,
}

const WORDS: [&str; 3] = ["idle", "head", "no_place"];

static CLOSED: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static FOREIGN: AtomicU64 = AtomicU64::new(0);

pub(super) fn closed(what: Closed) {
    CLOSED[what as usize].fetch_add(1, Relaxed);
}

pub(super) fn count_foreign() {
    FOREIGN.fetch_add(1, Relaxed);
}

/// Adds `halley_http_closed_total{reason}` and `halley_http_foreign_total`.
pub(crate) fn register(metrics: &mut Registry) {
    metrics.register_collector(Box::new(Counted));
}

#[derive(Debug)]
struct Counted;

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let help = "HTTP connections closed for want of places";
        let mut family = encoder.encode_descriptor("halley_http_closed", help, None, MetricType::Counter)?;
        for (word, count) in WORDS.iter().zip(&CLOSED) {
            let counter = ConstCounter::new(count.load(Relaxed));
            counter.encode(family.encode_family(&[("reason", *word)])?)?;
        }
        let help = "HTTP requests of web pages of other hosts, refused";
        let foreign = encoder.encode_descriptor("halley_http_foreign", help, None, MetricType::Counter)?;
        ConstCounter::new(FOREIGN.load(Relaxed)).encode(foreign)
    }
}
