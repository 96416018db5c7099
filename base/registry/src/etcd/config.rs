//! Configuration section `[discovery]`.

use std::fs;

use config::{BoundedDuration, ConfigError, Secret, StringList};
use etcd_client::{Certificate, Identity, TlsOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::layout::Layout;

const HTTP: &str = "http://";
const HTTPS: &str = "https://";

/// etcd, where comets and logics find each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct DiscoveryConfig {
    /// The members of the etcd cluster, "host:port" or with "http://" or "https://" in front. One at a time is used; when
    /// it fails, the next.
    pub nodes: StringList,
    /// User of etcd; empty = none. It reads and writes the keys of the layout, and the same ones under "/halley.meta".
    pub username: String,
    /// Password of the user.
    pub password: Secret,
    /// Paths of the keys: "goim" is "/{appid}/{env}/{region}/{zone}/{server}", as goim's programs write them; "goim-docs" is
    /// "/{env}/{appid}/{region}/{server}", as its documentation has them; or a path of your own out of these words and
    /// fixed texts. All processes of a cluster have the same.
    pub layout: Layout,
    /// PEM file of the authority that signed etcd's certificates; with it "host:port" means https. Empty = no TLS.
    pub ca_file: String,
    /// PEM file of this process's own certificate, for an etcd that asks for one. Empty = none.
    pub cert_file: String,
    /// PEM file of the key to certFile.
    pub key_file: String,
    /// How long a connection to etcd may take, and each request. A third of leaseTtl at most.
    pub dial_timeout: BoundedDuration<100, 60_000>,
    /// How long this process is known after its last word to etcd: a crashed one disappears after it. goim's is 15s.
    pub lease_ttl: BoundedDuration<2_000, 600_000>,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            nodes: ["127.0.0.1:2379"].into_iter().collect(),
            username: String::new(),
            password: Secret::default(),
            layout: Layout::default(),
            ca_file: String::new(),
            cert_file: String::new(),
            key_file: String::new(),
            dial_timeout: BoundedDuration::secs::<3>(),
            lease_ttl: BoundedDuration::secs::<15>(),
        }
    }
}

impl DiscoveryConfig {
    /// Checks what concerns several keys, reads the files, and gives all that is wrong.
    pub fn check(&self) -> Vec<ConfigError> {
        let mut wrong = Vec::new();
        wrong.extend(self.urls().err());
        wrong.extend(self.tls().err());
        // The watch relies on it.
        if self.dial_timeout.get() > self.lease_ttl.get() / 3 {
            let third = "above a third of discovery.leaseTtl: one slow request could cost the lease";
            wrong.push(ConfigError::value("discovery.dialTimeout", self.dial_timeout, third));
        }
        if self.username.is_empty() != self.password.is_empty() {
            let both = "discovery.username and discovery.password go together";
            wrong.push(ConfigError::value("discovery.username", &self.username, both));
        }
        wrong
    }

    /// The members as URLs.
    pub(super) fn urls(&self) -> Result<Vec<String>, ConfigError> {
        let wrong = |node: &str, why: &str| ConfigError::value("discovery.nodes", node, why);
        if self.nodes.is_empty() {
            return Err(wrong("[]", "needs at least one host:port of etcd"));
        }
        let url = |node: &String| {
            let (scheme, rest) = match (node.strip_prefix(HTTP), node.strip_prefix(HTTPS)) {
                (Some(rest), _) => (HTTP, rest),
                (_, Some(rest)) => (HTTPS, rest),
                _ if self.ca_file.is_empty() => (HTTP, node.as_str()),
                _ => (HTTPS, node.as_str()),
            };
            let address = rest.strip_suffix('/').unwrap_or(rest);
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
            if address.contains(['/', '@', ' ']) || port.is_none_or(|port| port.parse::<u16>().is_err()) {
                return Err(wrong(node, "not an etcd address: write host:port, such as 127.0.0.1:2379"));
            }
            match (scheme, self.ca_file.is_empty()) {
                (HTTPS, true) => Err(wrong(node, "https needs discovery.caFile")),
                (HTTP, false) => Err(wrong(node, "plain http, and discovery.caFile asks for TLS")),
                _ => Ok(format!("{scheme}{address}")),
            }
        };
        self.nodes.iter().map(url).collect()
    }

