//! What can be set about a comet. The keys are goim's where goim has them; bounds are checked when they are parsed.

mod origin;
mod proxies;

use std::time::Duration;

use config::{Addr, Addrs, Bounded, BoundedDuration, ByteSize, ConfigError, List, Parts};
use host::tls::MutualConfig;
use proto::{
    frame::CLIENT_BODY_MAX,
    websocket::{MessageLimits, UpgradeRules},
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use self::proxies::TRUSTED_MAX;
pub use self::{
    origin::{BadOrigin, Origin},
    proxies::{BadProxyNetwork, ProxiesConfig, ProxyHeader, ProxyNetwork},
};
use shard::{Acceptors, Rate, ShardConfig};

/// The gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct CometConfig {
    /// Clients that speak bare goim frames.
    pub tcp: TcpConfig,
    /// Clients that speak goim frames in WebSocket messages.
    pub websocket: WebSocketConfig,
    /// TLS of client connections, on the ports that have it, and of gRPC.
    pub tls: CometTlsConfig,
    /// Proxies in front of the client ports, and what is believed of what they say.
    pub proxies: ProxiesConfig,
    /// The client wire.
    pub protocol: ProtocolConfig,
    /// Users that the log names.
    pub whitelist: WhitelistConfig,
    /// gRPC goim.comet.Comet, called by job. Without `tls.ca` it asks nobody who he is: leave it on a private address.
    pub rpc_server: PushServerConfig,
    /// What one client, and all of them, may cost.
    pub limits: ClientLimitsConfig,
    /// When pushes that wait for a connection are written.
    pub batch: BatchConfig,
    /// The threads that hold the connections.
    pub reactor: ReactorConfig,
    /// How the gateway leaves.
    pub drain: DrainConfig,
}

/// Clients that speak bare goim frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct TcpConfig {
    /// Addresses to listen on; every shard has a listener of its own on each.
    pub bind: Addrs,
    /// Kernel send buffer of a client socket. It bounds what a client that stopped reading hides from the send queue:
    /// 64 KiB holds about 130 KB of small frames.
    pub sndbuf: ByteSize<4096, 67_108_864>,
    /// Kernel receive buffer of a client socket.
    pub rcvbuf: ByteSize<4096, 67_108_864>,
    /// Send TCP keepalives. Not needed to find dead clients (the heartbeat does), but some networks forget idle
    /// connections without.
    pub keepalive: bool,
    /// Time after which bytes that the client's side has not acknowledged end the connection.
    pub user_timeout: BoundedDuration<1000, 3_600_000>,
    /// Connections the kernel holds until they are accepted, per listener; net.core.somaxconn caps it.
    pub backlog: Bounded<1, 65_535>,
    /// Listen with TLS too, on `tlsBind`.
    pub tls_open: bool,
    /// Addresses to listen on with TLS.
    pub tls_bind: Addrs,
    /// Files of certificates in PEM, each with the chain behind it. Of several a client gets the one for the host that it
    /// names, or else the first.
    pub cert_file: List<String>,
    /// Files of their private keys in PEM, in the same order.
    pub private_file: List<String>,
    /// Who comes from one of proxies.trusted begins with a header of the PROXY protocol, version 1 or 2, on `bind` and
    /// `tlsBind`; from there nobody is served without one.
    pub proxy_protocol: bool,
}

impl Default for TcpConfig {
    fn default() -> TcpConfig {
        TcpConfig {
            bind: Addrs::loopback(3101),
            sndbuf: ByteSize::kib::<64>(),
            rcvbuf: ByteSize::kib::<16>(),
            keepalive: false,
            user_timeout: BoundedDuration::secs::<30>(),
            backlog: Bounded::of::<4096>(),
            tls_open: false,
            tls_bind: Addrs::loopback(3104),
            cert_file: List::default(),
            private_file: List::default(),
            proxy_protocol: false,
        }
    }
}

