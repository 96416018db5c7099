//! Configuration of the all-in-one process: the three services' own, side by side.

use cluster::process::{LogConfig, ProgramConfig};
use comet::config::CometConfig;
use control::config::{JobConfig, LogicConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Everything that can be set about `halley`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct HalleyConfig {
    /// Logs, on standard error.
    pub(crate) log: LogConfig,
    /// comet, the gateway that holds the client connections.
    pub(crate) comet: CometConfig,
    /// logic: logins, sessions, the HTTP API.
    pub(crate) logic: LogicConfig,
    /// job: from the broker to the gateway.
    pub(crate) job: JobConfig,
}

impl ProgramConfig for HalleyConfig {
    fn unused_goim_keys() -> Vec<String> {
        [
            ("comet", CometConfig::UNUSED_GOIM_KEYS),
            ("logic", LogicConfig::UNUSED_GOIM_KEYS),
            ("job", JobConfig::UNUSED_GOIM_KEYS),
            // They call each other without a network.
            ("comet", &["rpcClient.*"]),
            ("logic", &["rpcClient.*"]),
        ]
        .into_iter()
        .flat_map(|(service, keys)| keys.iter().map(move |key| format!("{service}.{key}")))
        .collect()
    }

    fn log(&self) -> &LogConfig {
        &self.log
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_default_parses_back_to_the_default() {
        let text = cluster::config::commented_default::<HalleyConfig>();
        let parsed: HalleyConfig = toml::from_str(&text).expect("the default file is valid");
        assert_eq!(parsed, HalleyConfig::default());
    }

    #[test]
    fn every_key_of_the_printed_default_has_a_comment() {
        let text = cluster::config::commented_default::<HalleyConfig>();
        let mut commented = false;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            assert!(line.starts_with(['#', '[']) || commented, "no comment above {line}");
            commented = line.starts_with('#') || (commented && line.starts_with('['));
        }
    }
}
