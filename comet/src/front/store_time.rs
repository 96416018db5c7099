//! Tells what the session store's clock shows, since logins are dated by it. comet knows what logic said the clock
//! shows, and when it asked.
//!
//! A login may be delayed for seconds anywhere on its way to logic, in a queue of the kernel or by a logic that stands
//! still. Because comet tells by the store's own clock when the login came, logic dates it rightly all the same.

use std::{sync::Mutex, time::Duration};

use seam::Time;

use super::lock;

/// By how much two logics may disagree about one clock. A login may be dated that much later than it came.
const DISAGREEMENT: Duration = Duration::from_millis(20);

/// The store's clock as comet knows it.
#[derive(Default)]
pub(super) struct StoreTime(Mutex<Option<Answer>>);

#[derive(Clone, Copy)]
struct Answer {
    /// When comet asked logic. At this moment the clock showed `now_us` at most.
    asked: Time,
    now_us: u64,
}

impl Answer {
    /// The latest time that the clock can have shown at a moment.
    fn at(self, moment: Time) -> u64 {
        let (asked, moment) = (self.asked.as_micros(), moment.as_micros());
        (self.now_us + moment).saturating_sub(asked)
    }
}

impl StoreTime {
    /// Notes an answer of logic: asked at `asked` and heard at `now`, it says that the clock shows `now_us`.
    pub(super) fn heard(&self, asked: Time, now: Time, now_us: u64) {
        let answer = Answer { asked, now_us };
        let mut best = lock(&self.0);
        let is_better = |best: Answer| {
            // The clock shows at least `now_us` by now. If the best answer says less, the clock was set, or it runs
            // faster than ours.
            let is_wrong = best.at(now) + (DISAGREEMENT.as_micros() as u64) < now_us;
            // The quicker the answer, the smaller its error.
            is_wrong || answer.at(asked) <= best.at(asked)
        };
        if best.is_none_or(is_better) {
            *best = Some(answer);
        }
    }

    /// The latest time that the clock can have shown at a moment; none until logic tells, which goim's never does.
    pub(super) fn at(&self, moment: Time) -> Option<u64> {
        let best = *lock(&self.0);
        best.map(|best| best.at(moment) + DISAGREEMENT.as_micros() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLACK: u64 = DISAGREEMENT.as_micros() as u64;

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1000)
    }

    #[test]
    fn a_moment_is_told_by_the_quickest_answer() {
        let time = StoreTime::default();
        assert_eq!(time.at(at(0)), None);
        // Asked at 1000, when the clock showed 8 s, and answered a second later.
        time.heard(at(1000), at(2000), 9_000_000);
        assert_eq!(time.at(at(1500)), Some(9_500_000 + SLACK));
        // It showed 8.51 s at 1500 at the latest.
        time.heard(at(1500), at(1520), 8_510_000);
        time.heard(at(1600), at(2600), 9_600_000);
        assert_eq!(time.at(at(1500)), Some(8_510_000 + SLACK));
        assert_eq!(time.at(at(1400)), Some(8_410_000 + SLACK), "also of what was before");
        time.heard(at(60_600), at(61_600), 68_600_000);
        assert_eq!(time.at(at(61_600)), Some(68_610_000 + SLACK), "however old");
    }

    #[test]
    fn a_clock_that_was_set_or_goes_otherwise_is_followed_at_once() {
        let time = StoreTime::default();
        time.heard(at(1000), at(1001), 100_000_000);
        time.heard(at(2000), at(2001), 41_000_000);
        assert_eq!(time.at(at(2000)), Some(41_000_000 + SLACK), "back");
        time.heard(at(3000), at(3001), 102_000_000);
        assert_eq!(time.at(at(3000)), Some(102_000_000 + SLACK), "ahead");
        for second in 4..5000 {
            time.heard(at(second * 1000), at(second * 1000 + 1), 99_000_000 + second * 1_000_100);
            let truth = 99_000_000 + second * 1_000_100;
            let told = time.at(at(second * 1000)).unwrap();
            // The clock may have been read as late as a millisecond after the question.
            assert!((truth - 1000..truth + 2 * SLACK).contains(&told), "{second}: {told} for {truth}");
        }
    }
}
