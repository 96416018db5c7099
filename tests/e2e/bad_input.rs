//! What no honest client sends: every row gets its answer and a counter, and the process goes on as if nothing had been.

use std::{thread, time::Duration};

use crate::harness::{
    BOTH, Client, Frame, Login, Next, PATIENCE, Server, Stopwatch, Transport, eventually, hex, masked,
};

/// A header with lengths of its own.
fn header(pack_len: i32, header_len: i16, op: i32) -> Vec<u8> {
    let mut bytes = Frame::new(op, 1, "").bytes();
    bytes[..4].copy_from_slice(&pack_len.to_be_bytes());
    bytes[4..6].copy_from_slice(&header_len.to_be_bytes());
    bytes
}

/// Sends bytes as they are, before and after the login, and expects the end without a frame.
#[track_caller]
fn expect_close(server: &Server, transport: Transport, bytes: &[u8], codes: &[u16]) {
    for logged_in in [false, true] {
        let mut client = server.connect(transport);
        if logged_in {
            client.login(&Login::key("victim").room("live://1000").accepts(&[1000]));
        }
        client.write(bytes);
        let end = client.end();
        let shown = &bytes[..bytes.len().min(40)];
        assert_eq!(end.frames, [], "{transport:?}, logged in {logged_in}: {shown:02x?}");
        if transport == Transport::WebSocket {
            let code = end.code().unwrap_or_else(|| panic!("no close after {shown:02x?}: {end:?}"));
            assert!(codes.contains(&code), "{code} after {shown:02x?}, logged in {logged_in}");
        }
    }
}

/// The process is the same one, and a good client gets what it should.
#[track_caller]
fn expect_well(server: &mut Server) {
    assert!(server.is_running());
    for transport in BOTH {
        let mut client = server.client(transport, &Login::key("good").room("live://1000").accepts(&[1000]));
        server.push("keys?operation=1000&keys=good", "well");
        client.expect_push(1000, "well");
        client.leave();
    }
}

fn frames_with_lying_lengths(server: &Server) {
    for pack_len in [i32::MIN, -65_536, -1, 0, 1, 15, 4113, 65_536, 0x0100_0000, i32::MAX] {
        let bytes = header(pack_len, 16, 2);
        // Four bytes are enough to know.
        expect_close(server, Transport::Tcp, &bytes[..4], &[]);
        expect_close(server, Transport::Tcp, &bytes, &[]);
        expect_close(server, Transport::WebSocket, &masked(0x82, &bytes), &[1002]);
    }
    for header_len in [i16::MIN, -1, 0, 1, 15, 17, 32, i16::MAX] {
        let bytes = header(16, header_len, 2);
        expect_close(server, Transport::Tcp, &bytes[..6], &[]);
        expect_close(server, Transport::WebSocket, &masked(0x82, &bytes), &[1002]);
    }
    // A message that ends inside a header, or before its frame does.
    for len in [1, 3, 4, 15] {
        expect_close(server, Transport::WebSocket, &masked(0x82, &header(16, 16, 2)[..len]), &[1002]);
    }
    for pack_len in [17, 32, 4112] {
        expect_close(server, Transport::WebSocket, &masked(0x82, &header(pack_len, 16, 2)), &[1002]);
    }
    // Behind a frame that is right. Its answer may come first.
    let mut second = Frame::new(14, 1, "1000").bytes();
    second.extend(header(-1, 16, 2));
    for transport in BOTH {
        let mut client = server.client(transport, &Login::key("victim"));
        client.send_bytes(&second);
        let end = client.end();
        assert!(end.frames.iter().all(|frame| *frame == Frame::new(15, 1, "1000")), "{end:?}");
    }
}

