//! What logic can be told, with goim's key names.
//!
//! A key is here when it does something. Keys of goim that name its own internals are listed in `UNUSED_GOIM_KEYS`, so
//! that a goim file that has them still loads.

use std::{collections::BTreeMap, fmt, time::Duration};

pub use config::Listener;
use config::{Addrs, Bounded, BoundedDuration, ByteSize, ConfigError, SecretList, StringList};
use host::tls::MutualConfig;
use proto::network::Network;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// From 100 ms to 10 min.
type Timeout = BoundedDuration<100, 600_000>;

/// How long a session lives that its comet does not renew.
pub type Expire = BoundedDuration<10_000, 604_800_000>;

/// logic's own sections, wherever it runs: logins, the APIs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LogicConfig {
    /// What happens to an operation 4 of a client.
    pub client_messages: ClientMessages,
    /// The HTTP API: pushes, online counts, nodes, metrics.
    pub http_server: HttpServerConfig,
    /// The gRPC service `goim.logic.Logic`, which comets call.
    pub rpc_server: RpcServerConfig,
    /// TLS of gRPC, with the comets of the cluster.
    pub tls: MutualConfig,
    /// Who may log in, and how that is decided. A file of goim's has no such section: with it the program `logic` starts as
    /// goim does, whoever can reach it, and warns.
    #[serde(default)]
    pub auth: Option<AuthConfig>,
    /// The push API.
    pub push: PushConfig,
    /// What clients are told about where and how to connect.
    pub node: NodeConfig,
    /// What clients are told about how long to wait between attempts to connect.
    pub backoff: BackoffConfig,
    /// Networks of each region, such as `sh = ["10.1.0.0/16"]`: a client from one of them is sent to comets of that
    /// region first (`node.regionWeight`). goim lists provinces here, for which it has no address table either: what is
    /// no network matches nobody.
    pub regions: BTreeMap<String, StringList>,
}

impl Default for LogicConfig {
    fn default() -> Self {
        LogicConfig {
            client_messages: ClientMessages::default(),
            http_server: HttpServerConfig::default(),
            rpc_server: RpcServerConfig::default(),
            tls: MutualConfig::default(),
            auth: Some(AuthConfig::default()),
            push: PushConfig::default(),
            node: NodeConfig::default(),
            backoff: BackoffConfig::default(),
            regions: BTreeMap::new(),
        }
    }
}

/// What logic does with an operation 4 of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClientMessages {
    /// Every member of the sender's room gets it, on all comets, the sender included.
    #[default]
    Room,
    /// Answered with an empty body, and nobody gets it.
    Refuse,
}

/// The HTTP API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpServerConfig {
    /// Addresses of the HTTP API. On one that is not loopback a push API without a token is refused, see `auth.allowInsecure`.
    pub addr: Addrs,
    /// Listen for HTTPS too, on `tlsBind`.
    pub tls_open: bool,
    /// Addresses of HTTPS; what is said of `addr` holds for them.
    pub tls_bind: Addrs,
    /// Files of the certificates, PEM: first the server's, behind it those that lead to its authority. A client gets the
    /// first that is for the host it names. SIGHUP reads them anew.
    pub cert_file: StringList,
    /// Files of their private keys, PEM, in the same order.
    pub private_file: StringList,
    /// Longest time for the head of a request that has begun to arrive, and again for its body (goim's example has 1 s: too
    /// short for 1 MiB over a slow line). An idle connection stays for 650 s, longer than proxies and clients keep theirs.
    pub read_timeout: Timeout,
    /// Longest time the other side may take nothing of an answer.
    pub write_timeout: Timeout,
}

impl Default for HttpServerConfig {
    fn default() -> Self {
        HttpServerConfig {
            addr: Addrs::loopback(3111),
            tls_open: false,
            tls_bind: Addrs::loopback(3113),
            cert_file: StringList::default(),
            private_file: StringList::default(),
            read_timeout: Timeout::millis::<30_000>(),
            write_timeout: Timeout::millis::<30_000>(),
        }
    }
}

