//! From the login operation to an open connection, in place or on another shard, or to the end of it.

use std::time::Duration;

use contract::{Session, Transport};
use proto::{close::CloseReason, ids::Key, op::Op};
use shard::mail::{ConnectionId, Outcome, PushTo, ToShard};
use testkit::{
    wire::{self, BOTH, Got, frame, sent},
    world::{Detached, End, Said, World, room, session, session_in},
};

fn abandoned(key: &str) -> Said {
    Said::Abandoned(Key::new(key))
}

fn move_to(to: u16, session: Session) -> Outcome {
    Outcome::Move { to, session }
}

fn only_detached(world: &mut World) -> Detached {
    assert_eq!(world.detached.len(), 1);
    world.detached.remove(0)
}

/// A WebSocket client whose login came while the answer to its upgrade was still being written.
fn logs_in_while_writing(world: &mut World) -> ConnectionId {
    let id = world.accept(Transport::WebSocket).expect("room for it");
    world.stall(id, true);
    world.send(id, &wire::upgrade("/sub", ""));
    world.say(id, 7, 1, b"{}");
    assert!(world.is_writing(id) && world.is_held(id));
    world.said();
    id
}

#[test]
fn logic_gets_the_login_as_the_client_sent_it() {
    for (transport, cookie) in [(Transport::Tcp, ""), (Transport::WebSocket, "a=b; c=d")] {
        let mut world = World::new();
        let id = world.accept(transport).expect("room for it");
        if transport == Transport::WebSocket {
            world.send(id, &wire::upgrade("/sub?token=x", "Cookie: a=b\r\nCookie: c=d\r\n"));
        }
        world.bytes(id);
        let token = b"not even JSON \xff".to_vec();
        world.say(id, 7, 1, &token);
        assert_eq!(world.said(), [Said::Login { id, cookie: cookie.to_owned(), token }]);
        assert!(world.is_held(id) && world.bytes(id).is_empty());
    }
}

#[test]
fn an_accepted_login_is_answered_with_an_empty_operation_8() {
    for transport in BOTH {
        let mut world = World::new();
        let id = world.connect(transport);
        let login = wire::versioned(-2, 7, i32::MAX, b"{}");
        world.send(id, &sent(transport, &login));
        world.said();
        world.verdict(id, Outcome::Open(session_in("k", "live://1")));
        assert_eq!(world.bytes(id), wire::reply(transport, &wire::versioned(-2, 8, i32::MAX, b"")));
        assert_eq!(world.said(), [Said::Opened(Key::new("k"))]);
        assert!(!world.is_held(id));
        assert_eq!(world.shard.room_members(&room("live://1")), 1);
    }
}

#[test]
fn what_comes_behind_the_login_is_answered_after_it() {
    for transport in BOTH {
        let mut world = World::new();
        let id = world.connect(transport);
        let frames = [frame(7, 1, b"{}"), frame(2, 2, b""), frame(12, 3, b"live://2")].concat();
        // Another message behind the first, and the first byte of a third.
        let more = sent(transport, &frame(2, 4, b""));
        world.send(id, &[&sent(transport, &frames)[..], &more, &more[..1]].concat());
        assert!(world.bytes(id).is_empty());
        world.verdict(id, Outcome::Open(session("k")));
        world.send(id, &more[1..]);
        let replies = [
            (8, 1, &b""[..]),
            (3, 2, &[0; 4]),
            (13, 3, b"live://2"),
            (3, 4, &[0, 0, 0, 1]),
            (3, 4, &[0, 0, 0, 1]),
        ];
        let wanted: Vec<u8> = replies
            .iter()
            .flat_map(|(op, seq, body)| wire::reply(transport, &frame(*op, *seq, body)))
            .collect();
        assert_eq!(world.bytes(id), wanted, "{transport:?}");
    }
}

