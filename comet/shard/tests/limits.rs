//! What one client, and all of them, may cost, and when time is up.

use std::time::Duration;

use contract::{Session, Transport};
use proto::{close::CloseReason, ids::Key, op::Op};
use shard::{
    Rate, SlowConsumer,
    mail::{ConnectionId, Outcome},
    stats::DropReason,
};
use testkit::{
    wire::{self, BOTH, Got, bodies, frame, masked, sent},
    world::{Said, World, room, session, session_in},
};

/// Bodies of the pushes "0" to "n-1", each of 1,000 bytes of frame on TCP.
fn numbered(n: usize) -> String {
    format!("{n:0>984}")
}

/// A room of one slow member and one that reads, ten pushes of 1,000 bytes behind a queue of 4,000.
fn slow_member(policy: SlowConsumer) -> (World, [ConnectionId; 2]) {
    let mut world = World::with(|config| (config.queue_bytes_max, config.slow_consumer) = (4000, policy));
    let ids = ["slow", "good"].map(|key| world.open(Transport::Tcp, session_in(key, "live://1")));
    world.stall(ids[0], true);
    for n in 0..10 {
        world.push_room("live://1", &numbered(n));
    }
    let good: Vec<String> = (0..10).map(numbered).collect();
    assert_eq!(bodies(&world.got(ids[1])), good, "goim G3: the others get everything");
    (world, ids)
}

#[test]
fn drop_oldest_keeps_the_newest_and_counts_the_rest() {
    let (mut world, [slow, _]) = slow_member(SlowConsumer::DropOldest);
    assert_eq!(world.drops(DropReason::SlowConsumer), 5);
    assert_eq!(world.shard.stats().queue_bytes, 4000);
    world.stall(slow, false);
    assert_eq!(bodies(&world.got(slow)), [0, 6, 7, 8, 9].map(numbered));
}

#[test]
fn close_ends_the_slow_one_and_counts_what_it_did_not_get() {
    let (mut world, [slow, _]) = slow_member(SlowConsumer::Close);
    assert_eq!(world.closes(CloseReason::SlowConsumer), 1);
    // Four that waited and the one that was too much; the rest were not for it any more.
    assert_eq!(world.drops(DropReason::SlowConsumer), 5);
    assert_eq!(world.shard.room_members(&room("live://1")), 1);
    world.stall(slow, false);
    assert_eq!(bodies(&world.got(slow)), [numbered(0)]);
    assert!(world.is_over(slow));
}

#[test]
fn a_slow_consumer_in_many_rooms_harms_no_other_key_of_the_same_push() {
    let mut world = World::with(|config| config.queue_bytes_max = 4000);
    let keys = ["a", "slow", "b"];
    let ids = keys.map(|key| {
        let accepts = vec![Op(1000)];
        world.open(Transport::Tcp, Session { accepts, ..session(key) })
    });
    world.stall(ids[1], true);
    for n in 0..20 {
        world.push_keys(&keys, &numbered(n));
    }
    for id in [ids[0], ids[2]] {
        assert_eq!(bodies(&world.got(id)).len(), 20);
    }
    assert_eq!(world.drops(DropReason::SlowConsumer), 15);
}

#[test]
fn replies_are_not_dropped_for_pushes() {
    let mut world = World::with(|config| config.queue_bytes_max = 4000);
    let id = world.open(Transport::Tcp, session_in("k", "live://1"));
    world.stall(id, true);
    world.push_room("live://1", &numbered(0));
    world.say(id, 2, 1, b"");
    for n in 1..20 {
        world.push_room("live://1", &numbered(n));
    }
    world.stall(id, false);
    let got = world.got(id);
    assert_eq!(got[1], Got::Reply { op: 3, seq: 1, body: vec![0, 0, 0, 1] });
    assert_eq!(bodies(&got), [0, 17, 18, 19].map(numbered));
}

