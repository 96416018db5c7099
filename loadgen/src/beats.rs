//! When whose heartbeat is due: spread over the interval by the clients' numbers, so that no list and no timer per client
//! is needed.

use std::{ops::Range, time::Duration};

use crate::clock::ns;

/// The heartbeats of `count` clients, each once an interval.
///
/// Turn `n` is that of client `n % count`, in round `n / count`; turns follow each other evenly.
pub(crate) struct Beats {
    interval_ns: u64,
    count: u64,
    since_ns: u64,
    /// The turns handed out.
    done: u64,
}

impl Beats {
    /// From `now_ns` on; the interval is more than zero.
    pub(crate) fn new(interval: Duration, count: u32, now_ns: u64) -> Self {
        Self { interval_ns: ns(interval).max(1), count: count.into(), since_ns: now_ns, done: 0 }
    }

    /// The turns that came due since it was asked before.
    pub(crate) fn due(&mut self, now_ns: u64) -> Range<u64> {
        let passed = u128::from(now_ns.saturating_sub(self.since_ns));
        let due = (passed * u128::from(self.count) / u128::from(self.interval_ns)) as u64;
        // After a stall of more than a whole round nobody needs two.
        let from = self.done.max(due.saturating_sub(self.count));
        self.done = self.done.max(due);
        from..self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn_in_each_interval() {
        let mut beats = Beats::new(Duration::from_nanos(100), 10, 1000);
        let turns: Vec<_> = (1000..=1200).flat_map(|now| beats.due(now)).collect();
        assert_eq!(turns, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_long_stall_costs_one_round() {
        let mut beats = Beats::new(Duration::from_nanos(100), 10, 0);
        assert_eq!(beats.due(55), 0..5);
        assert_eq!(beats.due(1055), 95..105);
        assert!(beats.due(1055).is_empty());
    }
}
