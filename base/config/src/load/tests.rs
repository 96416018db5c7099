use std::{collections::BTreeMap, io::Write as _};

use serde::Deserialize;

use super::{super::*, *};

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Halley {
    comet: Comet,
    logic: Logic,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Comet {
    tcp: Tcp,
    protocol: Protocol,
    whitelist: Whitelist,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Tcp {
    bind: Addrs,
    sndbuf: Option<ByteSize<1024, 1_048_576>>,
    rcvbuf: Option<ByteSize<1024, 1_048_576>>,
    keepalive: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Protocol {
    handshake_timeout: Option<BoundedDuration<100, 60_000>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Whitelist {
    #[serde(rename = "Whitelist")]
    whitelist: List<i64>,
    #[serde(rename = "WhiteLog")]
    white_log: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Logic {
    mode: Option<Mode>,
    node: Option<Node>,
    regions: BTreeMap<String, StringList>,
    auth: String,
    factor: f64,
    retries: u8,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Trust,
    Jwt,
    Webhook,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Node {
    heartbeat: GoDuration,
}

fn with_file(text: &str, sets: &[&str], unused: &[&str]) -> Result<Loaded<Halley>, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
    let path = file.path().display().to_string();
    load(Some(file.path()), &sets, unused).map_err(|error| error.to_string().replace(&path, "FILE"))
}

/// The lines about a file in which more than one thing is wrong.
fn wrong(text: &str, sets: &[&str]) -> Vec<String> {
    with_file(text, sets, &[]).unwrap_err().lines().map(str::to_owned).collect()
}

#[test]
fn all_mistakes_of_a_file_are_told_each_with_its_line() {
    let text = "\
[comet.tcp]
bind = [
  \":1\",
  \"x\",
  \":2\",
  \"y\",
]
sndbuf = \"1B\"
keepalive = \"no\"
[comet.protocol]
handshakeTimeout = \"90s\"
[logic]
retries = 7
mode = \"none\"
nodes = 1
";
    let address = |number: usize, text: &str| {
        format!(
            "comet.tcp.bind[{number}] = \"{text}\": \"{text}\" is not an address: write IP:port, such as 127.0.0.1:3101, or :3101"
        )
    };
    let expected = [
        format!("FILE:4: {}", address(1, "x")),
        format!("FILE:6: {}", address(3, "y")),
        "FILE:8: comet.tcp.sndbuf = \"1B\": below the minimum 1KiB".to_owned(),
        "FILE:9: comet.tcp.keepalive = \"no\": must be true or false".to_owned(),
        "FILE:11: comet.protocol.handshakeTimeout = \"90s\": above the maximum 1m".to_owned(),
        "FILE:14: logic.mode = \"none\": must be \"trust\", \"jwt\" or \"webhook\"".to_owned(),
        "FILE:15: logic.nodes: unknown key; did you mean node or mode?".to_owned(),
    ];
    assert_eq!(wrong(text, &[]), expected);
    // What is set goes over the file, and stands in no line of it.
    let lines =
        wrong("[logic]\nretries = \"a\"\nfactor = \"b\"\n", &["logic.factor=c", "logic.retries", "tcp=1"]);
    assert_eq!(
        lines,
        [
            "FILE:2: logic.retries = \"a\": must be an integer of fitting size",
            "--set logic.retries: write key=value",
            "logic.factor = \"c\": must be a number",
            "tcp: unknown key; known here: comet, logic",
        ]
    );
}

#[test]
fn all_that_is_no_toml_is_told() {
    let lines = wrong("[comet.tcp]\nbind = \n[logic\nretries = 1\n", &[]);
    assert!(
        lines.len() >= 2 && lines[0].starts_with("FILE:2:") && lines[1].starts_with("FILE:3:"),
        "in the order of the file: {lines:?}"
    );
}

/// A check over several keys sees the default of what could not be read.
#[test]
fn what_is_found_because_of_another_mistake_is_not_told() {
    let mut draft = {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"[comet.tcp]\nbind = [\"x\"]\n[logic]\nretries = 9\n").unwrap();
        super::draft::<Halley>(Some(file.path()), &[], &[]).unwrap()
    };
    assert!(draft.config.comet.tcp.bind.is_empty());
    draft.mistakes.extend(vec![
        ConfigError::value("comet.tcp.bind", "[]", "must have at least one address"),
        ConfigError::value("logic.auth", "\"\"", "needed, with comet.tcp.bind"),
        ConfigError::value("logic.retries", 9, "above 8"),
    ]);
    let lines = draft.mistakes.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].contains("comet.tcp.bind[0]") && lines[1].ends_with(":4: logic.retries = 9: above 8"),
        "{lines:?}"
    );
}

fn with_sets(sets: &[&str]) -> Result<Halley, String> {
    with_file("", sets, &[]).map(|loaded| loaded.config)
}

#[test]
fn without_file_and_sets_there_is_the_default() {
    let loaded = load::<Halley>(None, &[], &["comet.bucket.*"]).unwrap();
    assert_eq!(loaded, Loaded { config: Halley::default(), unused: vec![] });
}

#[test]
fn a_set_goes_over_the_file_and_the_last_set_wins() {
    let file = "comet.tcp = { bind = [\":1\"], keepalive = true }\n[logic.node]\nheartbeat = \"4m\"";
    let config = with_file(file, &["comet.tcp.bind=:2", "comet.tcp.bind=:3"], &[]).unwrap().config;
    assert_eq!(config.comet.tcp.bind[0].to_string(), "[::]:3");
    assert!(config.comet.tcp.keepalive);
    assert_eq!(config.logic.node.unwrap().heartbeat.to_string(), "4m");
}

#[test]
fn set_values_need_no_quotes() {
    let config = with_sets(&[
        "logic.node.heartbeat=4m",
        "comet.tcp.bind=127.0.0.1:1,[::1]:2",
        "comet.tcp.sndbuf=64KiB",
        "comet.tcp.rcvbuf=4096",
        "comet.tcp.keepalive=true",
        "comet.whitelist.Whitelist=1,2",
        "comet.whitelist.WhiteLog= a=b # c",
        "logic.mode=jwt",
        "logic.factor=2",
        "logic.regions.\"new york\"=[\"a\", \"b\"]",
        "logic.auth=",
    ])
    .unwrap();
    assert_eq!(config.logic.node.unwrap().heartbeat, GoDuration::secs(240));
    assert_eq!(config.comet.tcp.bind.len(), 2);
    assert_eq!(config.comet.tcp.sndbuf, Some(ByteSize::kib::<64>()));
    assert_eq!(config.comet.tcp.rcvbuf, Some(ByteSize::kib::<4>()));
    assert!(config.comet.tcp.keepalive);
    assert_eq!(*config.comet.whitelist.whitelist, [1, 2]);
    assert_eq!(config.comet.whitelist.white_log, " a=b # c");
    assert_eq!(config.logic.mode, Some(Mode::Jwt));
    assert_eq!(config.logic.factor, 2.0);
    assert_eq!(*config.logic.regions["new york"], ["a", "b"]);
}

#[test]
fn a_lone_address_in_ipv6_brackets_is_a_string() {
    assert_eq!(
        with_sets(&["comet.tcp.bind=[::1]:3101"]).unwrap().comet.tcp.bind[0].to_string(),
        "[::1]:3101"
    );
}

#[test]
fn quoted_text_stays_text() {
    assert_eq!(with_sets(&["logic.auth=\"12345\""]).unwrap().logic.auth, "12345");
}

#[test]
fn every_error_is_one_line_with_key_value_and_bound() {
    for (set, expected) in [
        (
            "comet.protocol.handshakeTimeout=90s",
            "comet.protocol.handshakeTimeout = \"90s\": above the maximum 1m",
        ),
        (
            "comet.protocol.handshakeTimeout=5",
            "comet.protocol.handshakeTimeout = 5: needs a unit: \"5s\" for seconds, \"5ms\" for milliseconds",
        ),
        ("comet.tcp.sndbuf=1B", "comet.tcp.sndbuf = \"1B\": below the minimum 1KiB"),
        ("comet.tcp.keepalive=yes", "comet.tcp.keepalive = \"yes\": must be true or false"),
        (
            "comet.tcp.keepalive=no, expected yes",
            "comet.tcp.keepalive = \"no, expected yes\": must be true or false",
        ),
        ("comet.tcp.keepalive=1", "comet.tcp.keepalive = 1: must be true or false"),
        (
            "comet.tcp.bind=[\":1\", \"x\"]",
            "comet.tcp.bind[1] = \"x\": \"x\" is not an address: write IP:port, such as 127.0.0.1:3101, or :3101",
        ),
        ("comet.tcp.bind=true", "comet.tcp.bind = true: must be a list, or one string with commas"),
        ("comet.tcp=5", "comet.tcp = 5: must be a section"),
        ("logic.mode=none", "logic.mode = \"none\": must be \"trust\", \"jwt\" or \"webhook\""),
        ("logic.regions=5", "logic.regions = 5: must be a section"),
        ("logic.factor=high", "logic.factor = \"high\": must be a number"),
        ("logic.retries=256", "logic.retries = 256: must be an integer of fitting size"),
        ("logic.retries=many", "logic.retries = \"many\": must be an integer of fitting size"),
        ("logic.auth=12345", "logic.auth = (hidden): must be a string, in quotes"),
        ("logic.node={}", "logic.node.heartbeat: missing"),
        ("comet.tcp.bnid=:1", "comet.tcp.bnid: unknown key; did you mean bind?"),
        ("comet.tcp.buf=1", "comet.tcp.buf: unknown key; known here: bind, sndbuf, rcvbuf, keepalive"),
        ("comet.tcp.cvbuf=1", "comet.tcp.cvbuf: unknown key; did you mean rcvbuf?"),
        ("comet.tcp.snbuf=1", "comet.tcp.snbuf: unknown key; did you mean sndbuf?"),
        ("comet.whitelist.whitelist=1", "comet.whitelist.whitelist: unknown key; did you mean Whitelist?"),
        ("comet.comet=1", "comet.comet: unknown key; known here: tcp, protocol, whitelist"),
        ("comet.\"two\\nlines\"=1", "comet.two\\nlines: unknown key; known here: tcp, protocol, whitelist"),
        ("tcp.bind=:1", "tcp: unknown key; known here: comet, logic"),
        ("comet.tcp", "--set comet.tcp: write key=value"),
        ("=5", "--set : the key is not names joined by dots"),
        ("comet..tcp=5", "--set comet..tcp: the key is not names joined by dots"),
        ("a\nb=5", "--set a\\nb: the key is not names joined by dots"),
        ("comet.tcp.bind.x=[1", "comet.tcp.bind = {…}: must be a list, or one string with commas"),
    ] {
        assert_eq!(with_sets(&[set]), Err(expected.to_owned()), "{set}");
    }
}

#[test]
fn an_error_about_a_whole_section_repeats_nothing_of_it() {
    #[derive(Debug, Deserialize)]
    #[serde(try_from = "Table")]
    struct Picky;
    impl TryFrom<Table> for Picky {
        type Error = &'static str;
        fn try_from(_: Table) -> Result<Self, &'static str> {
            Err("too many tokens")
        }
    }
    let error = load::<Picky>(None, &["tokens=[\"hunter2\"]".to_owned()], &[]).unwrap_err();
    assert_eq!(error.to_string(), "configuration = {…}: too many tokens");
}

#[test]
fn a_set_does_not_run_through_a_value() {
    let error = with_sets(&["comet.tcp=5", "comet.tcp.bind=:1"]).unwrap_err();
    assert!(error.starts_with("--set comet.tcp.bind: tcp is a value, not a section\n"), "{error}");
}

#[test]
fn a_value_meant_as_toml_is_not_taken_for_a_text() {
    let error = with_sets(&["logic.regions.sh=[a, b]"]).unwrap_err();
    assert!(error.starts_with("--set logic.regions.sh: the value is not TOML: "), "{error}");
}

#[test]
fn a_value_cannot_smuggle_a_second_key_in() {
    let config = with_sets(&["logic.auth=1\nx = 2"]).unwrap();
    assert_eq!(config.logic.auth, "1\nx = 2");
}

#[test]
fn a_missing_file_is_named() {
    let error = load::<Halley>(Some(Path::new("/nowhere/halley.toml")), &[], &[]).unwrap_err().to_string();
    assert!(
        error.starts_with("/nowhere/halley.toml: cannot read the configuration: No such file"),
        "{error}"
    );
}

#[test]
fn unreadable_toml_is_named_with_line_and_column() {
    for (text, place) in
        [("[comet\n", "FILE:1:7: "), ("[comet]\n\nkey = ü\n", "FILE:3:7: "), ("a = 1\na = 2\n", "FILE:2:1: ")]
    {
        let error = with_file(text, &[], &[]).unwrap_err();
        assert!(error.starts_with(place), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_byte_order_mark_is_no_error() {
    assert!(with_file("\u{feff}[comet.tcp]\nkeepalive = true", &[], &[]).unwrap().config.comet.tcp.keepalive);
}

#[test]
fn keys_of_goim_s_internals_are_taken_out_and_told() {
    let file = "[comet.tcp]\nreader = 32\nkeepalive = true\n[comet.bucket]\nsize = 32\nroom = 1024\n";
    let unused = ["comet.tcp.reader", "comet.tcp.writer", "comet.bucket.*", "job.comet.*"];
    let loaded = with_file(file, &["comet.bucket.channel=5"], &unused).unwrap();
    assert_eq!(
        loaded.unused,
        ["comet.tcp.reader", "comet.bucket.channel", "comet.bucket.room", "comet.bucket.size"]
    );
    assert!(loaded.config.comet.tcp.keepalive);
}

#[test]
fn a_section_of_the_root_can_be_unused() {
    let loaded = with_file("[bucket]\nsize = 32\n[bucket.deep]\nx = 1\n", &[], &["bucket.*"]).unwrap();
    assert_eq!(loaded.unused, ["bucket.deep.x", "bucket.size"]);
}

#[test]
fn a_secret_that_is_not_there_is_named_by_its_key_and_not_shown() {
    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct File {
        redis: Redis,
    }
    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Redis {
        auth: Secret,
        tokens: SecretList,
    }
    let of = |set: &str| load::<File>(None, &[set.to_owned()], &[]).map(|loaded| loaded.config.redis);
    let line = of("redis.auth=env:HALLEY_NO_SUCH_VARIABLE").unwrap_err().to_string();
    assert_eq!(line, "redis.auth = (hidden): the environment variable HALLEY_NO_SUCH_VARIABLE is not set");
    let line = of("redis.tokens=a,env:HALLEY_NO_SUCH_VARIABLE").unwrap_err().to_string();
    assert_eq!(line, "redis.tokens = (hidden): the environment variable HALLEY_NO_SUCH_VARIABLE is not set");
    let line = of("redis.tokens=a,file:/nowhere").unwrap_err().to_string();
    assert!(line.starts_with("redis.tokens = (hidden): the file /nowhere cannot be read: "), "{line}");
    assert_eq!(of("redis.auth=env:PATH").unwrap().auth.get(), std::env::var("PATH").unwrap());
    assert_eq!(of("redis.tokens=a,file:/proc/sys/kernel/ostype").unwrap().tokens.len(), 2);
}
