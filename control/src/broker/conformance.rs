//! What every broker must do. Each implementation runs [`run`] over itself; a failure is a panic that names the rule.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use proto::{
    envelope::{Envelope, Target},
    ids::RoomId,
    op::Op,
};
use tokio::time::timeout;

use super::{Broker, ConsumeError, Consumer, Delivery, MemoryLimits, PublishError};

/// How long an entry that is there may take to come.
const SOON: Duration = Duration::from_secs(30);

/// How long to wait before believing that nothing comes.
const NEVER: Duration = Duration::from_millis(50);

/// A broker to be tested, empty, and what it promises beyond the rules for all.
pub struct Subject {
    /// The broker.
    pub broker: Arc<dyn Broker>,
    /// Its bounds, when it has some; at least 1,000 bytes and 50 entries.
    pub limits: Option<MemoryLimits>,
    /// Name of a group that nobody used yet; a second one is made of it.
    pub group: String,
    /// Whether a member that joins leaves the sources to those that own them. Kafka shares them out anew.
    pub owners_stay: bool,
}

/// Runs the whole suite; `fresh` makes a new subject for each rule.
///
/// # Panics
/// When the broker breaks a rule.
pub async fn run(fresh: impl AsyncFn() -> Subject) {
    entries_come_in_order_as_they_were_published(fresh().await).await;
    a_batch_is_never_larger_than_asked(fresh().await).await;
    what_was_not_acknowledged_comes_again(fresh().await).await;
    acknowledging_one_acknowledges_all_before_it(fresh().await).await;
    acknowledging_what_was_not_handed_out_changes_nothing(fresh().await).await;
    a_waiting_consumer_gets_what_is_published_later(fresh().await).await;
    giving_up_a_wait_loses_nothing(fresh().await).await;
    every_group_gets_everything(fresh().await).await;
    a_group_has_one_owner_at_a_time(fresh().await).await;
    a_publish_is_all_or_nothing(fresh().await).await;
    a_publish_that_never_fits_is_told_apart(fresh().await).await;
    a_dead_letter_harms_nobody(fresh().await).await;
    a_closed_broker_takes_nothing_more(fresh().await).await;
    what_dies_with_the_process_is_handed_out_before_the_end(fresh().await).await;
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

async fn nothing_comes(consumer: &mut dyn Consumer, rule: &str) {
    if let Ok(batch) = timeout(NEVER, consumer.next_batch(10)).await {
        panic!("{rule}: {batch:?}");
    }
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
    nothing_comes(&mut *second, "what was acknowledged does not come again").await;
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
        // Polled once or not at all, as in a select that something else won.
        let _ = timeout(Duration::ZERO, consumer.next_batch(10)).await;
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
        nothing_comes(&mut *second, "one owner at a time").await;
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
    nothing_comes(&mut *consumer, "nothing of a refused publish is there").await;
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
    subject.broker.dead_letter(first.clone()).await;
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
