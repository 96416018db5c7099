//! Bounds the log lines that outsiders can cause.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tracing::{Level, level_filters::LevelFilter};

/// The limit of every line that a client or another outsider can cause: ten a second in the whole process. Counters
/// give the numbers, a line is only an example. Lines about single clients have their own limits in comet.
pub static OUTSIDERS: LogLimit = LogLimit::new(10, Duration::from_secs(1));

/// Allows so many lines per interval, then one line that tells how many were left out. Lock-free, for any thread.
#[derive(Debug)]
pub struct LogLimit {
    lines: u32,
    interval_ms: u64,
    /// The number of the interval in the upper half, how many lines it wanted in the lower one. In one word, both
    /// change in one step.
    state: AtomicU64,
}

/// What happens to one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    /// It may be written.
    written: bool,
    /// How many lines of an earlier interval were left out and have to be reported now.
    unwritten: u32,
}

impl LogLimit {
    /// `lines` for each `interval` (at least 1 ms).
    pub const fn new(lines: u32, interval: Duration) -> Self {
        let interval_ms = interval.as_millis() as u64;
        assert!(interval_ms > 0, "an interval of a millisecond or more");
        Self { lines, interval_ms, state: AtomicU64::new(0) }
    }

    /// Calls `line`, which logs at `level`, unless this interval has had its lines or the level is not logged at all.
    ///
    /// With the first line of a later interval, the number of lines that were left out is reported at the same level.
    pub fn log(&self, level: Level, line: impl FnOnce()) {
        if level > LevelFilter::current() {
            return;
        }
        let verdict = self.admit(now_ms());
        if verdict.unwritten > 0 {
            tell(level, verdict.unwritten);
        }
        if verdict.written {
            line();
        }
    }

    fn admit(&self, now_ms: u64) -> Verdict {
        // Cut to 32 bits, since it only matters whether the interval is another one.
        let interval = (now_ms / self.interval_ms) & u64::from(u32::MAX);
        let next = |state: u64| {
            if state >> 32 != interval {
                interval << 32 | 1
            } else if state as u32 == u32::MAX {
                state
            } else {
                state + 1
            }
        };
        let before = self.state.fetch_update(Relaxed, Relaxed, |state| Some(next(state)));
        let before = before.unwrap_or_else(|state| state);
        let asked = before as u32;
        if before >> 32 == interval {
            Verdict { written: asked < self.lines, unwritten: 0 }
        } else {
            Verdict { written: self.lines > 0, unwritten: asked.saturating_sub(self.lines) }
        }
    }
}

/// Milliseconds since the first call.
fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(crate::clock::now);
    START.elapsed().as_millis() as u64
}

/// Logs how many lines were left out, at their level.
fn tell(level: Level, lines: u32) {
    let lines = with_commas(lines);
    match level {
        Level::ERROR => tracing::error!("… and {lines} more like it"),
        Level::WARN => tracing::warn!("… and {lines} more like it"),
        Level::INFO => tracing::info!("… and {lines} more like it"),
        Level::DEBUG => tracing::debug!("… and {lines} more like it"),
        Level::TRACE => tracing::trace!("… and {lines} more like it"),
    }
}

/// `1,234,567`.
fn with_commas(number: u32) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const YES: Verdict = Verdict { written: true, unwritten: 0 };
    const NO: Verdict = Verdict { written: false, unwritten: 0 };

    #[test]
    fn an_interval_has_its_lines_and_no_more() {
        let limit = LogLimit::new(2, Duration::from_millis(100));
        assert_eq!([0, 50, 60, 99].map(|ms| limit.admit(ms)), [YES, YES, NO, NO]);
        assert_eq!([100, 199, 199].map(|ms| limit.admit(ms).written), [true, true, false]);
    }

    #[test]
    fn what_was_left_out_is_told_once_by_the_next_line() {
        let limit = LogLimit::new(2, Duration::from_millis(100));
        for _ in 0..1236 {
            limit.admit(7);
        }
        assert_eq!([950, 950].map(|ms| limit.admit(ms)), [Verdict { written: true, unwritten: 1234 }, YES]);
        assert_eq!(limit.admit(1100), YES, "nothing was left out at 950");
    }

    #[test]
    fn no_lines_at_all_still_counts() {
        let limit = LogLimit::new(0, Duration::from_millis(100));
        assert_eq!([0, 1].map(|ms| limit.admit(ms)), [NO, NO]);
        assert_eq!(limit.admit(100), Verdict { written: false, unwritten: 2 });
    }

    #[test]
    fn a_full_count_stays_in_its_half() {
        let limit = LogLimit::new(2, Duration::from_millis(100));
        limit.state.store(u64::from(u32::MAX), Relaxed);
        assert_eq!(limit.admit(1), NO);
        assert_eq!(limit.admit(100), Verdict { written: true, unwritten: u32::MAX - 2 });
    }

    #[test]
    fn threads_share_one_budget() {
        let limit = LogLimit::new(10, Duration::from_millis(100));
        let written: usize = thread::scope(|scope| {
            let count = || (0..1000).filter(|_| limit.admit(5).written).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(written, 10);
        assert_eq!(limit.admit(100).unwritten, 3990);
    }

    #[test]
    fn numbers_are_grouped() {
        let grouped = [0, 999, 1000, 1234, 100_000, u32::MAX].map(with_commas);
        assert_eq!(grouped, ["0", "999", "1,000", "1,234", "100,000", "4,294,967,295"]);
    }
}
