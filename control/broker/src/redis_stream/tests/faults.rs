//! What Redis, and people in it, do to the streams.

use std::collections::BTreeSet;

use store::{RedisConfig, RedisServerConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::*;
use crate::redis_testing::{bodies, connect, publish_until_taken, take, to_key, to_room};

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_a_new_log() {
    let mut site = Site::start().await;
    let broker = broker(&site.redis, "t");
    let mut consumer = broker.consume(GROUP).await.unwrap();
    broker.publish(vec![to_room("r", "before")]).await.unwrap();
    let before = take(&mut *consumer, 1).await;
    site.server.kill();
    let refused = broker.publish(vec![to_room("r", "meanwhile")]).await.unwrap_err();
    // On a connection whose end is not seen yet nobody knows.
    assert!(matches!(refused, PublishError::Unavailable(_) | PublishError::Unknown(_)), "{refused}");
    site.server.restart();
    for n in 0..3 {
        publish_until_taken(&broker, vec![to_room("r", &n.to_string())]).await;
    }
    let after = take(&mut *consumer, 3).await;
    assert_eq!(bodies(&after), ["0", "1", "2"]);
    assert_ne!(after[0].position.source, before[0].position.source);
    // Positions of the old log mean nothing in the new one.
    consumer.ack(&before[0].position).await.unwrap();
    consumer.ack(&after[2].position).await.unwrap();
    drop(consumer);
    publish_until_taken(&broker, vec![to_room("r", "3")]).await;
    assert_eq!(bodies(&take(&mut *broker.consume(GROUP).await.unwrap(), 1).await), ["3"]);
}

#[tokio::test]
async fn a_flush_and_a_deleted_stream_are_noticed_on_a_connection_that_lasts() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "t");
    let mut consumer = broker.consume(GROUP).await.unwrap();
    let mut sources = BTreeSet::new();
    let room_stream = broker.topic.stream(broker.topic.stream_of("r"));
    for (n, loss) in [&["FLUSHALL"][..], &["DEL", &room_stream], &["PING"]].into_iter().enumerate() {
        broker.publish(vec![to_room("r", &n.to_string())]).await.unwrap();
        let taken = take(&mut *consumer, 1).await;
        assert_eq!(bodies(&taken), [n.to_string()]);
        sources.insert(taken[0].position.source.clone());
        site.command::<redis::Value>(loss).await;
    }
    assert_eq!(sources.len(), 3);
}

/// Killed, and back with what it had written to disk.
#[tokio::test]
async fn a_redis_that_comes_back_with_its_data_goes_on_where_it_was() {
    let mut site = Site::start_with(&["appendonly yes", "appendfsync always"]).await;
    let broker = broker(&site.redis, "t");
    let mut consumer = broker.consume(GROUP).await.unwrap();
    broker.publish((0..4).map(|n| to_room("r", &n.to_string())).collect()).await.unwrap();
    let taken = take(&mut *consumer, 2).await;
    site.server.kill();
    // Acknowledged while Redis is away: stored when it is back.
    consumer.ack(&taken[1].position).await.unwrap_err();
    sleep(Duration::from_secs(6)).await;
    site.server.restart();
    publish_until_taken(&broker, vec![to_room("r", "4")]).await;
    let rest = take(&mut *consumer, 3).await;
    assert_eq!(bodies(&rest), ["2", "3", "4"], "nothing again, though the lease had run out");
    assert_eq!(rest[0].position.source, taken[0].position.source);
    site.is_back().await;
    consumer.leave().await;
    assert_eq!(bodies(&take(&mut *broker.consume(GROUP).await.unwrap(), 3).await), ["2", "3", "4"]);
}

/// Makes a stream what `DUMP` said it was.
async fn restore(site: &Site, stream: &str, old: &[u8]) {
    let restore = [b"RESTORE", stream.as_bytes(), b"0", old, b"REPLACE"];
    command::<()>(&site.redis, &restore.map(<[u8]>::to_vec)).await;
}

