//! Comets, logics and a job in one process that talk over gRPC as processes of their own do.

use std::{
    net::SocketAddr,
    sync::{Arc, mpsc::sync_channel},
    thread,
    time::Duration,
};

use axum::Router;
use broker::{MemoryBroker, MemoryLimits, metrics::BrokerMetrics};
use comet::{Comet, config::CometConfig, front::logics::Logics, tls::CometTls};
use config::{Addr, Addrs, Bounded, load};
use contract::{LogicApi, Transport};
use host::{dial::Dial, shutdown::Drain};
use job::{Job, JobDeps, config::JobConfig, metrics::JobMetrics};
use logic::{
    Logic, LogicDeps, Push, PushTarget, Reach,
    config::{LimitsConfig, LogicConfig},
    metrics::LogicMetrics,
    reach_by_grpc,
    tls::Started,
};
use proto::{
    ids::{Key, RoomId, ServerId},
    op::Op,
};
use registry::{Fixed, Node, Registration, Registry, Service};
use session::{MemorySessions, metrics::SessionMetrics};
use testkit::{client::Client, clock};
use tokio::{
    runtime::Runtime,
    sync::{oneshot, watch},
};

/// Longest time of a call.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// What the logics share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) registry: Arc<Fixed>,
    pub(crate) sessions: Arc<MemorySessions>,
    pub(crate) broker: Arc<MemoryBroker>,
    pub(crate) logic_metrics: LogicMetrics,
}

impl Shared {
    pub(crate) fn new() -> Shared {
        let limits = MemoryLimits { bytes: 64 << 20, entries: 100_000 };
        Shared {
            registry: Arc::new(Fixed::new([])),
            sessions: Arc::new(MemorySessions::new(Duration::from_secs(1800), SessionMetrics::default())),
            broker: Arc::new(MemoryBroker::new(limits, BrokerMetrics::default())),
            logic_metrics: LogicMetrics::default(),
        }
    }

    pub(crate) fn deps(&self, reach: Reach) -> LogicDeps {
        LogicDeps {
            broker: Arc::clone(&self.broker) as _,
            sessions: Arc::clone(&self.sessions) as _,
            counts: None,
            registry: Arc::clone(&self.registry) as _,
            reach,
            metrics: self.logic_metrics.clone(),
        }
    }
}

pub(crate) fn logic_config() -> LogicConfig {
    let sets = ["httpServer.addr=127.0.0.1:0", "rpcServer.addr=127.0.0.1:0"].map(String::from);
    load(None, &sets, &[]).expect("it can be read").config
}

/// A logic on a thread of its own, which can be killed.
pub(crate) struct LogicProcess {
    pub(crate) logic: Arc<Logic>,
    registration: Box<dyn Registration>,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl LogicProcess {
    /// `reach`: how it kicks; none: by gRPC.
    pub(crate) fn start(shared: &Shared, reach: Option<Reach>) -> LogicProcess {
        let (stop, stopped) = oneshot::channel();
        let (started, start_of) = sync_channel(1);
        let shared = shared.clone();
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let reach = reach.unwrap_or_else(|| reach_by_grpc(&*shared.registry, Dial::clear(LIMIT)));
                let deps = shared.deps(reach);
                let server = logic::start(
                    &logic_config(),
                    &LimitsConfig::default(),
                    deps,
                    Router::new(),
                    Drain::new(),
                    Started::default(),
                )
                .await
                .expect("free ports");
                let address = server.rpc_addrs()[0];
                let node = Node::new(Service::Logic, ServerId::new(address.to_string()));
                let registration = shared.registry.register(node).await.expect("it is in memory");
                started.send((server.logic(), registration)).expect("somebody waits");
                let _ = stopped.await;
            });
        });
        let (logic, registration) = start_of.recv().expect("it starts");
        LogicProcess { logic, registration, stop, thread }
    }

    /// Ends at once; the registry keeps it.
    pub(crate) fn kill(self) -> Box<dyn Registration> {
        self.stop.send(()).expect("it runs");
        self.thread.join().expect("it ends");
        self.registration
    }
}

/// A cluster.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) shared: Shared,
    pub(crate) comets: Vec<Comet>,
    pub(crate) job_metrics: JobMetrics,
    _registrations: Vec<Box<dyn Registration>>,
    _job: Job,
}

impl World {
    pub(crate) fn start(comets: usize) -> World {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let shared = Shared::new();
        let mut config = CometConfig::default();
        config.tcp.bind = Addrs::new(vec![([127, 0, 0, 1], 0).into()]).expect("an address");
        config.websocket.bind = config.tcp.bind.clone();
        config.rpc_server.addr = Addr::loopback(0);
        config.reactor.shards = Bounded::of::<2>();
        config.protocol.renew_interval = config::BoundedDuration::millis::<1000>();
        let job_metrics = JobMetrics::default();
        let (started, registrations, job) = runtime.block_on(async {
            let (mut started, mut registrations) = (Vec::new(), Vec::new());
            for _ in 0..comets {
                let logics: Arc<dyn LogicApi> = Arc::new(Logics::new(
                    shared.registry.watch(),
                    Dial::clear(LIMIT),
                    watch::channel(true).1,
                ));
                let metrics = Comet::metrics(&config);
                let name = |rpc: SocketAddr| ServerId::new(rpc.to_string());
                let comet = Comet::start(&config, name, 50_000, logics, metrics, CometTls::default())
                    .await
                    .expect("a comet");
                let node = Node::new(Service::Comet, comet.front.server().clone());
                registrations.push(shared.registry.register(node).await.expect("it is in memory"));
                started.push(comet);
            }
            let config = JobConfig::default();
            let deps = JobDeps {
                group: job::GROUP.to_owned(),
                broker: Arc::clone(&shared.broker) as _,
                registry: Arc::clone(&shared.registry) as _,
                connect: job::connect_by_grpc(&config, None),
                metrics: job_metrics.clone(),
                drain: Drain::new(),
            };
            let job = job::start(&config, deps);
            (started, registrations, job)
        });
        World { runtime, shared, comets: started, job_metrics, _registrations: registrations, _job: job }
    }

    /// A client of a comet, logged in with this body.
    pub(crate) fn login(&self, comet: usize, body: &str) -> Client {
        let mut client = self.connect(comet);
        client.send(Op::AUTH.0, 7, body);
        assert_eq!(client.frame().op, Op::AUTH_REPLY.0);
        client
    }

    pub(crate) fn connect(&self, comet: usize) -> Client {
        Client::raw(Transport::Tcp, self.comets[comet].tcp[0])
    }

    pub(crate) fn push(&self, logic: &Logic, target: PushTarget, body: &str) {
        let push = Push { target, op: Op(1000), body: body.to_owned().into() };
        let offline = self.runtime.block_on(logic.push(push)).expect("the broker takes it");
        assert!(offline.keys.is_empty(), "{offline:?}");
    }

    pub(crate) fn push_to_key(&self, logic: &Logic, key: &str, body: &str) {
        self.push(logic, PushTarget::Keys(vec![Key::new(key)]), body);
    }

    /// The comet of each key, as the session store has it.
    pub(crate) fn servers(&self, keys: &[Key]) -> Vec<Option<ServerId>> {
        use session::Sessions as _;
        self.runtime.block_on(self.shared.sessions.servers_of_keys(keys)).expect("it is in memory")
    }
}

/// Waits for something that takes a moment to come true.
#[track_caller]
pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    clock::within(clock::PATIENCE * 2, what, || check().then_some(()));
}

pub(crate) fn room(name: &str) -> RoomId {
    RoomId::parse(name).expect("a room")
}
