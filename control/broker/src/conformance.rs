//! What every broker must do. Each implementation runs [`run`] over itself; a failure is a panic that names the rule.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use grpc::envelope::{Envelope, Target};
use proto::{
    ids::{Key, RoomId, ServerId},
    op::Op,
};
use tokio::{
    runtime::Builder,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use super::{Broker, ConsumeError, Consumer, Delivery, MemoryLimits, PublishError};

/// Longest time until an entry that was published comes.
const SOON: Duration = Duration::from_secs(30);

/// Pushes to one room at full speed.
const MANY: usize = 50_000;

/// Puts bytes that are no envelope where entries of the room `live://1000` lie, as another program might.
pub type PutBytes = Box<dyn Fn(Bytes) -> BoxFuture<'static, ()> + Send + Sync>;

/// A broker to test. It is empty. The other fields tell what it promises beyond the rules for all brokers.
pub struct Subject {
    /// The broker.
    pub broker: Arc<dyn Broker>,
    /// Its bounds, if it has some; at least 1,000 bytes and 50 entries.
    pub limits: Option<MemoryLimits>,
    /// Name of a group that nobody has used yet. The suite makes a second name of it.
    pub group: String,
    /// Whether the sources stay with their owners when another member joins. Kafka shares them out anew.
    pub owners_stay: bool,
    /// Whether entries stay until each group has acknowledged them, and each source has one owner per group. If not, an
    /// entry goes to any consumer of any group, and is then gone.
    pub acknowledges: bool,
    /// How long the suite waits before it concludes that nothing comes.
    pub patience: Duration,
    /// Writes to the broker without [`Broker::publish`].
    pub put_bytes: PutBytes,
}

/// Runs the whole suite; `fresh` makes a new subject for each rule.
///
/// # Panics
/// When the broker breaks a rule.
pub async fn run(fresh: impl AsyncFn() -> Subject) {
    entries_come_in_order_as_they_were_published(fresh().await).await;
    a_batch_is_never_larger_than_asked(fresh().await).await;
    a_waiting_consumer_gets_what_is_published_later(fresh().await).await;
    giving_up_a_wait_loses_nothing(fresh().await).await;
    what_was_not_handed_out_comes_to_the_next_consumer(fresh().await).await;
    who_leaves_gives_back_before_it_is_gone(fresh().await).await;
    a_publish_is_all_or_nothing(fresh().await).await;
    a_publish_that_never_fits_is_told_apart(fresh().await).await;
    bytes_that_are_no_envelope_come_as_they_are(fresh().await).await;
    a_dead_letter_harms_nobody(fresh().await).await;
    fifty_thousand_pushes_to_one_room_come_in_order(fresh().await).await;
    a_closed_broker_takes_nothing_more(fresh().await).await;
    what_dies_with_the_process_is_handed_out_before_the_end(fresh().await).await;
    if fresh().await.acknowledges {
        what_was_not_acknowledged_comes_again(fresh().await).await;
        acknowledging_one_acknowledges_all_before_it(fresh().await).await;
        acknowledging_what_was_not_handed_out_changes_nothing(fresh().await).await;
        every_group_gets_everything(fresh().await).await;
        a_group_has_one_owner_at_a_time(fresh().await).await;
        two_consumers_share_the_sources(fresh().await).await;
        an_owner_that_vanishes_is_replaced(fresh().await).await;
    } else {
        what_was_handed_out_is_gone(fresh().await).await;
        consumers_take_from_one_queue(fresh().await).await;
    }
}

/// All of one room, so that a broker with several sources keeps them in one.
fn envelope(n: usize) -> Envelope {
    Envelope {
        target: Target::Room(RoomId::parse("live://1000").expect("a legal room")),
        op: Op(1000),
        body: Bytes::from(n.to_string()),
        accepted_at_us: 1,
        origin: None,
    }
}

fn envelopes(numbers: std::ops::Range<usize>) -> Vec<Envelope> {
    numbers.map(envelope).collect()
}

async fn consumer(subject: &Subject) -> Box<dyn Consumer> {
    subject.broker.consume(&subject.group).await.expect("joins a group")
}

/// The next `count` entries.
async fn take(consumer: &mut dyn Consumer, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        let batch = timeout(SOON, consumer.next_batch(count - all.len())).await.expect("entries are there");
        all.extend(batch.expect("the broker is there"));
    }
    all
}

