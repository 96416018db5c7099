//! The file of `halley`: the three services' own sections, and what they work with in one process.

use broker::MemoryLimitsConfig;
use comet::{config::CometConfig, tls::ClientTls};
use config::{Addrs, ConfigError, Listener, Mistakes, Parts, shared_ports};
use host::{
    process::{LogConfig, ProgramConfig},
    tls::MutualRead,
};
use job::config::JobConfig;
use logic::{
    config::{Expire, Exposure, LimitsConfig, LogicConfig},
    tls::LogicTls,
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
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
    pub(crate) logic: LogicSection,
    /// job: from the broker to the gateway.
    pub(crate) job: JobConfig,
}

/// logic's own sections, and what it works with in memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub(crate) struct LogicSection {
    #[serde(flatten)]
    pub(crate) own: LogicConfig,
    #[serde(flatten)]
    pub(crate) memory: MemoryConfig,
}

impl<'de> Deserialize<'de> for LogicSection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut parts = Parts::of(deserializer)?;
        let section = LogicSection { own: parts.read()?, memory: parts.read()? };
        parts.end().map(|()| section)
    }
}

/// What logic works with in memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct MemoryConfig {
    /// Bounds of what logic holds and takes.
    pub(crate) limits: MemoryLimits,
    /// Sessions. They are in memory; the section has goim's name.
    pub(crate) redis: SessionsConfig,
}

/// Bounds of what logic takes, and of the broker behind it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub(crate) struct MemoryLimits {
    #[serde(flatten)]
    pub(crate) logic: LimitsConfig,
    #[serde(flatten)]
    pub(crate) broker: MemoryLimitsConfig,
}

impl<'de> Deserialize<'de> for MemoryLimits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut parts = Parts::of(deserializer)?;
        let limits = MemoryLimits { logic: parts.read()?, broker: parts.read()? };
        parts.end().map(|()| limits)
    }
}

/// Sessions in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct SessionsConfig {
    /// How long a session lives that its comet does not renew; goim's. Comets renew well inside it. More than
    /// `node.heartbeat` times `node.heartbeatMax`.
    pub(crate) expire: Expire,
}

impl Default for SessionsConfig {
    fn default() -> Self {
        SessionsConfig { expire: Expire::secs::<1800>() }
    }
}

/// What the checks find out before a port is bound.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) exposure: Exposure,
    pub(crate) clients: ClientTls,
    /// Of comet's gRPC.
    pub(crate) services: Option<MutualRead>,
    pub(crate) logic: LogicTls,
}

impl HalleyConfig {
    /// Checks everything that can be checked before a port is bound, beyond single keys.
    ///
    /// # Errors
    /// All that is wrong.
    pub(crate) fn check(&mut self) -> Result<Checked, Vec<ConfigError>> {
        let HalleyConfig { comet, logic, .. } = self;
        // A file without the section keeps strangers out: goim has no such program.
        logic.own.auth.get_or_insert_default();
        let mut mistakes = Mistakes::default();
        let clients_tls = mistakes.all(ClientTls::load(comet, "comet."));
        let services = mistakes.all(comet.tls.services.read("comet."));
        let tls = mistakes.all(LogicTls::load(&logic.own, "logic."));
        let mut wrong = comet.check("comet.");
        wrong.extend(mistakes.errors());
        wrong.extend(logic.own.check("logic.", logic.memory.redis.expire));
        wrong.extend(check_across(comet, logic));
        // An address of its own kind: logins of job's calls do not exist, so the port is judged like a client's.
        let rpc = Addrs::from(comet.rpc_server.addr);
        let clients = comet.client_addrs().into_iter().chain([("rpcServer.addr", &rpc)]);
        let clients: Vec<(String, &Addrs)> =
            clients.map(|(key, addrs)| (format!("comet.{key}"), addrs)).collect();
        let clients: Vec<Listener<'_>> = clients.iter().map(|(key, addrs)| Listener { key, addrs }).collect();
        let backends = logic.own.listeners().map(|(key, addrs)| (format!("logic.{key}"), addrs));
        let backends: Vec<(String, &Addrs)> = backends.collect();
        let backends: Vec<Listener<'_>> =
            backends.iter().map(|(key, addrs)| Listener { key, addrs }).collect();
        wrong.extend(shared_ports(&[&clients[..], &backends].concat()));
        // Whom the authority has certified is no stranger to gRPC.
        let certified = comet.tls.services.is_set();
        let strangers: Vec<Listener<'_>> = clients
            .iter()
            .copied()
            .filter(|listener| !certified || listener.key != "comet.rpcServer.addr")
            .collect();
        let exposure = logic.own.check_exposure("logic.", &strangers).map_err(|open| wrong.extend(open)).ok();
        match (exposure, clients_tls, services, tls) {
            (Some(exposure), Some(clients), Some(services), Some(logic)) if wrong.is_empty() => {
                Ok(Checked { exposure, clients, services, logic })
            }
            _ => Err(wrong),
        }
    }
}

