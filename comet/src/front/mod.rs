//! The tokio side of a comet. It carries what comes from job and logic to the shards by mailbox, and what the shards
//! say to logic.
//!
//! - [`dispatch`]: pushes, encoded once, one command per shard.
//! - [`inbox`]: takes the shards' mail; never waits for anything else.
//! - [`logins`]: logins in the lobby, and logic's decision about them.
//! - [`client_log`]: what the log says about single clients.
//! - [`lanes`]: client messages, renewals and ends of sessions for logic, in order per device.
//! - [`announce`]: all sessions again, when the store may have lost them.
//! - [`counts`]: people per room over all shards and comets.
//! - [`rpc`]: gRPC `goim.comet.Comet`, for goim's job. [`halley_rpc`]: `halley.v1.Comet`, for ours.
//! - [`logic_client`]: logic over gRPC. [`logics`]: several of them.
//! - [`metrics`]: the gateway's counters.
//! - [`outbox`]: the queues to the shards.
//! - [`store_time`]: the session store's clock, as logic tells it.

mod announce;
mod client_log;
mod counts;
mod dispatch;
pub mod halley_rpc;
mod inbox;
mod lanes;
pub mod logic_client;
pub mod logics;
mod logins;
mod metrics;
mod outbox;
pub mod rpc;
mod store_time;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use contract::{ClientCount, LogicApi, LogicError, Renewed, Session, SessionRef};
use proto::ids::ServerId;
use tokio::{sync::Notify, time::Instant};

use self::{announce::Announcer, counts::RoomCounts, lanes::Lanes, logins::Logins, store_time::StoreTime};
pub use self::{
    client_log::ClientLog,
    inbox::Inbox,
    metrics::{Metrics, Snapshot},
    outbox::{Outboxes, QUEUE_CAPACITY},
};
use seam::Time;
use shard::Acceptors;
use shard::mail::ToShard;

use crate::mail;

/// How often the front reports changed room counts to logic.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// The longest pause, for when a report takes long.
const REPORT_EVERY_MAX: Duration = Duration::from_secs(2);

/// The front reports unchanged counts after this time. logic considers a comet gone that is silent for 10 s, and its
/// people with it. This time, the longest pause and a slow call together stay below that.
const REPORT_UNCHANGED: Duration = Duration::from_secs(4);

/// Longest time for the last report of a drained comet, which says that nobody is left.
const LAST_REPORT_MAX: Duration = Duration::from_secs(2);

/// Pause before the front tries the last report again.
const LAST_REPORT_PAUSE: Duration = Duration::from_millis(100);

/// The tokio side of a comet.
pub struct Front {
    server: ServerId,
    outboxes: Outboxes,
    logic: Arc<dyn LogicApi>,
    /// Held while a dispatch goes out, so that they go one after the other.
    turn: tokio::sync::Mutex<()>,
    push_bytes_max: usize,
    counts: Mutex<RoomCounts>,
    /// Held while a report is under way. False once no more reports may follow.
    reports: tokio::sync::Mutex<bool>,
    /// A mail about people elsewhere found a shard's queue full. The front says everything again before the next
    /// report.
    notice_lost: AtomicBool,
    logins: Logins,
    lanes: Lanes,
    announcer: Announcer,
    store_time: StoreTime,
    metrics: Arc<Metrics>,
    client_log: ClientLog,
    /// Never unset.
    draining: AtomicBool,
    moves: Mutex<Vec<Moves>>,
    drained_changed: Notify,
}

/// Counts of connections on their way to one shard. They tell the end of a drain.
#[derive(Clone, Default)]
struct Moves {
    /// Connections handed over to the shard so far.
    sent: u64,
    /// How many of them had arrived when the shard said that it has no connections left.
    arrived: Option<u64>,
}

