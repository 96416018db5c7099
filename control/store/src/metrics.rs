//! What the connection to Redis counts.

use host::metrics::CounterBy;
use prometheus_client::registry::Registry;

use crate::RedisError;

host::label! {
    /// How a command to Redis failed.
    RedisFailure, "reason" {
        /// Redis did not answer in time, or the connection broke. It may have carried the command out.
        Unknown = "unknown",
        /// Redis did not carry it out, and said why.
        Refused = "refused",
    }
}

/// What the connection to Redis measures.
#[derive(Clone, Debug, Default)]
pub struct RedisMetrics {
    /// Commands that were sent and, as far as we know, not carried out.
    pub failures: CounterBy<RedisFailure>,
}

impl RedisMetrics {
    /// Counts an error. Commands that were never sent do not count here: the readiness shows them, and their senders
    /// count them.
    pub fn failed(&self, error: &RedisError) {
        let reason = match error {
            RedisError::Away(_) => return,
            RedisError::Unknown(_) => RedisFailure::Unknown,
            _ => RedisFailure::Refused,
        };
        self.failures.of(reason).inc();
    }

    /// Adds the metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        self.failures.register(
            registry,
            "halley_redis_failures",
            "Commands to Redis that failed, or were not answered",
        );
    }
}
