//! RFC 6455 as the shard uses it: upgrade, control frames, fragments, violations.

use contract::Transport;
use proto::close::CloseReason;
use shard::mail::{ConnectionId, Outcome};
use testkit::{
    wire::{self, Got, fragment, frame, masked, raw_frame},
    world::{Said, World, session},
};

fn open(world: &mut World) -> ConnectionId {
    world.open(Transport::WebSocket, session("k"))
}

fn closed_with(code: u16, text: &str) -> Vec<Got> {
    vec![Got::Close { code, text: text.to_owned() }]
}

#[test]
fn an_upgrade_is_answered_with_101_in_whatever_pieces_it_comes() {
    let request = wire::upgrade("/sub?token=secret", "");
    for size in [1, 2, 100, usize::MAX] {
        let mut world = World::new();
        world.read_size = size;
        let id = world.accept(Transport::WebSocket).expect("room for it");
        world.send(id, &request);
        let answer = String::from_utf8(world.bytes(id)).expect("text");
        assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
        assert!(answer.contains("\r\nSec-WebSocket-Accept: ") && answer.ends_with("\r\n\r\n"), "{answer}");
    }
}

#[test]
fn what_comes_with_the_upgrade_is_read_as_websocket() {
    let mut world = World::new();
    let id = world.accept(Transport::WebSocket).expect("room for it");
    let login = masked(wire::BINARY, &frame(7, 1, b"{}"));
    let ping = masked(wire::PING, b"after");
    world.send(id, &[wire::upgrade("/sub", ""), masked(wire::PING, b"hi"), login, ping].concat());
    assert_eq!(world.got(id), [Got::Http(101), Got::Pong(b"hi".to_vec())]);
    world.verdict(id, Outcome::Open(session("k")));
    let op_8 = Got::Reply { op: 8, seq: 1, body: Vec::new() };
    assert_eq!(world.got(id), [op_8, Got::Pong(b"after".to_vec())]);
}

/// Scripts give a login up by `socket.close()`, which leaves the socket open until the close is answered: the login was carried
/// out, and closed the connection that the key had.
#[test]
fn a_login_with_a_close_frame_behind_it_is_not_asked() {
    let login = || masked(wire::BINARY, &frame(7, 1, b"{}"));
    let close = || masked(wire::CLOSE, &1000u16.to_be_bytes());
    for behind in [vec![], masked(wire::PING, b"hi"), masked(wire::BINARY, &[7; 300])] {
        let mut world = World::new();
        let id = world.connect(Transport::WebSocket);
        world.said();
        world.send(id, &[login(), behind, close()].concat());
        assert_eq!(world.said(), []);
        assert_eq!(world.closes(CloseReason::ClientClosed), 1);
    }
    // Half a close, and what only looks like one, is none.
    for behind in [close()[..1].to_vec(), masked(wire::BINARY, &close())] {
        let mut world = World::new();
        let id = world.connect(Transport::WebSocket);
        world.said();
        world.send(id, &[login(), behind].concat());
        assert!(matches!(world.said()[..], [Said::Login { .. }]));
    }
}

#[test]
fn a_refused_upgrade_gets_its_status_and_the_end() {
    let get = |target: &str| String::from_utf8(wire::upgrade(target, "")).expect("text");
    for (request, status, label) in [
        (get("/other"), 404, "path"),
        (get("/sub").replace("GET", "POST"), 405, "method"),
        (get("/sub").replace("Version: 13", "Version: 8"), 426, "version"),
        (get("/sub").replace("Sec-WebSocket-Key", "X-Key"), 400, "bad_request"),
        (get("/sub").replace("\r\n\r\n", "\r\nOrigin: https://evil.test\r\n\r\n"), 403, "origin"),
        (get(&format!("/sub?{}", "x".repeat(9000))), 431, "head_len"),
        ("\x01\x03\x01\0\0\r\n\r\n".to_owned(), 400, "bad_request"),
    ] {
        let mut world = World::new();
        let id = world.accept(Transport::WebSocket).expect("room for it");
        world.send(id, request.as_bytes());
        assert_eq!(world.got(id), [Got::Http(status)]);
        assert!(world.is_over(id));
        assert_eq!(
            (world.bad("http", label), world.closes(CloseReason::ProtocolViolation)),
            (1, 1),
            "{label}"
        );
        assert_eq!(world.socket(id).shut, Some(false), "the answer must arrive");
    }
}

