//! The file of the program `job`: job's own sections, and what it works with in a cluster.

use broker::{ConsumeConfig, KafkaJobConfig};
use config::Parts;
use halley_job::config::JobConfig;
use host::{
    admin::AdminConfig,
    process::{LogConfig, ProgramConfig},
    tls::MutualConfig,
};
use registry::etcd::DiscoveryConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use store::RedisConfig;

/// The carrier of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub(crate) struct JobFile {
    #[serde(flatten)]
    pub(crate) cluster: ClusterConfig,
    #[serde(flatten)]
    pub(crate) job: JobConfig,
}

impl<'de> Deserialize<'de> for JobFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut parts = Parts::of(deserializer)?;
        let file = JobFile { cluster: parts.read()?, job: parts.read()? };
        parts.end().map(|()| file)
    }
}

/// What job works with in a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ClusterConfig {
    /// Logs, on standard error.
    pub(crate) log: LogConfig,
    /// Metrics and health.
    pub(crate) admin: AdminConfig,
    /// TLS of gRPC, with the comets of the cluster.
    pub(crate) tls: MutualConfig,
    /// Which broker carries the pushes from logic; in logic's file the same one. A file without this section means Kafka,
    /// as the original goim has nothing else.
    #[serde(default)]
    pub(crate) consume: Option<ConsumeConfig>,
    /// etcd, where comets and logics find each other.
    pub(crate) discovery: DiscoveryConfig,
    /// The queue when `consume.redisEnable` says so. What concerns sessions is logic's.
    pub(crate) redis: RedisConfig,
    /// The queue when `consume.kafkaEnable` says so. The topic is the queue's name in Redis too.
    pub(crate) kafka: KafkaJobConfig,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        ClusterConfig {
            log: LogConfig::default(),
            admin: AdminConfig::loopback(3112),
            tls: MutualConfig::default(),
            consume: Some(ConsumeConfig::REDIS),
            discovery: DiscoveryConfig::default(),
            redis: RedisConfig::default(),
            kafka: KafkaJobConfig::default(),
        }
    }
}

impl ProgramConfig for JobFile {
    fn unused_goim_keys() -> Vec<String> {
        let redis = ["redis.network", "redis.active", "redis.idle", "redis.idleTimeout"];
        JobConfig::UNUSED_GOIM_KEYS.iter().copied().chain(redis).map(str::to_owned).collect()
    }

    fn log(&self) -> &LogConfig {
        &self.cluster.log
    }

    fn without_a_file(&mut self) {
        self.cluster.consume = self.cluster.consume.take().or(ClusterConfig::default().consume);
    }
}

#[cfg(test)]
mod tests {
    use config::commented_default;

    use super::*;

    #[test]
    fn the_printed_default_reads_as_the_default() {
        let text = commented_default::<JobFile>();
        let parsed: JobFile = toml::from_str(&text).expect("the default file is valid");
        assert_eq!(parsed, JobFile::default());
    }
}
