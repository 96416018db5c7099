//! Many pushes to one key, and how fast.

use std::collections::{HashMap, HashSet};

use futures_util::future::join_all;
use grpc::envelope::Target;
use proto::{ids::ServerId, op::Op};
use tokio::sync::mpsc;

use super::*;

const PUSHES: usize = 50_000;

fn push(key: &str, n: usize) -> Envelope {
    let target = Target::Keys { server: ServerId::new("127.0.0.1:3109"), keys: vec![Key::new(key)] };
    Envelope { target, op: Op(1000), body: n.to_string().into(), accepted_at_us: 0, origin: None }
}

fn key_and_number(delivery: &Delivery) -> (String, usize) {
    let envelope = Envelope::parse(delivery.bytes.clone()).expect("an envelope");
    let Target::Keys { keys, .. } = envelope.target else { panic!("a push to a key") };
    (keys[0].as_str().to_owned(), std::str::from_utf8(&envelope.body).unwrap().parse().unwrap())
}

/// Publishes all of them to one key, in order, 100 at a time.
async fn publish_all(broker: &KafkaBroker) {
    for first in (0..PUSHES).step_by(100) {
        broker.publish((first..first + 100).map(|n| push("k1", n)).collect()).await.unwrap();
    }
}

#[tokio::test]
async fn fifty_thousand_pushes_to_one_key_arrive_in_order() {
    let bench = bench().await;
    let broker = broker(&bench.config).await;
    let mut consumer = broker.consume(&bench.config.queue.group).await.unwrap();
    let ((), taken) = tokio::join!(publish_all(&broker), take(&mut *consumer, PUSHES));
    assert!(taken.iter().map(|delivery| key_and_number(delivery).1).eq(0..PUSHES));
}

/// A member that reports what it takes and acknowledges it, until nobody listens.
async fn member(broker: Arc<KafkaBroker>, group: String, seen: mpsc::Sender<Vec<(String, usize)>>) {
    let mut consumer = broker.consume(&group).await.unwrap();
    loop {
        tokio::select! {
            batch = consumer.next_batch(64) => {
                let batch = batch.unwrap();
                if seen.send(batch.iter().map(key_and_number).collect()).await.is_err() {
                    return;
                }
                for delivery in &batch {
                    consumer.ack(&delivery.position).await.unwrap();
                }
            }
            () = seen.closed() => return,
        }
    }
}

/// Notes what a member took: what it had is not handed to it again, nor anything before it.
fn note(
    batch: Vec<(String, usize)>,
    lasts: &mut HashMap<String, usize>,
    arrived: &mut HashSet<(String, usize)>,
) {
    for (key, n) in batch {
        let last = lasts.insert(key.clone(), n);
        assert!(last.is_none_or(|last| last < n), "{n} after {last:?} for {key}");
        arrived.insert((key, n));
    }
}

async fn members_come_and_go(assignor: Assignor) {
    /// Keys, in all four partitions.
    const KEYS: usize = 16;
    let bench = bench().await;
    let mut config = config(&bench.kafka);
    config.queue.assignor = assignor;
    let broker = Arc::new(broker(&config).await);
    let join = || {
        let (seen, seeing) = mpsc::channel(4);
        tokio::spawn(member(Arc::clone(&broker), config.queue.group.clone(), seen));
        seeing
    };
    let is_over = Arc::new(AtomicBool::new(false));
    let publisher = tokio::spawn({
        let (broker, is_over) = (Arc::clone(&broker), Arc::clone(&is_over));
        async move {
            let mut round = 0;
            while !is_over.load(Relaxed) {
                broker.publish((0..KEYS).map(|key| push(&format!("k{key}"), round)).collect()).await.unwrap();
                round += 1;
            }
            round
        }
    });
    let (mut arrived, mut lasts) = (HashSet::new(), HashMap::new());
    let mut first = join();
    for _ in 0..3 {
        let (mut second, mut lasts_of_second, mut batches_of_second) = (join(), HashMap::new(), 0);
        while batches_of_second < 20 {
            let next = async {
                tokio::select! {
                    batch = first.recv() => note(batch.expect("it is there"), &mut lasts, &mut arrived),
                    batch = second.recv() => {
                        batches_of_second += 1;
                        note(batch.expect("it is there"), &mut lasts_of_second, &mut arrived);
                    }
                }
            };
            timeout(SOON, next).await.expect("entries come");
        }
        // It leaves. What it took and has not told yet is acknowledged.
        second.close();
        while let Some(batch) = second.recv().await {
            note(batch, &mut lasts_of_second, &mut arrived);
        }
    }
    is_over.store(true, Relaxed);
    let rounds = publisher.await.unwrap();
    while arrived.len() < rounds * KEYS {
        let batch = timeout(SOON, first.recv()).await.unwrap_or_else(|_| {
            let mut missing: Vec<_> = (0..KEYS)
                .flat_map(|key| (0..rounds).map(move |n| (format!("k{key}"), n)))
                .filter(|entry| !arrived.contains(entry))
                .collect();
            let count = missing.len();
            missing.truncate(20);
            panic!("{count} of {rounds} rounds never came: {missing:?}; the last were {lasts:?}");
        });
        let batch = batch.expect("it is there");
        note(batch, &mut lasts, &mut arrived);
    }
    drop(first);
    timeout(SOON, broker.close()).await.expect("it closes");
}

