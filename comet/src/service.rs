//! A whole comet: shards, front and gRPC port.

use std::{fmt::Display, io, net::SocketAddr, sync::Arc, time::Duration};

use ::tls::TicketKeys;
use contract::LogicApi;
use host::accept::{incoming, listen};
use proto::ids::{Mid, ServerId};
use shard::Acceptors;
use tokio::sync::watch;

use crate::{
    config::CometConfig,
    driver::launch::{DriverReport, LaunchError, Launched, launch, shards},
    front::{ClientLog, Front, Metrics, halley_rpc, halley_rpc::Streams, rpc},
    tls::{self, CometTls},
};

/// HTTP/2 flow control window of the gRPC port, bytes. goim's job sends batches of this order.
const RPC_WINDOW: u32 = 4 << 20;

/// Why a comet did not start. Then it serves nothing.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The shards did not start.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The gRPC port cannot be listened on.
    #[error("rpcServer.addr = \"{address}\": {source}")]
    Rpc {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Descriptors kept for everything but clients, if there are plenty: HTTP and gRPC connections, listeners, rings, logs.
const DESCRIPTORS_KEPT: u64 = 512;

/// Descriptors that a gateway needs in any case: some connections of backends, probes and other services.
const DESCRIPTORS_NEEDED: u64 = 64;

/// Descriptors that each shard needs: listeners, a ring, and what wakes it.
const DESCRIPTORS_OF_SHARD: u64 = 8;

/// Below this limit fewer than [`DESCRIPTORS_KEPT`] are kept, so that the clients get most of the descriptors.
const DESCRIPTORS_PLENTY: u64 = 4 * DESCRIPTORS_KEPT;

/// What the limit on open files allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// Descriptors this process may open.
    pub limit: u64,
    /// Connections that this allows, at least one.
    pub connections: usize,
}

/// The limit on open files leaves nothing for clients. comet does not try again: the operator has to raise the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit on open files is {limit}, and {needed} are needed beside the clients: raise it (ulimit -n, LimitNOFILE)"
)]
pub struct TooFewFiles {
    limit: u64,
    needed: u64,
}

impl OpenFiles {
    /// Raises the limit as far as this process may, and tells what it is enough for.
    ///
    /// # Errors
    /// [`TooFewFiles`].
    pub fn raise(config: &CometConfig) -> Result<OpenFiles, TooFewFiles> {
        let limit = ring::raise_open_file_limit().after.unwrap_or(u64::MAX);
        OpenFiles::of(limit, shards(config))
    }

    fn of(limit: u64, shards: usize) -> Result<OpenFiles, TooFewFiles> {
        let needed = DESCRIPTORS_NEEDED + DESCRIPTORS_OF_SHARD * shards as u64;
        let kept = DESCRIPTORS_KEPT.min(limit / 4).max(needed);
        match limit.saturating_sub(kept) {
            0 => Err(TooFewFiles { limit, needed }),
            connections => {
                Ok(OpenFiles { limit, connections: usize::try_from(connections).unwrap_or(usize::MAX) })
            }
        }
    }

    /// A sentence for the log if the limit is low, or lower than `limits.connections` wants.
    pub fn warning(&self, config: &CometConfig) -> Option<String> {
        let OpenFiles { limit, connections } = self;
        let wanted = config.limits.connections.usize();
        let is_low = *limit < DESCRIPTORS_PLENTY && (wanted == 0 || wanted > *connections);
        (is_low || wanted > *connections).then(|| {
            format!("the limit on open files is {limit}, enough for {connections} clients only: raise it (ulimit -n, LimitNOFILE)")
        })
    }
}

