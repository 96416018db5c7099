//! Kafka, by the script beside this crate.

use std::{fs, path::Path, process::Command};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::ports::Ports;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kafka.sh");

/// The last release that answers the requests of goim's Kafka client: 4.0 dropped them (KIP-896).
const OF_GOIM: &str = "3.9.1";

/// How long a start may take, seconds: a JVM on a busy machine.
const START_MAX_S: &str = "180";

/// A single Kafka broker. It takes some seconds and half a gigabyte, so tests share one where they can.
pub struct Kafka {
    directory: TempDir,
    /// The broker's, and the controller's behind it.
    ports: Ports<2>,
    /// Another release than the one of the script.
    version: Option<&'static str>,
}

impl Kafka {
    /// Starts one.
    pub fn start() -> Kafka {
        Kafka::start_version(None)
    }

    /// Starts one that goim's programs can speak with.
    pub fn start_for_goim() -> Kafka {
        Kafka::start_version(Some(OF_GOIM))
    }

    fn start_version(version: Option<&'static str>) -> Kafka {
        // Somebody who asks nobody can take a port before Kafka listens on it.
        let mut said = String::new();
        for _ in 0..3 {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let kafka = Kafka { directory, ports: Ports::take(), version };
            match kafka.run("start", &[&kafka.port().to_string()]) {
                Ok(()) => return kafka,
                Err(error) => said = error,
            }
        }
        panic!("{said}");
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    fn port(&self) -> u16 {
        let [port, _] = self.ports.numbers;
        port
    }

    /// Stops it in good order; what it holds stays.
    pub fn stop(&self) {
        self.run("stop", &[]).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Starts it again on its port.
    pub fn start_again(&self) {
        self.run("start", &[]).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Kills it, as a crash does; what it holds stays.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        // Its pid may soon be another's; that there is none is as good.
        let _ = fs::remove_file(self.directory.path().join("pid"));
    }

    /// Stops it from answering, its connections stay: SIGSTOP.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// The script keeps its pid. One that ended by itself hears nothing.
    fn signal(&self, signal: Signal) {
        let pid = fs::read_to_string(self.directory.path().join("pid")).ok();
        if let Some(pid) = pid.and_then(|pid| pid.trim().parse().ok()).and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    fn script(&self) -> Command {
        let mut command = Command::new(SCRIPT);
        command.env("KAFKA_START_TIMEOUT", START_MAX_S);
        if let Some(version) = self.version {
            command.env("KAFKA_VERSION", version).env_remove("KAFKA_HOME");
        }
        command
    }

    fn run(&self, what: &str, more: &[&str]) -> Result<(), String> {
        let directory: &Path = self.directory.path();
        let output = self.script().arg(what).arg(directory).args(more).output().expect("bash");
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("kafka.sh {what} (`make deps` installs Kafka): {said}"))
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let directory: &Path = self.directory.path();
        // A stopped one hears no SIGTERM.
        self.resume();
        let _ = self.script().arg("stop").arg(directory).output();
    }
}
