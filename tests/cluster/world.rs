//! A cluster of one's own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use services::{Authority, Etcd, Kafka, Login, Redis, TlsFiles};
pub(crate) use testkit::queue::Queue;

use crate::harness::{PATIENCE, Server, eventually, tls::Certificate};

/// Two comets, two logics, two jobs and what they stand on. The programs end first.
pub(crate) struct Cluster {
    pub(crate) comets: Vec<Server>,
    pub(crate) logics: Vec<Server>,
    pub(crate) jobs: Vec<Server>,
    pub(crate) redis: Redis,
    pub(crate) etcd: Etcd,
    pub(crate) kafka: Option<Kafka>,
    queue: Queue,
    encryption: Option<Encryption>,
}

/// The certificate of the programs of a cluster in which everything is encrypted.
struct Encryption {
    own: TlsFiles,
    /// Its files are there as long as this.
    _authority: Authority,
}

/// By which the programs of such a cluster log in, to Redis and to Kafka.
pub(crate) const LOGIN: Login = Login { user: "halley", password: "sesame-opens" };

/// What every program is told: a drain that does not wait, ports that the system chooses.
const COMET: [&str; 8] = [
    "tcp.bind=127.0.0.1:0",
    "websocket.bind=127.0.0.1:0",
    "rpcServer.addr=127.0.0.1:0",
    "admin.addr=127.0.0.1:0",
    "reactor.shards=2",
    "reactor.ringEntries=256",
    "drain.spread=0s",
    "drain.timeout=5s",
];
const LOGIC: [&str; 2] = ["httpServer.addr=127.0.0.1:0", "rpcServer.addr=127.0.0.1:0"];
const JOB: [&str; 1] = ["admin.addr=127.0.0.1:0"];

impl Cluster {
    /// Pushes go through Redis streams.
    #[track_caller]
    pub(crate) fn start() -> Cluster {
        Cluster::start_on(Queue::Stream)
    }

    /// Two of each, ready, everybody known to everybody.
    #[track_caller]
    pub(crate) fn start_on(queue: Queue) -> Cluster {
        Cluster::start_with(queue, &[])
    }

    /// The same with more for the comets.
    #[track_caller]
    pub(crate) fn start_with(queue: Queue, comet: &[&str]) -> Cluster {
        let mut cluster = Cluster::servers_only(queue);
        cluster.fill(comet);
        cluster
    }

    /// Starts two of each beside its servers.
    #[track_caller]
    pub(crate) fn fill(&mut self, comet: &[&str]) {
        self.logics = (0..2).map(|_| self.logic(&[])).collect();
        self.jobs = (0..2).map(|_| self.job(&[])).collect();
        self.comets = (0..2).map(|_| self.comet(comet)).collect();
        for server in self.logics.iter().chain(&self.jobs).chain(&self.comets) {
            server.expect_ready();
        }
        for logic in &self.logics {
            expect_comets(logic, 2);
        }
        for job in &self.jobs {
            eventually("job dispatches to both comets", || {
                (job.log().matches("dispatching to it").count() >= 2).then_some(())
            });
        }
    }

    /// Two of each and their servers, which speak TLS only, want a certificate or a login, and trust one authority.
    #[track_caller]
    pub(crate) fn start_encrypted(queue: Queue) -> Cluster {
        let authority = Authority::new();
        let user = format!("user {} on >{} ~* &* +@all", LOGIN.user, LOGIN.password);
        let mut cluster = Cluster {
            comets: Vec::new(),
            logics: Vec::new(),
            jobs: Vec::new(),
            redis: Redis::start_with_tls(&authority, &["user default off", &user]),
            etcd: Etcd::start_with_tls(&authority),
            kafka: (queue == Queue::Kafka).then(|| Kafka::start_with_tls(&authority, LOGIN)),
            queue,
            encryption: Some(Encryption { own: authority.sign("programs"), _authority: authority }),
        };
        cluster.fill(&[]);
        cluster
    }

    /// Redis, etcd and, where it is the queue, Kafka.
    pub(crate) fn servers_only(queue: Queue) -> Cluster {
        let kafka = (queue == Queue::Kafka).then(Kafka::start);
        Cluster { kafka, ..Cluster::servers(queue) }
    }

    /// Redis and etcd.
    fn servers(queue: Queue) -> Cluster {
        Cluster {
            comets: Vec::new(),
            logics: Vec::new(),
            jobs: Vec::new(),
            redis: Redis::start(),
            etcd: Etcd::start(),
            kafka: None,
            queue,
            encryption: None,
        }
    }

