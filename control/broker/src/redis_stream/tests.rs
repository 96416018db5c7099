mod faults;
mod layout;
mod sharing;

use std::time::Duration;

use super::*;
use crate::{
    MemoryLimits, conformance,
    redis_shared::PUBLISH_BYTES_MAX,
    redis_testing::{Site, command, topic},
};

const GROUP: &str = "goim-push-group-job";

fn broker(redis: &Redis, topic: &str) -> RedisStreamBroker {
    RedisStreamBroker::new(redis.clone(), topic, 8, 10_000, BrokerMetrics::default())
}

#[tokio::test]
async fn streams_conform() {
    let site = Site::start().await;
    conformance::run(async || {
        let (topic, redis) = (topic(), site.redis.clone());
        let broker = RedisStreamBroker::new(redis.clone(), &topic, 8, 1000, BrokerMetrics::default());
        let stream = broker.topic.stream(broker.topic.stream_of("live://1000"));
        conformance::Subject {
            broker: Arc::new(broker),
            limits: Some(MemoryLimits { bytes: PUBLISH_BYTES_MAX, entries: 1000 }),
            group: "job".into(),
            owners_stay: true,
            acknowledges: true,
            patience: Duration::from_millis(1500),
            put_bytes: Box::new(move |bytes| {
                let (stream, redis) = (stream.clone(), redis.clone());
                Box::pin(async move {
                    command::<()>(&redis, &[b"XADD", stream.as_bytes(), b"*", b"x", &bytes]).await;
                })
            }),
        }
    })
    .await;
}
