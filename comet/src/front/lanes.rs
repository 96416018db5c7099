//! What logic is told about open connections. A device always goes through the same lane, which works one thing after
//! the other, so that a client's messages stay in order and the end of a session never overtakes its renewal.
//!
//! Renewals gather for a while, to go in one call. One that logic does not take goes again, until the session ends; and so
//! does the end, or a device would be told online for as long as sessions live.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use contract::{
    ClientMessage, CometApi as _, Dispatch, LogicError, MessageReply, Payload, Receivers, SessionRef,
};
use futures_util::future::join_all;
use proto::{close::CloseReason, ids::Key, op::Op};
use seam::{RandomState, Time};
use shard::mail::{ConnectionId, ToShard};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{Front, lock};

/// Lanes: devices that logic is told about at once.
const LANES: usize = 64;

/// Things that may wait in one lane. Beyond it they are given up and counted, but for ends: logic is far behind then.
const LANE_CAPACITY: usize = 4096;

/// Ends that may wait behind a lane that is full, or for a logic that does not take them; of all lanes together a million, some
/// 100 MB, as of so many clients lost at once.
const ENDS_WAITING_MAX: usize = 16_384;

/// How long renewals gather, and how long one that failed waits.
const GATHER: Duration = Duration::from_secs(1);

/// Renewals in one call.
const RENEWALS_MAX: usize = 512;

/// Renewals that may wait in one lane, beside those that are announced. Beyond it they are given up and counted; the
/// connection brings another after its interval.
const RENEWALS_WAITING_MAX: usize = 4096;

/// Attempts to tell logic of a session's end that has no fence; after them its time to live ends it.
const END_ATTEMPTS: u32 = 4;

/// How long an end waits for a logic that takes it: longer than a session lives that nobody renews, as it is set by default.
const END_WAITS: Duration = Duration::from_secs(3600);

/// How long a drain waits for a logic that takes ends.
const FINISH_MAX: Duration = Duration::from_secs(10);

/// First pause before an end that logic did not take goes again; doubled each time, up to the longest.
const END_PAUSE: Duration = Duration::from_millis(100);
const END_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long the end of a session, or a kick by a newer one, is remembered, for the heartbeat that follows a login of its
/// key. With the default handshake deadline no login takes longer.
const END_REMEMBERED: Duration = Duration::from_secs(10);

/// Ends remembered at most; beyond it the oldest are forgotten.
const ENDS_MAX: usize = 100_000;

/// Sessions whose end or whose successor was told lately, by the hash of their key: two keys with one hash cost a
/// heartbeat too many.
#[derive(Default)]
struct Ends {
    at: HashMap<u64, Time>,
    in_order: VecDeque<(Time, u64)>,
}

impl Ends {
    fn remember(&mut self, key: u64, now: Time) {
        self.forget_old(now);
        self.at.insert(key, now);
        self.in_order.push_back((now, key));
    }

    fn ended_lately(&mut self, key: u64, now: Time) -> bool {
        self.forget_old(now);
        self.at.contains_key(&key)
    }

    fn forget_old(&mut self, now: Time) {
        while let Some((at, _)) = self.in_order.front()
            && (now.since(*at) >= END_REMEMBERED || self.in_order.len() >= ENDS_MAX)
        {
            let Some((at, key)) = self.in_order.pop_front() else { return };
            // A later end of the same key has an entry of its own.
            if self.at.get(&key) == Some(&at) {
                self.at.remove(&key);
            }
        }
    }
}

/// One thing for logic.
pub(super) enum Work {
    /// A client's message.
    Message {
        /// The sender.
        id: ConnectionId,
        /// The message.
        message: Box<ClientMessage>,
    },
    /// A session lives.
    Renew(SessionRef),
    /// A session lives, and logic may take it for gone: this waits for no other.
    PutBack(SessionRef),
    /// Sessions that logic may have lost. The sender is let go when it has them.
    Announce(Vec<SessionRef>, mpsc::Sender<()>),
    /// A session lives on in a newer connection, as far as logic can tell.
    Replaced(SessionRef),
    /// A session ended.
    Disconnect(SessionRef),
    /// Everything before it is done.
    Finish(oneshot::Sender<()>),
}

impl Work {
    fn key(&self) -> Option<&Key> {
        match self {
            Work::Message { message, .. } => Some(&message.key),
            Work::Renew(session)
            | Work::PutBack(session)
            | Work::Replaced(session)
            | Work::Disconnect(session) => Some(&session.key),
            Work::Announce(..) | Work::Finish(_) => None,
        }
    }

    const fn label(&self) -> &'static str {
        match self {
            Work::Message { .. } => "receive",
            Work::Renew(_) | Work::PutBack(_) | Work::Announce(..) => "heartbeat",
            Work::Replaced(_) => "replaced",
            Work::Disconnect(_) => "disconnect",
            Work::Finish(_) => "finish",
        }
    }
}

