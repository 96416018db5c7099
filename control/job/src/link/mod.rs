//! The way to one comet: a bounded queue and a task that empties it.
//!
//! What comet does not take within `dispatch.giveUp` is given up for it, whatever became of the call; what comes while its
//! queue is full is given up at once. Nobody else waits for it. Time in which job stood still does not count
//! ([`AwakeClock`](super::awake::AwakeClock)).
//!
//! | module | subject |
//! | --- | --- |
//! | [`queue`] | what waits, and what every link of a job shares |
//! | [`batch`] | what one call carries |
//! | [`sender`] | the task: calls, and what becomes of them |
//! | [`stream`] | the task's other way: the dispatch stream of `halley.v1` |

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

/// The way to one comet. Ends, once empty, when it is dropped.
pub(super) struct Link {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

impl Link {
    /// Starts the link of one comet.
    pub(super) fn start(comet: Comet, common: Common) -> Self {
        let shared = Arc::new(Shared::new(comet.server.clone(), common));
        let sender = Sender::new(comet, Arc::clone(&shared));
        Link { shared, task: Some(tokio::spawn(sender.run())) }
    }

    /// Whether [`offer`](Self::offer) would queue a push now.
    pub(super) fn has_room(&self) -> bool {
        self.shared.has_room()
    }

    /// Queues a push, or gives it up when the queue is full. The ticket is released either way, sooner or later.
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

    /// Whether comet is at the other end of a stream now.
    pub(super) fn stands(&self) -> bool {
        self.shared.stands()
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
        self.shared.close();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}