fn websocket_frames_against_the_rules(server: &Server) {
    let heartbeat = Frame::new(2, 1, "").bytes();
    let unmasked = [&[0x82, 16][..], &heartbeat].concat();
    let mut rows: Vec<(Vec<u8>, &[u16])> = vec![
        (unmasked, &[1002]),
        // Fragmented or too long control frames.
        (masked(0x09, b""), &[1002]),
        (masked(0x08, b""), &[1002]),
        (masked(0x89, &[0; 126]), &[1002]),
        (masked(0x88, &[0x03, 0xe8].repeat(70)), &[1002]),
        // A continuation of nothing, and a message inside another.
        (masked(0x80, b"x"), &[1002]),
        (masked(0x00, b"x"), &[1002]),
        ([masked(0x02, b"x"), masked(0x82, b"x")].concat(), &[1002]),
        ([masked(0x01, b"x"), masked(0x01, b"x")].concat(), &[1002]),
        // Lengths that are not minimal, or no length at all.
        (hex("82 fe 0005 00000000 0000000000"), &[1002]),
        (hex("82 ff 0000000000000010 00000000"), &[1002]),
        (hex("82 ff 000000000000ffff 00000000"), &[1002]),
        (hex("82 ff 8000000000000000 00000000"), &[1002, 1009]),
        (hex("82 ff ffffffffffffffff 00000000"), &[1002, 1009]),
        (hex("82 ff 0000000000010001 00000000"), &[1009]),
        (hex("82 ff 7fffffffffffffff 00000000"), &[1009]),
        // Text that is none, also when only the second fragment shows it.
        (masked(0x81, b"\xc0\x80"), &[1007]),
        (masked(0x81, b"\xed\xa0\x80"), &[1007]),
        (masked(0x81, b"caf\xc3"), &[1007]),
        ([masked(0x01, b"\xe2\x82"), masked(0x80, b"x")].concat(), &[1007]),
        // Closes.
        (masked(0x88, b"\x03"), &[1002]),
        (masked(0x88, b"\x03\xe8\xff\xfe"), &[1007]),
    ];
    for first in [0xc2, 0xa2, 0x92, 0xf2, 0x83, 0x84, 0x87, 0x8b, 0x8f] {
        rows.push((masked(first, b""), &[1002]));
    }
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        rows.push((masked(0x88, &code.to_be_bytes()), &[1002]));
    }
    for (bytes, codes) in rows {
        expect_close(server, Transport::WebSocket, &bytes, codes);
    }
    // Fragments without end: 101 of them, or more bytes than a message may have.
    let fragments: Vec<u8> = [masked(0x02, b""), masked(0x00, b"").repeat(101)].concat();
    expect_close(server, Transport::WebSocket, &fragments, &[1008]);
    let big: Vec<u8> = [masked(0x02, &[0; 60_000]), masked(0x00, &[0; 6_000])].concat();
    expect_close(server, Transport::WebSocket, &big, &[1009]);
}

/// What kills goim's comet, or makes it talk of others (docs/PROTOCOL.md section 11, G5 to G7).
fn what_kills_goim(server: &Server) {
    // G5: two fragments before the login, and a length that is more than both.
    for pack_len in [4112, 64, i32::MAX, -1] {
        let frame = header(pack_len, 16, 7);
        let fragments = [masked(0x02, &frame[..8]), masked(0x80, &frame[8..])].concat();
        expect_close(server, Transport::WebSocket, &fragments, &[1002]);
    }
    // G6: a length that lies in one message; the reply would carry what others had sent.
    let mut secret = server.client(Transport::WebSocket, &Login::key("secret-login-token"));
    secret.send(14, 1, "1000");
    assert_eq!(secret.frame().op, 15);
    for op in [12, 14, 16, 1000, 2_000_000_000] {
        let mut client = server.client(Transport::WebSocket, &Login::key("curious"));
        client.write(&masked(0x82, &[header(4112, 16, op), b"1".to_vec()].concat()));
        let end = client.end();
        assert_eq!((end.frames.len(), end.code()), (0, Some(1002)), "{op}");
    }
    // G7: a message from nowhere. And one in a room, whose members' framing must hold.
    for transport in BOTH {
        let mut client = server.client(transport, &Login::key("homeless"));
        client.send(4, 1, "x");
        client.expect_reply(Frame::new(5, 1, ""));
    }
    let mut members: Vec<Client> =
        (0..6).map(|n| server.client(BOTH[n % 2], &Login::key(&format!("m{n}")).room("live://g7"))).collect();
    for seq in 1..=50 {
        members[0].send(4, seq, format!("body {seq}"));
    }
    for (n, member) in members.iter_mut().enumerate() {
        for seq in 1..=50 {
            member.expect_push_with_seq(5, if n == 0 { seq } else { 0 }, format!("body {seq}"));
        }
    }
}

