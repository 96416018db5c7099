//! logic: decides logins, keeps sessions and counts, takes pushes and clients' messages.
//!
//! [`Logic`] is the service itself, which comet calls in process through [`LogicApi`]; [`start`] also serves it over
//! HTTP (for backends and operators) and gRPC (for comets elsewhere). logic holds no connection of a client and sends
//! nothing to clients itself. It hands what is to be delivered to the broker, and tells a comet whom to close
//! ([`Reach`]).

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

mod auth;
mod authority;
pub mod config;
mod counts;
mod devices;
mod generation;
mod halley_rpc;
mod http;
mod message;
pub mod metrics;
mod nodes;
mod push;
mod reach;
mod replaced;
mod rpc;
mod start;
pub mod tls;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use contract::{
    ClientCount, ClientMessage, ConnectRequest, LogicApi, LogicError, MessageReply, Renewed, Session,
    SessionRef,
};
use proto::{
    close::CloseReason,
    ids::{Generation, Key, RoomId, ServerId},
};
use registry::{Node, NodeSet, Registry, Service};
use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

use self::{
    auth::Auth,
    counts::RoomCounts,
    generation::Generations,
    nodes::{Chooser, Instance},
    replaced::Replaced,
};
pub use self::{
    devices::{KickFailure, Reach},
    halley_rpc::HalleyRpc,
    http::router,
    nodes::{Backoff, Nodes},
    push::{Offline, Push, PushFailure, PushTarget},
    reach::reach_by_grpc,
    rpc::{AllRooms, NodesApi, RpcLogic},
    start::{LogicServer, StartError, start},
};
use broker::Broker;
use session::{NewSession, Put, Renewal, Sessions, SessionsUnavailable, counts::Counts};

use crate::{
    config::{ClientMessages, LogicConfig},
    metrics::{LogicMetrics, LoginResult},
};

/// What logic works with.
#[derive(Clone)]
pub struct LogicDeps {
    /// Where accepted pushes go.
    pub broker: Arc<dyn Broker>,
    /// Who is where.
    pub sessions: Arc<dyn Sessions>,
    /// People of every comet, where every logic finds them; none if there is only one logic.
    pub counts: Option<Arc<dyn Counts>>,
    /// Which comets there are.
    pub registry: Arc<dyn Registry>,
    /// How to reach the comet of a session that logic wants to end.
    pub reach: Reach,
    /// What logic measures.
    pub metrics: LogicMetrics,
}

/// The service logic.
pub struct Logic {
    auth: Auth,
    client_messages: ClientMessages,
    heartbeat: Duration,
    chooser: Chooser,
    broker: Arc<dyn Broker>,
    sessions: Arc<dyn Sessions>,
    counts: Option<Arc<dyn Counts>>,
    nodes: watch::Receiver<Arc<NodeSet>>,
    reach: Reach,
    replaced: Arc<Replaced>,
    room_counts: Mutex<RoomCounts>,
    generations: Generations,
    metrics: LogicMetrics,
}

impl Logic {
    /// Makes the service. Nobody can call it over the network yet.
    pub fn new(config: &LogicConfig, deps: LogicDeps) -> Self {
        let LogicDeps { broker, sessions, counts, registry, reach, metrics } = deps;
        let (nodes, reach_of, sessions_of) = (registry.watch(), Arc::clone(&reach), Arc::clone(&sessions));
        let replaced = Replaced::new(reach_of, metrics.clone(), sessions_of, nodes.clone());
        Logic {
            auth: Auth::new(config.auth_mode()),
            client_messages: config.client_messages,
            heartbeat: config.node.heartbeat_deadline(),
            chooser: Chooser::new(config),
            broker,
            sessions,
            counts,
            nodes,
            replaced: Arc::new(replaced),
            reach,
            room_counts: Mutex::default(),
            generations: Generations::default(),
            metrics,
        }
    }

    /// Rooms with anybody in them, over all comets.
    pub fn room_count(&self) -> usize {
        self.room_counts().room_count()
    }

