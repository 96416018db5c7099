//! Real signals, to a process of their own: this test program started again as the child.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use halley_host::shutdown::{Drain, Reload, on_signals};
use rustix::process::{Pid, Signal, kill_process};

/// Set in the child.
const CHILD: &str = "HALLEY_TEST_SHUTDOWN_CHILD";

/// Not a test of its own: what the child does. It says when it is ready and when it drains, and ends neither.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let drain = Drain::new();
    on_signals(drain.clone(), Reload::new()).unwrap();
    println!("\nready");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(drain.draining());
    println!("\ndraining");
    // The runtime is stuck from here on.
    thread::sleep(Duration::from_secs(30));
}

struct Started {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Started {
    fn new() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    fn wait_for_line(&mut self, expected: &str) {
        let mut line = String::new();
        while line.trim_end() != expected {
            line.clear();
            assert_ne!(
                self.stdout.read_line(&mut line).unwrap(),
                0,
                "the child ended without saying {expected}"
            );
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_first_signal_drains_and_the_second_ends_a_stuck_process() {
    for (first, second, status) in [
        (Signal::TERM, Signal::TERM, 143),
        (Signal::INT, Signal::INT, 130),
        (Signal::QUIT, Signal::QUIT, 131),
    ] {
        let mut started = Started::new();
        started.wait_for_line("ready");
        started.signal(first);
        started.wait_for_line("draining");
        started.signal(second);
        assert_eq!(started.child.wait().unwrap().code(), Some(status), "{first:?} then {second:?}");
    }
}

/// A terminal that closed, or a log rotation, ended the process as if it had been killed.
#[test]
fn other_signals_end_nothing() {
    let mut started = Started::new();
    started.wait_for_line("ready");
    let harmless =
        [Signal::HUP, Signal::USR1, Signal::USR2, Signal::ALARM, Signal::IO, Signal::POWER, Signal::XFSZ];
    for signal in harmless {
        started.signal(signal);
    }
    thread::sleep(Duration::from_millis(100));
    assert!(started.child.try_wait().unwrap().is_none());
    started.signal(Signal::QUIT);
    started.wait_for_line("draining");
}
