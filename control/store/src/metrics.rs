//! What the connection to Redis counts.

use host::metrics::CounterBy;
use prometheus_client::registry::Registry;

use crate::RedisError;

host::label! {
    /// How a command to Redis failed.
    RedisFailure, "reason" {
        /// It did not answer in time, or the connection broke: it may have been carried out.
        Unknown = "unknown",
        /// It did not do it, and said why.
        Refused = "refused",
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
