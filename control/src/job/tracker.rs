//! Which entries of the broker are done with: the contiguous low watermark of each source.
//!
//! An entry concerns some comets, perhaps none. It is done when each of them has acknowledged it or was given up; the
//! broker hears of it when all before it in its source are done too.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::broker::{Offset, Position, Source};

/// Entries on their way.
#[derive(Default)]
pub(super) struct Tracker {
    sources: Mutex<Vec<Entries>>,
    moved: Notify,
}

/// One comet's share of one entry, to be handed back with [`Tracker::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    source: usize,
    serial: u64,
}

struct Entries {
    source: Source,
    /// Serial of the first of `waiting`.
    first: u64,
    /// Offset, and how many comets still owe an answer.
    waiting: VecDeque<(Offset, usize)>,
    /// Watermark not yet taken by [`Tracker::watermarks`].
    done: Option<Offset>,
}

impl Tracker {
    /// Starts an entry that `comets` comets owe an answer to; entries of one source come in order.
    pub(super) fn start(&self, position: &Position, comets: usize) -> Ticket {
        let mut sources = self.sources();
        // One, or as many as partitions: few.
        let source =
            sources.iter().position(|entries| entries.source == position.source).unwrap_or_else(|| {
                let source = position.source.clone();
                sources.push(Entries { source, first: 0, waiting: VecDeque::new(), done: None });
                sources.len() - 1
            });
        let entries = &mut sources[source];
        let serial = entries.first + entries.waiting.len() as u64;
        entries.waiting.push_back((position.offset, comets));
        if comets == 0 && entries.advance() {
            self.moved.notify_one();
        }
        Ticket { source, serial }
    }

    /// One comet has answered, or was given up, for each of these entries.
    pub(super) fn release(&self, tickets: impl IntoIterator<Item = Ticket>) {
        let mut sources = self.sources();
        for Ticket { source, serial } in tickets {
            let entries = &mut sources[source];
            let place = (serial - entries.first) as usize;
            entries.waiting[place].1 -= 1;
            if place == 0 && entries.advance() {
                self.moved.notify_one();
            }
        }
    }

    /// Waits until [`watermarks`](Self::watermarks) has something. Cancel safe.
    pub(super) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// The watermarks that moved since the last call.
    pub(super) fn watermarks(&self) -> Vec<Position> {
        self.sources()
            .iter_mut()
            .filter_map(|entries| {
                let offset = entries.done.take()?;
                Some(Position { source: entries.source.clone(), offset })
            })
            .collect()
    }

    /// Whether every entry is done.
    pub(super) fn is_idle(&self) -> bool {
        self.sources().iter().all(|entries| entries.waiting.is_empty())
    }

    fn sources(&self) -> MutexGuard<'_, Vec<Entries>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// Moves the watermark over what is done; true when it moved.
    fn advance(&mut self) -> bool {
        let before = self.first;
        while let Some((offset, 0)) = self.waiting.front() {
            self.done = Some(*offset);
            self.waiting.pop_front();
            self.first += 1;
        }
        self.first != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(source: &str, offset: u128) -> Position {
        Position { source: Source::new(source), offset: Offset(offset) }
    }

    #[test]
    fn the_watermark_waits_for_the_slowest_comet_of_the_oldest_entry() {
        let tracker = Tracker::default();
        let [a, b, c] =
            [(10, 2), (11, 1), (15, 1)].map(|(o, comets)| tracker.start(&position("s", o), comets));
        tracker.release([a, b]);
        assert_eq!(tracker.watermarks(), []);
        tracker.release([a]);
        assert_eq!(tracker.watermarks(), [position("s", 11)]);
        assert_eq!(tracker.watermarks(), [], "each is told once");
        assert!(!tracker.is_idle());
        tracker.release([c]);
        assert_eq!(tracker.watermarks(), [position("s", 15)]);
        assert!(tracker.is_idle());
    }

    #[test]
    fn an_entry_that_concerns_nobody_is_done_at_once_but_in_its_turn() {
        let tracker = Tracker::default();
        let first = tracker.start(&position("s", 1), 1);
        tracker.start(&position("s", 2), 0);
        assert_eq!(tracker.watermarks(), []);
        tracker.release([first]);
        assert_eq!(tracker.watermarks(), [position("s", 2)]);
        tracker.start(&position("s", 3), 0);
        assert_eq!(tracker.watermarks(), [position("s", 3)]);
    }

    #[test]
    fn sources_do_not_wait_for_each_other() {
        let tracker = Tracker::default();
        let slow = tracker.start(&position("a", 1), 1);
        let fast = tracker.start(&position("b", 1), 1);
        tracker.release([fast]);
        assert_eq!(tracker.watermarks(), [position("b", 1)]);
        tracker.release([slow]);
        assert_eq!(tracker.watermarks(), [position("a", 1)]);
    }
}
