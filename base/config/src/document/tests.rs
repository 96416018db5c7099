use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{super::*, *};

/// Sample of a configuration file: every type there is.
///
/// The second paragraph is long enough that it has to be broken into two lines somewhere near the hundredth column.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Sample {
    /// The gateway.
    comet: Comet,
    /// Where clients come from.
    ///
    /// Name of the region, then its provinces.
    regions: BTreeMap<String, StringList>,
    /// Login by token, off by default.
    jwt: Option<Jwt>,
    /// A plain key of the root, declared after the sections.
    debug: bool,
}

/// Not seen: the field has its own comment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Comet {
    /// Addresses for goim frames on TCP.
    bind: Addrs,
    /// Address of the gRPC server.
    rpc_addr: Addr,
    /// Time from accept to login.
    handshake_timeout: BoundedDuration<100, 60_000>,
    /// Time a session lives.
    expire: GoDuration,
    /// Threads.
    shards: Bounded<0, 1024>,
    /// Bytes that wait for one client.
    queue: ByteSize<1024, 1_048_576>,
    /// Unset by default.
    cert_file: Option<String>,
    /// Unset by default, and bounded.
    workers: Option<Bounded<2, 8>>,
    /// Unset duration.
    linger: Option<BoundedDuration<0, 1000>>,
    /// Longer than one line.
    names: StringList,
    /// Users whose frames are traced.
    #[serde(rename = "Whitelist")]
    whitelist: List<i64>,
    /// Token of the push API.
    token: Secret,
    /// How the delay grows.
    factor: f64,
    batch: Batch,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Batch {
    /// When frames wait for more.
    mode: Mode,
    /// Plain words.
    level: Option<Level>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// never: what is there goes out at once, together with what came while it was waiting for its turn
    Off,
    /// when the shard is busy
    #[default]
    Adaptive,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Level {
    Low,
    High,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Jwt {
    /// File of the key.
    key_file: String,
}

impl Default for Comet {
    fn default() -> Self {
        Self {
            bind: Addrs::loopback(3101),
            rpc_addr: Addr::loopback(3109),
            handshake_timeout: BoundedDuration::secs::<5>(),
            expire: GoDuration::secs(1800),
            shards: Bounded::of::<0>(),
            queue: ByteSize::kib::<64>(),
            cert_file: None,
            workers: None,
            linger: None,
            names: (0..12).map(|i| format!("name-{i}\"x\"")).collect(),
            whitelist: vec![123].into(),
            token: Secret::default(),
            factor: 1.8,
            batch: Batch::default(),
        }
    }
}

const EXPECTED: &str = r##"# Sample of a configuration file: every type there is.
#
# The second paragraph is long enough that it has to be broken into two lines somewhere near the
# hundredth column.

# A plain key of the root, declared after the sections.
debug = false

# The gateway.
[comet]

# Addresses for goim frames on TCP.
bind = ["127.0.0.1:3101"]

# Address of the gRPC server.
rpcAddr = "127.0.0.1:3109"

# Time from accept to login.
# Allowed: 100ms to 1m.
handshakeTimeout = "5s"

# Time a session lives.
expire = "30m"

# Threads.
# Allowed: 0 to 1024.
shards = 0

# Bytes that wait for one client.
# Allowed: 1KiB to 1MiB.
queue = "64KiB"

# Unset by default.
# certFile = ""

# Unset by default, and bounded.
# Allowed: 2 to 8.
# workers = 2

# Unset duration.
# Allowed: 0s to 1s.
# linger = ""

# Longer than one line.
names = [
    'name-0"x"',
    'name-1"x"',
    'name-2"x"',
    'name-3"x"',
    'name-4"x"',
    'name-5"x"',
    'name-6"x"',
    'name-7"x"',
    'name-8"x"',
    'name-9"x"',
    'name-10"x"',
    'name-11"x"',
]

# Users whose frames are traced.
Whitelist = [123]

# Token of the push API.
token = ""

# How the delay grows.
factor = 1.8

[comet.batch]

# When frames wait for more.
# - "off": never: what is there goes out at once, together with what came while it was waiting for
#   its turn
# - "adaptive": when the shard is busy
mode = "adaptive"

# Plain words.
# - "low"
# - "high"
# level = ""

# Where clients come from.
#
# Name of the region, then its provinces.
[regions]

# Login by token, off by default.
# [jwt]

# File of the key.
# keyFile = ""
"##;

#[test]
fn every_key_stands_under_its_comment() {
    let text = commented_default::<Sample>();
    assert!(text == EXPECTED, "got:\n{text}");
}

#[test]
fn what_is_written_reads_back_as_the_default() {
    let read: Sample = toml::from_str(&commented_default::<Sample>()).unwrap();
    assert_eq!(read, Sample::default());
}

#[test]
fn a_map_with_entries_reads_back() {
    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    struct Logic {
        /// Provinces of each region.
        regions: BTreeMap<String, StringList>,
    }
    impl Default for Logic {
        fn default() -> Self {
            let of = |names: &[&str]| names.iter().copied().collect();
            Self {
                regions: [("sh".to_owned(), of(&["上海", "江苏"])), ("a b".to_owned(), of(&[]))].into()
            }
        }
    }
    let text = commented_default::<Logic>();
    assert_eq!(text, "# Provinces of each region.\n[regions]\n\"a b\" = []\nsh = [\"上海\", \"江苏\"]\n");
    assert_eq!(toml::from_str::<Logic>(&text).unwrap(), Logic::default());
}

#[test]
fn what_is_commented_out_is_toml_of_the_right_type_too() {
    let text: String = EXPECTED
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key) if key.starts_with('[') || key.split(' ').nth(1) == Some("=") => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        // An empty word is of the right type, and still no word of its enum nor a duration.
        .map(|line| {
            line.replace("level = \"\"", "level = \"low\"").replace("linger = \"\"", "linger = \"1s\"")
        })
        .collect();
    let read: Sample = toml::from_str(&text).unwrap();
    assert_eq!(read.jwt, Some(Jwt::default()));
    assert_eq!(read.comet.workers, Some(Bounded::of::<2>()));
}

#[test]
fn lists_in_a_comment_keep_their_elements() {
    let lines =
        wrap("Words before\nthe list:\n\n- one two three\n- four five six seven\n  eight\n\nAfter.", 16);
    let expected = [
        "Words before the",
        "list:",
        "",
        "- one two three",
        "- four five six",
        "  seven eight",
        "",
        "After.",
    ];
    assert_eq!(lines, expected);
}
