//! Which crate may know which, which packages a pure crate cannot reach, and what every file keeps to.

mod common;

use std::{collections::BTreeMap, fs, process::Command};

use common::{root, sources};
use serde_json::Value;

/// Which of our crates each may use. What is not here may not be used: a new edge needs a line, and a reason.
const MAY_USE: &[(&str, &[&str])] = &[
    // What is said on wires, and between services.
    ("proto", &[]),
    ("grpc", &["proto"]),
    ("contract", &["proto"]),
    // What everything stands on.
    ("seam", &[]),
    ("config", &[]),
    ("ring", &[]),
    ("tls", &[]),
    ("host", &["config", "tls"]),
    ("registry", &["config", "contract", "host", "proto"]),
    // The gateway: its rules know no IO, and it knows no other service but by contract.
    ("shard", &["contract", "proto", "seam", "tls"]),
    ("comet", &["config", "contract", "grpc", "host", "proto", "registry", "ring", "seam", "shard", "tls"]),
    // The control plane: logic and job do not know each other, nor the gateway but by contract.
    ("store", &["config", "host"]),
    ("broker", &["config", "grpc", "host", "proto", "store"]),
    ("session", &["contract", "host", "proto", "seam", "store"]),
    ("comet-client", &["contract", "grpc", "host", "proto"]),
    (
        "logic",
        &[
            "broker",
            "comet-client",
            "config",
            "contract",
            "grpc",
            "host",
            "proto",
            "registry",
            "ring",
            "seam",
            "session",
            "store",
            "tls",
        ],
    ),
    (
        "job",
        &[
            "broker",
            "comet-client",
            "config",
            "contract",
            "grpc",
            "host",
            "proto",
            "registry",
            "ring",
            "seam",
            "store",
        ],
    ),
    // Everything in one process.
    (
        "halley",
        &[
            "broker", "comet", "config", "contract", "host", "job", "logic", "proto", "registry", "seam",
            "session", "shard",
        ],
    ),
    // Tools. They see the gateway from outside.
    ("loadgen", &["proto"]),
    ("bench", &["loadgen", "proto", "ring"]),
];

/// Ours that only tests and benches may use.
const FOR_TESTS: &[&str] = &["house", "micro", "pairs", "services", "testkit"];

/// Packages that do IO, or wait for it: none of them is behind a pure crate, however far.
const IO: &[&str] = &[
    "tokio",
    "monoio",
    "glommio",
    "mio",
    "tonic",
    "tonic-prost",
    "tonic-prost-build",
    "hyper",
    "axum",
    "tower",
    "rustix",
    "nix",
    "socket2",
    "io-uring",
    "etcd-client",
    "redis",
    "rdkafka",
];

/// Crates of which the compiler shall prove that they do no IO.
const PURE: &[&str] = &["shard", "contract", "proto", "seam", "tls"];

fn cargo(args: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(args).current_dir(root()).output().expect("cargo");
    assert!(output.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn short(package: &str) -> &str {
    package.strip_prefix("halley-").unwrap_or(package)
}

/// Our crates, and which of ours each uses in what is shipped.
fn edges() -> BTreeMap<String, Vec<String>> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: Value = serde_json::from_str(&metadata).expect("JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    list(&metadata["packages"])
        .iter()
        .map(|package| {
            let used = list(&package["dependencies"]);
            let used =
                used.iter().filter(|used| used["kind"].as_str() != Some("dev") && used["path"].is_string());
            (short(&name(package)).to_owned(), used.map(|used| short(&name(used)).to_owned()).collect())
        })
        .collect()
}

#[test]
fn a_crate_uses_only_what_its_line_allows() {
    let mut forbidden = Vec::new();
    for (package, used) in edges().iter().filter(|(package, _)| !FOR_TESTS.contains(&package.as_str())) {
        let Some((_, allowed)) = MAY_USE.iter().find(|(row, _)| row == package) else {
            forbidden.push(format!("{package} has no line"));
            continue;
        };
        let strangers = used.iter().filter(|used| !allowed.contains(&used.as_str()));
        forbidden.extend(strangers.map(|stranger| format!("{package} uses {stranger}")));
        let unused = allowed.iter().filter(|allowed| !used.iter().any(|used| used == *allowed));
        forbidden.extend(unused.map(|unused| format!("{package} may use {unused}, and does not")));
    }
    assert!(forbidden.is_empty(), "the table in this file says otherwise: {forbidden:#?}");
}

#[test]
fn a_pure_crate_cannot_reach_io() {
    for package in PURE {
        let name = format!("halley-{package}");
        let tree = cargo(&["tree", "-p", &name, "-e", "normal,build", "--prefix", "none", "--format", "{p}"]);
        let behind: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(behind.contains(&name.as_str()), "{tree}");
        let io: Vec<_> = IO.iter().filter(|io| behind.contains(io)).collect();
        assert!(io.is_empty(), "{name} can reach {io:?}: cargo tree -p {name} -i {}", io[0]);
    }
}

#[test]
fn only_ring_may_be_unsafe() {
    for (path, text) in
        sources().iter().filter(|(path, _)| path.ends_with("src/lib.rs") || path.ends_with("main.rs"))
    {
        let is_root = path.ends_with("lib.rs") || text.contains("fn main()");
        if is_root && !path.starts_with("ring/") {
            assert!(text.contains("#![forbid(unsafe_code)]"), "{path} does not forbid unsafe code");
        }
    }
}

#[test]
fn no_file_is_longer_than_seven_hundred_lines() {
    let long: Vec<String> = sources()
        .iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > 700)
        .map(|(path, lines)| format!("{path}: {lines}"))
        .collect();
    assert!(long.is_empty(), "a file has one subject: {long:?}");
}

#[test]
fn every_crate_root_says_what_it_is() {
    for (path, text) in sources().iter().filter(|(path, _)| path.ends_with("src/lib.rs")) {
        let header = text.lines().filter(|line| line.starts_with("//!")).count();
        assert!(header >= 1, "{path} does not say what it is and what it never does");
    }
    assert!(fs::exists(root().join("docs/ARCHITECTURE.md")).unwrap_or(false));
}
