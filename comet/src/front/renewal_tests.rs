//! Renewals on their way to logic: gathered, made again, dropped with their session, and all of them when the store
//! has lost its own.

use std::time::Duration;

use contract::{CometApi as _, LogicError, SessionRef};
use proto::{
    close::CloseReason,
    ids::{Generation, Key, Mid},
};
use shard::mail::{OpenSession, ToFront};
use testkit::fakes::{FakeLogic, Told};

use super::{lanes::Work, *};
use crate::{
    mail,
    mailbox::{Receiver, Sender, ShardFlag, TaskFlag, TaskWake, WakeFlag, channel},
};

/// A front with one shard, whose part the test plays.
struct Setup {
    logic: Arc<FakeLogic>,
    front: Arc<Front>,
    shard: Receiver<mail::ToShard, ()>,
    to_front: Sender<mail::ToFront, TaskWake>,
}

impl Setup {
    fn new() -> Setup {
        let logic = Arc::<FakeLogic>::default();
        logic.set_renewed(|renewed| renewed.incarnation = Some(7));
        let (wake, _) = ring::wake_pair().expect("two descriptors");
        let flag = Arc::new(ShardFlag::new(wake));
        let task = Arc::new(TaskFlag::default());
        let (sender, shard) = channel(8, Arc::clone(&flag), Arc::<WakeFlag<()>>::default());
        let (to_front, receiver) = channel(64, Arc::clone(&task), flag);
        let front = Front::start(
            ServerId::new("a:1"),
            Outboxes::new(vec![sender]),
            vec![Inbox { receiver, flag: task }],
            Arc::clone(&logic) as _,
            Metrics::new(1),
            ClientLog::default(),
            1,
        );
        Setup { logic, front, shard, to_front }
    }

    fn say(&mut self, mail: ToFront) {
        assert!(self.to_front.push(mail.into()).is_ok(), "there is room");
        self.to_front.notify();
    }

    fn told(&self) -> Vec<Told> {
        self.logic.told()
    }
}

fn unavailable() -> LogicError {
    LogicError::Unavailable("as told".to_owned())
}

/// Ends fail, and take as long as Redis may take for one.
fn take_no_ends(logic: &FakeLogic) {
    logic.disconnect.take(Duration::from_secs(1));
    logic.disconnect.fail(usize::MAX, unavailable);
}

fn take_ends(logic: &FakeLogic) {
    logic.disconnect.take(Duration::ZERO);
    logic.disconnect.recover();
}

fn session(key: &str, generation: i64) -> SessionRef {
    let (key, server) = (Key::new(key), ServerId::new("a:1"));
    SessionRef { mid: Mid(1), key, server, generation: Some(Generation(generation)) }
}

fn open(key: &str) -> OpenSession {
    OpenSession { mid: Mid(1), key: Key::new(key), generation: Some(Generation(1)) }
}

fn renew(keys: &[&str]) -> Told {
    Told::Renew(keys.iter().map(ToString::to_string).collect())
}

async fn secs(secs: u64) {
    tokio::time::sleep(Duration::from_secs(secs)).await;
}

#[tokio::test(start_paused = true)]
async fn an_ended_session_is_not_renewed_behind_its_end() {
    let setup = Setup::new();
    let lanes = &setup.front.lanes;
    lanes.push(&setup.front, Work::Renew(session("ended", 1)));
    lanes.push(&setup.front, Work::Renew(session("newer", 2)));
    let unfenced = SessionRef { generation: None, ..session("unfenced", 1) };
    for replaced in [session("replaced", 1), unfenced.clone()] {
        lanes.push(&setup.front, Work::Renew(replaced));
    }
    lanes.ended(&setup.front, session("ended", 1));
    lanes.ended(&setup.front, session("newer", 1));
    lanes.replaced(&setup.front, session("replaced", 1));
    lanes.replaced(&setup.front, unfenced);
    secs(5).await;
    let mut told = setup.told();
    told.sort_by_key(|told| format!("{told:?}"));
    let disconnect = |key: &str| Told::Disconnect(key.to_owned());
    assert_eq!(told, [disconnect("ended"), disconnect("newer"), disconnect("replaced"), renew(&["newer"])]);
}

#[tokio::test(start_paused = true)]
async fn renewals_gather_and_those_that_fail_go_again() {
    let setup = Setup::new();
    for n in 0..1000 {
        setup.front.lanes.renew(&setup.front, session(&format!("k{n}"), 1));
    }
    setup.logic.renew.fail(usize::MAX, unavailable);
    secs(10).await;
    assert_eq!(setup.told(), []);
    setup.logic.renew.recover();
    secs(3).await;
    let told = setup.told();
    assert!(told.len() <= 64, "one call a lane: {}", told.len());
    let keys: usize = told.iter().map(|told| if let Told::Renew(keys) = told { keys.len() } else { 0 }).sum();
    assert_eq!(keys, 1000);
}