fn sizes_and_names_out_of_bounds(server: &Server) {
    for transport in BOTH {
        // The longest frame there is, and what it says is no JSON.
        let mut client = server.connect(transport);
        client.send(7, 1, vec![b'['; 4096]);
        assert_eq!(client.end().frames, []);
        let mut client = server.connect(transport);
        client.send(7, 1, format!("{}{}", "[".repeat(2048), "]".repeat(2048)));
        assert_eq!(client.end().frames, []);

        // Keys, rooms and lists that are too long or have strange signs.
        for login in [
            Login::key("k").room(&"x".repeat(129)),
            Login::key("k").room("a\u{0}b"),
            Login::key("k").rooms(&["fine", "not\nfine"]),
            Login::key("k").room("\u{1b}[31m"),
        ] {
            let mut client = server.connect(transport);
            client.send(7, 1, login.body());
            // Refused, or let in without the room: never in it.
            if let Next::Frame(frame) = client.next(PATIENCE) {
                assert_eq!(frame, Frame::new(8, 1, ""));
            }
        }
        let longest = format!("live://{}", "x".repeat(121));
        let mut client = server.client(transport, &Login::key("k").room(&longest));
        server.push(&format!("room?operation=1000&type=live&room={}", &longest[7..]), "x");
        client.expect_push(1000, "x");
        for op in [12, 14, 16, 2_000_000_000, 1000, 4] {
            client.send(op, 1, vec![0xff; 4096]);
            assert_eq!(client.frame().op, op + 1);
        }
    }
}

#[test]
fn nothing_a_client_sends_harms_the_process() {
    let mut server = Server::start(&[]);
    expect_well(&mut server);
    let pid = server.pid();
    let before = server.metrics().sum("halley_bad_input_total");
    let mut after_first = 0;
    for round in 0..3 {
        frames_with_lying_lengths(&server);
        websocket_frames_against_the_rules(&server);
        what_kills_goim(&server);
        sizes_and_names_out_of_bounds(&server);
        expect_well(&mut server);
        if round == 0 {
            after_first = server.memory();
        }
    }
    assert_eq!(server.pid(), pid);
    eventually("every row is counted", || {
        (server.metrics().sum("halley_bad_input_total") - before >= 3.0 * 200.0).then_some(())
    });
    let grown = server.memory().saturating_sub(after_first);
    assert!(grown < 2 << 20, "{grown} bytes more after the third round than after the first");
    let log = server.log();
    assert!(log.len() < 64 << 10, "{} bytes of log for what outsiders did", log.len());
    assert!(!log.contains("secret-login-token"), "what a client sent is in the log");
}

#[test]
fn the_wrong_protocol_on_a_port_is_refused() {
    let mut server = Server::start(&["comet.protocol.handshakeTimeout=500ms"]);
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        &[0; 64],
        &[0xff; 64],
    ] {
        let mut client = Client::raw(Transport::Tcp, server.tcp);
        client.write(bytes);
        assert_eq!(client.end().frames, []);
    }
    // goim frames on the WebSocket port.
    let mut client = Client::raw(Transport::WebSocket, server.ws);
    client.write(&Frame::new(7, 1, "{}").bytes());
    assert!(client.head().starts_with("HTTP/1.1 4"));
    expect_well(&mut server);
}

