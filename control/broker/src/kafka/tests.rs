//! Against a real Kafka, one for all tests that run at a time.

use std::sync::{Mutex, Weak};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::{Headers, OwnedMessage},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use services::Kafka;
use tokio::{
    sync::{RwLock as AsyncRwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Instant, timeout},
};
use uuid::Uuid;

use super::*;
use crate::{MemoryLimits, conformance};

mod commits;
mod order;
mod outage;
mod records;
mod tls;

/// How long what is to come may take.
const SOON: Duration = Duration::from_secs(30);

/// Held to write by the test that stops Kafka.
static IN_USE: AsyncRwLock<()> = AsyncRwLock::const_new(());

/// The Kafka of the tests that run now. It ends with the last of them.
fn kafka() -> Arc<Kafka> {
    static RUNNING: Mutex<Weak<Kafka>> = Mutex::new(Weak::new());
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    running.upgrade().unwrap_or_else(|| {
        let kafka = Arc::new(Kafka::start());
        *running = Arc::downgrade(&kafka);
        kafka
    })
}

/// A topic of its own.
struct Bench {
    kafka: Arc<Kafka>,
    config: KafkaJobConfig,
    _in_use: RwLockReadGuard<'static, ()>,
}

async fn bench() -> Bench {
    let in_use = IN_USE.read().await;
    let kafka = kafka();
    let config = config(&kafka);
    Bench { kafka, config, _in_use: in_use }
}

fn config(kafka: &Kafka) -> KafkaJobConfig {
    let id = Uuid::new_v4();
    let mut config = KafkaJobConfig::default();
    (config.queue.topic, config.queue.group) = (format!("topic-{id}"), format!("group-{id}"));
    config.servers.brokers = [kafka.addr()].into_iter().collect();
    config
}

async fn broker(config: &KafkaJobConfig) -> KafkaBroker {
    let broker = KafkaBroker::start_job(config, BrokerMetrics::default()).await.expect("a client");
    // A Kafka that has just started may take longer for its first topic than a start waits.
    let ready =
        timeout(SOON, broker.ready().wait_for(|ready| *ready)).await.expect("the topic comes").is_ok();
    assert!(ready);
    broker
}

/// The next entries, at least `count` of them.
async fn take(consumer: &mut dyn Consumer, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(
            timeout(SOON, consumer.next_batch(1000)).await.expect("entries come").expect("Kafka is there"),
        );
    }
    all
}

/// All records of a topic, as many as expected.
async fn records(config: &KafkaJobConfig, topic: &str, count: usize) -> Vec<OwnedMessage> {
    let (config, topic) = (config.clone(), topic.to_owned());
    tokio::task::spawn_blocking(move || read(&config, &topic, count)).await.expect("they are there")
}

/// Reads them as any program does, without a group.
fn read(config: &KafkaJobConfig, topic: &str, count: usize) -> Vec<OwnedMessage> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", config.servers.brokers.join(","))
        .set("group.id", "reader")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a client");
    let started = Instant::now();
    let partitions = loop {
        assert!(started.elapsed() < SOON, "{topic} is not there");
        let metadata = client.fetch_metadata(Some(topic), Duration::from_secs(5));
        match metadata.map_or(0, |metadata| metadata.topics()[0].partitions().len()) {
            0 => std::thread::sleep(Duration::from_millis(50)),
            partitions => break partitions,
        }
    };
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition as i32, Offset::Beginning).expect("a place");
    }
    client.assign(&list).expect("an assignment");
    let mut all = Vec::new();
    while all.len() < count {
        assert!(started.elapsed() < SOON, "{} of {count} records in {topic}", all.len());
        if let Some(message) = client.poll(Duration::from_millis(100)) {
            all.push(message.expect("a record").detach());
        }
    }
    all
}

async fn conforms(assignor: Assignor) {
    let bench = bench().await;
    conforms_by(assignor, || config(&bench.kafka)).await;
}

/// The suite, with a topic of each subject's own.
async fn conforms_by(assignor: Assignor, config: impl Fn() -> KafkaJobConfig) {
    conformance::run(async || {
        let mut config = config();
        config.queue.assignor = assignor;
        let broker = Arc::new(broker(&config).await);
        let servers = broker.shared.servers.clone();
        let topic = config.queue.topic.clone();
        conformance::Subject {
            broker,
            limits: None::<MemoryLimits>,
            group: config.queue.group,
            owners_stay: false,
            acknowledges: true,
            patience: Duration::from_secs(1),
            put_bytes: Box::new(move |bytes| {
                let (servers, topic) = (servers.clone(), topic.clone());
                Box::pin(async move {
                    let put = move || put_bytes(&servers, &topic, &bytes);
                    tokio::task::spawn_blocking(put).await.expect("it is there");
                })
            }),
        }
    })
    .await;
}

/// Puts a record where the pushes to the room of the suite are, as any program does.
fn put_bytes(servers: &Servers, topic: &str, bytes: &[u8]) {
    let mut settings = client::settings(servers);
    let client: BaseProducer = settings.set("partitioner", "fnv1a_random").create().expect("a client");
    client.send(BaseRecord::to(topic).key("live://1000").payload(bytes)).map_err(|(error, _)| error).unwrap();
    client.flush(SOON).expect("it is there");
}

#[tokio::test]
async fn kafka_conforms_with_ranges() {
    conforms(Assignor::Range).await;
}

#[tokio::test]
async fn kafka_conforms_with_cooperation() {
    conforms(Assignor::CooperativeSticky).await;
}

#[tokio::test]
async fn without_brokers_there_is_no_client() {
    let mut config = KafkaConfig::default();
    config.servers.brokers = Default::default();
    let error = KafkaBroker::start_logic(&config, BrokerMetrics::default()).await.err().expect("refused");
    assert!(error.to_string().contains("kafka.brokers"), "{error}");
}
