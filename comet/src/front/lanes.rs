//! Tells logic about devices. All that concerns one device goes through the same lane, and a lane does one thing after
//! the other. So a client's messages stay in order, and the end of a session never overtakes its renewal.
//!
//! A lane gathers renewals for a while to send them in one call. If logic does not take a renewal, the lane sends it
//! again until the session ends. It also repeats the end itself, because otherwise the device would count as online
//! until its session expires.

use std::{
    collections::{HashMap, VecDeque},
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

/// Number of lanes: so many devices can be told to logic at once.
const LANES: usize = 64;

/// Most things that wait in one lane. If more come, logic is far behind, and the front gives them up and counts them.
/// Only ends wait elsewhere.
const LANE_CAPACITY: usize = 4096;

/// Most ends that wait because a lane is full or because logic does not take them. All lanes together keep up to a
/// million of them, in some 100 MB: enough for so many clients lost at once.
const ENDS_WAITING_MAX: usize = 16_384;

/// How long renewals gather, and how long a failed one waits for the next try.
const GATHER: Duration = Duration::from_secs(1);

/// Most renewals in one call.
const RENEWALS_MAX: usize = 512;

/// Most renewals that wait in one lane, not counting announced ones. The front gives up those beyond and counts them.
/// Their connections bring others after the interval.
const RENEWALS_WAITING_MAX: usize = 4096;

/// How many times the front tries to tell logic the end of a session without a generation. After that the session
/// expires by itself.
const END_ATTEMPTS: u32 = 4;

/// How long an end waits for a logic that takes it. By default this is longer than a session lives that nobody renews.
const END_WAITS: Duration = Duration::from_secs(3600);

/// How long a drain waits for a logic that takes ends.
const FINISH_MAX: Duration = Duration::from_secs(10);

/// First pause before an end that logic did not take goes again. It doubles each time up to the longest.
const END_PAUSE: Duration = Duration::from_millis(100);
const END_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long the front remembers that a session ended, or that a newer one on another comet superseded it, to renew a
/// login of the same key that comes after it. With the default handshake deadline no login takes longer.
const END_REMEMBERED: Duration = Duration::from_secs(10);

/// Most ends that the front remembers. If more come, it forgets the oldest.
const ENDS_MAX: usize = 100_000;

/// Sessions that ended or were superseded lately, by the hash of their key. If two keys have one hash, that costs a
/// needless renewal.
#[derive(Default)]
struct Ends {
    at: HashMap<u64, Time, RandomState>,
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
            // A later end of the same key has its own entry.
            if self.at.get(&key) == Some(&at) {
                self.at.remove(&key);
            }
        }
    }
}

/// One thing to tell logic.
pub(super) enum Work {
    /// A client's message.
    Message {
        /// The sender.
        id: ConnectionId,
        /// The message.
        message: Box<ClientMessage>,
    },
    /// A session is alive.
    Renew(SessionRef),
    /// A session is alive, but logic may believe that it ended, so the renewal goes at once.
    PutBack(SessionRef),
    /// Sessions that the store may have lost. The lane drops the sender when logic has them.
    Announce(Vec<SessionRef>, mpsc::Sender<()>),
    /// A session ended because a newer connection has its key. Without a generation logic cannot tell the two apart, so
    /// it is told nothing.
    Replaced(SessionRef),
    /// A session ended.
    Disconnect(SessionRef),
    /// Asks the lane to answer when everything before this is done.
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

/// The lanes through which the front tells logic about devices.
pub(super) struct Lanes {
    lanes: Vec<mpsc::Sender<Work>>,
    /// For each lane, the ends that wait beside it.
    behind: Vec<Behind>,
    hasher: RandomState,
    ends: Mutex<Ends>,
}

/// Ends that found a lane full, and ends that logic did not take because its store was away. They go when the lane has
/// nothing else to do. So late only its generation keeps an end from removing a newer session of the key, so an end
/// without one is given up.
#[derive(Clone, Default)]
struct Behind(Arc<Mutex<VecDeque<End>>>);

/// An end that waits, and since when it does.
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

/// What the task of a lane works on.
pub(super) struct Works {
    queue: mpsc::Receiver<Work>,
    behind: Behind,
    /// When the ends in `behind` go on. It lies in the future after logic did not take the last one.
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