/// Clients that speak goim frames in WebSocket messages. Sockets are set up as under `tcp`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct WebSocketConfig {
    /// Addresses to listen on.
    pub bind: Addrs,
    /// Path of the upgrade, from its slash on. A query may follow.
    pub path: String,
    /// Origins that browsers may come from, such as "https://app.example.com"; "*" allows all. Each as browsers send it: no
    /// slash at the end, no port that is the scheme's own, no pattern. Empty: only pages of the host they connect to, on
    /// any port.
    pub origins: List<Origin>,
    /// Longest message of a client, summed over its fragments.
    pub message_max: ByteSize<4112, 16_777_216>,
    /// Listen for WSS too, on `tlsBind`.
    pub tls_open: bool,
    /// Addresses to listen on for WSS.
    pub tls_bind: Addrs,
    /// Files of certificates in PEM, each with the chain behind it. Of several a client gets the one for the host that it
    /// names, or else the first.
    pub cert_file: List<String>,
    /// Files of their private keys in PEM, in the same order.
    pub private_file: List<String>,
    /// Who comes from one of proxies.trusted begins with a header of the PROXY protocol, version 1 or 2, on `bind` and
    /// `tlsBind`; from there nobody is served without one.
    pub proxy_protocol: bool,
}

impl Default for WebSocketConfig {
    fn default() -> WebSocketConfig {
        WebSocketConfig {
            bind: Addrs::loopback(3102),
            path: "/sub".to_owned(),
            origins: List::default(),
            message_max: ByteSize::kib::<64>(),
            tls_open: false,
            tls_bind: Addrs::loopback(3103),
            cert_file: List::default(),
            private_file: List::default(),
            proxy_protocol: false,
        }
    }
}

/// TLS of client connections, and with the other parts of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct CometTlsConfig {
    /// Of clients.
    #[serde(flatten)]
    pub clients: TlsConfig,
    /// Of gRPC.
    #[serde(flatten)]
    pub services: MutualConfig,
}

impl<'de> Deserialize<'de> for CometTlsConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut parts = Parts::of(deserializer)?;
        let section = CometTlsConfig { clients: parts.read()?, services: parts.read()? };
        parts.end().map(|()| section)
    }
}

/// TLS of client connections. Which port has it stands under `tcp` and `websocket`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct TlsConfig {
    /// What is kept of a connection after its handshake. "small": the record layer, 1 KB. "plain": all of rustls, 3 KB.
    pub memory: TlsMemory,
    /// File with the keys of resumption tickets: 32 random bytes in hexadecimal a line (`openssl rand -hex 32`), the
    /// newest first. Comets with the same file take each other's tickets. Empty: a key of this process, a new one every 12
    /// hours.
    pub ticket_key_file: String,
    /// Time from accept to the end of the TLS handshake. protocol.handshakeTimeout begins after it.
    pub handshake_timeout: BoundedDuration<100, 60_000>,
    /// TLS handshakes that have begun and are not done. One more is cut off.
    pub handshakes: Bounded<1, 1_000_000>,
}

impl Default for TlsConfig {
    fn default() -> TlsConfig {
        TlsConfig {
            memory: TlsMemory::Small,
            ticket_key_file: String::new(),
            handshake_timeout: BoundedDuration::secs::<5>(),
            handshakes: Bounded::of::<4096>(),
        }
    }
}

/// What is kept of a connection with TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TlsMemory {
    /// The record layer.
    #[default]
    Small,
    /// All of rustls.
    Plain,
}

/// The client wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ProtocolConfig {
    /// Time from accept to login, the upgrade included, and again for logic's answer. A client that is silent longer
    /// is closed.
    pub handshake_timeout: BoundedDuration<100, 60_000>,
    /// Time for a frame to become complete once it has begun.
    pub frame_timeout: BoundedDuration<100, 60_000>,
    /// Operation of the reply to an operation that is not the wire's own: "next" (n + 1, goim-example) or "same"
    /// (n, the original goim).
    pub unknown_op_reply: UnknownOpReply,
    /// A live session is renewed in logic with the first sign of life after this: a frame of any operation, or a
    /// WebSocket ping or pong. This and node.heartbeat × heartbeatMax together stay below redis.expire, both logic's.
    pub renew_interval: BoundedDuration<1000, 600_000>,
}

