//! What the registry counts.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The registry's metrics. They are made with the registry and registered once. Clones share the counters.
#[derive(Clone, Debug)]
pub struct RegistryMetrics {
    pub(super) up: Gauge,
    pub(super) nodes: Gauge,
    pub(super) missing: Gauge,
    pub(super) ignored: Gauge,
    pub(super) lists: Counter,
    pub(super) puts: Counter,
    pub(super) registered: Gauge,
    pub(super) lost: Counter,
    failures: Family<[(&'static str, &'static str); 1], Counter>,
}

/// Why a request to etcd failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection, or no leader.
    Away,
    /// No answer within `dialTimeout`.
    Timeout,
    /// Wrong password, no permission.
    Refused,
    /// The lease has ended.
    LeaseGone,
}

impl Failure {
    const ALL: [Failure; 4] = [Failure::Away, Failure::Timeout, Failure::Refused, Failure::LeaseGone];

    const fn word(self) -> &'static str {
        match self {
            Failure::Away => "away",
            Failure::Timeout => "timeout",
            Failure::Refused => "refused",
            Failure::LeaseGone => "lease_gone",
        }
    }
}

impl Default for RegistryMetrics {
    fn default() -> Self {
        let metrics = Self {
            up: Gauge::default(),
            nodes: Gauge::default(),
            missing: Gauge::default(),
            ignored: Gauge::default(),
            lists: Counter::default(),
            puts: Counter::default(),
            registered: Gauge::default(),
            lost: Counter::default(),
            failures: Family::default(),
        };
        // Each counter is there from the start, for those who ask how much it grew.
        for failure in Failure::ALL {
            drop(metrics.failures.get_or_create(&[("reason", failure.word())]));
        }
        metrics
    }
}

impl RegistryMetrics {
    pub(super) fn failed(&self, failure: Failure) {
        self.failures.get_or_create(&[("reason", failure.word())]).inc();
    }

    /// Adds the metrics to `metrics`.
    pub fn register(&self, metrics: &mut Registry) {
        metrics.register(
            "halley_registry_up",
            "1 when etcd answered what was last asked of it",
            self.up.clone(),
        );
        metrics.register("halley_registry_nodes", "Nodes known, missing ones too", self.nodes.clone());
        metrics.register(
            "halley_registry_missing",
            "Nodes that are not in etcd any more and are kept for a moment, because etcd may have lost them",
            self.missing.clone(),
        );
        metrics.register(
            "halley_registry_ignored",
            "Keys in etcd that should be nodes and are not",
            self.ignored.clone(),
        );
        metrics.register(
            "halley_registry_lists",
            "Times the whole set was read: at start, and after each loss of the watch",
            self.lists.clone(),
        );
        metrics.register(
            "halley_registry_puts",
            "Times this process's key was written: at start, and after each loss of it",
            self.puts.clone(),
        );
        metrics.register(
            "halley_registry_registered",
            "1 while this process's key is in etcd",
            self.registered.clone(),
        );
        metrics.register(
            "halley_registry_lost",
            "Times this process's key or lease was found gone, or the key to be another process's",
            self.lost.clone(),
        );
        metrics.register(
            "halley_registry_failures",
            "Requests to etcd that were for nothing",
            self.failures.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn all_are_registered_under_their_names() {
        let mut registry = Registry::default();
        RegistryMetrics::default().register(&mut registry);
        let mut written = String::new();
        text::encode(&mut written, &registry).unwrap();
        for name in
            ["up", "nodes", "missing", "ignored", "lists_total", "puts_total", "registered", "lost_total"]
        {
            assert!(written.contains(&format!("\nhalley_registry_{name} 0\n")), "{name}: {written}");
        }
        for reason in ["away", "timeout", "refused", "lease_gone"] {
            let line = format!("\nhalley_registry_failures_total{{reason=\"{reason}\"}} 0\n");
            assert!(written.contains(&line), "{reason}: {written}");
        }
    }
}