/// The lanes to logic.
pub(super) struct Lanes {
    lanes: Vec<mpsc::Sender<Work>>,
    /// Of each lane, the ends that wait.
    behind: Vec<Behind>,
    hasher: RandomState,
    ends: Mutex<Ends>,
}

/// Ends for which a lane had no place, and those that logic did not take, its store being away; they go whenever the lane is
/// empty. That late only a fence keeps an end from a newer session of its key, so one without is given up.
#[derive(Clone, Default)]
struct Behind(Arc<Mutex<VecDeque<End>>>);

/// An end that waits, and since when.
struct End {
    session: SessionRef,
    since: Instant,
}

impl End {
    fn new(session: SessionRef) -> End {
        End { session, since: Instant::now() }
    }
}

impl Behind {
    fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    fn next(&self) -> Option<End> {
        lock(&self.0).pop_front()
    }

    fn put(&self, end: End) -> Result<(), SessionRef> {
        let mut waiting = lock(&self.0);
        if end.session.generation.is_none()
            || waiting.len() >= seam::bound(ENDS_WAITING_MAX)
            || end.since.elapsed() >= END_WAITS
        {
            return Err(end.session);
        }
        waiting.push_back(end);
        Ok(())
    }
}

/// The lane's end of it.
pub(super) struct Works {
    queue: mpsc::Receiver<Work>,
    behind: Behind,
    /// When those behind go on; later than now when logic did not take the last one.
    resume_at: Instant,
    pause: Duration,
}

impl Lanes {
    pub(super) fn new() -> (Lanes, Vec<Works>) {
        let behind: Vec<Behind> = (0..LANES).map(|_| Behind::default()).collect();
        let (lanes, works) = behind
            .iter()
            .map(|behind| {
                let (lane, queue) = mpsc::channel(seam::bound(LANE_CAPACITY));
                let (behind, resume_at) = (behind.clone(), Instant::now());
                (lane, Works { queue, behind, resume_at, pause: END_PAUSE })
            })
            .unzip();
        (Lanes { lanes, behind, hasher: RandomState::new(), ends: Mutex::default() }, works)
    }

    /// Queues a thing for logic; when its lane is full it is given up and counted, but for an end, which waits.
    pub(super) fn push(&self, front: &Front, work: Work) {
        let lane = work.key().map_or(0, |key| self.of(key));
        if let Err(error) = self.lanes[lane].try_send(work) {
            let work = match error.into_inner() {
                Work::Disconnect(session) => match self.behind[lane].put(End::new(session)) {
                    Ok(()) => return,
                    Err(session) => Work::Disconnect(session),
                },
                work => work,
            };
            front.metrics.given_up(work.label());
            if let Work::Message { id, message } = work {
                answer(front, id, &message, Bytes::new());
            }
        }
    }

    fn of(&self, key: &Key) -> usize {
        self.hasher.hash_one(key) as usize % LANES
    }

    /// A session ended.
    pub(super) fn ended(&self, front: &Front, session: SessionRef) {
        lock(&self.ends).remember(self.hasher.hash_one(&session.key), Time::now());
        self.push(front, Work::Disconnect(session));
    }

    /// A session ended because a newer login has its key. With a fence logic is told: a renewal that is still under way,
    /// or went to a store that has lost the newer one, would leave it there for nobody.
    pub(super) fn replaced(&self, front: &Front, session: SessionRef) {
        let is_fenced = session.generation.is_some();
        self.push(front, if is_fenced { Work::Disconnect(session) } else { Work::Replaced(session) });
    }

    /// A newer login has the key, on another comet. A connection that is still on its way here was not found by the kick.
    pub(super) fn superseded(&self, key: &Key) {
        lock(&self.ends).remember(self.hasher.hash_one(key), Time::now());
    }

    /// A session is to be renewed. If one of its key was ended lately, that may have been its own as logic saw it (a
    /// logic without fences drops whatever is there).
    pub(super) fn renew(&self, front: &Front, session: SessionRef) {
        let put_back = lock(&self.ends).ended_lately(self.hasher.hash_one(&session.key), Time::now());
        self.push(front, if put_back { Work::PutBack(session) } else { Work::Renew(session) });
    }

    /// A connection opened. What happened to the sessions while it logged in, to that of its key or to all, may have
    /// happened to its own.
    pub(super) fn opened(&self, front: &Front, session: SessionRef) {
        let key = self.hasher.hash_one(&session.key);
        if lock(&self.ends).ended_lately(key, Time::now()) || front.announcer.changed_lately() {
            self.renew(front, session);
        }
    }