/// A failover to a replica that was behind, or a crash before the last write to disk.
#[tokio::test]
async fn a_stream_that_went_back_in_time_is_a_new_source() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "t");
    let mut consumer = broker.consume(GROUP).await.unwrap();
    broker.publish(vec![to_room("r", "0")]).await.unwrap();
    let stream = broker.topic.stream(broker.topic.stream_of("r"));
    let old = site.command::<Vec<u8>>(&["DUMP", &stream]).await;
    let first = take(&mut *consumer, 1).await;
    consumer.ack(&first[0].position).await.unwrap();
    broker.publish(vec![to_room("r", "1")]).await.unwrap();
    let lost = take(&mut *consumer, 1).await;
    restore(&site, &stream, &old).await;
    let incarnation = format!("{stream}:incarnation");
    let known = lost[0].position.source.as_str().split_once('@').unwrap().1.to_owned();
    for _ in 0..200 {
        sleep(Duration::from_millis(50)).await;
        if site.command::<String>(&["GET", &incarnation]).await != known {
            break;
        }
    }
    broker.publish(vec![to_room("r", "2")]).await.unwrap();
    let next = take(&mut *consumer, 1).await;
    assert_eq!(bodies(&next), ["2"]);
    assert_ne!(next[0].position.source, lost[0].position.source);
}

/// What was acknowledged stands beside the stream, and may be of a later time than the stream.
#[tokio::test]
async fn what_comes_after_a_stream_went_back_behind_its_acknowledgements_is_read() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "t");
    let mut consumer = broker.consume(GROUP).await.unwrap();
    broker.publish(vec![to_room("r", "0")]).await.unwrap();
    let stream = broker.topic.stream(broker.topic.stream_of("r"));
    let old = site.command::<Vec<u8>>(&["DUMP", &stream]).await;
    broker.publish(vec![to_room("r", "1"), to_room("r", "2")]).await.unwrap();
    let taken = take(&mut *consumer, 3).await;
    consumer.ack(&taken[2].position).await.unwrap();
    // From then on the owner removes what is acknowledged.
    sleep(member::LEASE).await;
    restore(&site, &stream, &old).await;
    // As a master does whose clock is behind that of the one before it.
    let next = format!("{}", entry::EntryId(taken[0].position.offset.0 + 1));
    let push = to_room("r", "3").to_bytes();
    let add = [b"XADD", stream.as_bytes(), next.as_bytes(), b"push", &push];
    command::<String>(&site.redis, &add.map(<[u8]>::to_vec)).await;
    let again = take(&mut *consumer, 2).await;
    assert_eq!(bodies(&again), ["0", "3"], "once more what the stream still has");
    consumer.ack(&again[1].position).await.unwrap();
    let late = timeout(Duration::from_secs(3), consumer.next_batch(8)).await;
    assert!(late.is_err(), "settled: {late:?}");
    let acked: String = site.command(&["HGET", &format!("{stream}:acked"), GROUP]).await;
    assert_eq!(acked, next);
}

#[tokio::test]
async fn another_type_under_one_stream_stops_that_stream_until_it_is_deleted() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "t");
    let mut consumer = broker.consume(GROUP).await.unwrap();
    let stream = broker.topic.stream(broker.topic.stream_of("live://1000"));
    site.command::<()>(&["SET", &stream, "mine"]).await;
    // One that is refused takes its whole push with it.
    let both = vec![to_key("k1", "refused"), to_room("live://1000", "refused")];
    let refused = broker.publish(both).await.unwrap_err();
    assert!(matches!(&refused, PublishError::Unavailable(why) if why.contains("WRONGTYPE")), "{refused}");
    broker.publish(vec![to_key("k1", "other")]).await.unwrap();
    assert_eq!(bodies(&take(&mut *consumer, 1).await), ["other"], "the other streams go on");
    site.command::<()>(&["DEL", &stream]).await;
    broker.publish(vec![to_room("live://1000", "taken")]).await.unwrap();
    assert_eq!(bodies(&take(&mut *consumer, 1).await), ["taken"]);
}

/// Such an entry makes the stream, and no publish draws its incarnation.
#[tokio::test]
async fn what_somebody_else_puts_on_a_stream_first_comes_once() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "t");
    let mut consumer = broker.consume(GROUP).await.unwrap();
    // It owns the streams and waits for entries.
    while site.command::<usize>(&["EXISTS", &broker.topic.owner(7, GROUP)]).await == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    sleep(Duration::from_millis(300)).await;
    for stream in broker.topic.numbers() {
        site.command::<String>(&["XADD", &broker.topic.stream(stream), "*", "x", "junk"]).await;
    }
    let mut taken = take(&mut *consumer, 8).await;
    let late = timeout(Duration::from_secs(2), consumer.next_batch(8)).await;
    assert!(late.is_err(), "again: {late:?}");
    for delivery in &taken {
        consumer.ack(&delivery.position).await.unwrap();
    }
    taken.sort_by(|a, b| a.position.source.cmp(&b.position.source));
    taken.dedup_by(|a, b| a.position.source == b.position.source);
    assert_eq!(taken.len(), 8);
    consumer.leave().await;
    let mut next = broker.consume(GROUP).await.unwrap();
    let late = timeout(Duration::from_secs(1), next.next_batch(8)).await;
    assert!(late.is_err(), "acknowledged, and here again: {late:?}");
}

