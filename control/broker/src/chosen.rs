//! The broker that a program's file chooses.

use std::sync::Arc;

use host::tls::TlsClientConfig;
use store::{Redis, RedisConfig, RedisMode};
use tokio::sync::watch;

use super::{
    Broker, RedisListBroker, RedisStreamBroker,
    kafka::{KafkaBroker, KafkaConfig, KafkaJobConfig, KafkaServersConfig, KafkaStartError},
};
use crate::metrics::BrokerMetrics;

/// A broker, and what a program tells about it.
pub struct ChosenBroker {
    /// The broker.
    pub broker: Arc<dyn Broker>,
    /// Whether it answers.
    pub ready: watch::Receiver<bool>,
    /// The service behind it: `redis` or `kafka`.
    pub name: &'static str,
    /// Where and how it works, in words for people.
    pub words: String,
}

impl ChosenBroker {
    /// The broker on Redis that `redis.mode` names, called `topic`. It holds at most `entries_max` entries; with
    /// streams, each stream does.
    pub fn redis(
        redis: Redis,
        config: &RedisConfig,
        topic: &str,
        entries_max: usize,
        metrics: BrokerMetrics,
    ) -> ChosenBroker {
        let ready = redis.ready();
        let (broker, how): (Arc<dyn Broker>, _) = match config.data.mode {
            RedisMode::Stream => {
                let streams = config.data.streams.u32();
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
    /// The settings cannot work.
    pub async fn kafka_for_logic(
        config: &KafkaConfig,
        metrics: BrokerMetrics,
    ) -> Result<ChosenBroker, KafkaStartError> {
        let broker = KafkaBroker::start_logic(config, metrics).await?;
        Ok(ChosenBroker::kafka(broker, &config.queue.topic, &config.servers, &config.tls))
    }

    /// Kafka, for job.
    ///
    /// # Errors
    /// The settings cannot work.
    pub async fn kafka_for_job(
        config: &KafkaJobConfig,
        metrics: BrokerMetrics,
    ) -> Result<ChosenBroker, KafkaStartError> {
        let broker = KafkaBroker::start_job(config, metrics).await?;
        Ok(ChosenBroker::kafka(broker, &config.queue.topic, &config.servers, &config.tls))
    }

    fn kafka(
        broker: KafkaBroker,
        topic: &str,
        servers: &KafkaServersConfig,
        tls: &TlsClientConfig,
    ) -> ChosenBroker {
        let tls = if tls.tls { ", TLS" } else { "" };
        let words = format!("{topic}: Kafka, {}{tls}", servers.brokers.join(", "));
        ChosenBroker { ready: broker.ready(), broker: Arc::new(broker), name: "kafka", words }
    }
}
