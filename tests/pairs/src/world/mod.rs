//! The servers and programs of a cluster, each of which can get into trouble.

mod link;
mod program;
mod samples;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use services::{Etcd, Kafka, Redis};
use tempfile::TempDir;
pub use testkit::queue::Queue;
use tokio::{
    task::block_in_place,
    time::{sleep, timeout},
};

pub use self::{
    link::{Link, Passage},
    program::{Kind, Ports, Program},
    samples::Samples,
};
use crate::{
    clock::{At, ms, secs},
    ledger::Drops,
};

/// How long a fresh cluster may take until everybody is ready.
const READY: Duration = secs(60);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Shape {
    /// What carries the pushes.
    pub queue: Queue,
    /// How many comets.
    pub comets: usize,
    /// How many logics.
    pub logics: usize,
    /// How many jobs.
    pub jobs: usize,
    /// More settings of a program, `key=value`; they go over those of the harness.
    pub sets: Vec<(Kind, String)>,
    /// Where the logs go of one that does not become right at its start.
    pub logs: Option<PathBuf>,
}

impl Shape {
    /// Two of each.
    pub fn of(queue: Queue) -> Shape {
        Shape { queue, comets: 2, logics: 2, jobs: 2, sets: Vec::new(), logs: None }
    }

    /// With one more setting.
    #[must_use]
    pub fn set(mut self, kind: Kind, set: &str) -> Shape {
        self.sets.push((kind, set.to_owned()));
        self
    }
}

/// Leases are short, so that one that ends in a trouble ends soon.
pub const LEASE: Duration = secs(6);

/// What every program is told.
const DISCOVERY: [&str; 2] = ["discovery.leaseTtl=6s", "discovery.dialTimeout=2s"];
const COMET: [&str; 4] = [
    "reactor.shards=2",
    "reactor.ringEntries=256",
    // Long enough to push in the midst of it.
    "drain.spread=6s",
    "drain.timeout=15s",
];
/// Who is given up, is so within a story.
const JOB: [&str; 1] = ["dispatch.giveUp=5s"];
/// Who says nothing is gone after 15 seconds.
const LOGIC: [&str; 2] = ["node.heartbeat=5s", "node.heartbeatMax=3"];

/// A cluster. The programs end before the servers.
pub struct World {
    /// The comets.
    pub comets: Vec<Program>,
    /// The logics.
    pub logics: Vec<Program>,
    /// The jobs.
    pub jobs: Vec<Program>,
    /// Redis.
    pub redis: Redis,
    /// etcd.
    pub etcd: Etcd,
    /// Kafka, where it is the queue.
    pub kafka: Option<Kafka>,
    /// What carries the pushes.
    pub queue: Queue,
    directory: TempDir,
}

impl World {
    /// Starts one and waits until everybody is ready and known to everybody.
    ///
    /// # Errors
    /// A program does not start, or is not ready in time.
    pub async fn start(shape: &Shape) -> Result<World> {
        let kafka = (shape.queue == Queue::Kafka).then(|| block_in_place(Kafka::start));
        let (redis, etcd) = block_in_place(|| (Redis::start(), Etcd::start()));
        let directory = tempfile::tempdir()?;
        let mut world = World {
            comets: Vec::new(),
            logics: Vec::new(),
            jobs: Vec::new(),
            redis,
            etcd,
            kafka,
            queue: shape.queue,
            directory,
        };
        for (kind, count) in
            [(Kind::Logic, shape.logics), (Kind::Job, shape.jobs), (Kind::Comet, shape.comets)]
        {
            for number in 0..count {
                let mut program = world.program(kind, number, shape).await?;
                program.start().await?;
                world.of(kind).push(program);
            }
        }
        let is_right = async {
            world.expect_ready(READY).await?;
            world.expect_links().await
        };
        match is_right.await {
            Ok(()) => Ok(world),
            Err(why) => Err(world.give_up(shape, why)),
        }
    }

    /// Keeps the logs of one that does not become right.
    pub fn give_up(&self, shape: &Shape, why: anyhow::Error) -> anyhow::Error {
        match &shape.logs {
            Some(logs) if self.keep_logs(logs).is_ok() => why.context(format!("logs: {}", logs.display())),
            _ => why,
        }
    }

