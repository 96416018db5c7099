//! What one client has seen of its stream: in order, each message once, none missing.

use std::ops::Range;

/// How many separate gaps one client remembers. Beyond it the oldest gap is given up: its messages
/// count as lost, and should one of them still arrive it counts as duplicated.
const GAPS_MAX: usize = 1024;

/// The order of one stream at one client. Sequence numbers start at 0.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// One past the highest sequence number seen.
    next: u32,
    /// What is missing below `next`, ascending, never empty ranges. Without trouble no allocation.
    gaps: Vec<Range<u32>>,
    /// Messages in gaps that were given up.
    given_up: u64,
}

/// What an arriving sequence number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The next one, or a later one with a gap before it.
    InOrder,
    /// For the first time, but after one with a higher number.
    OutOfOrder,
    /// Seen before.
    Duplicate,
}

impl Order {
    /// Notes that `seq` arrived.
    pub(crate) fn arrived(&mut self, seq: u32) -> Arrival {
        if seq == self.next {
            self.next = self.next.saturating_add(1);
            return Arrival::InOrder;
        }
        if seq > self.next {
            self.open_gap(self.next..seq);
            self.next = seq.saturating_add(1);
            return Arrival::InOrder;
        }
        if self.fill(seq) { Arrival::OutOfOrder } else { Arrival::Duplicate }
    }

    /// How many of the messages with numbers below `end` never arrived, leaving out those `void`
    /// names: they were never accepted for delivery. Below the highest number seen, gaps count
    /// whatever `end` is.
    pub(crate) fn lost(&self, end: u32, void: impl Fn(u32) -> bool) -> u64 {
        let tail = self.next..end.max(self.next);
        let missing = self.gaps.iter().cloned().chain([tail]).flatten().filter(|&seq| !void(seq)).count();
        self.given_up + missing as u64
    }

    /// [`Order::lost`] of a client that left early: only what it missed while it was there.
    pub(crate) fn lost_until_now(&self, void: impl Fn(u32) -> bool) -> u64 {
        self.lost(self.next, void)
    }

    fn open_gap(&mut self, gap: Range<u32>) {
        if self.gaps.len() == GAPS_MAX {
            let oldest = self.gaps.remove(0);
            self.given_up += oldest.len() as u64;
        }
        self.gaps.push(gap);
    }

    /// Takes `seq` out of the gap it belongs to; false when it was in none.
    fn fill(&mut self, seq: u32) -> bool {
        let at = self.gaps.partition_point(|gap| gap.end <= seq);
        let Some(gap) = self.gaps.get_mut(at) else {
            return false;
        };
        if !gap.contains(&seq) {
            return false;
        }
        let after = seq + 1..gap.end;
        gap.end = seq;
        match (gap.start == gap.end, after.start == after.end) {
            (true, true) => drop(self.gaps.remove(at)),
            (true, false) => self.gaps[at] = after,
            (false, true) => {}
            (false, false) => self.gaps.insert(at + 1, after),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: u32) -> bool {
        false
    }

    fn after(seqs: &[u32]) -> (Order, Vec<Arrival>) {
        let mut order = Order::default();
        let arrivals = seqs.iter().map(|&seq| order.arrived(seq)).collect();
        (order, arrivals)
    }

    #[test]
    fn a_perfect_stream_has_nothing_to_report() {
        let (order, arrivals) = after(&[0, 1, 2, 3]);
        assert!(arrivals.iter().all(|a| *a == Arrival::InOrder));
        assert_eq!(order.lost(4, none), 0);
    }

    #[test]
    fn a_gap_and_an_early_end_are_lost() {
        let (order, _) = after(&[0, 1, 4]);
        assert_eq!(order.lost(5, none), 2, "2 and 3");
        assert_eq!(order.lost(7, none), 4, "2, 3, 5 and 6");
        assert_eq!(order.lost_until_now(none), 2);
    }

    #[test]
    fn the_first_messages_can_be_lost_too() {
        let (order, _) = after(&[2]);
        assert_eq!(order.lost(3, none), 2);
        assert_eq!(Order::default().lost(3, none), 3);
        assert_eq!(Order::default().lost_until_now(none), 0);
    }

    #[test]
    fn a_second_copy_is_duplicated_even_of_a_late_one() {
        use Arrival::*;
        let (order, arrivals) = after(&[0, 0, 2, 1, 1, 2]);
        assert_eq!(arrivals, [InOrder, Duplicate, InOrder, OutOfOrder, Duplicate, Duplicate]);
        assert_eq!(order.lost(3, none), 0);
    }

    #[test]
    fn late_ones_fill_the_gap_from_any_side() {
        use Arrival::*;
        let (mut order, _) = after(&[0, 9]);
        for (seq, lost) in [(5, 7), (1, 6), (8, 5), (4, 4), (6, 3), (7, 2), (3, 1), (2, 0)] {
            assert_eq!(order.arrived(seq), OutOfOrder, "{seq}");
            assert_eq!(order.lost(10, none), lost, "after {seq}");
            assert_eq!(order.arrived(seq), Duplicate, "{seq} again");
        }
        assert!(order.gaps.is_empty());
    }

    #[test]
    fn pushes_that_were_refused_are_not_lost() {
        let (order, _) = after(&[0, 3]);
        assert_eq!(order.lost(6, |seq| seq == 1 || seq == 5), 2, "2 and 4");
    }

    #[test]
    fn more_gaps_than_remembered_still_add_up() {
        let mut order = Order::default();
        let gaps = GAPS_MAX as u32 + 10;
        for n in 0..gaps {
            assert_eq!(order.arrived(2 * n + 1), Arrival::InOrder);
        }
        assert_eq!(order.gaps.len(), GAPS_MAX);
        assert_eq!(order.lost(2 * gaps, none), u64::from(gaps));
        assert_eq!(order.arrived(0), Arrival::Duplicate, "its gap was given up");
    }
}