    /// Queues a thing for logic. If its lane is full, an end waits in `behind`; everything else is given up and
    /// counted.
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

    /// A session ended because a newer login has its key. If it has a generation, logic is told that it ended. If logic
    /// were not told, a renewal that is still under way, or that reaches a store which lost the newer session, could
    /// recreate a session that nobody owns.
    pub(super) fn replaced(&self, front: &Front, session: SessionRef) {
        let is_fenced = session.generation.is_some();
        self.push(front, if is_fenced { Work::Disconnect(session) } else { Work::Replaced(session) });
    }

    /// A newer login has the key, on another comet. The kick did not find connections of this key that are still on
    /// their way to their shard.
    pub(super) fn superseded(&self, key: &Key) {
        lock(&self.ends).remember(self.hasher.hash_one(key), Time::now());
    }

    /// Queues the renewal of a session. If a session of the same key ended lately, logic may have removed this one (a
    /// logic without generations removes whatever it finds), so the renewal goes at once.
    pub(super) fn renew(&self, front: &Front, session: SessionRef) {
        let put_back = lock(&self.ends).ended_lately(self.hasher.hash_one(&session.key), Time::now());
        self.push(front, if put_back { Work::PutBack(session) } else { Work::Renew(session) });
    }

    /// A connection opened. If a session of its key ended while it logged in, or if the store may have lost sessions
    /// meanwhile, its own session may be gone too, so the front renews it.
    pub(super) fn opened(&self, front: &Front, session: SessionRef) {
        let key = self.hasher.hash_one(&session.key);
        if lock(&self.ends).ended_lately(key, Time::now()) || front.announcer.changed_lately() {
            self.renew(front, session);
        }
    }

    /// Queues sessions that the store may have lost. Returns a receiver that closes when logic has them, and whether
    /// some found a lane full.
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

    /// Returns when logic was told of everything queued so far, or it was given up.
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

/// Works on one lane, for ever.
pub(super) async fn run(front: Arc<Front>, mut works: Works) {
    let mut renewals = Renewals::default();
    loop {
        tokio::select! {
            // Renewals that are due were queued before what still waits.
            biased;
            () = sleep_until(renewals.due.unwrap_or_else(Instant::now)), if renewals.due.is_some() => {
                renewals.send(&front).await;
            }
            work = works.queue.recv() => match work {
                Some(work) => do_work(&front, &mut works, work, &mut renewals).await,
                None => return,
            },
            // Ends that found the lane full go when it is empty, and ends that logic did not take go after a pause.
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
            // Without a bound here: the next chunk comes only when these are sent.
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

/// The renewals that gather in a lane.
#[derive(Default)]
struct Renewals {
    waiting: HashMap<Key, SessionRef, RandomState>,
    /// When they go; none if there are none.
    due: Option<Instant>,
    /// Dropped when no renewal waits.
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

    /// Forgets the renewal of a session that ended. It would recreate a session that nobody owns.
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
                // They were in `waiting` before, so there is room.
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

/// Renews sessions in one call. If logic says that one is superseded, closes its connection here, because the kick by
/// the newer login has not arrived.
async fn renew(front: &Front, sessions: Vec<SessionRef>) -> Result<(), LogicError> {
    let renewed = front.tell_alive(sessions).await?;
    for (key, by) in renewed.superseded {
        // The kick is only a mail to a shard and cannot fail.
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

/// Hands a message to the sender's room on this comet, as goim's comet does with operation 4. False if the message is
/// for no room.
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

/// Tells logic that a session ended. If logic does not take the end, it waits in `behind`, as do the following ones,
/// and the lane goes on.
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

/// Tells logic an end once; false if logic did not take it.
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

/// Tells logic an end without a generation. Nothing else goes through the lane until logic has taken it or the front
/// gives it up.
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
