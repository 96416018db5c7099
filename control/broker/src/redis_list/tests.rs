use std::{collections::BTreeSet, time::Duration};

use futures_util::FutureExt as _;

use super::*;
use crate::{
    MemoryLimits, conformance,
    redis_shared::PUBLISH_BYTES_MAX,
    redis_testing::{Site, bodies, command, connect, publish_until_taken, samples, take, to_room, topic},
};

fn broker(redis: &Redis, topic: &str) -> RedisListBroker {
    RedisListBroker::new(redis.clone(), topic, 1000, BrokerMetrics::default())
}

#[tokio::test]
async fn the_list_conforms() {
    let site = Site::start().await;
    conformance::run(async || {
        let (topic, redis) = (topic(), site.redis.clone());
        conformance::Subject {
            broker: Arc::new(broker(&site.redis, &topic)),
            limits: Some(MemoryLimits { bytes: PUBLISH_BYTES_MAX, entries: 1000 }),
            group: "job".into(),
            owners_stay: true,
            acknowledges: false,
            patience: Duration::from_millis(1500),
            put_bytes: Box::new(move |bytes| {
                let (topic, redis) = (topic.clone(), redis.clone());
                Box::pin(async move {
                    command::<()>(&redis, &[b"LPUSH", topic.as_bytes(), &bytes[..]]).await;
                })
            }),
        }
    })
    .await;
}

#[tokio::test]
async fn elements_are_those_of_goim_byte_for_byte() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "goim-push-topic");
    for (n, (envelope, bytes)) in samples().into_iter().enumerate() {
        broker.publish(vec![envelope.clone()]).await.unwrap();
        let element: Vec<u8> = site.command(&["LINDEX", "goim-push-topic", "0"]).await;
        assert_eq!(element, bytes);
        // What this logic adds stands behind it, in fields that goim's does not know.
        broker.publish(vec![Envelope { accepted_at_us: 300, ..envelope }]).await.unwrap();
        let element: Vec<u8> = site.command(&["LINDEX", "goim-push-topic", "0"]).await;
        assert_eq!(element, [bytes, b"\xa0\x06\xac\x02"].concat());
        assert_eq!(site.command::<usize>(&["LLEN", "goim-push-topic"]).await, 2 * n + 2);
    }
    assert_eq!(site.command::<Vec<String>>(&["KEYS", "*"]).await, ["goim-push-topic"]);
}

#[tokio::test]
async fn what_a_go_logic_pushed_is_taken_in_its_order() {
    let site = Site::start().await;
    for (_, bytes) in samples() {
        command::<()>(&site.redis, &[&b"LPUSH"[..], b"goim-push-topic", bytes]).await;
    }
    let mut consumer = broker(&site.redis, "goim-push-topic").consume("any").await.unwrap();
    for (envelope, _) in samples() {
        let taken = take(&mut *consumer, 1).await.remove(0);
        assert_eq!(Envelope::parse(taken.bytes).unwrap(), envelope);
    }
}

#[tokio::test]
async fn envelopes_of_one_push_are_popped_by_go_in_their_order() {
    let site = Site::start().await;
    let envelopes = (0..2500).map(|n| to_room("r", &n.to_string())).collect();
    RedisListBroker::new(site.redis.clone(), "t", 2500, BrokerMetrics::default())
        .publish(envelopes)
        .await
        .unwrap();
    for n in 0..2500 {
        let (_, element): (String, Vec<u8>) = site.command(&["BRPOP", "t", "1"]).await;
        assert_eq!(Envelope::parse(element.into()).unwrap().body, n.to_string());
    }
}

#[tokio::test]
async fn no_more_is_popped_than_was_asked_for() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "t");
    broker.publish((0..10).map(|n| to_room("r", &n.to_string())).collect()).await.unwrap();
    let mut consumer = broker.consume("job").await.unwrap();
    take(&mut *consumer, 3).await;
    tokio::time::sleep(2 * WAIT).await;
    assert_eq!(site.command::<usize>(&["LLEN", "t"]).await, 7);
}

