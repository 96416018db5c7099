//! TLS to the servers that a program connects to: the keys of a section of its file, and the files that they name.

use std::fmt;

use config::ConfigError;
use rustls::{ClientConfig, RootCertStore};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tls::client::{authorities, client_config};

use super::certificates::{Keys, Pair, read};

/// Keys of a section about a server that can be reached over TLS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct TlsClientConfig {
    /// TLS to these servers. Their certificates have to be for the names or addresses by which they are reached.
    pub tls: bool,
    /// PEM file of the authorities that may have signed the servers' certificates. Empty = those that this machine trusts.
    pub ca: String,
    /// PEM file of this process's own certificate, and of those that lead to its authority, for servers that ask for one.
    /// Empty = none.
    pub cert: String,
    /// PEM file of the private key to `cert`, without a password.
    pub key: String,
}

/// What the files hold.
pub struct TlsClient {
    roots: RootCertStore,
    ca: Option<Vec<u8>>,
    own: Option<Pair>,
}

impl TlsClientConfig {
    /// What is wrong with the keys, or with the files. `section` is where the keys stand, such as `redis`.
    pub fn check(&self, section: &str) -> Vec<ConfigError> {
        self.load(section).err().unwrap_or_default()
    }

    /// Reads the files. None without TLS.
    ///
    /// # Errors
    /// All that is wrong with the keys, or with the files.
    pub fn load(&self, section: &str) -> Result<Option<TlsClient>, Vec<ConfigError>> {
        self.load_if(section, self.tls, &format!("{section}.tls is false"))
    }

    /// As [`load`](Self::load) where something else than the key `tls` may say whether there is TLS. `why_not` says why
    /// there is none.
    ///
    /// # Errors
    /// As there.
    pub fn load_if(
        &self,
        section: &str,
        is_on: bool,
        why_not: &str,
    ) -> Result<Option<TlsClient>, Vec<ConfigError>> {
        let wrong = |name: &str, file: &str, reason: String| {
            ConfigError::value(format!("{section}.{name}"), format!("{file:?}"), reason)
        };
        if !is_on {
            let files = [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key)];
            let unused = files.into_iter().filter(|(_, file)| !file.is_empty());
            let unused: Vec<ConfigError> = unused
                .map(|(name, file)| wrong(name, file, format!("would not be used, {why_not}")))
                .collect();
            return if unused.is_empty() { Ok(None) } else { Err(unused) };
        }
        let mut errors = Vec::new();
        let read = |name, file: &String| {
            read(file).map_err(|error| wrong(name, file, format!("cannot be read: {error}")))
        };
        let roots = if self.ca.is_empty() {
            system_roots().map(|roots| (roots, None)).map_err(|error| wrong("ca", "", error))
        } else {
            read("ca", &self.ca).and_then(|pem| match authorities(&pem) {
                Ok(roots) => Ok((roots, Some(pem))),
                Err(error) => Err(wrong("ca", &self.ca, error.to_string())),
            })
        };
        let own = match (&self.cert, &self.key) {
            (cert, key) if cert.is_empty() && key.is_empty() => Ok(None),
            (cert, key) if key.is_empty() => {
                Err(wrong("cert", cert, format!("goes together with {section}.key, which is empty")))
            }
            (cert, key) if cert.is_empty() => {
                Err(wrong("key", key, format!("goes together with {section}.cert, which is empty")))
            }
            (cert, key) => {
                let (certificate, secret) = (format!("{section}.cert"), format!("{section}.key"));
                Keys { certificate: &certificate, key: &secret }.pair(cert, key).map(Some)
            }
        };
        let roots = roots.map_err(|error| errors.push(error)).ok();
        let own = own.map_err(|error| errors.push(error)).ok();
        match (roots, own) {
            (Some((roots, ca)), Some(own)) => Ok(Some(TlsClient { roots, ca, own })),
            _ => Err(errors),
        }
    }
}