/// Replies had no bound: who asked and never read made the shard hold as much as it could ask for.
#[test]
fn a_client_that_asks_and_does_not_read_is_closed() {
    for policy in [SlowConsumer::DropOldest, SlowConsumer::Close] {
        let mut world = World::with(|config| {
            (config.queue_bytes_max, config.slow_consumer) = (4096, policy);
        });
        let id = world.open(Transport::WebSocket, session("k"));
        world.stall(id, true);
        let list = (0..800).map(|_| "1000").collect::<Vec<_>>().join(",");
        for seq in 0..20 {
            world.say(id, 16, seq, list.as_bytes());
        }
        assert_eq!(world.closes(CloseReason::SlowConsumer), 1, "{policy:?}");
        assert!(world.shard.stats().queue_bytes <= 2 * 4096);
        world.stall(id, false);
        let close = Got::Close { code: 4413, text: "slow consumer".to_owned() };
        assert_eq!(world.got(id).last(), Some(&close));
    }
}

#[test]
fn one_read_of_requests_is_answered_however_small_the_queue_is() {
    let mut world = World::with(|config| config.queue_bytes_max = 4096);
    let id = world.open(Transport::WebSocket, session("k"));
    world.send(id, &sent(Transport::WebSocket, &frame(2, 1, b"").repeat(400)));
    assert_eq!(world.bytes(id).len(), 400 * 22);
    assert!(!world.is_over(id));
}

#[test]
fn ten_thousand_pipelined_heartbeats_are_cut_off_with_1008() {
    for transport in BOTH {
        let mut world = World::with(|config| config.message.message_max = 1 << 20);
        let id = world.open(transport, session("k"));
        world.send(id, &sent(transport, &frame(2, 1, b"").repeat(10_000)));
        let got = world.got(id);
        assert_eq!(got.iter().filter(|got| matches!(got, Got::Reply { op: 3, .. })).count(), 400);
        let close = Got::Close { code: 1008, text: "limit broken".to_owned() };
        assert_eq!(got[400..], if transport == Transport::Tcp { vec![] } else { vec![close] });
        assert!(world.is_over(id));
        assert_eq!((world.closes(CloseReason::LimitBroken), world.bad("frame", "rate")), (1, 1));
    }
}

#[test]
fn a_client_at_the_allowed_rate_stays() {
    let mut world = World::with(|config| config.rate = Rate { per_second: 10, burst: 5 });
    let id = world.open(Transport::Tcp, session("k"));
    for seq in 0..200 {
        world.say(id, 2, seq, b"");
        world.advance(Duration::from_millis(100));
    }
    assert_eq!(world.got(id).len(), 200);
    world.send(id, &frame(2, 1, b"").repeat(7));
    assert!(world.is_over(id));
}

#[test]
fn pings_pongs_and_empty_messages_count_as_input() {
    for opcode in [wire::PING, wire::PONG, wire::BINARY, wire::TEXT] {
        let mut world = World::with(|config| config.rate = Rate { per_second: 1, burst: 20 });
        let id = world.open(Transport::WebSocket, session("k"));
        world.send(id, &masked(opcode, b"").repeat(20));
        assert!(!world.is_over(id), "{opcode:?}");
        world.send(id, &masked(opcode, b""));
        assert!(world.is_over(id), "{opcode:?}");
        assert_eq!(world.closes(CloseReason::LimitBroken), 1);
    }
}

#[test]
fn eight_operations_before_the_login_are_ignored_and_the_ninth_closes() {
    for transport in BOTH {
        let mut world = World::new();
        let id = world.connect(transport);
        for op in [2, 4, 12, 1000, 9, 8, -1, 2] {
            world.say(id, op, 1, b"whatever");
        }
        assert!(world.bytes(id).is_empty());
        assert_eq!(world.said(), []);
        world.say(id, 7, 1, b"{}");
        world.verdict(id, Outcome::Open(session("k")));
        assert_eq!(world.got(id).len(), 1);

        let id = world.connect(transport);
        let ops = frame(2, 1, b"").repeat(9);
        world.send(id, &sent(transport, &ops));
        assert!(world.is_over(id));
        assert_eq!(world.bad("frame", "before_login"), 1);
        assert_eq!(world.closes(CloseReason::ProtocolViolation), 1);
        assert_eq!(world.socket(id).shut, Some(transport == Transport::Tcp), "a reset on TCP");
    }
}

