//! `halley`: comet, logic and job in one process, on a memory broker, memory sessions and a fixed registry.
//!
//! The three services are the same libraries that are programs of their own in a cluster. Here they call each other
//! directly. One thread runs logic, job and the gateway's front; one pinned thread per core holds the clients.
//!
//! Modules: [`cli`] the command line, [`file`] the configuration, [`import`] one file from goim's files, [`banner`]
//! what a start prints, [`page`] the page for people.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

mod banner;
mod cli;
mod file;
mod import;
mod page;

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, OnceLock, Weak},
};

use anyhow::{Context, anyhow};
use broker::{MemoryBroker, metrics::BrokerMetrics};
use comet::{Comet, OpenFiles, front::Front, tls::CometTls};
use contract::{CometApi, LogicApi};
use host::{
    admin,
    process::{self, Program, Start, Threads},
    telemetry,
};
use job::{Calls, JobDeps, metrics::JobMetrics};
use logic::{LogicDeps, config::Exposure, metrics::LogicMetrics};
use proto::ids::ServerId;
use registry::{Fixed, Node, Registration, Registry, Service};
use seam::Time;
use session::{MemorySessions, metrics::SessionMetrics};
use tracing::{info, warn};

use self::{
    cli::Cli,
    file::{Checked, HalleyConfig, LogicSection},
    page::{Page, Started},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: Program<Cli, HalleyConfig, Checked> = Program {
    name: "halley",
    config: |cli| &cli.config,
    instead: |cli| (!cli.import.is_empty()).then(|| import::run(&cli.import)),
    check: |_, config| config.check(),
    threads: Threads::Main,
};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    match process::goims_flag(&args) {
        Some(why) => process::misused(PROGRAM.name, &why),
        None => PROGRAM.main(args, run),
    }
}

/// Runs until a signal ends it.
async fn run(config: HalleyConfig, checked: Checked, start: Start) -> anyhow::Result<()> {
    let Start { drain, reload, mut metrics, health } = start;
    let asked = reload.listen();
    let Checked { exposure, clients, services, logic: logic_tls } = checked;
    let LogicSection { own: logic_config, memory } = &config.logic;
    let open_files = OpenFiles::raise(&config.comet)?;

    let (logic_metrics, job_metrics) = (LogicMetrics::default(), JobMetrics::default());
    logic_metrics.register(&mut metrics);
    job_metrics.register(&mut metrics);
    let (broker_metrics, session_metrics) = (BrokerMetrics::default(), SessionMetrics::default());
    broker_metrics.register(&mut metrics);
    session_metrics.register(&mut metrics);
    let comet_metrics = Comet::metrics(&config.comet);
    comet_metrics.register(&mut metrics);
    telemetry::register_insecure(&mut metrics, exposure != Exposure::Closed);
    health.unmet("starting", "the services are being started");

    let registry: Arc<dyn Registry> = Arc::new(Fixed::new([]));
    let broker = Arc::new(MemoryBroker::new(memory.limits.broker.limits(), broker_metrics));
    let sessions = Arc::new(MemorySessions::new(memory.redis.expire.get(), session_metrics));
    sessions.start_sweeping();
    let page = Arc::new(Page {
        comet: Arc::clone(&comet_metrics),
        logic: logic_metrics.clone(),
        job: job_metrics.clone(),
        started: OnceLock::new(),
    });
    // The gateway needs logic to start, and logic needs the gateway for kicks. The reference is weak, because otherwise
    // each would keep the other alive.
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
    // The services name their keys without the section in which the keys stand here.
    let logic_tls = logic_tls.start(logic_config, "logic.", &reload);
    let logic = logic::start(logic_config, &memory.limits.logic, deps, extra, drain.clone(), logic_tls)
        .await
        .map_err(|error| anyhow!("logic.{error}"))?;
    let api: Arc<dyn LogicApi> = logic.logic();
    let name = |rpc: SocketAddr| ServerId::new(rpc.to_string());
    let services = services.map(|read| config.comet.tls.services.start(read, "comet.", &reload));
    let tls = CometTls { clients, services };
    let comet = Comet::start(&config.comet, name, open_files.connections, api, comet_metrics, tls)
        .await
        .map_err(|error| anyhow!("comet.{error}"))?;
    // Only this line sets it, so it cannot be set yet.
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

    // Only this line sets it, so it cannot be set yet.
    let _ = page.started.set(Started {
        at: Time::now(),
        logic: logic.logic(),
        config: page::Config {
            version: host::build::LONG_VERSION,
            driver: comet.driver.chosen.name(),
            shards: comet.shards,
            websocket_port: comet.websocket.first().map(SocketAddr::port),
            wss_port: comet.websocket_tls.first().map(SocketAddr::port),
            websocket_path: config.comet.websocket.path.clone(),
            push_token: !logic_config.push.tokens.is_empty(),
        },
    });
    let rows = banner::rows(&comet, &config.comet, &logic, logic_config, open_files);
    process::print_banner("halley", &rows);
    if let Some(sentence) = open_files.warning(&config.comet) {
        warn!("{sentence}");
    }
    if let Exposure::Insecure(open) = exposure {
        open.iter().for_each(|sentence| warn!("{sentence}"));
    }
    comet.follow_certificates(&config.comet, "comet.", asked);
    health.met("starting");

    drain.draining().await;
    info!("draining: new clients and pushes are refused, accepted pushes are delivered");
    health.unmet("draining", "the process is going away");
    logic.stopped().await;
    job.stopped().await;
    // Not earlier, since job may still have accepted pushes for the gateway.
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
    // A wildcard is no address to connect to. If there is no other, clients get `logic.node.defaultDomain`.
    let ips = comet.tcp.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
    node.addrs = ips.map(|ip| ip.to_string()).collect();
    node.version = host::build::VERSION.to_owned();
    node.hostname = process::hostname();
    registry.register(node).await.context("the gateway could not be registered")
}
