//! What a session store counts.

use prometheus_client::{metrics::gauge::Gauge, registry::Registry};

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

    /// Sets how many sessions there are now.
    pub fn set_sessions(&self, sessions: usize) {
        self.sessions.set(sessions as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_exposed_under_its_name() {
        let mut registry = Registry::default();
        SessionMetrics::default().register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.lines().any(|line| line == "halley_sessions 0"), "{text}");
    }
}
