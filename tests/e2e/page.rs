//! The page: its files, what a browser may do with them, and its numbers. What a person does with it is tested in real
//! browsers, `page/tests/browser.test.js`.

use serde_json::Value;

use crate::harness::{Login, Server, Transport, eventually, http};

#[test]
fn the_files_are_served_with_their_types_and_a_strict_policy() {
    let server = Server::start(&[]);
    for (path, kind, begin) in [
        ("/_/", "text/html; charset=utf-8", "<!doctype html>"),
        ("/_/index.html", "text/html; charset=utf-8", "<!doctype html>"),
        ("/_/style.css", "text/css; charset=utf-8", "/*"),
        ("/_/app.js", "text/javascript; charset=utf-8", "//"),
        ("/_/live.js", "text/javascript; charset=utf-8", "//"),
        ("/_/goim.js", "text/javascript; charset=utf-8", "/**"),
        ("/_/icon.svg", "image/svg+xml", "<svg"),
        ("/_/config.json", "application/json; charset=utf-8", "{"),
        ("/_/stats", "application/json; charset=utf-8", "{"),
    ] {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)), "{path}");
        assert!(answer.body.starts_with(begin), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-cache"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        let policy = answer.header("content-security-policy").expect("a policy");
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "connect-src 'self' ws: wss:",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.split("; ").any(|other| other == rule), "{rule} is not in {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        // Nothing comes from elsewhere.
        assert!(!answer.body.contains("https://"), "{path}");
    }
    for path in ["/", "/_"] {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.header("location")), (307, Some("/_/")), "{path}");
    }
    server.get("/_/nothing").expect_error(404, -404);
    assert_eq!(http::request(server.http, "POST", "/_/stats", &[], b"").status, 405);
}

#[test]
fn the_configuration_names_the_real_port() {
    for token in [None, Some("logic.push.tokens=sesame")] {
        let sets: Vec<&str> = token.into_iter().chain(["comet.websocket.path=/sub/1"]).collect();
        let server = Server::start(&sets);
        // The page needs no token to watch.
        let config = server.get("/_/config.json").json();
        assert_eq!(config["websocket_port"], server.ws.port());
        assert_eq!(config["websocket_path"], "/sub/1");
        assert_eq!(config["shards"], 2);
        assert_eq!(config["push_token"], token.is_some());
        for text in ["version", "driver"] {
            assert!(config[text].as_str().is_some_and(|text| !text.is_empty()), "{config}");
        }
        assert_eq!(server.get("/_/stats").status, 200);
        let expected = if token.is_some() { 401 } else { 200 };
        assert_eq!(server.post("/goim/push/all?operation=1000", "x").status, expected);
    }
}

#[test]
fn the_numbers_follow_what_happens() {
    let server = Server::start(&[]);
    let mut tcp = server.client(Transport::Tcp, &Login::key("a").room("live://1").accepts(&[1000]));
    let mut websocket =
        server.client(Transport::WebSocket, &Login::key("b").room("live://1").accepts(&[1000]));
    server.push("room?operation=1000&type=live&room=1", "x");
    tcp.expect_push(1000, "x");
    websocket.expect_push(1000, "x");
    tcp.send(4, 1, "said");
    websocket.expect_push(5, "said");
    server.connect(Transport::Tcp).send_bytes(&[0xff; 16]);
    let stats = eventually("the numbers", || {
        let stats = server.get("/_/stats").json();
        // Two logins, two receivers of the push, two of what was said.
        let settled = stats["deliveries"] == 6
            && stats["rooms"] == 1
            && stats["bad_input"]["frame/len"] == 1
            && stats["connections"]["tcp"] == 1;
        settled.then_some(stats)
    });
    assert_eq!((&stats["open"], &stats["pushes"]), (&Value::from(2), &Value::from(2)), "{stats}");
    assert_eq!(stats["connections"], serde_json::json!({"tcp": 1, "websocket": 1}));
    assert_eq!(stats["drops"], serde_json::json!({}));
    for stage in ["accept_to_dispatch", "dispatch_to_shard", "shard_to_written", "accept_to_written"] {
        let counts = stats["stages"][stage].as_array().expect("a list");
        let sum: u64 = counts.iter().filter_map(Value::as_u64).sum();
        assert!(counts.len() == 26 && sum >= 2, "{stage}: {counts:?}");
    }
    let before = stats["uptime_ms"].as_u64().expect("a number");
    eventually("time passes", || {
        (server.get("/_/stats").json()["uptime_ms"].as_u64() > Some(before)).then_some(())
    });
}