impl Front {
    /// Starts a front for shards that run already. `inboxes` are their queues, in order.
    pub fn start(
        server: ServerId,
        outboxes: Outboxes,
        inboxes: Vec<Inbox>,
        logic: Arc<dyn LogicApi>,
        metrics: Arc<Metrics>,
        client_log: ClientLog,
        push_bytes_max: usize,
    ) -> Arc<Front> {
        let shards = outboxes.shards();
        let (lanes, works) = Lanes::new();
        let (announcer, chunks) = Announcer::new();
        let front = Arc::new(Front {
            server,
            outboxes,
            logic,
            turn: tokio::sync::Mutex::new(()),
            push_bytes_max,
            counts: Mutex::new(RoomCounts::new(shards)),
            reports: tokio::sync::Mutex::new(true),
            notice_lost: AtomicBool::new(false),
            logins: Logins::default(),
            lanes,
            announcer,
            store_time: StoreTime::default(),
            metrics,
            client_log,
            draining: AtomicBool::new(false),
            moves: Mutex::new(vec![Moves::default(); shards]),
            drained_changed: Notify::new(),
        });
        for (shard, inbox) in inboxes.into_iter().enumerate() {
            tokio::spawn(inbox::drain(Arc::clone(&front), shard as u16, inbox));
        }
        for work in works {
            tokio::spawn(lanes::run(Arc::clone(&front), work));
        }
        tokio::spawn(announce::ask(Arc::clone(&front)));
        tokio::spawn(announce::run(Arc::clone(&front), chunks));
        tokio::spawn(Arc::clone(&front).report_online());
        front
    }

    /// This comet's name in the cluster.
    pub fn server(&self) -> &ServerId {
        &self.server
    }

    /// How many clients there are.
    pub fn clients(&self) -> ClientCount {
        self.counts().clients()
    }

    /// The gateway's counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Closes every connection over `spread` and waits until all are gone and logic knows it, at most for `timeout`.
    /// False if some were left. In any case logic counts none of them any more when this returns, if it took the last
    /// report.
    pub async fn drain(&self, spread: Duration, timeout: Duration) -> bool {
        self.draining.store(true, Ordering::Relaxed);
        for shard in 0..self.outboxes.shards() as u16 {
            self.outboxes.send(shard, ToShard::Drain { over: spread }).await;
        }
        let all_gone = async {
            loop {
                let changed = self.drained_changed.notified();
                if lock(&self.moves).iter().all(|shard| shard.arrived == Some(shard.sent)) {
                    break;
                }
                changed.await;
            }
            self.logins.idle().await;
            self.lanes.finish().await;
        };
        let are_gone = tokio::time::timeout(timeout, all_gone).await.is_ok();
        if tokio::time::timeout(LAST_REPORT_MAX, self.report_nobody()).await.is_err() {
            tracing::warn!(
                "logic did not take the last report: this comet's people are counted until it is missed"
            );
        }
        are_gone
    }

    /// Tells logic that nobody is here. This is the last that logic hears of this comet.
    async fn report_nobody(&self) {
        let mut may_report = self.reports.lock().await;
        *may_report = false;
        let server = || self.server.clone();
        while let Err(error) = self.logic.renew_online(server(), HashMap::new(), ClientCount::default()).await
        {
            self.metrics.logic_failed("renew_online");
            tracing::debug!(%error, "logic did not take the last report");
            tokio::time::sleep(LAST_REPORT_PAUSE).await;
        }
    }

    /// Tells logic that these sessions live; without any it only asks about the store. Notes what logic says about the
    /// store.
    async fn tell_alive(&self, sessions: Vec<SessionRef>) -> Result<Renewed, LogicError> {
        let asked = Time::now();
        let renewed = self.logic.renew(sessions).await?;
        if let Some(now_us) = renewed.now_us {
            self.store_time.heard(asked, Time::now(), now_us);
        }
        self.announcer.heard(&renewed);
        Ok(renewed)
    }

