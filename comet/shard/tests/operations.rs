//! Every row of docs/PROTOCOL.md section 3, byte for byte on both wires.

use contract::{Session, Transport};
use proto::{close::CloseReason, frame::Header, op::Op};
use shard::mail::{ConnectionId, Outcome, ToShard};
use testkit::{
    wire::{self, BOTH, Got, frame, hex, raw_frame, versioned},
    world::{Said, World, room, rooms, session, session_in},
};

const JOIN: i32 = 2_000_000_000;
const LEAVE: i32 = 2_000_000_002;

/// Sends one frame and expects the bytes of one other, as this client's wire has it.
#[track_caller]
fn expect(world: &mut World, (transport, id): (Transport, ConnectionId), request: &[u8], answer: &[u8]) {
    world.send(id, &wire::sent(transport, request));
    assert_eq!(world.bytes(id), wire::reply(transport, answer), "{transport:?}");
}

/// Says one thing and expects the answer with the next operation and the same sequence number.
#[track_caller]
fn answered(world: &mut World, client: (Transport, ConnectionId), op: i32, body: &[u8], answer: &[u8]) {
    expect(world, client, &frame(op, 77, body), &frame(op + 1, 77, answer));
}

#[test]
fn the_bytes_of_login_and_heartbeat_are_goims() {
    let mut world = World::new();
    let tcp = world.connect(Transport::Tcp);
    world.send(tcp, &hex(r#"0000 0019 0010 0001 0000 0007 0000 0005 "{""#));
    world.send(tcp, br#""mid":7}"#);
    world.verdict(tcp, Outcome::Open(session_in("k1", "live://1000")));
    assert_eq!(world.bytes(tcp), hex("0000 0010 0010 0001 0000 0008 0000 0005"));
    let web = world.open(Transport::WebSocket, session_in("k2", "live://1000"));
    world.send(web, &wire::masked(wire::BINARY, &frame(2, 6, b"")));
    assert_eq!(world.bytes(web), hex("82 14 | 0000 0014 0010 0001 0000 0003 0000 0006 | 0000 0002"));
}

#[test]
fn a_heartbeat_counts_the_people_of_the_first_room_wherever_they_are() {
    for transport in BOTH {
        let mut world = World::new();
        let alone = (transport, world.open(transport, session("k0")));
        answered(&mut world, alone, 2, b"ignored", &[0, 0, 0, 0]);
        let further = Session { rooms: rooms(&["live://1000"]), ..session("k1") };
        let further = (transport, world.open(transport, further));
        answered(&mut world, further, 2, b"", &[0, 0, 0, 0]);

        let member = (transport, world.open(transport, session_in("k2", "live://1000")));
        answered(&mut world, member, 2, b"", &[0, 0, 0, 2]);
        world.mail(ToShard::Elsewhere(vec![(room("live://1000"), 0x0102_0300), (room("live://other"), 9)]));
        answered(&mut world, member, 2, b"", &[1, 2, 3, 2]);
        answered(&mut world, alone, 2, b"", &[0, 0, 0, 0]);
    }
}

#[test]
fn an_answer_copies_version_and_sequence_number() {
    for transport in BOTH {
        let mut world = World::new();
        let client = (transport, world.open(transport, session("k")));
        for (ver, seq) in [(0, 0), (2, -1), (i16::MIN, i32::MIN), (i16::MAX, i32::MAX)] {
            expect(&mut world, client, &versioned(ver, 2, seq, b""), &versioned(ver, 3, seq, &[0; 4]));
        }
    }
}

#[test]
fn operation_12_changes_leaves_and_refuses() {
    for transport in BOTH {
        let mut world = World::new();
        let id = world.open(transport, session_in("k", "live://1000"));
        let client = (transport, id);
        answered(&mut world, client, 12, b"live://2000", b"live://2000");
        assert_eq!(world.shard.room_members(&room("live://1000")), 0);
        assert_eq!(world.shard.room_members(&room("live://2000")), 1);

        let long = [b'r'; 129];
        for refused in [&long[..], b"live://a\nb", b"\xff\xfe"] {
            answered(&mut world, client, 12, refused, b"live://2000");
        }
        assert_eq!(world.bad("frame", "refused_request"), 3);
        answered(&mut world, client, 12, b"", b"");
        assert_eq!(world.shard.room_members(&room("live://2000")), 0);
        answered(&mut world, client, 12, b"", b"");
        answered(&mut world, client, 12, &long, b"");
        answered(&mut world, client, 12, &long[..128], &long[..128]);
    }
}

#[test]
fn operations_14_and_16_answer_with_the_list_that_was_applied() {
    for transport in BOTH {
        let mut world = World::with(|config| (config.accepts_max, config.refusals_max) = (3, 100));
        let id = world.open(transport, Session { accepts: vec![Op(1000)], ..session("k") });
        let client = (transport, id);
        answered(&mut world, client, 14, b"1002,1003", b"1002,1003");
        answered(&mut world, client, 14, b"1002", b"1002");
        answered(&mut world, client, 14, b"1004", b"");
        answered(&mut world, client, 16, b"1003, 7,-5 ", b"1003,7,-5");
        answered(&mut world, client, 14, b"-2147483648", b"-2147483648");
        for bad in [&b""[..], b"a", b"1,", b",1", b"1,,2", b"1 2", b"2147483648", b"1.5", b"\xff"] {
            answered(&mut world, client, 14, bad, b"");
            answered(&mut world, client, 16, bad, b"");
        }
        let accepts = world.shard.view(id).map(|view| view.accepts.to_vec());
        assert_eq!(accepts, Some(vec![Op(1000), Op(1002), Op(i32::MIN)]));
        assert_eq!(world.bad("frame", "refused_request"), 19);
    }
}

#[test]
fn what_a_client_accepts_decides_what_it_gets() {
    let mut world = World::new();
    let client = (Transport::Tcp, world.open(Transport::Tcp, session("k")));
    world.push_keys(&["k"], "before");
    answered(&mut world, client, 14, b"1000", b"1000");
    world.push_keys(&["k"], "between");
    answered_after_push(&mut world, client, "between");
    world.push_keys(&["k"], "after");
    assert!(world.bytes(client.1).is_empty());

    fn answered_after_push(world: &mut World, client: (Transport, ConnectionId), body: &str) {
        assert_eq!(wire::bodies(&world.got(client.1)), [body]);
        answered(world, client, 16, b"1000", b"1000");
    }
}

/// goim's comet dies of operation 4 outside a room (G7).
#[test]
fn operation_4_outside_a_room_is_answered_empty() {
    for transport in BOTH {
        for same in [false, true] {
            let mut world = World::with(|config| config.unknown_reply_same = same);
            let further = Session { rooms: rooms(&["live://1"]), ..session("k") };
            let client = (transport, world.open(transport, further));
            answered(&mut world, client, 4, b"hello?", b"");
            assert_eq!(world.said(), []);
        }
    }
}

#[test]
fn operation_4_in_a_room_goes_to_logic_and_its_answer_comes_back() {
    for transport in BOTH {
        for same in [false, true] {
            let mut world = World::with(|config| config.unknown_reply_same = same);
            let id = world.open(transport, session_in("k", "live://1"));
            world.say(id, 4, 9, b"hello");
            let message = Said::Message {
                id,
                header: Header { ver: 1, op: Op(4), seq: 9 },
                room: Some(room("live://1")),
                body: b"hello".to_vec(),
            };
            assert_eq!(world.said(), [message]);
            assert!(world.bytes(id).is_empty());
            world.reply(id, 4, 9, b"yes");
            assert_eq!(world.bytes(id), wire::reply(transport, &frame(5, 9, b"yes")));
        }
    }
}

#[test]
fn an_unknown_operation_goes_to_logic_and_is_answered_by_the_next_number_or_the_same() {
    for transport in BOTH {
        for (same, op, answer) in [
            (false, 1000, 1001),
            (true, 1000, 1000),
            (false, 0, 1),
            (true, 0, 0),
            (false, 18, 19),
            (true, 20, 20),
            (false, i32::MAX, i32::MIN),
            (false, -7, -6),
            (false, JOIN + 4, JOIN + 5),
        ] {
            let mut world = World::with(|config| config.unknown_reply_same = same);
            let id = world.open(transport, session("k"));
            world.say(id, op, 3, b"body");
            assert_eq!(
                world.said(),
                [Said::Message {
                    id,
                    header: Header { ver: 1, op: Op(op), seq: 3 },
                    room: None,
                    body: b"body".to_vec()
                }]
            );
            world.reply(id, op, 3, b"");
            assert_eq!(world.bytes(id), wire::reply(transport, &frame(answer, 3, b"")), "{op} {same}");
        }
    }
}

#[test]
fn an_answer_of_logic_for_a_client_that_left_goes_nowhere() {
    let mut world = World::new();
    let first = world.open(Transport::Tcp, session("k"));
    world.leave(first, false);
    let second = world.open(Transport::Tcp, session("k"));
    assert_eq!(first.slot, second.slot);
    world.reply(first, 1000, 1, b"late");
    assert!(world.bytes(second).is_empty());
}

#[test]
fn what_only_a_server_may_send_closes() {
    for transport in BOTH {
        for op in [1, 3, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, JOIN + 1, LEAVE + 1] {
            let mut world = World::new();
            let id = world.open(transport, session_in("k", "live://1"));
            let frames = [frame(op, 1, b"{}"), frame(2, 2, b"")].concat();
            world.send(id, &wire::sent(transport, &frames));
            let wanted = match transport {
                Transport::Tcp => Vec::new(),
                Transport::WebSocket => wire::close(1002, "protocol violation"),
            };
            assert_eq!(world.bytes(id), wanted, "{op}");
            assert!(world.is_over(id));
            assert_eq!(world.bad("frame", "operation"), 1);
            assert_eq!(world.closes(CloseReason::ProtocolViolation), 1);
            let ended = Said::Ended { key: session("k").key, fenced: false, replaced: false, known: true };
            assert_eq!(world.said(), [ended], "nothing of {op} is forwarded");
        }
    }
}

#[test]
fn one_more_room_is_joined_and_left_with_the_body_echoed() {
    for transport in BOTH {
        let mut world = World::with(|config| config.rooms_max = 3);
        let client = (transport, world.open(transport, session_in("k", "live://1")));
        answered(&mut world, client, JOIN, b"live://2", b"live://2");
        answered(&mut world, client, JOIN, b"live://2", b"live://2");
        answered(&mut world, client, JOIN, b"live://3", b"live://3");
        answered(&mut world, client, JOIN, b"live://4", b"");
        answered(&mut world, client, LEAVE, b"live://2", b"live://2");
        answered(&mut world, client, LEAVE, b"live://2", b"");
        answered(&mut world, client, JOIN, b"live://4", b"live://4");
        for (op, bad) in [(JOIN, &b""[..]), (JOIN, b"a\0"), (LEAVE, b""), (LEAVE, b"\xff")] {
            answered(&mut world, client, op, bad, b"");
        }
        let members = ["live://1", "live://2", "live://3", "live://4"]
            .map(|name| world.shard.room_members(&room(name)));
        assert_eq!(members, [1, 0, 1, 1]);
        assert_eq!(world.bad("frame", "refused_request"), 6);
    }
}

#[test]
fn all_frames_of_a_message_or_segment_are_answered_in_one_write() {
    for transport in BOTH {
        let mut world = World::new();
        let id = world.open(transport, session_in("k", "live://1"));
        let requests = [frame(2, 1, b""), frame(12, 2, b"live://2"), frame(14, 3, b"5"), frame(2, 4, b"")];
        world.send(id, &wire::sent(transport, &requests.concat()));
        let answers = [
            frame(3, 1, &[0, 0, 0, 1]),
            frame(13, 2, b"live://2"),
            frame(15, 3, b"5"),
            frame(3, 4, &[0, 0, 0, 1]),
        ];
        let wanted: Vec<u8> = answers.iter().flat_map(|answer| wire::reply(transport, answer)).collect();
        assert_eq!(world.bytes(id), wanted);
        assert_eq!(world.socket(id).runs.last().map(|run| run.frames), Some(4));
    }
}

#[test]
fn input_may_come_in_any_pieces() {
    for transport in BOTH {
        for size in [1, 2, 3, 7, 15, 16, 17, 31] {
            let mut world = World::new();
            let id = world.open(transport, session_in("k", "live://1"));
            world.read_size = size;
            let requests = [frame(2, 1, b"x"), frame(14, 2, b"1000,1001,1002,1003,1004"), frame(2, 3, b"")];
            for request in &requests {
                world.send(id, &wire::sent(transport, request));
            }
            let replies = world.got(id);
            let wanted = [(3, 1), (15, 2), (3, 3)];
            let found: Vec<_> = replies
                .iter()
                .map(|got| match got {
                    Got::Reply { op, seq, .. } => (*op, *seq),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(found, wanted, "{transport:?} {size}");
        }
    }
}

/// Every packLen and headerLen that no honest client sends, wherever it stands (goim G5, G6).
#[test]
fn a_frame_that_lies_about_its_length_closes_and_harms_nobody_else() {
    let header = |pack_len, header_len| raw_frame(pack_len, header_len, 1, 2, 1, b"");
    for transport in BOTH {
        let mut world = World::new();
        let bystander = world.open(transport, session_in("bystander", "live://1"));
        let mut closed = 0;
        for (pack_len, header_len, tcp, web) in [
            (i32::MIN, 16, "len", "len"),
            (-1, 16, "len", "len"),
            (0, 16, "len", "len"),
            (15, 16, "len", "len"),
            (4113, 16, "len", "len"),
            (i32::MAX, 16, "len", "len"),
            (16, 15, "len", "len"),
            (16, 17, "len", "len"),
            (16, -16, "len", "len"),
            (16, 0, "len", "len"),
            (17, 16, "", "beyond_message"),
            (4112, 16, "", "beyond_message"),
        ] {
            for logged_in in [false, true] {
                let id = match logged_in {
                    true => world.open(transport, session("k")),
                    false => world.connect(transport),
                };
                let before = world.shard.stats().bad_input.clone();
                // A heartbeat before it is still answered.
                let good = if logged_in { frame(2, 9, b"") } else { Vec::new() };
                world.send(id, &wire::sent(transport, &[good, header(pack_len, header_len)].concat()));
                let label = if transport == Transport::Tcp { tcp } else { web };
                if label.is_empty() {
                    assert!(!world.is_over(id), "the rest may still come");
                    world.leave(id, false);
                    continue;
                }
                closed += 1;
                assert!(world.is_over(id), "{pack_len} {header_len}");
                let mut wanted = Vec::new();
                if logged_in {
                    wanted.extend(wire::reply(transport, &frame(3, 9, &[0; 4])));
                }
                if transport == Transport::WebSocket {
                    wanted.extend(wire::close(1002, "protocol violation"));
                }
                assert_eq!(world.bytes(id), wanted, "{pack_len} {header_len}");
                let before = before.get(&("frame", label)).copied().unwrap_or(0);
                assert_eq!(world.bad("frame", label), before + 1, "{pack_len} {header_len}");
                // Whoever does that before the login is reset at once on TCP.
                let reset = transport == Transport::Tcp && !logged_in;
                assert_eq!(world.socket(id).shut, Some(reset));
            }
        }
        assert_eq!(world.closes(CloseReason::ProtocolViolation), closed);
        world.push_room("live://1", "alive");
        assert_eq!(wire::bodies(&world.got(bystander)), ["alive"]);
    }
}

#[test]
fn the_first_bytes_of_a_bad_frame_are_enough_to_close() {
    let mut world = World::new();
    let id = world.open(Transport::Tcp, session("k"));
    world.send(id, &[0, 0]);
    assert!(!world.is_over(id));
    world.send(id, &[0, 15]);
    assert!(world.is_over(id));
    let id = world.open(Transport::Tcp, session("k"));
    world.send(id, &[0, 0, 0, 16, 0, 17]);
    assert!(world.is_over(id));
}

#[test]
fn a_message_that_ends_inside_a_header_closes() {
    for cut in [1, 3, 4, 15] {
        let mut world = World::new();
        let id = world.open(Transport::WebSocket, session("k"));
        let bytes = [frame(2, 1, b""), frame(2, 2, b"")[..cut].to_vec()].concat();
        world.send(id, &wire::sent(Transport::WebSocket, &bytes));
        assert_eq!(world.bad("frame", "tail"), 1, "{cut}");
        assert!(world.is_over(id));
    }
}
