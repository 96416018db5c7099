//! Start, drivers, drain, and what is left of connections.

use std::{
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::harness::{
    BOTH, Client, Http, Login, Next, PATIENCE, Server, Stopwatch, Transport, eventually, run,
};

/// Pushes of every kind to devices on both transports and all shards.
fn core_delivery(server: &Server) {
    let mut clients: Vec<Client> = (0..10)
        .map(|n| {
            server.client(
                BOTH[n % 2],
                &Login::key(&format!("k{n}")).mid(1).room("live://1000").accepts(&[1000]),
            )
        })
        .collect();
    let keys: String = (0..10).map(|n| format!("&keys=k{n}")).collect();
    let targets = [
        format!("keys?operation=1000{keys}"),
        "mids?operation=1000&mids=1".to_owned(),
        "room?operation=1000&type=live&room=1000".to_owned(),
        "all?operation=1000".to_owned(),
    ];
    for round in 0..50 {
        for target in &targets {
            server.push(target, format!("{round} {target}"));
        }
        // Kinds may overtake each other; within one nothing may.
        for client in &mut clients {
            let mut bodies: Vec<String> = targets.iter().map(|_| client.frame().text()).collect();
            bodies.sort();
            let mut expected: Vec<String> =
                targets.iter().map(|target| format!("{round} {target}")).collect();
            expected.sort();
            assert_eq!(bodies, expected);
        }
    }
    let big = vec![b'x'; 300_000];
    server.push("room?operation=1000&type=live&room=1000", &big);
    // All have it before anything else is said: it is longer than the queue behind a write under way.
    for client in &mut clients {
        assert!(client.frame().body == big);
    }
    for client in &mut clients {
        client.send(4, 1, "to all");
    }
    for client in &mut clients {
        for _ in 0..10 {
            assert_eq!(client.frame().text(), "to all");
        }
    }
    assert!(server.metrics().sum("halley_attached_total") > 0.0, "nobody changed shards");
    for client in clients {
        client.leave();
    }
}

#[test]
fn epoll_delivers() {
    let server = Server::start(&["comet.reactor.driver=epoll"]);
    assert!(server.log().contains("epoll, as configured"));
    core_delivery(&server);
}

#[test]
fn io_uring_delivers_or_says_why_not() {
    let server = Server::start(&["comet.reactor.driver=auto"]);
    let log = server.log();
    let line =
        log.lines().find(|line| line.trim_start().starts_with("driver")).expect("a line about the driver");
    if line.contains("epoll") {
        assert!(line.contains("because"), "{line}");
        let output = run(&["--set", "comet.reactor.driver=io_uring", "--set", "comet.tcp.bind=127.0.0.1:0"]);
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("io_uring"));
        return;
    }
    drop(server);
    let server = Server::start(&["comet.reactor.driver=io_uring"]);
    core_delivery(&server);
}

#[test]
fn one_shard_and_many_deliver() {
    for shards in ["1", "5"] {
        let server = Server::start(&[&format!("comet.reactor.shards={shards}")]);
        let mut clients: Vec<Client> = (0..10)
            .map(|n| server.client(BOTH[n % 2], &Login::key(&format!("k{n}")).room("live://1000")))
            .collect();
        server.push("room?operation=1000&type=live&room=1000", "x");
        for client in &mut clients {
            client.expect_push(1000, "x");
        }
    }
}

#[test]
fn a_fixed_window_joins_and_loses_nothing() {
    let server = Server::start(&["comet.batch.mode=fixed", "comet.batch.window=100ms"]);
    let mut clients = BOTH
        .map(|transport| server.client(transport, &Login::key(&format!("{transport:?}")).room("live://1")));
    let mut connection = Http::connect(server.http);
    for n in 0..100 {
        connection.send(
            "POST",
            "/goim/push/room?operation=1000&type=live&room=1",
            &[],
            n.to_string().as_bytes(),
        );
        connection.answer().expect_success();
    }
    for client in &mut clients {
        for n in 0..100 {
            client.expect_push(1000, n.to_string());
        }
    }
    // The pushes and the answers to two logins.
    server.expect_metric("halley_deliveries_total", 202.0);
    let writes = server.metrics().sum("halley_writes_total");
    assert!(writes < 100.0, "{writes} writes for 200 deliveries");
}

