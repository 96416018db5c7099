//! "Why can't user 42 connect?", from the log.

use crate::harness::{BOTH, Client, Login, Server, Transport, eventually};

/// Waits for a line that has all of `parts`.
#[track_caller]
fn expect_line(server: &Server, parts: &[&str]) -> String {
    eventually(&format!("a line with {parts:?}"), || {
        server.log().lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
    })
}

fn counted(server: &Server, part: &str) -> usize {
    server.log().lines().filter(|line| line.contains(part)).count()
}

/// A login of the user that is refused: its room is no text. It also has what no log may have.
#[track_caller]
fn refused(server: &Server, transport: Transport, mid: i64) {
    let mut client = match transport {
        Transport::Tcp => server.connect(transport),
        Transport::WebSocket => {
            let mut client = Client::raw(transport, server.ws);
            client.upgrade("/sub?token=hunter2", "Cookie: session=hunter2\r\n");
            client
        }
    };
    let body = format!(r#"{{"mid":{mid},"key":"k-{mid}\u0022","room_id":7,"token":"hunter2"}}"#);
    client.send(7, 1, body);
    assert_eq!(client.end().frames, []);
}

#[test]
fn a_listed_user_is_followed_at_info_and_nobody_else() {
    let server = Server::start(&["comet.whitelist.Whitelist=41,42"]);
    for transport in BOTH {
        for mid in [42, 7] {
            refused(&server, transport, mid);
            let key = format!("{transport:?}-{mid}");
            let mut client = server.client(transport, &Login::key(&key).mid(mid));
            server.post(&format!("/halley/kick/keys?keys={key}"), "").expect_success();
            client.end();
        }
        let address = "address=127.0.0.1";
        let label = if transport == Transport::Tcp { "tcp" } else { "websocket" };
        let transport = format!("transport={label}");
        let line = expect_line(&server, &["login refused", "user=42", "k-42", address, &transport]);
        assert!(line.contains("INFO") && line.contains("room_id is not a text"), "{line}");
    }
    for transport in BOTH {
        let key = format!("key=\"{transport:?}-42\"");
        expect_line(&server, &["INFO", "logged in", "user=42", &key, "address=127.0.0.1"]);
        expect_line(&server, &["INFO", "closed", "user=42", &key, "reason=kicked", "code=4420"]);
    }
    let log = server.log();
    assert!(!log.contains("user=7"), "{log}");
    assert!(!log.contains("hunter2"), "a secret is in the log: {log}");
}

/// Strangers cannot use up the lines of those who are looked for.
#[test]
fn at_debug_everybody_is_named_within_a_bound_and_the_listed_are_not_crowded_out() {
    let server = Server::start(&["log.level=debug", "comet.whitelist.Whitelist=42"]);
    let _first = server.client(Transport::WebSocket, &Login::key("first").mid(7));
    expect_line(&server, &["DEBUG", "logged in", "user=7", "key=\"first\""]);
    refused(&server, Transport::Tcp, 7);
    expect_line(&server, &["DEBUG", "login refused", "user=7", "room_id is not a text"]);

    let crowd: Vec<_> =
        (0..100).map(|n| server.client(BOTH[n % 2], &Login::key(&format!("crowd-{n}")).mid(8))).collect();
    drop(crowd);
    for transport in BOTH {
        let key = format!("key=\"{transport:?}\"");
        server.client(transport, &Login::key(&format!("{transport:?}")).mid(42)).leave();
        expect_line(&server, &["INFO", "logged in", "user=42", &key]);
        expect_line(&server, &["INFO", "closed", "user=42", &key, "reason=client_closed"]);
    }
    // What was left out is told with the next line of a later second.
    eventually("how many there were", || {
        server.client(Transport::Tcp, &Login::key("later").mid(9)).leave();
        server.log().contains("more like it").then_some(())
    });
    assert!(counted(&server, "key=crowd-") < 200, "a login and an end each");
    assert!(!server.log().contains("hunter2"));
}