/// The gRPC service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RpcServerConfig {
    /// Addresses of the gRPC service. Without `tls` whoever reaches it can log in as anybody: on an address that is not
    /// loopback `trust` logins are refused then, see `auth.allowInsecure`.
    pub addr: Addrs,
    /// Longest time for one call; goim's.
    pub timeout: Timeout,
}

impl Default for RpcServerConfig {
    fn default() -> Self {
        RpcServerConfig { addr: Addrs::loopback(3119), timeout: Timeout::millis::<1000>() }
    }
}

/// Logins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AuthConfig {
    /// How a login is decided.
    pub mode: AuthMode,
    /// Start although anybody who reaches an address can log in as anybody, or push to everybody. Warned about at every
    /// start.
    pub allow_insecure: bool,
}

/// How a login is decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AuthMode {
    /// goim's own: the client says who it is and is believed.
    #[default]
    Trust,
}

/// The push API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct PushConfig {
    /// Tokens of which a request to the HTTP API must carry one, as `Authorization: Bearer <token>`. None: the API is
    /// open, which only a loopback address may be. Each is at least one printable ASCII character, without spaces.
    pub tokens: SecretList,
    /// Longest message, bytes; a longer one is answered with 413. Every receiver's queue in comet must take it whole.
    pub max_body: ByteSize<1, { 16 << 20 }>,
}

impl Default for PushConfig {
    fn default() -> Self {
        PushConfig { tokens: SecretList::default(), max_body: ByteSize::mib::<1>() }
    }
}

/// Bounds of what logic takes, wherever it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LimitsConfig {
    /// Pushes a second over the HTTP API; more are answered with 429. One second's worth may come at once. 0 = no limit.
    pub push_rate: Bounded<0, 1_000_000>,
    /// Connections to the HTTP API. Beyond them the oldest idle ones are closed; when all are busy, a request waits up to a
    /// second and is answered with 503, probes at once.
    pub http_connections: Bounded<1, 65_535>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig { push_rate: Bounded::of::<0>(), http_connections: Bounded::of::<1024>() }
    }
}

/// What clients are told about where and how to connect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeConfig {
    /// Host for clients when no comet is known, and `domain` in the answer.
    pub default_domain: String,
    /// What is put behind the host name of a comet for browsers, such as `.example.com`.
    pub host_domain: String,
    /// Time between two heartbeats of a client; goim's, by whose clock clients in the field beat.
    pub heartbeat: BoundedDuration<1000, 3_600_000>,
    /// Heartbeats a client may miss before it is closed.
    pub heartbeat_max: Bounded<1, 100>,
    /// Port clients use for TCP.
    pub tcp_port: Bounded<1, 65_535>,
    /// Port clients use for WebSocket.
    pub ws_port: Bounded<1, 65_535>,
    /// Port clients use for WebSocket over TLS.
    pub wss_port: Bounded<1, 65_535>,
    /// How much more often a comet of the client's own region is chosen, 1 to 1000; goim's.
    pub region_weight: f64,
}

impl Default for NodeConfig {
    fn default() -> Self {
        NodeConfig {
            default_domain: "localhost".to_owned(),
            host_domain: String::new(),
            heartbeat: BoundedDuration::millis::<240_000>(),
            heartbeat_max: Bounded::of::<2>(),
            tcp_port: Bounded::of::<3101>(),
            ws_port: Bounded::of::<3102>(),
            wss_port: Bounded::of::<3103>(),
            region_weight: 1.6,
        }
    }
}

impl NodeConfig {
    /// Silence after which a client is closed.
    pub fn heartbeat_deadline(&self) -> Duration {
        self.heartbeat.get() * self.heartbeat_max.u32()
    }
}

