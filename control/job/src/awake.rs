//! The clock by which a link gives pushes up.

use std::{ops::Add, time::Duration};

use tokio::time::Instant;

/// A gap between two looks at the clock counts only if it is at most the deadline divided by this. During a longer one
/// job itself stood still, so comet is not to blame for the silence.
const PARTS: u32 = 10;

/// A gap up to this always counts, however short the deadline is. Otherwise a busy machine could make deadlines
/// endless.
const GAP_MIN: Duration = Duration::from_millis(100);

/// A clock that stands still while nobody looks at it.
///
/// A job process can be stopped and go on later. By then the wall clock says that the time of its pushes is over, but
/// comet's answers to them lie unread in job's sockets. By this clock the pushes have as much time left as before the
/// stop, so job reads the answers before it gives anything up. Whoever waits for a moment has to look at the clock
/// every [`look_every`](Self::look_every).
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
    /// The time from `earlier` to this moment; zero if `earlier` is later.
    pub(super) fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl AwakeClock {
    /// A clock for deadlines of this length.
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
