//! Latency, and whether it may be believed.
//!
//! A message's latency runs from its planned send time to the moment its client read it. Two parts
//! of that are this program's own:
//!
//! - the pusher's lateness: how much earlier one that is never late would have written the push. It
//!   too would have waited until the push was due and its connection had the answer to the one before,
//!   so what a slow server adds is the server's;
//! - the reader's delay: how long a message can have waited for this program to come round to its
//!   socket, at most. When the loop slept, that is the time since it woke and what it waited for a CPU
//!   then; when it found more work without sleeping, the time since it last looked.
//!
//! At the median and at the 99th percentile both together may be [`OWN_SHARE_MAX`] of the latency
//! or [`OWN_FLOOR_US`], whichever is more. Beyond that the figures would describe this program
//! rather than the server, and they are not reported.

use hdrhistogram::Histogram;
use serde::Serialize;

/// The part of the latency that may be this program's own.
pub(crate) const OWN_SHARE_MAX: f64 = 0.25;

/// What this program may always take, in µs: a thread does not wake from sleep in less.
pub(crate) const OWN_FLOOR_US: u64 = 250;

/// The longest duration told apart, in µs: longer ones count as ten minutes.
const LONGEST_US: u64 = 600_000_000;

/// Durations in µs, three significant digits, 1 µs to ten minutes.
#[derive(Clone, Debug)]
pub(crate) struct Times(Histogram<u64>);

/// A distribution in numbers, in µs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) count: u64,
    pub(crate) p50_us: u64,
    pub(crate) p90_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
}

impl Times {
    /// None recorded yet.
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("constant bounds that the library accepts"))
    }

    /// Records a duration given in ns.
    pub(crate) fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record(ns / 1000);
    }

    /// Adds all of `other`.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same constant bounds");
    }

    /// Adds all of `other` and leaves it empty.
    pub(crate) fn take_from(&mut self, other: &mut Self) {
        if !other.0.is_empty() {
            self.add(other);
            other.0.reset();
        }
    }

    /// The distribution so far; none when nothing was recorded.
    pub(crate) fn quantiles(&self) -> Option<Quantiles> {
        (!self.0.is_empty()).then(|| Quantiles {
            count: self.0.len(),
            p50_us: self.at(0.5),
            p90_us: self.at(0.9),
            p99_us: self.at(0.99),
            p999_us: self.at(0.999),
            max_us: self.max(),
        })
    }

    /// Rounded down to the three digits kept, as the maximum is, so that no quantile is above it.
    fn at(&self, quantile: f64) -> u64 {
        self.0.lowest_equivalent(self.0.value_at_quantile(quantile))
    }

    fn max(&self) -> u64 {
        self.0.lowest_equivalent(self.0.max())
    }
}

/// The latency as it may be reported, or why it may not.
pub(crate) fn verdict(latency: &Times, pusher: &Times, reader: &Times) -> Result<Quantiles, String> {
    let Some(quantiles) = latency.quantiles() else {
        return Err("no message of this run was timed".to_owned());
    };
    for (quantile, name) in [(0.5, "p50"), (0.99, "p99")] {
        let total = latency.at(quantile);
        let (push, read) = (pusher.at(quantile), reader.at(quantile));
        let allowed = ((total as f64 * OWN_SHARE_MAX) as u64).max(OWN_FLOOR_US);
        if push + read > allowed {
            return Err(format!(
                "this generator was late by {} at {name} (pusher {}, reader {}), more than {:.0} % of the {} measured; \
                 give it a core of its own (taskset) or less to do",
                human_us(push + read),
                human_us(push),
                human_us(read),
                OWN_SHARE_MAX * 100.0,
                human_us(total),
            ));
        }
    }
    Ok(quantiles)
}

/// A duration as people read it: `840 µs`, `3.21 ms`, `1.50 s`.
pub(crate) fn human_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{} ms", three_digits(us as f64 / 1e3)),
        _ => format!("{} s", three_digits(us as f64 / 1e6)),
    }
}

/// Three digits where there are that many: `3.21`, `32.1`, `321`, `3210`.
fn three_digits(value: f64) -> String {
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(us: impl IntoIterator<Item = u64>) -> Times {
        let mut times = Times::new();
        us.into_iter().for_each(|us| times.record_ns(us * 1000));
        times
    }

    #[test]
    fn quantiles_are_those_of_the_recorded_times() {
        let q = times(1..=1000).quantiles().expect("recorded");
        assert_eq!((q.count, q.p50_us, q.p90_us), (1000, 500, 900));
        assert_eq!((q.p99_us, q.p999_us, q.max_us), (990, 999, 1000));
        assert_eq!(Times::new().quantiles(), None);
    }

    #[test]
    fn punctual_generators_report() {
        let q = verdict(&times([4000, 5000, 20_000]), &times([60, 70]), &times([300, 900]));
        assert_eq!(q.map(|q| q.p50_us), Ok(5000));
    }

    #[test]
    fn a_late_pusher_is_refused() {
        let why =
            verdict(&times([4000; 100]), &times([1500; 100]), &times([10; 100])).expect_err("1.5 ms of 4 ms");
        assert!(why.contains("late by 1.51 ms") && why.contains("pusher 1.50 ms"), "{why}");
    }

    #[test]
    fn a_stalled_reader_is_refused_even_when_only_the_tail_shows_it() {
        let latency = times((0..100).map(|n| if n < 98 { 1000 } else { 9000 }));
        let reader = times((0..100).map(|n| if n < 98 { 100 } else { 8000 }));
        let why = verdict(&latency, &times([10; 100]), &reader).expect_err("8 ms of 9 ms");
        assert!(why.contains("p99") && why.contains("reader 8.00 ms"), "{why}");
    }

    #[test]
    fn waking_up_is_not_lateness() {
        assert!(verdict(&times([200; 10]), &times([120; 10]), &times([60; 10])).is_ok());
        assert!(verdict(&times([200; 10]), &times([200; 10]), &times([60; 10])).is_err());
    }

    #[test]
    fn nothing_timed_is_no_latency() {
        assert!(verdict(&Times::new(), &Times::new(), &Times::new()).is_err());
    }

    #[test]
    fn durations_read_well() {
        for (us, text) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1_000, "1.00 ms"),
            (12_345, "12.3 ms"),
            (123_456, "123 ms"),
            (999_960, "1000 ms"),
            (1_500_000, "1.50 s"),
        ] {
            assert_eq!(human_us(us), text);
        }
    }
}