#[tokio::test]
async fn keys_stay_in_order_while_members_of_a_range_group_come_and_go() {
    members_come_and_go(Assignor::Range).await;
}

#[tokio::test]
async fn keys_stay_in_order_while_members_of_a_cooperative_group_come_and_go() {
    members_come_and_go(Assignor::CooperativeSticky).await;
}

/// `cargo test -p halley-broker --features kafka --release -- --ignored --nocapture kafka_speed`
#[tokio::test]
#[ignore = "measures, and takes a while"]
async fn kafka_speed() {
    let bench = bench().await;
    let broker = Arc::new(broker(&bench.config).await);
    for publishers in [1, 50] {
        let each = PUSHES / 50 / if publishers == 1 { 10 } else { 1 };
        let started = Instant::now();
        let took = join_all((0..publishers).map(|_| {
            let broker = Arc::clone(&broker);
            tokio::spawn(async move {
                let mut took = Vec::with_capacity(each);
                for n in 0..each {
                    let started = Instant::now();
                    broker.publish(vec![push("k1", n)]).await.unwrap();
                    took.push(started.elapsed());
                }
                took
            })
        }))
        .await;
        let elapsed = started.elapsed();
        let mut took: Vec<Duration> = took.into_iter().flat_map(Result::unwrap).collect();
        took.sort();
        let rate = took.len() as f64 / elapsed.as_secs_f64();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
        println!("{publishers} publishers: {rate:.0} a second, p50 {:?}, p99 {:?}", at(0.5), at(0.99));
    }
    publish_all(&broker).await;
    let mut consumer = broker.consume(&bench.config.queue.group).await.unwrap();
    let (first, started) = (take(&mut *consumer, 1).await.len(), Instant::now());
    let taken = take(&mut *consumer, PUSHES - first).await.len();
    println!("consumed: {:.0} a second", taken as f64 / started.elapsed().as_secs_f64());
}

/// A comet stood still for some seconds while a job joined: all that its partitions had handed out since was sent again by the
/// next owner, to every comet.
#[tokio::test]
async fn what_a_member_is_still_delivering_is_not_handed_out_by_the_next_owner() {
    const KEYS: usize = 16;
    const ROUNDS: usize = 10;
    let bench = bench().await;
    let broker = Arc::new(broker(&bench.config).await);
    let publish = async |n: usize| {
        broker.publish((0..KEYS).map(|key| push(&format!("k{key}"), n)).collect()).await.unwrap();
    };
    let mut first = broker.consume(&bench.config.queue.group).await.unwrap();
    for n in 0..ROUNDS {
        publish(n).await;
    }
    let mut delivering = Vec::new();
    while delivering.len() < ROUNDS * KEYS {
        delivering.append(&mut timeout(SOON, first.next_batch(64)).await.expect("entries come").unwrap());
    }

    let (seen, mut seeing) = mpsc::channel(4);
    tokio::spawn(member(Arc::clone(&broker), bench.config.queue.group.clone(), seen));
    assert!(timeout(Duration::from_millis(2500), seeing.recv()).await.is_err(), "handed out twice");
    for delivery in &delivering {
        first.ack(&delivery.position).await.unwrap();
    }
    let mut of_second = 0;
    for n in ROUNDS.. {
        publish(n).await;
        let batch = tokio::select! {
            batch = seeing.recv() => {
                let batch = batch.expect("it is there");
                of_second += batch.len();
                batch
            }
            batch = first.next_batch(64) => {
                let batch = batch.unwrap();
                for delivery in &batch {
                    first.ack(&delivery.position).await.unwrap();
                }
                batch.iter().map(key_and_number).collect()
            }
        };
        assert!(batch.iter().all(|(_, n)| *n >= ROUNDS), "{batch:?}");
        if of_second >= KEYS {
            return;
        }
        assert!(n < 10_000, "the second gets nothing");
    }
}
