//! `halley`: comet, logic and job in one process, on a memory broker, memory sessions and a fixed registry.
//!
//! The three services are the same libraries that run as processes of their own in a cluster; here they call each
//! other directly. One thread runs logic, job and the gateway's front, one pinned thread per core holds the clients.
//!
//! Modules: [`cli`] the command line, [`config`] what can be set, [`banner`] what a start prints, [`page`] the page for
//! people.
#![forbid(unsafe_code)]

mod banner;
mod cli;
mod config;
mod page;

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, OnceLock, Weak},
};

use anyhow::Context;
use clap::Parser;
use cluster::{
    admin::{self, Health},
    config::{ConfigError, Loaded, commented_default, load},
    registry::{Fixed, Node, Registration, Registry, Service},
    services::{CometApi, LogicApi},
    shutdown::{Drain, on_signals},
    telemetry::{self, init_logs},
};
use comet::{Comet, clock::Time, front::Front};
use control::{
    broker::MemoryBroker,
    config::{Exposure, JobConfig, Listener, LogicConfig},
    job::{self, Calls, JobDeps},
    logic::{self, LogicDeps},
    metrics::{BrokerMetrics, JobMetrics, LogicMetrics, SessionMetrics},
    session::MemorySessions,
};
use prometheus_client::metrics::gauge::Gauge;
use tracing::{info, warn};

use self::{
    banner::Banner,
    cli::Cli,
    config::HalleyConfig,
    page::{Page, Started},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Status of a refused configuration (EX_USAGE of sysexits.h): nothing was bound.
const EXIT_CONFIG: u8 = 64;

/// Status of a start that failed for another reason, such as an address in use (EX_UNAVAILABLE).
const EXIT_START: u8 = 69;

/// Descriptors that are not for clients: listeners, rings, HTTP and gRPC connections, logs.
const DESCRIPTORS_KEPT: u64 = 512;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.print_default_config {
        print!("{}", commented_default::<HalleyConfig>());
        return ExitCode::SUCCESS;
    }
    let (config, exposure) = match read_config(&cli) {
        Ok(read) => read,
        Err(error) => {
            eprintln!("halley: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if cli.check_config {
        println!("halley: the configuration is right");
        return ExitCode::SUCCESS;
    }
    if let Err(error) = init_logs(config.log.format, &config.log.level) {
        eprintln!("halley: log.level = {:?}: {error}", config.log.level);
        return ExitCode::from(EXIT_CONFIG);
    }
    match serve(&config, &exposure) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("halley: {error:#}");
            ExitCode::from(EXIT_START)
        }
    }
}

/// Reads and checks everything that can be checked before a port is bound.
fn read_config(cli: &Cli) -> anyhow::Result<(HalleyConfig, Exposure)> {
    let unused: Vec<String> =
        [("logic", LogicConfig::UNUSED_GOIM_KEYS), ("job", JobConfig::UNUSED_GOIM_KEYS)]
            .into_iter()
            .flat_map(|(service, keys)| keys.iter().map(move |key| format!("{service}.{key}")))
            .collect();
    let unused: Vec<&str> = unused.iter().map(String::as_str).collect();
    let Loaded { config, unused }: Loaded<HalleyConfig> = load(cli.config.as_deref(), &cli.set, &unused)?;
    if !unused.is_empty() {
        eprintln!("halley: keys without a meaning here: {}", unused.join(", "));
    }
    config.logic.check()?;
    check_across(&config)?;
    for (key, addresses) in
        [("comet.tcp.bind", &config.comet.tcp.bind), ("comet.websocket.bind", &config.comet.websocket.bind)]
    {
        if addresses.is_empty() {
            return Err(ConfigError::value(key, "[]", "must have at least one address").into());
        }
    }
    // An address of its own kind: logins of job's calls do not exist, so the port is judged like a client's.
    let rpc = cluster::config::Addrs::new(vec![config.comet.rpc_server.addr.get()])?;
    let exposure = config.logic.check_exposure(&[
        Listener { key: "comet.tcp.bind", addrs: &config.comet.tcp.bind },
        Listener { key: "comet.websocket.bind", addrs: &config.comet.websocket.bind },
        Listener { key: "comet.rpcServer.addr", addrs: &rpc },
    ])?;
    Ok((config, exposure))
}

/// Checks what concerns keys of more than one service.
fn check_across(config: &HalleyConfig) -> Result<(), ConfigError> {
    let (max_body, push) = (config.logic.push.max_body, config.comet.limits.push);
    if max_body.get() > push.get() {
        let reason = format!("above comet.limits.push = {push}: accepted pushes could not be delivered");
        return Err(ConfigError::value("logic.push.maxBody", max_body, reason));
    }
    let (renew, expire) = (config.comet.protocol.renew_interval, config.logic.redis.expire);
    if renew.get() > expire.get() / 2 {
        let reason = format!(
            "above half of logic.redis.expire = {expire}: sessions would expire under living clients"
        );
        return Err(ConfigError::value("comet.protocol.renewInterval", renew, reason));
    }
    Ok(())
}

/// Runs until a signal ends it.
fn serve(config: &HalleyConfig, exposure: &Exposure) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(run(config, exposure))
}

