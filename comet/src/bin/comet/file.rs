//! The file of the program `comet`: the gateway's own sections, and how it finds the others.

use config::{ConfigError, Parts};
use halley_comet::config::CometConfig;
use host::{
    admin::AdminConfig,
    process::{LogConfig, ProgramConfig, RpcClientConfig},
};
use registry::etcd::DiscoveryConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// The gateway of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub(crate) struct CometFile {
    #[serde(flatten)]
    pub(crate) cluster: ClusterConfig,
    #[serde(flatten)]
    pub(crate) comet: CometConfig,
}

impl<'de> Deserialize<'de> for CometFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut parts = Parts::of(deserializer)?;
        let file = CometFile { cluster: parts.read()?, comet: parts.read()? };
        parts.end().map(|()| file)
    }
}

/// How the gateway finds the others of its cluster, and is found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ClusterConfig {
    /// Logs, on standard error.
    pub(crate) log: LogConfig,
    /// Metrics and health.
    pub(crate) admin: AdminConfig,
    /// What strangers may do. Without this section the program starts as goim does, whoever can reach it, and warns.
    #[serde(default)]
    pub(crate) auth: Option<StrangersConfig>,
    /// etcd, where comets and logics find each other.
    pub(crate) discovery: DiscoveryConfig,
    /// Calls of logics.
    pub(crate) rpc_client: RpcClientConfig,
}

/// What strangers may do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct StrangersConfig {
    /// Start although anybody who reaches rpcServer.addr, which is not loopback, could push to everybody. Warned about at
    /// every start. Who may log in is decided by logic.
    pub(crate) allow_insecure: bool,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        ClusterConfig {
            log: LogConfig::default(),
            admin: AdminConfig::loopback(3110),
            auth: Some(StrangersConfig::default()),
            discovery: DiscoveryConfig::default(),
            rpc_client: RpcClientConfig::default(),
        }
    }
}

impl ProgramConfig for CometFile {
    fn unused_goim_keys() -> Vec<String> {
        CometConfig::UNUSED_GOIM_KEYS.iter().copied().chain(["rpcClient.dial"]).map(str::to_owned).collect()
    }

    fn log(&self) -> &LogConfig {
        &self.cluster.log
    }

    fn doubts(&self) -> Vec<String> {
        self.comet.doubts("")
    }

    fn without_a_file(&mut self) {
        self.cluster.auth = self.cluster.auth.take().or(ClusterConfig::default().auth);
    }
}

impl CometFile {
    /// What strangers could do, in a sentence for the log; none when nobody else reaches this comet.
    ///
    /// # Errors
    /// They could do something, and nothing allows it.
    pub(crate) fn exposure(&self) -> Result<Option<String>, ConfigError> {
        let addr = self.comet.rpc_server.addr;
        let danger = "anybody who reaches it could push to everybody";
        match &self.cluster.auth {
            _ if addr.is_loopback() || self.comet.tls.services.is_set() => Ok(None),
            Some(StrangersConfig { allow_insecure: false }) => {
                let reason = format!(
                    "is not loopback, and {danger}: give the parts of the cluster certificates (tls.ca, tls.cert, tls.key), \
                     or bind it to a private address and set auth.allowInsecure = true"
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
        let certified = exposure(&["rpcServer.addr=:3109", "auth.allowInsecure=false", "tls.ca=ca.pem"]);
        assert_eq!(certified, Ok(None));
    }
}
