//! job over a memory broker, a registry and comets that record what they are told.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use ::grpc::envelope::Target;
use async_trait::async_trait;
use broker::{MemoryBroker, MemoryLimits, PublishError, metrics::BrokerMetrics};
use bytes::Bytes;
use contract::{Dispatch, DispatchError, Payload};
use proto::{
    close::CloseReason,
    frame,
    ids::{Generation, Key, RoomId},
    op::Op,
    origin::Origin,
};
use registry::{Fixed, Node, Registration, Registry as _, Service};
use testkit::fakes::{FakeComet, messages};
use tokio::{sync::Semaphore, time::Instant};

use super::*;

mod grpc;
mod leaving;
mod lifecycle;
mod stream;
mod unary;

const BATCHES: Calls = Calls::Batches;
const UNARY: Calls = Calls::Unary { join_max: 20, join_within: Duration::from_secs(1) };
const GIVE_UP: Duration = Duration::from_secs(10);

/// job with its surroundings.
struct Setup {
    broker: MemoryBroker,
    registry: Fixed,
    registrations: HashMap<&'static str, Box<dyn Registration>>,
    metrics: JobMetrics,
    drain: Drain,
    job: Job,
}

impl Setup {
    async fn start(calls: Calls, comets: &[(&'static str, &Arc<FakeComet>)]) -> Self {
        Self::start_with(&JobConfig::default(), calls, comets).await
    }

    async fn start_with(
        config: &JobConfig,
        calls: Calls,
        comets: &[(&'static str, &Arc<FakeComet>)],
    ) -> Self {
        let apis: HashMap<ServerId, Arc<dyn CometApi>> = comets
            .iter()
            .map(|(server, comet)| (ServerId::new(*server), Arc::clone(comet) as Arc<dyn CometApi>))
            .collect();
        let connect: Connect = Box::new(move |node| {
            let server = node.server.clone();
            Some(Comet { api: Arc::clone(&apis[&server]), server, calls, stream: None })
        });
        let limits = MemoryLimits { bytes: 100_000, entries: 1000 };
        let broker = MemoryBroker::new(limits, BrokerMetrics::default());
        let registry = Fixed::new([]);
        let mut registrations = HashMap::new();
        for (server, _) in comets {
            registrations.insert(*server, register(&registry, server).await);
        }
        let (metrics, drain) = (JobMetrics::default(), Drain::new());
        let deps = JobDeps {
            group: GROUP.to_owned(),
            broker: Arc::new(broker.clone()),
            registry: Arc::new(registry.clone()),
            connect,
            metrics: metrics.clone(),
            drain: drain.clone(),
        };
        let job = start(config, deps);
        Setup { broker, registry, registrations, metrics, drain, job }
    }

    async fn publish(&self, envelopes: impl IntoIterator<Item = Envelope>) {
        self.broker.publish(envelopes.into_iter().collect()).await.unwrap();
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.metrics.drops.of(reason).get()
    }
}

/// A comet that has not answered the call with this message, and job before it.
async fn busy_link(calls: Calls, room: &str, body: &str) -> (Arc<FakeComet>, Setup) {
    let comet = Arc::new(FakeComet::stuck());
    let setup = Setup::start(calls, &[("a:1", &comet)]).await;
    setup.publish([to_room(room, body)]).await;
    settle().await;
    (comet, setup)
}

async fn register(registry: &Fixed, server: &str) -> Box<dyn Registration> {
    registry.register(Node::new(Service::Comet, ServerId::new(server))).await.unwrap()
}

fn envelope(target: Target, body: &str) -> Envelope {
    let body = Bytes::copy_from_slice(body.as_bytes());
    Envelope { target, op: Op(1000), body, accepted_at_us: 1, origin: None }
}

fn to_room(room: &str, body: &str) -> Envelope {
    envelope(Target::Room(RoomId::parse(room).unwrap()), body)
}

fn to_keys(server: &str, keys: &[&str], body: &str) -> Envelope {
    let keys = keys.iter().map(|key| Key::new(*key)).collect();
    envelope(Target::Keys { server: ServerId::new(server), keys }, body)
}

fn from_client(room: &str, body: &str) -> Envelope {
    Envelope { origin: Some(Origin { key: Key::new("sender"), seq: 7, ver: 1 }), ..to_room(room, body) }
}

/// Waits, in paused time only as long as it takes, until `done`.
async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..30_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it never came to this: {what}");
}

fn unreachable() -> DispatchError {
    DispatchError::Unreachable("as told".into())
}

/// Lets everything happen that needs no time.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn each_push_reaches_the_comets_it_concerns_at_once() {
    for calls in [BATCHES, UNARY] {
        let (a, b) = <(Arc<FakeComet>, Arc<FakeComet>)>::default();
        let setup = Setup::start(calls, &[("a:1", &a), ("b:1", &b)]).await;
        settle().await;
        let published = Instant::now();
        setup
            .publish([
                to_keys("b:1", &["k2", "k1", "k2"], "keys"),
                to_room("live://1", "room"),
                envelope(Target::All { speed: 65 }, "all"),
            ])
            .await;
        until("all there", || a.bodies().len() == 2 && b.bodies().len() == 3).await;
        assert!(published.elapsed() <= Duration::from_millis(2), "a lone message waits for nothing");
        let pair = |to: &str, body: &str| (to.to_owned(), body.to_owned());
        let for_all = [pair("live://1", "room"), pair("all at 32", "all")];
        assert_eq!(a.messages(), for_all);
        assert_eq!(b.messages()[0], pair("k2,k1,k2", "keys"), "keys in their order, twice as asked");
        assert_eq!(b.messages()[1..], for_all);
        until("acknowledged", || setup.broker.depth() == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn order_is_kept_per_room_and_per_key_when_the_link_is_busy() {
    for calls in [BATCHES, UNARY] {
        let comet = Arc::new(FakeComet::stuck());
        let setup = Setup::start(calls, &[("a:1", &comet)]).await;
        for n in 0..200 {
            let body = n.to_string();
            setup
                .publish([to_room(["live://1", "live://2"][n % 2], &body), to_keys("a:1", &["k"], &body)])
                .await;
        }
        settle().await;
        comet.dispatch.resume();
        until("all there", || comet.bodies().len() == 400).await;
        for to in ["live://1", "live://2", "k"] {
            let numbers: Vec<u32> = comet
                .messages()
                .iter()
                .filter(|(receivers, _)| receivers == to)
                .map(|(_, body)| body.parse().unwrap())
                .collect();
            assert!(numbers.is_sorted() && numbers.len() >= 100, "{calls:?} {to}: {numbers:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_link_sends_what_waited_in_one_batch() {
    let (comet, setup) = busy_link(BATCHES, "live://1", "0").await;
    setup.publish((1..=30).map(|n| to_room("live://1", &n.to_string()))).await;
    settle().await;
    comet.dispatch.resume();
    until("all there", || comet.bodies().len() == 31).await;
    assert_eq!(comet.sizes(), [1, 30], "neither joined nor split");
    let is_message = |dispatch: &Dispatch| matches!(dispatch.payload, Payload::Message { op: Op(1000), .. });
    assert!(comet.batches().iter().flatten().all(is_message));
}

#[tokio::test(start_paused = true)]
async fn a_stuck_comet_delays_no_other_and_is_given_up_for() {
    for calls in [BATCHES, UNARY] {
        let (stuck, quick) = (Arc::new(FakeComet::stuck()), Arc::new(FakeComet::default()));
        let setup = Setup::start(calls, &[("a:1", &stuck), ("b:1", &quick)]).await;
        let started = Instant::now();
        for n in 0..100 {
            setup.publish([to_room("live://1", &n.to_string())]).await;
        }
        until("the quick one has all", || quick.bodies().len() == 100).await;
        assert!(started.elapsed() < Duration::from_millis(100));
        assert_eq!(setup.broker.depth(), 100, "not acknowledged while one comet owes an answer");
        until("given up", || setup.broker.depth() == 0).await;
        let waited = started.elapsed();
        assert!(waited >= GIVE_UP && waited < GIVE_UP + Duration::from_millis(500), "{waited:?}");
        assert_eq!(setup.drops(DropReason::CometUnreachable), 100);

        stuck.dispatch.resume();
        setup.publish([to_room("live://1", "later")]).await;
        until("it serves again", || stuck.bodies().last().is_some_and(|body| body == "later")).await;
        assert_eq!(setup.drops(DropReason::CometUnreachable), 100);
    }
}

/// A job that was stopped for longer than a push waits gave up what comet had taken, its answers unread, and what waited
/// for a comet that was well: dead letters, and doubles when somebody replays them.
#[tokio::test(start_paused = true)]
async fn time_in_which_job_stood_still_is_not_comets() {
    for calls in [BATCHES, UNARY] {
        for stood_still in [GIVE_UP + Duration::from_secs(2), 100 * GIVE_UP] {
            let comet = Arc::new(FakeComet::stuck());
            let setup = Setup::start(calls, &[("a:1", &comet)]).await;
            let pushes: Vec<String> = (0..40).map(|n| n.to_string()).collect();
            for body in &pushes {
                setup.publish([to_room("live://1", body)]).await;
            }
            tokio::time::sleep(GIVE_UP / 2).await;
            tokio::time::advance(stood_still).await;
            tokio::time::sleep(GIVE_UP / 4).await;
            assert_eq!(setup.drops(DropReason::CometUnreachable), 0, "{calls:?}, {stood_still:?}");
            comet.dispatch.resume();
            until("all are taken", || setup.broker.depth() == 0).await;
            assert_eq!(comet.bodies(), pushes);
            assert_eq!(setup.drops(DropReason::CometUnreachable), 0);
        }
        // And a comet that does not answer is given up for all the same.
        let comet = Arc::new(FakeComet::stuck());
        let setup = Setup::start(calls, &[("a:1", &comet)]).await;
        setup.publish([to_room("live://1", "never taken")]).await;
        tokio::time::sleep(GIVE_UP / 2).await;
        tokio::time::advance(GIVE_UP).await;
        let went_on = Instant::now();
        until("given up", || setup.broker.depth() == 0).await;
        assert!(went_on.elapsed() < GIVE_UP, "{:?}", went_on.elapsed());
        assert_eq!(setup.drops(DropReason::CometUnreachable), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_not_repeated_while_it_may_still_be_answered() {
    let comet = Arc::new(FakeComet::stuck());
    let setup = Setup::start(BATCHES, &[("a:1", &comet)]).await;
    setup.publish([to_room("live://1", "0")]).await;
    tokio::time::sleep(GIVE_UP / 2).await;
    assert_eq!(comet.dispatch.count(), 1);
    comet.dispatch.resume();
    until("taken", || setup.broker.depth() == 0).await;
    assert_eq!(comet.bodies(), ["0"]);
}

#[tokio::test(start_paused = true)]
async fn a_comet_that_fails_gets_everything_once_and_in_order_when_it_is_back() {
    for calls in [BATCHES, UNARY] {
        let comet = Arc::new(FakeComet::default());
        comet.dispatch.fail(6, unreachable);
        let setup = Setup::start(calls, &[("a:1", &comet)]).await;
        for n in 0..50 {
            setup.publish([to_room("live://1", &n.to_string())]).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        until("all there", || comet.bodies().len() == 50).await;
        assert_eq!(comet.bodies(), (0..50).map(|n: u32| n.to_string()).collect::<Vec<_>>());
        assert_eq!(setup.drops(DropReason::CometUnreachable), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_comet_that_is_away_is_asked_ever_more_rarely() {
    let comet = Arc::new(FakeComet::default());
    comet.dispatch.fail(usize::MAX, unreachable);
    let setup = Setup::start(BATCHES, &[("a:1", &comet)]).await;
    setup.publish([to_room("live://1", "0")]).await;
    until("given up", || setup.broker.depth() == 0).await;
    let attempts = comet.dispatch.count();
    assert!((10..=20).contains(&attempts), "{attempts} attempts in 10 s");
}

#[tokio::test(start_paused = true)]
async fn beyond_its_queue_a_slow_comet_is_given_up_for_at_once() {
    let mut config = JobConfig::default();
    config.dispatch.queue_entries = ::config::Bounded::of::<16>();
    let (stuck, quick) = (Arc::new(FakeComet::stuck()), Arc::new(FakeComet::default()));
    let setup = Setup::start_with(&config, BATCHES, &[("a:1", &stuck), ("b:1", &quick)]).await;
    let started = Instant::now();
    for n in 0..40 {
        setup.publish([to_room("live://1", &n.to_string())]).await;
        settle().await;
    }
    until("the quick one has all", || quick.bodies().len() == 40).await;
    assert!(started.elapsed() < GIVE_UP / 2);
    assert_eq!(setup.drops(DropReason::CometUnreachable), 40 - 16);
}

#[tokio::test(start_paused = true)]
async fn while_every_comet_is_full_the_broker_fills_and_nothing_is_lost() {
    let mut config = JobConfig::default();
    config.dispatch.queue_entries = ::config::Bounded::of::<16>();
    let comet = Arc::new(FakeComet::stuck());
    let setup = Setup::start_with(&config, BATCHES, &[("a:1", &comet)]).await;
    let mut published = 0;
    let refused = loop {
        match setup.broker.publish(vec![to_room("live://1", &published.to_string())]).await {
            Ok(()) => published += 1,
            Err(error) => break error,
        }
        settle().await;
    };
    assert!(matches!(refused, PublishError::Full(_)), "{refused}");
    assert_eq!(published, 1000);
    comet.dispatch.resume();
    until("all there", || setup.broker.depth() == 0).await;
    assert_eq!(comet.bodies(), (0..published).map(|n: u32| n.to_string()).collect::<Vec<_>>());
    assert_eq!(setup.drops(DropReason::CometUnreachable), 0);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_read_is_put_aside_and_the_rest_goes_on() {
    let comet = Arc::new(FakeComet::default());
    let setup = Setup::start(BATCHES, &[("a:1", &comet)]).await;
    let poison = [
        Bytes::from_static(b"\xff\xff\xff not protobuf"),
        // Unknown type; a room push without a room.
        Bytes::from_static(b"\x08\x09"),
        Bytes::from_static(b"\x08\x01\x3a\x01x"),
    ];
    setup.broker.publish_bytes(vec![poison[0].clone()]).unwrap();
    setup.publish([to_room("live://1", "0")]).await;
    setup.broker.publish_bytes(poison[1..].to_vec()).unwrap();
    setup.publish([to_room("live://1", "1")]).await;
    setup.broker.publish_bytes(vec![poison[0].clone()]).unwrap();
    until("all acknowledged", || setup.broker.depth() == 0).await;
    assert_eq!(comet.bodies(), ["0", "1"]);
    assert_eq!(setup.drops(DropReason::Poison), 4);
    assert_eq!(setup.broker.dead_letters()[..3], poison);
}

#[tokio::test(start_paused = true)]
async fn without_a_comet_pushes_are_counted_and_put_aside_as_they_stood_on_the_queue() {
    let comet = Arc::new(FakeComet::default());
    let setup = Setup::start(BATCHES, &[("a:1", &comet)]).await;
    let dead = to_keys("gone:1", &["k"], "0");
    setup.publish([dead.clone(), to_keys("a:1", &["k"], "1"), dead.clone()]).await;
    until("acknowledged", || setup.broker.depth() == 0).await;
    assert_eq!((comet.bodies(), setup.drops(DropReason::NoComet)), (vec!["1".to_owned()], 2));
    assert_eq!(setup.broker.dead_letters(), [dead.to_bytes(), dead.to_bytes()]);

    let nobody = Setup::start(BATCHES, &[]).await;
    let dead = [to_room("live://1", "0"), envelope(Target::All { speed: 0 }, "1")];
    nobody.publish(dead.clone()).await;
    until("acknowledged", || nobody.broker.depth() == 0).await;
    assert_eq!(nobody.drops(DropReason::NoComet), 2);
    assert_eq!(nobody.broker.dead_letters(), dead.map(|envelope| envelope.to_bytes()));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_acknowledged_in_its_turn() {
    let comet = Arc::new(FakeComet::stuck());
    let setup = Setup::start(BATCHES, &[("a:1", &comet)]).await;
    setup.publish([to_keys("a:1", &["k"], "0"), to_keys("gone:1", &["k"], "1")]).await;
    until("put aside", || setup.broker.dead_letters().len() == 1).await;
    settle().await;
    assert_eq!(setup.broker.depth(), 2, "the one before it is under way");
    comet.dispatch.resume();
    until("acknowledged", || setup.broker.depth() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn what_no_comet_took_is_put_aside_once_and_what_one_took_is_not() {
    let (well, hung) = (Arc::new(FakeComet::default()), Arc::new(FakeComet::stuck()));
    well.refuse("refused");
    let setup = Setup::start(UNARY, &[("a:1", &well), ("b:1", &hung)]).await;
    let [for_hung, for_both, refused] = [
        to_keys("b:1", &["k"], "to a comet that hangs"),
        to_room("live://1", "to a room on both"),
        to_room("live://2", "refused"),
    ];
    setup.publish([for_hung.clone(), for_both, refused.clone()]).await;
    let started = Instant::now();
    until("acknowledged", || setup.broker.depth() == 0).await;
    assert!(started.elapsed() >= GIVE_UP);
    assert_eq!(well.bodies(), ["to a room on both"]);
    assert_eq!((setup.drops(DropReason::CometUnreachable), setup.drops(DropReason::Invalid)), (3, 1));
    assert_eq!(setup.broker.dead_letters(), [for_hung, refused].map(|envelope| envelope.to_bytes()));
}

#[tokio::test(start_paused = true)]
async fn what_a_full_queue_does_not_take_is_put_aside() {
    let hung = Arc::new(FakeComet::stuck());
    let mut config = JobConfig::default();
    config.dispatch.queue_entries = ::config::Bounded::of::<16>();
    let well = Arc::new(FakeComet::default());
    let setup = Setup::start_with(&config, BATCHES, &[("a:1", &well), ("b:1", &hung)]).await;
    let pushes: Vec<Envelope> = (0..18).map(|n| to_keys("b:1", &["k"], &n.to_string())).collect();
    setup.publish(pushes.clone()).await;
    until("put aside", || setup.broker.dead_letters().len() == 2).await;
    hung.dispatch.resume();
    until("acknowledged", || setup.broker.depth() == 0).await;
    assert_eq!(hung.bodies().len(), 16);
    assert_eq!(setup.broker.dead_letters(), [&pushes[16], &pushes[17]].map(Envelope::to_bytes));
}

#[tokio::test(start_paused = true)]
async fn one_malformed_push_does_not_take_its_batch_with_it() {
    for calls in [BATCHES, UNARY] {
        let (comet, setup) = busy_link(calls, "live://0", "busy").await;
        comet.refuse("bad");
        setup.publish(["a", "bad", "b"].map(|body| to_room("live://1", body))).await;
        settle().await;
        comet.dispatch.resume();
        until("all acknowledged", || setup.broker.depth() == 0).await;
        assert_eq!(comet.bodies(), ["busy", "a", "b"]);
        assert_eq!(setup.drops(DropReason::Invalid), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_comet_has_taken_comes_again_to_the_next_job() {
    let comet = Arc::new(FakeComet::stuck());
    let setup = Setup::start(BATCHES, &[("a:1", &comet)]).await;
    setup.publish((0..3).map(|n| to_room("live://1", &n.to_string()))).await;
    settle().await;
    setup.job.task.abort();
    settle().await;
    let mut next = setup.broker.consume(GROUP).await.unwrap();
    assert_eq!(next.next_batch(10).await.unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn job_empties_a_closed_broker_before_it_ends() {
    let comet = Arc::new(FakeComet::stuck());
    let setup = Setup::start(BATCHES, &[("a:1", &comet)]).await;
    settle().await;
    setup.drain.begin();
    setup.publish((0..300).map(|n| to_room("live://1", &n.to_string()))).await;
    setup.broker.close().await;
    let stopped = tokio::spawn(setup.job.stopped());
    settle().await;
    assert!(!stopped.is_finished());
    comet.dispatch.resume();
    stopped.await.unwrap();
    assert_eq!((comet.bodies().len(), setup.broker.depth()), (300, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stuck_comet_keeps_job_from_ending_only_until_it_is_given_up() {
    let comet = Arc::new(FakeComet::stuck());
    let setup = Setup::start(BATCHES, &[("a:1", &comet)]).await;
    setup.publish([to_room("live://1", "0")]).await;
    setup.broker.close().await;
    let started = Instant::now();
    setup.job.stopped().await;
    assert!(started.elapsed() >= GIVE_UP && started.elapsed() < GIVE_UP * 2);
}

#[tokio::test(start_paused = true)]
async fn comets_come_and_go_and_come_back_in_order() {
    let comet = Arc::new(FakeComet::stuck());
    let mut setup = Setup::start(BATCHES, &[("a:1", &comet)]).await;
    setup.publish([to_room("live://1", "0"), to_room("live://1", "1")]).await;
    settle().await;
    setup.registrations.remove("a:1").unwrap().deregister().await;
    settle().await;
    setup.publish([to_room("live://1", "nobody")]).await;
    settle().await;
    assert_eq!(setup.drops(DropReason::NoComet), 1);
    let _back = register(&setup.registry, "a:1").await;
    settle().await;
    setup.publish([to_room("live://1", "2")]).await;
    settle().await;
    comet.dispatch.resume();
    until("all there", || comet.bodies().len() == 3).await;
    assert_eq!(comet.bodies(), ["0", "1", "2"], "what waited when it left goes first");
}
