//! What waits for one comet, and what its link shares with the others.

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
use tokio::sync::Notify;

use crate::{
    awake::{AwakeClock, Moment},
    metrics::{DropReason, JobMetrics},
    route,
    tracker::{Ticket, Tracker},
};

/// Bounds of a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkLimits {
    /// Bytes of the pushes not yet taken by the comet or given up.
    pub(crate) bytes: usize,
    /// Their number.
    pub(crate) entries: usize,
    /// How long one waits.
    pub(crate) give_up: Duration,
}

/// One push on its way to one comet.
pub(crate) struct Item {
    pub(crate) dispatch: Dispatch,
    pub(crate) queued: Moment,
    ticket: Ticket,
    /// Bytes that the item holds in memory. Sent to another process it takes no more than that.
    pub(crate) size: usize,
}

impl Item {
    /// A push that starts to wait.
    pub(crate) fn new(dispatch: Dispatch, ticket: Ticket, queued: Moment) -> Self {
        Item { size: route::size(&dispatch), dispatch, queued, ticket }
    }
}

/// What every link of this job shares.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) limits: LinkLimits,
    pub(crate) metrics: JobMetrics,
    pub(crate) tracker: Arc<Tracker>,
    /// Notified whenever a link has room again or its stream has ended.
    pub(crate) room: Arc<Notify>,
}

pub(crate) struct Shared {
    pub(crate) server: ServerId,
    pub(crate) common: Common,
    queue: Mutex<Queue>,
    pub(crate) changed: Notify,
    /// comet has answered on the stream that is open now.
    stands: AtomicBool,
}

pub(crate) struct Queue {
    pub(crate) items: VecDeque<Item>,
    pub(crate) clock: AwakeClock,
    /// Bytes and number of the items, those under way included.
    bytes: usize,
    pub(crate) entries: usize,
    pub(crate) closed: bool,
}

impl Shared {
    pub(crate) fn new(server: ServerId, common: Common) -> Shared {
        let queue = Mutex::new(Queue::new(&common.limits));
        Shared { server, common, queue, changed: Notify::new(), stands: AtomicBool::new(false) }
    }

    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a push would be queued now.
    pub(crate) fn has_room(&self) -> bool {
        self.queue().has_room(&self.common.limits)
    }

    /// Queues a push; false when the queue is full.
    pub(crate) fn offer(&self, dispatch: Dispatch, ticket: Ticket) -> bool {
        let mut queue = self.queue();
        if !queue.has_room(&self.common.limits) {
            return false;
        }
        let item = Item::new(dispatch, ticket, queue.clock.now());
        let size = item.size;
        queue.bytes += size;
        queue.entries += 1;
        queue.items.push_back(item);
        drop(queue);
        self.common.metrics.queue_bytes.inc_by(size as i64);
        self.changed.notify_one();
        true
    }

    /// Ends the sender as soon as the queue is empty.
    pub(crate) fn close(&self) {
        self.queue().closed = true;
        self.changed.notify_one();
    }

    /// Whether a stream is open on which comet has answered.
    pub(crate) fn stands(&self) -> bool {
        self.stands.load(Relaxed)
    }

    /// Records that comet has answered on the stream, or that the stream has ended.
    pub(crate) fn set_stands(&self, stands: bool) {
        if self.stands.swap(stands, Relaxed) && !stands {
            // If the comet is no longer listed, its link may end now.
            self.common.room.notify_one();
        }
    }

    /// The link is done with these items: comet has taken them, or the link gave them up.
    pub(crate) fn release(&self, items: &[Item], is_taken: bool) {
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

    pub(crate) fn drop_items(&self, items: &[Item], reason: DropReason) {
        self.common.metrics.drops.of(reason).inc_by(items.len() as u64);
        self.release(items, false);
    }
}

impl Queue {
    fn new(limits: &LinkLimits) -> Self {
        let clock = AwakeClock::new(limits.give_up);
        Queue { items: VecDeque::new(), clock, bytes: 0, entries: 0, closed: false }
    }

    /// The last item may exceed the bound of bytes, so that an empty queue takes a push of any size.
    fn has_room(&self, limits: &LinkLimits) -> bool {
        self.entries < limits.entries && self.bytes < limits.bytes
    }
}
