//! Configuration of the all-in-one process: the three services' own, side by side.

use comet::config::CometConfig;
use host::process::{LogConfig, ProgramConfig};
use job::config::JobConfig;
use logic::config::LogicConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

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

    fn doubts(&self) -> Vec<String> {
        self.comet.doubts("comet.")
    }

    /// goim's files, one for each service, have the keys without the service's name before them.
    fn hint(key: &str) -> Option<String> {
        if CLUSTER_ONLY.contains(&key) {
            return Some("nothing in one process has a use for it".to_owned());
        }
        let default = Table::try_from(HalleyConfig::default()).ok()?;
        let services = default.iter().filter(|(_, section)| section.get(key).is_some());
        let keys: Vec<String> = services.map(|(service, _)| format!("{service}.{key}")).collect();
        (!keys.is_empty()).then(|| format!("did you mean {}?", keys.join(" or ")))
    }

    const ADVICE: &str =
        "goim's files have a service each: halley --import comet.toml logic.toml job.toml >halley.toml";
}

/// Sections by which the programs of a cluster find each other and their broker.
pub(crate) const CLUSTER_ONLY: [&str; 4] = ["discovery", "consume", "kafka", "rpcClient"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_default_parses_back_to_the_default() {
        let text = config::commented_default::<HalleyConfig>();
        let parsed: HalleyConfig = toml::from_str(&text).expect("the default file is valid");
        assert_eq!(parsed, HalleyConfig::default());
    }

    #[test]
    fn a_key_of_goim_s_files_is_told_where_it_belongs() {
        for (key, hint) in [
            ("httpServer", Some("did you mean logic.httpServer?")),
            ("rpcServer", Some("did you mean comet.rpcServer or logic.rpcServer?")),
            ("regions", Some("did you mean logic.regions?")),
            ("room", Some("did you mean job.room?")),
            ("discovery", Some("nothing in one process has a use for it")),
            ("commet", None),
            ("comet.bind", None),
        ] {
            assert_eq!(HalleyConfig::hint(key).as_deref(), hint, "{key}");
        }
    }

    #[test]
    fn every_key_of_the_printed_default_has_a_comment() {
        let text = config::commented_default::<HalleyConfig>();
        let mut commented = false;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            assert!(line.starts_with(['#', '[']) || commented, "no comment above {line}");
            commented = line.starts_with('#') || (commented && line.starts_with('['));
        }
    }
}
