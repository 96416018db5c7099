//! Every operation of a client, on TCP and on WebSocket, answered to the byte.

use crate::harness::{BOTH, Client, Frame, Login, Server, Transport, eventually, hex, wire::from_server};

/// A reply written as hexadecimal digits is the bare frame; on WebSocket it is alone in a message.
#[track_caller]
fn expect_hex(client: &mut Client, frame: &str) {
    let frame = hex(frame);
    match client.transport {
        Transport::Tcp => client.expect_bytes(&frame),
        Transport::WebSocket => client.expect_bytes(&from_server(0x82, &frame)),
    }
}

#[test]
fn a_login_is_answered_by_an_empty_operation_8() {
    let server = Server::start(&[]);
    for transport in BOTH {
        let mut client = server.connect(transport);
        let body =
            br#"{"mid":123,"key":"k1","room_id":"live://1000","platform":"web","accepts":[1000,1001]}"#;
        client.send(7, 0x0102_0304, &body[..]);
        expect_hex(&mut client, "00000010 0010 0001 00000008 01020304");
        for (target, op) in [("keys?operation=1000&keys=k1", 1000), ("mids?operation=1001&mids=123", 1001)] {
            server.push(target, "x");
            client.expect_push(op, "x");
        }
        server.push("room?operation=2&type=live&room=1000".replace("=2&", "=7777&").as_str(), "x");
        client.expect_push(7777, "x");
        client.leave();
    }
}

#[test]
fn replies_copy_version_and_sequence() {
    let server = Server::start(&[]);
    for transport in BOTH {
        let mut client = server.connect(transport);
        for (op, reply, ver, seq) in
            [(7, 8, 3, -1), (2, 3, 0, i32::MIN), (2, 3, -2, i32::MAX), (1000, 1001, 7, 0)]
        {
            let body = if op == 7 { "{}" } else { "" };
            client.send_bytes(&Frame { ver, op, seq, body: body.into() }.bytes());
            let body: &[u8] = if op == 2 { &[0, 0, 0, 0] } else { b"" };
            client.expect_reply(Frame { ver, op: reply, seq, body: body.into() });
        }
    }
}