#[test]
fn what_is_sent_while_logic_decides_waits_in_the_socket() {
    for transport in BOTH {
        let mut world = World::new();
        let id = world.ask_login(transport);
        world.say(id, 2, 2, b"");
        assert_eq!(world.shard.stats().frames_read, 1);
        world.verdict(id, Outcome::Open(session("k")));
        assert_eq!(world.got(id).len(), 2);
    }
}

#[test]
fn a_login_whose_key_is_another_shards_moves_there_with_everything_it_sent() {
    for transport in BOTH {
        let (mut accepting, mut owning) = (World::new(), World::new());
        let id = accepting.connect(transport);
        let frames = [frame(7, 1, b"{}"), frame(2, 2, b""), frame(2, 3, b"")].concat();
        let more = sent(transport, &frame(2, 4, b"body"));
        let (begun, rest) = more.split_at(more.len() - 3);
        accepting.send(id, &[&sent(transport, &frames)[..], begun].concat());
        accepting.said();
        accepting.verdict(id, move_to(9, session_in("k", "live://1")));

        let moved = only_detached(&mut accepting);
        assert_eq!((moved.id, moved.to), (id, 9));
        assert_eq!(accepting.said(), [], "the owner tells the front");
        assert_eq!(
            (accepting.shard.connections(), accepting.shard.stats().connections),
            (0, Default::default())
        );

        let id = owning.attach(moved);
        assert_eq!(owning.said(), [Said::Opened(Key::new("k"))]);
        owning.send(id, rest);
        let wanted: Vec<u8> =
            [(8, 1, &[][..]), (3, 2, &[0, 0, 0, 1]), (3, 3, &[0, 0, 0, 1]), (3, 4, &[0, 0, 0, 1])]
                .iter()
                .flat_map(|(op, seq, body)| wire::reply(transport, &frame(*op, *seq, body)))
                .collect();
        assert_eq!(owning.bytes(id), wanted, "{transport:?}");
        assert_eq!(owning.shard.stats().attached, 1);
        owning.push_room("live://1", "here");
        assert_eq!(wire::bodies(&owning.got(id)), ["here"]);
        owning.leave(id, false);
        let ended = Said::Ended { key: Key::new("k"), fenced: false, replaced: false, known: true };
        assert_eq!(owning.said(), [ended]);
    }
}

#[test]
fn bytes_that_break_the_protocol_behind_the_login_close_after_its_answer() {
    for transport in BOTH {
        for moves in [false, true] {
            let (mut world, mut other) = (World::new(), World::new());
            let id = world.connect(transport);
            world.send(id, &sent(transport, &[frame(7, 1, b"{}"), frame(9, 2, b"")].concat()));
            let (world, id) = match moves {
                false => {
                    world.verdict(id, Outcome::Open(session("k")));
                    (&mut world, id)
                }
                true => {
                    world.verdict(id, move_to(9, session("k")));
                    let moved = only_detached(&mut world);
                    let id = other.attach(moved);
                    (&mut other, id)
                }
            };
            let got = world.got(id);
            assert_eq!(got[0], Got::Reply { op: 8, seq: 1, body: Vec::new() });
            assert_eq!(got.len(), if transport == Transport::Tcp { 1 } else { 2 });
            assert!(world.is_over(id));
        }
    }
}

#[test]
fn a_connection_moves_when_its_write_has_ended_and_not_before() {
    let (mut world, mut other) = (World::new(), World::new());
    let id = logs_in_while_writing(&mut world);
    world.verdict(id, move_to(9, session("k")));
    assert!(world.detached.is_empty());
    world.take_write(id, true);
    let moved = only_detached(&mut world);
    let id = other.attach(moved);
    other.stall(id, false);
    assert_eq!(other.got(id), [Got::Http(101), Got::Reply { op: 8, seq: 1, body: Vec::new() }]);
}

