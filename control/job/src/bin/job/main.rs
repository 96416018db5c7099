//! `job`: carries pushes from Redis or Kafka to the comets of a cluster, which it finds in etcd.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

mod cli;
mod file;

use std::{process::ExitCode, sync::Arc};

use broker::{BrokerChoice, ChosenBroker, ConsumeConfig, metrics::BrokerMetrics};
use config::{ConfigError, Mistakes};
use halley_job::{self as job, JobDeps, metrics::JobMetrics};
use host::{
    admin,
    process::{self, Place, Program, Start, Threads},
    tls::MutualRead,
};
use registry::etcd::{EtcdRegistry, Scope};
use store::Redis;
use tracing::info;

use self::{cli::Cli, file::JobFile};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = Program {
        name: "job",
        config: |cli: &Cli| &cli.config,
        instead: |_| None,
        check,
        threads: Threads::PerCore,
    };
    program.main(std::env::args_os(), run)
}

/// What the checks find out before the process binds a port.
struct Checked {
    place: Place,
    choice: BrokerChoice,
    services: Option<MutualRead>,
}

fn check(cli: &Cli, file: &mut JobFile) -> Result<Checked, Vec<ConfigError>> {
    let mut wrong = Mistakes::default();
    wrong.unless(cli.place.set_log(&mut file.cluster.log));
    wrong.extend(file.cluster.discovery.check());
    let place = wrong.unless(cli.place.place());
    let choice = wrong.unless(ConsumeConfig::choice(file.cluster.consume.as_ref()));
    // The other one's files need not be on this machine.
    wrong.extend(match choice {
        Some(BrokerChoice::Redis) => file.cluster.redis.check(),
        Some(BrokerChoice::Kafka) => file.cluster.kafka.check(),
        None => Vec::new(),
    });
    let services = wrong.all(file.cluster.tls.read(""));
    match (place, choice, services) {
        (Some(place), Some(choice), Some(services)) if wrong.is_empty() => {
            Ok(Checked { place, choice, services })
        }
        _ => Err(wrong.errors()),
    }
}

/// Runs until a signal ends it.
async fn run(file: JobFile, checked: Checked, start: Start) -> anyhow::Result<()> {
    let JobFile { job: config, cluster } = file;
    let Checked { place, choice, services } = checked;
    let Start { drain, reload, mut metrics, health } = start;
    ring::raise_open_file_limit();

    let job_metrics = JobMetrics::default();
    job_metrics.register(&mut metrics);
    let broker_metrics = BrokerMetrics::default();
    broker_metrics.register(&mut metrics);
    let registry = Arc::new(EtcdRegistry::new(&cluster.discovery, vec![Scope::comets(&place)])?);
    registry.metrics().register(&mut metrics);

    health.follow("etcd", "it does not answer", registry.up(), |up| *up);
    let queue = match choice {
        BrokerChoice::Redis => {
            let redis = Redis::connect(&cluster.redis)?;
            redis.metrics().register(&mut metrics);
            // job publishes nothing, so the bound on what may wait on the broker is without effect.
            ChosenBroker::redis(redis, &cluster.redis, &cluster.kafka.queue.topic, usize::MAX, broker_metrics)
        }
        BrokerChoice::Kafka => ChosenBroker::kafka_for_job(&cluster.kafka, broker_metrics).await?,
    };
    health.follow(queue.name, "it does not answer", queue.ready, |ready| *ready);
    let admin = admin::start(&cluster.admin.addr, admin::router(Arc::clone(&health), Arc::new(metrics)))?;
    let services = services.map(|read| cluster.tls.start(read, "", &reload));
    let broker = Arc::clone(&queue.broker);
    let deps = JobDeps {
        broker: queue.broker,
        group: cluster.kafka.queue.group.clone(),
        registry,
        connect: job::connect_by_grpc(&config, services),
        metrics: job_metrics,
        drain: drain.clone(),
    };
    let job = job::start(&config, deps);

    let admin: Vec<String> = admin.iter().map(|address| format!("http://{address}")).collect();
    let rows = [
        ("admin", admin.join(", ")),
        ("comets of", place.words()),
        ("etcd", cluster.discovery.place()),
        ("queue", queue.words),
        ("group", cluster.kafka.queue.group.clone()),
    ];
    process::print_banner("job", &rows);

    drain.draining().await;
    info!("draining: what was read is delivered");
    health.unmet("draining", "the process is going away");
    job.stopped().await;
    // `close` waits for what this process still has to write to the broker, dead letters last.
    broker.close().await;
    info!("drained");
    Ok(())
}
