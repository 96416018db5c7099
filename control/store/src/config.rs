//! The section `[redis]` of logic's and job's files.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use config::{Bounded, BoundedDuration, ConfigError, List, Parts, Secret};
use host::tls::TlsClientConfig;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Where the keys stand, for errors.
pub(super) const SECTION: &str = "redis";

/// From 10 ms to 60 s.
type Timeout = BoundedDuration<10, 60_000>;

/// Where Redis is, how we get in, and what it holds for us. `network`, `active`, `idle` and `idleTimeout` of goim name its
/// own pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct RedisConfig {
    /// Where it is, and the login.
    #[serde(flatten)]
    pub server: RedisServerConfig,
    /// TLS, to Sentinels too.
    #[serde(flatten)]
    pub tls: TlsClientConfig,
    /// What it holds.
    #[serde(flatten)]
    pub data: RedisDataConfig,
}

impl<'de> Deserialize<'de> for RedisConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut parts = Parts::of(deserializer)?;
        let config = RedisConfig { server: parts.read()?, tls: parts.read()?, data: parts.read()? };
        parts.end().map(|()| config)
    }
}

/// Where Redis is, and the login.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RedisServerConfig {
    /// Address of the server, `host:port`. Not used when `sentinels` are given.
    pub addr: HostPort,
    /// User of the server's access control (ACL); empty = `default`, the only one before Redis 6.
    pub user: String,
    /// Password of the user; none where it asks for none.
    pub auth: Secret,
    /// Number of the database, on which every logic and job must agree. goim's is 0.
    pub db: Bounded<0, 65_535>,
    /// Sentinels, `host:port` each, which say where the master is now.
    pub sentinels: List<HostPort>,
    /// User of the Sentinels; empty = `default`.
    pub sentinel_user: String,
    /// Password of that user; none where Sentinels ask for none. `auth` is not for them.
    pub sentinel_auth: Secret,
    /// Name of the master at the Sentinels.
    pub master_name: String,
    /// Longest time to reach a server and to be let in.
    pub dial_timeout: Timeout,
    /// Longest time for the answer of one command, to which `writeTimeout` is added.
    pub read_timeout: Timeout,
    /// Longest time to send one command.
    pub write_timeout: Timeout,
}

/// What Redis holds for us.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RedisDataConfig {
    /// Put before the name of every key but the queue's. goim-example's; the original goim has none: `""`.
    pub prefix: String,
    /// How long a session lives that its comet does not renew; goim's. Comets renew well inside it. More than
    /// `node.heartbeat` times `node.heartbeatMax`.
    pub expire: BoundedDuration<10_000, 604_800_000>,
    /// How the queue between logic and job is kept, where `consume.redisEnable` chooses Redis.
    pub mode: RedisMode,
    /// Number of streams that share the pushes, in the mode `stream`: so many jobs can work at once. Every logic and job
    /// must have the same. To change it, stop the logics, let the jobs empty the streams, and start all with the new one.
    pub streams: Bounded<1, 256>,
}

impl Default for RedisServerConfig {
    fn default() -> Self {
        RedisServerConfig {
            addr: HostPort { host: "127.0.0.1".to_owned(), port: 6379 },
            user: String::new(),
            auth: Secret::default(),
            db: Bounded::of::<0>(),
            sentinels: List::default(),
            sentinel_user: String::new(),
            sentinel_auth: Secret::default(),
            master_name: "mymaster".to_owned(),
            dial_timeout: Timeout::millis::<1000>(),
            read_timeout: Timeout::millis::<500>(),
            write_timeout: Timeout::millis::<500>(),
        }
    }
}

impl Default for RedisDataConfig {
    fn default() -> Self {
        RedisDataConfig {
            prefix: "golang_im:".to_owned(),
            expire: BoundedDuration::millis::<1_800_000>(),
            mode: RedisMode::Stream,
            streams: Bounded::of::<8>(),
        }
    }
}

impl From<RedisServerConfig> for RedisConfig {
    fn from(server: RedisServerConfig) -> Self {
        RedisConfig { server, ..RedisConfig::default() }
    }
}

impl RedisConfig {
    /// The defaults with the server at `addr`.
    pub fn at(addr: HostPort) -> RedisConfig {
        RedisServerConfig { addr, ..RedisServerConfig::default() }.into()
    }

    /// Checks what concerns several keys, reads the files of TLS, and gives all that is wrong. The keys stand in
    /// `[redis]`.
    pub fn check(&self) -> Vec<ConfigError> {
        let mut wrong = self.tls.check(SECTION);
        for (name, user, secret, password) in [
            ("user", &self.server.user, "auth", &self.server.auth),
            ("sentinelUser", &self.server.sentinel_user, "sentinelAuth", &self.server.sentinel_auth),
        ] {
            if !user.is_empty() && password.is_empty() {
                let reason = format!("needs {SECTION}.{secret}, the password");
                wrong.push(ConfigError::value(format!("{SECTION}.{name}"), format!("{user:?}"), reason));
            }
        }
        wrong
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        let RedisServerConfig { addr, sentinels, master_name, .. } = &self.server;
        let place = match sentinels.get() {
            [] => addr.to_string(),
            sentinels => {
                let sentinels: Vec<_> = sentinels.iter().map(ToString::to_string).collect();
                format!("{master_name} by the Sentinels {}", sentinels.join(", "))
            }
        };
        if self.tls.tls { format!("{place}, TLS") } else { place }
    }