#[tokio::test]
async fn a_full_memory_and_a_replica_take_nothing() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "t");
    let push = || vec![to_key("k1", "x"), to_room("live://1000", "x")];
    site.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let full = broker.publish(push()).await.unwrap_err();
    assert!(matches!(full, PublishError::Full(_)), "{full}");
    site.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let other = connect(&site.server).await;
    command::<()>(&other, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let refused = broker.publish(push()).await.unwrap_err();
    assert!(matches!(refused, PublishError::Unavailable(_)), "{refused}");
    drop(other);
    assert_eq!(stands(&site).await, 0);
}

/// Pushes that nobody took fill a Redis: once there is a job, it takes them, and the memory is free again.
#[tokio::test]
async fn a_queue_that_filled_the_memory_is_emptied() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "t");
    broker.publish((0..3).map(|n| to_room("r", &n.to_string())).collect()).await.unwrap();
    site.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let mut consumer = broker.consume(GROUP).await.unwrap();
    let taken = take(&mut *consumer, 3).await;
    assert_eq!(bodies(&taken), ["0", "1", "2"]);
    consumer.ack(&taken[2].position).await.unwrap();
    let stream = broker.topic.stream(broker.topic.stream_of("r"));
    for _ in 0..200 {
        if site.command::<usize>(&["XLEN", &stream]).await == 0 {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("what was acknowledged is still there");
}

/// The leases were renewed behind the acknowledgements, and ended with the first that could not be stored.
#[tokio::test]
async fn acknowledgements_that_cannot_be_stored_cost_no_stream() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "t");
    let mut consumer = broker.consume(GROUP).await.unwrap();
    let both = |body: &str| vec![to_room("r", body), to_room("another", body)];
    broker.publish(both("0")).await.unwrap();
    let taken = take(&mut *consumer, 2).await;
    site.command::<()>(&["ACL", "SETUSER", "default", "-hset"]).await;
    consumer.ack(&taken[0].position).await.unwrap_err();
    sleep(2 * super::super::member::LEASE).await;
    broker.publish(both("1")).await.unwrap();
    let taken = take(&mut *consumer, 2).await;
    assert_eq!(bodies(&taken), ["1", "1"]);
    // Stored when it may be again.
    site.command::<()>(&["ACL", "SETUSER", "default", "+hset"]).await;
    for delivery in &taken {
        consumer.ack(&delivery.position).await.unwrap();
    }
    consumer.leave().await;
    let mut next = broker.consume(GROUP).await.unwrap();
    broker.publish(vec![to_room("r", "2")]).await.unwrap();
    assert_eq!(bodies(&take(&mut *next, 1).await), ["2"], "nothing again");
}

/// A reader that asked for the same again after an answer that took too long never got any further.
#[tokio::test]
async fn large_entries_come_over_a_slow_connection() {
    let site = Site::start().await;
    let publisher = broker(&site.redis, "t");
    let large = "x".repeat(256 << 10);
    for _ in 0..8 {
        publisher.publish((0..4).map(|_| to_room("r", &large)).collect()).await.unwrap();
    }
    // All at once takes four seconds, and an answer may take little more than one.
    let addr = slow(site.server.addr(), 2 << 20).await.parse().unwrap();
    let redis = Redis::connect(&RedisConfig::at(addr)).expect("no files");
    redis.ready().wait_for(|up| *up).await.unwrap();
    let mut consumer = broker(&redis, "t").consume(GROUP).await.unwrap();
    take(&mut *consumer, 32).await;
}

/// The address of a way to `server` where each connection brings so many bytes a second.
async fn slow(server: String, rate: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let redis = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(async move {
                let ((mut asks, mut hears), (mut answers, mut asked)) =
                    (client.into_split(), redis.into_split());
                let there = tokio::io::copy(&mut asks, &mut asked);
                let back = async {
                    let mut bytes = vec![0; rate / 100];
                    while let Ok(len @ 1..) = answers.read(&mut bytes).await {
                        sleep(Duration::from_millis(10)).await;
                        if hears.write_all(&bytes[..len]).await.is_err() {
                            break;
                        }
                    }
                };
                tokio::select! { _ = there => {} () = back => {} }
            });
        }
    });
    address
}