    /// Etcd, Redis and a Kafka that goim's programs can speak with.
    pub(crate) fn servers_for_goim() -> Cluster {
        Cluster { kafka: Some(Kafka::start_for_goim()), ..Cluster::servers(Queue::Kafka) }
    }

    /// One more comet; it need not be ready yet.
    #[track_caller]
    pub(crate) fn comet(&self, sets: &[&str]) -> Server {
        let mut told = self.discovery();
        let Some(Encryption { own, .. }) = &self.encryption else {
            return start("comet", COMET.into_iter().chain(sets.iter().copied()), &told);
        };
        let certificate = Certificate { chain: own.cert.clone(), key: own.key.clone() };
        told.extend(certificate.sets_in(""));
        let mut comet = start("comet", COMET.into_iter().chain(sets.iter().copied()), &told);
        comet.take_clients_over_tls(&fs::read(&own.ca).expect("a file"));
        comet
    }

    /// One more logic.
    #[track_caller]
    pub(crate) fn logic(&self, sets: &[&str]) -> Server {
        start("logic", LOGIC.into_iter().chain(sets.iter().copied()), &self.stores())
    }

    /// One more job.
    #[track_caller]
    pub(crate) fn job(&self, sets: &[&str]) -> Server {
        start("job", JOB.into_iter().chain(sets.iter().copied()), &self.stores())
    }

    /// What every program is told of the others.
    fn discovery(&self) -> Vec<String> {
        let mut sets = vec![format!("discovery.nodes={}", self.etcd.addr())];
        if let Some(Encryption { own, .. }) = &self.encryption {
            sets.extend(with_tls("discovery", own));
            let TlsFiles { ca, cert, key, .. } = own;
            sets.extend(
                [("ca", ca), ("cert", cert), ("key", key)].map(|(name, file)| format!("tls.{name}={file}")),
            );
        }
        sets
    }

    fn stores(&self) -> Vec<String> {
        let kafka = self.kafka.as_ref().map(Kafka::addr);
        let mut sets = self.queue.settings(&self.redis.addr(), kafka.as_deref());
        if let Some(Encryption { own, .. }) = &self.encryption {
            sets.extend(with_tls("redis", own));
            sets.extend([format!("redis.user={}", LOGIN.user), format!("redis.auth={}", LOGIN.password)]);
        }
        if let (Some(Encryption { own, .. }), Some(_)) = (&self.encryption, &self.kafka) {
            sets.extend(with_tls("kafka", own));
            sets.push("kafka.sasl=scram-sha-256".to_owned());
            sets.extend([format!("kafka.user={}", LOGIN.user), format!("kafka.password={}", LOGIN.password)]);
        }
        sets.extend(self.discovery());
        sets
    }
}

/// The keys of TLS in a section.
fn with_tls(section: &str, own: &TlsFiles) -> Vec<String> {
    let TlsFiles { ca, cert, key, .. } = own;
    [("tls", "true"), ("ca", ca), ("cert", cert), ("key", key)]
        .map(|(name, value)| format!("{section}.{name}={value}"))
        .to_vec()
}

/// Kills a program, as a crash does.
#[track_caller]
pub(crate) fn kill(server: &mut Server) {
    server.signal(Signal::KILL);
    assert_eq!(server.exit_status(PATIENCE), None, "{} ended by itself", server.name);
}

/// Waits until a logic knows of so many comets.
#[track_caller]
pub(crate) fn expect_comets(logic: &Server, count: usize) {
    eventually("logic knows the comets", || {
        let instances = logic.get("/goim/nodes/instances").json();
        (instances["data"].as_array().map(Vec::len) == Some(count)).then_some(())
    });
}

#[track_caller]
fn start<'a>(name: &str, sets: impl Iterator<Item = &'a str>, more: &[String]) -> Server {
    let sets = more.iter().cloned().chain(sets.map(str::to_owned));
    Server::start_program(&program(name), sets.flat_map(|set| ["--set".to_owned(), set]))
}

/// A program of the workspace, built beside `halley`.
#[track_caller]
pub(crate) fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_halley")).with_file_name(name);
    assert!(
        path.is_file(),
        "{} is not built: cargo build --workspace --features halley-comet/programs,halley-logic/programs,halley-job/programs \
         (`make test` does it)",
        path.display()
    );
    path
}
