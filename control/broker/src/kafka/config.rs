//! The `[kafka]` sections of logic and of job.

use config::StringList;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const TOPIC: &str = "goim-push-topic";
const GROUP: &str = "goim-push-group-job";
const BROKERS: &str = "127.0.0.1:9092";

/// Where logic puts pushes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct KafkaConfig {
    /// The topic; goim's. Where the brokers do not create topics by themselves it has to be there.
    pub topic: String,
    /// Some of the brokers, `host:port`; the others are learnt from them.
    pub brokers: StringList,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        KafkaConfig { topic: TOPIC.into(), brokers: StringList::from_iter([BROKERS]) }
    }
}

/// Where job takes pushes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct KafkaJobConfig {
    /// The topic; goim's.
    pub topic: String,
    /// The consumer group; goim's. The jobs of one group share the partitions, so more jobs than partitions idle; another
    /// group gets everything once more.
    pub group: String,
    /// Some of the brokers, `host:port`; the others are learnt from them.
    pub brokers: StringList,
    /// How the jobs of the group share the partitions. All of a group have to agree: others are refused while it has
    /// members, and stand by.
    pub assignor: Assignor,
}

impl Default for KafkaJobConfig {
    fn default() -> Self {
        let KafkaConfig { topic, brokers } = KafkaConfig::default();
        KafkaJobConfig { topic, group: GROUP.into(), brokers, assignor: Assignor::default() }
    }
}

/// How members of a group share the partitions.
///
/// A Go job (sarama-cluster) uses ranges, and cannot share a group with librdkafka: as the leader it fails, again and again,
/// on the longer descriptions that ours give of themselves, and nobody gets a partition; as the leader ours leaves the Go
/// job's out. With an assignor that Go jobs do not know Kafka admits the one kind or the other, and who is refused
/// stands by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Assignor {
    /// Only the partitions that move stop. Where Go jobs are in the group ours stand by until the last has left, and the
    /// other way round.
    #[default]
    CooperativeSticky,
    /// By ranges: when a member comes or goes all stop for a moment. Beside Go jobs the whole group stops for good.
    Range,
}

impl Assignor {
    /// Its name in the group protocol.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Assignor::Range => "range",
            Assignor::CooperativeSticky => "cooperative-sticky",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned + Default>(sets: &[&str]) -> T {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        config::load(None, &sets, &[]).expect("a readable configuration").config
    }

    #[test]
    fn goims_keys_are_read_as_they_are() {
        let logic: KafkaConfig = read(&["topic=t", "brokers=a:9092,b:9092"]);
        assert_eq!((logic.topic.as_str(), logic.brokers.join(" ")), ("t", "a:9092 b:9092".to_owned()));
        let job: KafkaJobConfig = read(&["topic=t", "group=g", "brokers=a:9092"]);
        assert_eq!((job.group.as_str(), job.assignor), ("g", Assignor::CooperativeSticky));
    }

    #[test]
    fn the_assignor_is_called_as_in_kafka() {
        for assignor in [Assignor::CooperativeSticky, Assignor::Range] {
            let job: KafkaJobConfig = read(&[&format!("assignor={}", assignor.name())]);
            assert_eq!(job.assignor, assignor);
        }
    }
}