/// A comet that runs.
pub struct Comet {
    /// The front. job calls it.
    pub front: Arc<Front>,
    /// Addresses for TCP clients.
    pub tcp: Vec<SocketAddr>,
    /// Addresses for TCP clients inside TLS.
    pub tcp_tls: Vec<SocketAddr>,
    /// Addresses for WebSocket clients.
    pub websocket: Vec<SocketAddr>,
    /// Addresses for WebSocket clients inside TLS.
    pub websocket_tls: Vec<SocketAddr>,
    /// Address of the gRPC port.
    pub rpc: SocketAddr,
    /// The driver that was chosen.
    pub driver: DriverReport,
    /// Number of shards.
    pub shards: usize,
    /// The core that each shard is pinned to.
    pub cpus: Vec<Option<usize>>,
    /// Of clients: what the shards have, and its keys of tickets if they are of this process.
    tls: (Acceptors, Option<Arc<TicketKeys>>),
    streams: Streams,
    spread: Duration,
    timeout: Duration,
}

impl Comet {
    /// The counters of a comet with this configuration. A program registers them before comet starts.
    pub fn metrics(config: &CometConfig) -> Arc<Metrics> {
        Metrics::new(shards(config))
    }

    /// Starts everything. `name` makes this comet's name in the cluster from the address of its gRPC port;
    /// `connections` is what the open-file limit allows; `metrics` come from [`Comet::metrics`]. Call this on the
    /// runtime that the front shall run on.
    pub async fn start(
        config: &CometConfig,
        name: impl FnOnce(SocketAddr) -> ServerId,
        connections: usize,
        logic: Arc<dyn LogicApi>,
        metrics: Arc<Metrics>,
        tls: CometTls,
    ) -> Result<Comet, StartError> {
        let address = config.rpc_server.addr.get();
        let failed = |source| StartError::Rpc { address, source };
        let listener = listen(address).map_err(failed)?;
        let rpc = listener.local_addr().map_err(failed)?;
        let limit = match config.limits.connections.usize() {
            0 => connections,
            limit => limit.min(connections),
        };
        let Launched { tcp, tcp_tls, websocket, websocket_tls, driver, cpus, outboxes, inboxes } =
            launch(config, limit, &tls.clients.acceptors)?;
        let push_max = config.limits.push.usize();
        let client_log = ClientLog::new(config.whitelist.whitelist.iter().copied().map(Mid));
        let front = Front::start(name(rpc), outboxes, inboxes, logic, metrics, client_log, push_max);
        tls.clients.note();
        let streams = Streams::default();
        let service = tonic::transport::Server::builder()
            .initial_connection_window_size(RPC_WINDOW)
            .initial_stream_window_size(RPC_WINDOW)
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(3)))
            .add_service(rpc::service(Arc::clone(&front), push_max))
            .add_service(halley_rpc::service(Arc::clone(&front), push_max, streams.clone()));
        tokio::spawn(service.serve_with_incoming(incoming(listener, tls.services)));
        Ok(Comet {
            front,
            tcp,
            tcp_tls,
            websocket,
            websocket_tls,
            rpc,
            driver,
            shards: shards(config),
            cpus,
            tls: (tls.clients.acceptors, tls.clients.own_tickets),
            streams,
            spread: config.drain.spread.get(),
            timeout: config.drain.timeout.get(),
        })
    }

    /// Rows for the banner of a starting process.
    pub fn rows(&self, config: &CometConfig, open_files: OpenFiles) -> Vec<(&'static str, String)> {
        let path = &config.websocket.path;
        let urls = |scheme: &str, addresses: &[SocketAddr]| {
            let urls = addresses.iter().map(|address| format!("{scheme}://{address}{path}"));
            urls.collect::<Vec<_>>().join(", ")
        };
        let OpenFiles { limit, connections } = open_files;
        let clients = [
            ("clients, TCP", join(&self.tcp)),
            ("clients, WebSocket", urls("ws", &self.websocket)),
            ("clients, TLS", join(&self.tcp_tls)),
            ("clients, WSS", urls("wss", &self.websocket_tls)),
        ];
        let mut rows: Vec<_> = clients.into_iter().filter(|(_, addresses)| !addresses.is_empty()).collect();
        rows.extend([
            ("driver", self.driver.to_string()),
            ("shards", format!("{}, {}", self.shards, pinned(&self.cpus))),
            ("open files", format!("{limit}, enough for {connections} connections")),
        ]);
        rows
    }

    /// Reads the certificates anew whenever that is `asked`, if there are any: since they were read first, so whoever calls
    /// this listens before the start. The keys of the configuration stand in `section`.
    pub fn follow_certificates(
        &self,
        config: &CometConfig,
        section: &'static str,
        asked: watch::Receiver<u64>,
    ) {
        if config.tcp.tls_open || config.websocket.tls_open {
            let front = Arc::clone(&self.front);
            tokio::spawn(tls::follow(front, config.clone(), section, self.tls.clone(), asked));
        }
    }

    /// Tells every client that comet is going away and closes it, and waits until all are gone and logic knows it.
    /// False if some were left after `drain.timeout`.
    pub async fn drain(&self) -> bool {
        self.front.drain(self.spread, self.timeout).await
    }

    /// Frames that were not delivered since the start, as of the shards' last ticks. After a drain nobody can ask for
    /// the counters any more, so the program logs this.
    pub fn drops(&self) -> u64 {
        self.front.metrics().sum(|stats| stats.drops.values().sum())
    }

    /// Waits, at most for `limit`, until no job has a stream to this comet. Jobs end their streams when it has left the
    /// registry and has everything that waited for it. False if a stream is still open.
    pub async fn parted(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.streams.ended()).await.is_ok()
    }
}

