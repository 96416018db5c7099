//! What stands in Redis.

use std::collections::BTreeMap;

use super::*;
use crate::redis_testing::{samples, take, to_all, to_key, to_room};

#[tokio::test]
async fn an_entry_has_one_field_whose_value_is_goims_envelope() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "t");
    for (envelope, bytes) in samples() {
        let stream = broker.topic.stream(broker.topic.stream_of(&record_key(&envelope)));
        broker.publish(vec![envelope]).await.unwrap();
        let entries: Vec<(String, BTreeMap<String, Vec<u8>>)> =
            site.command(&["XREVRANGE", &stream, "+", "-", "COUNT", "1"]).await;
        assert_eq!(entries[0].1, BTreeMap::from([("push".to_owned(), bytes.to_vec())]));
    }
}

/// Logics of different versions must agree: FNV-1a, 32 bits, modulo 8.
#[test]
fn a_record_key_has_the_same_stream_for_ever() {
    let topic = Topic { name: "t".into(), streams: 8 };
    let streams = ["", "k1", "k2", "live://1000", "1000"].map(|key| topic.stream_of(key));
    assert_eq!(streams, [5, 1, 0, 4, 4]);
}

#[tokio::test]
async fn keys_are_named_as_documented() {
    let site = Site::start().await;
    let broker =
        RedisStreamBroker::new(site.redis.clone(), "goim-push-topic", 2, 100, BrokerMetrics::default());
    let mut consumer = broker.consume(GROUP).await.unwrap();
    broker.publish(vec![to_room("live://1000", "x"), to_key("k1", "x"), to_all(0, "x")]).await.unwrap();
    let taken = take(&mut *consumer, 3).await;
    let last = &taken[2].position;
    consumer.ack(last).await.unwrap();
    broker.dead_letter(vec![taken[0].clone()]).await;
    let mut keys: Vec<String> = site.command(&["KEYS", "*"]).await;
    keys.sort_unstable();
    let both = |suffix: &str| [0, 1].map(|n| format!("goim-push-topic:{n}{suffix}"));
    let mut expected =
        [both(""), both(":acked"), both(":epoch"), both(":incarnation"), both(":owner:goim-push-group-job")]
            .concat();
    expected.push("goim-push-topic.dead".to_owned());
    expected.push("goim-push-topic:members:goim-push-group-job".to_owned());
    expected.sort_unstable();
    assert_eq!(keys, expected);

    let (stream, incarnation) = last.source.as_str().split_once('@').unwrap();
    assert_eq!(site.command::<String>(&["GET", &format!("{stream}:incarnation")]).await, incarnation);
    let acked: BTreeMap<String, String> = site.command(&["HGETALL", &format!("{stream}:acked")]).await;
    let id = format!("{}-{}", last.offset.0 >> 64, last.offset.0 as u64);
    assert_eq!(acked, BTreeMap::from([(GROUP.to_owned(), id)]));
    let owner: String = site.command(&["GET", &format!("{stream}:owner:{GROUP}")]).await;
    let members: Vec<String> =
        site.command(&["ZRANGE", &format!("goim-push-topic:members:{GROUP}"), "0", "-1"]).await;
    assert_eq!(members, [owner]);
    let ttl: i64 = site.command(&["PTTL", &format!("{stream}:owner:{GROUP}")]).await;
    assert!((1..=5000).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn what_every_group_acknowledged_is_removed_and_nothing_else() {
    let site = Site::start().await;
    let broker = RedisStreamBroker::new(site.redis.clone(), "t", 1, 100, BrokerMetrics::default());
    broker.publish((0..10).map(|n| to_room("r", &n.to_string())).collect()).await.unwrap();
    let mut a = broker.consume("a").await.unwrap();
    let mut b = broker.consume("b").await.unwrap();
    let (of_a, of_b) = (take(&mut *a, 10).await, take(&mut *b, 10).await);
    a.ack(&of_a[9].position).await.unwrap();
    b.ack(&of_b[3].position).await.unwrap();
    let len = async || site.command::<usize>(&["XLEN", "t:0"]).await;
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if len().await != 10 {
            break;
        }
    }
    assert_eq!(len().await, 6);
    // A publish that needs the room does not wait for the owner.
    b.ack(&of_b[8].position).await.unwrap();
    broker.publish((0..99).map(|n| to_room("r", &n.to_string())).collect()).await.unwrap();
    assert_eq!(len().await, 100);
}

#[tokio::test]
async fn a_push_over_several_streams_is_refused_as_a_whole_when_one_is_full() {
    let site = Site::start().await;
    let broker = RedisStreamBroker::new(site.redis.clone(), "t", 8, 5, BrokerMetrics::default());
    let room = |count: usize| vec![to_room("live://1000", "x"); count];
    broker.publish(room(4)).await.unwrap();
    let both = [vec![to_key("k1", "x")], room(2)].concat();
    let refused = broker.publish(both).await.unwrap_err();
    assert_eq!(refused, PublishError::Full("4 entries wait in the stream t:4".to_owned()));
    assert_eq!(site.command::<usize>(&["EXISTS", "t:1"]).await, 0);
    broker.publish([vec![to_key("k1", "x")], room(1)].concat()).await.unwrap();
    assert_eq!(site.command::<usize>(&["XLEN", "t:4"]).await, 5);
}
