//! The tokio side of a run: logic, broker, sessions, job and the front, wired as in `halley`, without a port. Between
//! them, where processes of a cluster would talk, calls are slow or fail.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use broker::{Broker, MemoryBroker, MemoryLimitsConfig, metrics::BrokerMetrics};
use comet::front::{ClientLog, Front, Inbox, Metrics, Outboxes};
use contract::{
    ClientCount, ClientMessage, CometApi, ConnectRequest, Dispatch, DispatchError, LogicApi, LogicError,
    MessageReply, Renewed, Session, SessionRef,
};
use host::shutdown::Drain;
use job::{Calls, Job, JobDeps, metrics::JobMetrics};
use logic::{Logic, LogicDeps, config::LimitsConfig, metrics::LogicMetrics};
use proto::{
    close::CloseReason,
    ids::{Generation, Key, RoomId, ServerId},
};
use registry::{Fixed, Node, Registration, Registry, Service};
use seam::Random;
use session::{MemorySessions, metrics::SessionMetrics};
use tokio::time::Instant;

use crate::plan::{Plan, ServiceFaults};

/// Longest time that a slow call takes.
const SLOW_MS_MAX: usize = 900;

/// The tokio side.
pub(crate) struct Control {
    pub(crate) logic: Arc<Logic>,
    pub(crate) front: Arc<Front>,
    pub(crate) broker: Arc<MemoryBroker>,
    pub(crate) sessions: Arc<MemorySessions>,
    pub(crate) job_metrics: JobMetrics,
    pub(crate) comet_metrics: Arc<Metrics>,
    pub(crate) api: axum::Router,
    pub(crate) between: Arc<Between>,
    /// Until the drain.
    running: Option<(Job, Drain, Box<dyn Registration>)>,
}

/// What goes wrong between the services, and what was said there.
pub(crate) struct Between {
    state: Mutex<State>,
}

struct State {
    random: Random,
    faults: ServiceFaults,
    /// Calls that were slow, and calls that failed.
    slowed: u64,
    failed: u64,
    /// Who logic last said holds a key; and the first thing it should not have done with one.
    holders: BTreeMap<Key, Holder>,
    session_ttl: Duration,
    broken: Option<String>,
    /// Bodies of the clients' messages that logic published, in order, since they were last taken.
    published: Vec<bytes::Bytes>,
}

/// A session that logic stored.
struct Holder {
    generation: Generation,
    /// Until then it is there for certain.
    until: Instant,
}

impl State {
    /// Who holds a key for certain.
    fn holder(&self, key: &Key) -> Option<Generation> {
        let holder = self.holders.get(key).filter(|holder| holder.until > Instant::now());
        holder.map(|holder| holder.generation)
    }

    fn holds(&mut self, key: &Key, generation: Generation) {
        // The store counts in whole seconds.
        let until = Instant::now() + self.session_ttl - Duration::from_secs(1);
        self.holders.insert(key.clone(), Holder { generation, until });
    }
}

impl Between {
    fn new(faults: ServiceFaults, session_ttl: Duration, random: Random) -> Arc<Between> {
        let state = State {
            random,
            faults,
            slowed: 0,
            failed: 0,
            holders: BTreeMap::new(),
            session_ttl,
            broken: None,
            published: Vec::new(),
        };
        Arc::new(Between { state: Mutex::new(state) })
    }

    pub(crate) fn set_faults(&self, faults: ServiceFaults) {
        self.state().faults = faults;
    }

    pub(crate) fn take_published(&self) -> Vec<bytes::Bytes> {
        std::mem::take(&mut self.state().published)
    }

    /// What logic should not have done, if it did.
    pub(crate) fn take_broken(&self) -> Option<String> {
        self.state().broken.take()
    }