#[test]
fn refused_requests_close_when_there_are_too_many() {
    for transport in BOTH {
        let mut world = World::with(|config| config.refusals_max = 3);
        let id = world.open(transport, session("k"));
        for _ in 0..3 {
            world.say(id, 14, 1, b"no list");
        }
        world.say(id, 14, 1, b"1000");
        assert_eq!(world.got(id).len(), 4);
        world.say(id, 12, 2, b"no\nroom");
        let got = world.got(id);
        assert_eq!(got[0], Got::Reply { op: 13, seq: 2, body: Vec::new() });
        assert_eq!(got.len(), if transport == Transport::Tcp { 1 } else { 2 });
        assert_eq!(world.closes(CloseReason::LimitBroken), 1);
        assert_eq!(world.bad("frame", "refused_request"), 4);
    }
}

#[test]
fn one_more_before_its_login_closes_the_oldest_of_them() {
    let mut world = World::with(|config| config.unauthenticated_max = 4);
    let logged_in = world.open(Transport::Tcp, session("logged in"));
    let asking = world.ask_login(Transport::WebSocket);
    let waiting: Vec<_> = (0..3).map(|n| world.connect(BOTH[n % 2])).collect();
    world.said();
    world.connect(Transport::Tcp);
    // At once, not with whatever happens next.
    assert!(world.is_over(asking));
    assert_eq!(world.said(), [Said::LoginGone(asking)]);
    assert_eq!(world.got(asking), [Got::Close { code: 1013, text: "overloaded, try later".to_owned() }]);
    for id in waiting {
        assert!(!world.is_over(id));
        world.connect(Transport::Tcp);
        assert!(world.is_over(id));
    }
    assert!(!world.is_over(logged_in));
    assert_eq!(world.closes(CloseReason::Overloaded), 4);
    assert_eq!(world.bad("connection", "unauthenticated_limit"), 4);
}

#[test]
fn a_flood_of_silent_connections_leaves_room_for_one_that_logs_in() {
    let mut world = World::with(|config| config.unauthenticated_max = 50);
    world.checks = false;
    for _ in 0..1000 {
        world.accept(Transport::Tcp);
    }
    world.open(Transport::Tcp, session("k"));
    assert!(world.shard.lazy_lists().unauthenticated <= 50);
    world.check();
    world.advance(Duration::from_millis(5300));
    assert_eq!((world.shard.connections(), world.shard.stats().open), (1, 1));
}

#[test]
fn the_list_of_those_before_their_login_forgets_who_logged_in() {
    let mut world = World::new();
    for n in 0..100 {
        let id = world.open(Transport::Tcp, session(&format!("k{n}")));
        if n % 2 == 0 {
            world.leave(id, false);
        }
        assert!(world.shard.lazy_lists().unauthenticated <= 1);
    }
}

#[test]
fn connections_max_refuses_at_the_door() {
    let mut world = World::with(|config| config.connections_max = 3);
    let ids: Vec<_> = (0..3).map(|_| world.connect(Transport::Tcp)).collect();
    assert_eq!(world.accept(Transport::Tcp), None);
    assert_eq!(world.accept(Transport::WebSocket), None);
    let stats = world.shard.stats();
    assert_eq!((stats.refused, stats.accepted.tcp, stats.accepted.websocket), (2, 4, 1));
    world.leave(ids[1], true);
    assert!(world.accept(Transport::Tcp).is_some());
}

#[test]
fn who_does_not_log_in_is_closed_at_the_handshake_deadline_and_not_before() {
    for transport in BOTH {
        for part in ["nothing", "head", "all"] {
            let mut world = World::new();
            world.advance(Duration::from_millis(33));
            let id = world.accept(transport).expect("room for it");
            let head = wire::upgrade("/sub", "");
            match (transport, part) {
                (Transport::Tcp, "head") => world.send(id, &frame(7, 1, b"{}")[..10]),
                (Transport::Tcp, "all") => world.send(id, &frame(2, 1, b"")),
                (Transport::WebSocket, "head") => world.send(id, &head[..40]),
                (Transport::WebSocket, "all") => world.send(id, &head),
                _ => {}
            }
            world.advance(Duration::from_millis(4999));
            assert!(!world.is_over(id) && world.closes(CloseReason::LoginTimeout) == 0);
            world.advance(Duration::from_millis(202));
            assert!(world.is_over(id));
            assert_eq!(world.closes(CloseReason::LoginTimeout), 1);
            let close = Got::Close { code: 4408, text: "login timeout".to_owned() };
            let wanted = match (transport, part) {
                (Transport::Tcp, _) => vec![],
                (Transport::WebSocket, "all") => vec![Got::Http(101), close],
                _ => vec![Got::Http(408)],
            };
            assert_eq!(world.got(id), wanted, "{transport:?} {part}");
        }
    }
}

