//! Every way a server closes that can be brought about from outside: the code of the WebSocket close, operation 6 for those
//! who asked for it, the counter.

use std::{thread, time::Duration};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{
    BOTH, Client, End, Frame, Frozen, Http, Login, Next, PATIENCE, Server, Stopwatch, Transport, drivers,
    eventually, hex, masked,
};

/// One row of the table of close reasons.
struct Reason {
    code: u16,
    label: &'static str,
    text: &'static str,
    reconnect: bool,
}

const PROTOCOL_VIOLATION: Reason =
    Reason { code: 1002, label: "protocol_violation", text: "protocol violation", reconnect: false };
const BAD_UTF8: Reason = Reason { code: 1007, label: "bad_utf8", text: "bad UTF-8", reconnect: false };
const LIMIT_BROKEN: Reason =
    Reason { code: 1008, label: "limit_broken", text: "limit broken", reconnect: true };
const MESSAGE_TOO_BIG: Reason =
    Reason { code: 1009, label: "message_too_big", text: "message too big", reconnect: false };
const HEARTBEAT_TIMEOUT: Reason =
    Reason { code: 4408, label: "heartbeat_timeout", text: "heartbeat timeout", reconnect: true };
const REPLACED: Reason = Reason { code: 4409, label: "replaced", text: "replaced", reconnect: false };
const SLOW_CONSUMER: Reason =
    Reason { code: 4413, label: "slow_consumer", text: "slow consumer", reconnect: true };
const KICKED: Reason = Reason { code: 4420, label: "kicked", text: "kicked", reconnect: false };

fn counter(label: &str) -> String {
    format!("halley_closes_total{{reason=\"{label}\"}}")
}

/// A logged-in client on each transport with reasons and without, closed by `provoke`.
#[track_caller]
fn check(server: &Server, transports: &[Transport], reason: &Reason, provoke: impl Fn(&mut Client)) {
    let before = server.metrics().count(&counter(reason.label));
    let mut closed = 0.0;
    for transport in transports {
        for asked in [true, false] {
            let login = Login::key("k").room("live://1000").accepts(&[1000]);
            let mut client = server.client(*transport, &if asked { login.reasons() } else { login });
            provoke(&mut client);
            let mut end = client.end();
            end.frames.retain(|frame| ![3, 13, 1000].contains(&frame.op));
            expect_end(&end, *transport, asked, reason);
            closed += 1.0;
        }
    }
    server.expect_metric(&counter(reason.label), before + closed);
}

#[track_caller]
fn expect_end(end: &End, transport: Transport, asked: bool, reason: &Reason) {
    match transport {
        Transport::Tcp => assert_eq!(end.close, None),
        Transport::WebSocket => assert_eq!(end.close, Some((reason.code, reason.text.to_owned()))),
    }
    let body = json!({"code": reason.code, "reason": reason.text, "reconnect": reason.reconnect});
    assert_eq!(end.reason(), asked.then_some(body), "{transport:?} {end:?}");
    assert_eq!(end.frames.len(), usize::from(asked), "{transport:?} {end:?}");
}

#[test]
fn protocol_violation() {
    let server = Server::start(&[]);
    check(&server, &BOTH, &PROTOCOL_VIOLATION, |client| {
        client.send_bytes(&hex("00000010 0011 0001 00000002 00000000"));
    });
    check(&server, &BOTH, &PROTOCOL_VIOLATION, |client| client.send(8, 1, ""));
    // A frame of the WebSocket itself: a reserved bit.
    check(&server, &[Transport::WebSocket], &PROTOCOL_VIOLATION, |client| client.write(&masked(0xc2, b"")));
}

#[test]
fn bad_utf8() {
    let server = Server::start(&[]);
    check(&server, &[Transport::WebSocket], &BAD_UTF8, |client| client.write(&masked(0x81, b"\xff\xfe")));
}

#[test]
fn message_too_big() {
    let server = Server::start(&["comet.websocket.messageMax=4112"]);
    // From the header alone, of one message and of the sum of two fragments.
    check(&server, &[Transport::WebSocket], &MESSAGE_TOO_BIG, |client| {
        client.write(&hex("82 fe 1011 00000000"))
    });
    check(&server, &[Transport::WebSocket], &MESSAGE_TOO_BIG, |client| {
        client.write(&masked(0x02, &[0; 4112]));
        client.write(&hex("80 81 00000000"));
    });
    check(&server, &[Transport::WebSocket], &MESSAGE_TOO_BIG, |client| {
        client.write(&hex("82 ff 7fffffffffffffff 00000000"));
    });
}