    /// Queues sessions that logic may have lost. What is returned ends when it has them; true when some found no place.
    pub(super) fn announce(&self, front: &Front, sessions: Vec<SessionRef>) -> (mpsc::Receiver<()>, bool) {
        let (done, wait) = mpsc::channel(1);
        let mut parts: Vec<Vec<SessionRef>> = vec![Vec::new(); LANES];
        sessions.into_iter().for_each(|session| parts[self.of(&session.key)].push(session));
        let mut is_partial = false;
        for (lane, part) in parts.into_iter().enumerate().filter(|(_, part)| !part.is_empty()) {
            if self.lanes[lane].try_send(Work::Announce(part, done.clone())).is_err() {
                is_partial = true;
                front.metrics.given_up("announce");
            }
        }
        (wait, is_partial)
    }

    /// Returns when everything queued so far was told, or given up.
    pub(super) async fn finish(&self) {
        let finish = async |lane: &mpsc::Sender<Work>| {
            let (done, wait) = oneshot::channel();
            if lane.send(Work::Finish(done)).await.is_ok() {
                let _ = wait.await; // the lane ends only with the process
            }
        };
        join_all(self.lanes.iter().map(finish)).await;
    }
}

/// Works one lane, for ever.
pub(super) async fn run(front: Arc<Front>, mut works: Works) {
    let mut renewals = Renewals::default();
    loop {
        tokio::select! {
            // What is due was said before what waits.
            biased;
            () = sleep_until(renewals.due.unwrap_or_else(Instant::now)), if renewals.due.is_some() => {
                renewals.send(&front).await;
            }
            work = works.queue.recv() => match work {
                Some(work) => do_work(&front, &mut works, work, &mut renewals).await,
                None => return,
            },
            // Those for which the lane was full, which what goes through it brings us to, and those that logic did not take.
            () = sleep_until(works.resume_at), if !works.behind.is_empty() => {
                if let Some(end) = works.behind.next() {
                    tell_end(&front, &mut works, &mut renewals, end).await;
                }
            }
        }
    }
}

async fn do_work(front: &Arc<Front>, works: &mut Works, work: Work, renewals: &mut Renewals) {
    let label = work.label();
    let result = match work {
        Work::Message { id, message } => receive(front, id, *message).await,
        Work::Renew(session) => {
            renewals.add(front, session);
            Ok(())
        }
        Work::PutBack(session) => {
            let result = renew(front, vec![session.clone()]).await;
            if result.is_err() {
                renewals.add(front, session);
            }
            result
        }
        Work::Announce(sessions, done) => {
            // Also where no more may wait: the next of them come when these have gone.
            sessions.into_iter().for_each(|session| renewals.put(session));
            renewals.announcing = Some(done);
            renewals.send(front).await;
            Ok(())
        }
        Work::Replaced(session) => {
            renewals.forget(&session);
            Ok(())
        }
        Work::Disconnect(session) => disconnect(front, works, renewals, session).await,
        Work::Finish(done) => {
            let until = Instant::now() + FINISH_MAX;
            while let Some(end) = works.behind.next() {
                if Instant::now() >= until {
                    front.metrics.given_up("disconnect");
                } else if !tell_end(front, works, renewals, end).await {
                    sleep_until(works.resume_at).await;
                }
            }
            let _ = done.send(()); // nobody waits any more
            Ok(())
        }
    };
    if let Err(error) = result {
        failed(front, label, &error);
    }
}

fn failed(front: &Front, call: &'static str, error: &LogicError) {
    front.metrics.logic_failed(call);
    tracing::debug!(%error, call, "logic did not answer");
}

/// Renewals of a lane that gather.
#[derive(Default)]
struct Renewals {
    waiting: HashMap<Key, SessionRef, RandomState>,
    /// When they go; none while there are none.
    due: Option<Instant>,
    /// Let go when nothing waits.
    announcing: Option<mpsc::Sender<()>>,
}

impl Renewals {
    fn add(&mut self, front: &Front, session: SessionRef) {
        let is_full = self.waiting.len() >= seam::bound(RENEWALS_WAITING_MAX);
        if is_full && !self.waiting.contains_key(&session.key) {
            return front.metrics.given_up("heartbeat");
        }
        self.put(session);
    }

    fn put(&mut self, session: SessionRef) {
        self.waiting.insert(session.key.clone(), session);
        self.due.get_or_insert_with(|| Instant::now() + GATHER);
    }

    /// A renewal after the end of its session would put it back for nobody.
    fn forget(&mut self, session: &SessionRef) {
        if self.waiting.get(&session.key).is_some_and(|other| other.generation == session.generation) {
            self.waiting.remove(&session.key);
        }
        self.rest();
    }

    async fn send(&mut self, front: &Front) {
        self.due = None;
        let mut sessions = std::mem::take(&mut self.waiting).into_values().collect::<Vec<_>>();
        while !sessions.is_empty() {
            let part = sessions.split_off(sessions.len().saturating_sub(RENEWALS_MAX));
            if let Err(error) = renew(front, part.clone()).await {
                failed(front, "heartbeat", &error);
                // There was room for them.
                sessions.into_iter().chain(part).for_each(|session| self.put(session));
                return;
            }
        }
        self.rest();
    }

