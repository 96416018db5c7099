//! Pauses between attempts, each twice as long as the one before.

use std::time::Duration;

/// The pauses of something that is tried again until it works.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// Pauses from `first` on, none after it longer than `max`.
    pub const fn new(first: Duration, max: Duration) -> Backoff {
        Backoff { first, next: first, max }
    }

    /// An attempt succeeded, so the next pause is the first one again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// How long to pause now.
    pub fn step(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause
    }

    /// Pauses.
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.step()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_again() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(350));
        assert_eq!([(); 4].map(|()| backoff.step()), [100, 200, 350, 350].map(ms));
        backoff.reset();
        assert_eq!(backoff.step(), ms(100));
    }
}
