//! Kafka goes away and comes back.

use grpc::envelope::Target;
use proto::{ids::RoomId, op::Op};

use super::*;

/// Longer than a publish may take to be refused: its three seconds, and a second until librdkafka looks.
const REFUSED_WITHIN: Duration = Duration::from_secs(8);

pub(super) fn push(body: &str) -> Envelope {
    let target = Target::Room(RoomId::parse("live://1000").unwrap());
    Envelope { target, op: Op(1000), body: body.to_owned().into(), accepted_at_us: 0, origin: None }
}

fn bodies(taken: &[Delivery]) -> Vec<String> {
    let body = |delivery: &Delivery| Envelope::parse(delivery.bytes.clone()).unwrap().body;
    taken.iter().map(|delivery| String::from_utf8(body(delivery).to_vec()).unwrap()).collect()
}

pub(super) async fn all_in_use() -> RwLockWriteGuard<'static, ()> {
    IN_USE.write().await
}

#[tokio::test]
async fn a_broker_that_was_away_costs_refusals_and_nothing_else() {
    let _in_use = all_in_use().await;
    let kafka = kafka();
    let config = config(&kafka);
    let broker = broker(&config).await;
    let mut ready = broker.ready();
    assert!(*ready.borrow());
    broker.publish(vec![push("before")]).await.unwrap();
    let mut consumer = broker.consume(&config.queue.group).await.unwrap();
    let taken = take(&mut *consumer, 1).await;
    assert_eq!(bodies(&taken), ["before"]);
    consumer.ack(&taken[0].position).await.unwrap();

    kafka.stop();
    // Whether it is known to be away already or not.
    for n in 0..3 {
        let refused = timeout(REFUSED_WITHIN, broker.publish(vec![push(&format!("away {n}"))])).await;
        let error = refused.expect("an answer in time").unwrap_err();
        assert!(matches!(error, PublishError::Unavailable(_) | PublishError::Unknown(_)), "{error}");
    }
    timeout(SOON, ready.wait_for(|ready| !ready)).await.expect("it is known").unwrap();
    let started = Instant::now();
    let error = broker.publish(vec![push("away")]).await.unwrap_err();
    assert!(matches!(error, PublishError::Unavailable(_)), "nothing happened: {error}");
    assert!(started.elapsed() < Duration::from_secs(1), "refused at once when it is known");

    kafka.start_again();
    timeout(SOON, ready.wait_for(|ready| *ready)).await.expect("it is known").unwrap();
    broker.publish(vec![push("after")]).await.unwrap();
    let taken = take(&mut *consumer, 1).await;
    assert_eq!(bodies(&taken), ["after"], "nothing of what was refused is there");
    consumer.ack(&taken[0].position).await.unwrap();
    drop(consumer);
    broker.close().await;

    // Both acknowledgements were committed.
    broker_again(&config).await;
}

async fn broker_again(config: &KafkaJobConfig) {
    let broker = broker(config).await;
    broker.publish(vec![push("last")]).await.unwrap();
    let mut consumer = broker.consume(&config.queue.group).await.unwrap();
    assert_eq!(bodies(&take(&mut *consumer, 1).await), ["last"]);
}

#[tokio::test]
async fn a_start_without_kafka_waits_for_it_in_the_background() {
    let mut nobody = KafkaConfig::default();
    nobody.servers.brokers = ["127.0.0.1:1"].into_iter().collect();
    let started = timeout(SOON, KafkaBroker::start_logic(&nobody, BrokerMetrics::default())).await;
    let broker = started.expect("it does not wait for ever").unwrap();
    assert!(!*broker.ready().borrow());
    let error = broker.publish(vec![push("x")]).await.unwrap_err();
    assert!(matches!(error, PublishError::Unavailable(_)), "{error}");
    // Nor does a member: it waits, and its end does not.
    let mut consumer = broker.consume("group").await.unwrap();
    assert!(timeout(Duration::from_millis(100), consumer.next_batch(1)).await.is_err());
    drop(consumer);
    timeout(SOON, broker.close()).await.expect("it does not wait for ever");
}