#[test]
fn a_connection_opens_in_place_while_it_writes() {
    let mut world = World::new();
    let id = logs_in_while_writing(&mut world);
    world.verdict(id, Outcome::Open(session("k")));
    assert_eq!(world.said(), [Said::Opened(Key::new("k"))]);
    world.stall(id, false);
    assert_eq!(world.got(id), [Got::Http(101), Got::Reply { op: 8, seq: 1, body: Vec::new() }]);
}

/// A connection that ended while its verdict waited for the write to end left its session in logic for as long as it
/// lasts there: the front had forgotten the login with the verdict and was told that the login was gone.
#[test]
fn a_session_ends_with_a_connection_that_ends_on_its_way_to_another_shard() {
    let ends: [(&str, End); 5] = [
        ("client left", |world, id| world.leave(id, false)),
        ("write failed", |world, id| world.take_write(id, false)),
        ("deadline", |world, _| world.advance(Duration::from_secs(6))),
        ("drain", |world, _| world.mail(ToShard::Drain { over: Duration::ZERO })),
        ("evicted", |world, _| {
            world.connect(Transport::Tcp);
        }),
    ];
    for (name, end) in ends {
        let mut world = World::with(|config| config.unauthenticated_max = 1);
        let id = logs_in_while_writing(&mut world);
        world.verdict(id, move_to(9, session("k")));
        end(&mut world, id);
        // The held client's end is seen with the next tick.
        world.advance(Duration::from_millis(200));
        assert_eq!(world.said(), [abandoned("k")], "{name}");
        assert!(world.detached.is_empty());
    }
}

#[test]
fn a_refused_login_is_closed_without_a_frame_on_tcp_and_with_4401_on_websocket() {
    for transport in BOTH {
        let mut world = World::new();
        let id = world.ask_login(transport);
        world.said();
        world.refuse(id, CloseReason::LoginRefused, "the login is empty");
        let wanted = match transport {
            Transport::Tcp => Vec::new(),
            Transport::WebSocket => wire::close(4401, "the login is empty"),
        };
        assert_eq!(world.bytes(id), wanted);
        assert!(world.is_over(id));
        assert_eq!(world.closes(CloseReason::LoginRefused), 1);
        assert_eq!(world.said(), [], "logic has no session, and the front knows that the login is over");
    }
}