/// The numbers that [`envelope`] put in.
fn numbers(deliveries: &[Delivery]) -> Vec<usize> {
    deliveries
        .iter()
        .map(|delivery| {
            let envelope = Envelope::parse(delivery.bytes.clone()).expect("an envelope as published");
            std::str::from_utf8(&envelope.body).ok().and_then(|n| n.parse().ok()).expect("a number")
        })
        .collect()
}

async fn nothing_comes(patience: Duration, consumer: &mut dyn Consumer, rule: &str) {
    if let Ok(batch) = timeout(patience, consumer.next_batch(10)).await {
        panic!("{rule}: {batch:?}");
    }
}

/// One entry for each key, all with this number.
fn to_keys(keys: &[Key], n: usize) -> Vec<Envelope> {
    let server = ServerId::new("127.0.0.1:3109");
    let target = |key: &Key| Target::Keys { server: server.clone(), keys: vec![key.clone()] };
    keys.iter().map(|key| Envelope { target: target(key), ..envelope(n) }).collect()
}

async fn entries_come_in_order_as_they_were_published(subject: Subject) {
    subject.broker.publish(envelopes(0..3)).await.unwrap();
    subject.broker.publish(envelopes(3..7)).await.unwrap();
    let deliveries = take(&mut *consumer(&subject).await, 7).await;
    assert_eq!(numbers(&deliveries), (0..7).collect::<Vec<_>>());
    assert_eq!(deliveries[0].bytes, envelope(0).to_bytes());
    assert!(deliveries.is_sorted_by(|a, b| {
        a.position.source == b.position.source && a.position.offset < b.position.offset
    }));
}

async fn a_batch_is_never_larger_than_asked(subject: Subject) {
    subject.broker.publish(envelopes(0..5)).await.unwrap();
    let batch = timeout(SOON, consumer(&subject).await.next_batch(2)).await.unwrap().unwrap();
    assert!((1..=2).contains(&batch.len()), "asked for 2, got {}", batch.len());
}

async fn what_was_not_acknowledged_comes_again(subject: Subject) {
    subject.broker.publish(envelopes(0..4)).await.unwrap();
    let mut first = consumer(&subject).await;
    let taken = take(&mut *first, 4).await;
    first.ack(&taken[0].position).await.unwrap();
    drop(first);
    let mut second = consumer(&subject).await;
    let again = take(&mut *second, 3).await;
    assert_eq!(numbers(&again), [1, 2, 3]);
    assert_eq!(again[0].position.offset, taken[1].position.offset, "the same entry, the same position");
    nothing_comes(subject.patience, &mut *second, "what was acknowledged does not come again").await;
}

async fn acknowledging_one_acknowledges_all_before_it(subject: Subject) {
    subject.broker.publish(envelopes(0..4)).await.unwrap();
    let mut first = consumer(&subject).await;
    let taken = take(&mut *first, 4).await;
    first.ack(&taken[2].position).await.unwrap();
    // An older acknowledgement takes nothing back.
    first.ack(&taken[0].position).await.unwrap();
    drop(first);
    let mut second = consumer(&subject).await;
    assert_eq!(numbers(&take(&mut *second, 1).await), [3]);
}

async fn acknowledging_what_was_not_handed_out_changes_nothing(subject: Subject) {
    subject.broker.publish(envelopes(0..4)).await.unwrap();
    let mut first = consumer(&subject).await;
    let taken = take(&mut *first, 2).await;
    let mut beyond = taken[1].position.clone();
    beyond.offset.0 += 1;
    first.ack(&beyond).await.unwrap();
    drop(first);
    assert_eq!(numbers(&take(&mut *consumer(&subject).await, 4).await), [0, 1, 2, 3]);
}

