//! What stands in the topics, byte for byte.

use grpc::envelope::Target;
use proto::{
    ids::{RoomId, ServerId},
    op::Op,
};
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer as _},
    types::RDKafkaErrorCode,
};
use serde_json::json;
use services::GoPeer;

use super::*;

fn push(target: Target) -> Envelope {
    Envelope { target, op: Op(1000), body: Bytes::from_static(b"hello"), accepted_at_us: 0, origin: None }
}

fn to_keys(keys: &[&str]) -> Envelope {
    let keys = keys.iter().map(|key| Key::new(*key)).collect();
    push(Target::Keys { server: ServerId::new("127.0.0.1:3109"), keys })
}

fn to_room() -> Envelope {
    push(Target::Room(RoomId::parse("live://1000").unwrap()))
}

#[tokio::test]
async fn every_kind_of_push_is_the_record_that_goim_writes() {
    let bench = bench().await;
    let broker = broker(&bench.config).await;
    let pushes = vec![to_keys(&["k1", "k2"]), to_room(), push(Target::All { speed: 64 })];
    broker.publish(pushes).await.unwrap();
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = records(&bench.config, &bench.config.queue.topic, 3)
        .await
        .iter()
        .map(|record| (record.key().unwrap().to_vec(), record.payload().unwrap().to_vec()))
        .collect();
    found.sort();
    let expected: [(&[u8], &[u8]); 3] = [
        (b"1000", b"\x08\x02\x10\xe8\x07\x18\x40\x3a\x05hello"),
        (b"k1", b"\x10\xe8\x07\x22\x0e127.0.0.1:3109\x32\x02k1\x32\x02k2\x3a\x05hello"),
        (b"live://1000", b"\x08\x01\x10\xe8\x07\x2a\x0blive://1000\x3a\x05hello"),
    ];
    assert_eq!(found, expected.map(|(key, value)| (key.to_vec(), value.to_vec())));
}

#[tokio::test]
async fn keys_are_filed_in_the_partition_that_logic_groups_by() {
    let bench = bench().await;
    let broker = broker(&bench.config).await;
    let keys: Vec<String> = (0..64).map(|n| format!("key-{n}")).collect();
    broker.publish(keys.iter().map(|key| to_keys(&[key])).collect()).await.unwrap();
    let mut used = std::collections::HashSet::new();
    for record in records(&bench.config, &bench.config.queue.topic, keys.len()).await {
        let key = std::str::from_utf8(record.key().unwrap()).unwrap();
        assert_eq!(broker.partition(&Key::new(key)) as i32, record.partition(), "{key}");
        used.insert(record.partition());
    }
    assert_eq!(used.len(), 4, "the keys of the test are in all partitions");
}

/// A Go logic and ours file a push in the same partition, whatever its key is.
#[tokio::test]
async fn keys_are_filed_where_goims_kafka_client_files_them() {
    let kafka = tokio::task::spawn_blocking(Kafka::start_for_goim).await.unwrap();
    let mut config = config(&kafka);
    config.queue.topic = "goim-push-topic".into();
    let broker = broker(&config).await;
    let odd = ["", " ", "0", "live://1000", "\u{0}", "\u{7f}", "ключ", "设备-1", "🚀🚀", "a\"b\\c\n"]
        .map(str::to_owned);
    let long = (1..50).map(|n| "长key".repeat(n * n));
    let keys: Vec<String> = (0..300).map(|n| format!("key-{n}")).chain(odd).chain(long).collect();
    broker.publish(keys.iter().map(|key| to_keys(&[key])).collect()).await.unwrap();
    let ours = records(&config, &config.queue.topic, keys.len()).await;
    let ours: std::collections::HashMap<&[u8], i32> =
        ours.iter().map(|record| (record.key().unwrap(), record.partition())).collect();
    let go = tokio::task::spawn_blocking({
        let (keys, brokers) = (keys.clone(), kafka.addr());
        move || {
            let mut go = GoPeer::start(&["push", &brokers]);
            keys.iter().map(|key| go.ask(&json!({ "Key": key }))["Partition"].clone()).collect::<Vec<_>>()
        }
    });
    for (key, go) in keys.iter().zip(go.await.unwrap()) {
        assert_eq!(go, ours[key.as_bytes()], "{key:?}");
        assert_eq!(go, broker.partition(&Key::new(key.as_str())), "{key:?}");
    }
}

