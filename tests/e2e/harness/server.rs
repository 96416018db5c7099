//! The built programs, on ports of their own.

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use testkit::trust::client_of;

use super::{
    Client, Login, PATIENCE, Stopwatch, Transport, eventually,
    http::{self, Answer},
    metrics::Metrics,
    tls::{Certificate, relay},
    within,
};

pub(crate) const HALLEY: &str = env!("CARGO_BIN_EXE_halley");

/// Environment that the programs of a cluster read. What stands in that of a test is not meant for them.
pub(crate) const GOIMS_VARIABLES: [&str; 7] =
    ["REGION", "ZONE", "DEPLOY_ENV", "ADDRS", "WEIGHT", "OFFLINE", "DEBUG"];

/// Ports the system chooses; a drain that does not wait; two shards, so that connections change shards on any machine.
const OURS: [&str; 8] = [
    "comet.tcp.bind=127.0.0.1:0",
    "comet.websocket.bind=127.0.0.1:0",
    "comet.rpcServer.addr=127.0.0.1:0",
    "logic.httpServer.addr=127.0.0.1:0",
    "logic.rpcServer.addr=127.0.0.1:0",
    "comet.reactor.shards=2",
    "comet.reactor.ringEntries=256",
    "comet.drain.spread=0s",
];

/// With this variable all clients come with TLS.
const OVER_TLS: &str = "HALLEY_TEST_TLS";

/// The driver that `HALLEY_TEST_DRIVER` names, to run the suite on it. Where the kernel refuses io_uring and
/// `HALLEY_ALLOW_NO_IO_URING` says that it may, that is epoll.
fn driver() -> Option<String> {
    let driver = std::env::var("HALLEY_TEST_DRIVER").ok()?;
    if std::env::var_os("HALLEY_ALLOW_NO_IO_URING").is_some()
        && let Err(refusal) = ring::probe_io_uring(256, 2)
    {
        println!("on epoll instead of {driver}, on request: {refusal}");
        return Some("epoll".to_owned());
    }
    Some(driver)
}

/// The drivers for a test that goes through them: all that are always built, or the one that was named.
pub(crate) fn drivers() -> Vec<String> {
    driver().map_or_else(|| ["io_uring", "epoll"].map(str::to_owned).to_vec(), |driver| vec![driver])
}

/// What every server of the tests is started with.
fn ours() -> impl Iterator<Item = String> {
    let driver = driver().map(|driver| format!("comet.reactor.driver={driver}"));
    OURS.map(str::to_owned).into_iter().chain(driver).flat_map(|set| ["--set".to_owned(), set])
}

/// A program that serves: `halley`, or one of a cluster, which lacks some of the addresses. When it is dropped it has to
/// end by SIGTERM with status 0, so every test is one of that too.
pub(crate) struct Server {
    child: Child,
    directory: tempfile::TempDir,
    /// Name of the program.
    pub(crate) name: String,
    pub(crate) tcp: SocketAddr,
    pub(crate) ws: SocketAddr,
    /// With TLS, where it has that.
    tls: SocketAddr,
    wss: SocketAddr,
    /// The HTTP API, or where a program without one has its metrics.
    pub(crate) http: SocketAddr,
    /// The same over HTTPS, where there is such a port.
    pub(crate) https: SocketAddr,
    pub(crate) comet_rpc: SocketAddr,
    pub(crate) logic_rpc: SocketAddr,
    ended: bool,
}