/// A client that was given the port without TLS. Inside TLS the same bytes are no hello to us.
#[test]
fn a_hello_of_tls_on_a_port_without_it_is_told_apart() {
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on\r\n\r\n";
    for transport in [Transport::Tcp, Transport::WebSocket] {
        for over_tls in [false, true] {
            let mut world = World::new();
            world.over_tls = over_tls;
            let id = world.accept(transport).expect("room for it");
            world.send(id, hello);
            assert!(world.is_over(id));
            assert_eq!(world.bad("tls", "clear_port"), u64::from(!over_tls), "{transport:?}");
            assert_eq!(world.closes(CloseReason::ProtocolViolation), 1);
        }
    }
}

#[test]
fn pings_are_answered_with_their_payload() {
    let mut world = World::new();
    let id = open(&mut world);
    world.send(id, &[masked(wire::PING, b""), masked(wire::PING, &[7; 125])].concat());
    assert_eq!(world.bytes(id), [vec![0x8a, 0], wire::from_server(0x8a, &[7; 125])].concat());
    world.send(id, &masked(wire::PONG, b"unasked"));
    assert!(world.bytes(id).is_empty());
}

#[test]
fn frames_may_come_as_text_and_in_fragments_with_pings_between() {
    let mut world = World::new();
    let id = open(&mut world);
    world.send(id, &masked(wire::TEXT, &frame(2, 1, b"")));
    let bytes = frame(14, 2, b"1000,1001");
    world.send(
        id,
        &[
            fragment(wire::BINARY, false, &bytes[..5]),
            masked(wire::PING, b"p"),
            fragment(wire::CONTINUATION, false, &[]),
            fragment(wire::CONTINUATION, true, &bytes[5..]),
            masked(wire::BINARY, &frame(2, 3, b"")),
        ]
        .concat(),
    );
    let hearts = |seq| Got::Reply { op: 3, seq, body: vec![0; 4] };
    let list = Got::Reply { op: 15, seq: 2, body: b"1000,1001".to_vec() };
    assert_eq!(world.got(id), [hearts(1), Got::Pong(b"p".to_vec()), list, hearts(3)]);
}

#[test]
fn an_empty_message_says_nothing() {
    let mut world = World::new();
    let id = open(&mut world);
    world.send(id, &[masked(wire::BINARY, b""), masked(wire::TEXT, b"")].concat());
    assert!(world.bytes(id).is_empty() && !world.is_over(id));
}

