//! The way to one comet: a bounded queue and a task that empties it.
//!
//! A comet gets its pushes in order: over a stream ([`super::stream`]), or by calls that go out one at a time. What it
//! does not take within `dispatch.giveUp` is given up for it, whatever became of the call; what comes while its queue is
//! full is given up at once. Nobody else waits for it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cluster::{
    backoff::Backoff,
    services::{CometApi, Dispatch, DispatchError},
    telemetry::OUTSIDERS,
};
use proto::ids::ServerId;
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout_at},
};
use tracing::{Level, info, warn};
use uuid::Uuid;

use super::{
    Comet,
    calls::Calls,
    route,
    tracker::{Ticket, Tracker},
};
use crate::{
    clock::wall_us,
    comet_client::GrpcComet,
    metrics::{DropReason, JobMetrics},
};

/// First pause after a failed call; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// Longest pause between two calls of a comet that fails.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Bounds of a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkLimits {
    /// Bytes of the pushes not yet taken by the comet or given up.
    pub(super) bytes: usize,
    /// Their number.
    pub(super) entries: usize,
    /// How long one waits.
    pub(super) give_up: Duration,
}

/// One push on its way to one comet.
pub(super) struct Item {
    pub(super) dispatch: Dispatch,
    pub(super) queued: Instant,
    ticket: Ticket,
    /// Bytes that it holds; it takes no more of a message between processes.
    pub(super) size: usize,
}

impl Item {
    /// A push that starts to wait now.
    pub(super) fn new(dispatch: Dispatch, ticket: Ticket) -> Self {
        Item { size: route::size(&dispatch), dispatch, queued: Instant::now(), ticket }
    }
}

/// The way to one comet. Ends, once empty, when it is dropped.
pub(super) struct Link {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

/// What every link of this job shares.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) limits: LinkLimits,
    pub(super) metrics: JobMetrics,
    pub(super) tracker: Arc<Tracker>,
    /// Told whenever a link has room again.
    pub(super) room: Arc<Notify>,
}

pub(super) struct Shared {
    server: ServerId,
    pub(super) common: Common,
    queue: Mutex<Queue>,
    pub(super) changed: Notify,
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) items: VecDeque<Item>,
    /// Bytes and number of the items, those under way included.
    bytes: usize,
    pub(super) entries: usize,
    pub(super) closed: bool,
}

impl Link {
    /// Starts the link of one comet.
    pub(super) fn start(comet: Comet, common: Common) -> Self {
        let shared = Arc::new(Shared {
            server: comet.server,
            common,
            queue: Mutex::default(),
            changed: Notify::new(),
        });
        let caller = Caller {
            shared: Arc::clone(&shared),
            api: comet.api,
            calls: comet.calls,
            stream: comet.stream,
            name: Uuid::new_v4().to_string(),
            backoff: Backoff::new(PAUSE_MIN, PAUSE_MAX),
            is_away: false,
        };
        Link { shared, task: Some(tokio::spawn(caller.run())) }
    }

    /// Whether [`offer`](Self::offer) would queue a push now.
    pub(super) fn has_room(&self) -> bool {
        self.shared.queue().has_room(&self.shared.common.limits)
    }

    /// Queues a push, or gives it up when the queue is full. The ticket is released either way, sooner or later.
    pub(super) fn offer(&self, dispatch: Dispatch, ticket: Ticket) {
        let Common { limits, metrics, tracker, .. } = &self.shared.common;
        let item = Item::new(dispatch, ticket);
        let size = item.size;
        let mut queue = self.shared.queue();
        if !queue.has_room(limits) {
            drop(queue);
            metrics.drops.of(DropReason::CometUnreachable).inc();
            tracker.release([ticket], false);
            return;
        }
        queue.bytes += size;
        queue.entries += 1;
        queue.items.push_back(item);
        drop(queue);
        metrics.queue_bytes.inc_by(size as i64);
        self.shared.changed.notify_one();
    }

    /// Whether nothing waits and no call is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.shared.queue().entries == 0
    }

    /// Ends the link when its queue is empty.
    pub(super) async fn finish(mut self) {
        self.close();
        if let Some(task) = self.task.take() {
            // The task neither panics nor is cancelled; if it did, there would be nothing left to wait for.
            let _ = task.await;
        }
    }

    fn close(&self) {
        self.shared.queue().closed = true;
        self.shared.changed.notify_one();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These items are done with: comet has taken them, or was given up.
    fn release(&self, items: &[Item], is_taken: bool) {
        let size: usize = items.iter().map(|item| item.size).sum();
        let mut queue = self.queue();
        queue.bytes -= size;
        queue.entries -= items.len();
        drop(queue);
        let Common { metrics, tracker, room, .. } = &self.common;
        metrics.queue_bytes.dec_by(size as i64);
        tracker.release(items.iter().map(|item| item.ticket), is_taken);
        room.notify_one();
    }

    pub(super) fn drop_items(&self, items: &[Item], reason: DropReason) {
        self.common.metrics.drops.of(reason).inc_by(items.len() as u64);
        self.release(items, false);
    }
}