#[tokio::test]
async fn records_of_a_go_logic_and_of_strangers_are_handed_out_as_they_are() {
    let bench = bench().await;
    let go: BaseProducer = ClientConfig::new().set("bootstrap.servers", bench.kafka.addr()).create().unwrap();
    let values: [&[u8]; 3] =
        [b"\x10\xe8\x07\x22\x0e127.0.0.1:3109\x32\x02k1\x3a\x05hello", b"\xff not a push", b""];
    let broker = broker(&bench.config).await;
    for value in values {
        go.send(BaseRecord::to(&bench.config.queue.topic).key("k1").payload(value))
            .map_err(|(error, _)| error)
            .unwrap();
    }
    go.send(BaseRecord::<str, [u8]>::to(&bench.config.queue.topic).key("k1"))
        .map_err(|(error, _)| error)
        .unwrap();
    go.flush(SOON).unwrap();
    // Without idempotence and with a partitioner of its own, but one key is in one partition for everybody.
    let taken = take(&mut *broker.consume(&bench.config.queue.group).await.unwrap(), 4).await;
    let found: Vec<&[u8]> = taken.iter().map(|delivery| &delivery.bytes[..]).collect();
    assert_eq!(
        found,
        [values[0], values[1], values[2], b"".as_slice()],
        "a record without a value is an empty one"
    );
    assert_eq!(Envelope::parse(taken[0].bytes.clone()).unwrap(), to_keys(&["k1"]));
}

#[tokio::test]
async fn a_dead_letter_is_found_in_its_topic_with_where_it_stood() {
    let bench = bench().await;
    let broker = broker(&bench.config).await;
    broker.publish(vec![to_room()]).await.unwrap();
    let dead = take(&mut *broker.consume(&bench.config.queue.group).await.unwrap(), 1).await.remove(0);
    broker.dead_letter(vec![dead.clone()]).await;
    let found = records(&bench.config, &format!("{}.dead", bench.config.queue.topic), 1).await.remove(0);
    assert_eq!(found.payload().unwrap(), &dead.bytes[..]);
    let headers = found.headers().unwrap();
    let header = |place| headers.get_as::<str>(place).map(|header| (header.key, header.value.unwrap()));
    assert_eq!(header(0), Ok(("source", dead.position.source.as_str())));
    assert_eq!(header(1), Ok(("offset", "0")));
}

#[tokio::test]
async fn what_the_brokers_never_take_is_too_large() {
    let bench = bench().await;
    let broker = broker(&bench.config).await;
    // More than the topic allows by default, then more than any.
    for size in [2 << 20, 17 << 20] {
        let huge = Envelope { body: vec![0; size].into(), ..to_room() };
        let error = broker.publish(vec![huge]).await.unwrap_err();
        assert!(matches!(error, PublishError::TooLarge { entries: 1, .. }), "{error}");
    }
    broker.publish(vec![to_room()]).await.unwrap();
    assert_eq!(records(&bench.config, &bench.config.queue.topic, 1).await.len(), 1);
}

#[tokio::test]
async fn a_source_keeps_its_name_from_owner_to_owner_until_the_topic_is_made_anew() {
    let bench = bench().await;
    let KafkaGroupConfig { topic, group, .. } = &bench.config.queue;
    let mut sources = Vec::new();
    for _ in 0..2 {
        let broker = broker(&bench.config).await;
        broker.publish(vec![to_room()]).await.unwrap();
        let mut consumer = broker.consume(group).await.unwrap();
        let taken = take(&mut *consumer, 1).await;
        assert_eq!(taken.len(), 1, "what was acknowledged before the last owner closed does not come again");
        consumer.ack(&taken[0].position).await.unwrap();
        drop(consumer);
        broker.close().await;
        sources.push(taken[0].position.source.clone());
    }
    assert_eq!(sources[0], sources[1]);

    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bench.kafka.addr()).create().unwrap();
    admin.delete_topics(&[topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    let created = async {
        let new = NewTopic::new(topic, 4, TopicReplication::Fixed(1));
        // A client of before that has not quite ended may ask for it, which makes it as well.
        while !matches!(
            &admin.create_topics([&new], &AdminOptions::new()).await.unwrap()[0],
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))
        ) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(SOON, created).await.expect("the topic goes and comes");
    let broker = broker(&bench.config).await;
    broker.publish(vec![to_room()]).await.unwrap();
    let taken = take(&mut *broker.consume(group).await.unwrap(), 1).await;
    assert_eq!(taken[0].position.offset.0, 0);
    assert_ne!(taken[0].position.source, sources[0]);
}

/// A process that ends does not wait for its threads: what was not committed by then came again, and the partitions were
/// nobody's until the session had run out.
#[tokio::test]
async fn who_leaves_has_committed_and_is_no_member_any_more() {
    let bench = bench().await;
    let broker = broker(&bench.config).await;
    broker.publish(vec![to_room()]).await.unwrap();
    let mut consumer = broker.consume(&bench.config.queue.group).await.unwrap();
    let taken = take(&mut *consumer, 1).await;
    consumer.ack(&taken[0].position).await.unwrap();
    consumer.leave().await;
    assert_eq!(*broker.leaving.borrow(), 0, "its thread has left the group");
}
