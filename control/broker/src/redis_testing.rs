//! A Redis for tests of the queues, and what somebody else does with it.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use grpc::envelope::{Envelope, Target};
use proto::{
    ids::{Key, RoomId, ServerId},
    op::Op,
};
use redis::{Cmd, FromRedisValue, ToRedisArgs};
use store::{Redis, RedisConfig};
use tokio::time::{sleep, timeout};

use super::{Broker, Consumer, Delivery, PublishError};

/// A server that ends with this, and the connection to it.
pub(super) struct Site {
    pub(super) server: services::Redis,
    pub(super) redis: Redis,
}

impl Site {
    pub(super) async fn start() -> Site {
        let server = services::Redis::start();
        let redis = connect(&server).await;
        Site { server, redis }
    }

    pub(super) async fn start_with(lines: &[&str]) -> Site {
        let server = services::Redis::start_with(lines);
        let redis = connect(&server).await;
        Site { server, redis }
    }

    /// What a command answers.
    pub(super) async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        command(&self.redis, words).await
    }

    /// Waits until commands are carried out again.
    pub(super) async fn is_back(&self) {
        let mut ready = self.redis.ready();
        timeout(Duration::from_secs(20), ready.wait_for(|up| *up)).await.expect("it is back").unwrap();
    }
}

/// A connection of its own.
pub(super) async fn connect(server: &services::Redis) -> Redis {
    let addr = server.addr().parse().expect("host:port");
    let redis = Redis::connect(&RedisConfig::at(addr)).expect("no files");
    redis.ready().wait_for(|up| *up).await.expect("it connects");
    redis
}

pub(super) async fn command<T: FromRedisValue>(redis: &Redis, words: &[impl ToRedisArgs]) -> T {
    let mut command = Cmd::new();
    command.arg(words);
    redis.command(&command).await.expect("Redis does it")
}

/// A topic that no other test has.
pub(super) fn topic() -> String {
    static TOPICS: AtomicUsize = AtomicUsize::new(0);
    format!("topic-{}", TOPICS.fetch_add(1, Relaxed))
}

pub(super) fn envelope(target: Target, body: &str) -> Envelope {
    Envelope { target, op: Op(1000), body: Bytes::from(body.to_owned()), accepted_at_us: 0, origin: None }
}

pub(super) fn to_key(key: &str, body: &str) -> Envelope {
    let server = ServerId::new("127.0.0.1:3109");
    envelope(Target::Keys { server, keys: vec![Key::new(key)] }, body)
}

pub(super) fn to_room(room: &str, body: &str) -> Envelope {
    envelope(Target::Room(RoomId::parse(room).expect("a room")), body)
}

pub(super) fn to_all(speed: u32, body: &str) -> Envelope {
    envelope(Target::All { speed }, body)
}

/// The samples of docs/PROTOCOL.md section 9: what goim-example writes for these pushes.
pub(super) fn samples() -> Vec<(Envelope, &'static [u8])> {
    vec![
        (to_key("k1", "hello"), b"\x10\xe8\x07\x22\x0e127.0.0.1:3109\x32\x02k1\x3a\x05hello"),
        (to_room("live://1000", "hello"), b"\x08\x01\x10\xe8\x07\x2a\x0blive://1000\x3a\x05hello"),
        (to_all(64, "hello"), b"\x08\x02\x10\xe8\x07\x18\x40\x3a\x05hello"),
    ]
}

/// Publishes, and tries again as long as the broker is away.
pub(super) async fn publish_until_taken(broker: &dyn Broker, envelopes: Vec<Envelope>) {
    for _ in 0..2000 {
        match broker.publish(envelopes.clone()).await {
            Ok(()) => return,
            Err(PublishError::TooLarge { .. }) => panic!("it never fits"),
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("the broker does not come back");
}

/// The next `count` entries, even if there is an outage.
pub(super) async fn take(consumer: &mut dyn Consumer, count: usize) -> Vec<Delivery> {
    let mut all: Vec<Delivery> = Vec::new();
    let taken = timeout(Duration::from_secs(30), async {
        while all.len() < count {
            match consumer.next_batch(count - all.len()).await {
                Ok(batch) => all.extend(batch),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    });
    if taken.await.is_err() {
        panic!("{} of {count} entries came: {:?}", all.len(), bodies(&all));
    }
    all
}

pub(super) fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    let body = |delivery: &Delivery| Envelope::parse(delivery.bytes.clone()).expect("an envelope").body;
    deliveries.iter().map(|delivery| String::from_utf8_lossy(&body(delivery)).into_owned()).collect()
}
