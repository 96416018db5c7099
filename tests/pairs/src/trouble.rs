//! What can be in trouble: a server, a program, or the way between two. Each trouble begins, lasts, and is over.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use tokio::{
    sync::watch,
    task::{JoinHandle, block_in_place},
    time::sleep,
};

use crate::{
    clock::{ms, now, secs},
    http::{self, Http},
    world::{Kind, LEASE, Passage, World},
};

/// Declares the troubles once.
macro_rules! troubles {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// A trouble. Where there are several of a kind, number 0 is in it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Trouble {
            $($(#[$doc])* $name,)*
        }

        impl Trouble {
            /// All of them.
            pub const ALL: &[Trouble] = &[$(Trouble::$name,)*];

            /// Its words, in tables and on the command line.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Trouble::$name => $word,)*
                }
            }
        }
    };
}

troubles! {
    /// None: the pair is the event alone.
    Nothing = "nothing",
    /// Everything to and from etcd comes 200 ms later.
    EtcdSlow = "etcd slow",
    /// etcd stands still for longer than a lease.
    EtcdFrozen = "etcd frozen",
    /// etcd crashes, and comes back with its data.
    EtcdDead = "etcd dead",
    /// etcd crashes, and comes back empty.
    EtcdWiped = "etcd wiped",
    /// Comet 0 does not reach etcd for longer than a lease.
    EtcdCut = "comet cut off etcd",
    /// Somebody deletes comet 0's key from etcd, three times.
    EtcdKey = "comet's key deleted",
    /// Everything to and from Redis comes 50 ms later.
    RedisSlow = "redis slow",
    /// Redis stands still for longer than a command may take.
    RedisFrozen = "redis frozen",
    /// Redis crashes, and comes back empty.
    RedisDead = "redis dead",
    /// Redis loses everything, FLUSHALL.
    RedisWiped = "redis wiped",
    /// Logic 0 does not reach Redis.
    RedisCut = "logic cut off redis",
    /// Kafka stands still for longer than a record may take.
    KafkaFrozen = "kafka frozen",
    /// Kafka crashes, and comes back with its data.
    KafkaDead = "kafka dead",
    /// Comet 0 stands still for longer than clients wait for a login, and less than `dispatch.giveUp`.
    CometFrozen = "comet frozen",
    /// Comet 0 crashes, and comes back.
    CometDead = "comet dead",
    /// Logic 0 stands still.
    LogicFrozen = "logic frozen",
    /// Logic 0 crashes, and comes back.
    LogicDead = "logic dead",
    /// Job 0 stands still for longer than `dispatch.giveUp` and than it may own a stream.
    JobFrozen = "job frozen",
    /// Job 0 crashes, and comes back.
    JobDead = "job dead",
}

impl Trouble {
    /// How long it lasts at least.
    pub const fn lasts(self) -> Duration {
        match self {
            Trouble::Nothing | Trouble::EtcdSlow | Trouble::RedisSlow => secs(4),
            Trouble::EtcdFrozen | Trouble::EtcdDead | Trouble::EtcdWiped | Trouble::EtcdCut => secs(9),
            Trouble::RedisWiped | Trouble::EtcdKey => secs(3),
            Trouble::RedisFrozen | Trouble::RedisDead | Trouble::RedisCut => secs(4),
            Trouble::KafkaFrozen | Trouble::KafkaDead => secs(6),
            Trouble::CometFrozen => ms(3600),
            Trouble::CometDead | Trouble::LogicFrozen | Trouble::LogicDead | Trouble::JobDead => secs(4),
            Trouble::JobFrozen => secs(7),
        }
    }

    /// Whether it needs Kafka.
    pub const fn is_of_kafka(self) -> bool {
        matches!(self, Trouble::KafkaFrozen | Trouble::KafkaDead)
    }

    /// Programs that must say within [`lasts`](Self::lasts) that they are not ready: all of these kinds, or number 0 only.
    const fn unready(self) -> (&'static [Kind], bool) {
        match self {
            Trouble::EtcdFrozen | Trouble::EtcdDead | Trouble::EtcdWiped => {
                (&[Kind::Comet, Kind::Logic, Kind::Job], false)
            }
            Trouble::EtcdCut => (&[Kind::Comet], true),
            Trouble::RedisFrozen | Trouble::RedisDead => (&[Kind::Logic], false),
            Trouble::RedisCut => (&[Kind::Logic], true),
            _ => (&[], false),
        }
    }

    /// Begins it.
    ///
    /// # Errors
    /// Redis does not take a command.
    pub async fn begin(self, world: &mut World) -> Result<()> {
        match self {
            Trouble::Nothing => {}
            Trouble::EtcdSlow => world.programs().for_each(|one| one.etcd.set(Passage::Slow(ms(200)))),
            Trouble::EtcdFrozen => world.etcd.pause(),
            Trouble::EtcdDead | Trouble::EtcdWiped => world.etcd.kill(),
            Trouble::EtcdCut => world.comets[0].etcd.set(Passage::Cut),
            Trouble::EtcdKey => delete_key(world).await?,
            Trouble::RedisSlow => {
                world
                    .programs()
                    .filter_map(|one| one.redis.as_ref())
                    .for_each(|link| link.set(Passage::Slow(ms(50))));
            }
            Trouble::RedisFrozen => world.redis.pause(),
            Trouble::RedisDead => world.redis.kill(),
            Trouble::RedisWiped => flush(&world.redis.addr())?,
            Trouble::RedisCut => {
                world.logics[0].redis.iter().for_each(|link| link.set(Passage::Cut));
            }
            Trouble::KafkaFrozen => world.kafka.iter().for_each(services::Kafka::pause),
            Trouble::KafkaDead => world.kafka.iter().for_each(services::Kafka::kill),
            // Longer would be another trouble.
            Trouble::CometFrozen => world.comets[0].freeze_for(self.lasts()),
            Trouble::LogicFrozen => world.logics[0].freeze(),
            Trouble::JobFrozen => world.jobs[0].freeze(),
            Trouble::CometDead => world.comets[0].kill().await,
            Trouble::LogicDead => world.logics[0].kill().await,
            Trouble::JobDead => world.jobs[0].kill().await,
        }
        Ok(())
    }