    fn rest(&mut self) {
        if self.waiting.is_empty() {
            self.due = None;
            self.announcing = None;
        }
    }
}

/// One call. What logic calls superseded ends here too: the kick of the newer login has not arrived.
async fn renew(front: &Front, sessions: Vec<SessionRef>) -> Result<(), LogicError> {
    let renewed = front.tell_alive(sessions).await?;
    for (key, by) in renewed.superseded {
        // It is a mail to a shard, which cannot fail.
        let _ = front.kick(key, Some(by), CloseReason::Replaced, None).await;
    }
    Ok(())
}

async fn receive(front: &Front, id: ConnectionId, message: ClientMessage) -> Result<(), LogicError> {
    let (result, body) = match front.logic.receive(message.clone()).await {
        Ok(MessageReply::Room) => return Ok(()),
        Ok(MessageReply::Unsaid) if say(front, &message).await => return Ok(()),
        Ok(MessageReply::Body(body)) => (Ok(()), body),
        Ok(MessageReply::Unsaid) => (Ok(()), Bytes::new()),
        Err(error) => (Err(error), Bytes::new()),
    };
    answer(front, id, &message, body);
    result
}

/// Hands a message to the sender's room on this comet, as goim's comet does with operation 4; false when it is for no room.
async fn say(front: &Front, message: &ClientMessage) -> bool {
    let Some(room) = message.room.clone().filter(|_| message.header.op == Op::SEND_MESSAGE) else {
        return false;
    };
    let op = Op::SEND_MESSAGE_REPLY;
    let said = Dispatch {
        receivers: Receivers::Room(room),
        filter: op,
        payload: Payload::Message { op, body: message.body.clone() },
        origin: Some(message.origin()),
        accepted_at_us: 0,
    };
    front.dispatch(&[said]).await.is_ok()
}

fn answer(front: &Front, id: ConnectionId, message: &ClientMessage, body: Bytes) {
    if front.outboxes.try_send(id.shard, ToShard::Reply { id, header: message.header, body }).is_err() {
        front.metrics.given_up("reply");
    }
}

/// One that logic does not take waits, and the lane goes on; so do those that come while it takes none.
async fn disconnect(
    front: &Front,
    works: &mut Works,
    renewals: &mut Renewals,
    session: SessionRef,
) -> Result<(), LogicError> {
    renewals.forget(&session);
    if session.generation.is_none() {
        return disconnect_unfenced(front, session).await;
    }
    let end = End::new(session);
    if Instant::now() < works.resume_at {
        wait(front, works, end);
    } else {
        tell_end(front, works, renewals, end).await;
    }
    Ok(())
}

fn wait(front: &Front, works: &Works, end: End) {
    if works.behind.put(end).is_err() {
        front.metrics.given_up("disconnect");
    }
}

/// Once; false when logic did not take it.
async fn tell_end(front: &Front, works: &mut Works, renewals: &mut Renewals, end: End) -> bool {
    renewals.forget(&end.session);
    let result = front.logic.disconnect(end.session.clone()).await;
    if let Err(error) = &result {
        failed(front, "disconnect", error);
    }
    if result.as_ref().is_err_and(is_away) {
        works.resume_at = Instant::now() + works.pause;
        works.pause = (works.pause * 2).min(END_PAUSE_MAX);
        wait(front, works, end);
    } else {
        works.pause = END_PAUSE;
    }
    result.is_ok()
}

/// Nothing else goes through the lane before logic has taken it, or it is given up.
async fn disconnect_unfenced(front: &Front, session: SessionRef) -> Result<(), LogicError> {
    let mut pause = END_PAUSE;
    for _ in 1..END_ATTEMPTS {
        match front.logic.disconnect(session.clone()).await {
            Err(error) if is_away(&error) => tokio::time::sleep(pause).await,
            other => return other.map(|_| ()),
        }
        pause *= 2;
    }
    front.logic.disconnect(session).await.map(|_| ())
}

fn is_away(error: &LogicError) -> bool {
    matches!(error, LogicError::Unavailable(_) | LogicError::Overloaded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_remembered_for_as_long_as_a_login_takes() {
        let (mut ends, key) = (Ends::default(), 7);
        let at = |secs: u64| Time::from_micros(secs * 1_000_000);
        ends.remember(key, at(1));
        ends.remember(key, at(5));
        assert!(ends.ended_lately(key, at(10)));
        assert!(ends.ended_lately(key, at(14)), "the later end counts");
        assert!(!ends.ended_lately(key, at(15)));
        assert!(ends.at.is_empty() && ends.in_order.is_empty());
    }
}
