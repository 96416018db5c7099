//! What producer and consumers have in common: their settings, and what becomes of librdkafka's log lines.

use std::sync::Arc;

use host::telemetry::OUTSIDERS;
use rdkafka::{
    ClientConfig, ClientContext, config::RDKafkaLogLevel, error::KafkaError, statistics::Statistics,
};
use tracing::{Level, debug, info, warn};

use super::wake_flag::WakeFlag;

/// Largest record, bytes of key and value. The brokers have limits of their own, `message.max.bytes` or the topic's
/// `max.message.bytes`. Their default of 1 MiB is a little too small for the largest body that logic takes.
pub(super) const RECORD_BYTES_MAX: usize = 16 << 20;

/// Settings of every client.
pub(super) fn settings(brokers: &[String]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers.join(","))
        .set("client.id", "halley")
        // Larger than our bound by more than the format adds, so that our bound is the one that counts.
        .set("message.max.bytes", (RECORD_BYTES_MAX + (64 << 10)).to_string())
        .set("socket.nagle.disable", "true")
        // librdkafka closes the connection to a broker that is silent for so long, and gives up what it asked it. The
        // default is a minute.
        .set("socket.timeout.ms", "10000")
        // librdkafka finds brokers within a second of their return. By default it waits up to ten.
        .set("reconnect.backoff.max.ms", "1000")
        // librdkafka notices new partitions and a new topic this soon.
        .set("topic.metadata.refresh.interval.ms", "5000")
        .set_log_level(RDKafkaLogLevel::Info);
    config
}

/// Receives what a client says by itself.
#[derive(Clone)]
pub(super) struct Voice {
    /// Set when the brokers may be away.
    pub(super) trouble: Arc<WakeFlag>,
}

impl ClientContext for Voice {
    /// Lines about single connections are for debugging, since librdkafka tries these again for ever. The monitor logs
    /// once that the brokers are away, and once that they are back.
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