    /// Gives all shards the TLS of connections from now on.
    pub async fn set_acceptors(&self, acceptors: &Acceptors) {
        for shard in 0..self.outboxes.shards() as u16 {
            self.outboxes.send(shard, ToShard::Acceptors(Box::new(acceptors.clone()))).await;
        }
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// logic accepted a login whose client had left. The shard that owns the key decides what follows, since a newer
    /// connection may have the key by now. During a drain every connection is closed, so the session ends without
    /// asking a shard.
    fn abandoned(self: &Arc<Self>, session: Session) {
        if self.is_draining() {
            let Session { mid, key, generation, .. } = session;
            let session = SessionRef { mid, key, server: self.server.clone(), generation };
            return self.lanes.ended(self, session);
        }
        let owner = self.outboxes.owner(&session.key);
        // Bounded like the logins.
        self.send_soon(owner, ToShard::Abandoned(session));
    }

    /// Sends a mail that must arrive, without waiting. If the queue is full, a task of its own waits, so the caller has
    /// to bound how often that can happen.
    fn send_soon(self: &Arc<Self>, shard: u16, mail: impl Into<mail::ToShard>) {
        if let Err(mail) = self.outboxes.try_send(shard, mail) {
            let front = Arc::clone(self);
            tokio::spawn(async move { front.outboxes.send(shard, mail).await });
        }
    }

    fn counts(&self) -> MutexGuard<'_, RoomCounts> {
        lock(&self.counts)
    }