impl Default for ProtocolConfig {
    fn default() -> ProtocolConfig {
        ProtocolConfig {
            handshake_timeout: BoundedDuration::secs::<5>(),
            frame_timeout: BoundedDuration::secs::<10>(),
            unknown_op_reply: UnknownOpReply::Next,
            renew_interval: BoundedDuration::secs::<300>(),
        }
    }
}

/// Users that the log names. goim's keys; its `WhiteLog`, a file of their own, has no meaning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WhitelistConfig {
    /// Users (`mid`) whose logins, refusals and ends the log tells at level info, with key and address, ten lines a second
    /// at most. Those of others are told at debug.
    #[serde(rename = "Whitelist")]
    pub whitelist: config::List<i64>,
}

/// How unknown operations are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownOpReply {
    /// With the next number.
    #[default]
    Next,
    /// With the same number.
    Same,
}

/// gRPC goim.comet.Comet, called by job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct PushServerConfig {
    /// Address to listen on. Its port is part of this comet's name in the cluster.
    pub addr: Addr,
}

impl Default for PushServerConfig {
    fn default() -> PushServerConfig {
        PushServerConfig { addr: Addr::loopback(3109) }
    }
}

/// What one client, and all of them, may cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ClientLimitsConfig {
    /// Connections in all; 0: as many as the open-file limit allows. Each of several shards takes up to an eighth more
    /// than its share, since clients do not spread evenly.
    pub connections: Bounded<0, 100_000_000>,
    /// Connections that have not logged in; one more closes the oldest of them.
    pub unauthenticated: Bounded<1, 10_000_000>,
    /// Bytes of pushes that may wait for one connection beyond the kernel's buffer. One push that is longer by itself may
    /// wait beside them.
    pub send_queue: ByteSize<4096, 67_108_864>,
    /// What happens beyond: "drop-oldest" or "close" (4413). Every drop is counted.
    pub slow_consumer: SlowConsumer,
    /// Frames a second that a client may send on average; more closes it with 1008.
    pub frame_rate: Bounded<1, 1_000_000>,
    /// Frames a client may send at once.
    pub frame_burst: Bounded<1, 1_000_000>,
    /// Rooms of one device.
    pub rooms: Bounded<1, 1024>,
    /// Operations of one device.
    pub accepts: Bounded<1, 4096>,
    /// Bytes of one push, the frame header left out. goim has no bound.
    pub push: ByteSize<1024, 67_108_864>,
}

impl Default for ClientLimitsConfig {
    fn default() -> ClientLimitsConfig {
        ClientLimitsConfig {
            connections: Bounded::of::<0>(),
            unauthenticated: Bounded::of::<20_000>(),
            send_queue: ByteSize::kib::<64>(),
            slow_consumer: SlowConsumer::DropOldest,
            frame_rate: Bounded::of::<100>(),
            frame_burst: Bounded::of::<400>(),
            rooms: Bounded::of::<32>(),
            accepts: Bounded::of::<128>(),
            push: ByteSize::mib::<1>(),
        }
    }
}

/// What a full send queue does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SlowConsumer {
    /// Drop what waited longest: a slow reader sees the newest state.
    #[default]
    DropOldest,
    /// Close with 4413: the client reconnects and asks for what it missed.
    Close,
}

/// When pushes that wait for a connection are written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BatchConfig {
    /// "off": as soon as they come; what comes at once still leaves in one write. "adaptive": the same while the shard
    /// is idle, and up to `window` later as its load grows. "fixed": always after `window`.
    pub mode: BatchMode,
    /// Longest time a push waits for others.
    pub window: BoundedDuration<1, 1000>,
}

impl Default for BatchConfig {
    fn default() -> BatchConfig {
        BatchConfig { mode: BatchMode::Adaptive, window: BoundedDuration::millis::<10>() }
    }
}

/// How pushes are batched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BatchMode {
    /// Natural batching only.
    Off,
    /// By load.
    #[default]
    Adaptive,
    /// Always.
    Fixed,
}