impl Server {
    /// Starts one with the defaults but for ports and shards, and `sets` on top.
    #[track_caller]
    pub(crate) fn start(sets: &[&str]) -> Server {
        let args: Vec<String> = sets.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]).collect();
        Server::start_with(&args)
    }

    /// The same with whole arguments on top.
    #[track_caller]
    pub(crate) fn start_with(args: &[String]) -> Server {
        if std::env::var_os(OVER_TLS).is_some() && !args.iter().any(|arg| arg.contains("tlsOpen")) {
            return Server::start_over_tls(args);
        }
        let server = Server::start_program(Path::new(HALLEY), ours().chain(args.iter().cloned()));
        server.expect_ready();
        server
    }

    /// The same, and its clients come with TLS without knowing it.
    #[track_caller]
    fn start_over_tls(args: &[String]) -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let certificate = Certificate::new(directory.path(), "tests");
        let sets = certificate.sets().into_iter().flat_map(|set| ["--set".to_owned(), set]);
        let args = ours().chain(sets).chain(args.iter().cloned());
        let mut server = Server::start_program(Path::new(HALLEY), args);
        server.expect_ready();
        server.take_clients_over_tls(&fs::read(&certificate.chain).expect("a file"));
        server
    }

    /// From now on clients come with TLS without knowing it, and trust this certificate, PEM.
    pub(crate) fn take_clients_over_tls(&mut self, trusted: &[u8]) {
        let client = Arc::new(client_of(trusted));
        self.tcp = relay(self.tls, Arc::clone(&client));
        self.ws = relay(self.wss, client);
    }

    /// Starts one with so many descriptors.
    #[track_caller]
    pub(crate) fn start_limited(descriptors: usize) -> Server {
        let prlimit = [format!("--nofile={descriptors}:{descriptors}"), HALLEY.to_owned()];
        let args = prlimit.into_iter().chain(ours());
        let server = Server::start_by(Path::new("prlimit"), "halley", args);
        server.expect_ready();
        server
    }

    /// Starts a program and waits until it listens; it need not be ready.
    #[track_caller]
    pub(crate) fn start_program(program: &Path, args: impl Iterator<Item = String>) -> Server {
        let name = program.file_name().and_then(OsStr::to_str).expect("a program has a name").to_owned();
        Server::start_by(program, &name, args)
    }

    /// The same by a program that becomes the one of this name.
    #[track_caller]
    fn start_by(program: &Path, name: &str, args: impl Iterator<Item = String>) -> Server {
        let name = name.to_owned();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let log = fs::File::create(directory.path().join("log")).expect("a log file");
        let mut command = Command::new(program);
        command.args(args).env("NO_COLOR", "1").stdin(Stdio::null());
        for variable in GOIMS_VARIABLES {
            command.env_remove(variable);
        }
        command.stdout(log.try_clone().expect("a second descriptor")).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Server {
            child,
            directory,
            name,
            tcp: nowhere,
            ws: nowhere,
            tls: nowhere,
            wss: nowhere,
            http: nowhere,
            https: nowhere,
            comet_rpc: nowhere,
            logic_rpc: nowhere,
            ended: false,
        };
        server.read_addresses();
        server
    }

    /// Reads the addresses from the lines of the start.
    fn read_addresses(&mut self) {
        let first = format!("{} {}", self.name, env!("CARGO_PKG_VERSION"));
        eventually("the start-up lines", || {
            if let Some(status) = self.child.try_wait().expect("a child") {
                self.ended = true;
                panic!("{} ended with {status}", self.name);
            }
            self.start_lines().lines().any(|line| line.starts_with(&first)).then_some(())
        });
        let log = self.start_lines();
        let row = |name: &str| {
            let line = log
                .lines()
                .find(|line| line.strip_prefix("  ").is_some_and(|line| line.starts_with(name)))?;
            Some(line.replace("wss://", "").replace("ws://", "").replace("/sub", ""))
        };
        let address = |line: Option<String>, before: &str, to: &mut SocketAddr| {
            let Some(line) = line else { return };
            let Some((_, rest)) = line.rsplit_once(before) else { return };
            let address = rest
                .trim_start_matches("http://")
                .trim_start_matches("https://")
                .split([',', ' ', '/'])
                .next()
                .expect("a word");
            *to = address.parse().unwrap_or_else(|_| panic!("no address in {line:?}"));
        };
        address(row("clients, TCP"), " ", &mut self.tcp);
        address(row("clients, WebSocket"), " ", &mut self.ws);
        address(row("clients, TLS"), " ", &mut self.tls);
        address(row("clients, WSS"), " ", &mut self.wss);
        address(row("admin"), " ", &mut self.http);
        address(row("HTTP API"), " ", &mut self.http);
        address(row("HTTPS API"), " ", &mut self.https);
        match self.name.as_str() {
            "comet" => address(row("gRPC"), " ", &mut self.comet_rpc),
            "logic" => address(row("gRPC"), " ", &mut self.logic_rpc),
            _ => {
                address(row("gRPC"), "comet ", &mut self.comet_rpc);
                address(row("gRPC"), "logic ", &mut self.logic_rpc);
            }
        }
    }

    /// The log, with a start that is one object of JSON as the lines that it would be for people.
    fn start_lines(&self) -> String {
        let log = self.log();
        let object = log.lines().next().and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let Some(object) = object.as_ref().and_then(serde_json::Value::as_object) else { return log };
        let text =
            |name: &str| object.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        let rows: String = object.keys().map(|name| format!("  {name:<20}{}\n", text(name))).collect();
        format!("{}\n{rows}", text("message"))
    }

    /// Waits until it is ready.
    #[track_caller]
    pub(crate) fn expect_ready(&self) {
        let (started, mut last) = (Stopwatch::start(), String::new());
        while started.elapsed() < PATIENCE {
            let answer = self.get("/readyz");
            if answer.status == 200 {
                return;
            }
            last = answer.body;
            thread::sleep(Duration::from_millis(10));
        }
        panic!("{} is not ready within {PATIENCE:?}: {last}", self.name);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it printed so far.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    // Clients

    pub(crate) fn address(&self, transport: Transport) -> SocketAddr {
        match transport {
            Transport::Tcp => self.tcp,
            Transport::WebSocket => self.ws,
        }
    }

    /// The port with TLS.
    pub(crate) fn secure(&self, transport: Transport) -> SocketAddr {
        match transport {
            Transport::Tcp => self.tls,
            Transport::WebSocket => self.wss,
        }
    }

    /// Connected, and on WebSocket upgraded; not logged in.
    #[track_caller]
    pub(crate) fn connect(&self, transport: Transport) -> Client {
        let mut client = Client::raw(transport, self.address(transport));
        if transport == Transport::WebSocket {
            client.upgrade("/sub", "");
        }
        client
    }

    /// Connected and logged in.
    #[track_caller]
    pub(crate) fn client(&self, transport: Transport, login: &Login) -> Client {
        let mut client = self.connect(transport);
        client.login(login);
        client
    }

    // HTTP

    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Answer {
        http::request(self.http, "GET", target, &[], b"")
    }

    #[track_caller]
    pub(crate) fn post(&self, target: &str, body: impl AsRef<[u8]>) -> Answer {
        http::request(self.http, "POST", target, &[], body.as_ref())
    }

    /// A push that has to be accepted without a word.
    #[track_caller]
    pub(crate) fn push(&self, target: &str, body: impl AsRef<[u8]>) {
        self.post(&format!("/goim/push/{target}"), body).expect_success();
    }

    #[track_caller]
    pub(crate) fn metrics(&self) -> Metrics {
        let accept = "Accept: application/openmetrics-text; version=1.0.0";
        Metrics::parse(&http::request(self.http, "GET", "/metrics", &[accept], b"").body)
    }

    /// Waits until a sample has this value. Shards report ten times a second.
    #[track_caller]
    pub(crate) fn expect_metric(&self, sample: &str, expected: f64) {
        let mut last = None;
        let started = Stopwatch::start();
        while started.elapsed() < PATIENCE {
            last = self.metrics().get(sample);
            if last == Some(expected) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("{sample} is {last:?}, not {expected}");
    }

    // The process

    #[track_caller]
    pub(crate) fn signal(&mut self, signal: Signal) {
        // Not yet waited for, the pid is still its own.
        assert!(self.is_running(), "{} is gone already", self.name);
        self.try_signal(signal).expect("the process is there");
    }

    /// The same without a look at whether it has ended.
    pub(crate) fn try_signal(&self, signal: Signal) -> rustix::io::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal)
    }

    /// Waits for its end and gives its exit status, `None` after a signal.
    #[track_caller]
    pub(crate) fn exit_status(&mut self, limit: Duration) -> Option<i32> {
        let status = within(limit, "the process ends", || self.child.try_wait().expect("a child"));
        self.ended = true;
        status.code()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Open descriptors, what each stands for.
    pub(crate) fn descriptors(&self) -> Vec<String> {
        let all = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a process of ours");
        all.flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .map(|target| target.display().to_string())
            .collect()
    }

    /// Resident memory that is not of files, bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process of ours");
        let line =
            status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a Linux of this decade");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib << 10
    }

    /// Ends it by SIGTERM; what was wrong with that.
    fn end(&mut self) -> Option<String> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(format!("ended by itself with {status}"));
        }
        self.signal(Signal::TERM);
        let started = Stopwatch::start();
        while started.elapsed() < PATIENCE {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(5)),
                Ok(Some(status)) if status.success() => return None,
                Ok(Some(status)) => return Some(format!("ended with {status}")),
                Err(error) => return Some(error.to_string()),
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        Some(format!("did not end within {PATIENCE:?} after SIGTERM"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let trouble = if self.ended { None } else { self.end() };
        if thread::panicking() {
            let _ = writeln!(std::io::stderr(), "--- {} {}:\n{}---", self.name, self.pid(), self.log());
        } else if let Some(trouble) = trouble {
            panic!("{} {trouble}:\n{}", self.name, self.log());
        }
    }
}

/// Runs `halley` to its end with these arguments, nothing added.
#[track_caller]
pub(crate) fn run(args: &[&str]) -> Output {
    let child = Command::new(HALLEY)
        .args(args)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("halley starts");
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(PATIENCE) {
        Ok(output) => output.expect("its output"),
        Err(_) => {
            let _ = kill_process(pid, Signal::KILL);
            panic!("halley {args:?} goes on running");
        }
    }
}