#[test]
fn a_refused_client_that_asked_for_reasons_gets_one() {
    for transport in BOTH {
        let mut world = World::new();
        let id = world.connect(transport);
        world.say(id, 7, 4, br#"{"features":["reasons"]}"#);
        world.refuse(id, CloseReason::ServerError, "try again");
        let body = br#"{"code":1011,"reason":"try again","reconnect":true}"#.to_vec();
        let got = world.got(id);
        assert_eq!(got[0], Got::Reply { op: 6, seq: 0, body });
        let close = Got::Close { code: 1011, text: "try again".to_owned() };
        assert_eq!(got[1..], if transport == Transport::Tcp { vec![] } else { vec![close] });
    }
}

#[test]
fn a_refusal_is_written_behind_what_is_being_written() {
    let mut world = World::new();
    let id = logs_in_while_writing(&mut world);
    world.refuse(id, CloseReason::LoginRefused, "no");
    assert_eq!(world.said(), []);
    world.stall(id, false);
    assert_eq!(world.got(id), [Got::Http(101), Got::Close { code: 4401, text: "no".to_owned() }]);
    assert!(world.is_over(id));
}

#[test]
fn the_lobby_has_a_deadline_of_its_own() {
    for transport in BOTH {
        let mut world = World::new();
        let id = world.connect(transport);
        world.advance(Duration::from_millis(4900));
        world.say(id, 7, 1, b"{}");
        world.said();
        world.advance(Duration::from_millis(4990));
        assert_eq!(world.said(), []);
        world.advance(Duration::from_millis(210));
        assert_eq!(world.said(), [Said::LoginGone(id)]);
        assert_eq!(world.closes(CloseReason::LoginTimeout), 1);
        let wanted = match transport {
            Transport::Tcp => Vec::new(),
            Transport::WebSocket => wire::close(4408, "login timeout"),
        };
        assert_eq!(world.bytes(id), wanted);
        assert!(world.is_over(id));
    }
}

#[test]
fn a_client_that_leaves_the_lobby_is_seen_although_it_is_not_read() {
    for lost in [false, true] {
        let mut world = World::new();
        let id = world.ask_login(Transport::Tcp);
        world.said();
        world.say(id, 2, 2, b"");
        world.leave(id, lost);
        assert!(!world.is_over(id));
        // What it sent is read with the next tick, its end with the one after.
        world.advance(Duration::from_millis(200));
        assert!(world.is_over(id));
        assert_eq!(world.said(), [Said::LoginGone(id)]);
    }
}

#[test]
fn a_verdict_that_comes_too_late_leaves_its_session_to_the_owner_of_the_key() {
    let late = [
        Outcome::Open(session("k")),
        move_to(9, session("k")),
        Outcome::Refuse { reason: CloseReason::LoginRefused, text: String::new() },
    ];
    for outcome in late {
        let refused = matches!(outcome, Outcome::Refuse { .. });
        let mut world = World::new();
        let id = world.ask_login(Transport::WebSocket);
        world.leave(id, false);
        world.advance(Duration::from_millis(100));
        world.said();
        // The slot has another tenant by now.
        let next = world.ask_login(Transport::Tcp);
        assert_eq!(next.slot, id.slot);
        world.said();
        world.verdict(id, outcome);
        assert_eq!(world.said(), if refused { vec![] } else { vec![abandoned("k")] });
        assert!(world.is_held(next), "the login of the next one still waits");
    }
}

#[test]
fn a_client_that_hung_up_before_the_verdict_is_not_opened() {
    for outcome in [Outcome::Open(session("k")), move_to(9, session("k"))] {
        let mut world = World::new();
        let id = world.ask_login(Transport::Tcp);
        let newer = world.open(Transport::Tcp, session("k"));
        world.leave(id, false);
        world.verdict(id, outcome);
        assert_eq!(world.said(), [Said::LoginGone(id), abandoned("k")]);
        assert!(world.is_over(id) && !world.is_over(newer) && world.detached.is_empty());
        assert_eq!(world.closes(CloseReason::ClientClosed), 1);
    }
}

/// Logic stored the session of a client that had left over the one of the connection the client has made since.
#[test]
fn the_owner_of_a_key_ends_an_abandoned_session_and_puts_the_live_one_back() {
    let mut world = World::new();
    let ended = Said::Ended { key: Key::new("k"), fenced: false, replaced: false, known: false };
    world.mail(ToShard::Abandoned(session("k")));
    assert_eq!(world.said(), std::slice::from_ref(&ended));
    let id = world.open(Transport::Tcp, session("k"));
    world.mail(ToShard::Abandoned(session("k")));
    assert_eq!(world.said(), [ended, Said::Renew(Key::new("k"))]);
    assert!(!world.is_over(id));
}

#[test]
fn a_verdict_for_a_connection_that_is_closing_leaves_the_session_behind() {
    let mut world = World::new();
    let id = world.ask_login(Transport::Tcp);
    world.socket_mut(id).stubborn = true;
    world.mail(ToShard::Drain { over: Duration::ZERO });
    assert!(!world.is_over(id));
    world.said();
    world.verdict(id, Outcome::Open(session("k")));
    assert_eq!(world.said(), [abandoned("k")]);
}

#[test]
fn a_login_takes_what_logic_gave_it() {
    let mut world = World::new();
    let session = Session {
        accepts: vec![Op(5000), Op(5000), Op(-1)],
        heartbeat: Duration::from_secs(2),
        ..session("logic's own key")
    };
    let id = world.open(Transport::Tcp, session);
    for (filter, heard) in [(5000, true), (-1, true), (1000, false)] {
        let keys = vec![Key::new("logic's own key")];
        let mut push = world.push_of(PushTo::Keys(keys), "x");
        push.filter = Op(filter);
        world.mail(ToShard::Push(Box::new(push)));
        assert_eq!(!world.bytes(id).is_empty(), heard);
    }
    world.advance(Duration::from_millis(2300));
    assert_eq!(world.closes(CloseReason::HeartbeatTimeout), 1);
}

#[test]
fn open_sessions_are_told_in_chunks_and_nobody_elses() {
    let mut world = World::new();
    world.checks = false;
    let mut open = Vec::new();
    for n in 0..4500 {
        if n % 1000 == 0 {
            world.connect(Transport::Tcp);
        }
        let key = format!("k{n}");
        open.push((world.open(Transport::Tcp, session(&key)), Key::new(key)));
    }
    world.ask_login(Transport::Tcp);
    let (left, _) = open.remove(7);
    world.leave(left, false);
    world.said();
    let (mut told, mut from, mut chunks) = (Vec::new(), Some(0), 0);
    while let Some(slot) = from {
        world.mail(ToShard::Sessions { from: slot });
        let said = world.said();
        let [Said::Sessions { keys, next }] = said.as_slice() else { panic!("{said:?}") };
        told.extend(keys.clone());
        from = *next;
        chunks += 1;
    }
    assert_eq!(told, open.into_iter().map(|(_, key)| key).collect::<Vec<_>>());
    assert_eq!(chunks, 2);
    // Whoever goes on where slots have gone is at the end.
    world.mail(ToShard::Sessions { from: u32::MAX });
    assert_eq!(world.said(), [Said::Sessions { keys: Vec::new(), next: None }]);
}

/// A shard stood still: login and end of a client came together, and logic was asked for a client that had long gone
/// elsewhere.
#[test]
fn a_login_with_its_clients_end_behind_it_is_not_asked() {
    for transport in BOTH {
        for lost in [false, true] {
            let mut world = World::new();
            let id = world.connect(transport);
            world.said();
            // What was read together: the end lies behind the login when the driver looks.
            let login = sent(transport, &frame(7, 1, b"{}"));
            world.send_and_leave(id, &login, lost);
            assert_eq!(world.said(), []);
            assert!(world.is_over(id) && world.bytes(id).is_empty(), "{transport:?}");
            assert_eq!(world.closes(CloseReason::ClientClosed), 1);
        }
    }
}

#[test]
fn a_login_older_than_clients_wait_is_closed_and_not_asked() {
    for transport in BOTH {
        let mut world = World::new();
        let id = world.connect(transport);
        world.said();
        world.socket_mut(id).age = Duration::from_secs(5);
        world.say(id, 7, 1, b"{}");
        assert_eq!((world.said(), world.closes(CloseReason::LoginTimeout)), (vec![], 1));
        match transport {
            Transport::Tcp => assert!(world.bytes(id).is_empty()),
            Transport::WebSocket => assert_eq!(world.bytes(id), wire::close(4408, "login timeout")),
        }
    }
    // Its patience counts from when it sent the login.
    let mut world = World::new();
    let id = world.connect(Transport::Tcp);
    world.socket_mut(id).age = Duration::from_secs(3);
    world.say(id, 7, 1, b"{}");
    assert!(matches!(world.said()[..], [Said::Login { .. }]));
    world.advance(Duration::from_millis(1800));
    assert_eq!(world.closes(CloseReason::LoginTimeout), 0);
    world.advance(Duration::from_millis(400));
    assert_eq!(world.closes(CloseReason::LoginTimeout), 1);
}

#[test]
fn a_login_that_waits_is_looked_for_when_the_front_asks() {
    let mut world = World::new();
    let [stays, leaves] = [(); 2].map(|()| world.ask_login(Transport::Tcp));
    world.leave(leaves, false);
    world.advance(Duration::from_millis(200));
    world.said();
    world.mails([ToShard::Look(stays), ToShard::Look(leaves)]);
    assert_eq!(world.said(), [Said::LoginThere(stays)], "of the other it was told that it left");
}
