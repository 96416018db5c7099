//! Who is online, and who can be reached: through joins, leaves, changes and quick reconnects.

use std::time::Duration;

use serde_json::json;

use crate::harness::{BOTH, Client, Frame, Http, Login, Server, Stopwatch, Transport, masked, within};

/// The bound for what the API tells.
const TRUTH: Duration = Duration::from_secs(2);

/// Waits until `GET target` says `data`.
#[track_caller]
fn expect_online(server: &Server, target: &str, data: serde_json::Value) {
    let mut last = None;
    within(TRUTH, &format!("{target} says {data}"), || {
        let answer = server.get(&format!("/goim/online/{target}")).json();
        let found = (answer["data"] == data).then_some(());
        if last.as_ref() != Some(&answer) {
            eprintln!("{target}: {answer}");
            last = Some(answer);
        }
        found
    });
}

fn total(connections: usize) -> serde_json::Value {
    json!({"conn_count": connections, "ip_count": usize::from(connections > 0)})
}

#[test]
fn the_counts_follow_the_clients() {
    let server = Server::start(&[]);
    expect_online(&server, "total", total(0));
    let mut clients: Vec<Client> = (0..12)
        .map(|n| {
            let room = if n < 8 { "live://big" } else { "live://small" };
            server.client(BOTH[n % 2], &Login::key(&format!("k{n}")).room(room))
        })
        .collect();
    let mut several =
        server.client(Transport::WebSocket, &Login::key("several").rooms(&["live://small", "game://1"]));
    let _homeless = server.client(Transport::Tcp, &Login::key("homeless"));
    expect_online(&server, "total", total(14));
    let room = |id: &str, count: usize| json!({"room_id": id, "count": count});
    expect_online(&server, "top?type=live&limit=5", json!([room("big", 8), room("small", 5)]));
    expect_online(&server, "top?type=live&limit=1", json!([room("big", 8)]));
    expect_online(&server, "top?type=game&limit=5", json!([room("1", 1)]));
    expect_online(
        &server,
        "room?type=live&rooms=big&rooms=small&rooms=none",
        json!({"big": 8, "small": 5, "none": 0}),
    );

    // Six change over, one to nowhere.
    for (n, client) in clients.iter_mut().take(7).enumerate() {
        let to = if n < 6 { "live://small" } else { "" };
        client.send(12, 1, to);
        client.expect_reply(Frame::new(13, 1, to));
    }
    expect_online(&server, "top?type=live&limit=5", json!([room("small", 11), room("big", 1)]));
    several.send(2_000_000_002, 1, "live://small");
    several.expect_reply(Frame::new(2_000_000_003, 1, "live://small"));
    expect_online(&server, "room?type=live&rooms=big&rooms=small", json!({"big": 1, "small": 10}));

    // Half leave in order, half are gone from one moment to the next.
    for (n, client) in clients.into_iter().enumerate() {
        if n % 2 == 0 {
            client.leave();
        } else {
            drop(client);
        }
    }
    expect_online(&server, "top?type=live&limit=5", json!([]));
    expect_online(&server, "total", total(2));
}

#[test]
fn a_replaced_device_counts_once() {
    let server = Server::start(&[]);
    let mut clients = Vec::new();
    for n in 0..10 {
        clients.push(server.client(BOTH[n % 2], &Login::key("same").room("live://1000")));
    }
    expect_online(&server, "total", total(1));
    expect_online(&server, "room?type=live&rooms=1000", json!({"1000": 1}));
    drop(clients);
    expect_online(&server, "total", total(0));
}

/// G9: the end of the old connection deletes the session of the new one. Seen in goim for one of a hundred quick
/// reconnects: online, but unreachable, and pushes answer success.
#[test]
fn a_hundred_quick_reconnects_stay_reachable() {
    let server = Server::start(&[]);
    for n in 0..100 {
        let transport = BOTH[n % 2];
        let login = Login::key("phone").mid(5).accepts(&[1000]);
        let old = server.client(transport, &login);
        // The old one leaves while the new one arrives; now and then it stays and is replaced.
        let mut new = server.connect(BOTH[n / 2 % 2]);
        let kept = if n % 3 == 0 {
            Some(old)
        } else {
            drop(old);
            None
        };
        new.login(&login);
        server.push("keys?operation=1000&keys=phone", n.to_string());
        new.expect_push(1000, n.to_string());
        server.push("mids?operation=1000&mids=5", "by user");
        new.expect_push(1000, "by user");
        drop(kept);
    }
    expect_online(&server, "total", total(0));
    within(TRUTH, "the last session ends", || {
        let answer = server.post("/goim/push/keys?operation=1000&keys=phone", "x").json();
        (answer["data"] == json!({"offline": ["phone"]})).then_some(())
    });
}

