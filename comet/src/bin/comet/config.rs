//! What can be set about the program `comet`: the gateway's own sections, and how it finds the others.

use config::{Addrs, ConfigError};
use halley_comet::config::{
    BatchConfig, CometConfig, DrainConfig, LimitsConfig, ProtocolConfig, ReactorConfig, RpcServerConfig,
    TcpConfig, WebSocketConfig, WhitelistConfig,
};
use host::process::{LogConfig, ProgramConfig, RpcClientConfig};
use registry::etcd::DiscoveryConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The gateway of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct CometFile {
    /// Logs, on standard error.
    pub(crate) log: LogConfig,
    /// Metrics and health.
    pub(crate) admin: AdminConfig,
    /// What strangers may do. Without this section the program starts as goim does, whoever can reach it, and warns.
    #[serde(default)]
    pub(crate) auth: Option<AuthConfig>,
    /// etcd, where comets and logics find each other.
    pub(crate) discovery: DiscoveryConfig,
    /// Clients that speak bare goim frames.
    pub(crate) tcp: TcpConfig,
    /// Clients that speak goim frames in WebSocket messages.
    pub(crate) websocket: WebSocketConfig,
    /// The client wire.
    pub(crate) protocol: ProtocolConfig,
    /// Users that the log names.
    pub(crate) whitelist: WhitelistConfig,
    /// gRPC goim.comet.Comet, called by job. It has no login of its own: leave it on a private address.
    pub(crate) rpc_server: RpcServerConfig,
    /// Calls of logics.
    pub(crate) rpc_client: RpcClientConfig,
    /// What one client, and all of them, may cost.
    pub(crate) limits: LimitsConfig,
    /// When pushes that wait for a connection are written.
    pub(crate) batch: BatchConfig,
    /// The threads that hold the connections.
    pub(crate) reactor: ReactorConfig,
    /// How the gateway leaves.
    pub(crate) drain: DrainConfig,
}

/// Metrics and health.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct AdminConfig {
    /// Addresses of /metrics, /healthz and /readyz. Nobody is asked for a token there.
    pub(crate) addr: Addrs,
}

/// What strangers may do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct AuthConfig {
    /// Start although anybody who reaches rpcServer.addr, which is not loopback, could push to everybody. Warned about at
    /// every start. Who may log in is decided by logic.
    pub(crate) allow_insecure: bool,
}

impl Default for CometFile {
    fn default() -> Self {
        let CometConfig { tcp, websocket, protocol, whitelist, rpc_server, limits, batch, reactor, drain } =
            CometConfig::default();
        CometFile {
            log: LogConfig::default(),
            admin: AdminConfig::default(),
            auth: Some(AuthConfig::default()),
            discovery: DiscoveryConfig::default(),
            tcp,
            websocket,
            protocol,
            whitelist,
            rpc_server,
            rpc_client: RpcClientConfig::default(),
            limits,
            batch,
            reactor,
            drain,
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        AdminConfig { addr: Addrs::loopback(3110) }
    }
}

impl ProgramConfig for CometFile {
    fn unused_goim_keys() -> Vec<String> {
        CometConfig::UNUSED_GOIM_KEYS.iter().copied().chain(["rpcClient.dial"]).map(str::to_owned).collect()
    }

    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn doubts(&self) -> Vec<String> {
        self.comet().doubts("")
    }
}

impl CometFile {
    /// The gateway's own sections.
    pub(crate) fn comet(&self) -> CometConfig {
        CometConfig {
            tcp: self.tcp.clone(),
            websocket: self.websocket.clone(),
            protocol: self.protocol.clone(),
            whitelist: self.whitelist.clone(),
            rpc_server: self.rpc_server.clone(),
            limits: self.limits.clone(),
            batch: self.batch.clone(),
            reactor: self.reactor.clone(),
            drain: self.drain.clone(),
        }
    }

    /// Where there is no file, nothing that it does not say is goim's.
    pub(crate) fn without_a_file(&mut self) {
        self.auth = self.auth.take().or(CometFile::default().auth);
    }

    /// What strangers could do, in a sentence for the log; none when nobody else reaches this comet.
    ///
    /// # Errors
    /// They could do something, and nothing allows it.
    pub(crate) fn exposure(&self) -> Result<Option<String>, ConfigError> {
        let addr = self.rpc_server.addr;
        let danger = "anybody who reaches it could push to everybody";
        match &self.auth {
            _ if addr.is_loopback() => Ok(None),
            Some(AuthConfig { allow_insecure: false }) => {
                let reason = format!(
                    "is not loopback, and {danger}: bind it to a private address and set auth.allowInsecure = true"
                );
                Err(ConfigError::value("rpcServer.addr", addr, reason))
            }
            _ => Ok(Some(format!("rpcServer.addr = {addr}: {danger}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use config::{commented_default, load};

    use super::*;

    #[test]
    fn the_printed_default_reads_as_the_default() {
        let text = commented_default::<CometFile>();
        let parsed: CometFile = toml::from_str(&text).expect("the default file is valid");
        assert_eq!(parsed, CometFile::default());
    }

    fn exposure(sets: &[&str]) -> Result<Option<String>, String> {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let file: CometFile = load(None, &sets, &[]).expect("a readable configuration").config;
        file.exposure().map_err(|error| error.to_string())
    }

    #[test]
    fn strangers_are_kept_out_where_the_file_speaks_of_them_and_warned_of_elsewhere() {
        assert_eq!(exposure(&["auth.allowInsecure=false"]), Ok(None));
        let goim = exposure(&["rpcServer.addr=:3109"]).unwrap().unwrap();
        assert!(goim.starts_with("rpcServer.addr = [::]:3109: anybody"), "{goim}");
        let refused = exposure(&["rpcServer.addr=:3109", "auth.allowInsecure=false"]).unwrap_err();
        assert!(refused.starts_with("rpcServer.addr") && refused.contains("auth.allowInsecure = true"));
        assert!(exposure(&["rpcServer.addr=:3109", "auth.allowInsecure=true"]).unwrap().is_some());
    }
}
