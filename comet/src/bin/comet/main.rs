//! `comet`: the gateway of a cluster. It finds the logics in etcd and asks them over gRPC, and the jobs find it there.
//!
//! One thread runs the front, one pinned thread per core holds the clients, as in the all-in-one `halley`.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

mod cli;
mod file;

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::anyhow;
use config::{Addrs, ConfigError, Listener, Mistakes, shared_ports};
use halley_comet::{
    Comet, OpenFiles,
    front::logics::Logics,
    tls::{ClientTls, CometTls},
};
use host::{
    admin,
    dial::Dial,
    process::{self, Entry, Place, Program, Start, Threads},
    telemetry,
    tls::MutualRead,
};
use proto::ids::ServerId;
use registry::{
    HEARD, Membership, Node, Registry, Service,
    etcd::{EtcdRegistry, Scope},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use self::{cli::Cli, file::CometFile};

/// Longest wait for the entry to leave etcd. Without etcd it stays there until its lease ends.
const LEAVE_MAX: Duration = Duration::from_secs(3);

/// Longest wait for the jobs to bring what they still have for a comet that has left etcd.
const PART_MAX: Duration = Duration::from_secs(1);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = Program {
        name: "comet",
        config: |cli: &Cli| &cli.config,
        instead: |_| None,
        check,
        threads: Threads::Main,
    };
    program.main(std::env::args_os(), run)
}

/// What was found out before a port is bound.
struct Checked {
    place: Place,
    entry: Entry,
    /// What strangers could do.
    exposed: Option<String>,
    clients: ClientTls,
    services: Option<MutualRead>,
}

fn check(cli: &Cli, file: &mut CometFile) -> Result<Checked, Vec<ConfigError>> {
    let rpc = Addrs::from(file.comet.rpc_server.addr);
    let mut wrong = Mistakes::default();
    wrong.unless(cli.place.set_log(&mut file.cluster.log));
    wrong.extend(file.comet.check(""));
    let clients = wrong.all(ClientTls::load(&file.comet, ""));
    let services = wrong.all(file.comet.tls.services.read(""));
    wrong.extend(file.cluster.discovery.check());
    let ports = file.comet.client_addrs().into_iter();
    let mut listeners: Vec<Listener<'_>> = ports.map(|(key, addrs)| Listener { key, addrs }).collect();
    listeners.extend([
        Listener { key: "rpcServer.addr", addrs: &rpc },
        Listener { key: "admin.addr", addrs: &file.cluster.admin.addr },
    ]);
    wrong.extend(shared_ports(&listeners));
    let place = wrong.unless(cli.place.place());
    let entry = wrong.unless(cli.entry.entry());
    let exposed = wrong.unless(file.exposure());
    match (place, entry, exposed, clients, services) {
        (Some(place), Some(entry), Some(exposed), Some(clients), Some(services)) if wrong.is_empty() => {
            Ok(Checked { place, entry, exposed, clients, services })
        }
        _ => Err(wrong.errors()),
    }
}

/// Runs until a signal ends it.
async fn run(file: CometFile, checked: Checked, start: Start) -> anyhow::Result<()> {
    let CometFile { comet: config, cluster } = file;
    let Checked { place, mut entry, exposed, clients, services } = checked;
    let Start { drain, reload, mut metrics, health } = start;
    let asked = reload.listen();
    let open_files = OpenFiles::raise(&config)?;

    telemetry::register_insecure(&mut metrics, exposed.is_some());
    let comet_metrics = Comet::metrics(&config);
    comet_metrics.register(&mut metrics);
    let registry = Arc::new(EtcdRegistry::new(&cluster.discovery, vec![Scope::logics(&place)])?);
    registry.metrics().register(&mut metrics);

    health.follow("etcd", "it does not answer", registry.up(), |up| *up);
    health.follow("logic", "there is none in etcd", registry.watch(), |nodes| {
        nodes.of(Service::Logic).next().is_some()
    });
    let (registered, is_known) = (watch::Sender::new(false), watch::Sender::new(false));
    let services = services.map(|read| config.tls.services.start(read, "", &reload));
    let dial = Dial { limit: cluster.rpc_client.timeout.get(), tls: services.clone() };
    let logics = Arc::new(Logics::new(registry.watch(), dial, is_known.subscribe()));
    let mut is_registered = registered.subscribe();
    tokio::spawn(async move {
        // Ends with the registration, or without one.
        if is_registered.wait_for(|is| *is).await.is_ok() {
            sleep(HEARD).await;
            is_known.send_replace(true);
        }
    });
    let name = |rpc: SocketAddr| ServerId::new(place.server(rpc));
    let comet = Comet::start(
        &config,
        name,
        open_files.connections,
        logics,
        comet_metrics,
        CometTls { clients, services },
    )
    .await
    .map_err(|error| anyhow!("{error}"))?;
    let server = comet.front.server().clone();
    if entry.addrs.is_empty() {
        entry.addrs = addresses(&comet, &server);
    }
    let node = Node::here(Service::Comet, server.clone(), &place, entry);
    let front = Arc::clone(&comet.front);
    // Before anybody is sent here: a port that is taken ends the process.
    let admin = admin::start(&cluster.admin.addr, admin::router(Arc::clone(&health), Arc::new(metrics)))?;
    let membership =
        Membership::join(registry, node, Arc::clone(&health), registered, move || front.clients());

    let mut rows = comet.rows(&config, open_files);
    let admin: Vec<String> = admin.iter().map(|address| format!("http://{address}")).collect();
    let at = rows.iter().take_while(|(name, _)| name.starts_with("clients")).count();
    rows.splice(
        at..at,
        [
            ("gRPC", comet.rpc.to_string()),
            ("admin", admin.join(", ")),
            ("name", format!("{server} in {}", place.words())),
            ("etcd", cluster.discovery.place()),
        ],
    );
    process::print_banner("comet", &rows);
    comet.follow_certificates(&config, "", asked);
    if let Some(sentence) = open_files.warning(&config) {
        warn!("{sentence}");
    }
    if let Some(sentence) = exposed {
        warn!("{sentence}");
    }

    drain.draining().await;
    info!("draining: no new clients, the others are told to go");
    health.unmet("draining", "the process is going away");
    leave(&comet, membership).await;
    info!(frames_dropped = comet.drops(), "drained");
    Ok(())
}

/// No client is sent here any more, but as long as there is one its pushes are: the entry stays until the last has gone.
async fn leave(comet: &Comet, membership: Membership) {
    membership.mark_offline();
    sleep(HEARD).await;
    if !comet.drain().await {
        warn!("some connections were left after drain.timeout");
    }
    if timeout(LEAVE_MAX, membership.leave()).await.is_err() {
        warn!("etcd did not take the entry out in time; it ends with its lease");
    }
    if !comet.parted(PART_MAX).await {
        warn!("a job has not ended its stream; what it still has for this comet it gives up in time");
    }
}

/// Where clients reach it, when nobody said: the addresses it listens on, or its host in the cluster.
fn addresses(comet: &Comet, server: &ServerId) -> Vec<String> {
    let ips = comet.tcp.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
    let mut addresses: Vec<String> = ips.map(|ip| ip.to_string()).collect();
    if addresses.is_empty() {
        let host = server.as_str().rsplit_once(':').map_or(server.as_str(), |(host, _)| host);
        addresses.push(host.to_owned());
    }
    addresses
}