/// How long clients are told to wait between attempts to connect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BackoffConfig {
    /// Longest wait, seconds.
    pub max_delay: Bounded<1, 86_400>,
    /// First wait, seconds.
    pub base_delay: Bounded<1, 86_400>,
    /// Growth from one wait to the next, 1 to 100.
    pub factor: f64,
    /// Random share of each wait, 0 to 1.
    pub jitter: f64,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        BackoffConfig {
            max_delay: Bounded::of::<300>(),
            base_delay: Bounded::of::<3>(),
            factor: 1.8,
            jitter: 0.3,
        }
    }
}

/// Who can reach what without saying who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Only this machine, or nobody without a token.
    Closed,
    /// Others too, because `auth.allowInsecure` says so: one sentence for each, for the log.
    Insecure(Vec<String>),
}

impl LogicConfig {
    /// Keys of goim's logic that name its own internals.
    pub const UNUSED_GOIM_KEYS: &[&str] = &[
        "httpServer.network",
        "rpcServer.network",
        "redis.network",
        "redis.active",
        "redis.idle",
        "redis.idleTimeout",
    ];

    /// The keys of its addresses and what they say, those of HTTPS if there is such a port.
    pub fn listeners(&self) -> impl Iterator<Item = (&'static str, &Addrs)> {
        let HttpServerConfig { addr, tls_open, tls_bind, .. } = &self.http_server;
        let https = tls_open.then_some(("httpServer.tlsBind", tls_bind));
        [("httpServer.addr", addr), ("rpcServer.addr", &self.rpc_server.addr)].into_iter().chain(https)
    }

    /// Checks what concerns several keys, or more than a type can say, and gives all that is wrong. The keys stand in
    /// `section` (`logic.`, or nothing), by which an error names them. `expire` is `redis.expire` there.
    pub fn check(&self, section: &str, expire: Expire) -> Vec<ConfigError> {
        let mut wrong = Vec::new();
        let mut error = |key: &str, value: &dyn fmt::Display, reason: &str| {
            wrong.push(ConfigError::value(format!("{section}{key}"), value, reason));
        };
        let LogicConfig { push, node, backoff, regions, .. } = self;
        for (key, addrs) in self.listeners() {
            if addrs.is_empty() {
                error(key, &"[]", "must have at least one address");
            }
        }
        if push.tokens.iter().any(|token| !is_token(token.get())) {
            let reason = "each must be at least one printable ASCII character, without spaces";
            error("push.tokens", &"(hidden)", reason);
        }
        if node.heartbeat_deadline() >= expire.get() {
            let reason = format!(
                "not above {section}node.heartbeat × heartbeatMax = {} × {}: sessions would expire under living clients",
                node.heartbeat, node.heartbeat_max
            );
            error("redis.expire", &expire, &reason);
        }
        for (key, value, range) in [
            ("node.regionWeight", node.region_weight, 1.0..=1000.0),
            ("backoff.factor", backoff.factor, 1.0..=100.0),
            ("backoff.jitter", backoff.jitter, 0.0..=1.0),
        ] {
            if !range.contains(&value) {
                let reason = format!("must be {} to {}", range.start(), range.end());
                error(key, &value, &reason);
            }
        }
        // goim's provinces match nobody; a network that is mistyped would do so in silence.
        for (region, networks) in regions {
            for network in networks.iter().filter(|network| is_mistyped_network(network)) {
                let reason =
                    "no network: write an address and its length, such as 10.1.0.0/16, or an address";
                error(&format!("regions.{region}"), &format_args!("{network:?}"), reason);
            }
        }
        wrong
    }