/// A byte now and then does not move the deadline.
#[test]
fn a_login_that_drips_in_is_closed_at_the_handshake_deadline() {
    let mut world = World::new();
    let id = world.connect(Transport::Tcp);
    let login = frame(7, 1, &[b' '; 100]);
    for byte in &login[..52] {
        world.send(id, &[*byte]);
        world.advance(Duration::from_millis(100));
    }
    assert!(world.is_over(id));
}

#[test]
fn silence_is_closed_after_the_heartbeat_deadline_exactly_once_and_never_before() {
    for transport in BOTH {
        for (offset, heartbeats) in (0..100).step_by(7).flat_map(|offset| [(offset, 0), (offset, 5)]) {
            let mut world = World::new();
            world.advance(Duration::from_millis(offset));
            let heartbeat = Duration::from_secs(2);
            let id = world.open(transport, Session { heartbeat, ..session("k") });
            for _ in 0..heartbeats {
                world.advance(Duration::from_millis(1900 + offset));
                world.say(id, 2, 1, b"");
            }
            world.bytes(id);
            world.advance(heartbeat - Duration::from_micros(1));
            assert_eq!(world.closes(CloseReason::HeartbeatTimeout), 0, "{offset}: before its time");
            world.advance(Duration::from_millis(200));
            assert!(world.is_over(id), "{offset}");
            world.advance(Duration::from_secs(10));
            assert_eq!(world.closes(CloseReason::HeartbeatTimeout), 1);
            let close = Got::Close { code: 4408, text: "heartbeat timeout".to_owned() };
            let wanted = if transport == Transport::Tcp { vec![] } else { vec![close] };
            assert_eq!(world.got(id), wanted);
        }
    }
}

/// Each half frame has an earlier deadline than the heartbeat, and so an entry of its own in the wheel: it goes when it
/// comes up, instead of coming back for ever beside the others.
#[test]
fn a_connection_keeps_about_one_entry_in_the_wheel() {
    let mut world = World::new();
    let id = world.open(Transport::Tcp, Session { heartbeat: Duration::from_secs(100), ..session("k") });
    for _ in 0..100 {
        world.send(id, &frame(2, 1, b"")[..5]);
        world.advance(Duration::from_secs(1));
        world.send(id, &frame(2, 1, b"")[5..]);
        world.advance(Duration::from_secs(11));
    }
    assert!(!world.is_over(id));
    assert!(world.shard.lazy_lists().timers <= 16, "{:?}", world.shard.lazy_lists());
}

#[test]
fn a_heartbeat_beyond_the_wheel_is_met_all_the_same() {
    let mut world = World::new();
    let heartbeat = Duration::from_secs(1000);
    let id = world.open(Transport::Tcp, Session { heartbeat, ..session("k") });
    world.advance(heartbeat - Duration::from_millis(1));
    assert!(!world.is_over(id));
    world.advance(Duration::from_millis(201));
    assert!(world.is_over(id));
}

/// A Go logic may name any 64-bit number of nanoseconds: 584 years of it wrapped around to a few days or seconds.
#[test]
fn a_heartbeat_of_centuries_is_no_short_one() {
    let mut world = World::new();
    let heartbeat = Duration::from_micros((1 << 32) * 100_000 + 1);
    let id = world.open(Transport::Tcp, Session { heartbeat, ..session("k") });
    world.advance(Duration::from_secs(60));
    assert!(!world.is_over(id));
}

/// What a client can say to show that it lives, on this transport, as bytes.
fn signs_of_life(transport: Transport) -> Vec<Vec<u8>> {
    let mut signs: Vec<_> =
        [2, 12, 14, 16, 4, 1000].into_iter().map(|op| sent(transport, &frame(op, 1, b""))).collect();
    if transport == Transport::WebSocket {
        signs.extend([masked(wire::PING, b"p"), masked(wire::PONG, b""), masked(wire::BINARY, b"")]);
    }
    signs
}

