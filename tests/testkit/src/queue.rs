//! What carries pushes from logic to job in a cluster.

/// A kind of queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Queue {
    /// Redis streams, the default of the programs.
    Stream,
    /// A Redis list: at most once.
    List,
    /// Kafka.
    Kafka,
}

impl Queue {
    /// Its word on command lines and in tables.
    pub const fn word(self) -> &'static str {
        match self {
            Queue::Stream => "streams",
            Queue::List => "list",
            Queue::Kafka => "kafka",
        }
    }

    /// What logic and job are told of their stores: where Redis is, and Kafka where it is the queue.
    ///
    /// # Panics
    /// Kafka is the queue, and nobody says where it is.
    pub fn settings(self, redis: &str, kafka: Option<&str>) -> Vec<String> {
        let [is_on, detail] = match self {
            Queue::Stream => ["consume.redisEnable=true".to_owned(), "redis.mode=stream".to_owned()],
            Queue::List => ["consume.redisEnable=true".to_owned(), "redis.mode=list".to_owned()],
            Queue::Kafka => {
                let brokers = kafka.expect("a Kafka that is the queue");
                ["consume.kafkaEnable=true".to_owned(), format!("kafka.brokers={brokers}")]
            }
        };
        vec![format!("redis.addr={redis}"), is_on, detail]
    }
}
