//! The command line: what is refused, in which words, and that nothing was bound before.

use std::{fs, net::TcpListener, process::Output};

use crate::harness::{Client, Frame, Login, Server, Transport, eventually, run};

/// Refused configuration: EX_USAGE.
const EXIT_CONFIG: i32 = 64;
/// Anything else that stops a start.
const EXIT_START: i32 = 69;

#[track_caller]
fn refused(args: &[&str], status: i32) -> String {
    let Output { status: exit, stderr, stdout } = run(args);
    let stderr = String::from_utf8(stderr).expect("text");
    assert_eq!(exit.code(), Some(status), "{args:?}: {stderr}");
    assert_eq!(String::from_utf8_lossy(&stdout), "", "{args:?}");
    stderr
}

/// One line that has all of these in it.
#[track_caller]
fn expect_line(stderr: &str, parts: &[&str]) {
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is not in {stderr}");
    }
}

#[test]
fn a_wrong_value_is_named_with_key_and_bound() {
    // Were a port bound first, the start would fail for the port.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let bind = format!("comet.websocket.bind={}", taken.local_addr().expect("an address"));
    let rows: &[(&str, &[&str])] = &[
        ("comet.protocol.handshakeTimeout=90s", &["comet.protocol.handshakeTimeout", "90s", "1m"]),
        ("comet.protocol.handshakeTimeout=1ms", &["comet.protocol.handshakeTimeout", "1ms", "100ms"]),
        ("comet.protocol.handshakeTimeout=5", &["comet.protocol.handshakeTimeout", "= 5", "\"5s\""]),
        ("comet.protocol.handshakeTimeout=soon", &["comet.protocol.handshakeTimeout", "soon"]),
        ("comet.protocol.handshakeTimeout=-5s", &["comet.protocol.handshakeTimeout", "-5s"]),
        (
            "comet.protocol.unknownOpReply=maybe",
            &["comet.protocol.unknownOpReply", "maybe", "\"next\" or \"same\""],
        ),
        ("comet.tcp.bind=nonsense", &["comet.tcp.bind", "nonsense", "127.0.0.1:3101"]),
        ("comet.tcp.bind=localhost:3101", &["comet.tcp.bind", "localhost:3101"]),
        ("comet.tcp.bind=127.0.0.1:99999", &["comet.tcp.bind", "127.0.0.1:99999"]),
        ("comet.tcp.bind=127.0.0.1:5,127.0.0.1:5", &["comet.tcp.bind", "127.0.0.1:5", "twice"]),
        ("comet.tcp.bind=", &["comet.tcp.bind", "at least one"]),
        ("comet.tcp.sndbuf=1KiB", &["comet.tcp.sndbuf", "1KiB", "4KiB"]),
        ("comet.tcp.sndbuf=-1", &["comet.tcp.sndbuf", "-1"]),
        ("comet.proxies.trusted=10.0.0.1/8", &["comet.proxies.trusted", "10.0.0.1/8", "write 10.0.0.0/8"]),
        (
            "comet.proxies.trusted=proxy.example.com",
            &["comet.proxies.trusted", "proxy.example.com", "10.1.0.0/16"],
        ),
        ("comet.tcp.proxyProtocol=true", &["comet.tcp.proxyProtocol", "= true", "comet.proxies.trusted"]),
        ("comet.websocket.proxyProtocol=true", &["comet.websocket.proxyProtocol", "comet.proxies.trusted"]),
        ("comet.tcp.proxyProtocol=v2", &["comet.tcp.proxyProtocol", "v2", "true or false"]),
        ("comet.tcp.keepalive=yes", &["comet.tcp.keepalive", "yes", "true or false"]),
        ("comet.tcp.backlog=0", &["comet.tcp.backlog", "= 0", "1 to 65535"]),
        ("comet.limits.accepts=0", &["comet.limits.accepts", "= 0", "1 to 4096"]),
        ("comet.limits.accepts=4097", &["comet.limits.accepts", "4097", "1 to 4096"]),
        ("comet.limits.accepts=many", &["comet.limits.accepts", "many"]),
        (
            "comet.limits.slowConsumer=panic",
            &["comet.limits.slowConsumer", "panic", "\"drop-oldest\"", "\"close\""],
        ),
        ("comet.batch.mode=often", &["comet.batch.mode", "often", "\"adaptive\""]),
        ("comet.batch.window=2s", &["comet.batch.window", "2s", "1s"]),
        ("comet.reactor.driver=kqueue", &["comet.reactor.driver", "kqueue", "\"io_uring\"", "\"epoll\""]),
        #[cfg(not(feature = "glommio"))]
        ("comet.reactor.driver=glommio", &["comet.reactor.driver", "glommio", "--features glommio"]),
        ("comet.reactor.shards=1001", &["comet.reactor.shards", "1001", "0 to 1000"]),
        ("comet.rpcServer.addr=127.0.0.1", &["comet.rpcServer.addr", "127.0.0.1"]),
        ("logic.auth.mode=magic", &["logic.auth.mode", "magic", "\"trust\""]),
        ("logic.push.maxBody=64MiB", &["logic.push.maxBody", "64MiB", "16MiB"]),
        ("logic.push.tokens=two words", &["logic.push.tokens", "(hidden)", "without spaces"]),
        ("logic.limits.brokerBytes=1MiB", &["logic.limits.brokerBytes", "1MiB", "logic.push.maxBody"]),
        ("logic.node.heartbeat=20m", &["logic.redis.expire", "30m", "20m"]),
        // Each fits by itself, both together outlive a session: 5 min and 2 × 4 min.
        ("logic.redis.expire=12m", &["comet.protocol.renewInterval", "5m", "12m", "4m"]),
        ("logic.redis.expire=9m", &["comet.protocol.renewInterval", "5m", "9m"]),
        ("logic.backoff.jitter=1.5", &["logic.backoff.jitter", "1.5", "0 to 1"]),
        ("logic.clientMessages=shout", &["logic.clientMessages", "shout", "\"room\""]),
        ("job.room.batch=0", &["job.room.batch", "= 0", "1 to 1000"]),
        ("log.format=xml", &["log.format", "xml", "\"json\""]),
        ("comet=5", &["comet", "section"]),
        ("comet.tcp.bind.more=5", &["comet.tcp.bind"]),
    ];
    for (set, parts) in rows {
        let stderr = refused(&["--set", &bind, "--set", set], EXIT_CONFIG);
        expect_line(&stderr, parts);
        // And the check alone says the same.
        assert_eq!(refused(&["--check-config", "--set", &bind, "--set", set], EXIT_CONFIG), stderr);
    }
}

