//! Logins in the lobby: asked of logic, retried inside the client's deadline, dropped when the client leaves.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use cluster::{
    services::{ConnectRequest, LogicError, Session},
    sim,
};
use proto::close::CloseReason;
use tokio::sync::{Semaphore, watch};

use super::{Front, client_log::Asked, lock};
use crate::{
    clock::Time,
    shard::mail::{ConnectionId, Login, Outcome, ToShard, Verdict},
};

/// Logins that logic is asked about at once. The others wait, bounded by the limit of connections before their login.
const ASKED_AT_ONCE: usize = 256;

/// First pause before logic is asked again; doubled each time up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Left of the client's deadline for the verdict to reach the shard.
const MARGIN: Duration = Duration::from_millis(200);

/// Logins under way.
pub(super) struct Logins {
    /// Whether the client has left meanwhile.
    waiting: Mutex<HashMap<ConnectionId, bool>>,
    asking: Semaphore,
    /// Calls whose answer comes too late for their client; as many as are asked at once.
    late: Semaphore,
    /// Logins that are not decided, or whose answer is still to come.
    running: watch::Sender<usize>,
}

impl Default for Logins {
    fn default() -> Logins {
        let places = || Semaphore::new(sim::bound(ASKED_AT_ONCE));
        Logins { waiting: Mutex::default(), asking: places(), late: places(), running: watch::Sender::new(0) }
    }
}

impl Logins {
    /// A client wants to log in.
    pub(super) fn begin(&self, front: &Arc<Front>, login: Login) {
        lock(&self.waiting).insert(login.id, false);
        self.running.send_modify(|running| *running += 1);
        let front = Arc::clone(front);
        tokio::spawn(async move {
            decide(&front, login).await;
            front.logins.running.send_modify(|running| *running -= 1);
        });
    }

    /// The client left the lobby.
    pub(super) fn gone(&self, id: ConnectionId) {
        if let Some(gone) = lock(&self.waiting).get_mut(&id) {
            *gone = true;
        }
    }

    /// Returns when logic owes no answer.
    pub(super) async fn idle(&self) {
        // Its sender is here.
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }

    fn is_gone(&self, id: ConnectionId) -> bool {
        lock(&self.waiting).get(&id).copied().unwrap_or(true)
    }

    /// Ends the stay; true when the client is still there.
    fn finish(&self, id: ConnectionId) -> bool {
        lock(&self.waiting).remove(&id) == Some(false)
    }
}

async fn decide(front: &Arc<Front>, login: Login) {
    let id = login.id;
    let asked = Asked::of(&login);
    let (result, late) = ask(front, login).await;
    let still_there = front.logins.finish(id) && !front.is_draining();
    if result.is_err() || !still_there {
        front.client_log.not_opened(&asked, &result);
    }
    front.metrics.login(match &result {
        Ok(_) if still_there => "accepted",
        Ok(_) | Err(None) => "client_left",
        Err(Some(LogicError::Refused { .. })) => "refused",
        Err(Some(_)) => "unavailable",
    });
    let outcome = match result {
        Ok(session) if still_there => Some(place(front, id, session)),
        Err(Some(error)) if still_there => Some(refusal(error)),
        Ok(session) => {
            front.abandoned(session);
            None
        }
        Err(_) => None,
    };
    if let Some(outcome) = outcome {
        front.outboxes.send(id.shard, ToShard::Verdict(Box::new(Verdict { id, outcome }))).await;
    }
    if let Some(late) = late {
        hear_out(front, late).await;
    }
}

/// A call of logic.
type Call<'a> = Pin<Box<dyn Future<Output = Result<Session, LogicError>> + Send + 'a>>;

/// Asks logic until it has decided; `Err(None)` when the client left first. With the call that it did not answer in
/// time, if there is one.
async fn ask(front: &Front, login: Login) -> (Result<Session, Option<LogicError>>, Option<Call<'_>>) {
    let Ok(_permit) = front.logins.asking.acquire().await else { return (Err(None), None) };
    let request = ConnectRequest {
        server: front.server.clone(),
        // A text on the wire to logic, three times as long at worst: only for those whose turn it is.
        cookie: String::from_utf8_lossy(&login.cookie).into_owned(),
        token: login.token,
        client_ip: Some(login.peer),
        transport: login.transport,
    };
    let mut pause = RETRY_MIN;
    loop {
        if front.logins.is_gone(login.id) {
            return (Err(None), None);
        }
        let left = login.deadline.since(Time::now()).saturating_sub(MARGIN);
        let mut call = front.logic.connect(request.clone());
        let error = match tokio::time::timeout(left, &mut call).await {
            Ok(Ok(session)) => return (Ok(session), None),
            Ok(Err(error @ LogicError::Refused { .. })) => return (Err(Some(error)), None),
            Ok(Err(error)) => error,
            Err(_) => {
                front.metrics.logic_failed("connect");
                let error = LogicError::Unavailable("no answer inside the handshake deadline".to_owned());
                return (Err(Some(error)), Some(call));
            }
        };
        front.metrics.logic_failed("connect");
        let left = login.deadline.since(Time::now()).saturating_sub(MARGIN);
        if left <= pause {
            return (Err(Some(error)), None);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// What logic did not say in time it may have stored all the same: that session ends when it does say so.
async fn hear_out(front: &Arc<Front>, call: Call<'_>) {
    let Ok(_place) = front.logins.late.try_acquire() else { return front.metrics.given_up("connect") };
    if let Ok(session) = call.await {
        front.abandoned(session);
    }
}

fn place(front: &Front, id: ConnectionId, session: Session) -> Outcome {
    let to = front.outboxes.owner(&session.key);
    if to == id.shard { Outcome::Open(session) } else { Outcome::Move { to, session } }
}

fn refusal(error: LogicError) -> Outcome {
    match error {
        LogicError::Refused { reason, text } => Outcome::Refuse { reason, text },
        LogicError::Overloaded => {
            let reason = CloseReason::Overloaded;
            Outcome::Refuse { reason, text: reason.text().to_owned() }
        }
        LogicError::Unavailable(_) => {
            let reason = CloseReason::ServerError;
            Outcome::Refuse { reason, text: reason.text().to_owned() }
        }
    }
}