async fn a_waiting_consumer_gets_what_is_published_later(subject: Subject) {
    let mut waiting = consumer(&subject).await;
    let broker = Arc::clone(&subject.broker);
    let publisher = tokio::spawn(async move {
        tokio::task::yield_now().await;
        broker.publish(envelopes(0..1)).await.unwrap();
    });
    assert_eq!(numbers(&take(&mut *waiting, 1).await), [0]);
    publisher.await.unwrap();
}

async fn giving_up_a_wait_loses_nothing(subject: Subject) {
    let mut consumer = consumer(&subject).await;
    for n in 0..20 {
        // Polled once, as in a select that something else won.
        let given_up = timeout(Duration::ZERO, consumer.next_batch(10)).await;
        assert!(given_up.is_err(), "there is nothing: {given_up:?}");
        subject.broker.publish(envelopes(n..n + 1)).await.unwrap();
        let taken = take(&mut *consumer, 1).await;
        assert_eq!(numbers(&taken), [n]);
        consumer.ack(&taken[0].position).await.unwrap();
    }
}

async fn every_group_gets_everything(subject: Subject) {
    let mut audit = subject.broker.consume(&format!("{}-audit", subject.group)).await.unwrap();
    subject.broker.publish(envelopes(0..2)).await.unwrap();
    let mut job = consumer(&subject).await;
    let taken = take(&mut *job, 2).await;
    job.ack(&taken[1].position).await.unwrap();
    assert_eq!(numbers(&taken), [0, 1]);
    assert_eq!(numbers(&take(&mut *audit, 2).await), [0, 1]);
}

async fn a_group_has_one_owner_at_a_time(subject: Subject) {
    subject.broker.publish(envelopes(0..2)).await.unwrap();
    let mut first = consumer(&subject).await;
    let taken = take(&mut *first, 1).await;
    let mut second = consumer(&subject).await;
    if subject.owners_stay {
        nothing_comes(subject.patience, &mut *second, "one owner at a time").await;
    }
    // Nor may who was handed out nothing acknowledge anything.
    second.ack(&taken[0].position).await.unwrap();
    let waits = tokio::spawn(async move { numbers(&take(&mut *second, 2).await) });
    tokio::task::yield_now().await;
    drop(first);
    assert_eq!(waits.await.unwrap(), [0, 1], "the next owner starts where the last one acknowledged");
}

async fn a_publish_is_all_or_nothing(subject: Subject) {
    let Some(limits) = subject.limits else { return };
    let mut published = 0;
    let refused = loop {
        assert!(published <= limits.entries, "{published} entries are beyond the bound");
        match subject.broker.publish(envelopes(published..published + 3)).await {
            Ok(()) => published += 3,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, PublishError::Full(_)), "{refused}");
    let mut consumer = consumer(&subject).await;
    let taken = take(&mut *consumer, published).await;
    assert_eq!(numbers(&taken), (0..published).collect::<Vec<_>>());
    nothing_comes(subject.patience, &mut *consumer, "nothing of a refused publish is there").await;
    consumer.ack(&taken[published - 1].position).await.unwrap();
    subject.broker.publish(envelopes(0..3)).await.expect("there is room again");
}

async fn a_publish_that_never_fits_is_told_apart(subject: Subject) {
    let Some(limits) = subject.limits else { return };
    let huge = Envelope { body: Bytes::from(vec![0; limits.bytes + 1]), ..envelope(0) };
    for refused in [vec![huge], envelopes(0..limits.entries + 1)] {
        let error = subject.broker.publish(refused).await.unwrap_err();
        assert!(matches!(error, PublishError::TooLarge { .. }), "{error}");
    }
    subject.broker.publish(envelopes(0..1)).await.unwrap();
    assert_eq!(numbers(&take(&mut *consumer(&subject).await, 1).await), [0]);
}

async fn a_dead_letter_harms_nobody(subject: Subject) {
    subject.broker.publish(envelopes(0..3)).await.unwrap();
    let mut consumer = consumer(&subject).await;
    let first = take(&mut *consumer, 1).await.remove(0);
    subject.broker.dead_letter(vec![first.clone()]).await;
    consumer.ack(&first.position).await.unwrap();
    assert_eq!(numbers(&take(&mut *consumer, 2).await), [1, 2]);
}

