//! The command lines and files of the three programs: goim's as they are, and what is refused.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::{
    harness::{Login, Server, Transport, eventually, server::GOIMS_VARIABLES},
    world::{Cluster, program},
};

const PROGRAMS: [&str; 3] = ["comet", "logic", "job"];

/// A site's file.
fn file(of: &str, name: &str) -> String {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/files");
    files.join(of).join(name).with_extension("toml").display().to_string()
}

/// Runs a program that has to end by itself, and gives what it said on standard error, or on standard output.
#[track_caller]
fn run(name: &str, args: &[&str], environment: &[(&str, &str)], status: i32) -> String {
    let mut command = Command::new(program(name));
    for variable in GOIMS_VARIABLES {
        command.env_remove(variable);
    }
    let Output { status: ended, stdout, stderr } =
        command.args(args).envs(environment.iter().copied()).output().expect("it starts");
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8(text).expect("text"));
    assert_eq!(ended.code(), Some(status), "{name} {args:?}: {stdout}{stderr}");
    if stderr.is_empty() { stdout } else { stderr }
}

/// Operators' files and habits stand on them: what is added, dropped or changed here belongs into CHANGELOG.md.
#[test]
fn keys_and_defaults_stay_as_they_were() {
    for name in ["halley", "comet", "logic", "job"] {
        let program = if name == "halley" { env!("CARGO_BIN_EXE_halley").into() } else { program(name) };
        let output = Command::new(program).arg("--print-default-config").output().expect("it starts");
        let printed: toml::Table = toml::from_slice(&output.stdout).expect("TOML");
        let before = fs::read_to_string(file("defaults", name)).expect("the defaults of 0.1.0");
        let before: toml::Table = toml::from_str(&before).expect("TOML");
        let mut changed = Vec::new();
        differences("", &before, &printed, &mut changed);
        assert!(changed.is_empty(), "{name}: {changed:#?}");
    }
}

fn differences(section: &str, before: &toml::Table, now: &toml::Table, changed: &mut Vec<String>) {
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    for name in names {
        let key = format!("{section}{name}");
        match (before.get(name), now.get(name)) {
            (Some(toml::Value::Table(before)), Some(toml::Value::Table(now))) => {
                differences(&format!("{key}."), before, now, changed);
            }
            (before, now) if before == now => {}
            (before, now) => changed.push(format!("{key}: was {before:?}, is {now:?}")),
        }
    }
}

/// The files have the keys, the forms and the spaces of the real ones: the original goim's, goim-example's newest, and those it
/// had before it took `redisEnable` out of `[consume]`.
#[test]
fn files_of_goim_and_goim_example_are_right_as_they_are() {
    for of in ["goim", "goim-example", "goim-example-2023"] {
        for name in PROGRAMS {
            let said = run(name, &["-conf", &file(of, name), "--check-config"], &[], 0);
            // What means nothing here is told, once each and in one line.
            let unused = match (name, of) {
                ("comet", _) => {
                    &["tcp.reader", "protocol.svrProto", "whitelist.WhiteLog", "bucket.routineAmount"][..]
                }
                ("logic", _) => &["redis.active", "httpServer.network"],
                (_, "goim") => &[],
                _ => &["redis.active", "redis.idleTimeout"],
            };
            assert_eq!(said.lines().count(), 1, "{said}");
            for key in unused {
                assert_eq!(said.matches(key).count(), 1, "{key} in {said}");
            }
        }
    }
}

/// A newer goim-example has one key in `[consume]`, an older one two, the original goim no such section; a site may have
/// added what the programs take and the example files do not show.
#[test]
fn the_broker_is_the_one_that_goim_would_take() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.toml");
    for (text, broker) in [
        ("[consume]\nkafkaEnable = false\n", "Redis"),
        (
            "[consume]\nkafkaEnable = true\n[room]\nbatch = 20\nidle = \"15m\"\n[comet]\nroutineChan = 1024\n",
            "Kafka",
        ),
        ("[consume]\nkafkaEnable = false\nredisEnable = true\n", "Redis"),
        ("[consume]\nkafkaEnable = true\nredisEnable = false\n", "Kafka"),
        ("[consume]\n", "Redis"),
        ("[kafka]\ntopic = \"goim-push-topic\"\n", "Kafka"),
    ] {
        fs::write(&path, text).expect("a file");
        // Ports of its own, and servers that are not there: which one it looks for stands in the lines of the start.
        let sets = [
            "admin.addr=127.0.0.1:0",
            "discovery.nodes=127.0.0.1:1",
            "redis.addr=127.0.0.1:1",
            "kafka.brokers=127.0.0.1:1",
        ];
        let args = ["-conf".to_owned(), path.display().to_string()];
        let args =
            args.into_iter().chain(sets.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]));
        let job = Server::start_program(&program("job"), args);
        let log = job.log();
        // Kafka is looked for longer than lines are kept back for those of the start.
        assert!(
            broker == "Kafka" || log.starts_with("job "),
            "nothing stands before the lines of the start: {log}"
        );
        let queue = log.lines().find(|line| line.starts_with("  queue")).expect("a line about the queue");
        assert!(queue.contains(broker), "{text:?}: {queue}");
    }
}

