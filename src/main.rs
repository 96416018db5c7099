//! `halley`: comet, logic and job in one process, on a memory broker, memory sessions and a fixed registry.
//!
//! The three services are the same libraries that run as processes of their own in a cluster; here they call each
//! other directly. One thread runs logic, job and the gateway's front, one pinned thread per core holds the clients.
//!
//! Modules: [`cli`] the command line, [`config`] what can be set, [`import`] goim's files made one, [`banner`] what a start
//! prints, [`page`] the page for people.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic when nobody takes it, or wait for ever

mod banner;
mod cli;
mod config;
mod import;
mod page;

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, OnceLock, Weak},
};

use ::config::{Addrs, ConfigError, Listener, shared_ports};
use anyhow::{Context, anyhow};
use broker::{MemoryBroker, metrics::BrokerMetrics};
use comet::{Comet, OpenFiles, config::CometConfig, front::Front};
use contract::{CometApi, LogicApi};
use host::{
    admin,
    admin::Health,
    process,
    shutdown::{Drain, on_signals},
    telemetry,
};
use job::{Calls, JobDeps, metrics::JobMetrics};
use logic::{
    LogicDeps,
    config::{Exposure, LogicConfig},
    metrics::LogicMetrics,
};
use proto::ids::ServerId;
use registry::{Fixed, Node, Registration, Registry, Service};
use seam::Time;
use session::{MemorySessions, metrics::SessionMetrics};
use tracing::{info, warn};

use self::{
    cli::Cli,
    config::HalleyConfig,
    page::{Page, Started},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if let Some(why) = process::goims_flag(&args) {
        return process::misused("halley", &why);
    }
    // goim's programs take their flags with one dash.
    let cli: Cli = match process::parse(process::go_args(args)) {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    if !cli.import.is_empty() {
        return import::run(&cli.import);
    }
    process::run("halley", &cli.config, checked, |config, exposure| serve(&config, &exposure))
}

/// Checks everything that can be checked before a port is bound, beyond single keys.
fn checked(config: &mut HalleyConfig) -> Result<Exposure, Vec<ConfigError>> {
    let HalleyConfig { comet, logic, .. } = config;
    let mut wrong = comet.check("comet.");
    wrong.extend(logic.check("logic."));
    wrong.extend(check_across(comet, logic));
    // An address of its own kind: logins of job's calls do not exist, so the port is judged like a client's.
    let rpc = Addrs::from(comet.rpc_server.addr);
    let clients = [
        Listener { key: "comet.tcp.bind", addrs: &comet.tcp.bind },
        Listener { key: "comet.websocket.bind", addrs: &comet.websocket.bind },
        Listener { key: "comet.rpcServer.addr", addrs: &rpc },
    ];
    let backends = [
        Listener { key: "logic.httpServer.addr", addrs: &logic.http_server.addr },
        Listener { key: "logic.rpcServer.addr", addrs: &logic.rpc_server.addr },
    ];
    wrong.extend(shared_ports(&[&clients[..], &backends].concat()));
    match logic.check_exposure("logic.", &clients) {
        Ok(exposure) if wrong.is_empty() => return Ok(exposure),
        Ok(_) => {}
        Err(open) => wrong.extend(open),
    }
    Err(wrong)
}

/// Checks what concerns keys of more than one service.
fn check_across(comet: &CometConfig, logic: &LogicConfig) -> Vec<ConfigError> {
    let mut wrong = Vec::new();
    let (max_body, push) = (logic.push.max_body, comet.limits.push);
    if max_body.get() > push.get() {
        let reason = format!("above comet.limits.push = {push}: accepted pushes could not be delivered");
        wrong.push(ConfigError::value("logic.push.maxBody", max_body, reason));
    }
    let (renew, expire, node) = (comet.protocol.renew_interval, logic.redis.expire, &logic.node);
    // A client may be silent for so long just before it is due.
    let gap = renew.get() + node.heartbeat_deadline();
    // Where the silence alone is too long, logic's own check says so.
    let is_told = node.heartbeat_deadline() >= expire.get();
    if renew.get() > expire.get() / 2 || (gap >= expire.get() && !is_told) {
        let reason = format!(
            "above half of logic.redis.expire = {expire}, or not below it together with logic.node.heartbeat × \
             heartbeatMax = {} × {}: sessions would expire under living clients",
            node.heartbeat, node.heartbeat_max
        );
        wrong.push(ConfigError::value("comet.protocol.renewInterval", renew, reason));
    }
    wrong
}

/// Runs until a signal ends it.
fn serve(config: &HalleyConfig, exposure: &Exposure) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(run(config, exposure))
}

async fn run(config: &HalleyConfig, exposure: &Exposure) -> anyhow::Result<()> {
    let drain = Drain::new();
    on_signals(drain.clone()).context("no signal handlers")?;
    let open_files = OpenFiles::raise(&config.comet)?;

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
    telemetry::register_insecure(&mut metrics, *exposure != Exposure::Closed);
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
        counts: None,
        registry: Arc::clone(&registry),
        reach,
        metrics: logic_metrics,
    };
    let extra = admin::router(Arc::clone(&health), Arc::new(metrics)).merge(page::router(Arc::clone(&page)));
    // The services name their keys without the section that those stand in here.
    let logic = logic::start(&config.logic, deps, extra, drain.clone())
        .await
        .map_err(|error| anyhow!("logic.{error}"))?;
    let api: Arc<dyn LogicApi> = logic.logic();
    let name = |rpc: SocketAddr| ServerId::new(rpc.to_string());
    let comet = Comet::start(&config.comet, name, open_files.connections, api, comet_metrics)
        .await
        .map_err(|error| anyhow!("comet.{error}"))?;
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
        JobDeps {
            broker,
            group: job::GROUP.to_owned(),
            registry,
            connect,
            metrics: job_metrics,
            drain: drain.clone(),
        },
    );

    // It is set here only, so it cannot be set yet.
    let _ = page.started.set(Started {
        at: Time::now(),
        logic: logic.logic(),
        config: page::Config {
            version: host::build::LONG_VERSION,
            driver: if comet.driver.io_uring { "io_uring" } else { "epoll" },
            shards: comet.shards,
            websocket_port: comet.websocket.first().map(SocketAddr::port),
            websocket_path: config.comet.websocket.path.clone(),
            push_token: !config.logic.push.tokens.is_empty(),
        },
    });
    let rows = banner::rows(&comet, &config.comet, &logic, &config.logic, open_files);
    process::print_banner("halley", &rows);
    if let Some(sentence) = open_files.warning(&config.comet) {
        warn!("{sentence}");
    }
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
    info!(frames_dropped = comet.drops(), "drained");
    Ok(())
}

/// Makes the gateway known to job and to `/goim/nodes/*`.
async fn register(registry: &dyn Registry, comet: &Comet) -> anyhow::Result<Box<dyn Registration>> {
    let mut node = Node::new(Service::Comet, comet.front.server().clone());
    // A wildcard is no address to connect to; without any, clients are told `logic.node.defaultDomain`.
    let ips = comet.tcp.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
    node.addrs = ips.map(|ip| ip.to_string()).collect();
    node.version = host::build::VERSION.to_owned();
    node.hostname = process::hostname();
    registry.register(node).await.context("the gateway could not be registered")
}
