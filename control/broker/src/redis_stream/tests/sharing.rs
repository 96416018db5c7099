//! Several consumers of one group.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    entry::{Entry, EntryId},
    scripts::{Held, HeldStream, State},
    share::{Batch, Share, ToRead},
    *,
};
use crate::redis_testing::{bodies, publish_until_taken, take, to_key, to_room};

/// How many streams each consumer owns, by its name.
async fn owners(site: &Site, topic: &Topic) -> HashMap<String, usize> {
    let mut owners = HashMap::new();
    for number in topic.numbers() {
        let owner: Option<String> = site.command(&["GET", &topic.owner(number, GROUP)]).await;
        *owners.entry(owner.unwrap_or_default()).or_default() += 1;
    }
    owners
}

/// Waits until the streams are shared so, largest share first.
async fn shared_as(site: &Site, topic: &Topic, expected: &[usize]) {
    for _ in 0..300 {
        let owners = owners(site, topic).await;
        let mut shares: Vec<usize> = owners.values().copied().collect();
        shares.sort_unstable_by(|a, b| b.cmp(a));
        if shares == expected && !owners.contains_key("") {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("not shared as {expected:?}: {:?}", owners(site, topic).await);
}

#[tokio::test]
async fn everybody_has_a_fair_share_and_one_who_leaves_frees_it_at_once() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "t");
    let first = broker.consume(GROUP).await.unwrap();
    shared_as(&site, &broker.topic, &[8]).await;
    let second = broker.consume(GROUP).await.unwrap();
    shared_as(&site, &broker.topic, &[4, 4]).await;
    let third = broker.consume(GROUP).await.unwrap();
    shared_as(&site, &broker.topic, &[3, 3, 2]).await;
    third.leave().await;
    assert!(owners(&site, &broker.topic).await.contains_key(""), "free before the lease runs out");
    shared_as(&site, &broker.topic, &[4, 4]).await;
    drop((first, second));
}

/// Redis's clock was set back, or a replica behind it took over, and a job that died was heard of last in what is the
/// future now. It kept its share for as long as that lasted.
#[tokio::test]
async fn a_dead_job_that_was_heard_of_in_the_future_has_no_share() {
    let site = Site::start().await;
    let broker = broker(&site.redis, "t");
    site.command::<()>(&["ZADD", &broker.topic.members(GROUP), "9999999999999", "dead"]).await;
    let _consumer = broker.consume(GROUP).await.unwrap();
    shared_as(&site, &broker.topic, &[8]).await;
}

#[tokio::test]
async fn a_stream_is_given_back_when_what_was_handed_out_is_acknowledged() {
    let site = Site::start().await;
    let two = RedisStreamBroker::new(site.redis.clone(), "t", 2, 100, BrokerMetrics::default());
    let topic = two.topic.clone();
    // Something of each stream is under way.
    let keys = ["k1", "k2"];
    assert_ne!(topic.stream_of(keys[0]), topic.stream_of(keys[1]));
    two.publish(keys.map(|key| to_key(key, "0")).to_vec()).await.unwrap();
    let mut first = two.consume(GROUP).await.unwrap();
    let taken = take(&mut *first, 2).await;
    let _second = two.consume(GROUP).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    shared_as(&site, &topic, &[2]).await;
    for delivery in &taken {
        first.ack(&delivery.position).await.unwrap();
    }
    shared_as(&site, &topic, &[1, 1]).await;
}

#[test]
fn a_stream_beyond_the_share_is_given_back_as_soon_as_no_answer_is_owed() {
    let share = Share::new(&Topic { name: "t".into(), streams: 3 });
    let hold = |mine| {
        let (none, until) = (EntryId(0), Instant::now() + Duration::from_secs(60));
        let state = State { epoch: 1, incarnation: "i".to_owned(), acked: none, last: none, len: 0 };
        let streams = (0..3).map(|_| HeldStream::Owned(state.clone())).collect();
        share.update(Held { share: mine, streams }, until);
    };
    let hurries = || share.hurry.notified().now_or_never().is_some();
    hold(3);
    let ToRead { stream, term, .. } = share.to_read().remove(0);
    let entries = vec![Entry { id: EntryId(1), bytes: Bytes::new() }].into_iter();
    let owed = share.hand_out(&mut Batch { stream, term, entries }, 1);
    assert!(!hurries() && share.take_done().is_empty(), "all three are its own");
    hold(0);
    assert!(hurries());
    assert_eq!(share.take_done(), [1, 2], "the idle ones");
    assert!(share.acknowledge(&owed[0].position) && !hurries());
    share.has_stored(&share.to_store()[0]);
    assert!(hurries());
    assert_eq!(share.take_done(), [0]);
}