#[test]
fn broken_upgrades_are_answered_by_their_status() {
    let mut server = Server::start(&["comet.websocket.origins=https://app.example.com"]);
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    let upgrade = "Host: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    let with = |extra: &str| format!("GET /sub HTTP/1.1\r\n{upgrade}{key}{version}{extra}\r\n");
    let line = |line: &str| format!("{line}\r\n{upgrade}{key}{version}\r\n");
    let long_line = format!("X: {}\r\n", "x".repeat(8190));
    let cookie = |sizes: &[usize]| {
        let cookies = sizes.iter().map(|size| format!("c={}", "x".repeat(size - 2)));
        format!("Cookie: {}\r\n", cookies.collect::<Vec<_>>().join("; "))
    };
    let with_len = |len: usize| {
        let line = format!("X: {}\r\n", "x".repeat(8100));
        with(&format!("{line}Y: {}\r\n", "y".repeat(len - with(&format!("{line}Y: \r\n")).len())))
    };
    let rows: Vec<(u16, String)> = vec![
        (101, with("")),
        (101, line("GET /sub?token=x&a=b HTTP/1.1")),
        (101, with("Origin: https://app.example.com\r\n")),
        (101, with("Sec-WebSocket-Protocol: chat, superchat\r\n")),
        (101, with("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n")),
        (101, with("Cookie: session=1\r\n")),
        // As large as browsers let them become, and several, also as lines of their own; tokens in the URL.
        (101, with(&cookie(&[4096]))),
        (101, with(&cookie(&[2300, 2300, 2400]))),
        (101, with(&cookie(&[4096]).repeat(3))),
        (101, line(&format!("GET /sub?token={} HTTP/1.1", "t".repeat(8000)))),
        (101, with_len(16_384)),
        (101, with("Content-Length: 0\r\n")),
        (101, with("Content-Length: 0\r\nContent-Length: 0\r\n")),
        (101, line("GET http://localhost/sub HTTP/1.1")),
        (101, with("Expect: 100-continue\r\n")),
        (
            101,
            with("")
                .replace("Connection: Upgrade", "Connection: keep-alive, upgrade")
                .replace("websocket", "WebSocket"),
        ),
        (400, with("").replace(key, "")),
        (400, with("").replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=")),
        (400, with("").replace("dGhlIHNhbXBsZSBub25jZQ==", "!!!!IHNhbXBsZSBub25jZQ==")),
        (400, with(key)),
        (400, with(version)),
        (426, with("").replace(": 13", ": 12")),
        (426, with("").replace(version, "")),
        (400, with("").replace("Upgrade: websocket\r\n", "")),
        (400, with("").replace("Connection: Upgrade\r\n", "")),
        (400, with("").replace("Host: localhost\r\n", "")),
        (400, with("Host: other\r\n")),
        (400, with("Content-Length: 5\r\n")),
        (400, with("Content-Length: 0\r\nContent-Length: 5\r\n")),
        (400, with("Transfer-Encoding: chunked\r\n")),
        (400, with("X: a\r\n folded\r\n")),
        (400, with("X : space\r\n")),
        (400, with("X: nul\0\r\n")),
        (400, with("").replace("\r\n", "\n")),
        (400, with("X: bare\rreturn\r\n")),
        (400, line("GET /sub HTTP/1.0")),
        (400, line("GET http://elsewhere/sub HTTP/1.1")),
        (400, line("GET /sub")),
        (400, line("nonsense")),
        (404, line("GET / HTTP/1.1")),
        (404, line("GET /sub/ HTTP/1.1")),
        (404, line("GET /submarine HTTP/1.1")),
        (405, line("POST /sub HTTP/1.1")),
        (405, line("HEAD /sub HTTP/1.1")),
        (403, with("Origin: https://evil.example.com\r\n")),
        (403, with("Origin: null\r\n")),
        (400, with(&format!("Sec-WebSocket-Protocol: {}x\r\n", "a,".repeat(1000)))),
        (431, with(&format!("Sec-WebSocket-Protocol: {}x\r\n", "a,".repeat(10_000)))),
        (431, with(&long_line)),
        (431, with(&"X: 1\r\n".repeat(65))),
        (431, with(&format!("X: {}\r\n", "x".repeat(2000)).repeat(9))),
        (431, with_len(16_385)),
        (431, format!("GET /sub?{} HTTP/1.1\r\n", "x".repeat(9000))),
    ];
    let refused = rows.iter().filter(|(status, _)| *status != 101).count();
    for (status, request) in rows {
        let shown = &request[..request.len().min(300)];
        let mut client = Client::raw(Transport::WebSocket, server.ws);
        client.write(request.as_bytes());
        let head = client.head();
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{status} is the answer to {shown:?}, not {head:?}"
        );
        assert_eq!(head.contains("Sec-WebSocket-Version: 13\r\n"), status == 426, "{head}");
        assert!(
            !head.contains("Sec-WebSocket-Extensions") && !head.contains("Sec-WebSocket-Protocol"),
            "{head}"
        );
        if status == 101 {
            client.login(&Login::key("upgraded"));
            client.leave();
        }
    }
    eventually("every refusal is counted", || {
        (server.metrics().sum("halley_bad_input_total") >= refused as f64).then_some(())
    });
    expect_well(&mut server);
}