    /// What TLS needs; `None` without it.
    pub(super) fn tls(&self) -> Result<Option<TlsOptions>, ConfigError> {
        let read = |key: &str, path: &str| {
            fs::read(path)
                .map_err(|error| ConfigError::value(format!("discovery.{key}"), path, error.to_string()))
        };
        if self.cert_file.is_empty() != self.key_file.is_empty() {
            let both = "discovery.certFile and discovery.keyFile go together";
            return Err(ConfigError::value("discovery.certFile", &self.cert_file, both));
        }
        if self.ca_file.is_empty() {
            return match self.cert_file.is_empty() {
                true => Ok(None),
                false => {
                    let why = "a certificate needs discovery.caFile as well";
                    Err(ConfigError::value("discovery.certFile", &self.cert_file, why))
                }
            };
        }
        let authority = Certificate::from_pem(read("caFile", &self.ca_file)?);
        let mut tls = TlsOptions::new().ca_certificate(authority);
        if !self.cert_file.is_empty() {
            let own = (read("certFile", &self.cert_file)?, read("keyFile", &self.key_file)?);
            tls = tls.identity(Identity::from_pem(own.0, own.1));
        }
        Ok(Some(tls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Result<DiscoveryConfig, String> {
        let config: DiscoveryConfig = toml::from_str(toml).map_err(|error| error.to_string())?;
        match config.check().first() {
            None => Ok(config),
            Some(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn goims_section_reads_unchanged() {
        let config = read("nodes = [\"127.0.0.1:2379\"]\nusername = \"\"\npassword = \"\"\n").unwrap();
        assert_eq!(config, DiscoveryConfig::default());
        assert_eq!(config.urls().unwrap(), ["http://127.0.0.1:2379"]);
    }

    #[test]
    fn the_printed_default_reads_back_and_every_key_is_explained() {
        let text = config::commented_default::<DiscoveryConfig>();
        assert_eq!(read(&text).unwrap(), DiscoveryConfig::default());
        let mut lines = text.lines().filter(|line| !line.is_empty()).peekable();
        while let Some(line) = lines.next() {
            if lines.peek().is_some_and(|next| !next.starts_with('#')) {
                assert!(line.starts_with('#'), "no comment below {line}");
            }
        }
    }

    #[test]
    fn a_section_that_cannot_work_is_refused_with_its_key() {
        let pem = tempfile::NamedTempFile::new().unwrap();
        let ca = format!("caFile = {:?}\n", pem.path());
        for (toml, key) in [
            ("nodes = []".to_owned(), "discovery.nodes"),
            ("nodes = [\"127.0.0.1\"]".to_owned(), "discovery.nodes"),
            ("nodes = [\":2379\"]".to_owned(), "discovery.nodes"),
            ("nodes = [\"http://a:2379/v3\"]".to_owned(), "discovery.nodes"),
            ("nodes = [\"https://a:2379\"]".to_owned(), "discovery.nodes"),
            (format!("{ca}nodes = [\"http://a:2379\"]"), "discovery.nodes"),
            ("caFile = \"/nowhere/ca.pem\"".to_owned(), "discovery.caFile"),
            (format!("{ca}certFile = \"a.pem\""), "discovery.certFile"),
            ("certFile = \"a.pem\"\nkeyFile = \"b.pem\"".to_owned(), "discovery.certFile"),
            ("dialTimeout = \"6s\"".to_owned(), "discovery.dialTimeout"),
            ("username = \"root\"".to_owned(), "discovery.username"),
        ] {
            let error = read(&toml).expect_err(&toml);
            assert!(error.starts_with(key), "{toml}: {error}");
        }
        assert!(read("layout = \"/{env}/{server}\"").unwrap_err().contains("{appid} is missing"));
        assert!(read("leaseTtl = \"1s\"").unwrap_err().contains("below the minimum 2s"));
    }

    #[test]
    fn with_an_authority_host_and_port_mean_https() {
        let pem = tempfile::NamedTempFile::new().unwrap();
        let config = read(&format!("caFile = {:?}\nnodes = \"a:1,https://[::1]:2\"", pem.path())).unwrap();
        assert_eq!(config.urls().unwrap(), ["https://a:1", "https://[::1]:2"]);
    }
}