/// A job that was stopped for longer than its lease, such as a virtual machine that moves.
#[tokio::test]
async fn who_lost_its_lease_hands_out_and_acknowledges_nothing_more() {
    let site = Site::start().await;
    let broker = RedisStreamBroker::new(site.redis.clone(), "t", 1, 100, BrokerMetrics::default());
    broker.publish((0..4).map(|n| to_room("r", &n.to_string())).collect()).await.unwrap();
    let mut paused = StreamConsumer::start(&site.redis, &broker.topic, GROUP, &BrokerMetrics::default());
    let taken = take(&mut paused, 2).await;
    // The rest was read ahead and waits in it; it renews nothing while it stands still.
    paused.tasks[0].abort();
    let mut next = broker.consume(GROUP).await.unwrap();
    assert_eq!(bodies(&take(&mut *next, 4).await), ["0", "1", "2", "3"]);
    let late = timeout(Duration::from_millis(500), paused.next_batch(10)).await;
    assert!(late.is_err(), "{late:?}");
    paused.ack(&taken[1].position).await.unwrap();
    drop(next);
    assert_eq!(bodies(&take(&mut *broker.consume(GROUP).await.unwrap(), 4).await), ["0", "1", "2", "3"]);
}

/// The same, and the other one has left when it goes on.
#[tokio::test]
async fn who_takes_a_stream_again_goes_on_where_the_last_owner_acknowledged() {
    let site = Site::start().await;
    let broker = RedisStreamBroker::new(site.redis.clone(), "t", 1, 100, BrokerMetrics::default());
    broker.publish((0..4).map(|n| to_room("r", &n.to_string())).collect()).await.unwrap();
    let mut paused = StreamConsumer::start(&site.redis, &broker.topic, GROUP, &BrokerMetrics::default());
    take(&mut paused, 2).await;
    paused.tasks[0].abort();
    let mut next = broker.consume(GROUP).await.unwrap();
    let taken = take(&mut *next, 4).await;
    next.ack(&taken[3].position).await.unwrap();
    next.leave().await;
    paused.tasks[0] =
        tokio::spawn(Arc::clone(&paused.membership).keep(BrokerMetrics::default())).abort_handle();
    broker.publish(vec![to_room("r", "4")]).await.unwrap();
    assert_eq!(bodies(&take(&mut paused, 1).await), ["4"]);
}

/// What one consumer saw: a number that grows with time over all consumers, a key, the number of the push.
type Seen = Vec<(usize, String, usize)>;

/// Consumes and acknowledges until told to stop, then leaves.
async fn work(broker: Arc<RedisStreamBroker>, clock: Arc<AtomicUsize>, stop: watch::Receiver<bool>) -> Seen {
    let mut consumer = broker.consume(GROUP).await.unwrap();
    let mut seen = Vec::new();
    while !*stop.borrow() {
        let Ok(batch) = timeout(Duration::from_millis(50), consumer.next_batch(256)).await else { continue };
        let batch = batch.unwrap();
        let mut last = HashMap::new();
        for (delivery, body) in batch.iter().zip(bodies(&batch)) {
            let (key, number) = body.split_once(' ').unwrap();
            seen.push((clock.fetch_add(1, Relaxed), key.to_owned(), number.parse().unwrap()));
            last.insert(delivery.position.source.clone(), delivery.position.clone());
        }
        for position in last.values() {
            consumer.ack(position).await.unwrap();
        }
    }
    consumer.leave().await;
    seen
}

/// Order per key over 50,000 pushes at full speed, while a second job joins and leaves. Every entry is seen once, because
/// nobody dies.
#[tokio::test]
async fn order_holds_while_a_second_job_joins_and_leaves() {
    const KEYS: usize = 10;
    const EACH: usize = 5000;
    let site = Site::start().await;
    let broker = Arc::new(broker(&site.redis, "t"));
    let clock = Arc::new(AtomicUsize::new(0));
    let (stop, stopped) = watch::channel(false);
    let stays = tokio::spawn(work(Arc::clone(&broker), Arc::clone(&clock), stopped));
    let comes_and_goes = tokio::spawn({
        let (broker, mut stopped) = (Arc::clone(&broker), stop.subscribe());
        async move {
            let mut parts = Vec::new();
            while !*stopped.borrow() {
                let (leave, left) = watch::channel(false);
                let part = tokio::spawn(work(Arc::clone(&broker), Arc::clone(&clock), left));
                let _ = timeout(Duration::from_millis(1500), stopped.wait_for(|stop| *stop)).await;
                leave.send_replace(true);
                parts.push(part.await.unwrap());
                sleep(Duration::from_millis(300)).await;
            }
            parts
        }
    });
    // Each key has a publisher that waits for its last push, as a backend does that wants order.
    let publishers: Vec<_> = (0..KEYS)
        .map(|key| {
            let broker = Arc::clone(&broker);
            tokio::spawn(async move {
                let key = format!("k{key}");
                for n in 0..EACH {
                    publish_until_taken(&*broker, vec![to_key(&key, &format!("{key} {n}"))]).await;
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    sleep(Duration::from_secs(2)).await;
    stop.send_replace(true);
    let stayed = stays.await.unwrap();
    let others = comes_and_goes.await.unwrap();
    assert!(others.iter().filter(|part| !part.is_empty()).count() > 1, "the second job had its share, twice");
    let mut all = [vec![stayed], others].concat().concat();
    all.sort_unstable();
    let mut numbers: HashMap<String, Vec<usize>> = HashMap::new();
    for (_, key, number) in all {
        numbers.entry(key).or_default().push(number);
    }
    assert_eq!(numbers.len(), KEYS);
    for (key, numbers) in numbers {
        assert_eq!(numbers, (0..EACH).collect::<Vec<_>>(), "{key}");
    }
}
