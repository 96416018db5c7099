//! Latency, and whether it may be believed.
//!
//! A message's latency runs from its planned send time to the moment its client read it. Two parts
//! of that are this program's own:
//!
//! - the pusher's lateness: how much earlier one that is never late would have written the push. It
//!   too would have waited until the push was due and its connection had the answer to the one before,
//!   so what a slow server adds is the server's;
//! - the reader's delay: how long a message waited for this program to come round to its socket. The
//!   kernel notes when it arrived there (`SO_TIMESTAMPNS`). Without such a note it is the longest it can
//!   have been: when the loop slept, the time since it woke and what it waited for a CPU then; when it
//!   found more work without sleeping, the time since it last looked.
//!
//! At each point of the distribution both together may be [`OWN_SHARE_MAX`] of the latency or
//! [`OWN_FLOOR_US`], whichever is more. From the first point on where they are more, the figures would
//! describe this program rather than the server, and are not reported.

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer, ser::SerializeMap};

/// The part of the latency that may be this program's own.
pub const OWN_SHARE_MAX: f64 = 0.25;

/// What this program may always take, in µs: a thread does not wake from sleep in less.
pub const OWN_FLOOR_US: u64 = 250;

/// The longest duration told apart, in µs: longer ones count as ten minutes.
const LONGEST_US: u64 = 600_000_000;

/// Durations in µs, three significant digits, 1 µs to ten minutes.
#[derive(Clone, Debug)]
pub struct Times(Histogram<u64>);

/// A point of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The median.
    P50,
    /// Nine tenths are below.
    P90,
    /// 99 of 100 are below.
    P99,
    /// 999 of 1,000 are below.
    P999,
    /// The longest.
    Max,
}

/// A distribution in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantiles {
    /// How many were recorded.
    pub count: u64,
    /// µs at each of [`Point::ALL`]; none where it may not be reported.
    us: [Option<u64>; Point::ALL.len()],
}

impl Point {
    /// All of them, ascending.
    pub const ALL: [Point; 5] = [Point::P50, Point::P90, Point::P99, Point::P999, Point::Max];

    /// `p99.9`.
    pub const fn name(self) -> &'static str {
        match self {
            Point::P50 => "p50",
            Point::P90 => "p90",
            Point::P99 => "p99",
            Point::P999 => "p99.9",
            Point::Max => "max",
        }
    }

    /// Its name in JSON.
    const fn field(self) -> &'static str {
        match self {
            Point::P50 => "p50_us",
            Point::P90 => "p90_us",
            Point::P99 => "p99_us",
            Point::P999 => "p999_us",
            Point::Max => "max_us",
        }
    }

    const fn quantile(self) -> f64 {
        match self {
            Point::P50 => 0.5,
            Point::P90 => 0.9,
            Point::P99 => 0.99,
            Point::P999 => 0.999,
            Point::Max => 1.0,
        }
    }
}

impl Quantiles {
    /// µs at `point`; none where it may not be reported.
    pub fn at(&self, point: Point) -> Option<u64> {
        self.us[point as usize]
    }
}

impl Serialize for Quantiles {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + self.us.len()))?;
        map.serialize_entry("count", &self.count)?;
        for point in Point::ALL {
            map.serialize_entry(point.field(), &self.at(point))?;
        }
        map.end()
    }
}

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("constant bounds that the library accepts"))
    }
}

impl Times {
    /// Records a duration given in ns.
    pub fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record(ns / 1000);
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same constant bounds");
    }

    /// Adds all of `other` and leaves it empty.
    pub fn take_from(&mut self, other: &mut Self) {
        if !other.0.is_empty() {
            self.add(other);
            other.0.reset();
        }
    }

    /// The distribution so far; none when nothing was recorded.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let us = || Point::ALL.map(|point| Some(self.at(point)));
        (!self.0.is_empty()).then(|| Quantiles { count: self.0.len(), us: us() })
    }

    /// µs at `point`, rounded down to the three digits kept; 0 when nothing was recorded.
    fn at(&self, point: Point) -> u64 {
        self.0.lowest_equivalent(self.0.value_at_quantile(point.quantile()))
    }
}

