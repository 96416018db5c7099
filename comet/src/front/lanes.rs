//! What logic is told about open connections. A device always goes through the same lane, which works one thing after
//! the other, so that a client's messages stay in order and the end of a session never overtakes its renewal.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher,
    sync::{Arc, Mutex},
    time::Duration,
};

use cluster::{
    services::{ClientMessage, LogicError, MessageReply, SessionRef},
    sim::{self, RandomState},
};
use proto::ids::Key;
use tokio::sync::{mpsc, oneshot};

use super::{Front, lock};
use crate::{
    clock::Time,
    shard::mail::{ConnectionId, ToShard},
};

/// Lanes: devices that logic is told about at once.
const LANES: usize = 64;

/// Things that may wait in one lane. Beyond it they are given up and counted: logic is far behind then.
const LANE_CAPACITY: usize = 4096;

/// Attempts to tell logic of a session's end; after them its time to live ends it.
const END_ATTEMPTS: u32 = 4;

/// How long the end of a session is remembered, for the heartbeat that follows a newer login of its key. A login takes
/// no longer than its handshake deadline.
const END_REMEMBERED: Duration = Duration::from_secs(10);

/// Ends remembered at most; beyond it the oldest are forgotten.
const ENDS_MAX: usize = 100_000;

/// Sessions whose end was told lately, by the hash of their key: two keys with one hash cost a heartbeat too many.
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
    /// A session ended.
    Disconnect(SessionRef),
    /// Everything before it is done.
    Finish(oneshot::Sender<()>),
}

impl Work {
    fn key(&self) -> Option<&Key> {
        match self {
            Work::Message { message, .. } => Some(&message.key),
            Work::Renew(session) | Work::Disconnect(session) => Some(&session.key),
            Work::Finish(_) => None,
        }
    }

    const fn label(&self) -> &'static str {
        match self {
            Work::Message { .. } => "receive",
            Work::Renew(_) => "heartbeat",
            Work::Disconnect(_) => "disconnect",
            Work::Finish(_) => "finish",
        }
    }
}

/// The lanes to logic.
pub(super) struct Lanes {
    lanes: Vec<mpsc::Sender<Work>>,
    hasher: RandomState,
    ends: Mutex<Ends>,
}

impl Lanes {
    pub(super) fn new() -> (Lanes, Vec<mpsc::Receiver<Work>>) {
        let (lanes, works) = (0..LANES).map(|_| mpsc::channel(sim::bound(LANE_CAPACITY))).unzip();
        (Lanes { lanes, hasher: RandomState::new(), ends: Mutex::default() }, works)
    }

    /// Queues a thing for logic; when its lane is full it is given up and counted.
    pub(super) fn push(&self, front: &Front, work: Work) {
        let lane = work.key().map_or(0, |key| self.hasher.hash_one(key) as usize % LANES);
        if let Err(error) = self.lanes[lane].try_send(work) {
            let work = error.into_inner();
            front.metrics.given_up(work.label());
            if let Work::Message { id, message } = work {
                answer(front, id, &message, MessageReply::Body(Default::default()));
            }
        }
    }

    /// A session ended.
    pub(super) fn ended(&self, front: &Front, session: SessionRef) {
        lock(&self.ends).remember(self.hasher.hash_one(&session.key), Time::now());
        self.push(front, Work::Disconnect(session));
    }

    /// A connection opened. If a session of its key was ended while it logged in, that may have been its own as logic
    /// saw it (a logic without fences drops whatever is there): a heartbeat puts it back.
    pub(super) fn opened(&self, front: &Front, session: SessionRef) {
        if lock(&self.ends).ended_lately(self.hasher.hash_one(&session.key), Time::now()) {
            self.push(front, Work::Renew(session));
        }
    }

    /// Returns when everything queued so far was told.
    pub(super) async fn finish(&self) {
        for lane in &self.lanes {
            let (done, wait) = oneshot::channel();
            if lane.send(Work::Finish(done)).await.is_ok() {
                let _ = wait.await; // the lane ends only with the process
            }
        }
    }
}

/// Works one lane, for ever.
pub(super) async fn run(front: Arc<Front>, mut works: mpsc::Receiver<Work>) {
    while let Some(work) = works.recv().await {
        let label = work.label();
        let result = match work {
            Work::Message { id, message } => receive(&front, id, *message).await,
            Work::Renew(session) => front.logic.renew(vec![session]).await.map(drop),
            Work::Disconnect(session) => disconnect(&front, session).await,
            Work::Finish(done) => {
                let _ = done.send(()); // nobody waits any more
                Ok(())
            }
        };
        if let Err(error) = result {
            front.metrics.logic_failed(label);
            tracing::debug!(%error, call = label, "logic did not answer");
        }
    }
}

async fn receive(front: &Front, id: ConnectionId, message: ClientMessage) -> Result<(), LogicError> {
    let (result, reply) = match front.logic.receive(message.clone()).await {
        Ok(reply) => (Ok(()), reply),
        Err(error) => (Err(error), MessageReply::Body(Default::default())),
    };
    answer(front, id, &message, reply);
    result
}

fn answer(front: &Front, id: ConnectionId, message: &ClientMessage, reply: MessageReply) {
    if let MessageReply::Body(body) = reply
        && front.outboxes.try_send(id.shard, ToShard::Reply { id, header: message.header, body }).is_err()
    {
        front.metrics.given_up("reply");
    }
}

async fn disconnect(front: &Front, session: SessionRef) -> Result<(), LogicError> {
    let mut pause = Duration::from_millis(100);
    for _ in 1..END_ATTEMPTS {
        match front.logic.disconnect(session.clone()).await {
            Err(LogicError::Unavailable(_) | LogicError::Overloaded) => tokio::time::sleep(pause).await,
            other => return other.map(|_| ()),
        }
        pause *= 2;
    }
    front.logic.disconnect(session).await.map(|_| ())
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
