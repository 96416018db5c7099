//! What one seed decides before anything happens: sizes, limits, and how much goes wrong.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use comet::{config::CometConfig, driver::sim::network::Faults, front::QUEUE_CAPACITY};
use config::load;
use job::config::JobConfig;
use logic::config::LogicConfig;
use seam::Random;
use shard::{Acceptors, Batch, Rate, ShardConfig, SlowConsumer};
use testkit::site::site;
use tls::Memory;

/// The proxy through which some clients come.
pub const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Shards of the comet.
    pub shards: usize,
    /// Places of each queue.
    pub queue: usize,
    /// By how much large bounds are divided.
    pub shrink: usize,
    /// Rules of each shard.
    pub shard: ShardConfig,
    /// Writes of a flush.
    pub sends_per_turn: usize,
    /// logic's configuration.
    pub logic: LogicConfig,
    /// job's configuration.
    pub job: JobConfig,
    /// How long a session lives unrenewed.
    pub session_ttl: Duration,
    /// Tasks of the tokio side between two looks at everything else.
    pub tokio_interval: u32,
    /// What the network does wrong.
    pub network: Faults,
    /// What goes wrong between the services.
    pub services: ServiceFaults,
    /// Steps before everything settles.
    pub steps: usize,
    /// Clients at once.
    pub clients: usize,
    /// Device keys they share.
    pub keys: usize,
    /// Rooms there are.
    pub rooms: usize,
    /// Smallest and largest buffer on the way to a client, bytes.
    pub socket_room: (u32, u32),
    /// Bytes of the longest push that comet takes.
    pub push_max: usize,
    /// Broadcasts with a speed are made.
    pub paced: bool,
    /// How the run ends.
    pub end: End,
    /// The session store loses everything now and then.
    pub wipes: bool,
    /// Clients in a thousand that come over TLS.
    pub over_tls: u32,
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything comes to rest, then everybody leaves.
    AllLeave,
    /// Everything comes to rest, then the gateway is drained.
    Drain,
    /// The gateway is drained while everything goes wrong.
    DrainInTheMidst,
}

/// How often, in a thousand, something goes wrong between the services.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServiceFaults {
    /// logic takes its time over a call, or over the answer.
    pub slow_logic: u32,
    /// logic does not take a call.
    pub failing_logic: u32,
    /// comet does not take a dispatch.
    pub failing_comet: u32,
    /// comet takes its time over a dispatch.
    pub slow_comet: u32,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64) -> Plan {
        let mut random = Random::stream(seed, "plan");
        let r = &mut random;
        // A third of the seeds are calm: what is wrong there cannot hide behind a fault.
        let calm = r.one_in(3);
        let rate = |r: &mut Random, often: u32| if calm { 0 } else { r.of(&[0, often / 4, often]) };
        let heartbeat_max = 1 + r.below(3);
        let expire = r.of(&[10, 12, 60]);
        let messages = r.of(&["room", "room", "room", "refuse"]);
        let logic = config::<LogicConfig>(&[
            "node.heartbeat=1s".to_owned(),
            format!("node.heartbeatMax={heartbeat_max}"),
            format!("clientMessages={messages}"),
        ]);
        let give_up = r.of(&["1s", "10s"]);
        let job = config::<JobConfig>(&[format!("dispatch.giveUp={give_up}")]);
        let shards = r.of(&[1, 2, 2, 3, 4]);
        let window = Duration::from_millis(20);
        let tight = !calm && r.one_in(4);
        let mut shard = ShardConfig {
            handshake: Duration::from_millis(r.of(&[600, 1500])),
            frame: Duration::from_millis(500),
            queue_bytes_max: r.of(&[512, 2048, 4096, 65_536]),
            slow_consumer: r.of(&[SlowConsumer::DropOldest, SlowConsumer::Close]),
            rate: Rate { per_second: 100, burst: r.of(&[20, 400]) },
            rooms_max: 4,
            accepts_max: 6,
            unauthenticated_max: if tight { 2 } else { 1000 },
            connections_max: if tight { 6 } else { 1000 },
            renew: Duration::from_millis(r.of(&[1000, 3000])),
            unknown_reply_same: r.one_in(4),
            batch: r.of(&[Batch::Off, Batch::Adaptive(window), Batch::Fixed(window)]),
            ..CometConfig::default().shard(shards, 1000)
        };
        shard.upgrade.proxies = PROXY.to_string().parse().into_iter().collect();
        let mut plan = Plan {
            shards,
            queue: r.of(&[8, 32, 256]),
            shrink: r.of(&[1, 64, 512]),
            shard,
            sends_per_turn: r.of(&[1, 3, 1000]),
            session_ttl: Duration::from_secs(expire),
            logic,
            job,
            tokio_interval: r.of(&[1, 3, 61]),
            network: Faults { short_read: rate(r, 500), short_write: rate(r, 500), again: rate(r, 100) },
            services: ServiceFaults {
                slow_logic: rate(r, 300),
                failing_logic: rate(r, 150),
                failing_comet: rate(r, 200),
                slow_comet: rate(r, 100),
            },
            steps: 300 + r.below(1200),
            clients: 3 + r.below(20),
            keys: 2 + r.below(14),
            rooms: 1 + r.below(4),
            socket_room: r.of(&[(64, 256), (256, 4096), (65_536, 65_536)]),
            push_max: r.of(&[1 << 20, 1 << 20, 600]),
            paced: r.one_in(6),
            end: r.of(&[End::AllLeave, End::Drain, End::DrainInTheMidst]),
            wipes: r.one_in(3),
            over_tls: 0,
        };
        // Of those after it, so that it changes nothing else of a seed.
        plan.over_tls = r.of(&[0, 0, 300, 1000]);
        if plan.over_tls > 0 {
            let acceptor = site().acceptor(r.of(&[Memory::Small, Memory::Small, Memory::Plain]));
            // The key changes in the midst of it, or, with TLS 1.2, the connection ends.
            let acceptor = acceptor.with_records_max(r.of(&[1 << 24, 1 << 24, 15]));
            let acceptor = Some(Arc::new(acceptor));
            plan.shard.acceptors = Acceptors { tcp: acceptor.clone(), websocket: acceptor };
            plan.shard.tls_handshake = Duration::from_millis(r.of(&[400, 1500]));
            plan.shard.tls_handshakes_max = if calm { 1000 } else { r.of(&[1, 3, 1000]) };
        }
        plan
    }

    /// A plan in which nothing goes wrong and nothing is small, for very many connections.
    pub fn quiet(connections: usize) -> Plan {
        let shards = 4;
        let comet = CometConfig::default();
        let logic = LogicConfig::default();
        Plan {
            shards,
            queue: QUEUE_CAPACITY,
            shrink: 1,
            shard: comet.shard(shards, connections),
            sends_per_turn: 1000,
            session_ttl: Duration::from_secs(1800),
            logic,
            job: JobConfig::default(),
            tokio_interval: 61,
            network: Faults::default(),
            services: ServiceFaults::default(),
            steps: 0,
            clients: connections,
            keys: connections,
            rooms: connections.div_ceil(50),
            socket_room: (65_536, 65_536),
            push_max: 1 << 20,
            paced: false,
            end: End::AllLeave,
            wipes: false,
            over_tls: 0,
        }
    }
}

fn config<T: serde::de::DeserializeOwned>(sets: &[String]) -> T {
    load(None, sets, &[]).expect("values inside their bounds").config
}
