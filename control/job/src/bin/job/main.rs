//! `job`: carries pushes from Redis or Kafka to the comets of a cluster, which it finds in etcd.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic when nobody takes it, or wait for ever

mod cli;
mod config;

use std::{process::ExitCode, sync::Arc};

use ::config::{ConfigError, Mistakes};
use anyhow::Context;
use broker::{BrokerChoice, ConsumeConfig, Queue, metrics::BrokerMetrics};
use halley_job::{self as job, JobDeps, metrics::JobMetrics};
use host::{
    admin,
    admin::Health,
    process,
    process::Place,
    shutdown::{Drain, on_signals},
    telemetry,
};
use registry::etcd::{EtcdRegistry, Scope};
use store::Redis;
use tracing::info;

use self::{cli::Cli, config::JobFile};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli: Cli = match process::parse(process::go_args(std::env::args_os())) {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    process::run("job", &cli.config, |file| check(&cli, file), serve)
}

/// What was found out before a port is bound.
struct Checked {
    place: Place,
    choice: BrokerChoice,
}

fn check(cli: &Cli, file: &mut JobFile) -> Result<Checked, Vec<ConfigError>> {
    if cli.config.config.is_none() {
        file.without_a_file();
    }
    let mut wrong = Mistakes::default();
    wrong.unless(cli.place.set_log(&mut file.log));
    wrong.extend(file.discovery.check());
    let place = wrong.unless(cli.place.place());
    let choice = wrong.unless(ConsumeConfig::choice(file.consume.as_ref()));
    match (place, choice) {
        (Some(place), Some(choice)) if wrong.is_empty() => Ok(Checked { place, choice }),
        _ => Err(wrong.errors()),
    }
}

/// Runs until a signal ends it.
fn serve(file: JobFile, checked: Checked) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(run(file, checked))
}

async fn run(file: JobFile, checked: Checked) -> anyhow::Result<()> {
    let Checked { place, choice } = checked;
    let drain = Drain::new();
    on_signals(drain.clone()).context("no signal handlers")?;
    ring::raise_open_file_limit();
    let config = file.job();

    let mut metrics = prometheus_client::registry::Registry::default();
    telemetry::register(&mut metrics);
    let job_metrics = JobMetrics::default();
    job_metrics.register(&mut metrics);
    let broker_metrics = BrokerMetrics::default();
    broker_metrics.register(&mut metrics);
    let registry = Arc::new(EtcdRegistry::new(&file.discovery, vec![Scope::comets(&place)])?);
    registry.metrics().register(&mut metrics);

    let health = Arc::new(Health::new());
    health.follow("etcd", "it does not answer", registry.up(), |up| *up);
    let queue = match choice {
        BrokerChoice::Redis => {
            let redis = Redis::connect(&file.redis);
            redis.metrics().register(&mut metrics);
            // Nothing is published here.
            Queue::redis(redis, &file.redis, &file.kafka.topic, usize::MAX, broker_metrics)
        }
        BrokerChoice::Kafka => Queue::kafka_for_job(&file.kafka, broker_metrics).await?,
    };
    health.follow(queue.name, "it does not answer", queue.ready, |ready| *ready);
    let admin = admin::start(&file.admin.addr, admin::router(Arc::clone(&health), Arc::new(metrics)))?;
    let broker = Arc::clone(&queue.broker);
    let deps = JobDeps {
        broker: queue.broker,
        group: file.kafka.group.clone(),
        registry,
        connect: job::connect_by_grpc(&config),
        metrics: job_metrics,
        drain: drain.clone(),
    };
    let job = job::start(&config, deps);

    let admin: Vec<String> = admin.iter().map(|address| format!("http://{address}")).collect();
    let rows = [
        ("admin", admin.join(", ")),
        ("comets of", place.words()),
        ("etcd", file.discovery.nodes.join(", ")),
        ("queue", queue.words),
        ("group", file.kafka.group.clone()),
    ];
    process::print_banner("job", &rows);

    drain.draining().await;
    info!("draining: what was read is delivered");
    health.unmet("draining", "the process is going away");
    job.stopped().await;
    // Waits for what is still on its way there, dead letters last.
    broker.close().await;
    info!("drained");
    Ok(())
}
