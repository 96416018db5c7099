//! Follows Redis's clock.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use store::{Redis, RedisError};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

/// How often this process compares its clock with Redis's.
pub(super) const COMPARE: Duration = Duration::from_secs(10);

/// How often it does so until Redis's clock is known. Before that there are no logins.
const COMPARE_FIRST: Duration = Duration::from_secs(1);

/// Number of looks in one comparison. The quickest one counts, since it can be wrong by at most half its round trip.
const LOOKS: usize = 3;

/// Redis's clock as this process knows it. Generations are made from it, so that logics whose clocks differ agree on
/// which login is newer. Between two comparisons it advances with our monotonic clock, so setting the machine's clock
/// has no effect.
pub(super) struct StoreClock {
    /// Redis's time, µs since the epoch, at an instant of our clock.
    compared: Mutex<Option<(u64, Instant)>>,
    known: watch::Sender<bool>,
}

impl StoreClock {
    /// Starts to follow the clock. The task ends when nobody needs it.
    pub(super) fn start(redis: Redis) -> Arc<Self> {
        let clock = Arc::new(StoreClock { compared: Mutex::new(None), known: watch::Sender::new(false) });
        tokio::spawn(Self::follow(Arc::downgrade(&clock), redis));
        clock
    }

    /// Microseconds since the epoch; none until Redis's clock was read. Our own clock cannot replace it: if that is an
    /// hour ahead, a generation made from it would keep later logins of the key out for an hour.
    pub(super) fn now_us(&self) -> Option<u64> {
        let (time_us, at) = (*self.compared.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(time_us + at.elapsed().as_micros() as u64)
    }

    /// True as soon as the clock was read.
    pub(super) fn known(&self) -> watch::Receiver<bool> {
        self.known.subscribe()
    }

    async fn follow(clock: Weak<Self>, redis: Redis) {
        let mut ready = redis.ready();
        loop {
            let connected = *ready.borrow_and_update();
            let compared = if connected { look(&redis).await.ok() } else { None };
            let Some(clock) = clock.upgrade() else { return };
            if compared.is_some() {
                *clock.compared.lock().unwrap_or_else(PoisonError::into_inner) = compared;
                clock.known.send_replace(true);
            }
            let pause = if clock.now_us().is_some() { COMPARE } else { COMPARE_FIRST };
            drop(clock);
            // A new connection may be to another server with another clock.
            let _ = timeout(pause, ready.changed()).await;
        }
    }
}

async fn look(redis: &Redis) -> Result<(u64, Instant), RedisError> {
    let mut best: Option<(Duration, (u64, Instant))> = None;
    for _ in 0..LOOKS {
        let asked = Instant::now();
        let (seconds, micros): (u64, u64) = redis.command(&redis::cmd("TIME")).await?;
        let took = asked.elapsed();
        if best.is_none_or(|(quickest, _)| took < quickest) {
            best = Some((took, (seconds * 1_000_000 + micros, asked + took / 2)));
        }
        sleep(Duration::from_millis(5)).await;
    }
    best.map(|(_, compared)| compared).ok_or_else(|| RedisError::Away("no look".to_owned()))
}
