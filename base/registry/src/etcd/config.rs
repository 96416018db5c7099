//! Configuration section `[discovery]`.

use config::{BoundedDuration, ConfigError, Parts, Secret, StringList};
use etcd_client::{Identity, TlsOptions};
use host::tls::{TlsClient, TlsClientConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::layout::Layout;

const HTTP: &str = "http://";
const HTTPS: &str = "https://";

/// Where the keys stand, for errors.
const SECTION: &str = "discovery";

/// etcd, where comets and logics find each other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct DiscoveryConfig {
    /// Where it is, and how it is used.
    #[serde(flatten)]
    pub etcd: EtcdConfig,
    /// TLS to all members. A node with "https://" in front asks for it too.
    #[serde(flatten)]
    pub tls: TlsClientConfig,
}

impl<'de> Deserialize<'de> for DiscoveryConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut parts = Parts::of(deserializer)?;
        let config = DiscoveryConfig { etcd: parts.read()?, tls: parts.read()? };
        parts.end().map(|()| config)
    }
}

/// Where etcd is, and how it is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct EtcdConfig {
    /// The members of the etcd cluster, "host:port" or with "http://" or "https://" in front, which is the same as `tls`.
    /// One at a time is used; when it fails, the next.
    pub nodes: StringList,
    /// User of etcd; empty = none. It reads and writes the keys of the layout, and the same ones under "/halley.meta".
    pub username: String,
    /// Password of the user.
    pub password: Secret,
    /// Paths of the keys: "goim" is "/{appid}/{env}/{region}/{zone}/{server}", as goim's programs write them; "goim-docs" is
    /// "/{env}/{appid}/{region}/{server}", as its documentation has them; or a path of your own out of these words and
    /// fixed texts. All processes of a cluster have the same.
    pub layout: Layout,
    /// How long a connection to etcd may take, and each request. A third of leaseTtl at most.
    pub dial_timeout: BoundedDuration<100, 60_000>,
    /// How long this process is known after its last word to etcd: a crashed one disappears after it. goim's is 15s.
    pub lease_ttl: BoundedDuration<2_000, 600_000>,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            nodes: ["127.0.0.1:2379"].into_iter().collect(),
            username: String::new(),
            password: Secret::default(),
            layout: Layout::default(),
            dial_timeout: BoundedDuration::secs::<3>(),
            lease_ttl: BoundedDuration::secs::<15>(),
        }
    }
}

impl From<EtcdConfig> for DiscoveryConfig {
    fn from(etcd: EtcdConfig) -> Self {
        DiscoveryConfig { etcd, tls: TlsClientConfig::default() }
    }
}

impl DiscoveryConfig {
    /// Checks what concerns several keys, reads the files, and gives all that is wrong.
    pub fn check(&self) -> Vec<ConfigError> {
        let mut wrong = Vec::new();
        wrong.extend(self.urls().err());
        wrong.extend(self.load_tls().err().unwrap_or_default());
        let EtcdConfig { username, password, dial_timeout, lease_ttl, .. } = &self.etcd;
        // The watch relies on it.
        if dial_timeout.get() > lease_ttl.get() / 3 {
            let third = "above a third of discovery.leaseTtl: one slow request could cost the lease";
            wrong.push(ConfigError::value("discovery.dialTimeout", dial_timeout, third));
        }
        if username.is_empty() != password.is_empty() {
            let both = "discovery.username and discovery.password go together";
            wrong.push(ConfigError::value("discovery.username", username, both));
        }
        wrong
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        let nodes = self.etcd.nodes.join(", ");
        if self.tls.tls { format!("{nodes}, TLS") } else { nodes }
    }

    /// Whether one node, and so every one, is reached over TLS.
    fn has_tls(&self) -> bool {
        self.tls.tls || self.etcd.nodes.iter().any(|node| node.starts_with(HTTPS))
    }