    async fn program(&self, kind: Kind, number: usize, shape: &Shape) -> Result<Program> {
        let ports = Ports::free();
        let etcd = Link::to(self.etcd.addr().parse()?).await;
        let redis = match kind {
            Kind::Comet => None,
            Kind::Logic | Kind::Job => Some(Link::to(self.redis.addr().parse()?).await),
        };
        let mut sets = vec![format!("discovery.nodes={}", etcd.address())];
        sets.extend(DISCOVERY.map(str::to_owned));
        let (own, addresses): (&[&str], Vec<(&str, SocketAddr)>) = match kind {
            Kind::Comet => (
                &COMET,
                vec![
                    ("tcp.bind", ports.tcp),
                    ("websocket.bind", ports.ws),
                    ("rpcServer.addr", ports.rpc),
                    ("admin.addr", ports.http),
                ],
            ),
            Kind::Logic => (&LOGIC, vec![("httpServer.addr", ports.http), ("rpcServer.addr", ports.rpc)]),
            Kind::Job => (&JOB, vec![("admin.addr", ports.http)]),
        };
        sets.extend(own.iter().map(|set| (*set).to_owned()));
        sets.extend(addresses.iter().map(|(key, address)| format!("{key}={address}")));
        if let Some(redis) = &redis {
            let kafka = self.kafka.as_ref().map(Kafka::addr);
            sets.extend(self.queue.settings(&redis.address().to_string(), kafka.as_deref()));
        }
        sets.extend(shape.sets.iter().filter(|(of, _)| *of == kind).map(|(_, set)| set.clone()));
        Ok(Program::new(kind, number, ports, (etcd, redis), sets, self.directory.path()))
    }

    /// All programs of a kind.
    pub fn of(&mut self, kind: Kind) -> &mut Vec<Program> {
        match kind {
            Kind::Comet => &mut self.comets,
            Kind::Logic => &mut self.logics,
            Kind::Job => &mut self.jobs,
        }
    }

    /// All programs.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.logics.iter().chain(&self.jobs).chain(&self.comets)
    }

    fn programs_mut(&mut self) -> impl Iterator<Item = &mut Program> {
        self.logics.iter_mut().chain(&mut self.jobs).chain(&mut self.comets)
    }

    /// Waits until every program is ready.
    ///
    /// # Errors
    /// One is not in time; the words say what it waits for.
    pub async fn expect_ready(&self, limit: Duration) -> Result<()> {
        let all_ready = async {
            for program in self.programs() {
                while program.ready().await.is_err() {
                    sleep(ms(100)).await;
                }
            }
        };
        if timeout(limit, all_ready).await.is_ok() {
            return Ok(());
        }
        for program in self.programs() {
            if let Err(why) = program.ready().await {
                bail!("{} is not ready within {limit:?}: {why}", program.name());
            }
        }
        Ok(())
    }

    /// Waits until every job has a link to every comet.
    async fn expect_links(&self) -> Result<()> {
        let comets: Vec<String> = self.comets.iter().map(|comet| comet.ports.rpc.to_string()).collect();
        let linked = |log: &str| {
            comets
                .iter()
                .all(|comet| log.lines().any(|line| line.contains("dispatching") && line.contains(comet)))
        };
        for job in &self.jobs {
            let has_links = async {
                while !linked(&job.log()) {
                    sleep(ms(50)).await;
                }
            };
            if timeout(READY, has_links).await.is_err() {
                bail!("{} does not know every comet:\n{}", job.name(), job.log());
            }
        }
        Ok(())
    }

    /// Reads the counters of all programs that answer.
    pub async fn scrape(&mut self) {
        for program in self.programs_mut() {
            program.scrape().await;
        }
    }

    /// The sum of a counter over all programs and their starts, as they were last read.
    pub fn counted(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.programs().map(|program| program.counted(name, labels)).sum()
    }

    /// What all programs together have counted as not delivered, as they were last read.
    pub fn drops(&self) -> Drops {
        Drops {
            frames: self.counted("halley_drops_total", &[]) as u64,
            dispatches: self.counted("halley_dispatch_drops_total", &[]) as u64,
        }
    }

    /// When comets were killed, by number.
    pub fn comet_kills(&self) -> Vec<(usize, At)> {
        let kills = |comet: &Program| comet.kills().iter().map(|at| (comet.number, *at)).collect::<Vec<_>>();
        self.comets.iter().flat_map(kills).collect()
    }

    /// Where everything is logged.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Copies the logs of all programs, for who looks into a failure later.
    ///
    /// # Errors
    /// They cannot be written there.
    pub fn keep_logs(&self, to: &Path) -> Result<()> {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(self.directory.path())?.flatten() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
        Ok(())
    }
}
