//! What is compared, and how each is started: alone, pinned, on loopback, with nothing it does not need.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    account::is_listened_on,
    publisher::Way,
    wire::{Language, goim_message},
};

/// Ports from here on; the page, the API and goim's own are not touched.
const PORT: u16 = 7311;

/// Longest time a server may take to listen, or to end.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Something that delivers messages to a room.
#[derive(Clone, Debug)]
pub(crate) struct System {
    /// As in tables.
    pub(crate) name: &'static str,
    /// What it is and how it is set up, for the report.
    pub(crate) about: &'static str,
    pub(crate) language: Language,
    kind: Kind,
    /// Takes part in the rate sweep.
    pub(crate) sweeps: bool,
    /// Takes part in the measurement of idle connections and logins.
    pub(crate) idles: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Floor(&'static str),
    Halley(&'static [&'static str]),
    Nchan,
    Mosquitto,
    Nats,
    Goim(String),
}

/// Where programs are and where servers run.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// The folder of Halley's own programs.
    pub(crate) programs: PathBuf,
    /// The cores of the server, as taskset takes them.
    pub(crate) cpus: String,
    /// Bytes of a message's body.
    pub(crate) size: usize,
}

/// A server that runs; ends when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) way: Way,
    _dir: TempDir,
}

/// All of them. `goim` is a command that starts one.
pub(crate) fn all(goim: Option<&str>) -> Vec<System> {
    let system =
        |name, about, language, kind, sweeps, idles| System { name, about, language, kind, sweeps, idles };
    let mut all = vec![
        system(
            "floor uring",
            "batched io_uring sends and nothing else",
            Language::Bare,
            Kind::Floor("uring"),
            true,
            true,
        ),
        system(
            "floor epoll",
            "send(2) and epoll, nothing else",
            Language::Bare,
            Kind::Floor("epoll"),
            false,
            false,
        ),
        system(
            "halley",
            "all in one process, TCP; in the room nothing is joined on purpose (batch.mode = off), in the sweep defaults",
            Language::Goim,
            Kind::Halley(&["comet.batch.mode=off"]),
            true,
            true,
        ),
        system(
            "halley ws",
            "the same over WebSocket",
            Language::GoimWebSocket,
            Kind::Halley(&["comet.batch.mode=off"]),
            false,
            true,
        ),
        system(
            "halley 250ms",
            "TCP, with a batching window of 250 ms: latency traded for CPU, as goim does with its second",
            Language::Goim,
            Kind::Halley(&["comet.batch.mode=fixed", "comet.batch.window=250ms"]),
            false,
            false,
        ),
        system(
            "nchan",
            "nginx with nchan, one worker, WebSocket subscribers",
            Language::Nchan,
            Kind::Nchan,
            true,
            true,
        ),
        system("mosquitto", "MQTT, QoS 0", Language::Mqtt, Kind::Mosquitto, true, true),
        system("nats", "NATS core", Language::Nats, Kind::Nats, true, true),
    ];
    if let Some(command) = goim {
        all.push(system(
            "goim",
            "as the user built and starts it, TCP",
            Language::Goim,
            Kind::Goim(command.to_owned()),
            true,
            true,
        ));
    }
    all
}

impl System {
    /// Only sends: the others are measured against it.
    pub(crate) fn is_floor(&self) -> bool {
        matches!(self.kind, Kind::Floor(_))
    }

    /// Halley with its own defaults where this is Halley: for the sweep, where what a user gets is of interest.
    pub(crate) fn with_defaults(mut self) -> Self {
        if let Kind::Halley(_) = self.kind {
            self.kind = Kind::Halley(&[]);
        }
        self
    }

    /// The program's own words about its version.
    pub(crate) fn version(&self, setting: &Setting) -> String {
        let (program, flag) = match &self.kind {
            Kind::Floor(_) => return "this commit".to_owned(),
            Kind::Halley(_) => (setting.programs.join("halley"), "--version"),
            Kind::Nchan => (find("nginx"), "-v"),
            Kind::Mosquitto => (find("mosquitto"), "-h"),
            Kind::Nats => (find("nats-server"), "--version"),
            Kind::Goim(command) => return command.clone(),
        };
        let Ok(output) = Command::new(program).arg(flag).output() else { return "not installed".to_owned() };
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned()
    }