impl TlsClient {
    /// For a client that is made of rustls.
    pub fn rustls(&self) -> ClientConfig {
        client_config(self.roots.clone(), self.own.as_ref().map(|own| &*own.identity))
    }

    /// The authorities, those of the machine included.
    pub fn roots(&self) -> &RootCertStore {
        &self.roots
    }

    /// The file of the authorities as it is. None if the machine's are trusted.
    pub fn ca_pem(&self) -> Option<&[u8]> {
        self.ca.as_deref()
    }

    /// Certificate and key as their files have them. None without.
    pub fn own_pem(&self) -> Option<(&[u8], &[u8])> {
        self.own.as_ref().map(|own| (own.chain.as_slice(), own.key.as_slice()))
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = self.own.as_ref().map(|own| &own.identity);
        f.debug_struct("TlsClient").field("roots", &self.roots.len()).field("own", &own).finish()
    }
}

/// The authorities that this machine trusts.
fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // The system's own programs pass over what they cannot read, too.
    roots.add_parsable_certificates(found.certs);
    match found.errors.first() {
        _ if !roots.is_empty() => Ok(roots),
        Some(error) => Err(format!("this machine's authorities cannot be read: {error}")),
        None => {
            Err("this machine has no authorities (Debian: ca-certificates): name a file of them".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// A certificate and its key, in files of this name.
    fn files(directory: &Path, name: &str) -> [String; 2] {
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).expect("a certificate");
        [("crt", made.cert.pem()), ("key", made.signing_key.serialize_pem())].map(|(extension, text)| {
            let path = directory.join(format!("{name}.{extension}"));
            fs::write(&path, text).expect("a file");
            path.to_str().expect("UTF-8").to_owned()
        })
    }

    #[test]
    fn what_is_wrong_is_told_with_its_key_and_nothing_of_the_files() {
        let directory = tempfile::tempdir().expect("a directory");
        let [cert, key] = files(directory.path(), "own");
        let [_, other] = files(directory.path(), "other");
        let config = |tls, ca: &str, cert: &str, key: &str| TlsClientConfig {
            tls,
            ca: ca.to_owned(),
            cert: cert.to_owned(),
            key: key.to_owned(),
        };
        let nothing = directory.path().join("nothing").display().to_string();
        for (config, parts) in [
            (config(false, &cert, "", ""), &["redis.ca = ", "redis.tls is false"][..]),
            (config(false, "", &cert, &key), &["redis.cert = ", "redis.key = "]),
            (config(true, &nothing, "", ""), &["redis.ca = ", "nothing", "cannot be read: No such file"]),
            (config(true, &key, "", ""), &["redis.ca = ", "no certificate in it"]),
            (config(true, &cert, &cert, ""), &["redis.cert = ", "redis.key, which is empty"]),
            (config(true, &cert, "", &key), &["redis.key = ", "redis.cert, which is empty"]),
            (config(true, &cert, &key, &key), &["redis.cert = ", "no certificate in it"]),
            (config(true, &cert, &cert, &cert), &["redis.key = ", "no private key in it"]),
            (config(true, &cert, &cert, &other), &["redis.key = ", "does not belong to the certificate"]),
            (config(true, &nothing, &cert, &nothing), &["redis.ca = ", "redis.key = "]),
        ] {
            let wrong = config.check("redis");
            let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            let text = wrong.join("\n");
            for part in parts {
                assert!(text.contains(part), "{part:?} is not in {text:?}");
            }
            let secret = fs::read_to_string(&key).expect("a file");
            assert!(secret.lines().all(|line| !text.contains(line)), "{text}");
        }
        assert!(matches!(config(false, "", "", "").load("redis"), Ok(None)));
        let loaded = config(true, &cert, &cert, &key).load("redis").expect("it is right").expect("TLS is on");
        assert_eq!(loaded.roots().len(), 1);
        assert!(loaded.ca_pem().is_some() && loaded.own_pem().is_some());
        assert!(!format!("{loaded:?}").contains("PRIVATE"));
    }
}
