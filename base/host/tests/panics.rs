//! A panic, told in the form of the logs: this test program started again as the child.

use std::{
    io::{PipeWriter, Read as _, Write as _, pipe},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use halley_host::telemetry::{Format, init_logs};
use rustix::fs::OFlags;

/// Set in the child: the format of its logs.
const CHILD: &str = "HALLEY_TEST_PANIC_CHILD";

/// Not a test of its own: what the child does.
#[test]
fn child() {
    let Ok(format) = std::env::var(CHILD) else { return };
    init_logs(if format == "json" { Format::Json } else { Format::Text }, "info").unwrap();
    let shard = thread::Builder::new().name("shard-7".to_owned()).spawn(|| panic!("out\nof \"luck\""));
    assert!(shard.unwrap().join().is_err());
}

fn start(format: &str, stderr: PipeWriter) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]).env_remove("RUST_BACKTRACE");
    command.env(CHILD, format).stdout(Stdio::null()).stderr(stderr).spawn().unwrap()
}

fn said(format: &str) -> String {
    let (mut reader, writer) = pipe().unwrap();
    let mut child = start(format, writer);
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    said
}

#[test]
fn a_panic_is_told_with_its_thread_in_the_form_of_the_logs() {
    let text = said("text");
    assert!(text.starts_with("thread shard-7 panicked at base/host/tests/panics.rs:"), "{text}");
    assert!(text.contains(":\nout\nof \"luck\"\n"), "{text}");
    let json = said("json");
    let line: serde_json::Value = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}: {json}"));
    assert_eq!(line["level"], "ERROR");
    let message = line["message"].as_str().unwrap();
    assert!(message.starts_with("thread shard-7") && message.ends_with("out\nof \"luck\""), "{message}");
}

/// The thread that panics would wait for the reader of its last words for ever, and the process never end.
#[test]
fn a_panic_ends_though_nobody_reads_what_it_says() {
    let (_reader, mut writer) = pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while writer.write(b".").is_ok() {}
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();
    let mut child = start("text", writer);
    for _ in 0..1500 {
        if child.try_wait().unwrap().is_some() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    panic!("it waits");
}
