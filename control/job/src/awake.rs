//! The time of a link.

use std::{ops::Add, time::Duration};

use tokio::time::Instant;

/// The part of a deadline that may pass between two looks. A longer gap is no time in which comet did not answer.
const PARTS: u32 = 10;

/// Shortest gap that counts as standing still, so that a busy machine does not make deadlines endless.
const GAP_MIN: Duration = Duration::from_millis(100);

/// A clock that stands still while nobody looks at it.
///
/// A job that was stopped goes on with pushes whose time is over by the clock on the wall, and with comet's answers to them
/// unread in its sockets. Here they have the time left that they had before, so that what was answered is heard first. Who
/// waits for a moment has to look every [`look_every`](Self::look_every).
pub(super) struct AwakeClock {
    counted: Duration,
    looked: Instant,
    gap_max: Duration,
}

/// A moment of one clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(Duration);

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, later: Duration) -> Moment {
        Moment(self.0 + later)
    }
}

impl Moment {
    /// How long it is from `earlier`; nothing when that is later.
    pub(super) fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl AwakeClock {
    /// One for deadlines of this length.
    pub(super) fn new(deadline: Duration) -> Self {
        let gap_max = (deadline / PARTS).max(GAP_MIN);
        AwakeClock { counted: Duration::ZERO, looked: Instant::now(), gap_max }
    }

    pub(super) fn now(&mut self) -> Moment {
        let now = Instant::now();
        let gap = now.saturating_duration_since(self.looked);
        if gap <= self.gap_max {
            self.counted += gap;
        }
        self.looked = now;
        Moment(self.counted)
    }

    pub(super) fn look_every(&self) -> Duration {
        self.gap_max / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn time_counts_while_somebody_looks() {
        let mut clock = AwakeClock::new(DEADLINE);
        let began = clock.now();
        while clock.now().since(began) < DEADLINE {
            tokio::time::sleep(clock.look_every()).await;
        }
        assert_eq!(clock.now(), began + DEADLINE);
        for stood_still in [Duration::from_secs(2), DEADLINE, 1000 * DEADLINE] {
            tokio::time::advance(stood_still).await;
            assert_eq!(clock.now(), began + DEADLINE, "{stood_still:?}");
        }
    }
}
