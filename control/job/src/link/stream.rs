//! A link over the dispatch stream of `halley.v1`.
//!
//! What waits goes out in batches, as long as comet's credit lasts, and stays here until comet has acknowledged it.
//! When the stream breaks, the link sends everything unacknowledged again on the next stream, in order, so comet may
//! get it twice. The link joins and reorders nothing.

use std::{collections::VecDeque, pin::pin};

use comet_client::GrpcComet;
use contract::DispatchError;
use futures_util::stream;
use grpc::halley::{DispatchBatch, DispatchReply, Refused};
use tokio::{sync::mpsc, time::sleep};
use tonic::Streaming;

use super::{
    batch::BATCH_MAX,
    queue::Item,
    sender::{Sender, until},
};

/// Bytes of one batch. The last push in it may exceed them.
const BATCH_BYTES: usize = 512 << 10;

/// A batch under way.
struct Sent {
    serial: u64,
    size: usize,
    /// Each at its index in the batch; none if the item was given up or refused.
    items: Vec<Option<Item>>,
}

/// One stream.
struct Session<'a> {
    link: &'a mut Sender,
    sent: VecDeque<Sent>,
    next_serial: u64,
    /// Bytes of the batches in `sent`.
    under_way: usize,
    /// Bytes that comet allows under way; 0 until it first says so.
    credit: usize,
    batch_max: usize,
}

impl Sender {
    /// Dispatches over one stream until the link ends and nothing is left, or until the stream breaks; then it returns
    /// after a pause. False if comet knows no streams.
    pub(super) async fn stream(&mut self, comet: &GrpcComet) -> bool {
        let (batches, mut outgoing) = mpsc::channel(1);
        let outgoing = stream::poll_fn(move |context| outgoing.poll_recv(context));
        let why = match self.meanwhile(comet.open(outgoing)).await {
            None => return false,
            Some(Ok(replies)) => {
                let mut session = Session {
                    link: self,
                    sent: VecDeque::new(),
                    next_serial: 1,
                    under_way: 0,
                    credit: 0,
                    batch_max: usize::MAX,
                };
                let ended = session.run(replies, batches).await;
                session.link.shared.set_stands(false);
                match ended {
                    Ok(()) => return true,
                    Err(why) => {
                        session.put_back();
                        why
                    }
                }
            }
            Some(Err(DispatchError::Invalid(why) | DispatchError::Unreachable(why))) => why,
        };
        self.away(&why);
        let pause = self.backoff.step();
        self.meanwhile(sleep(pause)).await;
        true
    }

    /// Waits for `done`. Meanwhile it gives up what becomes overdue in the queue.
    async fn meanwhile<T>(&self, done: impl Future<Output = T>) -> T {
        let mut done = pin!(done);
        loop {
            self.give_up_waiting();
            let deadline = self.deadline(std::iter::empty());
            tokio::select! {
                biased;
                result = &mut done => return result,
                () = self.shared.changed.notified() => {}
                () = until(deadline) => {}
            }
        }
    }
}

