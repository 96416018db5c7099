//! comet among the services it belongs to, over gRPC: logic, job, and other comets.

#![allow(clippy::disallowed_methods)] // real time passes here

extern crate halley_comet as comet;

mod calls;
mod world;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use job::metrics::DropReason;
use logic::{PushTarget, Reach, metrics::ReplacedKick};
use proto::{ids::Key, op::Op};
use testkit::client::{Client, End};

use self::world::{LogicProcess, World, eventually, room};

fn login(key: &str) -> String {
    format!(r#"{{"mid":1,"key":"{key}","room_id":"live://1","accepts":[1000],"features":["reasons"]}}"#)
}

/// Why a connection ended, as operation 6 says it.
fn code(end: &End) -> u64 {
    end.reason().expect("operation 6")["code"].as_u64().expect("a code")
}

#[test]
fn rooms_of_a_login_and_their_messages_cross_the_processes() {
    let world = World::start(2);
    let logic = LogicProcess::start(&world.shared, None);
    let rooms = r#"{"mid":1,"key":"a","room_id":"live://1","rooms":["live://2","live://3"],"accepts":[]}"#;
    let mut many = world.login(0, rooms);
    let mut one = world.login(1, &login("b"));
    for id in ["live://1", "live://2", "live://3"] {
        world.push(&logic.logic, PushTarget::Rooms(vec![room(id)]), id);
        many.expect_push(1000, id);
    }
    one.expect_push(1000, "live://1");
    // A client's own message: the sender's copy has its number.
    one.send(Op::SEND_MESSAGE.0, 7, "hello");
    one.expect_push_with_seq(Op::SEND_MESSAGE_REPLY.0, 7, "hello");
    many.expect_push(Op::SEND_MESSAGE_REPLY.0, "hello");
    for reason in [DropReason::CometUnreachable, DropReason::Invalid, DropReason::NoComet] {
        assert_eq!(world.job_metrics.drops.of(reason).get(), 0, "{reason:?}");
    }
}

#[test]
fn a_login_on_another_comet_closes_the_old_one_and_stays_reachable() {
    let world = World::start(2);
    let logic = LogicProcess::start(&world.shared, None);
    let mut here = world.login(0, &login("k"));
    for n in 1..=20 {
        let new = world.login(n % 2, &login("k"));
        let mut old = std::mem::replace(&mut here, new);
        assert_eq!(code(&old.end()), 4409, "{n}");
        world.push_to_key(&logic.logic, "k", &n.to_string());
        here.expect_push(1000, n.to_string());
    }
    eventually("all kicks are counted", || {
        world.shared.logic_metrics.replaced.of(ReplacedKick::Taken).get() == 20
    });
    // On one comet nobody is kicked.
    let again = world.login(0, &login("k"));
    assert!(!here.end().frames.is_empty());
    drop(again);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(world.shared.logic_metrics.replaced.of(ReplacedKick::Taken).get(), 20);
    assert_eq!(world.shared.logic_metrics.replaced.of(ReplacedKick::Failed).get(), 0);
}

#[test]
fn an_operator_kicks_on_every_comet() {
    let world = World::start(2);
    let logic = LogicProcess::start(&world.shared, None);
    let clients = [world.login(0, &login("a")), world.login(1, &login("b"))];
    let kicked = logic.logic.kick_keys(vec![Key::new("a"), Key::new("b")], Some("out".into()));
    world.runtime.block_on(kicked).expect("both comets take it");
    for mut client in clients {
        let reason = client.end().reason().expect("operation 6");
        assert_eq!((&reason["code"], &reason["reason"]), (&4420.into(), &"out".into()));
    }
}

/// The kick never arrives; the old connection's session is renewed with its next heartbeat, and logic says whose it is.
#[test]
fn a_kick_that_was_lost_is_made_up_for_by_a_renewal() {
    let world = World::start(2);
    let lost: Reach = Arc::new(|_| None);
    let _logic = LogicProcess::start(&world.shared, Some(lost));
    let mut old = world.login(0, &login("k"));
    let new = world.login(1, &login("k"));
    eventually("the kick fails", || world.shared.logic_metrics.replaced.of(ReplacedKick::Failed).get() == 1);
    // comet.protocol.renewInterval is a second here.
    thread::sleep(Duration::from_millis(1500));
    old.send(Op::HEARTBEAT.0, 7, "");
    assert_eq!(code(&old.end()), 4409);
    assert_eq!(world.servers(&[Key::new("k")]), [Some(world.comets[1].front.server().clone())]);
    drop(new);
    eventually("its session ends", || world.servers(&[Key::new("k")]) == [None]);
}

#[test]
fn lost_sessions_are_back_within_seconds_without_a_word_of_the_clients() {
    let world = World::start(2);
    let logic = LogicProcess::start(&world.shared, None);
    let names: Vec<String> = (0..60).map(|n| format!("k{n}")).collect();
    let mut clients: Vec<Client> =
        names.iter().enumerate().map(|(n, name)| world.login(n % 2, &login(name))).collect();
    let keys: Vec<Key> = names.iter().map(|name| Key::new(name.as_str())).collect();
    let before = world.servers(&keys);
    assert!(before.iter().all(Option::is_some));
    // Longer than what was opened lately is looked after.
    thread::sleep(Duration::from_millis(2500));
    for _ in 0..2 {
        world.shared.sessions.lose_all();
        let lost = Instant::now();
        assert!(world.servers(&keys).iter().all(Option::is_none));
        eventually("all are back", || world.servers(&keys) == before);
        assert!(lost.elapsed() < Duration::from_secs(10), "{:?}", lost.elapsed());
    }
    let all = PushTarget::Keys(keys.clone());
    world.push(&logic.logic, all, "still here");
    clients.iter_mut().for_each(|client| client.expect_push(1000, "still here"));
    // With their fences: the ends are theirs.
    drop(clients);
    eventually("all sessions end", || world.servers(&keys).iter().all(Option::is_none));
}

#[test]
fn logics_come_and_go_while_clients_log_in() {
    let world = World::start(1);
    // There is none yet: the client waits in the lobby.
    let mut early = world.connect(0);
    early.send(Op::AUTH.0, 7, login("early"));
    let first = LogicProcess::start(&world.shared, None);
    assert_eq!(early.frame().op, Op::AUTH_REPLY.0);
    let second = LogicProcess::start(&world.shared, None);
    for n in 0..6 {
        world.login(0, &login(&format!("both {n}")));
    }
    // It is dead, and the registry knows it still.
    let registration = first.kill();
    for n in 0..6 {
        world.login(0, &login(&format!("one {n}")));
    }
    drop(registration);
    let third = LogicProcess::start(&world.shared, None);
    drop(second.kill());
    world.login(0, &login("late"));
    assert_eq!(world.servers(&[Key::new("late")]).len(), 1);
    drop(third.kill());
    let mut nobody = world.connect(0);
    nobody.send(Op::AUTH.0, 7, login("nobody"));
    let said = nobody.end();
    assert!(said.frames.iter().all(|frame| frame.op != Op::AUTH_REPLY.0), "{said:?}");
}