async fn a_closed_broker_takes_nothing_more(subject: Subject) {
    subject.broker.close().await;
    let error = subject.broker.publish(envelopes(0..1)).await.unwrap_err();
    assert!(matches!(error, PublishError::Unavailable(_)), "{error}");
}

async fn what_dies_with_the_process_is_handed_out_before_the_end(subject: Subject) {
    if subject.broker.outlives_process() {
        return;
    }
    let mut reader = consumer(&subject).await;
    let waits = tokio::spawn(async move {
        let taken = take(&mut *reader, 2).await;
        (numbers(&taken), timeout(SOON, reader.next_batch(1)).await.expect("an answer"))
    });
    subject.broker.publish(envelopes(0..2)).await.unwrap();
    subject.broker.close().await;
    let (taken, end) = waits.await.unwrap();
    assert_eq!(taken, [0, 1]);
    assert_eq!(end, Err(ConsumeError::Ended));
}

async fn what_was_not_handed_out_comes_to_the_next_consumer(subject: Subject) {
    subject.broker.publish(envelopes(0..50)).await.unwrap();
    let mut first = consumer(&subject).await;
    let taken = take(&mut *first, 1).await;
    first.ack(&taken[0].position).await.unwrap();
    // Given up while something may be on its way.
    let in_time = timeout(Duration::ZERO, first.next_batch(5)).await.map_or(0, |batch| batch.unwrap().len());
    drop(first);
    let gone = if subject.acknowledges { 1 } else { 1 + in_time };
    let mut rest = numbers(&take(&mut *consumer(&subject).await, 50 - gone).await);
    if !subject.acknowledges {
        // The next may take something before the first has put back what it had.
        rest.sort_unstable();
    }
    assert_eq!(rest, (gone..50).collect::<Vec<_>>());
}

async fn who_leaves_gives_back_before_it_is_gone(subject: Subject) {
    subject.broker.publish(envelopes(0..10)).await.unwrap();
    let mut first = consumer(&subject).await;
    let taken = take(&mut *first, 3).await;
    first.ack(&taken[2].position).await.unwrap();
    first.leave().await;
    assert_eq!(numbers(&take(&mut *consumer(&subject).await, 7).await), (3..10).collect::<Vec<_>>());
}

async fn bytes_that_are_no_envelope_come_as_they_are(subject: Subject) {
    let unreadable = [&b""[..], b"hello", &[0xff; 300]].map(Bytes::from_static);
    subject.broker.publish(envelopes(0..1)).await.unwrap();
    for bytes in &unreadable {
        (subject.put_bytes)(bytes.clone()).await;
    }
    subject.broker.publish(envelopes(1..2)).await.unwrap();
    let mut consumer = consumer(&subject).await;
    let mut taken = take(&mut *consumer, 5).await;
    for (delivery, bytes) in taken.drain(1..4).zip(&unreadable) {
        assert_eq!(delivery.bytes, bytes);
        subject.broker.dead_letter(vec![delivery]).await;
    }
    assert_eq!(numbers(&taken), [0, 1]);
    consumer.ack(&taken[1].position).await.unwrap();
}

async fn fifty_thousand_pushes_to_one_room_come_in_order(subject: Subject) {
    let mut consumer = consumer(&subject).await;
    let broker = Arc::clone(&subject.broker);
    let publisher = tokio::spawn(async move {
        let mut published = 0;
        while published < MANY {
            match broker.publish(envelopes(published..published + 10)).await {
                Ok(()) => published += 10,
                Err(PublishError::Full(_)) => sleep(Duration::from_millis(1)).await,
                Err(error) => panic!("{error}"),
            }
        }
    });
    let mut next = 0;
    while next < MANY {
        let batch = timeout(SOON, consumer.next_batch(256)).await.expect("entries are there").unwrap();
        for number in numbers(&batch) {
            assert_eq!(number, next);
            next += 1;
        }
        consumer.ack(&batch.last().expect("not empty").position).await.unwrap();
    }
    publisher.await.unwrap();
}