#[test]
fn an_unknown_key_is_refused_and_the_nearest_one_named() {
    for (set, parts) in [
        ("comet.tcp.bnid=127.0.0.1:1", &["comet.tcp.bnid", "unknown key", "did you mean bind?"][..]),
        ("comet.tcp.keepAlive=true", &["comet.tcp.keepAlive", "did you mean keepalive?"]),
        ("commet.tcp.bind=127.0.0.1:1", &["commet", "did you mean comet?"]),
        ("logic.nodes.heartbeat=5s", &["logic.nodes", "did you mean node?"]),
        ("comet.limits.nothing=1", &["comet.limits.nothing", "known here:", "frameRate"]),
    ] {
        expect_line(&refused(&["--set", set], EXIT_CONFIG), parts);
    }
}

#[test]
fn a_set_that_is_none_is_refused() {
    for (set, parts) in [
        ("comet.tcp.bind", &["--set comet.tcp.bind", "key=value"][..]),
        ("=5", &["--set"]),
        ("a b=5", &["--set a b"]),
        ("comet.tcp.bind=[\"127.0.0.1:1\"", &["comet.tcp.bind"]),
    ] {
        expect_line(&refused(&["--set", set], EXIT_CONFIG), parts);
    }
    let output = run(&["--nonsense"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--nonsense"));
}

#[test]
fn a_file_that_is_none_is_refused_with_its_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("halley.toml");
    let file = file.to_str().expect("UTF-8");
    expect_line(&refused(&["--config", file], EXIT_CONFIG), &[file, "cannot read"]);
    for (text, parts) in [
        ("[comet.tcp]\nbind = \n", &["halley.toml:2:"][..]),
        ("[comet.tcp\n", &["halley.toml:1:"]),
        ("[comet.limits]\naccepts = 0\n", &["comet.limits.accepts", "= 0", "1 to 4096"]),
        ("[comet.tcp]\nbnid = \"127.0.0.1:1\"\n", &["comet.tcp.bnid", "did you mean bind?"]),
        ("[comet.tcp]\nbind = [\"127.0.0.1:1\", \"x\"]\n", &["comet.tcp.bind", "x"]),
        ("comet = 1\n", &["comet", "section"]),
    ] {
        fs::write(file, text).expect("a file");
        expect_line(&refused(&["--config", file], EXIT_CONFIG), parts);
    }
    fs::write(file, b"\xff\xfe").expect("a file");
    expect_line(&refused(&["--config", file], EXIT_CONFIG), &[file]);
}

#[test]
fn strangers_are_kept_out_unless_that_is_asked_for() {
    let rows: &[(&[&str], &[&str])] = &[
        (&["comet.tcp.bind=0.0.0.0:0"], &["comet.tcp.bind", "0.0.0.0:0", "trust"]),
        (&["comet.websocket.bind=:0"], &["comet.websocket.bind", "[::]:0", "trust"]),
        (&["comet.websocket.bind=127.0.0.1:0,[::]:0"], &["comet.websocket.bind", "[::]:0", "trust"]),
        (&["logic.httpServer.addr=0.0.0.0:0"], &["logic.httpServer.addr", "0.0.0.0:0", "logic.push.tokens"]),
        (&["logic.rpcServer.addr=0.0.0.0:0"], &["logic.rpcServer.addr", "0.0.0.0:0"]),
        (&["comet.rpcServer.addr=0.0.0.0:0"], &["comet.rpcServer.addr", "0.0.0.0:0"]),
        (&["logic.push.tokens=sesame", "comet.tcp.bind=0.0.0.0:0"], &["comet.tcp.bind", "trust"]),
    ];
    for (sets, parts) in rows {
        let args: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let stderr = refused(&args, EXIT_CONFIG);
        expect_line(&stderr, parts);
        expect_line(&stderr, &["allowInsecure"]);
    }
    // A token is enough for the push API, and nothing is insecure then.
    let server = Server::start(&["logic.httpServer.addr=0.0.0.0:0", "logic.push.tokens=sesame"]);
    assert_eq!(server.metrics().get("halley_insecure"), Some(0.0));
    // Asked for, warned of, and seen by whoever watches the metrics.
    let server = Server::start(&["comet.tcp.bind=0.0.0.0:0", "logic.auth.allowInsecure=true"]);
    assert_eq!(server.metrics().get("halley_insecure"), Some(1.0));
    let log = server.log();
    assert!(log.contains("WARN") && log.contains("comet.tcp.bind = 0.0.0.0:0"), "{log}");
}

#[test]
fn the_printed_default_is_a_configuration_and_the_default() {
    let printed = run(&["--print-default-config"]);
    assert!(printed.status.success());
    let text = String::from_utf8(printed.stdout).expect("text");
    for line in [
        "bind = [\"127.0.0.1:3101\"]",
        "bind = [\"127.0.0.1:3102\"]",
        "addr = \"127.0.0.1:3109\"",
        "addr = [\"127.0.0.1:3111\"]",
        "addr = [\"127.0.0.1:3119\"]",
        "handshakeTimeout = \"5s\"",
        "mode = \"trust\"",
        "driver = \"auto\"",
    ] {
        assert!(text.lines().any(|other| other == line), "{line:?} is not in\n{text}");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("halley.toml");
    fs::write(&file, &text).expect("a file");
    let file = file.to_str().expect("UTF-8");
    let checked = run(&["--config", file, "--check-config"]);
    assert!(checked.status.success(), "{checked:?}");
    let server = Server::start_with(&["--config".to_owned(), file.to_owned()]);
    assert!(server.client(Transport::Tcp, &Login::key("k")).stream.peer_addr().is_ok());
}

#[test]
fn what_is_set_goes_over_the_file_and_the_file_over_the_default() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("halley.toml");
    let text = "[comet.limits]\nrooms = 1\naccepts = 2\n\
        [comet.tcp]\nbind = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\n\
        [comet.protocol]\nunknownOpReply = \"same\"\n";
    fs::write(&file, text).expect("a file");
    let args = ["--config", file.to_str().expect("UTF-8"), "--set", "comet.limits.accepts=3"];
    let server = Server::start_with(&args.map(str::to_owned));
    let mut client = server.client(Transport::WebSocket, &Login::key("k").room("live://1"));
    client.send(14, 1, "1,2,3");
    client.expect_reply(Frame::new(15, 1, "1,2,3"));
    client.send(14, 2, "4");
    client.expect_reply(Frame::new(15, 2, ""));
    client.send(2_000_000_000, 3, "live://2");
    client.expect_reply(Frame::new(2_000_000_001, 3, ""));
    client.send(1000, 4, "");
    client.expect_reply(Frame::new(1000, 4, ""));
}

#[test]
fn a_list_may_be_one_string() {
    let server = Server::start(&["comet.tcp.bind=127.0.0.1:0, 127.0.0.2:0"]);
    let log = server.log();
    let line = log.lines().find(|line| line.trim_start().starts_with("clients, TCP")).expect("a line");
    let addresses: Vec<&str> = line.split([' ', ',']).filter(|word| word.starts_with("127.")).collect();
    assert_eq!(addresses.len(), 2, "{line}");
    for address in addresses {
        let mut client = Client::raw(Transport::Tcp, address.parse().expect("an address"));
        client.login(&Login::default());
    }
}

#[test]
fn keys_of_goim_without_a_meaning_are_reported_once_and_harmless() {
    let server = Server::start(&["job.comet.routineChan=1024", "logic.redis.active=60000"]);
    let log = server.log();
    for key in ["job.comet.routineChan", "logic.redis.active"] {
        assert_eq!(log.matches(key).count(), 1, "{key} in {log}");
    }
}

#[test]
fn the_version_names_the_commit() {
    let output = run(&["--version"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with(&format!("halley {}", env!("CARGO_PKG_VERSION"))), "{text}");
    let has_commit = text
        .split(|c: char| !c.is_ascii_alphanumeric())
        .any(|word| (7..=40).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert!(has_commit, "{text}");
}

#[test]
fn help_tells_the_options() {
    let output = run(&["--help"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    for option in ["--config", "--set", "--print-default-config", "--check-config", "--version"] {
        assert!(text.contains(option), "{text}");
    }
}

#[test]
fn a_port_in_use_is_refused_in_one_line() {
    let ours = [
        "comet.tcp.bind",
        "comet.websocket.bind",
        "comet.rpcServer.addr",
        "logic.httpServer.addr",
        "logic.rpcServer.addr",
    ];
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("an address").to_string();
    let server = Server::start(&[]);
    let by_halley = [server.tcp, server.ws, server.comet_rpc, server.http, server.logic_rpc];
    for (key, by_halley) in ours.into_iter().zip(by_halley) {
        for address in [&taken, &by_halley.to_string()] {
            let sets: Vec<String> = ours
                .iter()
                .map(|other| format!("{other}={}", if *other == key { address } else { "127.0.0.1:0" }))
                .collect();
            let args: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
            let output = run(&args);
            let stderr = String::from_utf8(output.stderr).expect("text");
            assert_eq!(output.status.code(), Some(EXIT_START), "{key} = {address}: {stderr}");
            let line = stderr.lines().last().unwrap_or_default();
            assert!(line.contains(key) && line.contains(address.as_str()), "{key} = {address}: {stderr}");
            assert!(line.to_lowercase().contains("in use"), "{stderr}");
        }
    }
    // The one that was there first noticed nothing.
    for _ in 0..20 {
        server.client(Transport::Tcp, &Login::default()).leave();
    }
}

/// goim's file as it is: `:port` was IPv4 only, so clients on IPv6 were refused after a migration.
#[test]
fn a_port_alone_is_of_ipv4_and_ipv6_and_ipv4_is_told_as_such() {
    let sets = [
        "comet.tcp.bind=:0",
        "comet.websocket.bind=:0",
        "comet.rpcServer.addr=:0",
        "logic.httpServer.addr=:0",
        "logic.rpcServer.addr=:0",
        "logic.auth.allowInsecure=true",
        "log.level=debug",
        "logic.regions.sh=127.0.0.0/8",
    ];
    let server = Server::start(&sets);
    let ports = [server.tcp, server.ws, server.comet_rpc, server.http, server.logic_rpc]
        .map(|address| address.port());
    for port in ports {
        for address in ["127.0.0.1", "::1"] {
            assert!(std::net::TcpStream::connect((address, port)).is_ok(), "{address} {port}");
        }
    }
    // The same address by a socket of either family is one address.
    let clients: Vec<Client> = [("127.0.0.1", server.tcp), ("::ffff:127.0.0.1", server.ws)]
        .into_iter()
        .zip([Transport::Tcp, Transport::WebSocket])
        .map(|((address, bound), transport)| {
            let address = std::net::SocketAddr::new(address.parse().expect("an address"), bound.port());
            let mut client = Client::raw(transport, address);
            if transport == Transport::WebSocket {
                client.upgrade("/sub", "");
            }
            client.login(&Login::key(&format!("{transport:?}")));
            client
        })
        .collect();
    eventually("one address is counted", || {
        let total = server.get("/goim/online/total").json();
        (total["data"]["conn_count"] == 2 && total["data"]["ip_count"] == 1).then_some(())
    });
    // A wildcard is no address that clients could use.
    assert_eq!(server.get("/goim/nodes/weighted?platform=android").json()["data"]["nodes"][0], "localhost");
    drop(clients);
}

#[test]
fn both_wildcards_are_one_too_many_and_the_error_says_why() {
    for bind in ["0.0.0.0:13101,[::]:13101", "[::]:13101,0.0.0.0:13101", ":13101,127.0.0.1:13101"] {
        let stderr = refused(&["--set", &format!("comet.tcp.bind={bind}")], EXIT_CONFIG);
        expect_line(&stderr, &["comet.tcp.bind", "[::]:13101 takes", "along, for it listens on IPv4 too"]);
    }
}

/// Each started without a word, and no page in the world got in.
#[test]
fn what_can_have_no_effect_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("halley.toml");
    let text = "[comet.websocket]\norigins = [\"https://app.example.com/\", \"https://*.example.com\", \"app.example.com\", \
        \"https://app.example.com:443\"]\n";
    fs::write(&file, text).expect("a file");
    let stderr = refused(&["--config", file.to_str().expect("UTF-8")], EXIT_CONFIG);
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 4, "{stderr}");
    for (n, line) in lines.iter().enumerate() {
        assert!(line.contains(&format!("halley.toml:2: comet.websocket.origins[{n}] = ")), "{line}");
    }
    for (set, parts) in [
        ("comet.websocket.origins=https://a.example,http://b.example:80", &["write http://b.example"][..]),
        ("comet.websocket.origins=wss://a.example", &["write https://"]),
        ("comet.websocket.path=sub", &["comet.websocket.path", "a slash"]),
        ("comet.websocket.path=/sub?x=1", &["comet.websocket.path", "no request"]),
        ("logic.regions.sh=10.1.0.0/33", &["logic.regions.sh", "no network"]),
    ] {
        expect_line(&refused(&["--set", set], EXIT_CONFIG), parts);
    }
    // What browsers send is taken, and decides.
    let server = Server::start(&["comet.websocket.origins=https://App.example.com,http://[::1]:3000"]);
    for (origin, status) in [
        ("https://app.example.com", "101"),
        ("http://[::1]:3000", "101"),
        ("https://app.example.com:8443", "403"),
    ] {
        let mut client = Client::raw(Transport::WebSocket, server.ws);
        let head = client.try_upgrade("/sub", &format!("Origin: {origin}\r\n")).expect("an answer");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{origin}: {head}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_each_with_its_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("halley.toml");
    let path = file.to_str().expect("UTF-8");
    let text = "\
[comet]
tcp.bind = [\"127.0.0.1:13101\"]
websocket.bind = [\"127.0.0.1:13101\"]
rpcServer.addr = \"0.0.0.0:13109\"
limits.accepts = 0
drain.spred = \"1s\"
[logic]
httpServer.addr = \":13101\"
backoff.jitter = 2
[log]
level = \"loud\"
";
    fs::write(&file, text).expect("a file");
    for args in [&["--config", path][..], &["--check-config", "--config", path]] {
        let stderr = refused(args, EXIT_CONFIG);
        let expected = [
            (
                3,
                "comet.websocket.bind = 127.0.0.1:13101: comet.tcp.bind = 127.0.0.1:13101 listens there already",
            ),
            (4, "comet.rpcServer.addr = 0.0.0.0:13109: is not loopback"),
            (5, "comet.limits.accepts = 0: "),
            (6, "comet.drain.spred: unknown key; did you mean spread?"),
            (8, "logic.httpServer.addr = [::]:13101: comet.tcp.bind = 127.0.0.1:13101 listens there already"),
            (8, "logic.httpServer.addr = [::]:13101: is not loopback"),
            (9, "logic.backoff.jitter = 2: must be 0 to 1"),
            (11, "log.level = \"loud\": "),
        ];
        assert_eq!(stderr.lines().count(), expected.len(), "{stderr}");
        for (line, words) in expected {
            let words = format!("halley.toml:{line}: {words}");
            assert!(stderr.contains(&words), "{words:?} is not in {stderr}");
        }
    }
}

/// goim's files are one for each service, and its flags have one dash.
#[test]
fn goim_s_files_are_told_where_they_belong_and_made_one() {
    let files = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/files");
    let name =
        |of: &str, service: &str| files.join(of).join(service).with_extension("toml").display().to_string();
    for flag in ["-conf", "--conf", "-config"] {
        let stderr = refused(&[flag, &name("goim", "logic")], EXIT_CONFIG);
        for words in [
            "httpServer: unknown key; did you mean logic.httpServer?",
            "halley --import comet.toml logic.toml job.toml",
        ] {
            assert_eq!(stderr.matches(words).count(), 1, "{words:?} in {stderr}");
        }
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("halley.toml");
    for of in ["goim", "goim-example", "goim-example-2023"] {
        let given = ["comet", "job", "logic"].map(|service| name(of, service));
        let output = run(&["--import", &given[0], &given[1], &given[2]]);
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(
            output.status.success() && text.starts_with("# Left out, for one process has no use for it: "),
            "{text}"
        );
        assert!(!text.contains("hunter2") && text.contains("logic.discovery"), "{text}");
        fs::write(&file, &text).expect("a file");
        let file = file.to_str().expect("UTF-8");
        let open = ["--config", file, "--set", "logic.auth.allowInsecure=true"];
        let checked = run(&[&open[..], &["--check-config"]].concat());
        assert!(checked.status.success(), "{checked:?}");
        assert!(checked.stderr.is_empty(), "nothing without a meaning is left: {checked:?}");
        let server = Server::start_with(&open.map(str::to_owned));
        assert_eq!(
            server.get("/goim/nodes/weighted").json()["data"]["heartbeat"],
            240,
            "goim's file says so"
        );
    }
    let twice = run(&["--import", &name("goim", "job"), &name("goim-example", "job")]);
    assert_eq!(twice.status.code(), Some(EXIT_CONFIG));
    assert!(String::from_utf8_lossy(&twice.stderr).contains("second file of job"));

    // What is not goim's was put where nobody reads it, with status 0.
    let own = String::from_utf8(run(&["--print-default-config"]).stdout).expect("text");
    for (text, words) in [
        (&*own, "is Halley's own: halley --config FILE --check-config"),
        ("[comet.tcp]\nbind = ':1'\n", "is Halley's own"),
        ("[log]\nlevel = 'info'\n", "has log, which goim's job has not"),
        ("[tcp]\nbind = ':1'\n[nonsense]\nx = 1\n", "has nonsense, which goim's comet has not"),
        ("# nothing\n", "has none of goim's sections"),
    ] {
        fs::write(&file, text).expect("a file");
        let stderr = refused(&["--import", file.to_str().expect("UTF-8")], EXIT_CONFIG);
        assert!(stderr.contains(words), "{words:?} in {stderr}");
    }
}

#[test]
fn a_flag_of_goims_programs_is_called_what_it_is() {
    for flag in
        ["-region=sh", "--zone=z", "-deploy.env=prod", "-addrs=1.2.3.4", "-debug", "-v=1", "-log_dir=/tmp"]
    {
        let stderr = refused(&[flag, "--check-config"], 2);
        assert!(stderr.contains(&format!("{flag} is a flag of goim's programs")), "{stderr}");
        assert!(!stderr.contains("unexpected argument"), "{stderr}");
    }
}

#[test]
fn no_line_of_the_help_is_wider_than_80_columns() {
    let help = run(&["--help"]);
    for line in String::from_utf8(help.stdout).expect("text").lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}
