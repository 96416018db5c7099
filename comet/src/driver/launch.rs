//! Which driver runs the shards, their listeners and their threads.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread,
};

use config::Addrs;
use contract::Transport;
use host::accept::bindable;
use ring::{ListenOptions, Monoio, WakeSender, listen, probe_io_uring, refuse_second_process, wake_pair};

use shard::{Acceptors, Port, ShardConfig};

use super::reactor::{Plan, run};
use crate::{
    config::{CometConfig, DriverChoice},
    front::{Inbox, Outboxes, QUEUE_CAPACITY},
    mail::ToShard,
    mailbox::{Sender, ShardFlag, TaskFlag, WakeFlag, channel},
};

/// Why the shards could not be started. Nothing is served then.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// An address to listen on is taken or not this machine's.
    #[error("{key} = \"{address}\": {source}{}", hint(source))]
    Listen {
        /// Configuration key of the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A driver that needs io_uring was asked for by name and the kernel refuses it.
    #[error("reactor.driver = \"{driver}\": {refusal}")]
    Refused {
        /// That driver.
        driver: Driver,
        /// Why, and what would change it.
        refusal: ring::Refusal,
    },
    /// The driver is not in this program.
    #[error("reactor.driver = \"glommio\": {}", crate::config::WITHOUT_GLOMMIO)]
    NotBuilt,
    /// No thread, pipe or io_uring could be made.
    #[error("the shards could not be started: {0}")]
    System(#[from] io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another process listens there: stop it, or choose another port)",
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has that address)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}

/// What runs the shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// monoio on io_uring.
    IoUring,
    /// monoio on epoll.
    Epoll,
    /// glommio, which is always on io_uring.
    #[cfg(feature = "glommio")]
    Glommio,
}

impl Driver {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Driver::IoUring => "io_uring",
            Driver::Epoll => "epoll",
            #[cfg(feature = "glommio")]
            Driver::Glommio => "glommio",
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The driver that was chosen, and why.
#[derive(Clone, Debug)]
pub struct DriverReport {
    /// It.
    pub chosen: Driver,
    /// Why not io_uring, where nobody asked for epoll.
    pub reason: Option<String>,
}

impl fmt::Display for DriverReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.chosen, &self.reason) {
            (Driver::Epoll, Some(reason)) => write!(f, "epoll, because {reason}"),
            (Driver::Epoll, None) => f.write_str("epoll, as configured"),
            (driver, _) => driver.fmt(f),
        }
    }
}

/// Shards that run.
pub struct Launched {
    /// Addresses with TCP clients.
    pub tcp: Vec<SocketAddr>,
    /// Addresses with TCP clients inside TLS.
    pub tcp_tls: Vec<SocketAddr>,
    /// Addresses with WebSocket clients.
    pub websocket: Vec<SocketAddr>,
    /// Addresses with WebSocket clients inside TLS.
    pub websocket_tls: Vec<SocketAddr>,
    /// The driver.
    pub driver: DriverReport,
    /// The core that each shard is pinned to.
    pub cpus: Vec<Option<usize>>,
    /// Queues to the shards.
    pub outboxes: Outboxes,
    /// Queues from them.
    pub inboxes: Vec<Inbox>,
}

/// Number of shards that a configuration asks for.
pub fn shards(config: &CometConfig) -> usize {
    match config.reactor.shards.usize() {
        0 => thread::available_parallelism().map_or(1, usize::from),
        shards => shards,
    }
}

/// Binds the listeners and starts a thread per shard. `connections` is what the open-file limit allows.
pub fn launch(
    config: &CometConfig,
    connections: usize,
    acceptors: &Acceptors,
) -> Result<Launched, LaunchError> {
    let shards = shards(config);
    let report = choose(config, shards)?;
    let mut listening = Listening::default();
    let (tcp, websocket) = (&config.tcp, &config.websocket);
    let mut bind = |key, transport, tls, open, addresses: &Addrs| {
        let addresses = if open { addresses.get() } else { &[] };
        let proxied = match transport {
            Transport::Tcp => tcp.proxy_protocol,
            Transport::WebSocket => websocket.proxy_protocol,
        };
        listening.bind(key, Port { transport, tls, proxied }, addresses, config, shards)
    };
    let plain = bind("tcp.bind", Transport::Tcp, false, true, &tcp.bind)?;
    let plain_web = bind("websocket.bind", Transport::WebSocket, false, true, &websocket.bind)?;
    let secure = bind("tcp.tlsBind", Transport::Tcp, true, tcp.tls_open, &tcp.tls_bind)?;
    let secure_web =
        bind("websocket.tlsBind", Transport::WebSocket, true, websocket.tls_open, &websocket.tls_bind)?;
    let cpus = cpus(config, shards);
    // Keys spread nearly evenly over the shards: each may have an eighth more than its share.
    let share = connections.div_ceil(shards);
    let per_shard = if shards == 1 { share } else { share.saturating_add(share / 8) };
    let rules = ShardConfig { acceptors: acceptors.clone(), ..config.shard(shards, per_shard) };
    let entries = config.reactor.ring_entries.u32();
    let (mut senders, mut inboxes) = (Vec::new(), Vec::new());
    let (tell, pinned) = mpsc::sync_channel(shards);
    for (index, listeners) in listening.per_shard.into_iter().enumerate() {
        let (wake, seed) = wake_pair()?;
        let flag = Arc::new(ShardFlag::new(wake));
        let task = Arc::new(TaskFlag::default());
        let (sender, inbox) = channel(QUEUE_CAPACITY, Arc::clone(&flag), Arc::<WakeFlag<()>>::default());
        let (to_front, receiver) = channel(QUEUE_CAPACITY, Arc::clone(&task), Arc::clone(&flag));
        senders.push(sender);
        inboxes.push(Inbox { receiver, flag: task });
        let plan =
            Plan { index: index as u16, config: rules.clone(), listeners, inbox, flag, wake: seed, to_front };
        let cpu = cpus.get(index % cpus.len().max(1)).copied();
        let (driver, tell) = (report.chosen, tell.clone());
        thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
            let pinned = cpu.filter(|&id| pin(id));
            if pinned != cpu {
                tracing::warn!(shard = index, cpu, "the shard could not be pinned");
            }
            // The other end waits for it.
            let _ = tell.send((index, pinned));
            serve(plan, driver, entries);
        })?;
    }
    // Each thread tells what it could have, first of all.
    let mut cpus: Vec<(usize, Option<usize>)> = pinned.iter().take(shards).collect();
    cpus.sort_unstable();
    let cpus = cpus.into_iter().map(|(_, cpu)| cpu).collect();
    Ok(Launched {
        tcp: plain,
        tcp_tls: secure,
        websocket: plain_web,
        websocket_tls: secure_web,
        driver: report,
        cpus,
        outboxes: Outboxes::new(senders as Vec<Sender<ToShard, WakeSender>>),
        inboxes,
    })
}