async fn run(config: &HalleyConfig, exposure: &Exposure) -> anyhow::Result<()> {
    let drain = Drain::new();
    on_signals(drain.clone()).context("no signal handlers")?;
    let limit = ring::raise_open_file_limit();
    let open_files = limit.after.unwrap_or(u64::MAX);
    let connections =
        usize::try_from(open_files.saturating_sub(DESCRIPTORS_KEPT).max(1)).unwrap_or(usize::MAX);

    let mut metrics = prometheus_client::registry::Registry::default();
    telemetry::register(&mut metrics);
    let (logic_metrics, job_metrics) = (LogicMetrics::default(), JobMetrics::default());
    logic_metrics.register(&mut metrics);
    job_metrics.register(&mut metrics);
    let (broker_metrics, session_metrics) = (BrokerMetrics::default(), SessionMetrics::default());
    broker_metrics.register(&mut metrics);
    session_metrics.register(&mut metrics);
    let comet_metrics = Comet::metrics(&config.comet);
    comet_metrics.register(&mut metrics);
    let insecure = Gauge::<i64>::default();
    insecure.set(i64::from(*exposure != Exposure::Closed));
    metrics.register(
        "halley_insecure",
        "1 when strangers can log in as anybody, or push to everybody",
        insecure,
    );
    let health = Arc::new(Health::new());
    health.unmet("starting", "the services are being started");

    let registry: Arc<dyn Registry> = Arc::new(Fixed::new([]));
    let broker = Arc::new(MemoryBroker::new(config.logic.broker_limits(), broker_metrics));
    let sessions = Arc::new(MemorySessions::new(config.logic.redis.expire.get(), session_metrics));
    sessions.start_sweeping();
    let page = Arc::new(Page {
        comet: Arc::clone(&comet_metrics),
        logic: logic_metrics.clone(),
        job: job_metrics.clone(),
        started: OnceLock::new(),
    });
    // The gateway needs logic to start, and logic the gateway to kick. Weak, or each would keep the other.
    let gateway: Arc<OnceLock<Weak<Front>>> = Arc::default();
    let started = Arc::clone(&gateway);
    let reach: logic::Reach = Arc::new(move |server| {
        let front = started.get()?.upgrade()?;
        (front.server() == server).then_some(front as _)
    });
    let deps = LogicDeps {
        broker: Arc::clone(&broker) as _,
        sessions,
        registry: Arc::clone(&registry),
        reach,
        metrics: logic_metrics,
    };
    let extra = admin::router(Arc::clone(&health), Arc::new(metrics)).merge(page::router(Arc::clone(&page)));
    let logic = logic::start(&config.logic, deps, extra, drain.clone()).await?;
    let api: Arc<dyn LogicApi> = logic.logic();
    let comet =
        Comet::start(&config.comet, None, connections, api, comet_metrics).await.map_err(in_section)?;
    // It is set here only, so it cannot be set yet.
    let _ = gateway.set(Arc::downgrade(&comet.front));
    let registration = register(&*registry, &comet).await?;
    let front: Arc<dyn CometApi> = comet.front.clone();
    let server = comet.front.server().clone();
    let connect: job::Connect = Box::new(move |node| {
        (node.server == server).then(|| job::Comet {
            server: server.clone(),
            api: Arc::clone(&front),
            calls: Calls::Batches,
            stream: None,
        })
    });
    let job = job::start(
        &config.job,
        JobDeps { broker, registry, connect, metrics: job_metrics, drain: drain.clone() },
    );

    // It is set here only, so it cannot be set yet.
    let _ = page.started.set(Started {
        at: Time::now(),
        logic: logic.logic(),
        config: page::Config {
            version: cluster::build::LONG_VERSION,
            driver: if comet.driver.io_uring { "io_uring" } else { "epoll" },
            shards: comet.shards,
            websocket_port: comet.websocket.first().map(SocketAddr::port),
            websocket_path: config.comet.websocket.path.clone(),
            push_token: !config.logic.push.tokens.is_empty(),
        },
    });
    let banner = Banner {
        comet: &comet,
        websocket_path: &config.comet.websocket.path,
        http: logic.http_addrs(),
        rpc: logic.rpc_addrs(),
        login: config.logic.auth.mode,
        push_token: !config.logic.push.tokens.is_empty(),
        open_files,
        connections,
    };
    banner.lines().iter().for_each(|line| eprintln!("{line}"));
    if let Exposure::Insecure(open) = exposure {
        open.iter().for_each(|sentence| warn!("{sentence}"));
    }
    health.met("starting");

    drain.draining().await;
    info!("draining: new clients and pushes are refused, accepted pushes are delivered");
    health.unmet("draining", "the process is going away");
    logic.stopped().await;
    job.stopped().await;
    // Not before: job still has accepted pushes for the gateway.
    registration.deregister().await;
    if !comet.drain().await {
        warn!("some connections were left after comet.drain.timeout");
    }
    info!("drained");
    Ok(())
}

/// Makes the gateway known to job and to `/goim/nodes/*`.
async fn register(registry: &dyn Registry, comet: &Comet) -> anyhow::Result<Box<dyn Registration>> {
    let mut node = Node::new(Service::Comet, comet.front.server().clone());
    node.addrs = comet.tcp.iter().map(SocketAddr::ip).map(|address| address.to_string()).collect();
    node.version = cluster::build::VERSION.to_owned();
    node.hostname = hostname();
    registry.register(node).await.context("the gateway could not be registered")
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

/// comet names its keys without the section they stand in here.
fn in_section(error: comet::StartError) -> anyhow::Error {
    anyhow::anyhow!("comet.{error}")
}
