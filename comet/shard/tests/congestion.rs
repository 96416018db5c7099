//! The way to the front is full: connections wait, nothing is lost.

use std::time::Duration;

use contract::{Session, Transport};
use proto::close::CloseReason;
use shard::{MAIL_WAITING_MAX, Rate, mail::ConnectionId};
use testkit::{
    wire::{BOTH, frame, sent},
    world::{End, Said, World, room, session, session_in},
};

/// A world where clients may say as much as they like.
fn world() -> World {
    World::with(|config| {
        config.rate = Rate { per_second: 1_000_000, burst: 1_000_000 };
        config.message.message_max = 1 << 20;
    })
}

/// `count` messages for logic, numbered by their bodies.
fn messages(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).flat_map(|n| frame(1000, n as i32, n.to_string().as_bytes())).collect()
}

/// Bodies of the messages of one client, in the order in which the front got them.
fn of(id: ConnectionId, said: &[Said]) -> Vec<usize> {
    said.iter()
        .filter_map(|said| match said {
            Said::Message { id: from, body, .. } if *from == id => {
                Some(std::str::from_utf8(body).expect("text").parse().expect("a number"))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn a_full_ring_holds_the_connections_that_add_to_it() {
    for transport in BOTH {
        let mut world = world();
        let talker = world.open(transport, session("talker"));
        let other = world.open(transport, session("other"));
        world.ring = 0;
        world.send(talker, &sent(transport, &messages(0, MAIL_WAITING_MAX + 5)));
        assert!(world.is_held(talker) && world.shard.is_congested());
        // Others are read until they add to it as well.
        world.say(other, 2, 1, b"");
        assert!(!world.is_held(other));
        assert_eq!(world.got(other).len(), 1);
        world.send(other, &sent(transport, &messages(0, 2)));
        assert!(world.is_held(other));

        world.take_mail(MAIL_WAITING_MAX);
        assert!(world.is_held(talker), "the ring has not taken all of it");
        world.take_mail(usize::MAX);
        assert!(!world.is_held(talker) && !world.is_held(other) && !world.shard.is_congested());
        let said = world.said();
        assert_eq!(of(talker, &said), (0..MAIL_WAITING_MAX + 5).collect::<Vec<_>>());
        assert_eq!(of(other, &said), [0, 1]);
    }
}

#[test]
fn what_a_held_connection_sent_is_read_when_it_goes_on() {
    for transport in BOTH {
        let mut world = world();
        let id = world.open(transport, session_in("k", "live://1"));
        world.ring = 0;
        let behind = [frame(2, 7, b""), frame(12, 8, b"live://2")].concat();
        // Behind the last message in the same WebSocket message, in the next one, and half a frame.
        let half = sent(transport, &frame(2, 9, b"body"));
        let first = sent(transport, &[messages(0, MAIL_WAITING_MAX), behind].concat());
        world.send(id, &[&first, &half[..half.len() - 2]].concat());
        assert!(world.is_held(id) && world.bytes(id).is_empty());
        world.send(id, &half[half.len() - 2..]);
        assert!(world.bytes(id).is_empty());
        world.take_mail(usize::MAX);
        assert_eq!(world.got(id).len(), 3);
        assert_eq!(of(id, &world.said()).len(), MAIL_WAITING_MAX);
    }
}

#[test]
fn nothing_is_lost_or_reordered_however_the_ring_drains() {
    for step in [1, 7, 500, 3000] {
        let mut world = world();
        world.checks = step > 7;
        let clients: Vec<_> =
            (0..6).map(|n| (BOTH[n % 2], world.open(BOTH[n % 2], session(&format!("k{n}"))))).collect();
        world.ring = 0;
        world.read_size = 4096;
        for part in 0..4 {
            for (transport, id) in &clients {
                world.send(*id, &sent(*transport, &messages(part * 150, 150)));
            }
            world.take_mail(step);
        }
        while world.shard.is_congested() {
            world.take_mail(step);
        }
        world.take_mail(usize::MAX);
        let said = world.said();
        for (_, id) in clients {
            assert_eq!(of(id, &said), (0..600).collect::<Vec<_>>(), "{step}");
        }
    }
}

/// The connection that was held last went on first, and first again whenever it was held again: the others never did.
#[test]
fn held_connections_go_on_in_the_order_in_which_they_were_held() {
    let mut world = world();
    let ids = ["a", "b", "c"].map(|key| world.open(Transport::Tcp, session(key)));
    world.ring = 0;
    for id in ids {
        world.send(id, &messages(0, 3 * MAIL_WAITING_MAX));
    }
    assert!(ids.iter().all(|id| world.is_held(*id)));
    let mut heard = Vec::new();
    for _ in 0..5 {
        world.take_mail(MAIL_WAITING_MAX + 8);
        heard.extend(world.said());
    }
    let progress = ids.map(|id| of(id, &heard).len());
    assert!(progress.iter().all(|messages| *messages > MAIL_WAITING_MAX), "{progress:?}");
    world.take_mail(usize::MAX);
}

/// Its heartbeats lay unread in the socket, by our doing, and it was closed for being silent.
#[test]
fn a_held_connection_is_not_taken_for_a_silent_one() {
    for transport in BOTH {
        for (heartbeat, behind) in [(5, 0), (15, 5)] {
            let mut world = world();
            let heartbeat = Duration::from_secs(heartbeat);
            let id = world.open(transport, Session { heartbeat, ..session("k") });
            world.ring = 0;
            let half = &sent(transport, &frame(2, 9, b"body"))[..behind];
            world.send(id, &[&sent(transport, &messages(0, MAIL_WAITING_MAX)), half].concat());
            world.advance(Duration::from_secs(30));
            assert!(world.is_held(id));
            world.take_mail(usize::MAX);
            // Silence counts from now on, and so does the time for half a frame.
            let deadline = if behind == 0 { heartbeat } else { Duration::from_secs(10) };
            world.advance(deadline - Duration::from_millis(1));
            assert!(!world.is_over(id), "{behind}");
            world.advance(Duration::from_millis(201));
            assert!(world.is_over(id), "{behind}");
            assert_eq!(world.closes(CloseReason::HeartbeatTimeout), 1);
        }
    }
}

#[test]
fn a_held_connection_that_leaves_or_is_closed_is_let_go() {
    let ends: [End; 4] = [
        |world, id| world.leave(id, false),
        |world, id| world.leave(id, true),
        |world, _| world.kick("k", None, CloseReason::Kicked),
        |world, id| {
            // It says more before it leaves.
            world.send(id, &messages(0, 3));
            world.leave(id, false);
        },
    ];
    for end in ends {
        let mut world = world();
        let id = world.open(Transport::Tcp, session("k"));
        world.ring = 0;
        world.send(id, &messages(0, MAIL_WAITING_MAX));
        assert!(world.is_held(id));
        end(&mut world, id);
        world.advance(Duration::from_millis(200));
        assert!(world.is_over(id));
        world.take_mail(usize::MAX);
        let said = world.said();
        assert_eq!(of(id, &said).len(), MAIL_WAITING_MAX);
        assert!(matches!(said.last(), Some(Said::Ended { .. })));
    }
}

/// Operation 12 is for the front as well: each room that comes and goes is a count to report. Only messages held a
/// connection, so one client could make the list of counts grow for as long as the ring was full.
#[test]
fn who_changes_rooms_waits_too() {
    for op in [12, 2_000_000_000] {
        let mut world = world();
        let talker = world.open(Transport::Tcp, session("talker"));
        let mover = world.open(Transport::Tcp, session("mover"));
        world.ring = 0;
        world.send(talker, &messages(0, MAIL_WAITING_MAX));
        let changes: Vec<u8> = (0..20).flat_map(|n| frame(op, n, format!("live://{n}").as_bytes())).collect();
        world.send(mover, &changes);
        assert!(world.is_held(mover));
        assert_eq!(world.got(mover).len(), 1);
        world.take_mail(usize::MAX);
        assert_eq!(world.got(mover).len(), 19);
    }
}

#[test]
fn sessions_are_not_renewed_into_a_full_ring_but_after_it() {
    let mut world = world();
    let id = world.open(Transport::Tcp, session("k"));
    let talker = world.open(Transport::Tcp, session("talker"));
    world.advance(Duration::from_secs(200));
    world.say(talker, 2, 1, b"");
    world.say(id, 2, 1, b"");
    world.advance(Duration::from_secs(101));
    world.ring = 0;
    world.send(talker, &messages(0, MAIL_WAITING_MAX));
    world.say(id, 2, 1, b"");
    world.take_mail(usize::MAX);
    let renewed = Said::Renew(session("k").key);
    assert!(!world.said().contains(&renewed));
    world.say(id, 2, 2, b"");
    assert_eq!(world.said(), [renewed]);
}

#[test]
fn counts_wait_in_the_shard_while_the_ring_is_full() {
    let mut world = world();
    let talker = world.open(Transport::Tcp, session("talker"));
    let leaver = world.open(Transport::Tcp, session_in("leaver", "live://1"));
    world.ring = 0;
    world.send(talker, &messages(0, MAIL_WAITING_MAX));
    world.leave(leaver, false);
    let waiting = world.mail_waiting();
    world.advance(Duration::from_secs(2));
    assert_eq!(world.mail_waiting(), waiting);
    world.take_mail(usize::MAX);
    world.advance(Duration::from_millis(100));
    assert_eq!(world.reported, [(room("live://1"), 0)].into());
}

#[test]
fn logins_and_ends_get_through_a_full_ring() {
    let mut world = world();
    let talker = world.open(Transport::Tcp, session("talker"));
    let leaver = world.open(Transport::Tcp, session("leaver"));
    world.ring = 0;
    world.send(talker, &messages(0, MAIL_WAITING_MAX));
    let late = world.ask_login(Transport::WebSocket);
    world.leave(leaver, false);
    world.take_mail(usize::MAX);
    let said = world.said();
    let login = said.iter().any(|said| matches!(said, Said::Login { id, .. } if *id == late));
    let ended = said.iter().any(|said| matches!(said, Said::Ended { .. }));
    assert!(login && ended);
}
