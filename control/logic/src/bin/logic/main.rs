//! `logic`: the control plane of a cluster. Sessions and counts are in Redis, pushes go to Redis or Kafka, comets find it
//! in etcd.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic when nobody takes it, or wait for ever

mod cli;
mod config;

use std::{process::ExitCode, sync::Arc, time::Duration};

use ::config::{ConfigError, Listener, Mistakes, shared_ports};
use anyhow::Context;
use broker::{BrokerChoice, ConsumeConfig, Queue, metrics::BrokerMetrics};
use contract::ClientCount;
use halley_logic::{self as logic, LogicDeps, config::Exposure, metrics::LogicMetrics};
use host::{
    admin,
    admin::Health,
    process,
    process::{Entry, Place},
    shutdown::{Drain, on_signals},
    telemetry,
};
use proto::ids::ServerId;
use registry::{
    HEARD, Membership, Node, Service,
    etcd::{EtcdRegistry, Scope},
};
use session::{RedisSessions, counts::RedisCounts, metrics::SessionMetrics};
use store::Redis;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use self::{cli::Cli, config::LogicFile};

/// Longest wait for the entry to leave etcd. Without etcd it stays there until its lease ends.
const LEAVE_MAX: Duration = Duration::from_secs(3);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli: Cli = match process::parse(process::go_args(std::env::args_os())) {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    process::run("logic", &cli.config, |file| check(&cli, file), serve)
}

/// What was found out before a port is bound.
struct Checked {
    place: Place,
    entry: Entry,
    choice: BrokerChoice,
    exposure: Exposure,
}

fn check(cli: &Cli, file: &mut LogicFile) -> Result<Checked, Vec<ConfigError>> {
    if cli.config.config.is_none() {
        file.without_a_file();
    }
    let mut wrong = Mistakes::default();
    wrong.unless(cli.place.set_log(&mut file.log));
    wrong.extend(file.logic().check(""));
    wrong.extend(file.discovery.check());
    wrong.extend(shared_ports(&[
        Listener { key: "httpServer.addr", addrs: &file.http_server.addr },
        Listener { key: "rpcServer.addr", addrs: &file.rpc_server.addr },
    ]));
    let place = wrong.unless(cli.place.place());
    let entry = wrong.unless(cli.entry.entry());
    let choice = wrong.unless(ConsumeConfig::choice(file.consume.as_ref()));
    let exposure = file.exposure().map_err(|open| wrong.extend(open)).ok();
    match (place, entry, choice, exposure) {
        (Some(place), Some(entry), Some(choice), Some(exposure)) if wrong.is_empty() => {
            Ok(Checked { place, entry, choice, exposure })
        }
        _ => Err(wrong.errors()),
    }
}

/// Runs until a signal ends it.
fn serve(file: LogicFile, checked: Checked) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(run(file, checked))
}

async fn run(file: LogicFile, checked: Checked) -> anyhow::Result<()> {
    let Checked { place, entry, choice, exposure } = checked;
    let drain = Drain::new();
    on_signals(drain.clone()).context("no signal handlers")?;
    ring::raise_open_file_limit();
    let config = file.logic();

    let mut metrics = prometheus_client::registry::Registry::default();
    telemetry::register(&mut metrics);
    telemetry::register_insecure(&mut metrics, exposure != Exposure::Closed);
    let logic_metrics = LogicMetrics::default();
    logic_metrics.register(&mut metrics);
    let session_metrics = SessionMetrics::default();
    session_metrics.register(&mut metrics);
    let broker_metrics = BrokerMetrics::default();
    broker_metrics.register(&mut metrics);
    let registry = Arc::new(EtcdRegistry::new(&file.discovery, vec![Scope::comets(&place)])?);
    registry.metrics().register(&mut metrics);

    let health = Arc::new(Health::new());
    health.follow("etcd", "it does not answer", registry.up(), |up| *up);
    let redis = Redis::connect(&file.redis);
    redis.metrics().register(&mut metrics);
    health.follow("redis", "it does not answer", redis.ready(), |ready| *ready);
    let queue = match choice {
        BrokerChoice::Redis => {
            let entries_max = config.limits.broker_entries.usize();
            Queue::redis(redis.clone(), &file.redis, &file.kafka.topic, entries_max, broker_metrics)
        }
        BrokerChoice::Kafka => Queue::kafka_for_logic(&file.kafka, broker_metrics).await?,
    };
    health.follow(queue.name, "it does not answer", queue.ready, |ready| *ready);

    let sessions = Arc::new(RedisSessions::new(redis.clone(), &file.redis));
    health.follow("sessions", "Redis has not told its time yet", sessions.ready(), |ready| *ready);
    let deps = LogicDeps {
        broker: queue.broker,
        sessions,
        counts: Some(Arc::new(RedisCounts::new(redis, &file.redis))),
        registry: Arc::clone(&registry) as _,
        reach: logic::reach_by_grpc(&*registry, file.rpc_client.timeout.get()),
        metrics: logic_metrics,
    };
    let extra = admin::router(Arc::clone(&health), Arc::new(metrics));
    let serving = Drain::new();
    let logic = logic::start(&config, deps, extra, serving.clone()).await?;

    let server = ServerId::new(place.server(logic.rpc_addrs()[0]));
    let node = Node::here(Service::Logic, server.clone(), &place, entry);
    let registered = watch::Sender::default();
    let membership = Membership::join(registry, node, Arc::clone(&health), registered, ClientCount::default);

    let [http, rpc, login, push] = logic.rows(&config);
    let rows = [
        http,
        rpc,
        ("name", format!("{server} in {}", place.words())),
        ("etcd", file.discovery.nodes.join(", ")),
        ("sessions", file.redis.place()),
        ("queue", queue.words),
        login,
        push,
    ];
    process::print_banner("logic", &rows);
    if let Exposure::Insecure(open) = exposure {
        open.iter().for_each(|sentence| warn!("{sentence}"));
    }

    drain.draining().await;
    info!("draining: logins and pushes are answered until the comets look elsewhere");
    health.unmet("draining", "the process is going away");
    if timeout(LEAVE_MAX, membership.leave()).await.is_err() {
        warn!("etcd did not take the entry out in time; it ends with its lease");
    }
    sleep(HEARD).await;
    serving.begin();
    logic.stopped().await;
    info!("drained");
    Ok(())
}
