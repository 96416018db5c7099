//! Kafka, by the script beside this crate.

use std::{path::Path, process::Command};

use tempfile::TempDir;

use super::process::free_ports;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kafka.sh");

/// Attempts to start on ports that others take meanwhile.
const STARTS: usize = 5;

/// A single Kafka broker. It takes some seconds and half a gigabyte, so tests share one where they can.
pub struct Kafka {
    directory: TempDir,
    port: u16,
}

impl Kafka {
    /// Starts one.
    pub fn start() -> Kafka {
        // The controller listens on the next port, and both open late: who connects meanwhile may be given one of them.
        let mut said = String::new();
        for _ in 0..STARTS {
            let [port] = free_ports();
            if port == u16::MAX {
                continue;
            }
            let kafka = Kafka { directory: tempfile::tempdir().expect("a temporary directory"), port };
            match kafka.run("start", &[&port.to_string()]) {
                Ok(()) => return kafka,
                Err(trouble) => said = trouble,
            }
        }
        panic!("kafka.sh start (`make deps` installs Kafka): {said}");
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Stops it in good order; what it holds stays.
    pub fn stop(&self) {
        self.run("stop", &[]).expect("kafka.sh stop");
    }

    /// Starts it again on its port.
    pub fn start_again(&self) {
        self.run("start", &[]).expect("kafka.sh start");
    }

    fn run(&self, what: &str, more: &[&str]) -> Result<(), String> {
        let directory: &Path = self.directory.path();
        let output = Command::new(SCRIPT).arg(what).arg(directory).args(more).output().expect("bash");
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(said()) }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let directory: &Path = self.directory.path();
        let _ = Command::new(SCRIPT).arg("stop").arg(directory).output();
    }
}