/// The threads that hold the connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ReactorConfig {
    /// "auto": io_uring, or epoll where the kernel refuses it, said at start with the reason. "io_uring" and "epoll" take
    /// just that. "glommio" is another runtime on io_uring, in programs that were built with it.
    pub driver: DriverChoice,
    /// Shards; 0: one per core.
    pub shards: Bounded<0, 1000>,
    /// Cores the shards are pinned to, one after the other. Empty: all cores when there are as many shards, else none.
    pub cpus: config::List<u64>,
    /// Submission queue entries of each io_uring.
    pub ring_entries: Bounded<64, 32_768>,
}

impl Default for ReactorConfig {
    fn default() -> ReactorConfig {
        ReactorConfig {
            driver: DriverChoice::Auto,
            shards: Bounded::of::<0>(),
            cpus: config::List::default(),
            ring_entries: Bounded::of::<1024>(),
        }
    }
}

/// Which driver runs the shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriverChoice {
    /// io_uring, else epoll.
    #[default]
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// epoll.
    Epoll,
    /// glommio on io_uring or nothing; only in a build with the feature.
    Glommio,
}

/// Why a configuration that asks for glommio is refused.
pub(crate) const WITHOUT_GLOMMIO: &str =
    "this program was built without it: build it with --features glommio";

/// How the gateway leaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct DrainConfig {
    /// Time over which a stopping gateway closes its connections, so that they do not all come back at once somewhere
    /// else. 0s: at once.
    pub spread: BoundedDuration<0, 600_000>,
    /// Time after which it stops waiting for its clients to be gone; at least a second more than `spread`.
    pub timeout: BoundedDuration<1000, 600_000>,
}

/// What a drain needs beyond its spread: a client that does not end its side is waited for so long.
const DRAIN_BEYOND_SPREAD: Duration = Duration::from_secs(1);

impl Default for DrainConfig {
    fn default() -> DrainConfig {
        DrainConfig { spread: BoundedDuration::secs::<1>(), timeout: BoundedDuration::secs::<25>() }
    }
}

impl CometConfig {
    /// Keys of goim's comet that name its own internals, or that go with what is not built.
    pub const UNUSED_GOIM_KEYS: &[&str] = &[
        "rpcServer.network",
        "rpcServer.timeout",
        "tcp.reader",
        "tcp.readBuf",
        "tcp.readBufSize",
        "tcp.writer",
        "tcp.writeBuf",
        "tcp.writeBufSize",
        "protocol.timer",
        "protocol.timerSize",
        "protocol.svrProto",
        "protocol.cliProto",
        "whitelist.WhiteLog",
        "bucket.*",
    ];

    /// Where clients come in, by key.
    pub fn client_addrs(&self) -> Vec<(&'static str, &Addrs)> {
        let (tcp, websocket) = (&self.tcp, &self.websocket);
        let all = [
            ("tcp.bind", true, &tcp.bind),
            ("tcp.tlsBind", tcp.tls_open, &tcp.tls_bind),
            ("websocket.bind", true, &websocket.bind),
            ("websocket.tlsBind", websocket.tls_open, &websocket.tls_bind),
        ];
        all.into_iter().filter(|(_, open, _)| *open).map(|(key, _, addrs)| (key, addrs)).collect()
    }