impl Session<'_> {
    /// Runs until the link ends and nothing is left, or until the stream breaks; then it tells why.
    async fn run(
        &mut self,
        mut replies: Streaming<DispatchReply>,
        batches: mpsc::Sender<DispatchBatch>,
    ) -> Result<(), String> {
        loop {
            self.give_up_overdue();
            let (may_send, is_over) = {
                let queue = self.link.shared.queue();
                let first = queue.items.front().map(|item| item.size);
                (first.is_some_and(|size| self.fits(size)), queue.closed && queue.entries == 0)
            };
            if is_over {
                return Ok(());
            }
            let mut sent = self.sent.iter().flat_map(|batch| batch.items.iter().flatten());
            let deadline = self.link.deadline(sent.next().into_iter());
            tokio::select! {
                biased;
                reply = replies.message() => match reply {
                    Ok(Some(reply)) => {
                        self.link.shared.set_stands(true);
                        self.answered(reply)?;
                    }
                    Ok(None) => return Err("it ended the stream".to_owned()),
                    Err(status) => return Err(format!("{:?}: {}", status.code(), status.message())),
                },
                place = batches.reserve(), if may_send => match place {
                    Ok(place) => if let Some(batch) = self.batch() {
                        place.send(batch);
                    },
                    Err(_) => return Err("the stream takes nothing more".to_owned()),
                },
                () = self.link.shared.changed.notified() => {}
                () = until(deadline) => {}
            }
        }
    }

    /// Whether comet's credit allows so many bytes more. A push larger than the whole credit goes when nothing else is
    /// under way.
    fn fits(&self, size: usize) -> bool {
        self.credit > 0 && (self.under_way == 0 || self.under_way + size <= self.credit)
    }

    /// Takes the next batch from the queue; none if everything it took is longer than comet reads.
    fn batch(&mut self) -> Option<DispatchBatch> {
        let (mut items, mut too_long) = (Vec::new(), Vec::new());
        let mut size = 0;
        {
            let mut queue = self.link.shared.queue();
            while let Some(next) = queue.items.front().map(|item| item.size) {
                let is_full = items.len() >= BATCH_MAX || size >= BATCH_BYTES || size + next > self.batch_max;
                if !items.is_empty() && (is_full || self.under_way + size + next > self.credit) {
                    break;
                }
                let Some(item) = queue.items.pop_front() else { break };
                if next > self.batch_max {
                    too_long.push(item);
                } else {
                    size += next;
                    items.push(item);
                }
            }
        }
        if !too_long.is_empty() {
            self.link.refused(&too_long, "longer than it reads");
        }
        if items.is_empty() {
            return None;
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        self.under_way += size;
        let link = if serial == 1 { self.link.name.clone() } else { String::new() };
        let dispatches = items.iter().map(|item| comet_client::dispatch(&item.dispatch)).collect();
        self.sent.push_back(Sent { serial, size, items: items.into_iter().map(Some).collect() });
        Some(DispatchBatch { serial, dispatches, link })
    }

    fn answered(&mut self, reply: DispatchReply) -> Result<(), String> {
        let DispatchReply { taken, credit, refused, batch_max } = reply;
        if taken >= self.next_serial {
            return Err(format!("it acknowledges batch {taken}, which was never sent"));
        }
        if credit > 0 {
            self.credit = usize::try_from(credit).unwrap_or(usize::MAX);
        }
        if batch_max > 0 {
            self.batch_max = usize::try_from(batch_max).unwrap_or(usize::MAX);
        }
        for Refused { serial, index, reason } in refused {
            let batch = self.sent.iter_mut().find(|batch| batch.serial == serial);
            if let Some(item) = batch.and_then(|batch| batch.items.get_mut(index as usize)?.take()) {
                self.link.refused(&[item], &reason);
            }
        }
        let mut items = Vec::new();
        while let Some(batch) = self.sent.pop_front_if(|batch| batch.serial <= taken) {
            self.under_way -= batch.size;
            items.extend(batch.items.into_iter().flatten());
        }
        if taken > 0 {
            self.link.taken(&items);
        }
        Ok(())
    }

    /// Gives up what is overdue, sent or not. If an answer comes late, it finds nothing to release.
    fn give_up_overdue(&mut self) {
        let now = self.link.now();
        let sent = self.sent.iter_mut().flat_map(|batch| &mut batch.items).filter(|item| item.is_some());
        let overdue: Vec<Item> = sent
            .take_while(|item| item.as_ref().is_some_and(|item| self.link.is_overdue(item, now)))
            .filter_map(Option::take)
            .collect();
        if !overdue.is_empty() {
            self.link.unreachable(&overdue);
            // If comet hangs, this spares the next calls the search through what was given up.
            let dead = self.sent.iter_mut().filter(|batch| batch.items.iter().all(Option::is_none));
            dead.for_each(|batch| batch.items.clear());
        }
        self.link.give_up_waiting();
    }

    /// Puts what comet did not acknowledge back to the front of the queue, in order.
    fn put_back(&mut self) {
        let items = &mut self.link.shared.queue().items;
        for item in self.sent.drain(..).rev().flat_map(|batch| batch.items.into_iter().rev().flatten()) {
            items.push_front(item);
        }
    }
}