    async fn login(&self, request: ConnectRequest) -> Result<Session, (LoginResult, LogicError)> {
        let login = self.auth.login(&request).map_err(|error| (LoginResult::Refused, error))?;
        let mid = login.mid;
        let key = login.key.unwrap_or_else(invented_key);
        let now_us = self.sessions.now_us();
        if request.wanted_until_us.is_some_and(|until| until < now_us) {
            let error = LogicError::Unavailable("its comet waits for the answer no more".to_owned());
            return Err((LoginResult::Late, error));
        }
        let generation = self.generations.of(&request, now_us);
        let session = NewSession { mid, key: key.clone(), server: request.server.clone(), generation };
        let unanswered = self.replaced.unanswered(&key);
        let put = self.sessions.put(session).await;
        unanswered.end(!matches!(put, Err(SessionsUnavailable::Unknown(_))));
        match put {
            Ok(Put::Stored { previous, generation }) => {
                // If both logins are on one comet, that comet itself closes the old connection.
                if let Some(previous) = previous.filter(|previous| previous.server != request.server) {
                    self.replaced.close(previous.server, key.clone(), generation);
                }
                Ok(Session {
                    mid,
                    key,
                    room: login.room,
                    rooms: login.rooms,
                    accepts: login.accepts,
                    heartbeat: self.heartbeat,
                    generation: Some(generation),
                })
            }
            Ok(Put::Superseded { .. }) => {
                let reason = CloseReason::Replaced;
                let text = reason.text().to_owned();
                Err((LoginResult::Superseded, LogicError::Refused { reason, text }))
            }
            // A client that reads "replaced" stays away. This one has to come again, and then gets in.
            Ok(Put::Undecided { .. }) => {
                let (reason, text) =
                    (CloseReason::ServerError, "which login is newer is not known".to_owned());
                Err((LoginResult::Undecided, LogicError::Refused { reason, text }))
            }
            Err(error) => Err((LoginResult::Unavailable, LogicError::Unavailable(error.to_string()))),
        }
    }

    /// What the comets reported about people, without the comets that have fallen silent.
    fn room_counts(&self) -> MutexGuard<'_, RoomCounts> {
        let mut counts = self.room_counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.expire(Instant::now());
        counts
    }

    /// Every comet with its clients: what it reported here, or what the registry says if that is newer.
    fn comets<T>(&self, use_them: impl FnOnce(&[(&Node, ClientCount)]) -> T) -> T {
        let nodes = Arc::clone(&self.nodes.borrow());
        let counts = self.room_counts();
        let comets: Vec<(&Node, ClientCount)> = nodes
            .of(Service::Comet)
            .map(|node| (&**node, counts.clients(&node.server).unwrap_or(node.clients)))
            .collect();
        drop(counts);
        use_them(&comets)
    }

    fn instances(&self) -> Vec<Instance> {
        self.comets(|comets| comets.iter().map(|(node, clients)| Instance::new(node, *clients)).collect())
    }
}

/// Invents a key for a client that gave none. No other client has it.
fn invented_key() -> Key {
    match seam::name() {
        Some(name) => Key::new(format!("invented-{name:016x}")),
        None => Key::new(Uuid::new_v4().to_string()),
    }
}

#[async_trait]
impl LogicApi for Logic {
    async fn connect(&self, request: ConnectRequest) -> Result<Session, LogicError> {
        let login = self.login(request).await;
        let result = login.as_ref().map_or_else(|(result, _)| *result, |_| LoginResult::Ok);
        self.metrics.logins.of(result).inc();
        login.map_err(|(_, error)| error)
    }

    async fn disconnect(&self, session: SessionRef) -> Result<bool, LogicError> {
        self.sessions.end(&session).await.map_err(|error| LogicError::Unavailable(error.to_string()))
    }

    async fn renew(&self, sessions: Vec<SessionRef>) -> Result<Renewed, LogicError> {
        let renewals = self.sessions.renew(&sessions).await;
        let renewals = renewals.map_err(|error| LogicError::Unavailable(error.to_string()))?;
        let superseded = sessions.into_iter().zip(renewals).filter_map(|(session, renewal)| match renewal {
            // On the same comet the newer login will close the old one, or it has ended already.
            Renewal::Superseded { by } if by.server != session.server => {
                // A session can be superseded although its own generation is higher: the clock was ahead when it began.
                let own = session.generation.map_or(0, |own| own.0.saturating_add(1));
                Some((session.key, Generation(by.generation.0.max(own))))
            }
            Renewal::Superseded { .. } | Renewal::Current => None,
        });
        Ok(Renewed {
            incarnation: self.sessions.incarnation(),
            superseded: superseded.collect(),
            now_us: Some(self.sessions.now_us()).filter(|now_us| *now_us != 0),
        })
    }

    async fn renew_online(
        &self,
        server: ServerId,
        rooms: HashMap<RoomId, u32>,
        clients: ClientCount,
    ) -> Result<HashMap<RoomId, u32>, LogicError> {
        self.keep_counts(&server, &rooms).await;
        let mut everybody = rooms.clone();
        let mut counts = self.room_counts();
        counts.report(server, rooms, clients, Instant::now());
        counts.fill(&mut everybody);
        Ok(everybody)
    }

    async fn receive(&self, message: ClientMessage) -> Result<MessageReply, LogicError> {
        self.take_message(message).await
    }
}

impl AllRooms for Logic {
    fn all_rooms(&self) -> HashMap<RoomId, u32> {
        self.room_counts().rooms()
    }
}

impl NodesApi for Logic {
    fn nodes(&self, platform: &str, client: Option<IpAddr>) -> Nodes {
        self.comets(|comets| self.chooser.choose(comets, platform, client))
    }
}
