//! The file of the program `logic`: logic's own sections, and what it works with in a cluster.

use broker::{ConsumeConfig, KafkaConfig, QueueLimitsConfig};
use config::Parts;
use halley_logic::config::{LimitsConfig, LogicConfig};
use host::process::{LogConfig, ProgramConfig, RpcClientConfig};
use registry::etcd::DiscoveryConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use store::RedisConfig;

/// The control plane of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub(crate) struct LogicFile {
    #[serde(flatten)]
    pub(crate) logic: LogicConfig,
    #[serde(flatten)]
    pub(crate) cluster: ClusterConfig,
}

impl<'de> Deserialize<'de> for LogicFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut parts = Parts::of(deserializer)?;
        let file = LogicFile { logic: parts.read()?, cluster: parts.read()? };
        parts.end().map(|()| file)
    }
}

/// What logic works with in a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ClusterConfig {
    /// Logs, on standard error.
    pub(crate) log: LogConfig,
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
    /// Calls of comets: kicks.
    pub(crate) rpc_client: RpcClientConfig,
    /// Bounds of what logic takes.
    pub(crate) limits: ClusterLimits,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        ClusterConfig {
            log: LogConfig::default(),
            consume: Some(ConsumeConfig::REDIS),
            discovery: DiscoveryConfig::default(),
            redis: RedisConfig::default(),
            kafka: KafkaConfig::default(),
            rpc_client: RpcClientConfig::default(),
            limits: ClusterLimits::default(),
        }
    }
}

/// Bounds of what logic takes, and of what waits behind it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub(crate) struct ClusterLimits {
    #[serde(flatten)]
    pub(crate) logic: LimitsConfig,
    #[serde(flatten)]
    pub(crate) queue: QueueLimitsConfig,
}

impl<'de> Deserialize<'de> for ClusterLimits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut parts = Parts::of(deserializer)?;
        let limits = ClusterLimits { logic: parts.read()?, queue: parts.read()? };
        parts.end().map(|()| limits)
    }
}

impl ProgramConfig for LogicFile {
    fn unused_goim_keys() -> Vec<String> {
        LogicConfig::UNUSED_GOIM_KEYS.iter().copied().chain(["rpcClient.dial"]).map(str::to_owned).collect()
    }

    fn log(&self) -> &LogConfig {
        &self.cluster.log
    }

    fn without_a_file(&mut self) {
        let LogicFile { logic, cluster } = LogicFile::default();
        self.logic.auth = self.logic.auth.take().or(logic.auth);
        self.cluster.consume = self.cluster.consume.take().or(cluster.consume);
    }
}

#[cfg(test)]
mod tests {
    use config::{commented_default, load};
    use halley_logic::config::Exposure;

    use super::*;

    #[test]
    fn the_printed_default_reads_as_the_default() {
        let text = commented_default::<LogicFile>();
        let parsed: LogicFile = toml::from_str(&text).expect("the default file is valid");
        assert_eq!(parsed, LogicFile::default());
    }

    #[test]
    fn strangers_are_kept_out_where_the_file_speaks_of_them_and_warned_of_elsewhere() {
        let exposure = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
            let file: LogicFile = load(None, &sets, &[]).expect("a readable configuration").config;
            file.logic.check_exposure("", &[]).map_err(|open| open[0].to_string())
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
