//! job's way to one comet: a bounded queue and a task that empties it.
//!
//! If comet does not take a push within `dispatch.giveUp`, the link gives it up, whatever became of the call. If the
//! queue is full, the link gives a new push up at once. So no other comet ever waits for this one. Time in which job
//! stood still does not count ([`AwakeClock`](super::awake::AwakeClock)).
//!
//! | module | subject |
//! | --- | --- |
//! | [`queue`] | what waits, and what every link of a job shares |
//! | [`batch`] | what one call carries |
//! | [`sender`] | the task: calls, and what becomes of them |
//! | [`stream`] | the task's dispatch over a stream of `halley.v1`, tried before calls |

pub(super) mod batch;
pub(super) mod queue;
mod sender;
mod stream;

use std::sync::Arc;

use contract::Dispatch;
use tokio::task::JoinHandle;

pub(super) use self::queue::{Common, LinkLimits};
use self::{queue::Shared, sender::Sender};
use super::{Comet, tracker::Ticket};
use crate::metrics::DropReason;

/// job's way to one comet. When the comet leaves the registry, the link stays until it is empty, so that a comet that
/// comes back meanwhile gets its pushes in order. A dropped link ends once it is empty.
pub(super) struct Link {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
    /// The comet is in the registry.
    is_listed: bool,
    /// The registry marked it offline when it last listed it. A draining comet marks itself so.
    is_offline: bool,
}

impl Link {
    /// Starts the link of one comet.
    pub(super) fn start(comet: Comet, common: Common) -> Self {
        let shared = Arc::new(Shared::new(comet.server.clone(), common));
        let sender = Sender::new(comet, Arc::clone(&shared));
        Link { shared, task: Some(tokio::spawn(sender.run())), is_listed: false, is_offline: false }
    }

    /// Whether [`offer`](Self::offer) would queue a push now.
    pub(super) fn has_room(&self) -> bool {
        self.shared.has_room()
    }

    /// Queues a push, or gives it up if the queue is full. In both cases the link releases the ticket, sooner or later.
    pub(super) fn offer(&self, dispatch: Dispatch, ticket: Ticket) {
        if !self.shared.offer(dispatch, ticket) {
            let Common { metrics, tracker, .. } = &self.shared.common;
            metrics.drops.of(DropReason::CometUnreachable).inc();
            tracker.release([ticket], false);
        }
    }

    /// Whether nothing waits and no call is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.shared.queue().entries == 0
    }

    /// Whether the comet is in the registry, according to the last [`set_listed`](Self::set_listed).
    pub(super) fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// Records what the registry says of the comet now: whether it is marked offline; none if the registry does not
    /// list it.
    pub(super) fn set_listed(&mut self, offline: Option<bool>) {
        self.is_listed = offline.is_some();
        self.is_offline = offline.unwrap_or(self.is_offline);
    }

    /// Whether pushes go to the comet. A draining comet stays listed until its last client has gone. If a comet
    /// vanishes from the registry without having been marked offline, its clients are probably still there: pushes go
    /// on as long as its stream stands.
    pub(super) fn is_open(&self) -> bool {
        self.is_listed || (!self.is_offline && self.shared.stands())
    }

    /// Ends the link when its queue is empty.
    pub(super) async fn finish(mut self) {
        self.close();
        if let Some(task) = self.task.take() {
            // The task neither panics nor is cancelled. If it were, there would be nothing left to wait for.
            let _ = task.await;
        }
    }

    fn close(&self) {
        self.shared.close();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}
