//! Devices by name: who is online, since when and where, and what a kick ends. How the kicked are told is in the table of
//! `close_reasons`.

use std::{thread, time::Duration};

use serde_json::{Value, json};

use crate::harness::{
    BOTH, Client, Http, Login, Next, PATIENCE, Server, Stopwatch, Transport, epoch_s, eventually, http,
};

fn three_devices(server: &Server) -> [Client; 3] {
    [
        server.client(Transport::Tcp, &Login::key("a").mid(1).room("live://1").accepts(&[1000])),
        server.client(Transport::WebSocket, &Login::key("b").mid(1).room("live://1").accepts(&[1000])),
        server.client(Transport::WebSocket, &Login::key("c").mid(2).accepts(&[1000])),
    ]
}

/// What `/halley/online/` knows of a key.
#[track_caller]
fn device(server: &Server, key: &str) -> Value {
    server.get(&format!("/halley/online/keys?keys={key}")).json()["data"][key].clone()
}

#[track_caller]
fn expect_total(server: &Server, connections: u64) {
    eventually("the count of connections", || {
        let total = server.get("/goim/online/total").json();
        (total["data"]["conn_count"] == connections).then_some(())
    });
}

#[test]
fn devices_are_told_with_user_comet_and_time() {
    let before = epoch_s();
    let server = Server::start(&[]);
    let mut clients = three_devices(&server);
    let data = |target: &str| {
        let answer = server.get(&format!("/halley/online/{target}"));
        assert_eq!(answer.status, 200, "{target}");
        answer.body
    };
    let since = |key: &str| device(&server, key)["since"].as_u64().expect("a time");
    let [a, b, c] = ["a", "b", "c"].map(since);
    for since in [a, b, c] {
        assert!((before..=epoch_s()).contains(&since), "{since}");
    }
    let on = server.comet_rpc;
    let body = |data: String| format!(r#"{{"code":0,"message":"","data":{data}}}"#);
    assert_eq!(
        data("keys?keys=x&keys=a"),
        body(format!(r#"{{"a":{{"mid":"1","server":"{on}","since":{a}}},"x":null}}"#))
    );
    let of = |key: &str, since: u64| format!(r#"{{"key":"{key}","server":"{on}","since":{since}}}"#);
    assert_eq!(
        data("mids?mids=7&mids=2&mids=1"),
        body(format!(r#"{{"1":[{},{}],"2":[{}],"7":[]}}"#, of("a", a), of("b", b), of("c", c)))
    );

    // A change of rooms or a heartbeat is no login; an end and a new login are.
    clients[0].send(2, 1, "");
    assert_eq!(clients[0].frame().op, 3);
    let [first, second, _third] = clients;
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(since("a"), a);
    first.leave();
    second.leave();
    eventually("both are offline", || (data("mids?mids=1") == body(r#"{"1":[]}"#.to_owned())).then_some(()));
    let _again = server.client(Transport::Tcp, &Login::key("a").mid(3));
    assert!(since("a") > a);
    assert_eq!(device(&server, "a")["mid"], "3");
}

#[test]
fn a_kick_ends_session_rooms_and_counts_and_nobody_else() {
    let server = Server::start(&[]);
    let mut clients = three_devices(&server);
    expect_total(&server, 3);
    let answer = server.post("/halley/kick/mids?mids=1&mids=9", "");
    assert_eq!(answer.json(), json!({"code": 0, "message": "", "data": {"offline": ["9"]}}));
    for client in &mut clients[..2] {
        assert_eq!(client.end().frames, []);
    }
    expect_total(&server, 1);
    eventually("the room is empty", || {
        let count = server.get("/goim/online/room?type=live&rooms=1").json();
        (count["data"]["1"] == 0).then_some(())
    });
    let answer = server.get("/halley/online/mids?mids=1");
    assert_eq!(answer.json()["data"], json!({"1": []}));
    // Kicked once, they are offline for pushes and for a second kick.
    for path in ["/goim/push/keys?operation=1000&keys=a&keys=c&keys=b", "/halley/kick/keys?keys=a&keys=b"] {
        let answer = server.post(path, "well");
        assert_eq!(answer.json()["data"], json!({"offline": ["a", "b"]}), "{path}");
    }
    clients[2].expect_push(1000, "well");
    clients[2].expect_silence();
    server.expect_metric("halley_closes_total{reason=\"kicked\"}", 2.0);
}

#[test]
fn who_logs_in_again_after_a_kick_stays() {
    let server = Server::start(&[]);
    for transport in BOTH {
        let login = Login::key("k").accepts(&[1000]);
        let mut old = server.client(transport, &login);
        server.post("/halley/kick/keys?keys=k", "").expect_success();
        // While the old connection may still be on its way out.
        let mut new = server.client(transport, &login);
        old.end();
        new.expect_silence();
        server.push("keys?operation=1000&keys=k", "here again");
        new.expect_push(1000, "here again");
        assert!(device(&server, "k").is_object());
        new.leave();
    }
}

/// Logins and kicks of one key as fast as they go: a login that was answered after the last kick was, stays.
#[test]
fn a_storm_of_kicks_leaves_the_last_login() {
    let server = Server::start(&[]);
    for transport in BOTH {
        let login = Login::key("k").accepts(&[1000]);
        let mut kicked = 0;
        for _ in 0..10 {
            thread::scope(|scope| {
                let kicks = scope.spawn(|| {
                    let mut connection = Http::connect(server.http);
                    for _ in 0..20 {
                        connection.send("POST", "/halley/kick/keys?keys=k", &[], b"");
                        assert_eq!(connection.answer().status, 200);
                    }
                });
                let started = Stopwatch::start();
                while !kicks.is_finished() {
                    assert!(started.elapsed() < PATIENCE, "the kicks do not end");
                    let mut client = server.connect(transport);
                    client.send(7, 1, login.body());
                    // A kick may come before the answer, too.
                    match client.next(PATIENCE) {
                        Next::Frame(frame) => assert_eq!(frame.op, 8),
                        Next::End(_) => kicked += 1,
                        Next::Silence => panic!("neither login nor end"),
                    }
                }
            });
            let mut last = server.client(transport, &login);
            server.push("keys?operation=1000&keys=k", "last");
            last.expect_push(1000, "last");
        }
        eprintln!("{transport:?}: {kicked} before their answer");
    }
    let kicks = server.metrics().count("halley_closes_total{reason=\"kicked\"}");
    assert!(kicks > 0.0, "nobody was kicked");
}

#[test]
fn bad_requests_are_told_apart_and_kick_nobody() {
    let server = Server::start(&[]);
    let mut clients = three_devices(&server);
    let long = format!("/halley/kick/keys?keys=a&reason={}", "x".repeat(124));
    for (method, target, status) in [
        ("GET", "/halley/online/keys", 400),
        ("GET", "/halley/online/keys?keys=", 400),
        ("GET", "/halley/online/mids?mids=-1", 400),
        ("GET", "/halley/online/mids?mids=x", 400),
        ("POST", "/halley/kick/keys", 400),
        ("POST", "/halley/kick/keys?keys=a&keys=", 400),
        ("POST", "/halley/kick/keys?keys=%ff", 400),
        ("POST", &long, 400),
        ("POST", "/halley/kick/mids?mids=1,2", 400),
        ("POST", "/halley/online/keys?keys=a", 405),
        ("GET", "/halley/kick/keys?keys=a", 405),
        ("POST", "/halley/kick/all", 404),
    ] {
        let answer = http::request(server.http, method, target, &[], b"");
        answer.expect_error(status, -i64::from(status));
    }
    for client in &mut clients {
        client.expect_silence();
    }
}
