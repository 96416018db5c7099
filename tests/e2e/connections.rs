//! Connections to the HTTP API: how long they stay, and who goes when places are short.

use std::{thread, time::Duration};

use crate::harness::{Http, PATIENCE, Server, Stopwatch, http};

/// Without a place at once it took as long as a read timeout.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Asks over a connection of its own; the answer must not have waited for the others.
#[track_caller]
fn ask(server: &Server, method: &str, target: &str) -> http::Answer {
    let started = Stopwatch::start();
    let answer = http::request(server.http, method, target, &["Connection: close"], b"");
    assert!(started.elapsed() < AT_ONCE, "{target}: {:?}", started.elapsed());
    answer
}

/// A connection over which one push went.
fn used(server: &Server) -> Http {
    let mut connection = Http::connect(server.http);
    connection.send("POST", "/goim/push/all?operation=1000", &[], b"x");
    connection.answer().expect_success();
    connection
}

/// Backends with pools held all connections, and a liveness probe restarted a healthy gateway.
#[test]
fn idle_connections_keep_neither_probes_nor_pushes_waiting() {
    let server = Server::start(&[]);
    let idle: Vec<Http> = (0..1100).map(|_| used(&server)).collect();
    for _ in 0..3 {
        assert_eq!(ask(&server, "GET", "/healthz").status, 200);
        ask(&server, "POST", "/goim/push/all?operation=1000").expect_success();
    }
    assert!(server.metrics().sum("halley_http_closed_total") > 70.0);
    drop(idle);
}

#[test]
fn the_oldest_idle_connection_goes_first_and_the_newest_stays() {
    let server = Server::start(&["logic.limits.httpConnections=8"]);
    let mut idle: Vec<Http> = (0..8).map(|_| used(&server)).collect();
    thread::sleep(Duration::from_millis(300));
    ask(&server, "POST", "/goim/push/all?operation=1000").expect_success();
    assert!(idle[0].try_answer().is_none(), "it was not closed");
    for connection in &mut idle[2..] {
        connection.send("POST", "/goim/push/all?operation=1000", &[], b"x");
        connection.answer().expect_success();
    }
}

/// Whoever sends the beginning of a request and no more has no claim on a place either.
#[test]
fn half_a_head_keeps_nobody_waiting() {
    let server = Server::start(&["logic.limits.httpConnections=8"]);
    let half: Vec<Http> = (0..60)
        .map(|_| {
            let mut connection = Http::connect(server.http);
            connection.write(b"POST /goim/push/all?operation=1000 HTTP/1.1\r\nHo".to_vec());
            connection
        })
        .collect();
    assert_eq!(ask(&server, "GET", "/readyz").status, 200);
    ask(&server, "POST", "/goim/push/all?operation=1000").expect_success();
    drop(half);
}

/// While every place has a request under way a probe is answered, and a push is told to come again.
#[test]
fn slow_requests_keep_no_probe_waiting() {
    let server = Server::start(&["logic.limits.httpConnections=8"]);
    let mut slow: Vec<Http> = (0..8)
        .map(|_| {
            let mut connection = Http::connect(server.http);
            let head = "POST /goim/push/all?operation=1000 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1";
            connection.write(head.as_bytes().to_vec());
            connection
        })
        .collect();
    thread::sleep(Duration::from_millis(500));
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(ask(&server, "GET", path).status, 200, "{path}");
    }
    let answer = ask(&server, "POST", "/goim/push/all?operation=1000");
    answer.expect_error(503, -500);
    assert_eq!(answer.header("retry-after"), Some("1"));
    server.expect_metric("halley_http_closed_total{reason=\"no_place\"}", 1.0);
    for connection in &mut slow {
        connection.write(b"2".to_vec());
        connection.answer().expect_success();
    }
}

/// goim's file says `readTimeout = "1s"`, and a backend that pushed once a second met the close of its connection.
#[test]
fn the_read_timeout_is_for_a_request_that_has_begun() {
    let server = Server::start(&["logic.httpServer.readTimeout=100ms"]);
    let mut kept = Http::connect(server.http);
    let mut fresh = Http::connect(server.http);
    for pause in [150, 400, 900] {
        kept.send("POST", "/goim/push/all?operation=1000", &[], b"x");
        kept.answer().expect_success();
        thread::sleep(Duration::from_millis(pause));
    }
    // Nothing was ever sent here; that is no request that has begun.
    fresh.send("GET", "/healthz", &[], b"");
    assert_eq!(fresh.answer().status, 200);

    let started = Stopwatch::start();
    kept.write(b"POST /goim/push/all?operation=1000 HTTP/1.1\r\nHos".to_vec());
    assert!(kept.try_answer().is_none());
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    let mut body = Http::connect(server.http);
    let head = "POST /goim/push/all?operation=1000 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1";
    body.write(head.as_bytes().to_vec());
    body.answer().expect_error(408, -408);
}