#[test]
fn logins_are_read_as_generously_as_goim_and_a_little_more() {
    let server = Server::start(&[]);
    for transport in BOTH {
        for body in [
            "{}",
            "null",
            " {} ",
            r#"{"mid":0}"#,
            r#"{"mid":null,"key":null,"room_id":null,"platform":null,"accepts":null}"#,
            r#"{"key":""}"#,
            r#"{"unknown":{"a":[1,2]}}"#,
        ] {
            let mut client = server.connect(transport);
            client.send(7, 1, body);
            client.expect_reply(Frame::new(8, 1, ""));
            // In no room.
            client.send(2, 2, "");
            client.expect_reply(Frame::new(3, 2, [0, 0, 0, 0]));
        }
        let mut client = server.connect(transport);
        client.send(7, 1, r#"{"MID":"77","Key":"ci","ROOM_ID":"live://7","Accepts":[1000]}"#);
        client.expect_reply(Frame::new(8, 1, ""));
        server.push("mids?operation=1000&mids=77", "a number as text");
        client.expect_push(1000, "a number as text");
        server.push("keys?operation=1000&keys=ci", "names in any case");
        client.expect_push(1000, "names in any case");
    }
}

#[test]
fn a_refused_login_ends_without_a_frame() {
    let server = Server::start(&[]);
    for body in [
        "",
        "{",
        "[]",
        "nonsense",
        "\"text\"",
        "{\"mid\":\"abc\"}",
        r#"{"mid":1.5}"#,
        r#"{"accepts":["1000"]}"#,
        r#"{"accepts":1000}"#,
        r#"{"key":5}"#,
        "\u{0}",
    ] {
        for transport in BOTH {
            let mut client = server.connect(transport);
            client.send(7, 1, body);
            let end = client.end();
            assert_eq!(end.frames, [], "{transport:?} {body:?}");
            match transport {
                Transport::Tcp => assert_eq!(end.close, None),
                Transport::WebSocket => {
                    let (code, text) = end.close.expect("a close");
                    assert_eq!(code, 4401, "{body:?}");
                    assert!(!text.is_empty(), "{body:?}");
                }
            }
        }
    }
}

#[test]
fn eight_operations_before_the_login_are_ignored_and_the_ninth_closes() {
    let server = Server::start(&[]);
    for transport in BOTH {
        for others in [8, 9] {
            let mut client = server.connect(transport);
            for seq in 0..others {
                client.send([2, 4, 12, 1000][seq as usize % 4], seq, "x");
            }
            if others == 8 {
                client.login(&Login::key("late"));
            } else {
                let end = client.end();
                assert_eq!(end.frames, []);
                assert_eq!(end.code(), (transport == Transport::WebSocket).then_some(1002));
            }
        }
    }
}

#[test]
fn a_heartbeat_is_answered_with_the_people_in_the_room_on_all_shards() {
    let server = Server::start(&[]);
    for transport in BOTH {
        // Enough that both shards have some.
        let mut clients: Vec<Client> = (0..8)
            .map(|n| server.client(BOTH[n % 2], &Login::key(&format!("k{n}")).room("live://1000")))
            .collect();
        let mut client = server.client(transport, &Login::key("asks").room("live://1000"));
        eventually("nine people", || {
            client.send(2, 5, "a body that nobody reads");
            let frame = client.frame();
            assert_eq!((frame.ver, frame.op, frame.seq, frame.body.len()), (1, 3, 5, 4));
            (frame.body == [0, 0, 0, 9]).then_some(())
        });
        client.send(2, 0x10, "");
        expect_hex(&mut client, "00000014 0010 0001 00000003 00000010 00000009");
        for client in clients.drain(..4) {
            client.leave();
        }
        eventually("five people", || {
            client.send(2, 6, "");
            (client.frame().body == [0, 0, 0, 5]).then_some(())
        });
        let mut outside = server.client(transport, &Login::key("outside"));
        outside.send(2, 7, "");
        expect_hex(&mut outside, "00000014 0010 0001 00000003 00000007 00000000");
    }
}

#[test]
fn change_room_echoes_the_room_and_the_room_follows() {
    let server = Server::start(&[]);
    let push =
        |room: &str, body: &str| server.push(&format!("room?operation=1000&type=live&room={room}"), body);
    for transport in BOTH {
        let mut client = server.client(transport, &Login::key("k").room("live://1000"));
        push("1000", "first");
        client.expect_push(1000, "first");

        client.send(12, 3, "live://2000");
        expect_hex(&mut client, "0000001b 0010 0001 0000000d 00000003 \"live://2000\"");
        push("1000", "missed");
        push("2000", "second");
        client.expect_push(1000, "second");

        // Into the room it is in already: goim stops delivering (G13).
        client.send(12, 4, "live://2000");
        client.expect_reply(Frame::new(13, 4, "live://2000"));
        push("2000", "still");
        client.expect_push(1000, "still");

        // What is no room changes nothing, and the answer says where the client is.
        for bad in [&b"\x00"[..], b"a\nb", b"\xff\xfe", &[b'x'; 129]] {
            client.send(12, 5, bad);
            client.expect_reply(Frame::new(13, 5, "live://2000"));
        }
        push("2000", "and still");
        client.expect_push(1000, "and still");

        client.send(12, 6, "");
        expect_hex(&mut client, "00000010 0010 0001 0000000d 00000006");
        push("2000", "missed");
        client.send(12, 7, "\u{7f}");
        client.expect_reply(Frame::new(13, 7, ""));

        client.send(12, 8, "no-type-at-all");
        client.expect_reply(Frame::new(13, 8, "no-type-at-all"));
        client.send(12, 9, "live://3000");
        client.expect_reply(Frame::new(13, 9, "live://3000"));
        push("3000", "third");
        client.expect_push(1000, "third");
        client.leave();
    }
}

#[test]
fn subscriptions_answer_with_the_list_that_was_applied() {
    let server = Server::start(&["comet.limits.accepts=4"]);
    let push = |op: i32| server.push(&format!("keys?operation={op}&keys=k"), op.to_string());
    for transport in BOTH {
        let mut client = server.client(transport, &Login::key("k").accepts(&[1000]));
        client.send(14, 1, "1002,1003");
        expect_hex(&mut client, "00000019 0010 0001 0000000f 00000001 \"1002,1003\"");
        client.send(14, 2, " 1002 , 1003 ");
        client.expect_reply(Frame::new(15, 2, "1002,1003"));
        for (seq, bad) in
            ["1002,x", "", "1002,,1003", "1,2,3,4", "99999999999", "\u{0}"].into_iter().enumerate()
        {
            client.send(14, seq as i32, bad);
            client.expect_reply(Frame::new(15, seq as i32, ""));
        }
        for op in [1000, 1002, 1003] {
            push(op);
            client.expect_push(op, op.to_string());
        }

        client.send(16, 3, "1000");
        expect_hex(&mut client, "00000014 0010 0001 00000011 00000003 \"1000\"");
        client.send(16, 4, "1002,nonsense");
        client.expect_reply(Frame::new(17, 4, ""));
        push(1000);
        push(1002);
        client.expect_push(1002, "1002");
        client.leave();
    }
}

#[test]
fn a_message_reaches_every_member_once_and_the_sender_with_its_own_sequence() {
    let server = Server::start(&[]);
    for sender in BOTH {
        let login = |n: usize| Login::key(&format!("k{n}")).room("live://1000");
        let mut members: Vec<Client> = (0..8).map(|n| server.client(BOTH[n % 2], &login(n))).collect();
        let mut elsewhere = server.client(Transport::Tcp, &Login::key("elsewhere").room("live://2000"));
        let mut client = server.client(sender, &login(100));
        for (seq, body) in [(77, "hello"), (78, ""), (-1, "bye")] {
            client.send(4, seq, body);
            for member in &mut members {
                member.expect_push(5, body);
            }
            client.expect_push_with_seq(5, seq, body);
        }
        elsewhere.expect_silence();
        client.expect_silence();
        members.iter_mut().take(2).for_each(Client::expect_silence);
        // Connections of one key would replace each other.
        for client in members.into_iter().chain([elsewhere, client]) {
            client.leave();
        }
    }
    let moved = eventually("connections changed shards", || {
        Some(server.metrics().sum("halley_attached_total")).filter(|attached| *attached > 0.0)
    });
    assert!(moved < 20.0, "each moves at most once, {moved} did");
}

/// There are clients that send version 0 and ignore any other. What one of them said reached the room as version 1.
#[test]
fn a_message_keeps_the_version_its_sender_gave_it() {
    let server = Server::start(&[]);
    for sender in BOTH {
        let login = |n: usize| Login::key(&format!("k{n}")).room("live://1000");
        let mut members: Vec<Client> = (0..6).map(|n| server.client(BOTH[n % 2], &login(n))).collect();
        let mut client = server.client(sender, &login(100));
        for (ver, seq, body) in [(0, 77, "hello"), (2, 0, ""), (-1, -1, "bye"), (1, 3, "as ever")] {
            let said = Frame { ver, ..Frame::new(4, seq, body) };
            client.send_bytes(&said.bytes());
            for member in &mut members {
                assert_eq!(member.frame(), Frame { op: 5, seq: 0, ..said.clone() });
            }
            assert_eq!(client.frame(), Frame { op: 5, ..said });
        }
        // A push is nobody's, and stays what it was.
        server.push("room?operation=1000&type=live&room=1000", "push");
        for client in members.iter_mut().chain([&mut client]) {
            client.expect_push(1000, "push");
        }
        for client in members.into_iter().chain([client]) {
            client.leave();
        }
    }
}

/// Bodies in another encoding were refused as no JSON. Here is one whose `platform` is GBK, one with an unknown field of a
/// name in GBK, and a key that is no text at all.
#[test]
fn a_login_that_is_not_utf8_is_read_as_goim_reads_it() {
    let server = Server::start(&[]);
    let logins: [(&[u8], &str); 5] = [
        (b"{\"mid\":1,\"key\":\"case\",\"accepts\":[1000],\"platform\":\"\xb0\xb2\xd7\xbf\"}", "case"),
        (b"{\"mid\":1,\"key\":\"case\",\"accepts\":[1000],\"\xea\xc7\xb3\xc6\":1}", "case"),
        (b"{\"key\":\"\xff\xfe\",\"accepts\":[1000]}", "%EF%BF%BD%EF%BF%BD"),
        (br#"{"key":"k\ud800","accepts":[1000]}"#, "k%EF%BF%BD"),
        (br#"{"key":"deep","x":[[{"\ud800":1e999}]],"accepts":[1000]}"#, "deep"),
    ];
    for transport in BOTH {
        for (body, key) in logins {
            let mut client = server.connect(transport);
            client.send(7, 5, body);
            client.expect_reply(Frame::new(8, 5, ""));
            server.push(&format!("keys?operation=1000&keys={key}"), "hello");
            client.expect_push(1000, "hello");
            client.leave();
        }
        // A control character in a text is as wrong as it is to goim.
        let mut client = server.connect(transport);
        client.send(7, 5, &b"{\"x\":\"a\0b\"}"[..]);
        assert_eq!(client.end().frames, []);
    }
}

#[test]
fn a_message_outside_any_room_is_answered_with_nothing() {
    let server = Server::start(&[]);
    for transport in BOTH {
        let mut client = server.client(transport, &Login::key("k"));
        client.send(4, 9, "goim's comet would die now");
        expect_hex(&mut client, "00000010 0010 0001 00000005 00000009");
        // A further room is not the room that messages go to.
        client.send(2_000_000_000, 10, "live://1");
        client.expect_reply(Frame::new(2_000_000_001, 10, "live://1"));
        client.send(4, 11, "x");
        client.expect_reply(Frame::new(5, 11, ""));
    }
}

#[test]
fn messages_can_be_refused() {
    let server = Server::start(&["logic.clientMessages=refuse"]);
    for transport in BOTH {
        let mut member = server.client(transport, &Login::key("member").room("live://1000"));
        let mut client = server.client(transport, &Login::key("k").room("live://1000"));
        client.send(4, 9, "x");
        expect_hex(&mut client, "00000010 0010 0001 00000005 00000009");
        client.send(1000, 10, "x");
        client.expect_reply(Frame::new(1001, 10, ""));
        member.expect_silence();
    }
}

#[test]
fn other_operations_are_answered_by_the_next_number() {
    let server = Server::start(&[]);
    for transport in BOTH {
        let mut client = server.client(transport, &Login::key("k").room("live://1000"));
        for (op, reply) in [
            (1000, 1001),
            (0, 1),
            (18, 19),
            (20, 21),
            (22, 23),
            (-7, -6),
            (i32::MIN, i32::MIN + 1),
            (1_999_999_998, 1_999_999_999),
        ] {
            client.send(op, 42, "who knows");
            client.expect_reply(Frame::new(reply, 42, ""));
        }
    }
}

#[test]
fn other_operations_can_be_answered_by_their_own_number() {
    let server = Server::start(&["comet.protocol.unknownOpReply=same"]);
    for transport in BOTH {
        let mut client = server.client(transport, &Login::key("k"));
        for (op, reply) in [(1000, 1000), (0, 0), (18, 18), (4, 5), (2, 3)] {
            client.send(op, 42, "");
            let body: &[u8] = if op == 2 { &[0; 4] } else { b"" };
            client.expect_reply(Frame::new(reply, 42, body));
        }
    }
}

#[test]
fn operations_of_the_server_and_a_second_login_close() {
    let server = Server::start(&[]);
    let ops = [1, 3, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 2_000_000_001, 2_000_000_003];
    for transport in BOTH {
        for op in ops {
            let mut member = server.client(transport, &Login::key("member").room("live://1000"));
            let mut client = server.client(transport, &Login::key("k").room("live://1000"));
            client.send(op, 1, "{}");
            let end = client.end();
            assert_eq!(end.frames, [], "{op}");
            assert_eq!(end.code(), (transport == Transport::WebSocket).then_some(1002), "{op}");
            if op == 5 {
                member.expect_silence();
            }
        }
    }
    server.expect_metric(
        "halley_bad_input_total{proto=\"frame\",reason=\"operation\"}",
        2.0 * ops.len() as f64,
    );
}

#[test]
fn a_device_can_be_in_several_rooms() {
    let server = Server::start(&["comet.limits.rooms=3"]);
    let push = |room: &str| server.push(&format!("room?operation=1000&type=live&room={room}"), room);
    for transport in BOTH {
        let login = Login::key("k").room("live://0").rooms(&["live://1", "live://2"]);
        let mut client = server.client(transport, &login);
        for room in ["0", "1", "2"] {
            push(room);
            client.expect_push(1000, room);
        }
        // One too many.
        client.send(2_000_000_000, 3, "live://3");
        client.expect_reply(Frame::new(2_000_000_001, 3, ""));
        client.send(2_000_000_002, 4, "live://1");
        client.expect_reply(Frame::new(2_000_000_003, 4, "live://1"));
        client.send(2_000_000_000, 5, "live://3");
        client.expect_reply(Frame::new(2_000_000_001, 5, "live://3"));
        // Operation 12 changes the first room and no other.
        client.send(12, 6, "live://9");
        client.expect_reply(Frame::new(13, 6, "live://9"));
        for room in ["0", "1", "2", "3", "9"] {
            push(room);
            if !["0", "1"].contains(&room) {
                client.expect_push(1000, room);
            }
        }
        // Leaving where it is not, and names that are none.
        for (seq, bad) in ["live://1", "", "\u{0}"].into_iter().enumerate() {
            client.send(2_000_000_002, seq as i32, bad);
            client.expect_reply(Frame::new(2_000_000_003, seq as i32, ""));
        }
        // Joining twice delivers once.
        client.send(2_000_000_000, 7, "live://3");
        client.expect_reply(Frame::new(2_000_000_001, 7, "live://3"));
        push("3");
        client.expect_push(1000, "3");
        client.expect_silence();
        client.leave();
    }
}

#[test]
fn several_frames_at_once_are_answered_one_by_one() {
    let server = Server::start(&[]);
    for transport in BOTH {
        // The login and what follows it in one write: it is carried over to the shard of the key.
        for n in 0..8 {
            let mut client = server.connect(transport);
            let mut frames = Frame::new(7, 1, Login::key(&format!("k{n}")).body()).bytes();
            frames.extend(Frame::new(14, 2, "1000").bytes());
            frames.extend(Frame::new(2, 3, "").bytes());
            client.send_bytes(&frames);
            client.expect_reply(Frame::new(8, 1, ""));
            client.expect_reply(Frame::new(15, 2, "1000"));
            client.expect_reply(Frame::new(3, 3, [0; 4]));
            server.push(&format!("keys?operation=1000&keys=k{n}"), "x");
            client.expect_push(1000, "x");
        }
    }
}

#[test]
fn a_stream_cut_anywhere_is_read_the_same() {
    let server = Server::start(&[]);
    let mut stream = Frame::new(7, 1, Login::key("cut").body()).bytes();
    stream.extend(Frame::new(12, 2, "live://1").bytes());
    stream.extend(Frame::new(2, 3, "").bytes());
    for at in 1..stream.len() {
        let mut client = server.connect(Transport::Tcp);
        client.write(&stream[..at]);
        // Enough that the two parts are read one by one most of the time; never needed for the outcome.
        std::thread::yield_now();
        client.write(&stream[at..]);
        client.expect_reply(Frame::new(8, 1, ""));
        client.expect_reply(Frame::new(13, 2, "live://1"));
        let heartbeat = client.frame();
        assert_eq!((heartbeat.op, heartbeat.seq), (3, 3));
        client.leave();
    }
}
