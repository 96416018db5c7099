//! Certificates and keys in files: reading them, and when they are over.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read as _},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
};

use ::tls::Identity;
use config::ConfigError;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use tracing::warn;

use super::stream::FAILED;

/// A certificate that has no more days than these is warned of.
const DAYS_WARNED: i64 = 14;

/// Most bytes of a file.
const FILE_MAX: u64 = 1 << 20;

/// When each certificate in use is over, in seconds since 1970, by file.
static ENDS: Mutex<BTreeMap<String, i64>> = Mutex::new(BTreeMap::new());

/// Tells the metric when a certificate is over, and warns where that is soon.
pub fn note(file: &str, identity: &Identity) {
    let days = identity.days_left();
    if days <= DAYS_WARNED {
        warn!(file, days, "a certificate is over soon");
    }
    ENDS.lock().unwrap_or_else(PoisonError::into_inner).insert(file.to_owned(), identity.not_after());
}

/// Reads a file of at most 1 MiB.
///
/// # Errors
/// The system's, that it is longer, or that it is no file.
pub fn read(file: &str) -> io::Result<Vec<u8>> {
    // What is no file could be endless, or be waited for without end.
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::other(format!("it is longer than {FILE_MAX} bytes")));
    }
    Ok(bytes)
}

/// Keys of a configuration that name the files of a certificate and its key.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// The certificate's.
    pub certificate: &'a str,
    /// Its key's.
    pub key: &'a str,
}

/// A certificate and its key, and their files as they are.
pub struct Pair {
    /// Both, checked.
    pub identity: Arc<Identity>,
    /// The certificate's file, PEM.
    pub chain: Vec<u8>,
    /// The key's file, PEM.
    pub key: Vec<u8>,
}

impl Keys<'_> {
    /// Reads a certificate and its key.
    ///
    /// # Errors
    /// As [`Keys::pair`].
    pub fn identity(self, certificate: &str, key: &str) -> Result<Arc<Identity>, ConfigError> {
        self.pair(certificate, key).map(|pair| pair.identity)
    }

    /// The same with what the files hold.
    ///
    /// # Errors
    /// What is wrong, under the key of the file that is at fault.
    pub fn pair(self, certificate: &str, key: &str) -> Result<Pair, ConfigError> {
        let wrong = |name: &str, file: &str, reason: String| {
            ConfigError::value(name.to_owned(), format!("{file:?}"), reason)
        };
        let unread =
            |name, file| read(file).map_err(|error| wrong(name, file, format!("cannot be read: {error}")));
        let chain = unread(self.certificate, certificate)?;
        let secret = unread(self.key, key)?;
        match Identity::from_pem(&chain, &secret) {
            Ok(identity) => Ok(Pair { identity: Arc::new(identity), chain, key: secret }),
            Err(error) => {
                let (name, file) =
                    if error.is_of_the_key() { (self.key, key) } else { (self.certificate, certificate) };
                Err(wrong(name, file, error.to_string()))
            }
        }
    }

    /// Reads several, a list of files each, in the same order.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn identities(
        self,
        certificates: &[String],
        keys: &[String],
    ) -> Result<Vec<Arc<Identity>>, Vec<ConfigError>> {
        if certificates.is_empty() {
            let reason =
                format!("TLS needs a certificate: name its file, and that of its key as {}", self.key);
            return Err(vec![ConfigError::value(self.certificate.to_owned(), "[]", reason)]);
        }
        if certificates.len() != keys.len() {
            let reason = format!(
                "must have as many files as {}, which has {}, in the same order",
                self.certificate,
                certificates.len()
            );
            return Err(vec![ConfigError::value(self.key.to_owned(), format!("{keys:?}"), reason)]);
        }
        let (mut identities, mut errors) = (Vec::new(), Vec::new());
        for (certificate, key) in certificates.iter().zip(keys) {
            match self.identity(certificate, key) {
                Ok(identity) => identities.push(identity),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(identities) } else { Err(errors) }
    }
}

/// The metric of [`note`], and `halley_tls_failed_total`.
#[derive(Debug)]
pub(crate) struct Ends;

impl Collector for Ends {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "TLS handshakes of services and of HTTPS that came to nothing";
        let failed = encoder.encode_descriptor("halley_tls_failed", help, None, MetricType::Counter)?;
        ConstCounter::new(FAILED.load(Relaxed)).encode(failed)?;
        let ends = ENDS.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.is_empty() {
            return Ok(()); // without TLS there is no such thing
        }
        let help = "When a certificate is over, in seconds since 1970";
        let name = "halley_tls_certificate_end_seconds";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (file, end) in &*ends {
            ConstGauge::new(*end).encode(metric.encode_family(&[("file", file.as_str())])?)?;
        }
        Ok(())
    }
}