#[test]
fn violations_close_with_the_code_of_the_rfc() {
    let unmasked = wire::from_server(0x82, &frame(2, 1, b""));
    let with = |first: u8| {
        let mut bytes = masked(wire::BINARY, b"");
        bytes[0] = first;
        bytes
    };
    let many: Vec<u8> = std::iter::once(fragment(wire::BINARY, false, b""))
        .chain((0..100).map(|_| fragment(wire::CONTINUATION, false, b"")))
        .flatten()
        .collect();
    for (name, bytes, code, reason) in [
        ("unmasked", unmasked, 1002, CloseReason::ProtocolViolation),
        ("reserved bit", with(0xc2), 1002, CloseReason::ProtocolViolation),
        ("reserved opcode", with(0x83), 1002, CloseReason::ProtocolViolation),
        ("stray continuation", with(0x80), 1002, CloseReason::ProtocolViolation),
        ("fragmented ping", with(0x09), 1002, CloseReason::ProtocolViolation),
        ("close of one byte", masked(wire::CLOSE, b"\x03"), 1002, CloseReason::ProtocolViolation),
        ("close code 1005", masked(wire::CLOSE, b"\x03\xed"), 1002, CloseReason::ProtocolViolation),
        ("close reason", masked(wire::CLOSE, b"\x03\xe8\xff"), 1007, CloseReason::BadUtf8),
        ("text", masked(wire::TEXT, b"\xc3\x28"), 1007, CloseReason::BadUtf8),
        ("fragments", many, 1008, CloseReason::LimitBroken),
        ("message", masked(wire::BINARY, &[0; 65_537]), 1009, CloseReason::MessageTooBig),
    ] {
        for logged_in in [false, true] {
            let mut world = World::new();
            let id = if logged_in { open(&mut world) } else { world.connect(Transport::WebSocket) };
            world.send(id, &bytes);
            assert_eq!(world.got(id), closed_with(code, reason.text()), "{name}");
            assert!(world.is_over(id), "{name}");
            assert_eq!(world.closes(reason), 1, "{name}");
            let labels = world.shard.stats().bad_input.keys().filter(|(proto, _)| *proto == "websocket");
            assert_eq!(labels.count(), 1, "{name}");
        }
    }
}

/// goim G5: two fragments before the login, the frame inside longer than what comes, and the whole comet dies.
#[test]
fn fragments_with_a_lying_length_inside_harm_nobody() {
    for pack_len in [i32::MIN, -1, 0, 15, 4113, i32::MAX, 17, 4112] {
        for logged_in in [false, true] {
            let mut world = World::new();
            let bystander = world.open(Transport::WebSocket, session("bystander"));
            let id = if logged_in { open(&mut world) } else { world.connect(Transport::WebSocket) };
            let bytes = raw_frame(pack_len, 16, 1, 7, 1, b"");
            world.send(id, &fragment(wire::BINARY, false, &bytes[..7]));
            world.send(id, &fragment(wire::CONTINUATION, true, &bytes[7..]));
            assert_eq!(world.got(id), closed_with(1002, "protocol violation"), "{pack_len}");
            let label = if matches!(pack_len, 17 | 4112) { "beyond_message" } else { "len" };
            assert_eq!(world.bad("frame", label), 1, "{pack_len}");
            world.say(bystander, 2, 1, b"");
            assert_eq!(world.got(bystander).len(), 1);
        }
    }
}

/// goim G6: a frame longer than its message is answered with the bytes of other clients that lie behind it.
#[test]
fn a_frame_longer_than_its_message_is_never_answered() {
    let mut world = World::new();
    let id = open(&mut world);
    let other = world.ask_login(Transport::WebSocket);
    world.send(id, &masked(wire::BINARY, &raw_frame(4112, 16, 1, 4, 1, b"short")));
    assert_eq!(world.got(id), closed_with(1002, "protocol violation"));
    assert_eq!(world.bad("frame", "beyond_message"), 1);
    assert!(world.is_held(other));
}

#[test]
fn a_frame_never_goes_on_in_the_next_message() {
    let mut world = World::new();
    let id = open(&mut world);
    let bytes = frame(2, 1, b"body");
    world.send(id, &masked(wire::BINARY, &bytes[..18]));
    assert!(world.is_over(id));
}

#[test]
fn nothing_is_read_after_a_violation() {
    let mut world = World::new();
    let id = open(&mut world);
    world.socket_mut(id).stubborn = true;
    world.send(id, &[masked(wire::BINARY, b"x"), masked(wire::PING, b"y")].concat());
    world.send(id, &masked(wire::PING, b"z"));
    assert_eq!(world.got(id), closed_with(1002, "protocol violation"));
    assert_eq!(world.shard.stats().bad_input.values().sum::<u64>(), 1);
}
