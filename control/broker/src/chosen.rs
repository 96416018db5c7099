//! The broker that the file of a program chooses.

use std::sync::Arc;

use store::{Redis, RedisConfig, RedisMode};
use tokio::sync::watch;

use super::{
    Broker, RedisListBroker, RedisStreamBroker,
    kafka::{KafkaBroker, KafkaConfig, KafkaJobConfig, KafkaStartError},
};
use crate::metrics::BrokerMetrics;

/// A broker, and what a program says about it.
pub struct ChosenBroker {
    /// The broker.
    pub broker: Arc<dyn Broker>,
    /// Whether it answers.
    pub ready: watch::Receiver<bool>,
    /// What it stands on: `redis` or `kafka`.
    pub name: &'static str,
    /// Where and how, for people.
    pub words: String,
}

impl ChosenBroker {
    /// The one that `redis.mode` names, called `topic`. It holds `entries_max` entries at most, a stream each.
    pub fn redis(
        redis: Redis,
        config: &RedisConfig,
        topic: &str,
        entries_max: usize,
        metrics: BrokerMetrics,
    ) -> ChosenBroker {
        let ready = redis.ready();
        let (broker, how): (Arc<dyn Broker>, _) = match config.mode {
            RedisMode::Stream => {
                let streams = config.streams.u32();
                let broker = RedisStreamBroker::new(redis, topic, streams, entries_max, metrics);
                (Arc::new(broker), format!("{streams} Redis streams"))
            }
            RedisMode::List => {
                let broker = RedisListBroker::new(redis, topic, entries_max, metrics);
                (Arc::new(broker), "a Redis list".to_owned())
            }
        };
        let words = format!("{topic}: {how}, {}", config.place());
        ChosenBroker { broker, ready, name: "redis", words }
    }

    /// Kafka, for logic.
    ///
    /// # Errors
    /// The settings cannot be right.
    pub async fn kafka_for_logic(
        config: &KafkaConfig,
        metrics: BrokerMetrics,
    ) -> Result<ChosenBroker, KafkaStartError> {
        let broker = KafkaBroker::start_logic(config, metrics).await?;
        Ok(ChosenBroker::kafka(broker, &config.topic, &config.brokers))
    }

    /// Kafka, for job.
    ///
    /// # Errors
    /// The settings cannot be right.
    pub async fn kafka_for_job(
        config: &KafkaJobConfig,
        metrics: BrokerMetrics,
    ) -> Result<ChosenBroker, KafkaStartError> {
        let broker = KafkaBroker::start_job(config, metrics).await?;
        Ok(ChosenBroker::kafka(broker, &config.topic, &config.brokers))
    }

    fn kafka(broker: KafkaBroker, topic: &str, brokers: &[String]) -> ChosenBroker {
        let words = format!("{topic}: Kafka, {}", brokers.join(", "));
        ChosenBroker { ready: broker.ready(), broker: Arc::new(broker), name: "kafka", words }
    }
}
