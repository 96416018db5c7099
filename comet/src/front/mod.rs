//! The tokio side of a comet: what comes in from job and logic goes to the shards by mailbox, what the shards say goes
//! out.
//!
//! - [`dispatch`]: pushes, encoded once, one command per shard.
//! - [`inbox`]: takes the shards' mail; never waits for anything else.
//! - [`logins`]: logins in the lobby, logic's verdict.
//! - [`lanes`]: client messages and ends of sessions for logic, in order per device.
//! - [`online`]: people per room over all shards and comets.
//! - [`rpc`]: gRPC `goim.comet.Comet`, for job. [`logic_client`]: logic over gRPC.
//! - [`metrics`]: the gateway's counters.
//! - [`outbox`]: the rings to the shards.

mod dispatch;
mod inbox;
mod lanes;
pub mod logic_client;
mod logins;
mod metrics;
mod online;
mod outbox;
pub mod rpc;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cluster::services::{LogicApi, Session};
use proto::ids::ServerId;
use tokio::{sync::Notify, time::Instant};

pub use self::{
    inbox::Inbox,
    metrics::{Metrics, Snapshot},
    outbox::{Outboxes, RING_CAPACITY},
};
use self::{lanes::Lanes, logins::Logins, online::Online};
use crate::shard::mail::ToShard;

/// How often changed room counts are reported to logic.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// The same when a report takes long.
const REPORT_EVERY_MAX: Duration = Duration::from_secs(4);

/// How often unchanged ones are: logic takes a comet that is silent for 15 s for gone, and its people with it.
const REPORT_UNCHANGED: Duration = Duration::from_secs(10);

/// The tokio side of a comet.
pub struct Front {
    server: ServerId,
    outboxes: Outboxes,
    logic: Arc<dyn LogicApi>,
    /// Dispatches go out one after the other.
    turn: tokio::sync::Mutex<()>,
    push_bytes_max: usize,
    online: Mutex<Online>,
    /// A notice to a shard found no place: everything is said again with the next report.
    notice_lost: AtomicBool,
    logins: Logins,
    lanes: Lanes,
    metrics: Arc<Metrics>,
    drained: Mutex<usize>,
    drained_changed: Notify,
}

impl Front {
    /// A front for shards that run already; `inboxes` are their rings, in order.
    pub fn start(
        server: ServerId,
        outboxes: Outboxes,
        inboxes: Vec<Inbox>,
        logic: Arc<dyn LogicApi>,
        metrics: Arc<Metrics>,
        push_bytes_max: usize,
    ) -> Arc<Front> {
        let shards = outboxes.shards();
        let (lanes, works) = Lanes::new();
        let front = Arc::new(Front {
            server,
            outboxes,
            logic,
            turn: tokio::sync::Mutex::new(()),
            push_bytes_max,
            online: Mutex::new(Online::new(shards)),
            notice_lost: AtomicBool::new(false),
            logins: Logins::default(),
            lanes,
            metrics,
            drained: Mutex::new(0),
            drained_changed: Notify::new(),
        });
        for (shard, inbox) in inboxes.into_iter().enumerate() {
            tokio::spawn(inbox::drain(Arc::clone(&front), shard as u16, inbox));
        }
        for work in works {
            tokio::spawn(lanes::run(Arc::clone(&front), work));
        }
        tokio::spawn(Arc::clone(&front).report_online());
        front
    }

    /// This comet's name in the cluster.
    pub fn server(&self) -> &ServerId {
        &self.server
    }

    /// The gateway's counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Closes every connection over `spread` and waits until all are gone and logic knows it, at most for `timeout`.
    /// False when some were left.
    pub async fn drain(&self, spread: Duration, timeout: Duration) -> bool {
        for shard in 0..self.outboxes.shards() as u16 {
            self.outboxes.send(shard, ToShard::Drain { over: spread }).await;
        }
        let all_gone = async {
            loop {
                let changed = self.drained_changed.notified();
                if *lock(&self.drained) == self.outboxes.shards() {
                    break;
                }
                changed.await;
            }
            self.lanes.finish().await;
        };
        tokio::time::timeout(timeout, all_gone).await.is_ok()
    }

    /// Logic accepted a login whose client had left: the shard that owns the key decides, since a newer connection may
    /// have the key by now.
    fn abandoned(self: &Arc<Self>, session: Session) {
        let owner = self.outboxes.owner(&session.key);
        // Bounded as the logins are.
        self.send_soon(owner, ToShard::Abandoned(session));
    }

    /// Sends what must arrive without waiting for it: a full ring is waited for by a task of its own, so the caller has
    /// to bound how often that can happen.
    fn send_soon(self: &Arc<Self>, shard: u16, mail: ToShard) {
        if let Err(mail) = self.outboxes.try_send(shard, mail) {
            let front = Arc::clone(self);
            tokio::spawn(async move { front.outboxes.send(shard, mail).await });
        }
    }

    fn online(&self) -> MutexGuard<'_, Online> {
        lock(&self.online)
    }

    /// Tells the shards how many people are elsewhere. Never waits; what finds no place is said again with the next
    /// report.
    fn tell_elsewhere(&self, news: online::Elsewhere) {
        for (shard, rooms) in news.into_iter().enumerate() {
            if !rooms.is_empty() && self.outboxes.try_send(shard as u16, ToShard::Elsewhere(rooms)).is_err() {
                self.notice_lost.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Reports this comet's counts to logic and takes everybody's, for ever.
    async fn report_online(self: Arc<Self>) {
        let mut pause = REPORT_EVERY;
        let mut reported = Instant::now();
        let mut known: HashMap<_, _> = HashMap::new();
        loop {
            tokio::time::sleep(pause).await;
            if self.notice_lost.swap(false, Ordering::Relaxed) {
                let news = self.online().everything();
                self.tell_elsewhere(news);
            }
            let (changed, counts) = {
                let mut online = self.online();
                let changed = online.take_changed();
                let is_due = changed || reported.elapsed() + pause > REPORT_UNCHANGED;
                (changed, is_due.then(|| online.counts()))
            };
            let Some((rooms, clients)) = counts else { continue };
            if changed {
                known.clone_from(&rooms);
            }
            reported = Instant::now();
            match self.logic.renew_online(self.server.clone(), rooms, clients).await {
                Ok(all) => {
                    let news = self.online().all_comets(&known, &all);
                    self.tell_elsewhere(news);
                }
                Err(error) => {
                    self.online().report_again();
                    self.metrics.logic_failed("renew_online");
                    tracing::debug!(%error, "logic did not take the room counts");
                }
            }
            // With very many rooms a report costs time of its own: it gets a twentieth of a core at most. But whatever
            // it waited for, logic hears again in time.
            pause = (reported.elapsed() * 20).clamp(REPORT_EVERY, REPORT_EVERY_MAX);
        }
    }
}

/// The front's locks are held for a few instructions and never across a wait; a panic ends the process.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