async fn two_consumers_share_the_sources(subject: Subject) {
    let keys: Vec<Key> = (0..20).map(|n| Key::new(format!("k{n}"))).collect();
    let partitions: HashSet<u32> = keys.iter().map(|key| subject.broker.partition(key)).collect();
    let mut consumers = [consumer(&subject).await, consumer(&subject).await];
    let mut seen: HashMap<String, Vec<usize>> = HashMap::new();
    let mut counts = [0, 0];
    let mut rounds = 0;
    let deadline = Instant::now() + 3 * SOON;
    let (mut all, mut both) = (false, false);
    while !(all && both) {
        assert!(
            Instant::now() < deadline,
            "{counts:?} of {rounds} rounds over {} partitions",
            partitions.len()
        );
        if !both {
            subject.broker.publish(to_keys(&keys, rounds)).await.unwrap();
            rounds += 1;
        }
        for (consumer, count) in consumers.iter_mut().zip(&mut counts) {
            while let Ok(batch) = timeout(Duration::from_millis(20), consumer.next_batch(100)).await {
                let batch = batch.unwrap();
                *count += batch.len();
                for (number, delivery) in numbers(&batch).into_iter().zip(&batch) {
                    let Ok(Envelope { target: Target::Keys { keys, .. }, .. }) =
                        Envelope::parse(delivery.bytes.clone())
                    else {
                        panic!("a push to a key")
                    };
                    let numbers = seen.entry(keys[0].as_str().to_owned()).or_default();
                    // What came before may come again.
                    if number >= numbers.len() {
                        numbers.push(number);
                    }
                    consumer.ack(&delivery.position).await.unwrap();
                }
            }
        }
        both = counts.iter().all(|count| *count > 0) || partitions.len() == 1;
        all = seen.len() == keys.len() && seen.values().all(|numbers| numbers.len() == rounds);
    }
    for (key, numbers) in seen {
        assert_eq!(numbers, (0..rounds).collect::<Vec<_>>(), "{key}");
    }
}

async fn an_owner_that_vanishes_is_replaced(subject: Subject) {
    subject.broker.publish(envelopes(0..5)).await.unwrap();
    let broker = Arc::clone(&subject.broker);
    // Its tasks end with its runtime, and nobody is left who could say goodbye.
    let group = subject.group.clone();
    let vanished = spawn_blocking(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (consumer, taken) = runtime.block_on(async {
            let mut consumer = broker.consume(&group).await.expect("joins a group");
            let taken = take(&mut *consumer, 3).await;
            consumer.ack(&taken[0].position).await.unwrap();
            (consumer, taken)
        });
        drop(runtime);
        drop(consumer);
        numbers(&taken)
    });
    assert_eq!(vanished.await.unwrap(), [0, 1, 2]);
    subject.broker.publish(envelopes(5..6)).await.unwrap();
    assert_eq!(numbers(&take(&mut *consumer(&subject).await, 5).await), [1, 2, 3, 4, 5]);
}

async fn what_was_handed_out_is_gone(subject: Subject) {
    subject.broker.publish(envelopes(0..4)).await.unwrap();
    let mut first = consumer(&subject).await;
    assert_eq!(numbers(&take(&mut *first, 2).await), [0, 1]);
    first.leave().await;
    let mut second = consumer(&subject).await;
    assert_eq!(numbers(&take(&mut *second, 2).await), [2, 3]);
    nothing_comes(subject.patience, &mut *second, "nothing comes again").await;
}

async fn consumers_take_from_one_queue(subject: Subject) {
    let mut consumers = [
        consumer(&subject).await,
        subject.broker.consume(&format!("{}-another", subject.group)).await.unwrap(),
    ];
    let mut all = Vec::new();
    for round in 0..10 {
        subject.broker.publish(envelopes(2 * round..2 * round + 2)).await.unwrap();
        for consumer in &mut consumers {
            all.extend(numbers(&take(&mut **consumer, 1).await));
        }
    }
    assert_eq!(all, (0..20).collect::<Vec<_>>(), "each once, to one of them");
}
