//! The tool against a small goim server with planted faults: what it claims to find, it finds.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

mod server;
use server::{Fault, Server};

const CLIENTS: u64 = 5;
const PUSHES: u64 = 20;

fn loadgen() -> Command {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

/// 20 pushes in 200 ms to five clients: the exit status and the JSON report.
fn load(fault: Fault, more: &[&str]) -> (Option<i32>, Value) {
    let server = Server::start(fault);
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("report.json");
    let output = loadgen()
        .args(["9999", "5", &server.tcp.to_string(), "--push", &server.http])
        .args(["--rate", "100", "--duration", "200ms", "--drain", "500ms"])
        .arg("--json")
        .arg(&json)
        .args(more)
        .output()
        .expect("it runs");
    let report = std::fs::read(&json).unwrap_or_else(|_| panic!("no report: {}", text(&output)));
    (output.status.code(), serde_json::from_slice(&report).expect("JSON"))
}

/// The counters that a fault moves: lost, duplicated, out of order, damaged, foreign, disconnects.
fn trouble(report: &Value) -> [u64; 6] {
    let pushes = &report["pushes"];
    let count = |value: &Value| value.as_u64().expect("a number");
    let disconnects = report["disconnects"].as_object().expect("reasons").values().map(count).sum();
    [
        count(&pushes["lost"]),
        count(&pushes["duplicated"]),
        count(&pushes["out_of_order"]),
        count(&pushes["damaged"]),
        count(&report["foreign"]),
        disconnects,
    ]
}

#[test]
fn a_sound_server_passes_on_every_kind_and_transport() {
    for kind in ["room", "all"] {
        for transport in [&[][..], &["--ws"]] {
            let (status, report) = load(Fault::None, &[&["--kind", kind], transport].concat());
            assert_eq!(trouble(&report), [0; 6], "{report:#}");
            assert_eq!(report["connected"], CLIENTS);
            assert_eq!(report["deliveries"], CLIENTS * PUSHES);
            assert_eq!(report["pushes"]["accepted"], PUSHES);
            assert_eq!(status, Some(0));
        }
    }
}

#[test]
fn several_threads_add_up() {
    let (status, report) = load(Fault::None, &["--threads", "3", "--heartbeat", "50ms"]);
    assert_eq!(report["deliveries"], CLIENTS * PUSHES);
    assert!(report["heartbeats_answered"].as_u64() > Some(10), "{report:#}");
    assert_eq!(status, Some(0));
}

#[test]
fn planted_faults_are_found_and_spoil_the_run() {
    for (fault, expected) in [
        (Fault::Lose, [1, 0, 0, 0, 0, 0]),
        (Fault::Duplicate, [0, 1, 0, 0, 0, 0]),
        (Fault::Reorder, [0, 0, 1, 0, 0, 0]),
        (Fault::Damage, [1, 0, 0, 1, 0, 0]),
    ] {
        for transport in [&[][..], &["--ws"]] {
            let (status, report) = load(fault, transport);
            assert_eq!(trouble(&report), expected, "{fault:?} {transport:?}: {report:#}");
            assert_eq!(status, Some(1), "{fault:?}");
        }
    }
}

#[test]
fn a_client_that_is_closed_is_told_with_the_reason() {
    for transport in [&[][..], &["--ws"]] {
        let (status, report) = load(Fault::Close, transport);
        assert_eq!(report["disconnects"]["4409 replaced"], 1, "{report:#}");
        assert_eq!(status, Some(1));
    }
}

#[test]
fn joined_messages_are_split() {
    for transport in [&[][..], &["--ws"]] {
        let (status, report) = load(Fault::Join, transport);
        assert_eq!(report["deliveries"], CLIENTS * PUSHES, "{report:#}");
        assert_eq!((trouble(&report), status), ([0; 6], Some(0)));
    }
}

#[test]
fn a_refused_push_is_told_and_is_no_loss() {
    let (status, report) = load(Fault::Refuse, &[]);
    assert_eq!(trouble(&report), [0; 6], "{report:#}");
    assert_eq!(report["pushes"]["failed"], 1);
    assert!(report["pushes"]["first_failure"].as_str().is_some_and(|text| text.contains("planted")));
    assert_eq!(status, Some(1));
}

#[test]
fn messages_of_others_are_counted_and_harmless() {
    let (status, report) = load(Fault::Stranger, &[]);
    assert_eq!(trouble(&report), [0, 0, 0, 0, CLIENTS * PUSHES, 0], "{report:#}");
    assert_eq!(status, Some(0));
}

#[test]
fn logins_without_an_answer_are_given_up() {
    let (status, report) = load(Fault::Mute, &["--connect-timeout", "200ms"]);
    assert_eq!(report["connected"], 0, "{report:#}");
    assert_eq!(report["connect_failures"]["login not answered in time"], CLIENTS);
    assert_eq!(status, Some(1));
}

#[test]
fn without_pushes_it_holds_the_connections() {
    let server = Server::start(Fault::None);
    let output = loadgen()
        .args(["1", "20", &server.tcp.to_string(), "--duration", "100ms"])
        .output()
        .expect("it runs");
    let text = text(&output);
    assert!(text.contains("20 of 20") && text.contains("not checked without --push"), "{text}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn churn_ends_with_everybody_gone_and_exact_counts() {
    for transport in [&[][..], &["--ws"]] {
        let (status, text) = churn(Fault::None, transport);
        assert!(text.contains("round 2:") && text.contains("counts exact 6 of 6 times"), "{text}");
        assert!(text.contains("counts wrong 0"), "{text}");
        assert_eq!(status, Some(0), "{text}");
    }
}

#[test]
fn churn_finds_counts_that_are_wrong() {
    let (status, text) = churn(Fault::Miscount, &["--settle", "100ms"]);
    assert!(text.contains("after 0.1 s: all: the server says 31, connected are 30"), "{text}");
    assert!(text.contains("counts exact 1 of 6 times"), "all but those of nobody: {text}");
    assert_eq!(status, Some(1), "{text}");
}

fn churn(fault: Fault, more: &[&str]) -> (Option<i32>, String) {
    let server = Server::start(fault);
    let output = loadgen()
        .args(["churn", "1", "30", &server.tcp.to_string(), "--rounds", "2", "--push", &server.http])
        .args(more)
        .output()
        .expect("it runs");
    (output.status.code(), text(&output))
}

#[test]
fn sub_prints_what_push_sends() {
    let server = Server::start(Fault::None);
    for transport in [&[][..], &["--ws"]] {
        let mut sub = loadgen()
            .args(["sub", "--mid", "1", "--room", "live://1000", &server.tcp.to_string()])
            .args(transport)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut lines = BufReader::new(sub.stdout.take().expect("piped")).lines().map_while(Result::ok);
        assert!(lines.next().is_some_and(|line| line.ends_with("  8           logged in")));
        let push = loadgen()
            .args(["push", "--push", &server.http, "--room", "live://1000", "hello"])
            .output()
            .expect("it runs");
        assert_eq!(String::from_utf8_lossy(&push.stdout), "200 {\"code\":0,\"message\":\"\"}\n");
        assert_eq!(push.status.code(), Some(0));
        assert!(lines.next().is_some_and(|line| line.ends_with("  1000        hello")));
        sub.kill().expect("it was running");
        sub.wait().expect("it was running");
    }
}

#[test]
fn sub_says_why_it_was_closed() {
    let server = Server::start(Fault::Close);
    let mut sub = loadgen()
        .args(["sub", "--mid", "1", &server.tcp.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(sub.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.next().is_some_and(|line| line.ends_with("logged in")));
    for _ in 0..4 {
        let push = loadgen().args(["push", "--push", &server.http, "--kind", "all", "x"]).output();
        assert!(push.expect("it runs").status.success());
    }
    assert!(lines.last().is_some_and(|line| line.ends_with("  closed: 4409 replaced")));
    assert_eq!(sub.wait().expect("it ends").code(), Some(1));
}

#[test]
fn a_command_that_cannot_be_run_ends_with_2() {
    for arguments in [
        &["1", "5"][..],
        &["1", "5", "127.0.0.1:1", "--push", "http://h", "--size", "46"],
        &["1", "5", "127.0.0.1:1", "--push", "https://h"],
        &["1", "5", "nowhere"],
        &["1", "5", "127.0.0.1:1", "--push", "http://h", "--kind", "keys", "--accepts", "1001"],
        &["push", "--push", "http://127.0.0.1:1", "--kind", "all", "x"],
    ] {
        let output = loadgen().args(arguments).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output));
    }
}

/// Stopped several times, since one stop may fall into the wait for an answer, where it looks like a slow server.
#[test]
fn a_generator_that_was_held_up_does_not_report_the_tail() {
    let server = Server::start(Fault::None);
    let child = loadgen()
        .args(["1", "5", &server.tcp.to_string(), "--push", &server.http])
        .args(["--rate", "100", "--duration", "1s"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let signal = |name: &str| {
        let kill = Command::new("kill").args([name, &child.id().to_string()]).status();
        assert!(kill.expect("kill exists").success());
    };
    std::thread::sleep(std::time::Duration::from_millis(400));
    for _ in 0..5 {
        signal("-STOP");
        std::thread::sleep(std::time::Duration::from_millis(60));
        signal("-CONT");
        std::thread::sleep(std::time::Duration::from_millis(37));
    }
    let output = child.wait_with_output().expect("it ends");
    let text = text(&output);
    assert!(text.contains("not reported: at p") && text.contains("this generator was late by"), "{text}");
    assert_eq!(output.status.code(), Some(0), "late, but nothing was lost: {text}");
}
