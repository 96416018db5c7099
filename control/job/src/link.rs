//! The way to one comet: a bounded queue and a task that empties it ([`Caller`]).
//!
//! What comet does not take within `dispatch.giveUp` is given up for it, whatever became of the call; what comes while its
//! queue is full is given up at once. Nobody else waits for it. Time in which job stood still does not count
//! ([`AwakeClock`]).

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use contract::Dispatch;
use proto::ids::ServerId;
use tokio::{sync::Notify, task::JoinHandle};

use super::{
    Comet,
    awake::{AwakeClock, Moment},
    caller::Caller,
    route,
    tracker::{Ticket, Tracker},
};
use crate::metrics::{DropReason, JobMetrics};

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
    pub(super) queued: Moment,
    ticket: Ticket,
    /// Bytes that it holds; it takes no more of a message between processes.
    pub(super) size: usize,
}

impl Item {
    /// A push that starts to wait.
    pub(super) fn new(dispatch: Dispatch, ticket: Ticket, queued: Moment) -> Self {
        Item { size: route::size(&dispatch), dispatch, queued, ticket }
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
    /// Told whenever a link has room again, or its stream has ended.
    pub(super) room: Arc<Notify>,
}

pub(super) struct Shared {
    pub(super) server: ServerId,
    pub(super) common: Common,
    queue: Mutex<Queue>,
    pub(super) changed: Notify,
    /// comet has spoken on the stream that is open now.
    stands: AtomicBool,
}

pub(super) struct Queue {
    pub(super) items: VecDeque<Item>,
    pub(super) clock: AwakeClock,
    /// Bytes and number of the items, those under way included.
    bytes: usize,
    pub(super) entries: usize,
    pub(super) closed: bool,
}

impl Link {
    /// Starts the link of one comet.
    pub(super) fn start(comet: Comet, common: Common) -> Self {
        let shared = Arc::new(Shared {
            server: comet.server.clone(),
            queue: Mutex::new(Queue::new(&common.limits)),
            common,
            changed: Notify::new(),
            stands: AtomicBool::new(false),
        });
        let caller = Caller::new(comet, Arc::clone(&shared));
        Link { shared, task: Some(tokio::spawn(caller.run())) }
    }

    /// Whether [`offer`](Self::offer) would queue a push now.
    pub(super) fn has_room(&self) -> bool {
        self.shared.queue().has_room(&self.shared.common.limits)
    }

    /// Queues a push, or gives it up when the queue is full. The ticket is released either way, sooner or later.
    pub(super) fn offer(&self, dispatch: Dispatch, ticket: Ticket) {
        let Common { limits, metrics, tracker, .. } = &self.shared.common;
        let mut queue = self.shared.queue();
        let item = Item::new(dispatch, ticket, queue.clock.now());
        let size = item.size;
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

    /// Whether comet is at the other end of a stream now.
    pub(super) fn stands(&self) -> bool {
        self.shared.stands.load(Relaxed)
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

    /// comet is at the other end of the stream, or no longer.
    pub(super) fn set_stands(&self, stands: bool) {
        if self.stands.swap(stands, Relaxed) && !stands {
            // A comet that is not listed any more may be gone now.
            self.common.room.notify_one();
        }
    }

    /// These items are done with: comet has taken them, or was given up.
    pub(super) fn release(&self, items: &[Item], is_taken: bool) {
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
    fn new(limits: &LinkLimits) -> Self {
        let clock = AwakeClock::new(limits.give_up);
        Queue { items: VecDeque::new(), clock, bytes: 0, entries: 0, closed: false }
    }

    /// The last one queued may stand over the bound of bytes, so that an empty queue takes a push of any size.
    fn has_room(&self, limits: &LinkLimits) -> bool {
        self.entries < limits.entries && self.bytes < limits.bytes
    }
}