impl Queue {
    /// The last one queued may stand over the bound of bytes, so that an empty queue takes a push of any size.
    fn has_room(&self, limits: &LinkLimits) -> bool {
        self.entries < limits.entries && self.bytes < limits.bytes
    }
}

/// The task of a link.
pub(super) struct Caller {
    pub(super) shared: Arc<Shared>,
    api: Arc<dyn CometApi>,
    calls: Calls,
    stream: Option<GrpcComet>,
    /// Nobody else's: by it comet knows that a stream takes the place of another.
    pub(super) name: String,
    pub(super) backoff: Backoff,
    is_away: bool,
}

impl Caller {
    async fn run(mut self) {
        while self.has_work().await {
            if let Some(comet) = self.stream.clone().filter(|comet| !comet.is_goims())
                && self.stream(&comet).await
            {
                continue;
            }
            let items = self.calls.take(&mut self.shared.queue().items);
            if !items.is_empty() {
                self.deliver(items).await;
            }
        }
    }

    /// Waits until something is in the queue; false at the end.
    async fn has_work(&self) -> bool {
        loop {
            {
                let queue = self.shared.queue();
                if !queue.items.is_empty() {
                    return true;
                }
                if queue.closed {
                    return false;
                }
            }
            self.shared.changed.notified().await;
        }
    }

    /// Calls until the comet has taken these items, or they are given up.
    async fn deliver(&mut self, items: Vec<Item>) {
        let mut parts = VecDeque::from([items]);
        while let Some(mut items) = parts.pop_front() {
            match self.call(&mut items).await {
                Ok(()) => self.taken(&items),
                // Nothing of a refused batch was taken: the malformed one is found by sending each alone.
                Err(DispatchError::Invalid(_)) if items.len() > 1 => {
                    parts.extend(items.into_iter().map(|item| vec![item]));
                }
                Err(DispatchError::Invalid(why)) => self.refused(&items, &why),
                Err(DispatchError::Unreachable(why)) => {
                    self.away(&why);
                    self.wait(&mut items).await;
                    if !items.is_empty() {
                        parts.push_front(items);
                    }
                }
            }
        }
    }

    /// One call. Items whose time is over meanwhile leave `items`; when the last does, the call is abandoned.
    async fn call(&self, items: &mut Vec<Item>) -> Result<(), DispatchError> {
        self.give_up_overdue(items);
        let mut call = self.api.dispatch(self.calls.dispatches(items));
        while let Some(deadline) = self.deadline(items) {
            match timeout_at(deadline, &mut call).await {
                Ok(result) => return result,
                Err(_) => self.give_up_overdue(items),
            }
        }
        Err(DispatchError::Unreachable("no answer".into()))
    }

    /// comet will never take these items.
    pub(super) fn refused(&self, items: &[Item], why: &str) {
        let comet = &self.shared.server;
        OUTSIDERS.log(Level::WARN, || warn!(%comet, why, "comet refuses a push, it is dropped"));
        self.shared.drop_items(items, DropReason::Invalid);
    }

    pub(super) fn taken(&mut self, items: &[Item]) {
        let Common { metrics, .. } = &self.shared.common;
        if std::mem::take(&mut self.is_away) {
            info!(comet = %self.shared.server, "comet is back");
        }
        self.backoff.reset();
        let now_us = wall_us();
        for item in items {
            metrics.accept_to_dispatch.observe_since(item.dispatch.accepted_at_us, now_us);
        }
        metrics.dispatches.inc_by(items.len() as u64);
        self.shared.release(items, true);
    }

    pub(super) fn away(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_away, true) {
            warn!(comet = %self.shared.server, why, "comet is unreachable");
        }
    }

    /// Waits before the next call. Items whose time is over meanwhile leave `items`.
    async fn wait(&mut self, items: &mut Vec<Item>) {
        let until = Instant::now() + self.backoff.step();
        while let Some(deadline) = self.deadline(items) {
            sleep_until(deadline.min(until)).await;
            self.give_up_overdue(items);
            if Instant::now() >= until {
                return;
            }
        }
    }

    /// When the time of the first item is over.
    fn deadline(&self, items: &[Item]) -> Option<Instant> {
        items.first().map(|item| item.queued + self.shared.common.limits.give_up)
    }

    fn give_up_overdue(&self, items: &mut Vec<Item>) {
        let now = Instant::now();
        // They were queued in this order.
        let overdue = items.partition_point(|item| item.queued + self.shared.common.limits.give_up <= now);
        if overdue > 0 {
            let overdue: Vec<Item> = items.drain(..overdue).collect();
            self.shared.drop_items(&overdue, DropReason::CometUnreachable);
        }
    }
}
