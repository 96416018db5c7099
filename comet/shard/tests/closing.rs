//! Every way a connection ends, and what its client is told.

use std::time::Duration;

use contract::{Session, Transport};
use proto::{close::CloseReason, op::Op};
use shard::{
    SlowConsumer,
    mail::{ConnectionId, Outcome, PushTo, ToShard},
    stats::DropReason,
};
use testkit::{
    wire::{self, BOTH, Got, bodies, fragment, frame, masked},
    world::{Said, World, session, session_in},
};

/// Logs a client in that asks for reasons.
fn open_with_reasons(world: &mut World, transport: Transport) -> ConnectionId {
    let id = world.connect(transport);
    world.say(id, 7, 1, br#"{"features":["reasons"]}"#);
    world.verdict(id, Outcome::Open(session_in("k", "live://1")));
    world.bytes(id);
    id
}

/// Makes an open connection end for a reason; false where that reason ends no open connection of this transport.
fn end_open(world: &mut World, id: ConnectionId, transport: Transport, reason: CloseReason) -> bool {
    let web = transport == Transport::WebSocket;
    match reason {
        CloseReason::GoingAway => world.mail(ToShard::Drain { over: Duration::ZERO }),
        CloseReason::ProtocolViolation => world.say(id, 9, 1, b""),
        CloseReason::BadUtf8 if web => world.send(id, &masked(wire::TEXT, b"\xff")),
        CloseReason::MessageTooBig if web => world.send(id, &masked(wire::BINARY, &[0; 70_000])),
        CloseReason::LimitBroken => {
            let heartbeats: Vec<u8> = (0..500).flat_map(|_| frame(2, 1, b"")).collect();
            world.send(id, &wire::sent(transport, &heartbeats));
        }
        CloseReason::HeartbeatTimeout => world.advance(Duration::from_secs(271)),
        CloseReason::Replaced => drop(world.open(Transport::Tcp, session("k"))),
        CloseReason::SlowConsumer => {
            world.stall(id, true);
            for n in 0..3 {
                world.push_room("live://1", &n.to_string().repeat(40_000));
            }
            world.stall(id, false);
        }
        CloseReason::ServerError
        | CloseReason::Overloaded
        | CloseReason::NotPermitted
        | CloseReason::TokenExpired
        | CloseReason::Kicked => world.kick("k", None, reason),
        CloseReason::BadUtf8
        | CloseReason::MessageTooBig
        | CloseReason::LoginRefused
        | CloseReason::LoginTimeout
        | CloseReason::ClientClosed
        | CloseReason::ConnectionLost => return false,
    }
    true
}

#[test]
fn every_reason_that_ends_an_open_connection_is_told_by_its_code() {
    for transport in BOTH {
        for &reason in CloseReason::ALL {
            let mut world = World::with(|config| config.slow_consumer = SlowConsumer::Close);
            let id = open_with_reasons(&mut world, transport);
            let plain = match reason {
                CloseReason::Replaced => None,
                _ => Some(world.open(transport, session("plain"))),
            };
            if !end_open(&mut world, id, transport, reason) {
                continue;
            }
            assert!(world.is_over(id), "{reason:?}");
            let both_end = matches!(reason, CloseReason::GoingAway | CloseReason::HeartbeatTimeout);
            assert_eq!(world.closes(reason), 1 + u64::from(both_end), "{reason:?}");
            let mut got = world.got(id);
            got.retain(|got| !matches!(got, Got::Push { .. } | Got::Reply { op: 3, .. }));
            let delay = if reason == CloseReason::GoingAway { r#","delay_ms":0"# } else { "" };
            let body = format!(
                r#"{{"code":{},"reason":"{}","reconnect":{}{delay}}}"#,
                reason.code(),
                reason.text(),
                reason.reconnect()
            );
            assert_eq!(got[0], Got::Reply { op: 6, seq: 0, body: body.into_bytes() }, "{reason:?}");
            let close = Got::Close { code: reason.code(), text: reason.text().to_owned() };
            let web = if transport == Transport::Tcp { vec![] } else { vec![close] };
            assert_eq!(got[1..], web, "{reason:?}");
            // Who did not ask for reasons sees goim and nothing else.
            if let Some(plain) = plain.filter(|_| both_end) {
                assert_eq!(world.got(plain), web, "{reason:?}");
            }
        }
    }
}

#[test]
fn a_client_that_leaves_is_told_nothing() {
    for transport in BOTH {
        for (lost, reason) in [(false, CloseReason::ClientClosed), (true, CloseReason::ConnectionLost)] {
            let mut world = World::new();
            let id = open_with_reasons(&mut world, transport);
            world.leave(id, lost);
            assert!(world.is_over(id) && world.bytes(id).is_empty());
            assert_eq!(world.closes(reason), 1);
            assert_eq!(world.socket(id).shut, Some(false));
        }
    }
}

#[test]
fn the_close_codes_are_the_protocols() {
    let mut codes: Vec<u16> = CloseReason::ALL
        .iter()
        .filter(|reason| reason.is_announced())
        .map(|&reason| {
            let mut world = World::new();
            let id = world.ask_login(Transport::WebSocket);
            world.refuse(id, reason, "");
            match world.got(id)[..] {
                [Got::Close { code, .. }] => code,
                ref other => panic!("{other:?}"),
            }
        })
        .collect();
    codes.sort();
    let protocol = [1001, 1002, 1007, 1008, 1009, 1011, 1013, 4401, 4403, 4408, 4408, 4409, 4410, 4413, 4420];
    assert_eq!(codes, protocol);
}

#[test]
fn what_waits_is_still_delivered_before_the_close() {
    for transport in BOTH {
        let mut world = World::new();
        let id = world.open(transport, session_in("k", "live://1"));
        world.stall(id, true);
        for body in ["one", "two", "three"] {
            world.push_room("live://1", body);
        }
        world.kick("k", None, CloseReason::Kicked);
        world.push_room("live://1", "too late");
        world.stall(id, false);
        let got = world.got(id);
        assert_eq!(bodies(&got), ["one", "two", "three"]);
        assert_eq!(got.len(), if transport == Transport::Tcp { 3 } else { 4 });
        assert!(world.is_over(id));
        assert_eq!(world.shard.stats().drops.values().sum::<u64>(), 0);
    }
}

#[test]
fn a_client_that_takes_nothing_is_cut_off_after_a_second_and_its_frames_are_counted() {
    let mut world = World::new();
    let id = world.open(Transport::WebSocket, session_in("k", "live://1"));
    world.stall(id, true);
    for body in ["under way", "waits", "waits too"] {
        world.push_room("live://1", body);
    }
    world.kick("k", None, CloseReason::Kicked);
    world.advance(Duration::from_millis(990));
    assert_eq!(world.socket(id).shut, None);
    world.advance(Duration::from_millis(210));
    assert!(world.is_over(id));
    assert_eq!(world.socket(id).shut, Some(true), "with a reset");
    assert_eq!(world.drops(DropReason::Closed), 3);
}

#[test]
fn a_client_that_keeps_its_side_open_is_cut_off_after_a_second() {
    for transport in BOTH {
        let mut world = World::new();
        let id = world.open(transport, session("k"));
        world.socket_mut(id).stubborn = true;
        world.kick("k", None, CloseReason::Kicked);
        assert!(world.socket(id).finished);
        // Whatever it still says is thrown away.
        world.send(id, &wire::sent(transport, &frame(2, 1, b"")));
        world.send(id, &[0xff; 4096]);
        world.advance(Duration::from_millis(990));
        assert!(!world.is_over(id));
        world.advance(Duration::from_millis(210));
        assert!(world.is_over(id));
        assert_eq!(world.shard.stats().frames_read, 1, "its login");
        assert_eq!(world.bad("frame", "len"), 0);
    }
}

#[test]
fn a_websocket_close_is_answered_with_its_code() {
    for (payload, answer) in [
        (&[][..], wire::from_server(0x88, &[])),
        (&[0x03, 0xe8][..], wire::from_server(0x88, &[0x03, 0xe8])),
        (b"\x0f\xa0going", wire::from_server(0x88, &[0x0f, 0xa0])),
    ] {
        let mut world = World::new();
        let id = open_with_reasons(&mut world, Transport::WebSocket);
        let bytes = [masked(wire::CLOSE, payload), masked(wire::BINARY, &frame(2, 1, b""))].concat();
        world.send(id, &bytes);
        assert_eq!(world.bytes(id), answer, "and nothing that came behind it");
        assert!(world.is_over(id));
        assert_eq!(world.closes(CloseReason::ClientClosed), 1);
    }
}

#[test]
fn an_answered_close_still_waits_for_the_write_under_way() {
    let mut world = World::new();
    let id = world.open(Transport::WebSocket, session_in("k", "live://1"));
    world.stall(id, true);
    world.push_room("live://1", "last");
    world.send(id, &masked(wire::CLOSE, &[]));
    world.leave(id, false);
    assert!(!world.is_over(id));
    world.stall(id, false);
    let got = world.got(id);
    assert_eq!(bodies(&got), ["last"]);
    assert_eq!(got.last(), Some(&Got::BareClose));
    assert!(world.is_over(id));
}

#[test]
fn a_failed_write_ends_the_connection_and_counts_its_frames() {
    for transport in BOTH {
        let mut world = World::new();
        let id = world.open(transport, session_in("k", "live://1"));
        world.stall(id, true);
        for body in ["fails", "waits", "waits"] {
            world.push_room("live://1", body);
        }
        world.take_write(id, false);
        assert!(world.is_over(id));
        assert_eq!((world.closes(CloseReason::ConnectionLost), world.drops(DropReason::Closed)), (1, 3));
    }
}

/// A write that failed while the connection was closing was followed by the next one, as if the client could still take
/// it, and then by a second of waiting for its end.
#[test]
fn a_write_that_fails_while_closing_is_the_end() {
    let mut world = World::new();
    let id = world.open(Transport::WebSocket, session_in("k", "live://1"));
    world.stall(id, true);
    world.push_room("live://1", "fails");
    world.push_room("live://1", "waits");
    world.kick("k", None, CloseReason::Kicked);
    world.take_write(id, false);
    assert!(world.is_over(id));
    assert_eq!(world.closes(CloseReason::Kicked), 1);
    assert_eq!(world.drops(DropReason::Closed), 2);
}

#[test]
fn a_client_that_breaks_off_while_it_is_closed_is_let_go_at_once() {
    let mut world = World::new();
    let id = world.open(Transport::WebSocket, session_in("k", "live://1"));
    world.stall(id, true);
    world.push_room("live://1", "under way");
    world.kick("k", None, CloseReason::Kicked);
    world.leave(id, true);
    assert!(world.is_over(id));
    assert_eq!(world.drops(DropReason::Closed), 1);
}

/// Replies that wait when a connection breaks are frames that are not delivered, as pushes are.
#[test]
fn replies_that_are_lost_are_counted_too() {
    let mut world = World::new();
    let id = world.open(Transport::Tcp, session_in("k", "live://1"));
    world.stall(id, true);
    for seq in 0..5 {
        world.say(id, 2, seq, b"");
    }
    world.leave(id, true);
    assert_eq!(world.drops(DropReason::Closed), 5);
}

#[test]
fn a_client_that_ends_its_side_is_closed_at_once() {
    let mut world = World::new();
    let id = world.open(Transport::Tcp, session_in("k", "live://1"));
    world.stall(id, true);
    world.push_room("live://1", "under way");
    world.push_room("live://1", "waits");
    world.leave(id, false);
    assert!(world.is_over(id), "the shut ends the write");
    assert_eq!(world.drops(DropReason::Closed), 2);
}

#[test]
fn every_connection_that_is_closed_has_left_its_rooms() {
    let mut world = World::new();
    let ids = ["a", "b", "c"].map(|key| world.open(Transport::Tcp, session_in(key, "live://1")));
    world.socket_mut(ids[1]).stubborn = true;
    world.kick("b", None, CloseReason::Kicked);
    world.push_room("live://1", "for those who stay");
    for (id, count) in ids.into_iter().zip([1, 0, 1]) {
        assert_eq!(bodies(&world.got(id)).len(), count);
    }
}

#[test]
fn a_drain_closes_everybody_spread_over_its_time_and_says_so_once() {
    let mut world = World::new();
    let open: Vec<_> =
        (0..38).map(|n| world.open(BOTH[n % 2], session_in(&format!("k{n}"), "live://1"))).collect();
    world.connect(Transport::Tcp);
    world.ask_login(Transport::WebSocket);
    world.said();
    world.mail(ToShard::Drain { over: Duration::from_secs(2) });
    assert!(world.stopped_accepting);
    assert_eq!(world.accept(Transport::Tcp), None);
    let mut left = Vec::new();
    for _ in 0..21 {
        left.push(world.shard.connections());
        world.advance(Duration::from_millis(100));
    }
    assert!(left.windows(2).all(|two| two[0] - two[1] <= 2) && left[17] > 0 && left[19] == 0, "{left:?}");
    world.mail(ToShard::Drain { over: Duration::from_secs(2) });
    world.advance(Duration::from_secs(1));
    let said = world.said();
    assert_eq!(said.iter().filter(|said| **said == Said::Drained).count(), 1);
    assert_eq!(said.iter().filter(|said| matches!(said, Said::Ended { .. })).count(), 38);
    assert_eq!(world.closes(CloseReason::GoingAway), 40);
    for (n, id) in open.into_iter().enumerate() {
        let close = Got::Close { code: 1001, text: "going away".to_owned() };
        assert_eq!(world.got(id), if n % 2 == 0 { vec![] } else { vec![close] });
    }
}

#[test]
fn a_drain_of_nobody_is_over_at_once() {
    let mut world = World::new();
    world.mail(ToShard::Drain { over: Duration::from_secs(60) });
    world.advance(Duration::from_millis(200));
    assert_eq!(world.said(), [Said::Drained]);
}

#[test]
fn a_drain_tells_clients_that_asked_when_to_come_back() {
    let mut world = World::new();
    let mut delays = Vec::new();
    let ids: Vec<_> = (0..30)
        .map(|n| {
            let id = world.connect(Transport::Tcp);
            world.say(id, 7, 1, br#"{"features":["reasons"]}"#);
            world.verdict(id, Outcome::Open(session(&format!("k{n}"))));
            world.bytes(id);
            id
        })
        .collect();
    world.mail(ToShard::Drain { over: Duration::from_secs(10) });
    world.advance(Duration::from_secs(10));
    for id in ids {
        let [Got::Reply { op: 6, seq: 0, body }] = &world.got(id)[..] else { panic!("no reason") };
        let body = String::from_utf8(body.clone()).expect("JSON");
        let delay = body.strip_prefix(r#"{"code":1001,"reason":"going away","reconnect":true,"delay_ms":"#);
        delays.push(delay.and_then(|rest| rest.strip_suffix('}')?.parse::<u32>().ok()).expect("a delay"));
    }
    delays.sort();
    assert!(delays[29] < 10_000 && delays[29] > 8_000 && delays[0] < 2_000, "{delays:?}");
    delays.dedup();
    assert_eq!(delays.len(), 30, "they come back one after the other");
}

/// No login is answered any more: who waited for one was told of a login that took too long, after seconds.
#[test]
fn who_has_not_logged_in_when_a_drain_begins_is_told_to_go_at_once() {
    let mut world = World::new();
    let silent = BOTH.map(|transport| world.connect(transport));
    let asked = BOTH.map(|transport| world.ask_login(transport));
    let open: Vec<_> =
        (0..30).map(|n| world.open(BOTH[n % 2], session_in(&format!("k{n}"), "live://1"))).collect();
    world.mail(ToShard::Drain { over: Duration::from_secs(60) });
    assert!(silent.into_iter().chain(asked).all(|id| world.is_over(id)));
    for id in [silent[1], asked[1]] {
        assert_eq!(world.got(id), [Got::Close { code: 1001, text: "going away".to_owned() }]);
    }
    assert_eq!(world.closes(CloseReason::GoingAway), 4, "the others have time");
    world.push_room("live://1", "to those who stay");
    assert_eq!(bodies(&world.got(open[29])), ["to those who stay"]);
}

/// What was accepted long before the drain began is written before the connection is closed.
#[test]
fn a_broadcast_with_a_speed_goes_out_before_a_drain_closes_its_receivers() {
    let mut world = World::new();
    let ids: Vec<_> = (0..20)
        .map(|n| world.open(Transport::Tcp, Session { accepts: vec![Op(1000)], ..session(&format!("k{n}")) }))
        .collect();
    world.push(PushTo::All { speed: 1 }, "early");
    world.mail(ToShard::Drain { over: Duration::from_secs(2) });
    world.push(PushTo::All { speed: 1 }, "late");
    world.advance(Duration::from_secs(3));
    let got: Vec<_> = ids.into_iter().map(|id| bodies(&world.got(id))).collect();
    assert_eq!(got[0], ["early"], "closed with the first tick");
    assert!(got[1..].iter().all(|got| *got == ["early", "late"]), "{got:?}");
}

/// A connection that moved in behind the drain's hand, into a slot that was closed already, was never closed, and the
/// drain never over.
#[test]
fn a_connection_that_arrives_during_a_drain_is_closed_too() {
    let (mut other, mut world) = (World::new(), World::new());
    for n in 0..10 {
        world.open(Transport::Tcp, session(&format!("k{n}")));
    }
    let late = other.ask_login(Transport::WebSocket);
    other.verdict(late, Outcome::Move { to: 3, session: session("late") });
    world.said();
    world.mail(ToShard::Drain { over: Duration::from_secs(1) });
    world.advance(Duration::from_millis(500));
    let late = world.attach(other.detached.remove(0));
    assert!(late.slot <= 5, "behind the hand");
    world.advance(Duration::from_millis(1600));
    assert!(world.is_over(late));
    assert_eq!(world.got(late).last(), Some(&Got::Close { code: 1001, text: "going away".to_owned() }));
    assert_eq!(world.said().last(), Some(&Said::Drained));
}

#[test]
fn a_message_over_the_limit_is_refused_from_its_header_and_summed_over_fragments() {
    let mut world = World::with(|config| config.message.message_max = 5000);
    let id = world.open(Transport::WebSocket, session("k"));
    let big = masked(wire::BINARY, &[0; 5001]);
    world.send(id, &big[..8]);
    assert_eq!(world.got(id), [Got::Close { code: 1009, text: "message too big".to_owned() }]);
    let id = world.open(Transport::WebSocket, session("k"));
    world.send(id, &fragment(wire::BINARY, false, &[0; 3000]));
    world.send(id, &fragment(wire::CONTINUATION, true, &[0; 2001]));
    assert_eq!(world.got(id), [Got::Close { code: 1009, text: "message too big".to_owned() }]);
    assert_eq!(world.bad("websocket", "message_len"), 2);
}

#[test]
fn a_slow_consumer_does_not_keep_its_slot() {
    let mut world = World::with(|config| config.slow_consumer = SlowConsumer::Close);
    let accepts = Session { accepts: vec![Op(1000)], ..session("k") };
    let id = world.open(Transport::WebSocket, accepts);
    world.stall(id, true);
    for _ in 0..4 {
        world.push_keys(&["k", "k"], &"x".repeat(30_000));
    }
    world.advance(Duration::from_millis(1300));
    assert!(world.is_over(id));
    assert_eq!(world.closes(CloseReason::SlowConsumer), 1);
    let dropped = world.drops(DropReason::SlowConsumer) + world.drops(DropReason::Closed);
    let absent = world.drops(DropReason::Absent);
    assert_eq!(dropped + absent, 8, "every frame is counted");
}
