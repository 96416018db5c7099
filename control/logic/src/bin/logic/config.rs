//! What can be set about the program `logic`: logic's own sections, and what it works with in a cluster.

use std::collections::BTreeMap;

use broker::{ConsumeConfig, KafkaConfig};
use config::{Bounded, ConfigError, StringList};
use halley_logic::config::{
    AuthConfig, BackoffConfig, ClientMessages, Exposure, HttpServerConfig, LogicConfig, NodeConfig,
    PushConfig, RpcServerConfig,
};
use host::process::{LogConfig, ProgramConfig, RpcClientConfig};
use registry::etcd::DiscoveryConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use store::RedisConfig;

/// The control plane of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct LogicFile {
    /// What happens to an operation 4 of a client.
    pub(crate) client_messages: ClientMessages,
    /// Logs, on standard error.
    pub(crate) log: LogConfig,
    /// Who may log in, and how that is decided. Without this section the program starts as goim does, whoever can reach
    /// it, and warns.
    #[serde(default)]
    pub(crate) auth: Option<AuthConfig>,
    /// Which broker carries the pushes to job; in job's file the same one. A file without this section means Kafka, as the
    /// original goim has nothing else.
    #[serde(default)]
    pub(crate) consume: Option<ConsumeConfig>,
    /// etcd, where comets and logics find each other.
    pub(crate) discovery: DiscoveryConfig,
    /// Sessions and counts, and the queue when `consume.redisEnable` says so.
    pub(crate) redis: RedisConfig,
    /// The queue when `consume.kafkaEnable` says so. The topic is the queue's name in Redis too.
    pub(crate) kafka: KafkaConfig,
    /// The HTTP API: pushes, online counts, nodes, metrics.
    pub(crate) http_server: HttpServerConfig,
    /// The gRPC service `goim.logic.Logic`, which comets call.
    pub(crate) rpc_server: RpcServerConfig,
    /// Calls of comets: kicks.
    pub(crate) rpc_client: RpcClientConfig,
    /// The push API.
    pub(crate) push: PushConfig,
    /// Bounds of what logic takes.
    pub(crate) limits: LimitsConfig,
    /// What clients are told about where and how to connect.
    pub(crate) node: NodeConfig,
    /// What clients are told about how long to wait between attempts to connect.
    pub(crate) backoff: BackoffConfig,
    /// Networks of each region, such as `sh = ["10.1.0.0/16"]`: a client from one of them is sent to comets of that
    /// region first (`node.regionWeight`). goim lists provinces here, for which it has no address table either: what is
    /// no network matches nobody.
    pub(crate) regions: BTreeMap<String, StringList>,
}

/// Bounds of what logic takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct LimitsConfig {
    /// Pushes a second over the HTTP API; more are answered with 429. One second's worth may come at once. 0 = no limit.
    pub(crate) push_rate: Bounded<0, 1_000_000>,
    /// Connections to the HTTP API; more wait until one ends.
    pub(crate) http_connections: Bounded<1, 65_535>,
    /// Pushes that wait in Redis until job has them, in each stream or in the list; beyond that a push is answered with
    /// 503. Kafka has bounds of its own.
    pub(crate) broker_entries: Bounded<100, 100_000_000>,
}

impl Default for LogicFile {
    fn default() -> Self {
        let LogicConfig {
            client_messages, http_server, rpc_server, push, node, backoff, regions, auth, ..
        } = LogicConfig::default();
        LogicFile {
            client_messages,
            log: LogConfig::default(),
            auth: Some(auth),
            consume: Some(ConsumeConfig::REDIS),
            discovery: DiscoveryConfig::default(),
            redis: RedisConfig::default(),
            kafka: KafkaConfig::default(),
            http_server,
            rpc_server,
            rpc_client: RpcClientConfig::default(),
            push,
            limits: LimitsConfig::default(),
            node,
            backoff,
            regions,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let halley_logic::config::LimitsConfig { push_rate, http_connections, broker_entries, .. } =
            LogicConfig::default().limits;
        LimitsConfig { push_rate, http_connections, broker_entries }
    }
}

impl ProgramConfig for LogicFile {
    fn unused_goim_keys() -> Vec<String> {
        LogicConfig::UNUSED_GOIM_KEYS.iter().copied().chain(["rpcClient.dial"]).map(str::to_owned).collect()
    }

    fn log(&self) -> &LogConfig {
        &self.log
    }
}

impl LogicFile {
    /// Logic's own sections.
    pub(crate) fn logic(&self) -> LogicConfig {
        let LimitsConfig { push_rate, http_connections, broker_entries } = self.limits;
        LogicConfig {
            client_messages: self.client_messages,
            http_server: self.http_server.clone(),
            rpc_server: self.rpc_server.clone(),
            auth: self.auth.clone().unwrap_or_default(),
            push: self.push.clone(),
            limits: halley_logic::config::LimitsConfig {
                push_rate,
                http_connections,
                broker_entries,
                ..Default::default()
            },
            redis: halley_logic::config::RedisConfig { expire: self.redis.expire },
            node: self.node.clone(),
            backoff: self.backoff.clone(),
            regions: self.regions.clone(),
        }
    }

    /// Where there is no file, nothing that it does not say is goim's.
    pub(crate) fn without_a_file(&mut self) {
        let LogicFile { auth, consume, .. } = LogicFile::default();
        self.auth = self.auth.take().or(auth);
        self.consume = self.consume.take().or(consume);
    }

    /// What strangers could do.
    ///
    /// # Errors
    /// Where they could do something, and nothing allows it.
    pub(crate) fn exposure(&self) -> Result<Exposure, Vec<ConfigError>> {
        let mut logic = self.logic();
        logic.auth.allow_insecure |= self.auth.is_none();
        logic.check_exposure("", &[])
    }
}

#[cfg(test)]
mod tests {
    use config::{commented_default, load};

    use super::*;

    #[test]
    fn the_printed_default_reads_as_the_default() {
        let text = commented_default::<LogicFile>();
        let parsed: LogicFile = toml::from_str(&text).expect("the default file is valid");
        assert_eq!(parsed, LogicFile::default());
        assert_eq!(parsed.logic(), LogicConfig::default());
    }

    #[test]
    fn strangers_are_kept_out_where_the_file_speaks_of_them_and_warned_of_elsewhere() {
        let exposure = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
            let file: LogicFile = load(None, &sets, &[]).expect("a readable configuration").config;
            file.exposure().map_err(|open| open[0].to_string())
        };
        let open = ["httpServer.addr=:3111", "rpcServer.addr=:3119"];
        assert!(matches!(exposure(&open), Ok(Exposure::Insecure(sentences)) if sentences.len() == 2));
        let refused = exposure(&[open[0], "auth.mode=trust"]).unwrap_err();
        assert!(
            refused.starts_with("httpServer.addr") && refused.contains("set auth.allowInsecure"),
            "{refused}"
        );
        assert_eq!(exposure(&[open[0], "auth.mode=trust", "push.tokens=sesame"]), Ok(Exposure::Closed));
    }
}
