//! What was acknowledged is committed, by the word of a client that has nothing to do with the consumer.

use grpc::envelope::Target;
use prometheus_client::{encoding::text, registry::Registry};
use proto::{ids::RoomId, op::Op};
use rdkafka::util::Timeout;
use tokio::time::Instant;

use super::*;
use crate::metrics::CommitFailure;

/// The promise is a second; a busy machine gets more.
const COMMITTED_WITHIN: Duration = Duration::from_secs(10);

fn pushes(numbers: std::ops::Range<usize>) -> Vec<Envelope> {
    let target = Target::Room(RoomId::parse("live://1000").unwrap());
    let push = |n: usize| Envelope {
        target: target.clone(),
        op: Op(1000),
        body: n.to_string().into(),
        accepted_at_us: 0,
        origin: None,
    };
    numbers.map(push).collect()
}

/// A client of the group's coordinator that is no member.
struct Observer(Arc<BaseConsumer>);

impl Observer {
    fn new(config: &KafkaJobConfig) -> Observer {
        let client = ClientConfig::new()
            .set("bootstrap.servers", config.servers.brokers.join(","))
            .set("group.id", &config.queue.group)
            .create();
        Observer(Arc::new(client.expect("a client")))
    }

    /// What the group has committed, over all partitions. Asked again where Kafka has nobody yet who knows: behind a freeze
    /// it may say for a moment that it is not the coordinator.
    async fn committed(&self, topic: &str) -> i64 {
        let (client, topic) = (Arc::clone(&self.0), topic.to_owned());
        let ask = move || {
            let mut list = TopicPartitionList::new();
            list.add_partition_range(&topic, 0, 3);
            let asked = Instant::now();
            let committed = loop {
                match client.committed_offsets(list.clone(), Timeout::After(SOON)) {
                    Ok(committed) => break committed,
                    Err(error) => assert!(asked.elapsed() < SOON, "Kafka does not say it: {error}"),
                }
                std::thread::sleep(Duration::from_millis(50));
            };
            let offset = |offset| if let Offset::Offset(offset) = offset { offset } else { 0 };
            committed.elements().iter().map(|element| offset(element.offset())).sum()
        };
        tokio::task::spawn_blocking(ask).await.expect("it is asked")
    }

    async fn expect(&self, topic: &str, count: usize) {
        let is_there = async {
            while self.committed(topic).await != count as i64 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if timeout(COMMITTED_WITHIN, is_there).await.is_err() {
            panic!("{} of {count} are committed", self.committed(topic).await);
        }
    }
}

/// The value of a metric without labels.
fn sample(metrics: &BrokerMetrics, name: &str) -> f64 {
    let (mut registry, mut said) = (Registry::default(), String::new());
    metrics.register(&mut registry);
    text::encode(&mut said, &registry).expect("text");
    let value = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {said}"))
}

async fn expect_no_lag(metrics: &BrokerMetrics) {
    let is_zero = async {
        while ["halley_broker_entries", "halley_broker_commit_age_seconds"]
            .iter()
            .any(|name| sample(metrics, name) != 0.0)
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(COMMITTED_WITHIN, is_zero).await.expect("the metrics say so too");
}

async fn counted(config: &KafkaJobConfig) -> (KafkaBroker, BrokerMetrics) {
    let metrics = BrokerMetrics::default();
    let broker = KafkaBroker::start_job(config, metrics.clone()).await.expect("a client");
    timeout(SOON, broker.ready().wait_for(|ready| *ready)).await.expect("the topic comes").unwrap();
    (broker, metrics)
}

/// A job committed once after its start, waited for an answer that never came, and never committed again.
#[tokio::test]
async fn what_is_acknowledged_is_committed_again_and_again_while_the_member_stays() {
    for assignor in [Assignor::CooperativeSticky, Assignor::Range] {
        let bench = bench().await;
        let mut config = config(&bench.kafka);
        config.queue.assignor = assignor;
        let (broker, metrics) = counted(&config).await;
        let observer = Observer::new(&config);
        let mut consumer = broker.consume(&config.queue.group).await.unwrap();
        for round in 0..4 {
            broker.publish(pushes(0..40)).await.unwrap();
            let taken = take(&mut *consumer, 40).await;
            // All but the last one, which is under way.
            for delivery in &taken[..39] {
                consumer.ack(&delivery.position).await.unwrap();
            }
            observer.expect(&config.queue.topic, 40 * round + 39).await;
            consumer.ack(&taken[39].position).await.unwrap();
            observer.expect(&config.queue.topic, 40 * (round + 1)).await;
            expect_no_lag(&metrics).await;
        }
        assert_eq!(metrics.commit_failures.all().map(|(_, count)| count).sum::<u64>(), 0);
    }
}

#[tokio::test]
async fn what_waits_for_a_member_is_its_lag() {
    let bench = bench().await;
    let config = config(&bench.kafka);
    let (broker, metrics) = counted(&config).await;
    broker.publish(pushes(0..30)).await.unwrap();
    let mut consumer = broker.consume(&config.queue.group).await.unwrap();
    let taken = take(&mut *consumer, 10).await;
    let lag = |is: f64| {
        let metrics = metrics.clone();
        async move {
            while sample(&metrics, "halley_broker_entries") != is {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    timeout(SOON, lag(30.0)).await.expect("nothing is committed");
    consumer.ack(&taken[9].position).await.unwrap();
    timeout(SOON, lag(20.0)).await.expect("ten are");
}

/// A broker that is silent for a while: nothing stands still for it here, it is told, and afterwards it has everything.
#[tokio::test]
async fn a_broker_that_is_frozen_under_commits_has_them_afterwards() {
    let _in_use = outage::all_in_use().await;
    let kafka = kafka();
    let config = config(&kafka);
    let (broker, metrics) = counted(&config).await;
    let observer = Observer::new(&config);
    let mut consumer = broker.consume(&config.queue.group).await.unwrap();
    broker.publish(pushes(0..200)).await.unwrap();
    let taken = take(&mut *consumer, 200).await;
    consumer.ack(&taken[9].position).await.unwrap();
    observer.expect(&config.queue.topic, 10).await;
    kafka.pause();
    for delivery in &taken[10..] {
        consumer.ack(&delivery.position).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let is_told = async {
        while metrics.commit_failures.of(CommitFailure::Timeout).get() == 0
            || sample(&metrics, "halley_broker_commit_age_seconds") < 2.0
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, is_told).await.expect("that nobody answers is counted, and for how long");
    kafka.resume();
    // Its coordinator may have taken the member for dead meanwhile: then it joins again first.
    let is_back = async { while observer.committed(&config.queue.topic).await != 200 {} };
    timeout(2 * SOON, is_back).await.expect("all is committed");
    timeout(2 * SOON, expect_no_lag(&metrics)).await.expect("and known to be");
}
