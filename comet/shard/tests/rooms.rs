//! Rooms: several of one device, moves between them, counts.

use std::time::Duration;

use contract::{Session, Transport};
use proto::{ids::Key, op::Op};
use shard::mail::{ConnectionId, Outcome, ToShard};
use testkit::{
    wire::{self, Got, bodies},
    world::{Said, World, room, rooms, session, session_in},
};

const JOIN: i32 = 2_000_000_000;
const LEAVE: i32 = 2_000_000_002;

/// Body of the answer to one request.
fn ask(world: &mut World, id: ConnectionId, op: i32, body: &str) -> String {
    world.say(id, op, 1, body.as_bytes());
    match &world.got(id)[..] {
        [Got::Reply { op: reply, seq: 1, body }] if *reply == op + 1 => {
            String::from_utf8(body.clone()).expect("a room")
        }
        other => panic!("{other:?}"),
    }
}

fn people(world: &mut World, id: ConnectionId) -> i32 {
    world.say(id, 2, 1, b"");
    match &world.got(id)[..] {
        [Got::Reply { op: 3, body, .. }] => i32::from_be_bytes(body[..].try_into().expect("an i32")),
        other => panic!("{other:?}"),
    }
}

fn hears(world: &mut World, id: ConnectionId, name: &str) -> usize {
    world.push_room(name, name);
    bodies(&world.got(id)).len()
}

#[test]
fn a_device_in_several_rooms_hears_each_of_them_once() {
    let mut world = World::new();
    let names = ["live://1", "live://2", "live://3"];
    let id = world.open(Transport::Tcp, Session { rooms: rooms(&names), ..session_in("k", "live://0") });
    world.push_room("live://elsewhere", "no");
    for name in ["live://0", "live://1", "live://2", "live://3"] {
        assert_eq!(hears(&mut world, id, name), 1);
    }
    assert_eq!(ask(&mut world, id, LEAVE, "live://2"), "live://2");
    assert_eq!(hears(&mut world, id, "live://2"), 0);
    assert_eq!(hears(&mut world, id, "live://3"), 1);
}

#[test]
fn a_room_named_twice_at_login_is_joined_once() {
    let mut world = World::new();
    let names = ["live://1", "live://0", "live://1"];
    let id = world.open(Transport::Tcp, Session { rooms: rooms(&names), ..session_in("k", "live://0") });
    assert_eq!(hears(&mut world, id, "live://0"), 1);
    assert_eq!(hears(&mut world, id, "live://1"), 1);
    assert_eq!(people(&mut world, id), 1);
}

#[test]
fn a_login_into_more_rooms_or_operations_than_allowed_is_closed() {
    let names = ["live://1", "live://2", "live://3"];
    let all_rooms = Session { rooms: rooms(&names), ..session_in("k", "live://0") };
    let all_ops = Session { accepts: [1, 2, 3, 4, 5].map(Op).to_vec(), ..session("k") };
    for (allowed, session) in [(3, all_rooms.clone()), (4, all_rooms), (4, all_ops.clone()), (5, all_ops)] {
        let mut world = World::with(|config| (config.rooms_max, config.accepts_max) = (allowed, allowed));
        let wanted = session.accepts.len().max(session.rooms.len() + 1);
        let id = world.ask_login(Transport::WebSocket);
        world.verdict(id, Outcome::Open(session));
        if wanted <= allowed {
            assert!(!world.is_over(id));
            continue;
        }
        let close = Got::Close { code: 1008, text: "limit broken".to_owned() };
        assert_eq!(world.got(id), [close], "{allowed}");
        assert!(world.said().contains(&Said::Ended {
            key: Key::new("k"),
            fenced: false,
            replaced: false,
            known: true
        }));
        assert_eq!(world.shard.stats().rooms, 0);
    }
}

/// goim G13: who changes into the room it is in gets nothing from it any more.
#[test]
fn changing_into_ones_own_room_changes_nothing() {
    let mut world = World::new();
    let id = world.open(Transport::Tcp, session_in("k", "live://1"));
    let other = world.open(Transport::Tcp, session_in("other", "live://1"));
    for _ in 0..3 {
        assert_eq!(ask(&mut world, id, 12, "live://1"), "live://1");
        assert_eq!(people(&mut world, id), 2);
        assert_eq!(hears(&mut world, id, "live://1"), 1);
        assert_eq!(bodies(&world.got(other)).len(), 1);
    }
}

/// The room a client is alone in on this shard is made anew when it changes into it: the people on other shards must
/// not be forgotten with the old one.
#[test]
fn changing_into_ones_own_room_keeps_the_count_of_those_elsewhere() {
    let mut world = World::new();
    let id = world.open(Transport::Tcp, session_in("k", "live://1"));
    world.mail(ToShard::Elsewhere(vec![(room("live://1"), 41)]));
    assert_eq!(ask(&mut world, id, 12, "live://1"), "live://1");
    assert_eq!(people(&mut world, id), 42);
}