#[tokio::test]
async fn what_was_popped_and_not_handed_out_goes_back_in_its_order() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "t");
    broker.publish((0..20).map(|n| to_room("r", &n.to_string())).collect()).await.unwrap();
    let mut consumer = broker.consume("job").await.unwrap();
    // Asked for, and given up before it came.
    assert!(consumer.next_batch(10).now_or_never().is_none());
    while site.command::<usize>(&["LLEN", "t"]).await > 10 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    consumer.leave().await;
    let all = take(&mut *broker.consume("job").await.unwrap(), 20).await;
    assert_eq!(bodies(&all), (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn dead_letters_are_kept_the_latest_first_and_not_for_ever() {
    let site = Site::start().await;
    let metrics = BrokerMetrics::default();
    let broker = RedisListBroker::new(site.redis.clone(), "t", 1000, metrics.clone());
    let fill = "for n = 1, 10000 do redis.call('LPUSH', 't.dead', n) end";
    site.command::<()>(&["EVAL", fill, "0"]).await;
    let both = [(1, &b"\xfe"[..]), (2, b"\xff")].map(|(offset, bytes)| {
        let position = Position { source: Source::new("s"), offset: Offset(offset) };
        Delivery { position, bytes: Bytes::from_static(bytes) }
    });
    broker.dead_letter(both.to_vec()).await;
    let latest: Vec<Vec<u8>> = site.command(&["LRANGE", "t.dead", "0", "1"]).await;
    assert_eq!(latest, [b"\xff", b"\xfe"]);
    assert_eq!(site.command::<usize>(&["LLEN", "t.dead"]).await, 10_000);
    assert_eq!(metrics.dead_letters_lost.get(), 2, "the oldest are counted");
    site.command::<()>(&["SET", "t.dead", "somebody else's"]).await;
    broker.dead_letter(both.to_vec()).await;
    assert_eq!(metrics.dead_letters_lost.get(), 4, "what cannot be kept is counted");
}

#[tokio::test]
async fn a_restarted_redis_is_served_again() {
    let mut site = Site::start().await;
    let broker = broker(&site.redis, "t");
    let mut consumer = broker.consume("job").await.unwrap();
    broker.publish(vec![to_room("r", "before")]).await.unwrap();
    assert_eq!(bodies(&take(&mut *consumer, 1).await), ["before"]);
    site.server.kill();
    let refused = broker.publish(vec![to_room("r", "meanwhile")]).await.unwrap_err();
    // On a connection whose end is not seen yet nobody knows.
    assert!(matches!(refused, PublishError::Unavailable(_) | PublishError::Unknown(_)), "{refused}");
    site.server.restart();
    publish_until_taken(&broker, vec![to_room("r", "after")]).await;
    assert_eq!(bodies(&take(&mut *consumer, 1).await), ["after"]);
}

#[tokio::test]
async fn another_type_under_the_topic_is_told_and_survived() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "t");
    let mut consumer = broker.consume("job").await.unwrap();
    site.command::<()>(&["SET", "t", "mine"]).await;
    let told = timeout(Duration::from_secs(5), consumer.next_batch(1)).await.unwrap().unwrap_err();
    assert!(told.to_string().contains("WRONGTYPE"), "{told}");
    let refused = broker.publish(vec![to_room("r", "refused")]).await.unwrap_err();
    assert!(matches!(&refused, PublishError::Unavailable(why) if why.contains("WRONGTYPE")), "{refused}");
    site.command::<()>(&["DEL", "t"]).await;
    broker.publish(vec![to_room("r", "taken")]).await.unwrap();
    assert_eq!(bodies(&take(&mut *consumer, 1).await), ["taken"]);
}

#[tokio::test]
async fn a_full_memory_and_a_replica_take_nothing() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "t");
    site.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let full = broker.publish(vec![to_room("r", "x")]).await.unwrap_err();
    assert!(matches!(full, PublishError::Full(_)), "{full}");
    site.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let other = connect(&site.server).await;
    command::<()>(&other, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let refused = broker.publish(vec![to_room("r", "x")]).await.unwrap_err();
    assert!(matches!(refused, PublishError::Unavailable(_)), "{refused}");
}

/// Several jobs, one of which leaves now and then: everything arrives, once, at somebody.
#[tokio::test]
async fn jobs_that_come_and_go_lose_nothing() {
    let site = Site::start().await;
    let broker = Arc::new(RedisListBroker::new(site.redis.clone(), "t", 100_000, BrokerMetrics::default()));
    let mut stays = broker.consume("job").await.unwrap();
    let publisher = tokio::spawn({
        let broker = Arc::clone(&broker);
        async move {
            for n in 0..5000 {
                broker.publish(vec![to_room("r", &n.to_string())]).await.unwrap();
            }
        }
    });
    let comes_and_goes = tokio::spawn({
        let broker = Arc::clone(&broker);
        async move {
            let mut seen = Vec::new();
            for _ in 0..5 {
                let mut consumer = broker.consume("job").await.unwrap();
                seen.extend(take(&mut *consumer, 50).await);
                if let Ok(batch) = timeout(Duration::from_millis(1), consumer.next_batch(100)).await {
                    seen.extend(batch.unwrap());
                }
                consumer.leave().await;
            }
            seen
        }
    });
    let mut seen = Vec::new();
    while let Ok(batch) = timeout(Duration::from_secs(2), stays.next_batch(256)).await {
        seen.extend(batch.unwrap());
    }
    publisher.await.unwrap();
    seen.extend(comes_and_goes.await.unwrap());
    while let Ok(batch) = timeout(Duration::from_secs(1), stays.next_batch(256)).await {
        seen.extend(batch.unwrap());
    }
    assert_eq!(seen.len(), 5000);
    assert_eq!(bodies(&seen).into_iter().collect::<BTreeSet<_>>().len(), 5000);
}
