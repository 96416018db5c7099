//! Presents all logics of the cluster as one. Calls go round, and a logic that does not answer is avoided for a while.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use contract::{
    ClientCount, ClientMessage, ConnectRequest, LogicApi, LogicError, MessageReply, Renewed, Session,
    SessionRef,
};
use host::dial::Dial;
use proto::ids::{RoomId, ServerId};
use registry::{NodeSet, Service};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::{
    lock,
    logic_client::{GrpcLogic, NotDone},
};

/// How long a logic that did not answer is asked last.
const AVOIDED: Duration = Duration::from_secs(3);

/// How long a login waits at most until this comet's entry is in the registry. After that comet serves its clients all
/// the same, though pushes may not find them.
const REGISTRATION: Duration = Duration::from_secs(3);

/// The logics that a registry knows, over gRPC.
///
/// If one does not answer, the call goes to the next at once if it is safe to repeat. Logins and clients' messages are
/// not safe: for a login without a key each logic makes a session of its own, and one that was slow may store it last.
/// They go on only if they certainly never left this process.
pub struct Logics {
    known: Mutex<Known>,
    dial: Dial,
    is_known: watch::Receiver<bool>,
}

struct Known {
    nodes: watch::Receiver<Arc<NodeSet>>,
    /// Whether `logics` were read from `nodes` at least once.
    is_read: bool,
    logics: Vec<Member>,
    next: usize,
}

struct Member {
    server: ServerId,
    client: GrpcLogic,
    avoided_until: Option<Instant>,
}

/// Which logics are asked first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    /// The one whose turn it is.
    Any,
    /// Halley's before goim's. goim's know no generations: they end or renew a session whoever has it by now.
    Ours,
    /// Only Halley's, if there is one. The call may come late, and then only a logic that knows generations keeps it
    /// from a newer session.
    OnlyOurs,
}

impl Logics {
    /// The logics in `nodes`, as they come and go; called as `dial` says. A login waits a limited time
    /// until this comet is in the registry, because jobs put aside what is for a comet they do not know. Needs a tokio
    /// runtime.
    pub fn new(nodes: watch::Receiver<Arc<NodeSet>>, dial: Dial, is_known: watch::Receiver<bool>) -> Logics {
        let known = Known { nodes, is_read: false, logics: Vec::new(), next: 0 };
        Logics { known: Mutex::new(known), dial, is_known }
    }

    /// The logics in the order in which a call asks them now.
    fn turn(&self, first: First) -> Vec<(ServerId, GrpcLogic)> {
        let known = &mut *lock(&self.known);
        if !known.is_read || known.nodes.has_changed().unwrap_or(false) {
            known.read(&self.dial);
        }
        if known.logics.is_empty() {
            return Vec::new();
        }
        known.next = (known.next + 1) % known.logics.len();
        let (before, from) = known.logics.split_at(known.next);
        let now = Instant::now();
        let mut all: Vec<&Member> = from.iter().chain(before).collect();
        if first == First::OnlyOurs && all.iter().any(|logic| !logic.client.is_goims()) {
            all.retain(|logic| !logic.client.is_goims());
        }
        all.sort_by_key(|logic| {
            let is_avoided = logic.avoided_until.is_some_and(|until| until > now);
            (is_avoided, first == First::Ours && logic.client.is_goims())
        });
        all.into_iter().map(|logic| (logic.server.clone(), logic.client.clone())).collect()
    }

    fn answered(&self, server: &ServerId, does: bool) {
        let mut known = lock(&self.known);
        let Some(logic) = known.logics.iter_mut().find(|logic| logic.server == *server) else { return };
        logic.avoided_until = (!does).then(|| Instant::now() + AVOIDED);
    }

    /// Calls one logic after the other as long as [`NotDone`] allows it.
    async fn call<A: Clone, T, F: Future<Output = Result<T, NotDone>>>(
        &self,
        first: First,
        argument: A,
        call: impl Fn(GrpcLogic, A) -> F,
    ) -> Result<T, LogicError> {
        let mut unavailable = LogicError::Unavailable("no logic is known".to_owned());
        for (server, logic) in self.turn(first) {
            let result = call(logic, argument.clone()).await;
            let is_unavailable =
                matches!(&result, Err(not) if matches!(not.error, LogicError::Unavailable(_)));
            self.answered(&server, !is_unavailable);
            match result {
                Err(NotDone { error, goes_on: true }) => unavailable = error,
                result => return result.map_err(|not| not.error),
            }
        }
        Err(unavailable)
    }
}

