//! What a broker counts.

use std::{sync::atomic::AtomicU64, time::Duration};

use host::metrics::CounterBy;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

host::label! {
    /// Why finished entries may come again: perhaps their acknowledgement is not committed.
    CommitFailure, "reason" {
        /// The broker does not have what it was told to commit. It is told again.
        Refused = "refused",
        /// The broker did not say in time what it has.
        Timeout = "timeout",
    }
}

/// What a broker measures.
#[derive(Clone, Debug, Default)]
pub struct BrokerMetrics {
    entries: Gauge,
    bytes: Gauge,
    /// Dead letters that could not be put aside either, or were pushed out by newer ones.
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
        self.commit_failures.register(
            registry,
            "halley_broker_commit_failures",
            "Acknowledgements that the broker did not confirm",
        );
        registry.register(
            "halley_broker_commit_age_seconds",
            "How long the oldest acknowledgement has waited for the broker to confirm it",
            self.commit_age.clone(),
        );
    }

    /// Sets how long the oldest acknowledgement has waited that the broker has not confirmed.
    pub fn set_commit_age(&self, age: Duration) {
        self.commit_age.set(age.as_secs_f64());
    }

    /// Sets how much is in the broker now.
    pub fn set_depth(&self, entries: usize, bytes: usize) {
        self.set_entries(entries);
        self.bytes.set(bytes as i64);
    }

    /// Sets how many entries are in the broker now, for brokers that do not count bytes.
    pub fn set_entries(&self, entries: usize) {
        self.entries.set(entries as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_exposed_under_its_name() {
        let mut registry = Registry::default();
        BrokerMetrics::default().register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "halley_broker_entries 0",
            "halley_dead_letters_lost_total 0",
            "halley_broker_commit_failures_total{reason=\"timeout\"} 0",
            "halley_broker_commit_age_seconds 0.0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in:\n{text}");
        }
    }
}