    /// Calls that were slow, and calls that failed, so far.
    pub(crate) fn injected(&self) -> (u64, u64) {
        let state = self.state();
        (state.slowed, state.failed)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pause(&self, rate: impl Fn(&ServiceFaults) -> u32) {
        let pause = {
            let mut state = self.state();
            let rate = rate(&state.faults);
            if !state.random.per_mille(rate) {
                return;
            }
            state.slowed += 1;
            Duration::from_millis(1 + state.random.below(SLOW_MS_MAX) as u64)
        };
        tokio::time::sleep(pause).await;
    }

    fn fails(&self, rate: impl Fn(&ServiceFaults) -> u32) -> bool {
        let mut state = self.state();
        let rate = rate(&state.faults);
        let fails = state.random.per_mille(rate);
        state.failed += u64::from(fails);
        fails
    }
}

/// logic as the front reaches it.
struct FarLogic {
    logic: Arc<Logic>,
    between: Arc<Between>,
}

impl FarLogic {
    async fn call<T>(&self, call: impl Future<Output = Result<T, LogicError>>) -> Result<T, LogicError> {
        self.between.pause(|faults| faults.slow_logic).await;
        if self.between.fails(|faults| faults.failing_logic) {
            return Err(LogicError::Unavailable("simulated".into()));
        }
        let result = call.await;
        self.between.pause(|faults| faults.slow_logic).await;
        result
    }
}

#[async_trait]
impl LogicApi for FarLogic {
    async fn connect(&self, request: ConnectRequest) -> Result<Session, LogicError> {
        self.call(async {
            let session = self.logic.connect(request).await?;
            if let Some(generation) = session.generation {
                self.between.state().holds(&session.key, generation);
            }
            Ok(session)
        })
        .await
    }

    async fn disconnect(&self, session: SessionRef) -> Result<bool, LogicError> {
        self.call(async {
            let ended = self.logic.disconnect(session.clone()).await?;
            let mut state = self.between.state();
            let holder = state.holder(&session.key);
            if ended && holder > session.generation {
                state.broken = Some(format!(
                    "key {}: the end of generation {:?} removed the session of {holder:?}",
                    session.key, session.generation
                ));
            } else if ended {
                state.holders.remove(&session.key);
            }
            Ok(ended)
        })
        .await
    }

    async fn renew(&self, sessions: Vec<SessionRef>) -> Result<Renewed, LogicError> {
        self.call(async {
            let renewed = self.logic.renew(sessions.clone()).await?;
            let mut state = self.between.state();
            for session in &sessions {
                if let Some(generation) = session.generation
                    && state.holder(&session.key).is_none_or(|holder| holder <= generation)
                {
                    state.holds(&session.key, generation);
                }
            }
            Ok(renewed)
        })
        .await
    }

    async fn renew_online(
        &self,
        server: ServerId,
        rooms: HashMap<RoomId, u32>,
        clients: ClientCount,
    ) -> Result<HashMap<RoomId, u32>, LogicError> {
        self.call(self.logic.renew_online(server, rooms, clients)).await
    }

    async fn receive(&self, message: ClientMessage) -> Result<MessageReply, LogicError> {
        let body = message.body.clone();
        self.call(async {
            let reply = self.logic.receive(message).await?;
            if reply == MessageReply::Room {
                self.between.state().published.push(body);
            }
            Ok(reply)
        })
        .await
    }
}

/// comet as job reaches it. A call that fails has not arrived.
struct FarComet {
    front: Arc<Front>,
    between: Arc<Between>,
}

#[async_trait]
impl CometApi for FarComet {
    async fn dispatch(&self, batch: &[Dispatch]) -> Result<(), DispatchError> {
        self.between.pause(|faults| faults.slow_comet).await;
        if self.between.fails(|faults| faults.failing_comet) {
            return Err(DispatchError::Unreachable("simulated".into()));
        }
        self.front.dispatch(batch).await
    }