/// The store stood still for four seconds while people left: after four attempts their ends were given up, and they were
/// online for half an hour.
#[tokio::test(start_paused = true)]
async fn an_end_that_logic_does_not_take_goes_again_until_it_does_and_holds_nothing_up() {
    let setup = Setup::new();
    let lanes = &setup.front.lanes;
    take_no_ends(&setup.logic);
    for n in 0..10_000 {
        lanes.ended(&setup.front, session(&format!("gone{n}"), 1));
    }
    lanes.renew(&setup.front, session("meanwhile", 1));
    secs(5).await;
    assert_eq!(setup.told(), [renew(&["meanwhile"])]);
    secs(600).await;
    take_ends(&setup.logic);
    secs(3).await;
    let ends = setup.told().iter().filter(|told| matches!(told, Told::Disconnect(_))).count();
    assert_eq!(ends, 10_000);
}

/// A newer session of the key could be there by then, and nothing would keep the end from it.
#[tokio::test(start_paused = true)]
async fn an_end_without_a_fence_does_not_wait() {
    let setup = Setup::new();
    take_no_ends(&setup.logic);
    setup.front.lanes.ended(&setup.front, SessionRef { generation: None, ..session("k", 1) });
    secs(10).await;
    take_ends(&setup.logic);
    secs(60).await;
    assert_eq!(setup.told(), []);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_some_seconds_for_a_logic_that_takes_no_ends() {
    for (away, lost) in [(5, 0), (60, 100)] {
        let setup = Setup::new();
        take_no_ends(&setup.logic);
        for n in 0..100 {
            setup.front.lanes.ended(&setup.front, session(&format!("k{n}"), 1));
        }
        let logic = Arc::clone(&setup.logic);
        tokio::spawn(async move {
            secs(away).await;
            take_ends(&logic);
        });
        let began = Instant::now();
        setup.front.lanes.finish().await;
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        assert_eq!(setup.front.metrics.given_up_of("disconnect"), lost, "{away} s");
        assert_eq!(setup.told().len() as u64, 100 - lost);
    }
}

/// Its key may be of another type in the store: that end is never taken.
#[tokio::test(start_paused = true)]
async fn an_end_that_is_never_taken_is_given_up_when_its_session_cannot_live_any_more() {
    let setup = Setup::new();
    take_no_ends(&setup.logic);
    setup.front.lanes.ended(&setup.front, session("k", 1));
    secs(3500).await;
    assert_eq!(setup.front.metrics.given_up_of("disconnect"), 0);
    secs(200).await;
    assert_eq!(setup.front.metrics.given_up_of("disconnect"), 1);
}

/// A logic without fences drops whatever session a key has: what is put back waits for nothing.
#[tokio::test(start_paused = true)]
async fn a_session_whose_key_was_ended_lately_is_put_back_at_once() {
    let setup = Setup::new();
    setup.front.lanes.ended(&setup.front, session("k", 1));
    setup.front.lanes.opened(&setup.front, session("k", 2));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(setup.told(), [Told::Disconnect("k".to_owned()), renew(&["k"])]);
}

/// The kick of a newer login elsewhere came while the older one was still in the lobby, and found nobody: both stayed
/// open until the older one's next renewal, minutes later.
#[tokio::test(start_paused = true)]
async fn a_login_that_was_overtaken_by_its_kick_is_renewed_at_once() {
    let setup = Setup::new();
    let kick = setup.front.kick(Key::new("k"), Some(Generation(2)), CloseReason::Replaced, None);
    kick.await.expect("a place in the queue");
    for key in ["k", "another"] {
        setup.front.lanes.opened(&setup.front, session(key, 1));
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(setup.told(), [renew(&["k"])]);
}

#[tokio::test(start_paused = true)]
async fn what_logic_calls_superseded_is_closed_if_it_is_older() {
    let mut setup = Setup::new();
    secs(2).await;
    while setup.shard.pop().is_some() {}
    setup.logic.set_renewed(|renewed| renewed.superseded = vec![(Key::new("k"), Generation(9))]);
    setup.front.lanes.renew(&setup.front, session("k", 1));
    secs(2).await;
    let kick = setup.shard.pop();
    let Some(mail::ToShard::Rules(ToShard::Kick { key, below, reason, text })) = kick else {
        panic!("{kick:?}")
    };
    assert_eq!((key.as_str(), below, reason), ("k", Some(Generation(9)), CloseReason::Replaced));
    assert!(text.is_none());
}

#[tokio::test(start_paused = true)]
async fn all_sessions_go_again_chunk_by_chunk_when_the_incarnation_changes() {
    let mut setup = Setup::new();
    let asked = |setup: &mut Setup, from: u32| {
        let mail = setup.shard.pop();
        let Some(mail::ToShard::Rules(ToShard::Sessions { from: asked })) = mail else { panic!("{mail:?}") };
        assert_eq!(asked, from);
        assert!(setup.shard.is_empty());
    };
    // The first one that is heard of: sessions may be older.
    secs(3).await;
    asked(&mut setup, 0);
    setup.say(ToFront::Sessions { sessions: Vec::new(), next: None });
    secs(30).await;
    assert!(setup.shard.is_empty(), "nothing has changed");

    setup.logic.set_renewed(|renewed| renewed.incarnation = Some(8));
    secs(3).await;
    asked(&mut setup, 0);
    setup.logic.renew.fail(usize::MAX, unavailable);
    setup.say(ToFront::Sessions { sessions: vec![open("a"), open("b")], next: Some(2) });
    secs(30).await;
    assert!(setup.shard.is_empty(), "logic does not have these yet");
    setup.logic.renew.recover();
    secs(3).await;
    asked(&mut setup, 2);
    setup.say(ToFront::Sessions { sessions: vec![open("c")], next: None });
    secs(3).await;
    assert!(setup.shard.is_empty());
    let mut keys: Vec<String> = setup
        .told()
        .into_iter()
        .flat_map(|told| if let Told::Renew(keys) = told { keys } else { panic!("{told:?}") })
        .collect();
    keys.sort();
    assert_eq!(keys, ["a", "b", "c"]);

    // What opens soon after a change may have been stored before it.
    setup.logic.set_renewed(|renewed| renewed.incarnation = Some(9));
    secs(2).await;
    setup.front.lanes.opened(&setup.front, session("late", 1));
    secs(2).await;
    assert_eq!(setup.told().last(), Some(&renew(&["late"])));
    secs(60).await;
    setup.front.lanes.opened(&setup.front, session("later", 1));
    secs(2).await;
    assert_eq!(setup.told().last(), Some(&renew(&["late"])));
}

/// Of a mass disconnect what found its lane full was given up: those sessions stayed until they expired, and a renewal
/// that waited was made after all.
#[tokio::test(start_paused = true)]
async fn ends_that_find_their_lane_full_are_told_all_the_same() {
    let setup = Setup::new();
    let lanes = &setup.front.lanes;
    let all: Vec<SessionRef> = (0..300_000).map(|n| session(&format!("k{n}"), 1)).collect();
    for session in &all[299_000..] {
        lanes.push(&setup.front, Work::Renew(session.clone()));
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    // More than 64 lanes of 4,096 hold.
    for session in all {
        lanes.ended(&setup.front, session);
    }
    lanes.finish().await;
    secs(5).await;
    let told = setup.told();
    let ends = told.iter().filter(|told| matches!(told, Told::Disconnect(_))).count();
    assert_eq!((ends, told.len()), (300_000, 300_000));
}

/// Each logic of a cluster notices at a moment of its own that the store began anew: comet announced everything again
/// with every answer of another one.
#[tokio::test(start_paused = true)]
async fn an_incarnation_that_a_slow_logic_still_tells_is_no_change() {
    let mut setup = Setup::new();
    let announced = async |setup: &mut Setup, incarnation: u64| {
        setup.logic.set_renewed(|renewed| renewed.incarnation = Some(incarnation));
        secs(3).await;
        let asked = setup.shard.pop().is_some();
        if asked {
            setup.say(ToFront::Sessions { sessions: Vec::new(), next: None });
            secs(1).await;
        }
        asked
    };
    for (incarnation, is_change) in [(7, true), (8, true), (7, false), (8, false), (9, true), (7, false)] {
        assert_eq!(announced(&mut setup, incarnation).await, is_change, "{incarnation}");
    }
    // The store went back, after a failover: all say so, and go on saying so.
    secs(60).await;
    assert!(setup.shard.pop().is_some());
    setup.say(ToFront::Sessions { sessions: Vec::new(), next: None });
    secs(3).await;
    assert!(setup.shard.is_empty());
}

/// After a long outage no more renewals could wait: what was announced then was given up, and taken for told.
#[tokio::test(start_paused = true)]
async fn what_is_announced_is_told_however_many_renewals_wait() {
    let setup = Setup::new();
    setup.logic.renew.fail(usize::MAX, unavailable);
    // More than 64 lanes of 4,096 hold, and no more at once than the lanes take.
    for n in 0..300_000 {
        setup.front.lanes.renew(&setup.front, session(&format!("k{n}"), 1));
        if n % 100_000 == 0 {
            secs(1).await;
        }
    }
    secs(1).await;
    let announced = (0..100).map(|n| session(&format!("announced {n}"), 1)).collect();
    let (mut done, is_partial) = setup.front.lanes.announce(&setup.front, announced);
    assert!(!is_partial);
    secs(5).await;
    setup.logic.renew.recover();
    assert!(done.recv().await.is_none(), "it only ends");
    let told: Vec<String> = setup
        .told()
        .into_iter()
        .flat_map(|told| if let Told::Renew(keys) = told { keys } else { panic!("{told:?}") })
        .collect();
    assert_eq!(told.iter().filter(|key| key.starts_with("announced")).count(), 100, "of {}", told.len());
    assert!(told.len() < 300_000, "so many may not wait");
}
