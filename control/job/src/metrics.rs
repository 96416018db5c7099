//! What job counts.

use host::metrics::{CounterBy, Latency};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

host::label! {
    /// Why a dispatch did not reach a comet. If it reached no other comet either, it becomes a dead letter.
    DropReason, "reason" {
        /// comet did not acknowledge it within `dispatch.giveUp`, or the link's queue was full.
        CometUnreachable = "comet_unreachable",
        /// There is no comet, or the one that holds the keys is not there.
        NoComet = "no_comet",
        /// comet refused it as malformed.
        Invalid = "invalid",
        /// The entry on the broker is no push.
        Poison = "poison",
    }
}

/// What job measures.
#[derive(Clone, Debug, Default)]
pub struct JobMetrics {
    /// Dispatches a comet acknowledged.
    pub dispatches: Counter,
    /// Dispatches and entries that did not arrive.
    pub drops: CounterBy<DropReason>,
    /// Bytes of the pushes that comets have not yet taken.
    pub queue_bytes: Gauge,
    /// Time from logic's acceptance of a push until comet has it.
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
        self.drops.register(
            registry,
            "halley_dispatch_drops",
            "Dispatches and broker entries that reached no comet",
        );
        registry.register(
            "halley_dispatch_queue_bytes",
            "Bytes waiting for a comet",
            self.queue_bytes.clone(),
        );
        self.accept_to_dispatch.register(
            registry,
            "halley_accept_to_dispatch_seconds",
            "From the acceptance of a push to the comet having it",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_exposed_under_its_name() {
        let mut registry = Registry::default();
        let job = JobMetrics::default();
        job.register(&mut registry);
        job.drops.of(DropReason::NoComet).inc_by(3);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "halley_dispatch_drops_total{reason=\"no_comet\"} 3",
            "halley_dispatch_drops_total{reason=\"poison\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in:\n{text}");
        }
    }
}