/// The thread of one shard. A shard that ends takes the process with it: its clients would hang for ever otherwise.
fn serve(plan: Plan, driver: Driver, entries: u32) {
    let shard = plan.index;
    let result = match driver {
        Driver::IoUring => Monoio::run_on_io_uring(entries, run::<Monoio>(plan)),
        Driver::Epoll => Monoio::run_on_epoll(entries, run::<Monoio>(plan)),
        #[cfg(feature = "glommio")]
        Driver::Glommio => ring::Glommio::run(entries, run::<ring::Glommio>(plan)),
    };
    tracing::error!(shard, result = ?result.flatten(), "a shard ended, and the process with it");
    std::process::exit(70);
}

fn choose(config: &CometConfig, shards: usize) -> Result<DriverReport, LaunchError> {
    let probe = || probe_io_uring(config.reactor.ring_entries.u32(), shards);
    let by_name = |driver| match probe() {
        Ok(()) => Ok(DriverReport { chosen: driver, reason: None }),
        Err(refusal) => Err(LaunchError::Refused { driver, refusal }),
    };
    match config.reactor.driver {
        DriverChoice::Auto => Ok(match probe() {
            Ok(()) => DriverReport { chosen: Driver::IoUring, reason: None },
            Err(refusal) => DriverReport { chosen: Driver::Epoll, reason: Some(refusal.to_string()) },
        }),
        DriverChoice::IoUring => by_name(Driver::IoUring),
        DriverChoice::Epoll => Ok(DriverReport { chosen: Driver::Epoll, reason: None }),
        #[cfg(feature = "glommio")]
        DriverChoice::Glommio => by_name(Driver::Glommio),
        #[cfg(not(feature = "glommio"))]
        DriverChoice::Glommio => Err(LaunchError::NotBuilt),
    }
}

/// Pins the calling thread to a core; false where it may not run there. One that is not there would be out of the bounds
/// of the system's set of cores.
fn pin(id: usize) -> bool {
    let core = core_affinity::CoreId { id };
    core_affinity::get_core_ids().is_some_and(|there| there.contains(&core))
        && core_affinity::set_for_current(core)
}

/// All cores when there is a shard for each; else those that were named.
fn cpus(config: &CometConfig, shards: usize) -> Vec<usize> {
    if !config.reactor.cpus.get().is_empty() {
        return config.reactor.cpus.get().iter().map(|cpu| *cpu as usize).collect();
    }
    let all: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    if all.len() == shards && shards > 1 { all } else { Vec::new() }
}

#[derive(Default)]
struct Listening {
    per_shard: Vec<Vec<(Port, std::net::TcpListener)>>,
}

impl Listening {
    /// Binds each address once per shard. Returns what they became.
    fn bind(
        &mut self,
        key: &'static str,
        port: Port,
        addresses: &[SocketAddr],
        config: &CometConfig,
        shards: usize,
    ) -> Result<Vec<SocketAddr>, LaunchError> {
        let tcp = &config.tcp;
        let options = ListenOptions {
            backlog: tcp.backlog.u32() as i32,
            send_buffer: Some(tcp.sndbuf.usize()),
            receive_buffer: Some(tcp.rcvbuf.usize()),
            keepalive: tcp.keepalive,
            user_timeout: Some(tcp.user_timeout.get()),
            nodelay: true,
        };
        self.per_shard.resize_with(shards, Vec::new);
        let mut all = Vec::new();
        for &address in addresses {
            let failed = |source| LaunchError::Listen { key, address, source };
            let mut bound = bindable(address);
            refuse_second_process(bound).map_err(failed)?;
            for listeners in &mut self.per_shard {
                let listener = listen(bound, &options).map_err(failed)?;
                // Port 0 becomes one port for all shards.
                bound = listener.local_addr().map_err(failed)?;
                listeners.push((port, listener));
            }
            all.push(bound);
        }
        Ok(all)
    }
}
