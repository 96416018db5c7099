//! A token bucket in eight bytes, which bounds what one client may ask of a shard.

use seam::Time;

/// How much a client may send: `per_second` frames on average, `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Frames a second, 1 or more.
    pub per_second: u32,
    /// Frames at once, 1 or more.
    pub burst: u32,
}

/// The bucket of one connection. It starts full.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenBucket {
    tokens: u32,
    /// Up to when tokens were added, in milliseconds since the clock's origin, wrapping.
    filled_ms: u32,
}

impl TokenBucket {
    /// A full bucket.
    pub(super) fn new(rate: Rate, now: Time) -> TokenBucket {
        TokenBucket { tokens: rate.burst, filled_ms: millis(now) }
    }

    /// Takes one token; false if there is none.
    pub(super) fn take(&mut self, rate: Rate, now: Time) -> bool {
        let now = millis(now);
        let elapsed = u64::from(now.wrapping_sub(self.filled_ms));
        let earned = elapsed * u64::from(rate.per_second) / 1000;
        if earned > 0 {
            self.tokens = (u64::from(self.tokens) + earned).min(u64::from(rate.burst)) as u32;
            // Uses up only the time that became whole tokens. Otherwise a client that asks fast would never earn any.
            let used = earned * 1000 / u64::from(rate.per_second);
            self.filled_ms = self.filled_ms.wrapping_add(used as u32);
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

fn millis(time: Time) -> u32 {
    (time.as_micros() / 1000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 3 };

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let start = Time::from_micros(5_000_000);
        let mut bucket = TokenBucket::new(RATE, start);
        assert_eq!((0..5).filter(|_| bucket.take(RATE, start)).count(), 3);
        let taken =
            (1..=1000).filter(|ms| bucket.take(RATE, Time::from_micros(5_000_000 + ms * 1000))).count();
        assert_eq!(taken, 10);
    }

    #[test]
    fn time_between_whole_tokens_is_not_lost() {
        let start = Time::from_micros(0);
        let mut bucket = TokenBucket::new(RATE, start);
        let asked = (0..=100).map(|n| Time::from_micros(n * 150_000));
        assert_eq!(asked.filter(|now| bucket.take(RATE, *now)).count(), 101);
        let asked = (0..1000).map(|n| Time::from_micros(15_000_000 + n * 15_000));
        let taken = asked.filter(|now| bucket.take(RATE, *now)).count();
        assert!((149..=153).contains(&taken), "{taken}");
    }

    #[test]
    fn time_saved_up_is_bounded_by_the_burst() {
        let mut bucket = TokenBucket::new(RATE, Time::from_micros(0));
        let later = Time::from_micros(3_600_000_000);
        assert_eq!((0..100).filter(|_| bucket.take(RATE, later)).count(), 3);
    }
}
