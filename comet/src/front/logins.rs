//! Asks logic about the logins in the lobby, again until the client's deadline, and drops those whose client leaves.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use contract::{Arrival, ConnectRequest, LogicError, Session};
use proto::close::CloseReason;
use seam::{RandomState, Time};
use shard::mail::{ConnectionId, Login, Outcome, ToShard, Verdict};
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::Instant,
};

use super::{Front, client_log::Asked, lock};

/// Most logins that logic is asked about at once. The others wait; the limit of connections before their login bounds
/// them.
const ASKED_AT_ONCE: usize = 256;

/// First pause before logic is asked again. It doubles each time up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// If the last look for the client is older than this, the front has the shard look again before it asks logic. A shard
/// that does not stand still looks as often by itself.
const LOOK_AFTER: Duration = Duration::from_millis(100);

/// The part of the client's deadline that is kept for the verdict to reach the shard.
const MARGIN: Duration = Duration::from_millis(200);

/// Logins under way.
pub(super) struct Logins {
    waiting: Mutex<HashMap<ConnectionId, Waiting, RandomState>>,
    asking: Semaphore,
    /// Calls whose answer comes too late for their client; as many as logic is asked at once.
    late: Semaphore,
    /// Number of logins that are not decided or whose answer has not come.
    running: watch::Sender<usize>,
}

/// What the shard says of a client whose login is under way.
#[derive(Default)]
struct Waiting {
    is_gone: bool,
    /// Gets a value if the client is still there; dropped if it has left.
    looked: Option<oneshot::Sender<()>>,
}

impl Default for Logins {
    fn default() -> Logins {
        let places = || Semaphore::new(seam::bound(ASKED_AT_ONCE));
        Logins { waiting: Mutex::default(), asking: places(), late: places(), running: watch::Sender::new(0) }
    }
}

impl Logins {
    /// A client wants to log in.
    pub(super) fn begin(&self, front: &Arc<Front>, login: Login) {
        lock(&self.waiting).insert(login.id, Waiting::default());
        self.running.send_modify(|running| *running += 1);
        let front = Arc::clone(front);
        tokio::spawn(async move {
            decide(&front, login).await;
            front.logins.running.send_modify(|running| *running -= 1);
        });
    }

    /// The client left the lobby.
    pub(super) fn gone(&self, id: ConnectionId) {
        if let Some(waiting) = lock(&self.waiting).get_mut(&id) {
            *waiting = Waiting { is_gone: true, looked: None };
        }
    }

    /// The shard has looked for the client, and it is there.
    pub(super) fn there(&self, id: ConnectionId) {
        let looked = lock(&self.waiting).get_mut(&id).and_then(|waiting| waiting.looked.take());
        let _ = looked.map(|looked| looked.send(())); // the receiver is gone if the deadline was near
    }

    /// Returns when no login is under way and logic owes no answer.
    pub(super) async fn idle(&self) {
        // `self` holds the sender, so the wait cannot fail.
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }

    fn is_gone(&self, id: ConnectionId) -> bool {
        lock(&self.waiting).get(&id).is_none_or(|waiting| waiting.is_gone)
    }

    /// Ends the client's stay in the lobby; true if it is still there.
    fn finish(&self, id: ConnectionId) -> bool {
        lock(&self.waiting).remove(&id).is_some_and(|waiting| !waiting.is_gone)
    }
}

/// Whether the client of a login is there. If its shard or this thread stood still, the client's end may lie unread in
/// the kernel, so the front has the shard look.
async fn is_there(front: &Front, login: &mut Login) -> bool {
    let logins = &front.logins;
    if Time::now().since(login.looked) >= LOOK_AFTER {
        let (looked, answer) = oneshot::channel();
        match lock(&logins.waiting).get_mut(&login.id) {
            Some(waiting) if !waiting.is_gone => waiting.looked = Some(looked),
            _ => return false,
        }
        front.outboxes.send(login.id.shard, ToShard::Look(login.id)).await;
        // No answer: the shard stands still, or it has told that the client left.
        if tokio::time::timeout(time_left(login), answer).await.is_err() {
            return false;
        }
        login.looked = Time::now();
    }
    !logins.is_gone(login.id)
}

/// The time that logic has left to answer a login.
fn time_left(login: &Login) -> Duration {
    login.deadline.since(Time::now()).saturating_sub(MARGIN)
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

/// One call of logic.
type Call<'a> = Pin<Box<dyn Future<Output = Result<Session, LogicError>> + Send + 'a>>;

/// Asks logic until it has decided; `Err(None)` if the client left first. Also returns the call that logic did not
/// answer in time, if there is one.
async fn ask(front: &Front, mut login: Login) -> (Result<Session, Option<LogicError>>, Option<Call<'_>>) {
    let Ok(_permit) = front.logins.asking.acquire().await else { return (Err(None), None) };
    let waited = Time::now().since(login.arrived);
    let mut request = ConnectRequest {
        server: front.server.clone(),
        // Text on the wire to logic, which may be three times as long. So only logins whose turn it is are converted.
        cookie: String::from_utf8_lossy(&login.cookie).into_owned(),
        token: login.token.clone(),
        client_ip: Some(login.peer),
        transport: login.transport,
        // The same in every try, so that logic gives the login the same number.
        arrival: Arrival::ago(waited, Instant::now().into_std()).by(front.store_time.at(login.arrived)),
        wanted_until_us: None,
    };
    let mut pause = RETRY_MIN;
    loop {
        if !is_there(front, &mut login).await {
            return (Err(None), None);
        }
        let left = time_left(&login);
        if left.is_zero() {
            let (reason, text) = (CloseReason::LoginTimeout, CloseReason::LoginTimeout.text().to_owned());
            return (Err(Some(LogicError::Refused { reason, text })), None);
        }
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
        if time_left(&login) <= pause {
            return (Err(Some(error)), None);
        }
        // If the store's clock is not known, only its age keeps this login from outranking a newer login of its client.
        request.arrival.is_repeated = request.arrival.by_us.is_some();
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Waits for an answer that did not come in time. logic may have accepted the login all the same; then the session
/// ends.
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
