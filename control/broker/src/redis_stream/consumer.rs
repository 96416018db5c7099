//! Hands out what the reader reads, and acknowledges.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use store::{Redis, RedisError};
use tokio::{runtime::Handle, sync::mpsc, task::AbortHandle, time::timeout};
use tracing::warn;
use uuid::Uuid;

use super::{Topic, member::Membership, reader, scripts::Member, share::Batch};
use crate::{ConsumeError, Consumer, Delivery, Position, metrics::BrokerMetrics};

/// Longest time to give everything back. After that the leases run out by themselves.
const LEAVE_MAX: Duration = Duration::from_secs(2);

/// A member of a group.
pub(super) struct StreamConsumer {
    pub(super) membership: Arc<Membership>,
    /// What the reader read, one answer at a time: it is one answer ahead.
    batches: mpsc::Receiver<Result<Vec<Batch>, RedisError>>,
    /// The batches of the present answer that are not handed out yet.
    rest: std::vec::IntoIter<Batch>,
    current: Option<Batch>,
    /// The task that renews and the task that reads.
    pub(super) tasks: [AbortHandle; 2],
    has_left: bool,
}

impl StreamConsumer {
    pub(super) fn start(redis: &Redis, topic: &Topic, group: &str, metrics: &BrokerMetrics) -> Self {
        let membership = Arc::new(Membership::new(Member {
            redis: redis.clone(),
            topic: topic.clone(),
            group: group.to_owned(),
            id: Uuid::new_v4().to_string(),
        }));
        let (to_consumer, batches) = mpsc::channel(1);
        let keeps = tokio::spawn(Arc::clone(&membership).keep(metrics.clone()));
        let reads = tokio::spawn(reader::run(Arc::clone(&membership), to_consumer));
        StreamConsumer {
            membership,
            batches,
            rest: Vec::new().into_iter(),
            current: None,
            tasks: [keeps.abort_handle(), reads.abort_handle()],
            has_left: false,
        }
    }
}

#[async_trait]
impl Consumer for StreamConsumer {
    async fn next_batch(&mut self, max: usize) -> Result<Vec<Delivery>, ConsumeError> {
        let max = max.max(1);
        let mut deliveries = Vec::new();
        loop {
            while deliveries.len() < max
                && let Some(batch) = &mut self.current
            {
                deliveries.extend(self.membership.share.hand_out(batch, max - deliveries.len()));
                if batch.entries.len() == 0 {
                    self.current = self.rest.next();
                }
            }
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
            match self.batches.recv().await {
                Some(Ok(batches)) => self.rest = batches.into_iter(),
                Some(Err(error)) => return Err(ConsumeError::Unavailable(error.to_string())),
                None => {
                    return Err(ConsumeError::Unavailable("the reader of the streams has ended".to_owned()));
                }
            }
            self.current = self.rest.next();
        }
    }

    async fn ack(&mut self, position: &Position) -> Result<(), ConsumeError> {
        if self.membership.share.acknowledge(position) {
            let stored = self.membership.store().await;
            stored.map_err(|error| ConsumeError::Unavailable(error.to_string()))?;
        }
        Ok(())
    }

    async fn leave(mut self: Box<Self>) {
        self.has_left = true;
        self.tasks.iter().for_each(AbortHandle::abort);
        leave(Arc::clone(&self.membership)).await;
    }
}

impl Drop for StreamConsumer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        if !self.has_left
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(leave(Arc::clone(&self.membership)));
        }
    }
}

async fn leave(membership: Arc<Membership>) {
    let left = timeout(LEAVE_MAX, membership.leave()).await;
    if !matches!(left, Ok(Ok(()))) {
        warn!("the streams of {} are free only when their leases run out", membership.member.topic.name);
    }
}