#[test]
fn a_printed_default_is_a_configuration() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in PROGRAMS {
        let text = run(name, &["--print-default-config"], &[], 0);
        let file = directory.path().join(name);
        fs::write(&file, text).expect("a file");
        let file = file.display().to_string();
        for flag in ["--config", "-conf", "--conf"] {
            assert!(run(name, &[flag, &file, "--check-config"], &[], 0).contains("is right"));
        }
    }
}

#[test]
fn what_is_wrong_is_refused_in_one_line_before_a_port_is_bound() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("an address");
    let comet = format!("tcp.bind={taken}");
    let logic = format!("httpServer.addr={taken}");
    let job = format!("admin.addr={taken}");
    let rows: &[(&str, &[&str], &[&str])] = &[
        ("comet", &["--set", "websocket.tlsOpen=true"], &["websocket.certFile = []", "needs a certificate"]),
        ("comet", &["--set", "tcp.bind=[]"], &["tcp.bind", "at least one"]),
        ("comet", &["--set", "tcp.bnid=x"], &["tcp.bnid", "did you mean bind?"]),
        ("comet", &["--set", "discovery.nodes=[]"], &["discovery.nodes", "at least one"]),
        ("comet", &["--set", "rpcServer.addr=:0"], &["rpcServer.addr", "auth.allowInsecure = true"]),
        ("comet", &["-region=a/b"], &["REGION", "a/b", "slashes"]),
        (
            "logic",
            &["--set", "httpServer.addr=:0"],
            &["httpServer.addr", "set push.tokens", "auth.allowInsecure"],
        ),
        ("logic", &["--set", "rpcServer.addr=:0"], &["rpcServer.addr", "auth.mode", "auth.allowInsecure"]),
        ("logic", &["--set", "redis.expire=90s"], &["redis.expire", "node.heartbeat"]),
        (
            "logic",
            &["--set", "redis.auth=env:NO_SUCH_VARIABLE"],
            &["redis.auth = (hidden)", "NO_SUCH_VARIABLE"],
        ),
        ("logic", &["--set", "push.tokens=file:/no/such"], &["push.tokens = (hidden)", "/no/such"]),
        ("logic", &["--set", "redis.mode=queue"], &["redis.mode", "\"stream\" or \"list\""]),
        (
            "job",
            &["--set", "consume.kafkaEnable=true", "--set", "consume.redisEnable=true"],
            &["consume.kafkaEnable = true", "consume.redisEnable is true too"],
        ),
        (
            "job",
            &["--set", "consume.redisEnable=false", "--set", "consume.kafkaEnable=false"],
            &["consume.kafkaEnable = false", "consume.redisEnable is false too"],
        ),
        (
            "comet",
            &["--set", "discovery.tls=true", "--set", "discovery.ca=/no/ca.pem"],
            &["discovery.ca = \"/no/ca.pem\"", "cannot be read"],
        ),
        ("comet", &["--set", "discovery.ca=/ca.pem"], &["discovery.ca", "discovery.tls is false"]),
        (
            "logic",
            &["--set", "redis.tls=true", "--set", "redis.ca=Cargo.toml"],
            &["redis.ca = \"Cargo.toml\"", "no certificate in it"],
        ),
        ("logic", &["--set", "redis.user=halley"], &["redis.user", "needs redis.auth"]),
        (
            "logic",
            &[
                "--set",
                "consume.kafkaEnable=true",
                "--set",
                "consume.redisEnable=false",
                "--set",
                "kafka.key=/k",
            ],
            &["kafka.key = \"/k\"", "kafka.tls is false"],
        ),
        (
            "job",
            &[
                "--set",
                "consume.kafkaEnable=true",
                "--set",
                "consume.redisEnable=false",
                "--set",
                "kafka.sasl=plain",
            ],
            &["kafka.user", "kafka.sasl needs a user"],
        ),
        ("job", &["--set", "kafka.sasl=gssapi"], &["kafka.sasl", "scram-sha-512"]),
        ("job", &["--set", "room.batch=0"], &["room.batch", "1 to 1000"]),
        ("job", &["--set", "redis.auth=5"], &["redis.auth = (hidden)"]),
    ];
    for (name, args, parts) in rows {
        let port = match *name {
            "comet" => &comet,
            "logic" => &logic,
            _ => &job,
        };
        // What is tested may be about that very key.
        let args: Vec<&str> = ["--set", port].iter().chain(args.iter()).copied().collect();
        let said = run(name, &args, &[], 64);
        assert_eq!(said.lines().count(), 1, "{said}");
        for part in *parts {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
    }
    // The tokens of a variable; that it holds none is as good as no token.
    let listed = ["--set", "push.tokens=env:TEST_TOKENS", "--set", "httpServer.addr=:0", "--check-config"];
    run("logic", &listed, &[("TEST_TOKENS", "sesame, other")], 0);
    for (environment, part) in
        [(&[("TEST_TOKENS", "")][..], "set push.tokens"), (&[], "TEST_TOKENS is not set")]
    {
        let said = run("logic", &listed, environment, 64);
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    for (variable, value) in [("WEIGHT", "heavy"), ("OFFLINE", "perhaps"), ("DEBUG", "2")] {
        let said = run("comet", &["--check-config"], &[(variable, value)], 64);
        assert!(said.contains(variable) && said.contains(value), "{said}");
    }
}

#[test]
fn a_port_in_use_is_named_and_ends_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("an address").to_string();
    for (name, keys) in [
        ("comet", &["tcp.bind", "websocket.bind", "rpcServer.addr", "admin.addr"][..]),
        ("logic", &["httpServer.addr", "rpcServer.addr"]),
        ("job", &["admin.addr"]),
    ] {
        for key in keys {
            let sets = keys
                .iter()
                .map(|other| format!("{other}={}", if other == key { &taken } else { "127.0.0.1:0" }));
            let args: Vec<String> = sets.flat_map(|set| ["--set".to_owned(), set]).collect();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let said = run(name, &args, &[], 69);
            let line = said.lines().last().unwrap_or_default();
            assert!(line.contains(key) && line.contains(&taken) && line.contains("in use"), "{said}");
        }
    }
}