/// Keys in Redis, which may call itself a replica.
async fn stands(site: &Site) -> usize {
    let client = redis::Client::open(format!("redis://{}", site.server.addr())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("DBSIZE").query_async(&mut connection).await.unwrap()
}

#[tokio::test]
async fn a_hanging_redis_is_waited_for_and_nothing_is_lost() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "t");
    let mut consumer = broker.consume(GROUP).await.unwrap();
    broker.publish(vec![to_room("r", "0"), to_room("r", "1")]).await.unwrap();
    let taken = take(&mut *consumer, 1).await;
    site.server.pause();
    let refused = timeout(Duration::from_secs(10), broker.publish(vec![to_key("k1", "?")])).await.unwrap();
    assert!(matches!(refused, Err(PublishError::Unknown(_))));
    sleep(Duration::from_secs(1)).await;
    site.server.resume();
    site.is_back().await;
    publish_until_taken(&broker, vec![to_room("r", "2")]).await;
    let mut rest = take(&mut *consumer, 2).await;
    // The push that got no answer was carried out or not.
    while rest.len() < 3 && !bodies(&rest).contains(&"2".to_owned()) {
        rest.extend(take(&mut *consumer, 1).await);
    }
    let rest: Vec<String> = bodies(&rest).into_iter().filter(|body| body != "?").collect();
    assert_eq!(rest, ["1", "2"]);
    consumer.ack(&taken[0].position).await.unwrap();
}

#[tokio::test]
async fn a_redis_that_is_loading_takes_nothing_until_it_is_ready() {
    // 300 µs for each command that it loads; after 1,024 of them it looks who calls.
    let mut site = Site::start_with(&["appendonly yes", "appendfsync always", "key-load-delay 300"]).await;
    let broker = broker(&site.redis, "t");
    for n in 0..90 {
        let push = (100 * n..100 * n + 100).map(|n| to_room("r", &n.to_string()));
        broker.publish(push.collect()).await.unwrap();
    }
    site.server.restart();
    let mut refusals = BTreeSet::new();
    for _ in 0..2000 {
        match broker.publish(vec![to_room("r", "9000")]).await {
            Ok(()) => break,
            // The first finds the end of its connection.
            Err(PublishError::Unavailable(why) | PublishError::Unknown(why)) => refusals.insert(why),
            Err(error) => panic!("{error}"),
        };
        sleep(Duration::from_millis(10)).await;
    }
    assert!(refusals.iter().any(|why| why.contains("not ready yet")), "{refusals:?}");
    let taken = take(&mut *broker.consume(GROUP).await.unwrap(), 9001).await;
    assert_eq!(bodies(&taken), (0..=9000).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// The master dies, its replica takes over by Sentinel; what it had goes on, under the same positions.
#[tokio::test]
async fn a_failover_goes_on_where_the_replica_stands() {
    let mut master = services::Redis::start();
    let port = master.addr().rsplit_once(':').unwrap().1.to_owned();
    let _replica = services::Redis::start_with(&[&format!("replicaof 127.0.0.1 {port}")]);
    let sentinel = services::Sentinel::start(&master.addr());
    let sentinels = vec![sentinel.addr().parse().unwrap()].into();
    let redis =
        Redis::connect(&RedisServerConfig { sentinels, ..Default::default() }.into()).expect("no files");
    redis.ready().wait_for(|up| *up).await.unwrap();
    let broker = broker(&redis, "t");
    let mut consumer = broker.consume(GROUP).await.unwrap();
    broker.publish((0..4).map(|n| to_room("r", &n.to_string())).collect()).await.unwrap();
    let taken = take(&mut *consumer, 2).await;
    consumer.ack(&taken[1].position).await.unwrap();
    // Sentinel learns of the replica from the master, every ten seconds.
    let mut asked = redis::Client::open(format!("redis://{}", sentinel.addr()))
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let replicas = redis::cmd("SENTINEL").arg("replicas").arg("mymaster").to_owned();
    while replicas.query_async::<Vec<redis::Value>>(&mut asked).await.unwrap().is_empty() {
        sleep(Duration::from_millis(100)).await;
    }
    let has_everything = async { while command::<usize>(&redis, &["WAIT", "1", "100"]).await == 0 {} };
    timeout(Duration::from_secs(30), has_everything).await.expect("the replica follows");
    master.kill();
    publish_until_taken(&broker, vec![to_room("r", "4")]).await;
    let rest = take(&mut *consumer, 3).await;
    assert_eq!(bodies(&rest), ["2", "3", "4"]);
    assert_eq!(rest[0].position.source, taken[0].position.source);
}
