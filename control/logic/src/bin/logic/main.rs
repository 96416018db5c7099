//! `logic`: the control plane of a cluster. It keeps sessions and counts in Redis and publishes pushes to Redis or
//! Kafka. Comets find it in etcd.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

mod cli;
mod file;

use std::{process::ExitCode, sync::Arc, time::Duration};

use broker::{BrokerChoice, ChosenBroker, ConsumeConfig, metrics::BrokerMetrics};
use config::{ConfigError, Listener, Mistakes, shared_ports};
use contract::ClientCount;
use halley_logic::{self as logic, LogicDeps, config::Exposure, metrics::LogicMetrics, tls::LogicTls};
use host::{
    admin,
    dial::Dial,
    process::{self, Entry, Place, Program, Start, Threads},
    shutdown::Drain,
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

use self::{cli::Cli, file::LogicFile};

/// How long logic waits until its entry has left etcd. If etcd is away, the entry stays until its lease ends.
const LEAVE_MAX: Duration = Duration::from_secs(3);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = Program {
        name: "logic",
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
    entry: Entry,
    choice: BrokerChoice,
    exposure: Exposure,
    tls: LogicTls,
}

fn check(cli: &Cli, file: &mut LogicFile) -> Result<Checked, Vec<ConfigError>> {
    let mut wrong = Mistakes::default();
    wrong.unless(cli.place.set_log(&mut file.cluster.log));
    wrong.extend(file.logic.check("", file.cluster.redis.data.expire));
    wrong.extend(file.cluster.discovery.check());
    let listeners = file.logic.listeners().map(|(key, addrs)| Listener { key, addrs });
    wrong.extend(shared_ports(&listeners.collect::<Vec<_>>()));
    let tls = wrong.all(LogicTls::load(&file.logic, ""));
    let place = wrong.unless(cli.place.place());
    let entry = wrong.unless(cli.entry.entry());
    let choice = wrong.unless(ConsumeConfig::choice(file.cluster.consume.as_ref()));
    wrong.extend(file.cluster.redis.check());
    if choice == Some(BrokerChoice::Kafka) {
        wrong.extend(file.cluster.kafka.check());
    }
    let exposure = file.logic.check_exposure("", &[]).map_err(|open| wrong.extend(open)).ok();
    match (place, entry, choice, exposure, tls) {
        (Some(place), Some(entry), Some(choice), Some(exposure), Some(tls)) if wrong.is_empty() => {
            Ok(Checked { place, entry, choice, exposure, tls })
        }
        _ => Err(wrong.errors()),
    }
}

/// Runs until a signal ends it.
async fn run(file: LogicFile, checked: Checked, start: Start) -> anyhow::Result<()> {
    let LogicFile { logic: config, cluster } = file;
    let Checked { place, entry, choice, exposure, tls } = checked;
    let Start { drain, reload, mut metrics, health } = start;
    let tls = tls.start(&config, "", &reload);
    ring::raise_open_file_limit();

    telemetry::register_insecure(&mut metrics, exposure != Exposure::Closed);
    let logic_metrics = LogicMetrics::default();
    logic_metrics.register(&mut metrics);
    let session_metrics = SessionMetrics::default();
    session_metrics.register(&mut metrics);
    let broker_metrics = BrokerMetrics::default();
    broker_metrics.register(&mut metrics);
    let registry = Arc::new(EtcdRegistry::new(&cluster.discovery, vec![Scope::comets(&place)])?);
    registry.metrics().register(&mut metrics);

    health.follow("etcd", "it does not answer", registry.up(), |up| *up);
    let redis = Redis::connect(&cluster.redis)?;
    redis.metrics().register(&mut metrics);
    health.follow("redis", "it does not answer", redis.ready(), |ready| *ready);
    let queue = match choice {
        BrokerChoice::Redis => {
            let entries_max = cluster.limits.queue.broker_entries.usize();
            ChosenBroker::redis(
                redis.clone(),
                &cluster.redis,
                &cluster.kafka.queue.topic,
                entries_max,
                broker_metrics,
            )
        }
        BrokerChoice::Kafka => ChosenBroker::kafka_for_logic(&cluster.kafka, broker_metrics).await?,
    };
    health.follow(queue.name, "it does not answer", queue.ready, |ready| *ready);

    let sessions = Arc::new(RedisSessions::new(redis.clone(), &cluster.redis));
    health.follow("sessions", "Redis has not told its time yet", sessions.ready(), |ready| *ready);
    let dial = Dial { limit: cluster.rpc_client.timeout.get(), tls: tls.services.clone() };
    let deps = LogicDeps {
        broker: queue.broker,
        sessions,
        counts: Some(Arc::new(RedisCounts::new(redis, &cluster.redis))),
        registry: Arc::clone(&registry) as _,
        reach: logic::reach_by_grpc(&*registry, dial),
        metrics: logic_metrics,
    };
    let extra = admin::router(Arc::clone(&health), Arc::new(metrics));
    let serving = Drain::new();
    let logic = logic::start(&config, &cluster.limits.logic, deps, extra, serving.clone(), tls).await?;

    let server = ServerId::new(place.server(logic.rpc_addrs()[0]));
    let node = Node::here(Service::Logic, server.clone(), &place, entry);
    let registered = watch::Sender::default();
    let membership = Membership::join(registry, node, Arc::clone(&health), registered, ClientCount::default);

    let [http, rpc, login, push] = logic.rows(&config);
    let mut rows = vec![http];
    rows.extend(logic.https_row());
    rows.extend([
        rpc,
        ("name", format!("{server} in {}", place.words())),
        ("etcd", cluster.discovery.place()),
        ("sessions", cluster.redis.place()),
        ("queue", queue.words),
        login,
        push,
    ]);
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