/// Tells which shards are pinned.
fn pinned(cpus: &[Option<usize>]) -> String {
    let cores: Vec<usize> = cpus.iter().flatten().copied().collect();
    match cpus.len() - cores.len() {
        0 => format!("pinned to cores {}", join(&cores)),
        _ if cores.is_empty() => "not pinned".to_owned(),
        others => format!("pinned to cores {}; {others} not pinned", join(&cores)),
    }
}

fn join<T: Display>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With 256 descriptors it was "enough for 1 connections".
    #[test]
    fn few_descriptors_are_for_clients_but_for_what_is_needed() {
        let connections = |limit, shards| OpenFiles::of(limit, shards).map(|files| files.connections).ok();
        assert_eq!(connections(1_048_576, 2), Some(1_048_064));
        assert_eq!(connections(2048, 2), Some(1536));
        assert_eq!(connections(1024, 2), Some(768));
        assert_eq!(connections(256, 2), Some(176));
        assert_eq!(connections(100, 2), Some(20));
        assert_eq!(connections(81, 2), Some(1));
        let refused = OpenFiles::of(80, 2).unwrap_err().to_string();
        assert!(refused.starts_with("the limit on open files is 80, and 80 are needed"), "{refused}");
        assert_eq!(connections(u64::MAX, 1), Some(usize::MAX - 512));
    }

    #[test]
    fn a_low_limit_is_warned_of_unless_fewer_clients_are_wanted() {
        let warned = |limit, wanted: &str| {
            let set = format!("limits.connections={wanted}");
            let config: CometConfig = config::load(None, &[set], &[]).expect("a number").config;
            OpenFiles::of(limit, 2).expect("enough").warning(&config).is_some()
        };
        assert_eq!([warned(256, "0"), warned(256, "100"), warned(256, "177")], [true, false, true]);
        assert_eq!([warned(4096, "0"), warned(4096, "3584"), warned(4096, "3585")], [false, false, true]);
    }

    #[test]
    fn a_start_tells_where_the_shards_are() {
        assert_eq!(pinned(&[Some(0), Some(1)]), "pinned to cores 0, 1");
        assert_eq!(pinned(&[Some(0), None]), "pinned to cores 0; 1 not pinned");
        assert_eq!(pinned(&[None, None]), "not pinned");
    }
}