/// Checks what concerns keys of more than one service, or of one and the memory it works with.
fn check_across(comet: &CometConfig, logic: &LogicSection) -> Vec<ConfigError> {
    let mut wrong = Vec::new();
    let LogicSection { own: LogicConfig { push, node, .. }, memory } = logic;
    if push.max_body.get() > comet.limits.push.get() {
        let reason = format!(
            "above comet.limits.push = {}: accepted pushes could not be delivered",
            comet.limits.push
        );
        wrong.push(ConfigError::value("logic.push.maxBody", push.max_body, reason));
    }
    let broker_bytes = memory.limits.broker.broker_bytes;
    if broker_bytes.get() < 4 * push.max_body.get() {
        let reason = format!("below four times logic.push.maxBody = {}", push.max_body);
        wrong.push(ConfigError::value("logic.limits.brokerBytes", broker_bytes, reason));
    }
    let (renew, expire) = (comet.protocol.renew_interval, memory.redis.expire);
    // A client may be silent for so long just before it is due.
    let gap = renew.get() + node.heartbeat_deadline();
    // Where the silence alone is too long, logic's own check says so.
    let is_told = node.heartbeat_deadline() >= expire.get();
    if renew.get() > expire.get() / 2 || (gap >= expire.get() && !is_told) {
        let reason = format!(
            "above half of logic.redis.expire = {expire}, or not below it together with logic.node.heartbeat × \
             heartbeatMax = {} × {}: sessions would expire under living clients",
            node.heartbeat, node.heartbeat_max
        );
        wrong.push(ConfigError::value("comet.protocol.renewInterval", renew, reason));
    }
    wrong
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
    fn keys_of_several_owners_at_odds_are_refused_by_name() {
        for (set, key) in [
            ("logic.redis.expire=90s", "logic.redis.expire"),
            ("logic.limits.brokerBytes=3MiB", "logic.limits.brokerBytes"),
            ("comet.limits.push=512KiB", "logic.push.maxBody"),
            ("comet.protocol.renewInterval=10m", "comet.protocol.renewInterval"),
        ] {
            let mut config: HalleyConfig = config::load(None, &[set.to_owned()], &[]).unwrap().config;
            config.logic.memory.redis.expire =
                if set.contains("renew") { Expire::secs::<1000>() } else { config.logic.memory.redis.expire };
            let wrong = config.check().unwrap_err();
            assert!(wrong.iter().any(|error| error.key() == Some(key)), "{set}: {wrong:?}");
        }
    }

    #[test]
    fn a_file_without_the_section_auth_keeps_strangers_out() {
        let sets = ["logic.httpServer.addr=:3111".to_owned()];
        let mut config: HalleyConfig = config::load(None, &sets, &[]).unwrap().config;
        assert_eq!(config.check().unwrap_err()[0].key(), Some("logic.httpServer.addr"));
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
