//! What producer and consumers have in common: their settings, and what becomes of librdkafka's log lines.

use std::sync::{Arc, Mutex, PoisonError};

use ::config::ConfigError;
use host::{telemetry::OUTSIDERS, tls::TlsClientConfig};
use rdkafka::{
    ClientConfig, ClientContext, config::RDKafkaLogLevel, error::KafkaError, statistics::Statistics,
};
use tracing::{Level, debug, info, warn};

use super::{
    config::{KafkaServersConfig, load_tls},
    wake_flag::WakeFlag,
};

/// Largest record, bytes of key and value. The brokers have limits of their own, `message.max.bytes` or the topic's
/// `max.message.bytes`. Their default of 1 MiB is a little too small for the largest body that logic takes.
pub(super) const RECORD_BYTES_MAX: usize = 16 << 20;

/// Where the brokers are, and how clients reach them: the files of TLS as they were at the start, and the login.
#[derive(Clone)]
pub(super) struct Servers {
    /// `host:port` each.
    pub(super) brokers: Vec<String>,
    /// librdkafka's names and values, secrets among them.
    security: Vec<(&'static str, String)>,
}

impl Servers {
    /// Reads the files of TLS.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub(super) fn new(config: &KafkaServersConfig, tls: &TlsClientConfig) -> Result<Self, ConfigError> {
        let tls = load_tls(tls)?;
        let mechanism = config.sasl.mechanism();
        let protocol = match (tls.is_some(), mechanism.is_some()) {
            (false, false) => "plaintext",
            (true, false) => "ssl",
            (false, true) => "sasl_plaintext",
            (true, true) => "sasl_ssl",
        };
        let mut security = vec![("security.protocol", protocol.to_owned())];
        if let Some(tls) = tls {
            let text = |pem: &[u8]| String::from_utf8_lossy(pem).into_owned();
            // Without one OpenSSL takes the machine's authorities.
            security.extend(tls.ca_pem().map(|pem| ("ssl.ca.pem", text(pem))));
            if let Some((cert, key)) = tls.own_pem() {
                security.extend([("ssl.certificate.pem", text(cert)), ("ssl.key.pem", text(key))]);
            }
        }
        if let Some(mechanism) = mechanism {
            security.extend([
                ("sasl.mechanism", mechanism.to_owned()),
                ("sasl.username", config.user.clone()),
                ("sasl.password", config.password.get().to_owned()),
            ]);
        }
        Ok(Servers { brokers: config.brokers.to_vec(), security })
    }
}

/// Settings of every client.
pub(super) fn settings(servers: &Servers) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in &servers.security {
        config.set(*name, value);
    }
    config
        .set("bootstrap.servers", servers.brokers.join(","))
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
#[derive(Clone, Default)]
pub(super) struct Voice {
    /// Set when the brokers may be away.
    pub(super) trouble: Arc<WakeFlag>,
    /// Why a broker could not be reached, and what an operator may do about it: only lines of the log tell that.
    why: Arc<Mutex<Option<String>>>,
}

impl Voice {
    /// What was heard last of a broker that could not be reached.
    pub(super) fn why(&self) -> Option<String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets that, since the brokers answer.
    pub(super) fn forget_why(&self) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// What an operator may do about a broker that could not be reached. The words are librdkafka's.
fn hint(line: &str) -> &'static str {
    if line.contains("SASL") {
        ": see kafka.sasl, kafka.user and kafka.password"
    } else if line.contains("Disconnected") && is_young(line) && !line.contains("handshake") {
        ": a broker that wants TLS or a login does this, see kafka.tls and kafka.sasl"
    } else if line.contains("SSL") {
        ": see kafka.tls, kafka.ca, kafka.cert and kafka.key"
    } else {
        ""
    }
}

/// Whether the connection was lost before it was of use: "(after 4ms in state UP".
fn is_young(line: &str) -> bool {
    let Some((_, after)) = line.rsplit_once("(after ") else { return false };
    let Some((ms, state)) = after.split_once("ms in state ") else { return false };
    state.starts_with("APIVERSION_QUERY") || ms.parse().is_ok_and(|ms: u64| ms < 2000)
}

impl ClientContext for Voice {
    /// Lines about single connections are for debugging, since librdkafka tries these again for ever. The monitor logs
    /// once that the brokers are away, and once that they are back.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        if facility == "FAIL" {
            // It begins with the name of a thread.
            let line = line.split_once("]: ").map_or(line, |(_, line)| line);
            let why = format!("{line}{}", hint(line));
            self.why.lock().unwrap_or_else(PoisonError::into_inner).replace(why);
        }
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