#[test]
fn changing_into_a_further_room_makes_it_the_first() {
    let mut world = World::new();
    let id = world.open(
        Transport::Tcp,
        Session { rooms: rooms(&["live://2", "live://3"]), ..session_in("k", "live://1") },
    );
    assert_eq!(ask(&mut world, id, 12, "live://3"), "live://3");
    let heard = ["live://1", "live://2", "live://3"].map(|name| hears(&mut world, id, name));
    assert_eq!(heard, [0, 1, 1]);
    assert_eq!(people(&mut world, id), 1);
    assert_eq!(ask(&mut world, id, 12, ""), "");
    assert_eq!(people(&mut world, id), 0);
    assert_eq!(hears(&mut world, id, "live://2"), 1);
}

/// The limit counted the further room that becomes the first one as if it were one more.
#[test]
fn changing_into_a_further_room_needs_no_place() {
    let mut world = World::with(|config| config.rooms_max = 2);
    let id = world.open(Transport::Tcp, Session { rooms: rooms(&["live://1", "live://2"]), ..session("k") });
    assert_eq!(ask(&mut world, id, 12, "live://3"), "", "one too many");
    assert_eq!(ask(&mut world, id, 12, "live://2"), "live://2");
    assert_eq!(people(&mut world, id), 1);
    assert_eq!(ask(&mut world, id, 12, "live://3"), "live://3", "the first room makes place for the next");
}

#[test]
fn leaving_the_first_room_by_name_leaves_no_first_room() {
    let mut world = World::new();
    let id =
        world.open(Transport::Tcp, Session { rooms: rooms(&["live://2"]), ..session_in("k", "live://1") });
    assert_eq!(ask(&mut world, id, LEAVE, "live://1"), "live://1");
    assert_eq!(people(&mut world, id), 0);
    // What came second is not the first room now: operation 12 does not touch it.
    assert_eq!(ask(&mut world, id, 12, "live://5"), "live://5");
    let heard = ["live://1", "live://2", "live://5"].map(|name| hears(&mut world, id, name));
    assert_eq!(heard, [0, 1, 1]);
}

#[test]
fn the_rooms_limit_counts_the_first_room_too() {
    let mut world = World::with(|config| config.rooms_max = 2);
    let id = world.open(Transport::WebSocket, session_in("k", "live://1"));
    assert_eq!(ask(&mut world, id, JOIN, "live://2"), "live://2");
    assert_eq!(ask(&mut world, id, JOIN, "live://3"), "");
    assert_eq!(ask(&mut world, id, 12, ""), "");
    assert_eq!(ask(&mut world, id, JOIN, "live://3"), "live://3");
    assert_eq!(ask(&mut world, id, 12, "live://4"), "", "there is no room left for a first one");
    assert_eq!(ask(&mut world, id, LEAVE, "live://2"), "live://2");
    assert_eq!(ask(&mut world, id, 12, "live://4"), "live://4");
}

#[test]
fn members_keep_their_rooms_when_others_leave_in_any_order() {
    for leaver in 0..4 {
        let mut world = World::new();
        let names = ["live://1", "live://2"];
        let ids: Vec<_> = (0..4)
            .map(|n| {
                let session = session(&format!("k{n}"));
                world.open(Transport::Tcp, Session { rooms: rooms(&names), ..session })
            })
            .collect();
        world.leave(ids[leaver], false);
        for name in names {
            world.push_room(name, name);
        }
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(bodies(&world.got(*id)), if n == leaver { &[][..] } else { &names }, "{leaver} left");
        }
    }
}

#[test]
fn the_front_learns_of_every_change_with_the_next_tick() {
    let mut world = World::new();
    let a = world.open(Transport::Tcp, session_in("a", "live://1"));
    let b =
        world.open(Transport::Tcp, Session { rooms: rooms(&["live://2"]), ..session_in("b", "live://1") });
    assert!(world.reported.is_empty());
    world.advance(Duration::from_millis(100));
    assert_eq!(world.reported, [(room("live://1"), 2), (room("live://2"), 1)].into());
    world.say(a, 12, 1, b"live://3");
    world.leave(b, true);
    world.advance(Duration::from_millis(100));
    let counts = [(room("live://1"), 0), (room("live://2"), 0), (room("live://3"), 1)];
    assert_eq!(world.reported, counts.into());
    assert_eq!(world.shard.stats().rooms, 1);
}

#[test]
fn thousands_of_rooms_are_reported_in_pages() {
    let mut world = World::with(|config| config.rooms_max = 1024);
    world.checks = false;
    for n in 0..3 {
        let names: Vec<_> = (0..1000).map(|m| room(&format!("r{n}-{m}"))).collect();
        world.open(Transport::Tcp, Session { rooms: names, ..session(&format!("k{n}")) });
    }
    world.advance(Duration::from_millis(100));
    assert_eq!(world.reported.len(), 3000);
    assert!(world.reported.values().all(|members| *members == 1));
}

#[test]
fn a_frame_too_few_joins_no_room() {
    let mut world = World::new();
    let id = world.open(Transport::Tcp, session("k"));
    let request = wire::frame(JOIN, 1, b"live://1");
    world.send(id, &request[..request.len() - 1]);
    assert_eq!(world.shard.room_members(&room("live://1")), 0);
    world.send(id, &request[request.len() - 1..]);
    assert_eq!(world.shard.room_members(&room("live://1")), 1);
}
