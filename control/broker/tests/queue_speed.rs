//! How fast the queues in Redis are: `cargo test --release -p halley-broker --features redis --test queue_speed -- --ignored
//! --nocapture`. A real Redis on this machine, 50 publishers who wait for each of their pushes, one consumer.
#![cfg(feature = "redis")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use grpc::envelope::{Envelope, Target};
use halley_broker::{Broker, Consumer, RedisListBroker, RedisStreamBroker, metrics::BrokerMetrics};
use proto::{
    ids::{Key, ServerId},
    op::Op,
};
use store::{Redis, RedisConfig};
use tokio::time::Instant;

const PUSHES: usize = 100_000;
const PUBLISHERS: usize = 50;
const TOPIC: &str = "goim-push-topic";

fn push(key: usize) -> Envelope {
    let target =
        Target::Keys { server: ServerId::new("127.0.0.1:3109"), keys: vec![Key::new(format!("k{key}"))] };
    Envelope { target, op: Op(1000), body: Bytes::from_static(&[b'x'; 60]), accepted_at_us: 1, origin: None }
}

async fn publish_all(broker: &Arc<dyn Broker>) {
    let left = Arc::new(AtomicUsize::new(PUSHES));
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|key| {
            let (broker, left) = (Arc::clone(broker), Arc::clone(&left));
            tokio::spawn(async move {
                while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                    broker.publish(vec![push(key)]).await.expect("there is room");
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await.expect("it published");
    }
}

/// Takes and acknowledges everything, as job does: what was read at once with one acknowledgement per source.
async fn consume_all(consumer: &mut dyn Consumer) {
    let mut taken = 0;
    while taken < PUSHES {
        let batch = consumer.next_batch(256).await.expect("Redis is there");
        taken += batch.len();
        let mut last = std::collections::HashMap::new();
        for delivery in &batch {
            last.insert(&delivery.position.source, &delivery.position);
        }
        for position in last.values() {
            consumer.ack(position).await.expect("Redis is there");
        }
    }
}

async fn measure(name: &str, broker: Arc<dyn Broker>) {
    let rate = |since: Instant| (PUSHES as f64 / since.elapsed().as_secs_f64()) as u64;
    let started = Instant::now();
    publish_all(&broker).await;
    let published = rate(started);
    let mut consumer = broker.consume("job").await.expect("joins a group");
    let started = Instant::now();
    consume_all(&mut *consumer).await;
    let consumed = rate(started);
    let started = Instant::now();
    tokio::join!(publish_all(&broker), consume_all(&mut *consumer));
    let both = rate(started);
    println!("{name:>7}: {published} published, {consumed} consumed, {both} both at once, each a second");
    consumer.leave().await;
}

#[tokio::test]
#[ignore = "a measurement"]
async fn pushes_a_second_through_redis() {
    let server = services::Redis::start();
    let addr = server.addr().parse().expect("host:port");
    let redis = Redis::connect(&RedisConfig::at(addr)).expect("no files");
    tokio::time::timeout(Duration::from_secs(10), redis.ready().wait_for(|up| *up))
        .await
        .expect("in time")
        .expect("it connects");
    println!("{PUSHES} pushes of 60 B, {PUBLISHERS} publishers, one thread for all of them and the consumer");
    measure("list", Arc::new(RedisListBroker::new(redis.clone(), TOPIC, PUSHES, BrokerMetrics::default())))
        .await;
    let streams = RedisStreamBroker::new(redis, TOPIC, 8, PUSHES, BrokerMetrics::default());
    measure("streams", Arc::new(streams)).await;
}