    /// Ends it: what was in trouble is back.
    ///
    /// # Errors
    /// A program does not start again.
    pub async fn end(self, world: &mut World) -> Result<()> {
        match self {
            Trouble::Nothing | Trouble::RedisWiped | Trouble::EtcdKey => {}
            Trouble::EtcdSlow | Trouble::EtcdCut => {
                world.programs().for_each(|one| one.etcd.set(Passage::Open));
            }
            Trouble::EtcdFrozen => world.etcd.resume(),
            Trouble::EtcdDead => block_in_place(|| world.etcd.restart()),
            Trouble::EtcdWiped => block_in_place(|| world.etcd.restart_empty()),
            Trouble::RedisSlow | Trouble::RedisCut => {
                world
                    .programs()
                    .filter_map(|one| one.redis.as_ref())
                    .for_each(|link| link.set(Passage::Open));
            }
            Trouble::RedisFrozen => world.redis.resume(),
            Trouble::RedisDead => block_in_place(|| world.redis.restart()),
            Trouble::KafkaFrozen => world.kafka.iter().for_each(services::Kafka::resume),
            Trouble::KafkaDead => {
                block_in_place(|| world.kafka.iter().for_each(services::Kafka::start_again))
            }
            Trouble::CometFrozen => world.comets[0].resume(),
            Trouble::LogicFrozen => world.logics[0].resume(),
            Trouble::JobFrozen => world.jobs[0].resume(),
            Trouble::CometDead => world.comets[0].start().await?,
            Trouble::LogicDead => world.logics[0].start().await?,
            Trouble::JobDead => world.jobs[0].start().await?,
        }
        Ok(())
    }

    /// Watches whether those that must say so say that they are not ready.
    pub fn watch(self, world: &World) -> Watch {
        let (kinds, is_first_only) = self.unready();
        let is_meant = |kind: Kind, number: usize| kinds.contains(&kind) && (number == 0 || !is_first_only);
        let (is_on, on) = watch::channel(true);
        let meant = world.programs().filter(|one| is_meant(one.kind, one.number));
        let watched =
            meant.map(|one| (one.name(), tokio::spawn(has_said_no(one.ports.http, on.clone())))).collect();
        Watch { is_on, watched }
    }
}

/// Programs that must not be ready at some time.
pub struct Watch {
    is_on: watch::Sender<bool>,
    watched: Vec<(String, JoinHandle<bool>)>,
}

impl Watch {
    /// Those that were ready all the time.
    pub async fn end(self) -> Vec<String> {
        self.is_on.send_replace(false);
        let mut wrong = Vec::new();
        for (name, watched) in self.watched {
            if !watched.await.unwrap_or(false) {
                wrong.push(name);
            }
        }
        wrong
    }
}

async fn has_said_no(address: SocketAddr, on: watch::Receiver<bool>) -> bool {
    while *on.borrow() {
        match http::get(address, "/readyz", secs(2)).await {
            Ok(answer) if answer.status == 200 => sleep(ms(100)).await,
            // One that is away is not ready either.
            _ => return true,
        }
    }
    false
}

/// How long a comet may be unknown after its key was deleted.
const NOTICED: Duration = ms(1500);

async fn delete_key(world: &World) -> Result<()> {
    let etcd: SocketAddr = world.etcd.addr().parse()?;
    let key = format!("/goim.comet/prod/sh/sh001/{}", world.comets[0].ports.rpc);
    // etcd speaks JSON, too.
    let key = serde_json::json!({ "key": BASE64_STANDARD.encode(key) }).to_string();
    let ask = async |path: &str| {
        let answer = Http::new(etcd).ask("POST", path, &key, secs(3)).await;
        answer.map_err(|error| anyhow!("etcd: {error:?}"))
    };
    for _ in 0..3 {
        let deleted = ask("/v3/kv/deleterange").await?;
        ensure!(deleted.body.contains("\"deleted\":\"1\""), "no such key: {}", deleted.body);
        let gone = now();
        while !ask("/v3/kv/range").await?.body.contains("\"count\":\"1\"") {
            ensure!(now() - gone < NOTICED, "its key is not back {NOTICED:?} after it was deleted");
            sleep(ms(50)).await;
        }
    }
    Ok(())
}

/// More than a lease, or nobody would notice.
const _: () = assert!(Trouble::EtcdCut.lasts().as_secs() > LEASE.as_secs());

fn flush(redis: &str) -> Result<()> {
    let mut stream = TcpStream::connect(redis)?;
    stream.write_all(b"FLUSHALL\r\n")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).context("no answer to FLUSHALL")?;
    ensure!(&answer == b"+OK\r\n", "FLUSHALL: {}", String::from_utf8_lossy(&answer));
    Ok(())
}
