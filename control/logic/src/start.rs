//! Runs logic: binds, serves, drains.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use broker::Broker;
use config::Addrs;
use futures_util::TryStreamExt as _;
use host::{
    accept::{incoming, listen},
    http as http_server,
    http::{Guard, HttpLimits, IDLE_TIMEOUT},
    process::hostname,
    shutdown::Drain,
};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tonic::transport::Server;
use tracing::warn;

use super::{HalleyRpc, Logic, LogicDeps, RpcLogic, authority::ValidAuthority, http, tls::Started};
use crate::config::{AuthMode, LimitsConfig, LogicConfig};

/// logic probes a silent comet this often. If the comet does not answer within 20 s, logic closes the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long the gRPC server may take to end after the HTTP server. Its calls are shorter than that, but a peer may be
/// dead.
const RPC_END_MAX: Duration = Duration::from_secs(2);

/// logic at work.
pub struct LogicServer {
    logic: Arc<Logic>,
    http_addrs: Vec<SocketAddr>,
    https_addrs: Vec<SocketAddr>,
    rpc_addrs: Vec<SocketAddr>,
    task: JoinHandle<()>,
}

/// logic cannot listen on this address. It does not try again: the process ends and names the address.
#[derive(Debug, thiserror::Error)]
#[error("{key} = {addr} cannot be listened on: {error}")]
pub struct StartError {
    /// The configuration key, without the name of logic's section.
    pub key: &'static str,
    /// The address.
    pub addr: SocketAddr,
    /// What the system said.
    pub error: io::Error,
}

/// Binds logic's addresses and starts to serve on them, with `tls` where it says so. `extra` are further routes on the addresses of the API: metrics
/// and health.
///
/// When the drain begins, logic takes no more requests, answers those under way, and closes the broker for publishing.
///
/// # Errors
/// [`StartError`]; then nothing was started.
pub async fn start(
    config: &LogicConfig,
    limits: &LimitsConfig,
    deps: LogicDeps,
    extra: Router,
    drain: Drain,
    tls: Started,
) -> Result<LogicServer, StartError> {
    let http_listeners = bind("httpServer.addr", &config.http_server.addr)?;
    let https_listeners = match &tls.https {
        Some(_) => bind("httpServer.tlsBind", &config.http_server.tls_bind)?,
        None => Vec::new(),
    };
    let rpc_listeners = bind("rpcServer.addr", &config.rpc_server.addr)?;
    let (http_addrs, rpc_addrs) = (addrs(&http_listeners), addrs(&rpc_listeners));
    let https_addrs = addrs(&https_listeners);

    let broker = Arc::clone(&deps.broker);
    let logic = Arc::new(Logic::new(config, deps));
    logic.follow_counts();
    let router = http::router(Arc::clone(&logic), config, limits).merge(extra);
    let http_limits = HttpLimits {
        read_timeout: config.http_server.read_timeout.get(),
        write_timeout: config.http_server.write_timeout.get(),
        idle_timeout: IDLE_TIMEOUT,
        connections: limits.http_connections.usize(),
    };
    let guard = match config.push.tokens.is_empty() {
        true => Guard::pages([hostname(), config.node.default_domain.to_string()]),
        false => Guard::Token,
    };
    let clear = http_listeners.into_iter().map(|listener| (listener, None));
    let secured = https_listeners.into_iter().map(|listener| (listener, tls.https.clone()));
    let http_listeners = clear.chain(secured).collect();
    let http = tokio::spawn(http_server::serve(http_listeners, router, guard, http_limits, drain.clone()));
    let mut rpc = Vec::new();
    for listener in rpc_listeners {
        let server = Server::builder()
            .timeout(config.rpc_server.timeout.get())
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .add_service(RpcLogic::service(Arc::clone(&logic)))
            .add_service(HalleyRpc::service(Arc::clone(&logic)));
        let (drain, services) = (drain.clone(), tls.services.clone());
        rpc.push(tokio::spawn(async move {
            let connections = incoming(listener, services).map_ok(ValidAuthority::new);
            let served =
                server.serve_with_incoming_shutdown(connections, async move { drain.draining().await });
            if let Err(error) = served.await {
                warn!("the gRPC server of logic ended: {error}");
            }
        }));
    }
    let task = tokio::spawn(drained(http, rpc, broker));
    Ok(LogicServer { logic, http_addrs, https_addrs, rpc_addrs, task })
}

/// Closes the broker after the HTTP server has ended, since pushes come in only there.
async fn drained(http: JoinHandle<()>, rpc: Vec<JoinHandle<()>>, broker: Arc<dyn Broker>) {
    // Nobody cancels the tasks, and a panic in one ends the process.
    let _ = http.await;
    broker.close().await;
    for server in rpc {
        let _ = timeout(RPC_END_MAX, server).await;
    }
}

impl LogicServer {
    /// The service, for a comet in this process.
    pub fn logic(&self) -> Arc<Logic> {
        Arc::clone(&self.logic)
    }

    /// Addresses of the HTTP API, with the ports that the system chose.
    pub fn http_addrs(&self) -> &[SocketAddr] {
        &self.http_addrs
    }

    /// Addresses of the same over HTTPS.
    pub fn https_addrs(&self) -> &[SocketAddr] {
        &self.https_addrs
    }

    /// Addresses of the gRPC service, with the ports that the system chose.
    pub fn rpc_addrs(&self) -> &[SocketAddr] {
        &self.rpc_addrs
    }

    /// Rows for the banner of a starting process: the HTTP API, gRPC, logins, the push API.
    pub fn rows(&self, config: &LogicConfig) -> [(&'static str, String); 4] {
        let http: Vec<String> = self.http_addrs.iter().map(|address| format!("http://{address}")).collect();
        let rpc: Vec<String> = self.rpc_addrs.iter().map(ToString::to_string).collect();
        let login = match config.auth_mode() {
            AuthMode::Trust => "trust: clients say who they are",
        };
        let push = match config.push.tokens.is_empty() {
            false => "needs a bearer token",
            true => "open to whoever reaches it",
        };
        [
            ("HTTP API", http.join(", ")),
            ("gRPC", rpc.join(", ")),
            ("login", login.to_owned()),
            ("push API", push.to_owned()),
        ]
    }

    /// One more row: the same API over HTTPS; none: there is no such port.
    pub fn https_row(&self) -> Option<(&'static str, String)> {
        let https: Vec<String> =
            self.https_addrs.iter().map(|address| format!("https://{address}")).collect();
        (!https.is_empty()).then(|| ("HTTPS API", https.join(", ")))
    }

    /// Waits until logic has ended. That is when the drain has begun and every request is answered. The service still
    /// answers a comet in this process, but publishes nothing any more.
    pub async fn stopped(self) {
        // Nobody cancels the task, and a panic in it ends the process.
        let _ = self.task.await;
    }
}

fn bind(key: &'static str, addrs: &Addrs) -> Result<Vec<TcpListener>, StartError> {
    let mut listeners = Vec::new();
    for addr in addrs.iter().copied() {
        let listener = listen(addr).map_err(|error| StartError { key, addr, error })?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn addrs(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
}
