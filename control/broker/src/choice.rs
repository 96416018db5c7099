//! What files say about the broker: which one it is, and how much waits there.

use config::{Bounded, ByteSize, ConfigError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::MemoryLimits;

/// Which broker carries the pushes from logic to job; the same one in the files of both. A key that is not there is the
/// opposite of the other one: goim-example's files used to have both, and have only `kafkaEnable` by now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ConsumeConfig {
    /// Kafka.
    pub kafka_enable: Option<bool>,
    /// Redis, as `redis.mode` says.
    pub redis_enable: Option<bool>,
}

/// A broker that can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerChoice {
    /// Kafka.
    Kafka,
    /// Redis.
    Redis,
}

impl ConsumeConfig {
    /// Redis: what the programs take where there is no file.
    pub const REDIS: ConsumeConfig = ConsumeConfig { redis_enable: Some(true), kafka_enable: Some(false) };

    /// The one that is enabled; Kafka where nothing is said about it, and Redis where the section is there and says
    /// nothing, as in the programs whose files have it.
    ///
    /// # Errors
    /// None is, or both are.
    pub fn choice(section: Option<&ConsumeConfig>) -> Result<BrokerChoice, ConfigError> {
        let Some(section) = section else { return Ok(BrokerChoice::Kafka) };
        let refuse = |value: bool, reason| Err(ConfigError::value("consume.kafkaEnable", value, reason));
        match (section.kafka_enable, section.redis_enable) {
            (Some(true), Some(true)) => refuse(
                true,
                "consume.redisEnable is true too, but one broker carries all pushes: set one to false",
            ),
            (Some(false), Some(false)) => {
                refuse(false, "consume.redisEnable is false too, so nothing carries a push: set one to true")
            }
            (Some(true), _) | (None, Some(false)) => Ok(BrokerChoice::Kafka),
            (Some(false), _) | (None, _) => Ok(BrokerChoice::Redis),
        }
    }
}

/// How much waits in the memory broker: keys of the section `limits` in `halley`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct MemoryLimitsConfig {
    /// Pushes that wait in the memory broker until comet has them, bytes; beyond that a push is answered with 503.
    /// At least four times `push.maxBody`.
    pub broker_bytes: ByteSize<{ 64 << 10 }, { 64 << 30 }>,
    /// The same, in pushes.
    pub broker_entries: Bounded<100, 100_000_000>,
}

impl Default for MemoryLimitsConfig {
    fn default() -> Self {
        MemoryLimitsConfig { broker_bytes: ByteSize::mib::<64>(), broker_entries: Bounded::of::<262_144>() }
    }
}

impl MemoryLimitsConfig {
    /// As the memory broker has them.
    pub fn limits(&self) -> MemoryLimits {
        MemoryLimits { bytes: self.broker_bytes.usize(), entries: self.broker_entries.usize() }
    }
}

/// How much waits in Redis: a key of the section `limits` in `logic`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct QueueLimitsConfig {
    /// Pushes that wait in Redis until job has them, in each stream or in the list; beyond that a push is answered with
    /// 503. Kafka has bounds of its own.
    pub broker_entries: Bounded<100, 100_000_000>,
}

impl Default for QueueLimitsConfig {
    fn default() -> Self {
        QueueLimitsConfig { broker_entries: MemoryLimitsConfig::default().broker_entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_broker_is_chosen() {
        let choice = |kafka_enable, redis_enable| {
            ConsumeConfig::choice(Some(&ConsumeConfig { kafka_enable, redis_enable }))
                .map_err(|e| e.to_string())
        };
        assert_eq!(ConsumeConfig::choice(None).ok(), Some(BrokerChoice::Kafka));
        for (kafka, redis, chosen) in [
            (Some(true), Some(false), BrokerChoice::Kafka),
            (Some(false), Some(true), BrokerChoice::Redis),
            // goim-example's newest files have the first key only, and its oldest could do with the second.
            (Some(false), None, BrokerChoice::Redis),
            (Some(true), None, BrokerChoice::Kafka),
            (None, Some(true), BrokerChoice::Redis),
            (None, Some(false), BrokerChoice::Kafka),
            (None, None, BrokerChoice::Redis),
        ] {
            assert_eq!(choice(kafka, redis), Ok(chosen), "{kafka:?} {redis:?}");
        }
        assert_eq!(
            choice(Some(true), Some(true)).unwrap_err(),
            "consume.kafkaEnable = true: consume.redisEnable is true too, but one broker carries all pushes: set one to \
             false"
        );
        assert_eq!(
            choice(Some(false), Some(false)).unwrap_err(),
            "consume.kafkaEnable = false: consume.redisEnable is false too, so nothing carries a push: set one to true"
        );
    }
}