/// A client that only sent WebSocket pings was closed for its silence while they were answered.
#[test]
fn any_frame_and_any_ping_or_pong_is_a_sign_of_life() {
    for transport in BOTH {
        let mut world = World::new();
        let heartbeat = Duration::from_secs(1);
        let id = world.open(transport, Session { heartbeat, ..session("k") });
        for sign in signs_of_life(transport) {
            world.advance(Duration::from_millis(900));
            world.send(id, &sign);
            assert!(!world.is_over(id), "{transport:?} {sign:02x?}");
        }
        world.advance(Duration::from_millis(1300));
        assert!(world.is_over(id));
    }
}

#[test]
fn half_a_frame_has_a_deadline_of_its_own() {
    for transport in BOTH {
        let mut world = World::with(|config| config.frame = Duration::from_secs(3));
        let id = world.open(transport, session("k"));
        let bytes = sent(transport, &frame(2, 1, b"body"));
        world.send(id, &bytes[..5]);
        world.advance(Duration::from_millis(2999));
        assert!(!world.is_over(id));
        world.send(id, &bytes[5..6]);
        world.advance(Duration::from_millis(201));
        assert!(world.is_over(id), "{transport:?}");
        assert_eq!(world.closes(CloseReason::HeartbeatTimeout), 1);

        let id = world.open(transport, session("k"));
        world.send(id, &bytes[..5]);
        world.advance(Duration::from_millis(2900));
        world.send(id, &bytes[5..]);
        world.advance(Duration::from_secs(10));
        assert!(!world.is_over(id), "complete in time");
    }
}

#[test]
fn half_a_ping_that_becomes_whole_has_no_deadline_any_more() {
    let mut world = World::with(|config| config.frame = Duration::from_secs(3));
    let id = world.open(Transport::WebSocket, session("k"));
    let ping = masked(wire::PING, b"whole");
    world.send(id, &ping[..4]);
    world.advance(Duration::from_secs(2));
    world.send(id, &ping[4..]);
    world.advance(Duration::from_secs(10));
    assert_eq!(world.got(id), [Got::Pong(b"whole".to_vec())]);
    assert!(!world.is_over(id));
}

/// The deadline was not moved while one frame ended and the next began in the same read: a client that sent without a
/// pause was closed although each of its frames came in time.
#[test]
fn each_frame_has_its_own_deadline() {
    for transport in BOTH {
        let mut world = World::with(|config| config.frame = Duration::from_secs(3));
        let id = world.open(transport, session("k"));
        let bytes = sent(transport, &frame(2, 1, b"body"));
        world.send(id, &bytes[..5]);
        for _ in 0..10 {
            world.advance(Duration::from_secs(1));
            world.send(id, &[&bytes[5..], &bytes[..5]].concat());
        }
        assert!(!world.is_over(id), "{transport:?}");
        assert_eq!(world.got(id).len(), 10);
        world.advance(Duration::from_millis(3201));
        assert!(world.is_over(id), "{transport:?}");
    }
}

/// Only operation 2 renewed: who talked and never sent it stayed connected, and its session expired.
#[test]
fn a_session_is_renewed_with_the_first_sign_of_life_after_the_interval() {
    for transport in BOTH {
        for sign in signs_of_life(transport) {
            let mut world = World::with(|config| config.renew = Duration::from_secs(60));
            let id = world.open(transport, session("k"));
            let renewals = |world: &mut World| {
                world.said().into_iter().filter(|said| matches!(said, Said::Renew(_))).collect::<Vec<_>>()
            };
            for minute in 0..4 {
                world.advance(Duration::from_secs(59));
                world.send(id, &sign);
                assert_eq!(renewals(&mut world), [], "{minute} {sign:02x?}");
                world.advance(Duration::from_millis(1200));
                world.send(id, &[&sign[..], &sign].concat());
                assert_eq!(renewals(&mut world), [Said::Renew(Key::new("k"))], "{minute} {sign:02x?}");
            }
            world.advance(Duration::from_secs(60));
            assert_eq!(renewals(&mut world), [], "who says nothing costs nothing");
        }
    }
}

#[test]
fn failed_accepts_are_counted() {
    let mut world = World::new();
    world.shard.accept_failed();
    assert_eq!(world.shard.stats().accept_errors, 1);
}
