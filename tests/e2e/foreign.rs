//! Web pages of other hosts, and what they may ask of an API that needs no token: a browser sends their requests to any
//! address, loopback too.

use crate::harness::{Answer, Http, Login, Server, Transport, http};

/// A request with these lines of a head and no others.
#[track_caller]
fn ask(server: &Server, first: &str, lines: &[String]) -> Answer {
    let mut connection = Http::connect(server.http);
    let head = format!("{first} HTTP/1.1\r\n{}\r\nContent-Length: 2\r\n\r\nhi", lines.join("\r\n"));
    connection.write(head.into_bytes());
    connection.answer()
}

const PUSH: &str = "POST /goim/push/room?operation=1000&type=live&room=1";

/// Such a page pushed to everybody: a form, or a script whose request needs no permission.
#[test]
fn a_page_of_another_host_pushes_nothing() {
    let server = Server::start(&[]);
    let mut client = server.client(Transport::Tcp, &Login::key("k").room("live://1"));
    let host = format!("Host: {}", server.http);
    for origin in ["http://evil.example", "https://127.0.0.1.evil.example", "null"] {
        let lines = [host.clone(), format!("Origin: {origin}"), "Content-Type: text/plain".to_owned()];
        for first in [PUSH, "POST /halley/kick/keys?keys=k", "GET /goim/online/total"] {
            ask(&server, first, &lines).expect_error(403, -403);
        }
    }
    server.expect_metric("halley_http_foreign_total", 9.0);
    // A backend says nothing about origins, and our own page its own.
    ask(&server, PUSH, std::slice::from_ref(&host)).expect_success();
    client.expect_push(1000, "hi");
    ask(&server, PUSH, &[host, format!("Origin: http://{}", server.http)]).expect_success();
    client.expect_push(1000, "hi");
}

/// A name of the page's owner that suddenly means 127.0.0.1 makes the page one of our host, which reads the answers.
#[test]
fn a_name_of_others_does_not_lead_to_loopback() {
    let server = Server::start(&["logic.node.defaultDomain=push.shop.test"]);
    for name in ["evil.example", "evil.example:3111", "localhost.evil.example", "127.0.0.1.nip.example"] {
        let lines = [format!("Host: {name}"), format!("Origin: http://{name}")];
        ask(&server, PUSH, &lines).expect_error(403, -403);
        for path in ["/goim/online/total", "/halley/online/keys?keys=k", "/metrics", "/_/stats"] {
            ask(&server, &format!("GET {path}"), &lines).expect_error(403, -403);
        }
        // They tell nothing, and probes use any name.
        assert_eq!(ask(&server, "GET /healthz", &lines).status, 200, "{name}");
    }
    for name in ["localhost", "127.0.0.1:3111", "[::1]:3111", "halley", "app.localhost", "push.shop.test"] {
        ask(&server, PUSH, &[format!("Host: {name}")]).expect_success();
        assert_eq!(ask(&server, "GET /_/", &[format!("Host: {name}")]).status, 200, "{name}");
    }
}

/// Who has the token may come from anywhere; no page can know it.
#[test]
fn with_a_token_the_host_and_the_origin_do_not_matter() {
    let server = Server::start(&["logic.push.tokens=sesame"]);
    let lines = |token: &str| {
        [
            "Host: push.example".to_owned(),
            "Origin: http://evil.example".to_owned(),
            format!("Authorization: Bearer {token}"),
        ]
    };
    ask(&server, PUSH, &lines("sesame")).expect_success();
    ask(&server, PUSH, &lines("guess")).expect_error(401, -401);
    assert_eq!(http::request(server.http, "GET", "/metrics", &[], b"").status, 200);
}
