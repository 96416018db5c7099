//! The section by which the parts of a cluster know each other.

use ::tls::IdentityError;
use config::ConfigError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Current,
    certificates::{self, Keys},
};
use crate::shutdown::Reload;

/// An authority and a certificate of it, as the files say.
pub use ::tls::Mutual as MutualRead;

/// The same at work: exchanged when the files change.
pub type Mutual = Current<MutualRead>;

/// How the parts of a cluster know each other: all three keys, or none for gRPC without TLS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct MutualConfig {
    /// File of the authority's certificates, PEM. With it gRPC is TLS: comet, logic and job take only whom this authority
    /// has certified, and call only those. All of a cluster have it, or none; goim's programs cannot take part. SIGHUP
    /// reads the three files anew.
    pub ca: String,
    /// File of this program's certificate for the others, PEM. It names the hosts of its gRPC addresses.
    pub cert: String,
    /// File of its private key, PEM.
    pub key: String,
}

impl MutualConfig {
    /// Whether gRPC is TLS.
    pub fn is_set(&self) -> bool {
        !self.ca.is_empty() || !self.cert.is_empty() || !self.key.is_empty()
    }

    /// Reads the files; none if none is named. The keys stand in `section`, by which an error names them.
    ///
    /// # Errors
    /// What is wrong: a key without the others, a file that cannot be read, a certificate that cannot be used.
    pub fn read(&self, section: &str) -> Result<Option<MutualRead>, Vec<ConfigError>> {
        if !self.is_set() {
            return Ok(None);
        }
        let name = |key: &str| format!("{section}tls.{key}");
        let files = [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key)];
        let missing: Vec<ConfigError> = files
            .iter()
            .filter(|(_, file)| file.is_empty())
            .map(|(key, _)| {
                let reason = format!("{section}tls needs ca, cert and key, or none of them");
                ConfigError::value(name(key), "\"\"", reason)
            })
            .collect();
        if !missing.is_empty() {
            return Err(missing);
        }
        let wrong = |reason: String| ConfigError::value(name("ca"), format!("{:?}", self.ca), reason);
        let authority =
            certificates::read(&self.ca).map_err(|error| wrong(format!("cannot be read: {error}")));
        let (certificate, key) = (name("cert"), name("key"));
        let identity = Keys { certificate: &certificate, key: &key }.identity(&self.cert, &self.key);
        match (authority, identity) {
            (Ok(authority), Ok(identity)) => {
                let read = MutualRead::new(&authority, identity);
                read.map(Some).map_err(|error| match error {
                    IdentityError::NotCertified => {
                        vec![ConfigError::value(certificate, format!("{:?}", self.cert), error.to_string())]
                    }
                    error => vec![wrong(error.to_string())],
                })
            }
            (authority, identity) => Err(authority.err().into_iter().chain(identity.err()).collect()),
        }
    }

    /// Uses what was read, and reads it anew whenever `reload` asks. Needs a tokio runtime.
    pub fn start(&self, read: MutualRead, section: &'static str, reload: &Reload) -> Mutual {
        certificates::note(&self.cert, read.identity());
        let (current, config) = (Mutual::new(read), self.clone());
        current.follow(reload, "certificate for other services", move || {
            let read = config.read(section)?.expect("the section has not changed");
            certificates::note(&config.cert, read.identity());
            Ok(read)
        });
        current
    }
}
