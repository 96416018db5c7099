//! Two connections with one key: the newer login stays, whichever comes to its place first.

use std::time::Duration;

use contract::{Session, Transport};
use proto::{
    close::CloseReason,
    ids::{Generation, Key},
    op::Op,
};
use shard::mail::{ConnectionId, Outcome, ToShard};
use testkit::{
    wire::{self, BOTH, Got, bodies},
    world::{End, Said, World, session},
};

/// Two sessions of one key, the older one first.
fn sessions(generations: [Option<i64>; 2]) -> [Session; 2] {
    generations.map(|generation| Session {
        generation: generation.map(Generation),
        accepts: vec![Op(1000)],
        ..session("k")
    })
}

fn ended(fenced: bool, replaced: bool) -> Said {
    Said::Ended { key: Key::new("k"), fenced, replaced, known: true }
}

fn opened() -> Said {
    Said::Opened(Key::new("k"))
}

/// The end that a replaced client sees.
#[track_caller]
fn expect_replaced(world: &mut World, id: ConnectionId, transport: Transport) {
    match transport {
        Transport::Tcp => assert!(world.bytes(id).is_empty(), "a plain end"),
        Transport::WebSocket => assert_eq!(world.bytes(id), wire::close(4409, "replaced")),
    }
    assert!(world.is_over(id));
}

/// Who of two logins stays, accepted on this shard in the order older, newer.
#[test]
fn the_newer_login_stays_whichever_verdict_comes_first() {
    // Generations of the two, and whether the later accepted one is the newer one.
    let table = [
        ([Some(1), Some(2)], true),
        ([Some(2), Some(1)], false),
        ([None, None], true),
        ([Some(7), None], true),
        ([None, Some(7)], true),
    ];
    for transport in BOTH {
        for (generations, later_is_newer) in table {
            for first_verdict in [0, 1] {
                let mut world = World::new();
                let ids = [(); 2].map(|()| world.ask_login(transport));
                world.said();
                let sessions = sessions(generations);
                for n in [first_verdict, 1 - first_verdict] {
                    world.verdict(ids[n], Outcome::Open(sessions[n].clone()));
                }
                let newer = usize::from(later_is_newer);
                let what = format!("{transport:?} {generations:?} {first_verdict}");
                if first_verdict == newer {
                    // The older one comes second and is turned away: it never hears that it was logged in.
                    expect_replaced(&mut world, ids[1 - newer], transport);
                } else {
                    assert!(matches!(world.got(ids[1 - newer])[0], Got::Reply { op: 8, .. }), "{what}");
                    assert!(world.is_over(ids[1 - newer]), "{what}");
                }
                // Under two logics, ours and goim's, the end of the older one would take the newer one's session with it.
                let fenced = generations.iter().all(Option::is_some);
                assert_eq!(world.said(), [opened(), opened(), ended(fenced, true)], "{what}");
                assert!(matches!(world.got(ids[newer])[..], [Got::Reply { op: 8, .. }]), "{what}");
                world.push_keys(&["k"], "for the newer one");
                assert_eq!(bodies(&world.got(ids[newer])), ["for the newer one"], "{what}");
                assert_eq!((world.shard.stats().open, world.closes(CloseReason::Replaced)), (1, 1));
            }
        }
    }
}

#[test]
fn the_newer_login_stays_whichever_attach_comes_first() {
    for transport in BOTH {
        for generations in [[Some(1), Some(2)], [None, None]] {
            for first_attach in [0, 1] {
                let mut accepting = World::new();
                let mut owning = World::new();
                let ids = [(); 2].map(|()| accepting.ask_login(transport));
                for (id, session) in ids.into_iter().zip(sessions(generations)) {
                    accepting.verdict(id, Outcome::Move { to: 1, session });
                }
                if first_attach == 1 {
                    accepting.detached.reverse();
                }
                let attached = [0, 1].map(|_| owning.attach(accepting.detached.remove(0)));
                let (older, newer) = (attached[first_attach], attached[1 - first_attach]);
                assert!(owning.is_over(older) && !owning.is_over(newer));
                let fenced = generations[0].is_some();
                assert_eq!(owning.said(), [opened(), opened(), ended(fenced, true)]);
                owning.push_keys(&["k"], "hello");
                assert_eq!(bodies(&owning.got(newer)), ["hello"]);
            }
        }
    }
}

/// The clock was ahead at the login of the connection that is here, half dead, and the store has lost it since. The device that
/// came back got a lower generation and was turned away as replaced, for which clients stay away.
#[test]
fn a_login_gets_past_a_connection_from_the_future() {
    const NOW: i64 = 1_800_000_000_000_000;
    const SECOND: i64 = 1_000_000;
    for ahead_s in [3600, 55, 2] {
        let mut world = World::new();
        let [old, new] = sessions([Some(NOW + ahead_s * SECOND), Some(NOW)]);
        let old = world.open(Transport::WebSocket, old);
        let id = world.ask_login(Transport::WebSocket);
        world.verdict(id, Outcome::Open(new));
        assert!(world.is_over(old) && !world.is_over(id), "{ahead_s} s");
    }
    // One that lay in the kernel, and waited for its verdict, is dated so: it is older than what came since.
    let mut world = World::new();
    let there = world.open(Transport::Tcp, sessions([Some(NOW), None])[0].clone());
    let late = world.connect(Transport::Tcp);
    world.socket_mut(late).age = Duration::from_secs(2);
    world.say(late, 7, 1, b"{}");
    world.advance(Duration::from_secs(2));
    world.verdict(late, Outcome::Open(sessions([Some(NOW - 4 * SECOND), None])[0].clone()));
    assert!(world.is_over(late) && !world.is_over(there));
}

