//! A program of the cluster, which can be started again on its ports.

use std::{
    fs::{self, OpenOptions},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use super::{link::Link, samples::Samples};
use crate::{
    clock::{At, ms, now, secs},
    http,
};

/// How long a program may take to print that it serves.
const START: Duration = secs(30);

/// How long a healthy one may take to answer.
const ANSWER: Duration = secs(2);

/// Environment that the programs read. What stands in ours is not meant for them.
const VARIABLES: [&str; 7] = ["REGION", "ZONE", "DEPLOY_ENV", "ADDRS", "WEIGHT", "OFFLINE", "DEBUG"];

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Holds the clients.
    Comet,
    /// Decides logins, takes pushes.
    Logic,
    /// Carries pushes.
    Job,
}

impl Kind {
    /// Its name.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Comet => "comet",
            Kind::Logic => "logic",
            Kind::Job => "job",
        }
    }
}

/// Where a program listens; it has not all of them.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Clients, TCP.
    pub tcp: SocketAddr,
    /// Clients, WebSocket.
    pub ws: SocketAddr,
    /// The HTTP API of a logic, metrics and health of the others.
    pub http: SocketAddr,
    /// gRPC, which is also the name in the cluster.
    pub rpc: SocketAddr,
}

impl Ports {
    pub(super) fn free() -> Ports {
        let [tcp, ws, http, rpc] =
            services::free_ports().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Ports { tcp, ws, http, rpc }
    }
}

/// One program, running or not.
#[derive(Debug)]
pub struct Program {
    /// Which.
    pub kind: Kind,
    /// The number among its like, from 0.
    pub number: usize,
    /// Where it listens, whenever it runs.
    pub ports: Ports,
    /// Its way to etcd.
    pub etcd: Link,
    /// Its way to Redis; a comet has none.
    pub redis: Option<Link>,
    sets: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
    is_frozen: bool,
    /// Counters of the processes that ended, as they were last read.
    ended: Samples,
    last: Samples,
    /// When it was killed, each time.
    kills: Vec<At>,
}

impl Program {
    pub(super) fn new(
        kind: Kind,
        number: usize,
        ports: Ports,
        links: (Link, Option<Link>),
        sets: Vec<String>,
        directory: &Path,
    ) -> Program {
        let (etcd, redis) = links;
        let log = directory.join(format!("{}-{number}.log", kind.word()));
        Program {
            kind,
            number,
            ports,
            etcd,
            redis,
            sets,
            log,
            child: None,
            is_frozen: false,
            ended: Samples::default(),
            last: Samples::default(),
            kills: Vec::new(),
        }
    }

    /// `comet 0`.
    pub fn name(&self) -> String {
        format!("{} {}", self.kind.word(), self.number)
    }

    /// Starts it on its ports and waits until it serves; it need not be ready.
    ///
    /// # Errors
    /// It is not built, ends at once, or does not serve in time.
    pub async fn start(&mut self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log).context("a log file")?;
        let starts = self.starts();
        let mut command = Command::new(executable(self.kind.word())?);
        command.args(self.sets.iter().flat_map(|set| ["--set", set])).env("NO_COLOR", "1");
        for variable in VARIABLES {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| self.name())?);
        self.is_frozen = false;
        let begun = now();
        while self.starts() == starts {
            if let Some(status) = self.exit_status() {
                bail!("{} ended with {status}:\n{}", self.name(), self.log_tail(20));
            }
            if now() - begun > START {
                bail!("{} does not serve within {START:?}:\n{}", self.name(), self.log_tail(20));
            }
            sleep(ms(20)).await;
        }
        Ok(())
    }

    /// How often it has printed its first line.
    fn starts(&self) -> usize {
        let first = format!("{} ", self.kind.word());
        let is_first =
            |line: &&str| line.strip_prefix(&first).is_some_and(|rest| rest.starts_with(char::is_numeric));
        self.log().lines().filter(is_first).count()
    }

    /// Whether its process is there, frozen or not.
    pub fn is_running(&mut self) -> bool {
        self.child.is_some() && self.exit_status().is_none()
    }

    fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok()?
    }

    /// Kills it, as a crash does; its counters are read just before.
    pub async fn kill(&mut self) {
        if !self.is_frozen {
            self.scrape().await;
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            self.kills.push(now());
        }
        self.is_frozen = false;
        self.ended.add(std::mem::take(&mut self.last));
    }

    /// Tells it to leave, SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for its end after [`terminate`](Self::terminate), its counters being read until then.
    ///
    /// # Errors
    /// It does not end in time, or with another status than 0.
    pub async fn expect_end(&mut self, limit: Duration) -> Result<()> {
        let begun = now();
        let status = loop {
            if let Some(status) = self.exit_status() {
                break status;
            }
            if now() - begun > limit {
                bail!("{} did not end within {limit:?}", self.name());
            }
            self.scrape().await;
            sleep(ms(20)).await;
        };
        self.child = None;
        self.ended.add(std::mem::take(&mut self.last));
        if !status.success() {
            bail!("{} ended with {status}:\n{}", self.name(), self.log_tail(20));
        }
        Ok(())
    }

    /// Stops it from doing anything, its connections stay: SIGSTOP.
    pub fn freeze(&mut self) {
        self.signal(Signal::STOP);
        self.is_frozen = true;
    }

    /// Stops it for so long and no longer, whatever else takes its time; nobody may kill it meanwhile.
    pub fn freeze_for(&mut self, time: Duration) {
        self.freeze();
        let pid = self.pid();
        tokio::spawn(async move {
            sleep(time).await;
            send(pid, Signal::CONT);
        });
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
        self.is_frozen = false;
    }

    fn pid(&self) -> Option<Pid> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).and_then(Pid::from_raw)
    }

    /// Not yet waited for, the pid is still its own.
    fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// When it was killed, each time.
    pub fn kills(&self) -> &[At] {
        &self.kills
    }

    /// What `/readyz` says: nothing, or what it waits for.
    ///
    /// # Errors
    /// It is not ready.
    pub async fn ready(&self) -> Result<(), String> {
        match http::get(self.ports.http, "/readyz", ANSWER).await? {
            answer if answer.status == 200 => Ok(()),
            answer => Err(answer.body.trim().replace('\n', "; ")),
        }
    }

    /// Reads its counters; those of a program that does not answer stay as they were read last.
    pub async fn scrape(&mut self) {
        if let Ok(answer) = http::get(self.ports.http, "/metrics", ANSWER).await {
            self.last = Samples::parse(&answer.body);
        }
    }

    /// The sum of a counter over its processes, those that ended included, as they were last read.
    pub fn counted(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.ended.sum(name, labels) + self.last.sum(name, labels)
    }

    /// Everything it printed.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One that ended by itself hears nothing; whoever waits for it finds out.
fn send(pid: Option<Pid>, signal: Signal) {
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}

/// A program of the workspace, built beside this one (a test stands one folder deeper).
fn executable(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("an executable has a path")?;
    let folder = own.parent().context("a folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = folder.join(name);
    if !path.is_file() {
        bail!(
            "{} is not built: cargo build --workspace --features halley-comet/programs,halley-logic/programs,halley-job/programs",
            path.display()
        );
    }
    Ok(path)
}