    /// Starts it for `clients` clients and waits until it listens.
    pub(crate) fn start(&self, setting: &Setting, clients: usize) -> Result<Server> {
        let dir = tempfile::tempdir()?;
        let (port, command) = (self.port(), self.command(setting, dir.path(), clients)?);
        ensure!(!is_listened_on(port), "port {port} is taken; {} needs it", self.name);
        let log = dir.path().join("log");
        let mut child = Command::new("taskset")
            .args(["-c", &setting.cpus])
            .args(&command)
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?)
            .spawn()
            .with_context(|| format!("{} did not start", self.name))?;
        let ports: Vec<u16> = [Some(port), self.http_port()].into_iter().flatten().collect();
        let mut patience = START_TIMEOUT;
        while !ports.iter().all(|port| is_listened_on(*port)) {
            let ended = child.try_wait()?;
            if ended.is_some() || patience.is_zero() {
                let _ = child.kill();
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("{} did not start ({}):\n{said}", self.name, command.join(" "));
            }
            thread::sleep(Duration::from_millis(20));
            patience = patience.saturating_sub(Duration::from_millis(20));
        }
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let way = match (&self.kind, self.http_port()) {
            (Kind::Nchan, _) => Way::Http(format!("http://127.0.0.1:{port}/pub/room")),
            (_, Some(http)) => {
                Way::Http(format!("http://127.0.0.1:{http}/goim/push/room?operation=1000&type=live&room=1"))
            }
            (Kind::Floor(_), _) => Way::Own(self.language, local(port + 1)),
            _ => Way::Own(self.language, local(port)),
        };
        Ok(Server { child, address: local(port), way, _dir: dir })
    }

    fn port(&self) -> u16 {
        match (&self.kind, self.language) {
            (Kind::Goim(_), _) => 3101,
            (_, Language::GoimWebSocket) => PORT + 1,
            _ => PORT,
        }
    }

    fn http_port(&self) -> Option<u16> {
        match self.kind {
            Kind::Halley(_) => Some(PORT + 2),
            Kind::Goim(_) => Some(3111),
            _ => None,
        }
    }

    fn command(&self, setting: &Setting, dir: &Path, clients: usize) -> Result<Vec<String>> {
        let own = |name: &str| setting.programs.join(name).display().to_string();
        let config = dir.join("config");
        let path = config.display().to_string();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        Ok(match &self.kind {
            Kind::Floor(how) => {
                let frame = goim_message(&vec![0; setting.size]).len().to_string();
                words(&[&own("floor"), how, &PORT.to_string(), &clients.to_string(), &frame])
            }
            Kind::Halley(set) => {
                let address = |key: &str, offset: u16| format!("{key}=127.0.0.1:{}", PORT + offset);
                let mut sets = vec![
                    address("comet.tcp.bind", 0),
                    address("comet.websocket.bind", 1),
                    address("logic.httpServer.addr", 2),
                    address("comet.rpcServer.addr", 3),
                    address("logic.rpcServer.addr", 4),
                    "log.level=warn".to_owned(),
                ];
                sets.extend(words(set));
                let sets = sets.into_iter().flat_map(|set| ["--set".to_owned(), set]);
                [own("halley")].into_iter().chain(sets).collect()
            }
            Kind::Nchan => {
                fs::write(&config, nginx_config(dir))?;
                words(&[&find("nginx").display().to_string(), "-c", &path])
            }
            Kind::Mosquitto => {
                let log_and_store = "persistence false\nlog_dest none\nset_tcp_nodelay true\n";
                fs::write(
                    &config,
                    format!("listener {PORT} 127.0.0.1\nallow_anonymous true\n{log_and_store}"),
                )?;
                words(&[&find("mosquitto").display().to_string(), "-c", &path])
            }
            Kind::Nats => {
                let port = PORT.to_string();
                words(&[&find("nats-server").display().to_string(), "-a", "127.0.0.1", "-p", &port])
            }
            Kind::Goim(command) => words(&["sh", "-c", &format!("exec {command}")]),
        })
    }
}

impl Server {
    /// Its first process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    /// Asks it to end, and ends it when it does not.
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        for _ in 0..START_TIMEOUT.as_millis() / 20 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Servers of Debian are in /usr/sbin, which is not in everybody's PATH.
fn find(program: &str) -> PathBuf {
    let sbin = Path::new("/usr/sbin").join(program);
    if sbin.exists() { sbin } else { PathBuf::from(program) }
}

fn nginx_config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "load_module /usr/lib/nginx/modules/ngx_nchan_module.so;
user root;
daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid {dir}/pid;
error_log {dir}/error.log crit;
events {{ worker_connections 20000; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  keepalive_requests 1000000;
  server {{
    listen 127.0.0.1:{PORT} backlog=4096;
    location = /pub/room {{ nchan_publisher; nchan_channel_id room; nchan_message_buffer_length 1000; }}
    location = /sub/room {{ nchan_subscriber websocket; nchan_channel_id room; nchan_subscriber_first_message newest; }}
  }}
}}
"
    )
}