#[test]
fn of_two_logins_of_one_generation_the_one_that_is_there_stays() {
    let mut world = World::new();
    let [session, same] = sessions([Some(5), Some(5)]);
    let first = world.open(Transport::Tcp, session);
    let second = world.ask_login(Transport::Tcp);
    world.verdict(second, Outcome::Open(same));
    assert!(world.is_over(second) && !world.is_over(first));
    assert_eq!(world.said().last(), Some(&ended(false, true)), "its end must not take the other's session");
}

/// goim G4: a login whose old connection is stuck in a write blocks everybody behind the same lock.
#[test]
fn a_stuck_old_connection_holds_nobody_up() {
    let mut world = World::new();
    let [old, new] = sessions([Some(1), Some(2)]);
    let stuck = world.open(Transport::WebSocket, old);
    world.stall(stuck, true);
    world.push_keys(&["k"], "stuck");
    let new = world.open(Transport::WebSocket, new);
    world.push_keys(&["k"], "flows");
    assert_eq!(bodies(&world.got(new)), ["flows"]);
    assert!(world.is_writing(stuck));
    world.stall(stuck, false);
    let got = world.got(stuck);
    assert_eq!(bodies(&got), ["stuck"]);
    assert_eq!(got.last(), Some(&Got::Close { code: 4409, text: "replaced".to_owned() }));
}

/// goim G9: the end of the old connection takes the new one's session with it.
#[test]
fn the_end_of_an_old_connection_leaves_the_new_one_reachable() {
    let mut world = World::new();
    let [old, new] = sessions([None, None]);
    let old = world.open(Transport::Tcp, old);
    world.socket_mut(old).stubborn = true;
    let new = world.open(Transport::Tcp, new);
    assert!(!world.is_over(old), "it lingers");
    world.leave(old, true);
    assert!(world.is_over(old));
    world.push_keys(&["k"], "reachable");
    assert_eq!(bodies(&world.got(new)), ["reachable"]);
    assert_eq!(world.said(), [], "its end was told when it was replaced, and only then");
}

#[test]
fn only_a_replaced_connection_keeps_its_session() {
    let ends: [(CloseReason, End); 5] = [
        (CloseReason::ClientClosed, |world, id| world.leave(id, false)),
        (CloseReason::ConnectionLost, |world, id| world.leave(id, true)),
        (CloseReason::Kicked, |world, _| world.kick("k", None, CloseReason::Kicked)),
        (CloseReason::ProtocolViolation, |world, id| world.say(id, 9, 1, b"")),
        (CloseReason::Replaced, |world, _| world.kick("k", None, CloseReason::Replaced)),
    ];
    for (reason, end) in ends {
        let mut world = World::new();
        let id = world.open(Transport::Tcp, session("k"));
        end(&mut world, id);
        assert_eq!(world.said(), [ended(false, reason == CloseReason::Replaced)], "{reason:?}");
        assert_eq!(world.closes(reason), 1);
    }
}

#[test]
fn a_kick_closes_older_generations_only() {
    for (generation, below, kicked) in [
        (Some(4), Some(5), true),
        (Some(5), Some(5), false),
        (Some(6), Some(5), false),
        (None, Some(5), false),
        (Some(6), None, true),
        (None, None, true),
    ] {
        let mut world = World::new();
        let generation = generation.map(Generation);
        let id = world.open(Transport::WebSocket, Session { generation, ..session("k") });
        world.kick("k", below, CloseReason::Replaced);
        world.kick("another", None, CloseReason::Kicked);
        assert_eq!(world.is_over(id), kicked, "{generation:?} below {below:?}");
    }
}

/// What an operator says stands in the close instead of the reason's own words.
#[test]
fn a_kick_carries_its_words() {
    for (text, read) in [(None, "kicked"), (Some("maintenance"), "maintenance")] {
        let mut world = World::new();
        let id = world.open(Transport::WebSocket, session("k"));
        world.mail(ToShard::Kick {
            key: Key::new("k"),
            below: None,
            reason: CloseReason::Kicked,
            text: text.map(Into::into),
        });
        assert_eq!(world.bytes(id), wire::close(4420, read));
        assert!(world.is_over(id));
    }
}

#[test]
fn a_kick_leaves_a_login_in_the_lobby_alone() {
    let mut world = World::new();
    let id = world.ask_login(Transport::Tcp);
    world.kick("k", None, CloseReason::Kicked);
    world.verdict(id, Outcome::Open(session("k")));
    assert!(!world.is_over(id));
}

#[test]
fn many_logins_of_one_key_leave_one() {
    let mut world = World::new();
    let ids: Vec<_> = (0..20).map(|_| world.ask_login(Transport::Tcp)).collect();
    // Every verdict order there is for such few: by sevens.
    for n in 0..20 {
        let turn = n * 7 % 20;
        let generation = Some(Generation(turn as i64 + 1));
        world.verdict(ids[turn], Outcome::Open(Session { generation, ..session("k") }));
        assert_eq!(world.shard.stats().open, 1);
    }
    assert_eq!(ids.iter().filter(|id| !world.is_over(**id)).collect::<Vec<_>>(), [&ids[19]]);
}