    /// Refuses `trust` logins, and a push API without a token, where others than this machine can reach them.
    ///
    /// `clients` are the addresses on which clients log in: comet's, when it is in this process. `section` as for
    /// [`check`](LogicConfig::check).
    ///
    /// # Errors
    /// The addresses that are open to strangers, unless `auth.allowInsecure` is set, or there is no section `auth`.
    pub fn check_exposure(
        &self,
        section: &str,
        clients: &[Listener<'_>],
    ) -> Result<Exposure, Vec<ConfigError>> {
        let own = self.listeners().map(|(key, addrs)| (format!("{section}{key}"), addrs));
        let own: Vec<(String, &Addrs)> = own.collect();
        let own = || own.iter().map(|(key, addrs)| Listener { key, addrs });
        let mut open = Vec::new();
        if self.push.tokens.is_empty() {
            let push = own().filter(|listener| listener.key.contains("httpServer"));
            for listener in push.filter(|listener| !listener.addrs.is_loopback()) {
                let danger = "anybody who reaches it could push to everybody".to_owned();
                open.push((listener, danger, format!("set {section}push.tokens")));
            }
        }
        if self.auth_mode() == AuthMode::Trust {
            // Whom the cluster's authority has certified is no stranger.
            let rpc = own().filter(|listener| listener.key.contains("rpcServer") && !self.tls.is_set());
            for listener in
                rpc.chain(clients.iter().copied()).filter(|listener| !listener.addrs.is_loopback())
            {
                let danger = format!(
                    "with {section}auth.mode = \"trust\" anybody who reaches it could log in as anybody"
                );
                let remedy = match listener.key.ends_with("rpcServer.addr") {
                    true => "give the parts of the cluster certificates (tls.ca, tls.cert, tls.key)",
                    false => "verify logins",
                };
                open.push((listener, danger, remedy.to_owned()));
            }
        }
        if open.is_empty() {
            return Ok(Exposure::Closed);
        }
        let addrs = |listener: &Listener<'_>| {
            listener.addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        if self.auth.as_ref().is_none_or(|auth| auth.allow_insecure) {
            let sentence = |(listener, danger, _): &(Listener<'_>, String, String)| {
                format!("{} = {}: {danger}", listener.key, addrs(listener))
            };
            return Ok(Exposure::Insecure(open.iter().map(sentence).collect()));
        }
        let refuse = |(listener, danger, remedy): &(Listener<'_>, String, String)| {
            let reason = format!(
                "is not loopback, and {danger}: bind it to 127.0.0.1, {remedy}, or set {section}auth.allowInsecure = true"
            );
            ConfigError::value(listener.key, addrs(listener), reason)
        };
        Err(open.iter().map(refuse).collect())
    }

    /// How a login is decided.
    pub fn auth_mode(&self) -> AuthMode {
        self.auth.as_ref().map_or_else(AuthMode::default, |auth| auth.mode)
    }
}

/// What an `Authorization` header can carry as it is.
fn is_token(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Is this meant as a network, and none?
fn is_mistyped_network(text: &str) -> bool {
    let is_meant = text.contains(['.', ':', '/'])
        && text.bytes().all(|byte| byte.is_ascii_hexdigit() || b".:/".contains(&byte));
    is_meant && text.parse::<Network>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRE: Expire = Expire::secs::<1800>();

    fn logic(sets: &[&str]) -> LogicConfig {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        config::load(None, &sets, &[]).expect("a readable configuration").config
    }

    #[test]
    fn the_commented_default_is_the_default() {
        let text = config::commented_default::<LogicConfig>();
        assert!(toml_reads_as::<LogicConfig>(&text), "{text}");
        assert!(LogicConfig::default().check("", EXPIRE).is_empty());
    }

    fn toml_reads_as<T: serde::de::DeserializeOwned + Default + PartialEq>(text: &str) -> bool {
        let file = std::env::temp_dir().join(format!("halley-logic-{}.toml", uuid::Uuid::new_v4()));
        std::fs::write(&file, text).unwrap();
        let loaded = config::load::<T>(Some(&file), &[], &[]);
        std::fs::remove_file(&file).unwrap();
        loaded.is_ok_and(|loaded| loaded.config == T::default())
    }

    #[test]
    fn keys_at_odds_are_refused_by_name() {
        for (sets, key) in [
            (&["node.heartbeat=10m", "node.heartbeatMax=3"][..], "logic.redis.expire"),
            (&["push.tokens=a b"], "logic.push.tokens"),
            (&["push.tokens=[\"\"]"], "logic.push.tokens"),
            (&["httpServer.addr=[]"], "logic.httpServer.addr"),
            (&["rpcServer.addr="], "logic.rpcServer.addr"),
            (&["backoff.jitter=1.5"], "logic.backoff.jitter"),
            (&["backoff.factor=0.5"], "logic.backoff.factor"),
            (&["node.regionWeight=0"], "logic.node.regionWeight"),
            (&["regions.sh=[\"10.1.0.0/33\"]"], "logic.regions.sh"),
            (&["regions.sh=10.1.0/16"], "logic.regions.sh"),
        ] {
            let wrong = logic(sets).check("logic.", EXPIRE);
            assert_eq!(wrong.len(), 1, "{sets:?}: {wrong:?}");
            let error = wrong[0].to_string();
            assert!(error.starts_with(key), "{sets:?}: {error}");
            assert!(!error.contains("a b"), "a secret is shown: {error}");
        }
    }

    #[test]
    fn all_keys_at_odds_are_told_at_once() {
        let sets = ["backoff.jitter=2", "rpcServer.addr=", "regions.bj=[\"北京\", \"10.1.0.0/16\"]"];
        let keys: Vec<String> = logic(&sets)
            .check("", Expire::millis::<90_000>())
            .iter()
            .filter_map(|error| error.key().map(str::to_owned))
            .collect();
        assert_eq!(
            keys,
            ["rpcServer.addr", "redis.expire", "backoff.jitter"],
            "provinces are goim's, and no mistake"
        );
    }

    #[test]
    fn what_is_not_there_yet_is_refused() {
        for set in ["auth.mode=jwt", "clientMessages=webhook"] {
            let loaded = config::load::<LogicConfig>(None, &[set.to_owned()], &[]);
            assert!(loaded.is_err(), "{set}");
        }
    }

    #[test]
    fn strangers_are_kept_out_unless_allowed() {
        let comet = |addr: &str| Addrs::new(vec![addr.parse().unwrap()]).unwrap();
        let (loopback, open) = (comet("127.0.0.1:3101"), comet("0.0.0.0:3101"));
        let exposed = |sets: &[&str], addrs| {
            let sets: Vec<&str> = [&["auth.mode=trust"], sets].concat();
            logic(&sets)
                .check_exposure("logic.", &[Listener { key: "comet.tcp.bind", addrs }])
                .map_err(|wrong| wrong[0].to_string())
        };
        assert_eq!(exposed(&[], &loopback), Ok(Exposure::Closed));
        for (sets, addrs, key, remedy) in [
            (&[][..], &open, "comet.tcp.bind = 0.0.0.0:3101", "verify logins"),
            (&["httpServer.addr=:3111"], &loopback, "logic.httpServer.addr = [::]:3111", "logic.push.tokens"),
            (
                &["httpServer.addr=127.0.0.1:1,10.0.0.1:2"],
                &loopback,
                "logic.httpServer.addr",
                "logic.push.tokens",
            ),
            (
                &["rpcServer.addr=[::]:3119"],
                &loopback,
                "logic.rpcServer.addr = [::]:3119",
                "tls.ca, tls.cert, tls.key",
            ),
        ] {
            let error = exposed(sets, addrs).unwrap_err();
            assert!(error.starts_with(key) && error.contains(remedy), "{error}");
            assert!(error.contains("allowInsecure = true"), "{error}");
            let allowed: Vec<_> = sets.iter().copied().chain(["auth.allowInsecure=true"]).collect();
            assert!(matches!(exposed(&allowed, addrs), Ok(Exposure::Insecure(why)) if why.len() == 1));
        }
        let certified = ["rpcServer.addr=[::]:3119", "tls.ca=ca.pem"];
        assert_eq!(exposed(&certified, &loopback), Ok(Exposure::Closed));
        let with_token = ["httpServer.addr=:3111", "push.tokens=sesame"];
        assert_eq!(exposed(&with_token, &loopback), Ok(Exposure::Closed));
    }

    #[test]
    fn a_token_is_never_printed() {
        let config = logic(&["push.tokens=sesame"]);
        assert!(!format!("{config:?}").contains("sesame"));
    }
}