#[test]
fn a_start_prints_what_one_should_know() {
    let server = Server::start(&[]);
    let log = server.log();
    let rows: Vec<(&str, String)> = vec![
        ("clients, TCP", server.tcp.to_string()),
        ("clients, WebSocket", format!("ws://{}/sub", server.ws)),
        ("HTTP API", format!("http://{}", server.http)),
        ("gRPC", format!("comet {}, logic {}", server.comet_rpc, server.logic_rpc)),
        ("driver", String::new()),
        ("shards", "2".to_owned()),
        ("login", "trust".to_owned()),
        ("push API", "open".to_owned()),
        ("open files", "connections".to_owned()),
    ];
    let mut columns = Vec::new();
    for (name, value) in rows {
        let line = log.lines().find(|line| line.trim_start().starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name:?} in {log}"));
        assert!(line.contains(&value), "{line}");
        let after_name = line.find(name).expect("it is there") + name.len();
        columns.push(after_name + line[after_name..].len() - line[after_name..].trim_start().len());
    }
    columns.dedup();
    assert_eq!(columns.len(), 1, "not aligned:\n{log}");
    let server = Server::start(&["logic.push.tokens=sesame"]);
    let log = server.log();
    assert!(log.lines().any(|line| line.contains("push API") && line.contains("token")), "{log}");
}

/// What comet hears first of its store was told as a change of it, a second after every start.
#[test]
fn a_start_with_clients_does_not_tell_of_lost_sessions() {
    let server = Server::start(&[]);
    let mut clients: Vec<Client> =
        (0..20).map(|n| server.client(BOTH[n % 2], &Login::key(&format!("k{n}")).room("live://1"))).collect();
    thread::sleep(Duration::from_millis(2500));
    server.push("room?operation=1000&type=live&room=1", "x");
    clients.iter_mut().for_each(|client| client.expect_push(1000, "x"));
    assert!(!server.log().contains("lost sessions"), "{}", server.log());
}