#[test]
fn pages_of_the_same_host_may_connect_and_others_not() {
    let server = Server::start(&[]);
    for (origin, status) in [
        ("http://localhost", 101),
        ("http://localhost:8080", 101),
        ("https://localhost", 101),
        ("https://evil.example.com", 403),
        ("http://localhost.example.com", 403),
        ("null", 403),
    ] {
        let mut client = Client::raw(Transport::WebSocket, server.ws);
        client.write(
            format!(
                "GET /sub HTTP/1.1\r\nHost: localhost:3102\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: {origin}\r\n\r\n"
            )
            .as_bytes(),
        );
        let head = client.head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{origin}: {head}");
    }
}

#[test]
fn bytes_behind_the_upgrade_are_websocket() {
    let server = Server::start(&[]);
    let mut request =
        b"GET /sub HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            .to_vec();
    request.extend(masked(0x82, &Frame::new(7, 1, "{}").bytes()));
    request.extend(masked(0x89, b"ping"));
    let mut client = Client::raw(Transport::WebSocket, server.ws);
    client.write(&request);
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    client.expect_reply(Frame::new(8, 1, ""));
    client.expect_bytes(&hex("8a 04 \"ping\""));
    // A second request is none: it is a frame against the rules.
    let mut client = server.connect(Transport::WebSocket);
    client.write(b"GET /sub HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.end().code(), Some(1002));
}

#[test]
fn pings_are_answered_and_fragments_put_together() {
    let server = Server::start(&[]);
    let mut client = server.connect(Transport::WebSocket);
    for payload in [&b""[..], b"x", &[7; 125]] {
        client.write(&masked(0x89, payload));
        client.expect_bytes(&[&[0x8a, payload.len() as u8][..], payload].concat());
    }
    client.write(&masked(0x8a, b"a pong that nobody asked for"));
    // The login in pieces, a ping between them; text serves as well as binary.
    let login = Frame::new(7, 1, "{}").bytes();
    client.write(&masked(0x01, &login[..5]));
    client.write(&masked(0x00, b""));
    client.write(&masked(0x89, b"between"));
    client.expect_bytes(&hex("8a 07 \"between\""));
    client.write(&masked(0x80, &login[5..]));
    client.expect_reply(Frame::new(8, 1, ""));
    // An empty message is nothing.
    client.write(&masked(0x82, b""));
    // One byte after the other.
    for byte in masked(0x82, &Frame::new(2, 2, "").bytes()) {
        client.write(&[byte]);
    }
    client.expect_reply(Frame::new(3, 2, [0; 4]));
}

#[test]
fn dripping_bytes_end_at_the_deadline_and_delay_nobody() {
    let mut server = Server::start(&["comet.protocol.handshakeTimeout=1s", "comet.protocol.frameTimeout=1s"]);
    let mut dripping: Vec<Client> =
        (0..40).map(|n| Client::raw(BOTH[n % 2], server.address(BOTH[n % 2]))).collect();
    for client in &mut dripping[20..] {
        if client.transport == Transport::WebSocket {
            client.upgrade("/sub", "");
        }
        client.login(&Login::default());
    }
    let started = Stopwatch::start();
    let mut open = dripping.len();
    while open > 0 {
        assert!(started.elapsed() < Duration::from_secs(8), "{open} are still open");
        for client in &mut dripping {
            // A frame or a head that never becomes complete.
            client.write(match client.transport {
                Transport::Tcp => &[0],
                Transport::WebSocket => b"G",
            });
        }
        expect_well(&mut server);
        thread::sleep(Duration::from_millis(100));
        open = 0;
        for client in &mut dripping {
            open += usize::from(!matches!(client.next(Duration::from_millis(1)), Next::End(_)));
        }
    }
}