/// The latency as far as it may be reported, and why not beyond.
pub fn verdict(latency: &Times, pusher: &Times, reader: &Times) -> (Option<Quantiles>, Option<String>) {
    let Some(mut quantiles) = latency.quantiles() else {
        return (None, Some("no message of this run was timed".to_owned()));
    };
    for point in Point::ALL {
        let total = latency.at(point);
        let (push, read) = (pusher.at(point), reader.at(point));
        let allowed = ((total as f64 * OWN_SHARE_MAX) as u64).max(OWN_FLOOR_US);
        if push + read > allowed {
            let why = format!(
                "at {} this generator was late by {} (pusher {}, reader {}), more than {:.0} % of the {} measured; \
                 give it a core of its own (taskset) or less to do",
                point.name(),
                human_us(push + read),
                human_us(push),
                human_us(read),
                OWN_SHARE_MAX * 100.0,
                human_us(total),
            );
            quantiles.us[point as usize..].fill(None);
            return ((point != Point::P50).then_some(quantiles), Some(why));
        }
    }
    (Some(quantiles), None)
}

/// A duration as people read it: `840 µs`, `3.21 ms`, `1.50 s`.
pub fn human_us(us: u64) -> String {
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
        let mut times = Times::default();
        us.into_iter().for_each(|us| times.record_ns(us * 1000));
        times
    }

    #[test]
    fn quantiles_are_those_of_the_recorded_times() {
        let q = times(1..=1000).quantiles().expect("recorded");
        assert_eq!(q.count, 1000);
        assert_eq!(Point::ALL.map(|point| q.at(point)), [500, 900, 990, 999, 1000].map(Some));
        assert_eq!(Times::default().quantiles(), None);
    }

    #[test]
    fn punctual_generators_report_everything() {
        let latency = times([4000, 5000, 20_000]);
        let (q, why) = verdict(&latency, &times([60, 70]), &times([300, 900]));
        assert_eq!((q, why), (latency.quantiles(), None));
    }

    #[test]
    fn a_late_pusher_is_refused() {
        let (q, why) = verdict(&times([4000; 100]), &times([1500; 100]), &times([10; 100]));
        let why = why.expect("1.5 ms of 4 ms");
        assert!(why.contains("at p50 this generator was late by 1.51 ms (pusher 1.50 ms"), "{why}");
        assert_eq!(q, None);
    }

    #[test]
    fn a_stalled_reader_is_refused_from_where_it_shows() {
        let latency = times((0..100).map(|n| if n < 98 { 1000 } else { 9000 }));
        let reader = times((0..100).map(|n| if n < 98 { 100 } else { 8000 }));
        let (q, why) = verdict(&latency, &times([10; 100]), &reader);
        let (q, why) = (q.expect("p50 is sound"), why.expect("8 ms of 9 ms"));
        assert!(why.contains("at p99 ") && why.contains("reader 8.00 ms"), "{why}");
        assert_eq!(Point::ALL.map(|point| q.at(point)), [Some(1000), Some(1000), None, None, None]);
        let json = serde_json::to_string(&q).expect("JSON");
        let expected =
            r#"{"count":100,"p50_us":1000,"p90_us":1000,"p99_us":null,"p999_us":null,"max_us":null}"#;
        assert_eq!(json, expected);
    }

    #[test]
    fn waking_up_is_not_lateness() {
        let refused = |pusher| verdict(&times([200; 10]), &times([pusher; 10]), &times([60; 10])).1.is_some();
        assert!(!refused(120));
        assert!(refused(200));
    }

    #[test]
    fn nothing_timed_is_no_latency() {
        let (q, why) = verdict(&Times::default(), &Times::default(), &Times::default());
        assert!(q.is_none() && why.is_some());
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
