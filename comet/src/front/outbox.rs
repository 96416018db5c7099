//! The front's end of the queues to the shards.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use proto::ids::Key;
use ring::WakeSender;
use seam::RandomState;

use crate::{mail::ToShard, mailbox::Sender};

/// Most commands that wait for one shard.
pub const QUEUE_CAPACITY: usize = 8192;

/// One in so many places of a queue is kept for verdicts, attaches, kicks and replies; pushes do not use it. So a flood
/// of pushes never keeps a client from logging in.
const RESERVED: usize = 4;

/// How often the front looks again at a full queue. It holds thousands of commands then, so this delay does not matter.
const RETRY: Duration = Duration::from_millis(1);

/// The queues to all shards. Only tasks of the front's own thread lock them, for the time of a push.
pub struct Outboxes {
    senders: Vec<Mutex<Sender<ToShard, WakeSender>>>,
    hasher: RandomState,
}

impl Outboxes {
    /// One queue per shard, in their order.
    pub fn new(senders: Vec<Sender<ToShard, WakeSender>>) -> Outboxes {
        Outboxes { senders: senders.into_iter().map(Mutex::new).collect(), hasher: RandomState::new() }
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.senders.len()
    }

    /// The shard that owns a key.
    pub fn owner(&self, key: &Key) -> u16 {
        (self.hasher.hash_one(key) % self.senders.len() as u64) as u16
    }

    /// Sends a mail that may use the reserved places: verdicts, attaches, kicks, replies. Gives it back if even those
    /// are full.
    pub fn try_send(&self, shard: u16, mail: impl Into<ToShard>) -> Result<(), ToShard> {
        let mut sender = self.lock(shard);
        sender.push(mail.into())?;
        sender.notify();
        Ok(())
    }

    /// As [`try_send`](Self::try_send), but waits for a place.
    pub async fn send(&self, shard: u16, mail: impl Into<ToShard>) {
        let mut mail = mail.into();
        while let Err(back) = self.try_send(shard, mail) {
            mail = back;
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Puts part of a dispatch into a queue without waking the shard. Waits as long as only reserved places are free.
    pub async fn push(&self, shard: u16, mail: impl Into<ToShard>) {
        let mut mail = Some(mail.into());
        loop {
            {
                let mut sender = self.lock(shard);
                if sender.free() > sender.capacity() / RESERVED
                    && let Some(next) = mail.take()
                {
                    match sender.push(next) {
                        Ok(()) => return,
                        Err(back) => mail = Some(back),
                    }
                }
            }
            // Wake the others: shards with room need not wait for this one before they do what they have. And if the
            // caller gives up waiting here, no shard is left asleep.
            self.notify_all();
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Wakes every sleeping shard that has new mail.
    pub fn notify_all(&self) {
        for shard in 0..self.senders.len() {
            self.lock(shard as u16).notify();
        }
    }

    fn lock(&self, shard: u16) -> std::sync::MutexGuard<'_, Sender<ToShard, WakeSender>> {
        self.senders[usize::from(shard)].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ring::wake_pair;

    use super::*;
    use crate::mailbox::{ShardFlag, WakeFlag, channel};

    fn mail() -> shard::mail::ToShard {
        shard::mail::ToShard::Drain { over: Duration::ZERO }
    }

    /// A push for all shards puts its parts into the queues and wakes nobody until the last has its own. While one queue
    /// was full, a shard that had its part slept on it; and when the call was given up meanwhile, until the next push.
    #[tokio::test(start_paused = true)]
    async fn who_has_its_part_is_woken_while_another_queue_is_full() {
        let (mut senders, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (wake, seed) = wake_pair().expect("two descriptors");
            let flag = Arc::new(ShardFlag::new(wake));
            let (sender, receiver) = channel(8, Arc::clone(&flag), Arc::<WakeFlag<()>>::default());
            senders.push(sender);
            ends.push((receiver, flag, seed));
        }
        let outboxes = Outboxes::new(senders);
        while outboxes.try_send(1, mail()).is_ok() {}
        let (inbox, flag, wake) = &mut ends[0];
        assert!(flag.try_sleep(|| !inbox.is_empty()), "nothing is there yet");

        outboxes.push(0, mail()).await;
        let second = tokio::time::timeout(RETRY * 3, outboxes.push(1, mail())).await;
        assert!(second.is_err(), "the queue is full, and whoever waits gives up");
        assert!(wake.try_take(), "the first shard sleeps on what it was given");
    }
}