    async fn kick(
        &self,
        key: Key,
        below: Option<Generation>,
        reason: CloseReason,
        text: Option<Arc<str>>,
    ) -> Result<(), DispatchError> {
        self.front.kick(key, below, reason, text).await
    }

    async fn rooms(&self) -> Result<Vec<RoomId>, DispatchError> {
        self.front.rooms().await
    }
}

impl Control {
    /// Starts everything on the runtime of this thread.
    pub(crate) async fn start(
        plan: &Plan,
        outboxes: Outboxes,
        inboxes: Vec<Inbox>,
        random: Random,
    ) -> Control {
        let registry: Arc<dyn Registry> = Arc::new(Fixed::new([]));
        let broker =
            Arc::new(MemoryBroker::new(MemoryLimitsConfig::default().limits(), BrokerMetrics::default()));
        let sessions = Arc::new(MemorySessions::new(plan.session_ttl, SessionMetrics::default()));
        sessions.start_sweeping();
        let gateway: Arc<OnceLock<Weak<FarComet>>> = Arc::default();
        let found = Arc::clone(&gateway);
        let deps = LogicDeps {
            broker: Arc::clone(&broker) as _,
            sessions: Arc::clone(&sessions) as _,
            counts: None,
            registry: Arc::clone(&registry),
            reach: Arc::new(move |_| Some(found.get()?.upgrade()? as _)),
            metrics: LogicMetrics::default(),
        };
        let logic = Arc::new(Logic::new(&plan.logic, deps));
        let between = Between::new(plan.services, plan.session_ttl, random);
        let far_logic = FarLogic { logic: Arc::clone(&logic), between: Arc::clone(&between) };
        let server = ServerId::new("comet:3109");
        let comet_metrics = Metrics::new(plan.shards);
        let front = Front::start(
            server.clone(),
            outboxes,
            inboxes,
            Arc::new(far_logic),
            Arc::clone(&comet_metrics),
            ClientLog::default(),
            plan.push_max,
        );
        let registration =
            registry.register(Node::new(Service::Comet, server.clone())).await.expect("it is in memory");
        let far_comet = Arc::new(FarComet { front: Arc::clone(&front), between: Arc::clone(&between) });
        // It is set here only, so it cannot be set yet.
        let _ = gateway.set(Arc::downgrade(&far_comet));
        let far_comet: Arc<dyn CometApi> = far_comet;
        let connect: job::Connect = Box::new(move |node| {
            (node.server == server).then(|| job::Comet {
                server: server.clone(),
                api: Arc::clone(&far_comet),
                calls: Calls::Batches,
                stream: None,
            })
        });
        let (job_metrics, drain) = (JobMetrics::default(), Drain::new());
        let deps = JobDeps {
            group: job::GROUP.to_owned(),
            broker: Arc::clone(&broker) as _,
            registry,
            connect,
            metrics: job_metrics.clone(),
            drain: drain.clone(),
        };
        let job = job::start(&plan.job, deps);
        let api = logic::router(Arc::clone(&logic), &plan.logic, &LimitsConfig::default());
        Control {
            logic,
            front,
            broker,
            sessions,
            job_metrics,
            comet_metrics,
            api,
            between,
            running: Some((job, drain, registration)),
        }
    }

    /// The session store loses everything.
    pub(crate) fn wipe(&self) {
        self.sessions.lose_all();
        self.between.state().holders.clear();
    }

    /// The order in which `halley` ends: pushes first, then the place in the registry, then the clients.
    pub(crate) fn drain(
        &mut self,
        spread: Duration,
        timeout: Duration,
    ) -> impl Future<Output = bool> + use<> {
        let (broker, front, running) =
            (Arc::clone(&self.broker), Arc::clone(&self.front), self.running.take());
        async move {
            let Some((job, drain, registration)) = running else { return false };
            drain.begin();
            broker.close().await;
            job.stopped().await;
            registration.deregister().await;
            front.drain(spread, timeout).await
        }
    }
}
