//! A whole comet: shards, front and gRPC port.

use std::{fmt::Display, io, net::SocketAddr, sync::Arc, time::Duration};

use cluster::{accept::incoming, services::LogicApi};
use proto::ids::{Mid, ServerId};
use tokio::net::TcpListener;

use crate::{
    config::CometConfig,
    driver::launch::{DriverReport, LaunchError, Launched, launch, shards},
    front::{ClientLog, Front, Metrics, halley_rpc, halley_rpc::Streams, rpc},
};

/// Bytes in one HTTP/2 frame window of the gRPC port; goim's job sends batches of this order.
const RPC_WINDOW: u32 = 4 << 20;

/// Why a comet did not start. Nothing is served then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The shards.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The gRPC port.
    #[error("rpcServer.addr = \"{address}\": {source}")]
    Rpc {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Descriptors that are not for clients: listeners, rings, HTTP and gRPC connections, logs.
const DESCRIPTORS_KEPT: u64 = 512;

/// What the limit on open files allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// Descriptors this process may open.
    pub limit: u64,
    /// Connections they allow.
    pub connections: usize,
}

impl OpenFiles {
    /// Raises the limit as far as this process may.
    pub fn raise() -> OpenFiles {
        let limit = ring::raise_open_file_limit().after.unwrap_or(u64::MAX);
        let connections = limit.saturating_sub(DESCRIPTORS_KEPT).max(1);
        OpenFiles { limit, connections: usize::try_from(connections).unwrap_or(usize::MAX) }
    }
}

/// A comet that runs.
pub struct Comet {
    /// The front: job's way in.
    pub front: Arc<Front>,
    /// Addresses with TCP clients.
    pub tcp: Vec<SocketAddr>,
    /// Addresses with WebSocket clients.
    pub websocket: Vec<SocketAddr>,
    /// Address of the gRPC port.
    pub rpc: SocketAddr,
    /// The driver that was chosen.
    pub driver: DriverReport,
    /// Number of shards.
    pub shards: usize,
    /// Cores they are pinned to.
    pub cpus: Vec<usize>,
    streams: Streams,
    spread: Duration,
    timeout: Duration,
}

impl Comet {
    /// The counters of a comet with this configuration, so that they can be registered before it starts.
    pub fn metrics(config: &CometConfig) -> Arc<Metrics> {
        Metrics::new(shards(config))
    }

    /// Starts everything. `name` makes this comet's name in the cluster from the address of its gRPC port;
    /// `connections` is what the open-file limit allows; `metrics` are made for it ([`Comet::metrics`]). To be called on
    /// the runtime that the front shall run on.
    pub async fn start(
        config: &CometConfig,
        name: impl FnOnce(SocketAddr) -> ServerId,
        connections: usize,
        logic: Arc<dyn LogicApi>,
        metrics: Arc<Metrics>,
    ) -> Result<Comet, StartError> {
        let address = config.rpc_server.addr.get();
        let failed = |source| StartError::Rpc { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let rpc = listener.local_addr().map_err(failed)?;
        let limit = match config.limits.connections.usize() {
            0 => connections,
            limit => limit.min(connections),
        };
        let Launched { tcp, websocket, driver, cpus, outboxes, inboxes } = launch(config, limit)?;
        let push_max = config.limits.push.usize();
        let client_log = ClientLog::new(config.whitelist.whitelist.iter().copied().map(Mid));
        let front = Front::start(name(rpc), outboxes, inboxes, logic, metrics, client_log, push_max);
        let streams = Streams::default();
        let service = tonic::transport::Server::builder()
            .initial_connection_window_size(RPC_WINDOW)
            .initial_stream_window_size(RPC_WINDOW)
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(3)))
            .add_service(rpc::service(Arc::clone(&front), push_max))
            .add_service(halley_rpc::service(Arc::clone(&front), push_max, streams.clone()));
        tokio::spawn(service.serve_with_incoming(incoming(listener)));
        Ok(Comet {
            front,
            tcp,
            websocket,
            rpc,
            driver,
            shards: shards(config),
            cpus,
            streams,
            spread: config.drain.spread.get(),
            timeout: config.drain.timeout.get(),
        })
    }

    /// What a start says about it, by name.
    pub fn rows(&self, config: &CometConfig, open_files: OpenFiles) -> Vec<(&'static str, String)> {
        let path = &config.websocket.path;
        let websocket: Vec<_> =
            self.websocket.iter().map(|address| format!("ws://{address}{path}")).collect();
        let shards = match self.cpus.as_slice() {
            [] => format!("{}, not pinned", self.shards),
            cpus => format!("{}, pinned to cores {}", self.shards, join(cpus)),
        };
        let OpenFiles { limit, connections } = open_files;
        vec![
            ("clients, TCP", join(&self.tcp)),
            ("clients, WebSocket", websocket.join(", ")),
            ("driver", self.driver.to_string()),
            ("shards", shards),
            ("open files", format!("{limit}, enough for {connections} connections")),
        ]
    }

    /// Closes every client as going away and waits until all are gone and logic knows it. False when some were left
    /// after `drain.timeout`.
    pub async fn drain(&self) -> bool {
        self.front.drain(self.spread, self.timeout).await
    }

    /// Waits, at most so long, until no job has a stream to it: they end them when it has left the registry and has all
    /// that waited for it. False when one stands.
    pub async fn parted(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.streams.ended()).await.is_ok()
    }
}

fn join<T: Display>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}