/// G4: in goim a login whose key has an old connection that takes nothing waits for it, and a 32nd of all users with it.
#[test]
fn a_login_does_not_wait_for_an_old_connection_that_is_stuck() {
    let server = Server::start(&["comet.tcp.sndbuf=4096", "comet.limits.sendQueue=8KiB"]);
    let login = Login::key("stuck").room("live://1000").accepts(&[1000]);
    let mut old = server.client(Transport::Tcp, &login);
    let mut connection = Http::connect(server.http);
    while server.metrics().count("halley_drops_total{reason=\"slow_consumer\"}") == 0.0 {
        for _ in 0..200 {
            connection.send("POST", "/goim/push/room?operation=1000&type=live&room=1000", &[], &[b'x'; 4000]);
            connection.answer().expect_success();
        }
    }
    let started = Stopwatch::start();
    let mut new = server.client(Transport::WebSocket, &login);
    for n in 0..20 {
        server.client(Transport::Tcp, &Login::key(&format!("k{n}"))).leave();
    }
    server.push("keys?operation=1000&keys=stuck", "hello");
    new.expect_push(1000, "hello");
    assert!(started.elapsed() < TRUTH, "{:?}", started.elapsed());
    // The old one is over too, though it never read what waited for it.
    expect_online(&server, "total", total(1));
    old.end();
}

/// G13: joining a room while it empties fails in goim, and its count lingers.
#[test]
fn a_room_that_empties_and_fills_at_once_still_delivers() {
    let server = Server::start(&[]);
    let mut clients: Vec<Client> =
        (0..6).map(|n| server.client(BOTH[n % 2], &Login::key(&format!("k{n}")))).collect();
    for round in 0..60 {
        let (leaving, joining) = (round % 6, (round + 1) % 6);
        // Without waiting for an answer, so that the two shards do it at once.
        clients[leaving].send(12, 1, "");
        clients[joining].send(12, 2, "live://1000");
        clients[leaving].expect_reply(Frame::new(13, 1, ""));
        clients[joining].expect_reply(Frame::new(13, 2, "live://1000"));
        server.push("room?operation=1000&type=live&room=1000", round.to_string());
        // The shard may come to the push before only after the join.
        while clients[joining].frame() != Frame::new(1000, 0, round.to_string()) {}
    }
    expect_online(&server, "top?type=live&limit=5", json!([{"room_id": "1000", "count": 1}]));
    drop(clients);
    expect_online(&server, "top?type=live&limit=5", json!([]));
}

#[test]
fn who_left_is_offline_and_who_never_was_too() {
    let server = Server::start(&[]);
    let client = server.client(Transport::Tcp, &Login::key("k").mid(3).accepts(&[1000]));
    server.push("keys?operation=1000&keys=k", "x");
    client.leave();
    for (target, offline) in
        [("keys?operation=1000&keys=k", json!(["k"])), ("mids?operation=1000&mids=3", json!(["3"]))]
    {
        within(TRUTH, "the session ends", || {
            let answer = server.post(&format!("/goim/push/{target}"), "x").json();
            (answer["data"]["offline"] == offline).then_some(())
        });
    }
}

/// Connections were kept by any frame, sessions by operation 2 alone: who only chatted was connected, answered, counted, and
/// after `redis.expire` offline to every push. Who only sent WebSocket pings was closed while they were answered.
#[test]
fn who_counts_as_alive_is_reachable() {
    let server = Server::start(&[
        "logic.redis.expire=10s",
        "comet.protocol.renewInterval=1s",
        "logic.node.heartbeat=2s",
        "logic.node.heartbeatMax=3",
    ]);
    let on_both = [("beats", 2, ""), ("chats", 4, "hello"), ("asks", 5000, "x"), ("subscribes", 14, "1000")];
    let mut clients = Vec::new();
    for (mid, (name, op, body)) in (1..).zip(on_both) {
        for transport in BOTH {
            let key = format!("{name}-{transport:?}");
            let says = Frame::new(op, 1, body).bytes();
            let says = if transport == Transport::WebSocket { masked(0x82, &says) } else { says };
            clients.push((transport, key, mid, says));
        }
    }
    for (mid, name, says) in [(11, "pings", masked(0x89, b"p")), (12, "pongs", masked(0x8a, b""))] {
        clients.push((Transport::WebSocket, name.to_owned(), mid, says));
    }
    let mut clients: Vec<_> = clients
        .into_iter()
        .map(|(transport, key, mid, says)| {
            let login = Login::key(&key).mid(mid).room(&format!("live://{key}")).accepts(&[1000]);
            (server.client(transport, &login), key, mid, says)
        })
        .collect();
    let started = Stopwatch::start();
    while started.elapsed() < Duration::from_secs(13) {
        clients.iter_mut().for_each(|(client, .., says)| client.write(says));
        std::thread::sleep(Duration::from_millis(300));
    }
    for (client, key, mid, _) in &mut clients {
        let to_all_of_them = format!("mids?operation=1000&mids={mid}");
        for target in [format!("keys?operation=1000&keys={key}"), to_all_of_them] {
            server.push(&target, target.clone());
            while client.frame() != Frame::new(1000, 0, target.clone()) {}
        }
    }
}

#[test]
fn a_device_without_a_key_gets_one_and_is_reached_by_its_user() {
    let server = Server::start(&[]);
    let mut clients: Vec<Client> =
        (0..6).map(|n| server.client(BOTH[n % 2], &Login::default().mid(9).accepts(&[1000]))).collect();
    server.push("mids?operation=1000&mids=9", "all six");
    for client in &mut clients {
        client.expect_push(1000, "all six");
    }
    expect_online(&server, "total", total(6));
}