#[test]
fn the_path_of_the_upgrade_can_be_another() {
    let server = Server::start(&["comet.websocket.path=/push/ws"]);
    assert!(server.log().contains(&format!("ws://{}/push/ws", server.ws)), "{}", server.log());
    let mut client = Client::raw(Transport::WebSocket, server.ws);
    client.upgrade("/push/ws?x=1", "");
    client.login(&Login::default());
    let mut other = Client::raw(Transport::WebSocket, server.ws);
    other.write(b"GET /sub HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(other.head().starts_with("HTTP/1.1 404 "));
}

/// The first lines were for people, and what the start found wrong stood before them.
#[test]
fn logs_can_be_json_from_the_first_line_to_the_last() {
    let sets = ["log.format=json", "log.level=debug", "job.comet.routineChan=1024"];
    let server = Server::start(&sets);
    server.client(Transport::Tcp, &Login::key("k")).leave();
    let log = server.log();
    for line in log.lines() {
        let parsed: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(parsed["level"].is_string() && parsed["message"].is_string(), "{line}");
    }
    let first: serde_json::Value = serde_json::from_str(log.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["clients, TCP"], server.tcp.to_string());
    assert!(log.lines().skip(1).any(|line| line.contains("job.comet.routineChan")), "{log}");
    // A start that fails, and a configuration that is refused.
    let taken = format!("comet.tcp.bind={}", server.tcp);
    for set in [taken.as_str(), "comet.tcp.bind=nonsense"] {
        let output = run(&["--set", "log.format=json", "--set", set]);
        let said = String::from_utf8(output.stderr).expect("text");
        let lines: Vec<serde_json::Value> =
            said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(lines.len(), said.lines().count(), "{said}");
        let last = lines.last().expect("a line");
        assert_eq!(last["level"], "ERROR");
        assert!(last["message"].as_str().is_some_and(|text| text.contains("comet.tcp.bind")), "{said}");
    }
}

/// With 256 descriptors it was "enough for 1 connections", and the second client was reset.
#[test]
fn few_descriptors_hold_as_many_clients_as_are_left_and_are_warned_of() {
    for (limit, clients) in [(256, 120), (128, 16)] {
        let server = Server::start_limited(limit);
        let log = server.log();
        assert!(log.contains("WARN") && log.contains(&format!("limit on open files is {limit}")), "{log}");
        let held: Vec<Client> =
            (0..clients).map(|n| server.client(BOTH[n % 2], &Login::key(&format!("k{n}")))).collect();
        // And there is still a place for who asks.
        assert_eq!(server.get("/healthz").status, 200);
        drop(held);
    }
}

/// It was "pinned to cores 7" on a machine with two.
#[test]
fn a_core_that_is_not_there_is_told_and_not_said_to_be_used() {
    for (cpus, words) in [
        ("4093", "2, not pinned"),
        ("0,4093", "pinned to cores 0; 1 not pinned"),
        ("0", "pinned to cores 0, 0"),
    ] {
        let set = format!("comet.reactor.cpus={cpus}");
        let server = Server::start(&[&set]);
        let log = server.log();
        let shards = log.lines().find(|line| line.starts_with("  shards")).expect("a line about the shards");
        assert!(shards.contains(words), "{cpus}: {shards}");
        let asked = run(&["--check-config", "--set", &set]);
        let said = String::from_utf8_lossy(&asked.stderr).into_owned();
        assert!(asked.status.success(), "{said}");
        assert_eq!(said.contains("there is no core 4093"), cpus.contains("4093"), "{said}");
    }
}

#[test]
fn sigterm_drains_and_ends_with_0() {
    let mut server = Server::start(&["comet.drain.spread=500ms"]);
    let mut clients: Vec<Client> =
        (0..40).map(|n| server.client(BOTH[n % 2], &Login::key(&format!("k{n}")).reasons())).collect();
    let silent = server.connect(Transport::Tcp);
    let started = Stopwatch::start();
    server.signal(Signal::TERM);
    eventually("no more clients", || std::net::TcpStream::connect(server.tcp).is_err().then_some(()));
    for client in &mut clients {
        let end = client.end();
        assert_eq!(end.code(), (client.transport == Transport::WebSocket).then_some(1001));
        assert_eq!(end.reason().expect("asked for")["code"], 1001);
        assert!(!end.reset);
    }
    assert_eq!(server.exit_status(Duration::from_secs(30)), Some(0));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    drop(silent);
}

#[test]
fn sigint_drains_too() {
    let mut server = Server::start(&[]);
    let mut client = server.client(Transport::WebSocket, &Login::key("k"));
    server.signal(Signal::INT);
    assert_eq!(client.end().code(), Some(1001));
    assert_eq!(server.exit_status(PATIENCE), Some(0));
}

/// The terminal closes, a script means "reload" or "rotate": the platform's default was the end of all connections.
#[test]
fn sighup_and_its_like_end_nothing_and_sigquit_drains() {
    let mut server = Server::start(&[]);
    let mut clients = BOTH.map(|transport| {
        server.client(transport, &Login::key(&format!("{transport:?}")).room("live://1").reasons())
    });
    for signal in
        [Signal::HUP, Signal::USR1, Signal::USR2, Signal::ALARM, Signal::PIPE, Signal::XFSZ, Signal::HUP]
    {
        server.signal(signal);
    }
    eventually("it says so", || server.log().contains("SIGHUP").then_some(()));
    server.push("room?operation=1000&type=live&room=1", "still here");
    for client in &mut clients {
        client.expect_push(1000, "still here");
    }
    server.signal(Signal::QUIT);
    for client in &mut clients {
        let end = client.end();
        assert_eq!(end.reason().expect("asked for")["code"], 1001);
        assert!(!end.reset);
    }
    assert_eq!(server.exit_status(PATIENCE), Some(0));
}

#[test]
fn a_client_that_does_not_go_does_not_hold_up_the_end() {
    let mut server = Server::start(&["comet.drain.timeout=1s"]);
    let mut clients: Vec<Client> =
        BOTH.map(|transport| server.client(transport, &Login::key(&format!("{transport:?}")))).into();
    // Never reads, never closes.
    clients.push(server.connect(Transport::WebSocket));
    let started = Stopwatch::start();
    server.signal(Signal::TERM);
    assert_eq!(server.exit_status(PATIENCE), Some(0));
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let mut server = Server::start(&[]);
    // A request whose body does not come holds up a drain.
    let mut connection = Http::connect(server.http);
    connection.write(
        b"POST /goim/push/keys?operation=1000&keys=a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
            .to_vec(),
    );
    thread::sleep(Duration::from_millis(100));
    server.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(500));
    assert!(server.is_running(), "the request was given up");
    let started = Stopwatch::start();
    server.signal(Signal::TERM);
    server.exit_status(PATIENCE);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn pushes_accepted_before_the_end_are_delivered() {
    let mut server = Server::start(&["comet.drain.spread=200ms"]);
    let mut clients = BOTH.map(|transport| {
        server.client(transport, &Login::key(&format!("{transport:?}")).room("live://1000"))
    });
    let accepted = AtomicU32::new(0);
    let (http, accepted) = (server.http, &accepted);
    let received: Vec<Vec<String>> = thread::scope(|scope| {
        let readers: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                scope.spawn(move || {
                    let mut bodies = Vec::new();
                    loop {
                        match client.next(PATIENCE) {
                            Next::Frame(frame) => bodies.push(frame.text()),
                            Next::End(_) => return bodies,
                            Next::Silence => panic!("no end"),
                        }
                    }
                })
            })
            .collect();
        scope.spawn(move || {
            let mut connection = Http::connect(http);
            for n in 0u32.. {
                connection.send(
                    "POST",
                    "/goim/push/room?operation=1000&type=live&room=1000",
                    &[],
                    n.to_string().as_bytes(),
                );
                // The answer before the end of this connection is the last one.
                let Some(answer) = connection.try_answer() else { break };
                if answer.status != 200 {
                    break;
                }
                accepted.fetch_add(1, SeqCst);
            }
        });
        eventually("some pushes", || (accepted.load(SeqCst) > 300).then_some(()));
        server.signal(Signal::TERM);
        readers.into_iter().map(|reader| reader.join().expect("a reader")).collect()
    });
    let accepted = accepted.load(SeqCst) as usize;
    for bodies in &received {
        let expected: Vec<String> = (0..bodies.len()).map(|n| n.to_string()).collect();
        assert!(*bodies == expected, "out of order: {bodies:?}");
        // One more may have been accepted without its answer having come.
        assert!(bodies.len() >= accepted, "{} of {accepted} accepted pushes arrived", bodies.len());
    }
    assert_eq!(server.exit_status(PATIENCE), Some(0));
}