#[test]
fn limit_broken() {
    let server = Server::start(&["comet.limits.frameRate=1", "comet.limits.frameBurst=30"]);
    check(&server, &BOTH, &LIMIT_BROKEN, |client| {
        // In one write, so that none is late for its answer.
        let heartbeats: Vec<u8> = (0..40).flat_map(|seq| Frame::new(2, seq, "").bytes()).collect();
        client.send_bytes(&heartbeats);
    });
    // Requests that change nothing, over and over.
    check(&server, &BOTH, &LIMIT_BROKEN, |client| {
        let refused: Vec<u8> = (0..20).flat_map(|seq| Frame::new(12, seq, "\u{0}").bytes()).collect();
        client.send_bytes(&refused);
    });
    check(&server, &[Transport::WebSocket], &LIMIT_BROKEN, |client| {
        client.write(&masked(0x02, b""));
        for _ in 0..101 {
            client.write(&masked(0x00, b""));
        }
    });
    check(&server, &[Transport::WebSocket], &LIMIT_BROKEN, |client| {
        for _ in 0..40 {
            client.write(&masked(0x89, b""));
        }
    });
}

#[test]
fn login_refused() {
    let server = Server::start(&[]);
    for transport in BOTH {
        let mut client = server.connect(transport);
        client.send(7, 1, r#"{"mid":"nobody","features":["reasons"]}"#);
        let end = client.end();
        assert_eq!(end.code(), (transport == Transport::WebSocket).then_some(4401));
        let reason = end.reason().expect("asked for, even by one who is refused");
        assert_eq!((&reason["code"], &reason["reconnect"]), (&json!(4401), &json!(false)));
        let text = reason["reason"].as_str().expect("words");
        assert!(!text.is_empty() && !text.contains("nobody"), "what it sent is not repeated: {text}");
    }
    server.expect_metric(&counter("login_refused"), 2.0);
}

#[test]
fn login_timeout() {
    let server = Server::start(&["comet.protocol.handshakeTimeout=400ms"]);
    let started = Stopwatch::start();
    let mut silent = Client::raw(Transport::WebSocket, server.ws);
    silent.write(b"GET /sub HTTP/1.1\r\nHost: loc");
    let mut upgraded = server.connect(Transport::WebSocket);
    let mut tcp = server.connect(Transport::Tcp);
    let mut half = server.connect(Transport::Tcp);
    half.write(&Frame::new(7, 1, "{}").bytes()[..17]);
    let end = upgraded.end();
    assert_eq!(end.close, Some((4408, "login timeout".to_owned())));
    assert!(started.elapsed() >= Duration::from_millis(400), "too early: {:?}", started.elapsed());
    for mut client in [tcp, half] {
        let end = client.end();
        assert_eq!((end.frames, end.close), (vec![], None));
    }
    assert!(silent.head().starts_with("HTTP/1.1 408 "));
    assert!(started.elapsed() < Duration::from_secs(4), "too late: {:?}", started.elapsed());
    server.expect_metric(&counter("login_timeout"), 4.0);

    // A byte now and then does not move the deadline.
    let started = Stopwatch::start();
    tcp = server.connect(Transport::Tcp);
    thread::scope(|scope| {
        let mut drip = tcp.stream.try_clone().expect("a second descriptor");
        scope.spawn(move || {
            use std::io::Write as _;
            for byte in Frame::new(7, 1, Login::key("drip").body()).bytes() {
                if drip.write_all(&[byte]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
        });
        assert_eq!(tcp.end().frames, []);
    });
    assert!(started.elapsed() < Duration::from_secs(3), "too late: {:?}", started.elapsed());
    server.expect_metric(&counter("login_timeout"), 5.0);
}

#[test]
fn heartbeat_timeout() {
    let server = Server::start(&["logic.node.heartbeat=1s", "logic.node.heartbeatMax=1"]);
    let started = Stopwatch::start();
    let mut alive = server.client(Transport::WebSocket, &Login::key("alive"));
    thread::scope(|scope| {
        // Those who speak stay, whatever they say.
        scope.spawn(|| {
            while started.elapsed() < Duration::from_millis(2500) {
                alive.send(2, 1, "");
                assert_eq!(alive.frame().op, 3);
                thread::sleep(Duration::from_millis(200));
            }
        });
        for transport in BOTH {
            for asked in [true, false] {
                let server = &server;
                scope.spawn(move || {
                    let login = Login::key(&format!("{transport:?}{asked}"));
                    let mut client = server.client(transport, &if asked { login.reasons() } else { login });
                    let since_login = Stopwatch::start();
                    let end = client.end();
                    expect_end(&end, transport, asked, &HEARTBEAT_TIMEOUT);
                    let waited = since_login.elapsed();
                    assert!(
                        (Duration::from_millis(900)..Duration::from_secs(5)).contains(&waited),
                        "{waited:?}"
                    );
                });
            }
        }
    });
    server.expect_metric(&counter("heartbeat_timeout"), 4.0);
    alive.send(2, 2, "");
    assert_eq!(alive.frame().op, 3);
}

/// The gateway stood still (a debugger, a virtual machine that moved): what its clients sent in time lies in their sockets.
#[test]
fn who_spoke_to_a_gateway_that_stood_still_is_not_taken_for_silent() {
    for driver in drivers() {
        let driver = format!("comet.reactor.driver={driver}");
        let server = Server::start(&["logic.node.heartbeat=2s", "logic.node.heartbeatMax=2", &driver]);
        let mut clients: Vec<Client> =
            (0..20).map(|n| server.client(BOTH[n % 2], &Login::key(&format!("k{n}")))).collect();
        let frozen = Frozen::new([&server]);
        clients.iter_mut().for_each(|client| client.send(2, 1, ""));
        frozen.thaw_after(Duration::from_secs(6));
        for client in &mut clients {
            assert_eq!(client.frame().op, 3);
            client.send(2, 2, "");
        }
        clients.iter_mut().for_each(|client| assert_eq!(client.frame().op, 3));
        server.expect_metric(&counter("heartbeat_timeout"), 0.0);
    }
}

#[test]
fn a_frame_that_does_not_end_ends_the_connection() {
    let server = Server::start(&["comet.protocol.frameTimeout=300ms"]);
    for transport in BOTH {
        let mut client = server.client(transport, &Login::key("k"));
        let started = Stopwatch::start();
        let heartbeat = Frame::new(2, 1, "").bytes();
        let bytes = if transport == Transport::WebSocket { masked(0x82, &heartbeat) } else { heartbeat };
        client.write(&bytes[..9]);
        assert_eq!(client.end().code(), (transport == Transport::WebSocket).then_some(4408));
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    }
}

#[test]
fn replaced() {
    let server = Server::start(&[]);
    check(&server, &BOTH, &REPLACED, |_| {
        // From the other end of the world, with the same key; it leaves at once.
        server.client(Transport::Tcp, &Login::key("k")).leave();
    });
    // The newer one lives.
    let mut old = server.client(Transport::WebSocket, &Login::key("k").accepts(&[1000]));
    let mut new = server.client(Transport::Tcp, &Login::key("k").accepts(&[1000]));
    assert_eq!(old.end().code(), Some(4409));
    server.push("keys?operation=1000&keys=k", "hello");
    new.expect_push(1000, "hello");
    // Replaced means that its end is nobody's business: the session is the new one's.
    thread::sleep(Duration::from_millis(200));
    server.push("keys?operation=1000&keys=k", "still here");
    new.expect_push(1000, "still here");
}

#[test]
fn kicked() {
    let server = Server::start(&[]);
    check(&server, &BOTH, &KICKED, |_| {
        server.post("/halley/kick/keys?keys=k", "").expect_success();
    });
    check(&server, &BOTH, &KICKED, |_| {
        server.post("/halley/kick/mids?mids=0", "").expect_success();
    });
    let reason = Reason { text: "see you \u{e4}fter lunch", ..KICKED };
    check(&server, &BOTH, &reason, |_| {
        server.post("/halley/kick/keys?keys=k&reason=see+you+%C3%A4fter+lunch", "").expect_success();
    });
}

#[test]
fn slow_consumer() {
    let server = Server::start(&[
        "comet.tcp.sndbuf=4096",
        "comet.limits.sendQueue=8KiB",
        "comet.limits.slowConsumer=close",
    ]);
    check(&server, &BOTH, &SLOW_CONSUMER, |_| {
        let before = server.metrics().count(&counter("slow_consumer"));
        let mut connection = Http::connect(server.http);
        let started = Stopwatch::start();
        while server.metrics().count(&counter("slow_consumer")) == before {
            assert!(started.elapsed() < PATIENCE, "it is never called slow");
            for _ in 0..200 {
                connection.send(
                    "POST",
                    "/goim/push/room?operation=1000&type=live&room=1000",
                    &[],
                    &[b'x'; 4000],
                );
                connection.answer().expect_success();
            }
        }
    });
}

#[test]
fn going_away() {
    let mut server = Server::start(&["comet.drain.spread=300ms"]);
    let mut clients: Vec<(bool, Client)> = [
        (Transport::Tcp, true),
        (Transport::Tcp, false),
        (Transport::WebSocket, true),
        (Transport::WebSocket, false),
    ]
    .into_iter()
    .map(|(transport, asked)| {
        let login = Login::key(&format!("{transport:?}{asked}"));
        (asked, server.client(transport, &if asked { login.reasons() } else { login }))
    })
    .collect();
    server.signal(Signal::TERM);
    for (asked, client) in &mut clients {
        let end = client.end();
        assert_eq!(end.code(), (client.transport == Transport::WebSocket).then_some(1001));
        let reason = end.reason();
        assert_eq!(reason.is_some(), *asked);
        if let Some(reason) = reason {
            assert_eq!(reason["code"], 1001);
            assert_eq!((&reason["reason"], &reason["reconnect"]), (&json!("going away"), &json!(true)));
            let delay = reason["delay_ms"].as_u64().expect("a delay");
            assert!(delay <= 300, "{delay}");
        }
    }
    assert_eq!(server.exit_status(PATIENCE), Some(0));
}

#[test]
fn overloaded() {
    // Per shard two that have not logged in.
    let server = Server::start(&["comet.limits.unauthenticated=2", "comet.reactor.shards=1"]);
    let mut oldest = server.connect(Transport::WebSocket);
    let mut second = server.connect(Transport::WebSocket);
    let mut third = server.connect(Transport::Tcp);
    assert_eq!(oldest.end().close, Some((1013, "overloaded, try later".to_owned())));
    second.login(&Login::key("second"));
    let fourth = server.connect(Transport::Tcp);
    third.login(&Login::key("third"));
    // Those who are in are not touched however many knock.
    let knocking: Vec<Client> = (0..20).map(|_| server.connect(Transport::Tcp)).collect();
    server.expect_metric(&counter("overloaded"), 20.0);
    for client in [&mut second, &mut third] {
        client.send(2, 1, "");
        assert_eq!(client.frame().op, 3);
    }
    drop((knocking, fourth));
}

#[test]
fn too_many_connections() {
    let server = Server::start(&["comet.limits.connections=10", "comet.reactor.shards=1"]);
    let mut clients: Vec<Client> =
        (0..10).map(|n| server.client(BOTH[n % 2], &Login::key(&format!("k{n}")))).collect();
    for transport in BOTH {
        let mut refused = Client::raw(transport, server.address(transport));
        assert_eq!(refused.end().frames, []);
    }
    server.expect_metric("halley_refused_total", 2.0);
    for client in &mut clients {
        client.send(2, 1, "");
        assert_eq!(client.frame().op, 3);
    }
    clients.pop().expect("ten").leave();
    eventually("a place is free again", || {
        let mut client = Client::raw(Transport::Tcp, server.tcp);
        client.send(7, 1, "{}");
        matches!(client.next(PATIENCE), Next::Frame(frame) if frame.op == 8).then_some(())
    });
}

#[test]
fn the_client_leaves() {
    let server = Server::start(&[]);
    for transport in BOTH {
        server.client(transport, &Login::key("polite")).leave();
    }
    server.expect_metric(&counter("client_closed"), 2.0);
    // The close of a WebSocket is answered by its own code.
    for (payload, code) in [(&1000u16.to_be_bytes()[..], 1000), (&4999u16.to_be_bytes(), 4999), (b"", 0)] {
        let mut client = server.client(Transport::WebSocket, &Login::key("polite"));
        client.write(&masked(0x88, payload));
        assert_eq!(client.end().code(), Some(code));
    }
    // With bytes unread a close of ours becomes a reset.
    for transport in BOTH {
        let client = server.client(transport, &Login::key("rude").room("live://1000"));
        server.push("room?operation=1000&type=live&room=1000", "never read");
        thread::sleep(Duration::from_millis(100));
        drop(client);
    }
    server.expect_metric(&counter("connection_lost"), 2.0);
}