    /// The members as URLs.
    pub(super) fn urls(&self) -> Result<Vec<String>, ConfigError> {
        let wrong = |node: &str, why: &str| ConfigError::value("discovery.nodes", node, why);
        if self.etcd.nodes.is_empty() {
            return Err(wrong("[]", "needs at least one host:port of etcd"));
        }
        let url = |node: &String| {
            let (scheme, rest) = match (node.strip_prefix(HTTP), node.strip_prefix(HTTPS)) {
                (Some(rest), _) => (HTTP, rest),
                (_, Some(rest)) => (HTTPS, rest),
                _ if self.tls.tls => (HTTPS, node.as_str()),
                _ => (HTTP, node.as_str()),
            };
            let address = rest.strip_suffix('/').unwrap_or(rest);
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
            if address.contains(['/', '@', ' ']) || port.is_none_or(|port| port.parse::<u16>().is_err()) {
                return Err(wrong(node, "not an etcd address: write host:port, such as 127.0.0.1:2379"));
            }
            if scheme == HTTP && self.has_tls() {
                let why = "without TLS, and discovery.tls or another node asks for it: all have it, or none";
                return Err(wrong(node, why));
            }
            Ok(format!("{scheme}{address}"))
        };
        self.etcd.nodes.iter().map(url).collect()
    }

    /// What TLS needs; `None` without it.
    pub(super) fn tls(&self) -> Result<Option<TlsOptions>, ConfigError> {
        let loaded = self.load_tls().map_err(|mut errors| errors.swap_remove(0))?;
        Ok(loaded.map(|tls| {
            let options = TlsOptions::new().trust_anchors(tls.roots().roots.iter().cloned());
            match tls.own_pem() {
                Some((cert, key)) => options.identity(Identity::from_pem(cert, key)),
                None => options,
            }
        }))
    }

    fn load_tls(&self) -> Result<Option<TlsClient>, Vec<ConfigError>> {
        self.tls.load_if(SECTION, self.has_tls(), "discovery.tls is false and no node begins with https://")
    }
}

#[cfg(test)]
mod tests {
    use services::Authority;

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

    /// An authority, as a line of the section.
    fn ca() -> (Authority, String) {
        let authority = Authority::new();
        let line = format!("ca = {:?}\n", authority.ca());
        (authority, line)
    }

    #[test]
    fn a_section_that_cannot_work_is_refused_with_its_key() {
        let (_authority, ca) = ca();
        for (toml, key) in [
            ("nodes = []".to_owned(), "discovery.nodes"),
            ("nodes = [\"127.0.0.1\"]".to_owned(), "discovery.nodes"),
            ("nodes = [\":2379\"]".to_owned(), "discovery.nodes"),
            ("nodes = [\"http://a:2379/v3\"]".to_owned(), "discovery.nodes"),
            (format!("{ca}nodes = [\"https://a:2379\", \"http://b:2379\"]"), "discovery.nodes"),
            (format!("{ca}nodes = [\"https://a:2379\", \"b:2379\"]"), "discovery.nodes"),
            (format!("{ca}tls = true\nnodes = [\"http://a:2379\"]"), "discovery.nodes"),
            ("tls = true\nca = \"/nowhere/ca.pem\"".to_owned(), "discovery.ca"),
            (ca.clone(), "discovery.ca"),
            (format!("{ca}tls = true\ncert = \"a.pem\""), "discovery.cert"),
            ("cert = \"a.pem\"\nkey = \"b.pem\"".to_owned(), "discovery.cert"),
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
    fn with_tls_host_and_port_mean_https_and_with_https_there_is_tls() {
        let (_authority, ca) = ca();
        let config = read(&format!("{ca}tls = true\nnodes = \"a:1,https://[::1]:2\"")).unwrap();
        assert_eq!(config.urls().unwrap(), ["https://a:1", "https://[::1]:2"]);
        let config = read(&format!("{ca}nodes = \"https://a:1\"")).unwrap();
        assert!(config.tls().is_ok_and(|tls| tls.is_some()));
    }
}
