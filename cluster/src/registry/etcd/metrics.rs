//! What the registry counts.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// Made with the registry, registered once, cheap to clone: clones count into the same metrics.
#[derive(Clone, Debug, Default)]
pub struct RegistryMetrics {
    pub(super) up: Gauge,
    pub(super) nodes: Gauge,
    pub(super) missing: Gauge,
    pub(super) ignored: Gauge,
    pub(super) lists: Counter,
    pub(super) puts: Counter,
}

impl RegistryMetrics {
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
        for name in ["up", "nodes", "missing", "ignored", "lists_total", "puts_total"] {
            assert!(written.contains(&format!("\nhalley_registry_{name} 0\n")), "{name}: {written}");
        }
    }
}