    /// Longest time for one command.
    pub fn deadline(&self) -> Duration {
        self.server.write_timeout.get() + self.server.read_timeout.get()
    }
}

/// How the queue is kept in Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RedisMode {
    /// Streams: what was accepted survives a job that dies.
    #[default]
    Stream,
    /// goim-example's list, for use beside Go logics and jobs: what a dying job had taken is lost.
    List,
}

/// Where a server is: `redis.example.com:6379`, `10.0.0.1:6379`, `[::1]:6379`, or `:6379` for this machine, as Go
/// writes it. A name is resolved at each connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name or address, without brackets.
    pub host: String,
    /// Port, not 0.
    pub port: u16,
}

/// A text that is no [`HostPort`]. Not retried: the operator changes the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address: write host:port, such as 127.0.0.1:6379")]
pub struct HostPortError(String);

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let parse = || {
            let (host, port) = text.rsplit_once(':')?;
            let port = port.parse().ok().filter(|port| *port != 0 && !text.contains(char::is_whitespace))?;
            let host = match host.strip_prefix('[') {
                Some(host) => host.strip_suffix(']')?,
                None if host.contains([':', '/', '@']) => return None,
                None => host,
            };
            let host = if host.is_empty() { "127.0.0.1" } else { host };
            Some(HostPort { host: host.to_owned(), port })
        };
        parse().ok_or_else(|| HostPortError(text.to_owned()))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostPort { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Serialize for HostPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for HostPort {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "HostPort".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, Serialize, Deserialize, JsonSchema)]
    #[serde(default)]
    struct File {
        redis: RedisConfig,
    }

    #[test]
    fn the_section_of_goims_files_is_read() {
        let sets = [
            "redis.addr=127.0.0.1:6380",
            "redis.user=halley",
            "redis.auth=sesame",
            "redis.dialTimeout=200ms",
            "redis.readTimeout=300ms",
            "redis.writeTimeout=400ms",
            "redis.expire=30m",
            "redis.sentinels=10.0.0.1:26379,s2:26379",
            "redis.mode=list",
        ];
        let read = config::load::<File>(None, &sets.map(str::to_owned), &[]);
        let config = read.expect("a readable file").config.redis;
        let server = &config.server;
        assert_eq!((server.addr.to_string(), server.auth.get()), ("127.0.0.1:6380".to_owned(), "sesame"));
        assert_eq!(config.deadline(), Duration::from_millis(700));
        assert_eq!((server.sentinels.len(), config.data.mode), (2, RedisMode::List));
        assert_eq!(config.data.prefix, "golang_im:");
        assert!(!format!("{config:?}").contains("sesame"));
        for set in
            ["redis.addr=nowhere", "redis.expire=1s", "redis.mode=queue", "redis.db=-1", "redis.tsl=true"]
        {
            assert!(config::load::<File>(None, &[set.to_owned()], &[]).is_err(), "{set}");
        }
    }

    #[test]
    fn the_printed_default_reads_back() {
        let read: File = toml::from_str(&config::commented_default::<File>()).expect("a readable file");
        assert_eq!(read.redis, RedisConfig::default());
        assert!(read.redis.check().is_empty());
    }

    #[test]
    fn a_section_that_cannot_work_is_refused_with_its_key() {
        for (sets, told) in [
            (&["redis.user=halley"][..], "redis.user = \"halley\": needs redis.auth"),
            (&["redis.sentinelUser=s"], "redis.sentinelUser = \"s\": needs redis.sentinelAuth"),
            (&["redis.ca=/ca.pem"], "redis.ca = \"/ca.pem\": would not be used, redis.tls is false"),
            (&["redis.tls=true", "redis.ca=/no/ca.pem"], "redis.ca = \"/no/ca.pem\": cannot be read"),
        ] {
            let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
            let read = config::load::<File>(None, &sets, &[]).expect("a readable file").config.redis;
            let wrong: Vec<String> = read.check().iter().map(ToString::to_string).collect();
            assert!(matches!(&wrong[..], [one] if one.starts_with(told)), "{wrong:?}");
        }
    }

    #[test]
    fn addresses_are_read_as_go_reads_them() {
        for (text, shown) in [
            ("127.0.0.1:6379", "127.0.0.1:6379"),
            (":6379", "127.0.0.1:6379"),
            ("redis-1.example.com:1", "redis-1.example.com:1"),
            ("[::1]:65535", "[::1]:65535"),
        ] {
            assert_eq!(text.parse::<HostPort>().map(|addr| addr.to_string()), Ok(shown.to_owned()));
        }
        for text in ["", ":", "redis", "redis:0", "redis:65536", "::1:6379", "[::1:1", "redis://h:1", "a b:1"]
        {
            assert_eq!(text.parse::<HostPort>(), Err(HostPortError(text.to_owned())), "{text}");
        }
    }
}
