//! Kafka, by the script beside this crate.

use std::{fs, path::Path, process::Command};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Authority, TlsFiles, ports::Ports};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kafka.sh");

/// The last release that answers the requests of goim's Kafka client: 4.0 dropped them (KIP-896).
const OF_GOIM: &str = "3.9.1";

/// How long a start may take, seconds: a JVM on a busy machine.
const START_MAX_S: &str = "180";

/// Who may log in to a Kafka with TLS, by PLAIN and by SCRAM.
#[derive(Clone, Copy, Debug)]
pub struct Login {
    /// The user.
    pub user: &'static str,
    /// Its password.
    pub password: &'static str,
}

/// The doors of a Kafka with TLS: one for clients that log in, and one for those that have a certificate.
struct Doors {
    properties: String,
    format: String,
    _authority: Authority,
}

impl Doors {
    fn new(
        authority: &Authority,
        Login { user, password }: Login,
        [port, controller, certified]: [u16; 3],
    ) -> Doors {
        let TlsFiles { ca, both, .. } = authority.sign("kafka");
        let scram = |mechanism: &str| {
            format!(
                "listener.name.sasl_ssl.{mechanism}.sasl.jaas.config=\
                 org.apache.kafka.common.security.scram.ScramLoginModule required;"
            )
        };
        let lines = [
            format!(
                "listeners=SASL_SSL://127.0.0.1:{port},SSL://127.0.0.1:{certified},CONTROLLER://127.0.0.1:{controller}"
            ),
            format!("advertised.listeners=SASL_SSL://127.0.0.1:{port},SSL://127.0.0.1:{certified}"),
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL".to_owned(),
            "inter.broker.listener.name=SSL".to_owned(),
            "ssl.keystore.type=PEM".to_owned(),
            format!("ssl.keystore.location={both}"),
            "ssl.truststore.type=PEM".to_owned(),
            format!("ssl.truststore.location={ca}"),
            "listener.name.ssl.ssl.client.auth=required".to_owned(),
            "listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512".to_owned(),
            format!(
                "listener.name.sasl_ssl.plain.sasl.jaas.config=\
                 org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}=\"{password}\";"
            ),
            scram("scram-sha-256"),
            scram("scram-sha-512"),
        ];
        let format = ["SCRAM-SHA-256", "SCRAM-SHA-512"]
            .map(|mechanism| format!("--add-scram {mechanism}=[name={user},password={password}]"));
        Doors { properties: lines.join("\n"), format: format.join(" "), _authority: authority.clone() }
    }
}

/// A single Kafka broker. It takes some seconds and half a gigabyte, so tests share one where they can.
pub struct Kafka {
    directory: TempDir,
    /// The broker's, the controller's behind it, and that for clients with a certificate, where there is TLS.
    ports: Ports<3>,
    /// Another release than the one of the script.
    version: Option<&'static str>,
    doors: Option<Doors>,
}

impl Kafka {
    /// Starts one.
    pub fn start() -> Kafka {
        Kafka::start_as(None, |_| None)
    }

    /// Starts one that goim's programs can speak with.
    pub fn start_for_goim() -> Kafka {
        Kafka::start_as(Some(OF_GOIM), |_| None)
    }

    /// Starts one that speaks TLS only. At [`addr`](Self::addr) clients have to log in; at
    /// [`certified_addr`](Self::certified_addr) they need a certificate that this authority has signed, and no login.
    pub fn start_with_tls(authority: &Authority, login: Login) -> Kafka {
        Kafka::start_as(None, |ports| Some(Doors::new(authority, login, ports)))
    }

    fn start_as(version: Option<&'static str>, doors: impl Fn([u16; 3]) -> Option<Doors>) -> Kafka {
        // Somebody who asks nobody can take a port before Kafka listens on it.
        let mut said = String::new();
        for _ in 0..3 {
            let (directory, ports) = (tempfile::tempdir().expect("a temporary directory"), Ports::take());
            let doors = doors(ports.numbers);
            let kafka = Kafka { directory, ports, version, doors };
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

    /// The same for clients with a certificate, where there is TLS.
    pub fn certified_addr(&self) -> String {
        let [_, _, certified] = self.ports.numbers;
        format!("127.0.0.1:{certified}")
    }

    fn port(&self) -> u16 {
        let [port, ..] = self.ports.numbers;
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
        if let Some(doors) = &self.doors {
            command
                .env("KAFKA_EXTRA_PROPERTIES", &doors.properties)
                .env("KAFKA_FORMAT_ARGUMENTS", &doors.format);
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