    /// Checks what is more than a type can say, and gives all that is wrong. The keys stand in `section` (`comet.`, or
    /// nothing), by which an error names them.
    pub fn check(&self, section: &str) -> Vec<ConfigError> {
        let mut wrong = Vec::new();
        for (key, addresses) in self.client_addrs() {
            if addresses.is_empty() {
                let key = format!("{section}{key}");
                wrong.push(ConfigError::value(key, "[]", "must have at least one address"));
            }
        }
        let path = &self.websocket.path;
        if !path.starts_with('/')
            || !path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte))
        {
            let reason =
                "no request could have it: write a slash, then printable ASCII without spaces, ? and #";
            wrong.push(ConfigError::value(format!("{section}websocket.path"), format!("{path:?}"), reason));
        }
        let trusted = &self.proxies.trusted;
        if trusted.len() > TRUSTED_MAX {
            let reason = format!("must be at most {TRUSTED_MAX} networks: each address is compared with all");
            wrong.push(ConfigError::value(format!("{section}proxies.trusted"), trusted.len(), reason));
        }
        let ports = [("tcp", self.tcp.proxy_protocol), ("websocket", self.websocket.proxy_protocol)];
        for (port, _) in ports.iter().filter(|(_, proxied)| *proxied && trusted.is_empty()) {
            let reason = format!("nobody may send its header: name the proxies in {section}proxies.trusted");
            wrong.push(ConfigError::value(format!("{section}{port}.proxyProtocol"), "true", reason));
        }
        if self.reactor.driver == DriverChoice::Glommio && cfg!(not(feature = "glommio")) {
            let key = format!("{section}reactor.driver");
            wrong.push(ConfigError::value(key, "\"glommio\"", WITHOUT_GLOMMIO));
        }
        let DrainConfig { spread, timeout } = self.drain;
        if timeout.get() < spread.get() + DRAIN_BEYOND_SPREAD {
            let reason = format!(
                "must be a second more than {section}drain.spread = {spread}: the last clients would be cut off"
            );
            wrong.push(ConfigError::value(format!("{section}drain.timeout"), timeout, reason));
        }
        wrong
    }

    /// What will be otherwise on this machine than the configuration says, or is rarely meant, a sentence each. Nothing that
    /// keeps a gateway from its work.
    pub fn doubts(&self, section: &str) -> Vec<String> {
        let here: Vec<u64> =
            core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id as u64).collect();
        let cpus = self.reactor.cpus.iter().filter(|cpu| !here.contains(cpu));
        let cpus = cpus.map(|cpu| {
            let here: Vec<String> = here.iter().map(u64::to_string).collect();
            let here = here.join(", ");
            format!("{section}reactor.cpus: there is no core {cpu} for this process (it has {here}): a shard of it is not pinned")
        });
        let everybody = self.proxies.trusted.iter().filter(|network| network.is_everybody());
        let everybody = everybody.map(|network| {
            format!("{section}proxies.trusted has {network}: whoever reaches the client ports may come as any address")
        });
        cpus.chain(everybody).collect()
    }

    /// What each of `shards` shards is configured with, `connections` being the process's limit.
    pub fn shard(&self, shards: usize, connections: usize) -> ShardConfig {
        let limits = &self.limits;
        let window: Duration = self.batch.window.get();
        ShardConfig {
            handshake: self.protocol.handshake_timeout.get(),
            frame: self.protocol.frame_timeout.get(),
            upgrade: UpgradeRules {
                path: self.websocket.path.as_str().into(),
                origins: self.websocket.origins.iter().map(|origin| origin.as_str().to_owned()).collect(),
                proxies: self.proxies.networks(),
                told_in: self.proxies.told_in(),
            },
            message: MessageLimits {
                message_max: self.websocket.message_max.usize(),
                ..MessageLimits::default()
            },
            body_max: CLIENT_BODY_MAX,
            queue_bytes_max: limits.send_queue.u32(),
            slow_consumer: match limits.slow_consumer {
                SlowConsumer::DropOldest => shard::SlowConsumer::DropOldest,
                SlowConsumer::Close => shard::SlowConsumer::Close,
            },
            rate: Rate { per_second: limits.frame_rate.u32(), burst: limits.frame_burst.u32() },
            rooms_max: limits.rooms.usize(),
            accepts_max: limits.accepts.usize(),
            unauthenticated_max: limits.unauthenticated.usize().div_ceil(shards),
            connections_max: connections,
            ignored_max: 8,
            refusals_max: 16,
            renew: self.protocol.renew_interval.get(),
            unknown_reply_same: self.protocol.unknown_op_reply == UnknownOpReply::Same,
            batch: match self.batch.mode {
                BatchMode::Off => shard::Batch::Off,
                BatchMode::Adaptive => shard::Batch::Adaptive(window),
                BatchMode::Fixed => shard::Batch::Fixed(window),
            },
            acceptors: Acceptors::default(),
            tls_handshake: self.tls.clients.handshake_timeout.get(),
            tls_handshakes_max: self.tls.clients.handshakes.usize().div_ceil(shards),
        }
    }
}