impl Known {
    /// Reads the present set of logics and keeps the connections it has.
    fn read(&mut self, dial: &Dial) {
        let nodes = Arc::clone(&self.nodes.borrow_and_update());
        self.is_read = true;
        self.logics.retain(|logic| {
            let stays = nodes.get(Service::Logic, &logic.server).is_some();
            if !stays {
                info!(logic = %logic.server, "it left the registry");
            }
            stays
        });
        for node in nodes.of(Service::Logic) {
            if self.logics.iter().any(|logic| logic.server == node.server) {
                continue;
            }
            match GrpcLogic::new(node.server.as_str(), dial) {
                Ok(client) => {
                    info!(logic = %node.server, "asking it from now on");
                    let server = node.server.clone();
                    self.logics.push(Member { server, client, avoided_until: None });
                }
                Err(error) => {
                    warn!(logic = %node.server, "the registry names no address, it is left out: {error}")
                }
            }
        }
    }
}

#[async_trait]
impl LogicApi for Logics {
    async fn connect(&self, request: ConnectRequest) -> Result<Session, LogicError> {
        let _ = timeout(REGISTRATION, self.is_known.clone().wait_for(|is| *is)).await;
        self.call(First::Any, request, async |logic, request| logic.try_connect(request).await).await
    }

    async fn disconnect(&self, session: SessionRef) -> Result<bool, LogicError> {
        let first = if session.generation.is_some() { First::OnlyOurs } else { First::Ours };
        self.call(first, session, async |logic, session| {
            logic.disconnect(session).await.map_err(NotDone::repeatable)
        })
        .await
    }

    async fn renew(&self, sessions: Vec<SessionRef>) -> Result<Renewed, LogicError> {
        self.call(First::Ours, sessions, async |logic, sessions| {
            logic.renew(sessions).await.map_err(NotDone::repeatable)
        })
        .await
    }

    async fn renew_online(
        &self,
        server: ServerId,
        rooms: HashMap<RoomId, u32>,
        clients: ClientCount,
    ) -> Result<HashMap<RoomId, u32>, LogicError> {
        self.call(First::Any, (server, rooms, clients), async |logic, (server, rooms, clients)| {
            logic.renew_online(server, rooms, clients).await.map_err(NotDone::repeatable)
        })
        .await
    }

    async fn receive(&self, message: ClientMessage) -> Result<MessageReply, LogicError> {
        self.call(First::Any, message, async |logic, message| logic.try_receive(message).await).await
    }
}

#[cfg(test)]
mod tests {
    use contract::{Arrival, Transport};
    use registry::{Fixed, Registry};

    use super::*;

    fn login() -> ConnectRequest {
        ConnectRequest {
            server: ServerId::new("a:1"),
            cookie: String::new(),
            token: "{}".into(),
            client_ip: None,
            transport: Transport::Tcp,
            arrival: Arrival::ago(Duration::ZERO, Instant::now().into_std()),
            wanted_until_us: None,
        }
    }

    /// A client that was told of its login before job knew its comet missed what was pushed to it at once.
    #[tokio::test(start_paused = true)]
    async fn no_login_is_asked_for_before_this_comet_is_registered() {
        let (registered, is_registered) = watch::channel(false);
        let logics = Logics::new(Fixed::new([]).watch(), Dial::clear(Duration::from_secs(1)), is_registered);
        let waits = async |bound| timeout(bound, logics.connect(login())).await.is_err();
        assert!(waits(REGISTRATION - Duration::from_secs(1)).await);
        assert!(!waits(REGISTRATION + Duration::from_secs(1)).await, "not for ever");
        let (asked, ()) = tokio::join!(waits(Duration::from_secs(1)), async {
            registered.send_replace(true);
        });
        assert!(!asked);
        assert!(!waits(Duration::from_millis(1)).await);
    }
}