#[test]
fn versions_and_help_are_told() {
    for name in PROGRAMS {
        for flag in ["--version", "-version"] {
            let said = run(name, &[flag], &[], 0);
            assert!(said.starts_with(&format!("{name} {} (", env!("CARGO_PKG_VERSION"))), "{said}");
        }
        let said = run(name, &["--help"], &[], 0);
        for part in
            ["Examples:", "--config", "--conf", "--set", "--region", "--deploy.env", "--log_dir", "REGION"]
        {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }
}

/// Writes a site's file with its addresses put in.
fn site_file(directory: &Path, name: &str, edits: &[(&str, &str)]) -> PathBuf {
    let mut text = fs::read_to_string(file("goim-example", name)).expect("a file");
    for (from, to) in edits {
        assert!(text.contains(from), "{from} in the file of {name}");
        text = text.replace(from, to);
    }
    let path = directory.join(name).with_extension("toml");
    fs::write(&path, text).expect("a file");
    path
}

/// goim-example's three files and flags, but for the addresses.
#[test]
fn a_site_starts_from_goim_s_files_and_flags_warns_and_serves() {
    let servers = Cluster::servers_only(crate::world::Queue::List);
    // The files say so.
    let redis = services::Redis::start_with(&["requirepass hunter2"]);
    let directory = tempfile::tempdir().expect("a directory");
    let etcd = format!("http://{},http://127.0.0.1:1", servers.etcd.addr());
    let redis = redis.addr();
    let etcd = [("http://127.0.0.1:2379,http://127.0.0.1:2479,http://127.0.0.1:2579", etcd.as_str())];
    let comet = [("\":3109\"", "\":0\""), ("\":3101\"", "\":0\""), ("\":3102\"", "\":0\"")];
    let comet = site_file(directory.path(), "comet", &[&etcd[..], &comet].concat());
    let redis = ("127.0.0.1:6379", redis.as_str());
    let logic = [redis, ("\":3119\"", "\":0\""), ("\":3111\"", "\":0\"")];
    let logic = site_file(directory.path(), "logic", &[&etcd[..], &logic].concat());
    let job = site_file(directory.path(), "job", &[&etcd[..], &[redis]].concat());
    let start = |name: &str, conf: &Path, more: &[&str]| {
        let conf = format!("-conf={}", conf.display());
        let flags =
            ["-region=bj", "-zone", "bj001", "--deploy.env=dev", "-host=127.0.0.1", "-logtostderr", "-v=1"];
        let args = [conf.as_str()].into_iter().chain(flags).chain(more.iter().copied());
        Server::start_program(&program(name), args.map(str::to_owned))
    };
    let list = ["--set", "redis.mode=list"];
    let logic = start("logic", &logic, &list);
    let job = start("job", &job, &["--set", "redis.mode=list", "--set", "admin.addr=127.0.0.1:0"]);
    let comet = start(
        "comet",
        &comet,
        &["-addrs=192.0.2.1,192.0.2.2", "-weight=7", "-offline", "--set", "admin.addr=127.0.0.1:0"],
    );
    for server in [&logic, &job, &comet] {
        server.expect_ready();
    }
    let instance = eventually("logic knows the comet", || {
        let instances = logic.get("/goim/nodes/instances").json()["data"].clone();
        instances.get(0).cloned()
    });
    let port = comet.comet_rpc.port();
    assert_eq!(instance["addrs"][0], format!("grpc://127.0.0.1:{port}"), "{instance}");
    for (key, value) in [("region", "bj"), ("zone", "bj001"), ("env", "dev")] {
        assert_eq!(instance[key], value, "{instance}");
    }
    for (key, value) in [("addrs", "192.0.2.1,192.0.2.2"), ("weight", "7"), ("offline", "true")] {
        assert_eq!(instance["metadata"][key], value, "{instance}");
    }
    // As open as goim, and not in silence.
    for (server, key) in [(&comet, "rpcServer.addr = [::]:0"), (&logic, "httpServer.addr = [::]:0")] {
        assert_eq!(server.metrics().get("halley_insecure"), Some(1.0));
        assert!(server.log().contains(key), "{}", server.log());
    }
    let log = logic.log();
    assert_eq!(log.matches("redis.active").count(), 1, "{log}");
    assert!(logic.log().contains("at most once"), "{log}");
    let mut client = comet.client(Transport::Tcp, &Login::key("k").mid(1).accepts(&[1000]));
    logic.push("mids?operation=1000&mids=1", "hello");
    client.expect_push(1000, "hello");
}

#[test]
fn a_password_comes_from_the_environment_or_a_file_and_is_in_no_log() {
    let redis = services::Redis::start_with(&["requirepass sesame-opens"]);
    let servers = Cluster::servers_only(crate::world::Queue::Stream);
    let directory = tempfile::tempdir().expect("a directory");
    let secret = directory.path().join("secret");
    fs::write(&secret, "sesame-opens\n").expect("a file");
    let address = format!("redis.addr={}", redis.addr());
    let by_file = format!("redis.auth=file:{}", secret.display());
    let logic = servers.logic(&[&address, &by_file, "log.level=debug"]);
    eventually("logic is ready with the password", || (logic.get("/readyz").status == 200).then_some(()));
    assert!(!logic.log().contains("sesame-opens"), "{}", logic.log());
    // Without it: served, not ready, and the reason is told.
    let logic = servers.logic(&[&address, "redis.auth=sesame-wrong", "log.level=debug"]);
    eventually("the wrong password is told", || logic.log().contains("WARN").then_some(()));
    assert_eq!(logic.get("/readyz").status, 503);
    assert_eq!(logic.get("/healthz").status, 200);
    assert!(!logic.log().contains("sesame-wrong"), "{}", logic.log());
}

/// The user of a hosted Redis has no dangerous and no administrator's commands. All worked, and the log warned at every
/// connection that Redis does not let us in.
#[test]
fn a_redis_user_without_info_and_role_is_enough_and_told_of_once() {
    for (rules, words) in [("-@dangerous -@admin", "ROLE and INFO"), ("-info", "INFO")] {
        let acl = format!("user default on nopass ~golang_im:* ~goim-push-topic* +@all {rules}");
        let redis = services::Redis::start_with(&[&acl]);
        let servers = Cluster::servers_only(crate::world::Queue::Stream);
        let address = format!("redis.addr={}", redis.addr());
        let logic = servers.logic(&[&address]);
        let job = servers.job(&[&address]);
        let comet = servers.comet(&[]);
        for server in [&logic, &job, &comet] {
            server.expect_ready();
        }
        eventually("job knows the comet", || job.log().contains("dispatching to it").then_some(()));
        let mut client = comet.client(Transport::Tcp, &Login::key("k").mid(1).accepts(&[1000]));
        logic.push("mids?operation=1000&mids=1", "hello");
        client.expect_push(1000, "hello");
        for server in [&logic, &job] {
            let log = server.log();
            assert_eq!(log.matches(&format!("the user may not use {words}: ")).count(), 1, "{log}");
            assert!(!log.contains("let us in") && !log.contains("does not allow it"), "{log}");
            let warned = log.lines().filter(|line| line.contains(" WARN ") && line.contains("Redis")).count();
            assert_eq!(warned, 1, "{log}");
        }
    }
}