#[test]
fn a_thousand_connections_leave_no_descriptor_behind() {
    let server = Server::start(&[]);
    let before = server.descriptors();
    for batch in 0..20 {
        let mut clients: Vec<Client> = (0..50)
            .map(|n| {
                let transport = BOTH[n % 2];
                match n % 5 {
                    // Some say nothing, some not enough.
                    0 => Client::raw(transport, server.address(transport)),
                    1 => server.connect(transport),
                    _ => server.client(
                        transport,
                        &Login::key(&format!("{}", batch * 10 + n % 30)).room("live://1000"),
                    ),
                }
            })
            .collect();
        server.push("room?operation=1000&type=live&room=1000", "x");
        for (n, client) in clients.drain(..).enumerate() {
            if n % 3 == 0 && n % 5 > 1 {
                client.leave();
            }
        }
    }
    let started = Stopwatch::start();
    loop {
        let now = server.descriptors();
        if now.len() <= before.len() {
            break;
        }
        let new: Vec<&String> = now.iter().filter(|descriptor| !before.contains(descriptor)).collect();
        assert!(started.elapsed() < PATIENCE, "more than before: {new:?} {:?}", server.metrics());
        thread::sleep(Duration::from_millis(20));
    }
    server.expect_metric("halley_connections{transport=\"tcp\"}", 0.0);
    server.expect_metric("halley_connections{transport=\"websocket\"}", 0.0);
    let total = eventually("a report", || {
        Some(server.get("/goim/online/total").json()).filter(|answer| answer["data"]["conn_count"] == 0)
    });
    assert_eq!(total["data"]["ip_count"], 0);
}
