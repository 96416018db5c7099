//! Tells which entries of the broker are done: the watermark of each source, and the entries that no comet took.
//!
//! An entry concerns some comets, perhaps none. It is done when each of them has taken it or was given up. job
//! acknowledges an entry when all entries before it in its source are done too. An entry that no comet took is a dead
//! letter.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use broker::{Delivery, Offset, Position, Source};
use bytes::Bytes;
use tokio::sync::Notify;

/// Entries on their way.
#[derive(Default)]
pub(super) struct Tracker {
    entries: Mutex<Entries>,
    moved: Notify,
}

/// One comet's share of one entry, to be handed back with [`Tracker::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    source: usize,
    serial: u64,
}

/// What the broker is to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// To be put aside before the acknowledgements, which cover them.
    pub(super) dead: Vec<Delivery>,
    /// Watermarks that moved.
    pub(super) watermarks: Vec<Position>,
}

#[derive(Default)]
struct Entries {
    /// One, or as many as partitions: few.
    sources: Vec<Waiting>,
    dead: Vec<Delivery>,
}

/// The entries of one source from the first that is not done.
struct Waiting {
    source: Source,
    /// Serial of the first of `entries`.
    first: u64,
    entries: VecDeque<Entry>,
    /// Watermark not yet taken by [`Tracker::settled`].
    done: Option<Offset>,
}

struct Entry {
    offset: Offset,
    /// Comets that still owe an answer.
    owing: usize,
    /// None when a comet has taken it. The comets' queues share these bytes.
    untaken: Option<Bytes>,
}

impl Tracker {
    /// Starts an entry that `comets` comets owe an answer to; entries of one source come in order.
    pub(super) fn start(&self, delivery: Delivery, comets: usize) -> Ticket {
        let Delivery { position: Position { source, offset }, bytes } = delivery;
        let mut entries = self.entries();
        let place = entries.sources.iter().position(|waiting| waiting.source == source);
        let place = place.unwrap_or_else(|| {
            entries.sources.push(Waiting { source, first: 0, entries: VecDeque::new(), done: None });
            entries.sources.len() - 1
        });
        let waiting = &mut entries.sources[place];
        let ticket = Ticket { source: place, serial: waiting.first + waiting.entries.len() as u64 };
        waiting.entries.push_back(Entry { offset, owing: comets, untaken: Some(bytes) });
        if comets == 0 && entries.settle(ticket) {
            self.moved.notify_one();
        }
        ticket
    }

    /// One comet has taken each of these entries, or was given up for it.
    pub(super) fn release(&self, tickets: impl IntoIterator<Item = Ticket>, is_taken: bool) {
        let mut entries = self.entries();
        let mut moved = false;
        for ticket in tickets {
            let entry = entries.entry(ticket);
            if is_taken {
                entry.untaken = None;
            }
            entry.owing -= 1;
            moved |= entry.owing == 0 && entries.settle(ticket);
        }
        if moved {
            self.moved.notify_one();
        }
    }

    /// Waits until [`settled`](Self::settled) has something. Cancel safe.
    pub(super) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// What came to be since the last call.
    pub(super) fn settled(&self) -> Settled {
        let mut entries = self.entries();
        let dead = std::mem::take(&mut entries.dead);
        let watermark = |waiting: &mut Waiting| {
            let offset = waiting.done.take()?;
            Some(Position { source: waiting.source.clone(), offset })
        };
        Settled { dead, watermarks: entries.sources.iter_mut().filter_map(watermark).collect() }
    }

    /// Whether every entry is done.
    pub(super) fn is_idle(&self) -> bool {
        self.entries().sources.iter().all(|waiting| waiting.entries.is_empty())
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn entry(&mut self, Ticket { source, serial }: Ticket) -> &mut Entry {
        let waiting = &mut self.sources[source];
        &mut waiting.entries[(serial - waiting.first) as usize]
    }

    /// Nobody owes an answer for this one any more; true when there is something to tell.
    fn settle(&mut self, ticket: Ticket) -> bool {
        let entry = self.entry(ticket);
        let (offset, untaken) = (entry.offset, entry.untaken.take());
        let waiting = &mut self.sources[ticket.source];
        let is_dead = untaken.is_some();
        self.dead.extend(untaken.map(|bytes| {
            let position = Position { source: waiting.source.clone(), offset };
            Delivery { position, bytes }
        }));
        waiting.advance() || is_dead
    }
}

impl Waiting {
    /// Moves the watermark over what is done; true when it moved.
    fn advance(&mut self) -> bool {
        let before = self.first;
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.owing == 0) {
            self.done = Some(entry.offset);
            self.first += 1;
        }
        self.first != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(source: &str, offset: u128) -> Delivery {
        Delivery { position: position(source, offset), bytes: Bytes::from(offset.to_string()) }
    }

    fn position(source: &str, offset: u128) -> Position {
        Position { source: Source::new(source), offset: Offset(offset) }
    }

    fn watermarks(watermarks: &[Position]) -> Settled {
        Settled { dead: Vec::new(), watermarks: watermarks.to_vec() }
    }

    #[test]
    fn the_watermark_waits_for_the_slowest_comet_of_the_oldest_entry() {
        let tracker = Tracker::default();
        let [a, b, c] =
            [(10, 2), (11, 1), (15, 1)].map(|(o, comets)| tracker.start(delivery("s", o), comets));
        tracker.release([a, b], true);
        assert_eq!(tracker.settled(), Settled::default());
        tracker.release([a], true);
        assert_eq!(tracker.settled(), watermarks(&[position("s", 11)]));
        assert_eq!(tracker.settled(), Settled::default(), "each is told once");
        assert!(!tracker.is_idle());
        tracker.release([c], true);
        assert_eq!(tracker.settled(), watermarks(&[position("s", 15)]));
        assert!(tracker.is_idle());
    }

    #[test]
    fn an_entry_that_no_comet_took_is_dead_at_once_and_done_in_its_turn() {
        let tracker = Tracker::default();
        let first = tracker.start(delivery("s", 1), 2);
        let second = tracker.start(delivery("s", 2), 2);
        tracker.start(delivery("s", 3), 0);
        assert_eq!(
            tracker.settled(),
            Settled { dead: vec![delivery("s", 3)], watermarks: vec![] },
            "nobody to take it"
        );
        tracker.release([second], false);
        assert_eq!(tracker.settled(), Settled::default(), "another may take it");
        tracker.release([second], false);
        assert_eq!(tracker.settled(), Settled { dead: vec![delivery("s", 2)], watermarks: vec![] });
        tracker.release([first], true);
        tracker.release([first], false);
        assert_eq!(tracker.settled(), watermarks(&[position("s", 3)]), "one comet took the first");
    }

    #[test]
    fn sources_do_not_wait_for_each_other() {
        let tracker = Tracker::default();
        let slow = tracker.start(delivery("a", 1), 1);
        let fast = tracker.start(delivery("b", 1), 1);
        tracker.release([fast], true);
        assert_eq!(tracker.settled(), watermarks(&[position("b", 1)]));
        tracker.release([slow], true);
        assert_eq!(tracker.settled(), watermarks(&[position("a", 1)]));
    }
}
