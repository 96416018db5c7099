//! What producer and consumers have in common: settings, and what becomes of librdkafka's log lines.

use std::sync::Arc;

use host::telemetry::OUTSIDERS;
use rdkafka::{
    ClientConfig, ClientContext, config::RDKafkaLogLevel, error::KafkaError, statistics::Statistics,
};
use tracing::{Level, debug, info, warn};

use super::wake_flag::WakeFlag;

/// Largest record, bytes of key and value. What the brokers take is theirs to say: `message.max.bytes`, or the topic's
/// `max.message.bytes`, by default 1 MiB, which is a little too small for the largest body that logic takes.
pub(super) const RECORD_BYTES_MAX: usize = 16 << 20;

/// Settings of every client.
pub(super) fn settings(brokers: &[String]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers.join(","))
        .set("client.id", "halley")
        // Beyond the bound by more than what the format adds, so that the bound is ours.
        .set("message.max.bytes", (RECORD_BYTES_MAX + (64 << 10)).to_string())
        .set("socket.nagle.disable", "true")
        // A broker that is silent for so long is hung up on, and what it was asked is over; the default is a minute.
        .set("socket.timeout.ms", "10000")
        // Found again within a second of their return; the default waits up to ten.
        .set("reconnect.backoff.max.ms", "1000")
        // New partitions are used, and a topic that came into being is found, this soon.
        .set("topic.metadata.refresh.interval.ms", "5000")
        .set_log_level(RDKafkaLogLevel::Info);
    config
}

/// Receives what a client says by itself.
#[derive(Clone)]
pub(super) struct Voice {
    /// Rung when the brokers may be away.
    pub(super) trouble: Arc<WakeFlag>,
}

impl ClientContext for Voice {
    /// Lines about single connections, which are tried again for ever, are for debugging: the monitor says once that the
    /// brokers are away, and once that they are back.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            _ if facility == "FAIL" => debug!(facility, "librdkafka: {line}"),
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info => debug!(facility, "librdkafka: {line}"),
            RDKafkaLogLevel::Notice => OUTSIDERS.log(Level::INFO, || info!(facility, "librdkafka: {line}")),
            _ => OUTSIDERS.log(Level::WARN, || warn!(facility, "librdkafka: {line}")),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!("Kafka: {error}: {reason}");
        self.trouble.set();
    }

    fn stats(&self, _: Statistics) {}
}
