//! What can be set about the program `job`: job's own sections, and what it works with in a cluster.

use broker::{ConsumeConfig, KafkaJobConfig};
use config::Addrs;
use halley_job::config::{DispatchConfig, JobConfig, RoomConfig};
use host::process::{LogConfig, ProgramConfig};
use registry::etcd::DiscoveryConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use store::RedisConfig;

/// The carrier of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct JobFile {
    /// Logs, on standard error.
    pub(crate) log: LogConfig,
    /// Metrics and health.
    pub(crate) admin: AdminConfig,
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
    /// Joining of room messages, on the way to comets that are called once per message. Only messages that wait anyway,
    /// because the link is busy, are joined; none waits for another one.
    pub(crate) room: RoomConfig,
    /// The way to each comet.
    pub(crate) dispatch: DispatchConfig,
}

/// Metrics and health.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct AdminConfig {
    /// Addresses of /metrics, /healthz and /readyz. Nobody is asked for a token there.
    pub(crate) addr: Addrs,
}

impl Default for JobFile {
    fn default() -> Self {
        let JobConfig { room, dispatch } = JobConfig::default();
        JobFile {
            log: LogConfig::default(),
            admin: AdminConfig::default(),
            consume: Some(ConsumeConfig::REDIS),
            discovery: DiscoveryConfig::default(),
            redis: RedisConfig::default(),
            kafka: KafkaJobConfig::default(),
            room,
            dispatch,
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        AdminConfig { addr: Addrs::loopback(3112) }
    }
}

impl ProgramConfig for JobFile {
    fn unused_goim_keys() -> Vec<String> {
        let redis = ["redis.network", "redis.active", "redis.idle", "redis.idleTimeout"];
        JobConfig::UNUSED_GOIM_KEYS.iter().copied().chain(redis).map(str::to_owned).collect()
    }

    fn log(&self) -> &LogConfig {
        &self.log
    }
}

impl JobFile {
    /// Where there is no file, nothing that it does not say is goim's.
    pub(crate) fn without_a_file(&mut self) {
        self.consume = self.consume.take().or(JobFile::default().consume);
    }

    /// Job's own sections.
    pub(crate) fn job(&self) -> JobConfig {
        JobConfig { room: self.room.clone(), dispatch: self.dispatch.clone() }
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
        assert_eq!(parsed.job(), JobConfig::default());
    }
}