    /// Tells the shards how many people are elsewhere. Never waits: if a queue is full, the front says everything again
    /// before the next report.
    fn tell_elsewhere(&self, news: counts::Elsewhere) {
        for (shard, rooms) in news.into_iter().enumerate() {
            if !rooms.is_empty() && self.outboxes.try_send(shard as u16, ToShard::Elsewhere(rooms)).is_err() {
                self.notice_lost.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Reports this comet's counts to logic and takes those of all comets, for ever.
    async fn report_online(self: Arc<Self>) {
        let mut pause = REPORT_EVERY;
        let mut reported = Instant::now();
        let mut known: HashMap<_, _> = HashMap::new();
        loop {
            tokio::time::sleep(pause).await;
            if self.notice_lost.swap(false, Ordering::Relaxed) {
                let news = self.counts().everything();
                self.tell_elsewhere(news);
            }
            let (changed, counts) = {
                let mut counts = self.counts();
                let changed = counts.take_changed();
                let is_due = changed || reported.elapsed() >= REPORT_UNCHANGED;
                (changed, is_due.then(|| counts.counts()))
            };
            let Some((rooms, clients)) = counts else { continue };
            let may_report = self.reports.lock().await;
            if !*may_report {
                return;
            }
            if changed {
                known.clone_from(&rooms);
            }
            reported = Instant::now();
            match self.logic.renew_online(self.server.clone(), rooms, clients).await {
                Ok(all) => {
                    let news = self.counts().all_comets(&known, &all);
                    self.tell_elsewhere(news);
                }
                Err(error) => {
                    self.counts().report_again();
                    self.metrics.logic_failed("renew_online");
                    tracing::debug!(%error, "logic did not take the room counts");
                }
            }
            drop(may_report);
            // With very many rooms a report costs noticeable time. The pause lets reports use a twentieth of a core,
            // but is short enough for logic to hear of this comet in time.
            pause = (reported.elapsed() * 20).clamp(REPORT_EVERY, REPORT_EVERY_MAX);
        }
    }
}

/// Locks one of the front's mutexes. They are held for a few instructions and never across a wait, and a panic ends the
/// process.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod renewal_tests;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use contract::{CometApi as _, Dispatch, DispatchError, Payload, Receivers, Transport};
    use proto::{
        ids::{Generation, Key, Mid},
        op::Op,
    };
    use shard::mail::{ConnectionId, Login, Outcome, Ticket, ToFront};
    use testkit::{fakes::FakeLogic, world::handover};

    use super::*;
    use crate::{
        mail::{Attach, Descriptor},
        mailbox::{Receiver, ShardFlag, WakeFlag, channel},
    };

    fn session() -> Session {
        Session {
            mid: Mid(7),
            key: Key::new("k"),
            room: None,
            rooms: Vec::new(),
            accepts: Vec::new(),
            heartbeat: Duration::from_secs(90),
            generation: Some(Generation(1)),
        }
    }

    /// A logic that gives everybody the same session; logins and reports take so long.
    fn slow(takes: Duration) -> Arc<FakeLogic> {
        let logic = FakeLogic::granting(session());
        logic.connect.take(takes);
        logic.report.take(takes);
        Arc::new(logic)
    }

    /// The same, and the first report fails.
    fn slow_and_failing(takes: Duration) -> Arc<FakeLogic> {
        let logic = slow(takes);
        logic.report.fail(1, || LogicError::Overloaded);
        logic
    }

    /// When reports that take so long arrived in the first two minutes, somebody having come at the start.
    async fn reports_that_take(takes: Duration) -> Vec<Duration> {
        let began = Instant::now();
        let logic = slow_and_failing(takes);
        let outboxes = Outboxes::new(Vec::new());
        let front = Front::start(
            ServerId::new("a:1"),
            outboxes,
            Vec::new(),
            Arc::clone(&logic) as _,
            Metrics::new(0),
            ClientLog::default(),
            1,
        );
        front.counts().opened(IpAddr::from([127, 0, 0, 1]));
        tokio::time::sleep(Duration::from_secs(120)).await;
        logic.report.calls().into_iter().map(|at| at - began).collect()
    }

    /// The pause between two reports was twenty times what the last one took, waiting included: after one that took a
    /// second logic heard nothing for twenty, and it takes a comet for gone after ten.
    #[tokio::test(start_paused = true)]
    async fn logic_hears_of_a_comet_before_it_takes_it_for_gone() {
        for takes in [0, 100, 1000, 4000].map(Duration::from_millis) {
            let at = reports_that_take(takes).await;
            let longest = at.windows(2).map(|pair| pair[1] - pair[0]).max();
            assert!(longest.is_some_and(|longest| longest < Duration::from_secs(10)), "{takes:?}: {at:?}");
            assert!(at.len() <= 32, "unchanged counts are not worth more: {at:?}");
        }
    }

    /// Its people were counted until the comet was missed, 10 s and more.
    #[tokio::test(start_paused = true)]
    async fn the_last_report_of_a_drained_comet_is_of_nobody() {
        for takes in [0, 900].map(Duration::from_millis) {
            let logic = slow_and_failing(takes);
            let (front, _inbox) = with_a_shard(Arc::clone(&logic));
            front.counts().opened(IpAddr::from([127, 0, 0, 1]));
            // A report is under way, or the last one has failed.
            tokio::time::sleep(REPORT_EVERY + takes / 2).await;
            // The shard has closed everybody, or hangs.
            if takes.is_zero() {
                inbox::take(&front, 0, ToFront::Drained { arrivals: 0 });
            }
            front.drain(Duration::ZERO, Duration::from_secs(25)).await;
            let reports = logic.reports();
            assert_eq!(
                reports.last().map(|report| report.clients),
                Some(ClientCount::default()),
                "{takes:?}"
            );
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(logic.reports(), reports, "nothing after the last one");
        }
    }

    /// What a failed report had to say was said with the next change, or seconds later.
    #[tokio::test(start_paused = true)]
    async fn a_report_that_failed_is_made_again() {
        let at = reports_that_take(Duration::ZERO).await;
        assert_eq!(at[1] - at[0], REPORT_EVERY);
    }

    /// A front with one shard, of which here is the queue.
    fn with_a_shard(logic: Arc<FakeLogic>) -> (Arc<Front>, Receiver<mail::ToShard, ()>) {
        let (wake, _) = ring::wake_pair().expect("two descriptors");
        let (sender, inbox) = channel(8, Arc::new(ShardFlag::new(wake)), Arc::<WakeFlag<()>>::default());
        let outboxes = Outboxes::new(vec![sender]);
        let (name, metrics) = (ServerId::new("a:1"), Metrics::new(1));
        let front = Front::start(name, outboxes, Vec::new(), logic, metrics, ClientLog::default(), 5);
        (front, inbox)
    }

    /// What stood before the refused one was handed out, and again when job made the batch anew without it.
    #[tokio::test]
    async fn nothing_of_a_refused_batch_is_handed_out() {
        let (front, mut inbox) = with_a_shard(Arc::default());
        let push = |body: &'static str| Dispatch {
            receivers: Receivers::All { speed: 0 },
            filter: Op(1000),
            payload: Payload::Message { op: Op(1000), body: body.into() },
            origin: None,
            accepted_at_us: 0,
        };
        let result = front.dispatch(&[push("short"), push("too long")]).await;
        assert!(matches!(result, Err(DispatchError::Invalid(_))), "{result:?}");
        assert!(inbox.is_empty());
        front.dispatch(&[push("short")]).await.expect("it fits");
        assert_eq!(inbox.depth(), 1);
    }

    fn login() -> Login {
        let id = ConnectionId { shard: 0, slot: 3, generation: 4 };
        let now = Time::now();
        let (transport, peer) = (Transport::Tcp, IpAddr::from([127, 0, 0, 1]));
        let deadline = now.after(Duration::from_secs(5));
        let (cookie, token) = (Box::default(), "{}".into());
        Login { id, transport, peer, cookie, token, arrived: now, looked: now, deadline }
    }

    /// What logic answered behind the last client's end was a session for half an hour that nobody had.
    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_the_sessions_of_logins_that_were_under_way() {
        for takes in [3, 20].map(Duration::from_secs) {
            let logic = slow(takes);
            let (front, _inbox) = with_a_shard(Arc::clone(&logic));
            front.logins.begin(&front, login());
            tokio::time::sleep(Duration::from_secs(1)).await;
            // The shard closes the client in the lobby, and has no other.
            front.logins.gone(login().id);
            inbox::take(&front, 0, ToFront::Drained { arrivals: 0 });
            assert!(front.drain(Duration::ZERO, Duration::from_secs(25)).await);
            assert_eq!(logic.ended(), ["k"], "{takes:?}");
        }
    }

    /// A shard was empty, and the last connection on its way there: the drain was over before it had come, and its session
    /// stayed for half an hour.
    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_connections_on_their_way_between_shards() {
        let (front, mut inbox) = with_a_shard(Arc::default());
        let draining = tokio::spawn({
            let front = Arc::clone(&front);
            async move { front.drain(Duration::ZERO, Duration::from_secs(25)).await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        let state = handover(Ticket(1), Transport::Tcp, session());
        let descriptor = Descriptor::Os(std::io::pipe().expect("two descriptors").0.into());
        let attach = Box::new(Attach { descriptor, state });
        inbox::take(&front, 0, mail::ToFront::Moved { to: 0, attach });
        inbox::take(&front, 0, ToFront::Drained { arrivals: 0 });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!draining.is_finished());
        let mails: Vec<mail::ToShard> = std::iter::from_fn(|| inbox.pop()).collect();
        assert!(mails.iter().any(|mail| matches!(mail, mail::ToShard::Attach(_))), "{mails:?}");
        inbox::take(&front, 0, ToFront::Drained { arrivals: 1 });
        assert!(draining.await.expect("no panic"));
    }

    /// The front stood still with a login in its hands, whose client had left meanwhile, its end being in the kernel: logic
    /// was asked all the same.
    #[tokio::test(start_paused = true)]
    async fn a_client_is_looked_for_again_before_logic_is_asked_late() {
        for stays in [true, false] {
            let logic = slow(Duration::ZERO);
            let (front, mut inbox) = with_a_shard(Arc::clone(&logic));
            let looked = Time::now().before(Duration::from_secs(1));
            front.logins.begin(&front, Login { looked, ..login() });
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(matches!(inbox.pop(), Some(mail::ToShard::Rules(ToShard::Look(id))) if id == login().id));
            assert_eq!(logic.connect.count(), 0);
            match stays {
                true => front.logins.there(login().id),
                false => front.logins.gone(login().id),
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(logic.connect.count(), usize::from(stays));
        }
    }

    /// The call was given up with the deadline: what logic had stored stayed there for half an hour, and was pushed to.
    #[tokio::test(start_paused = true)]
    async fn a_session_that_logic_announces_too_late_ends() {
        let takes = Duration::from_secs(60);
        let (front, mut inbox) = with_a_shard(slow(takes));
        front.logins.begin(&front, login());
        tokio::time::sleep(takes / 2).await;
        let refused = inbox.pop();
        let Some(mail::ToShard::Rules(ToShard::Verdict(verdict))) = refused else { panic!("{refused:?}") };
        assert!(matches!(verdict.outcome, Outcome::Refuse { .. }), "{verdict:?}");
        tokio::time::sleep(takes).await;
        let ended = inbox.pop();
        assert!(
            matches!(&ended, Some(mail::ToShard::Rules(ToShard::Abandoned(session))) if session.mid == Mid(7)),
            "{ended:?}"
        );
    }
}
