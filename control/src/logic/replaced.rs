//! A key that logged in on another comet: the connection it had is closed there.
//!
//! Nobody waits for that, and it may fail: whoever is not reached is told with the next renewal of its session
//! ([`cluster::services::Renewed::superseded`]).

use std::{sync::Arc, time::Duration};

use cluster::services::DispatchError;
use proto::{
    close::CloseReason,
    ids::{Generation, Key, ServerId},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout_at},
};
use tracing::debug;

use super::Reach;
use crate::metrics::{LogicMetrics, ReplacedKick};

/// Kicks under way at once; beyond it they are counted as failed, and left to the renewals.
const UNDER_WAY_MAX: usize = 1024;

/// How long a comet that does not take a kick is asked again.
const TRIED_FOR: Duration = Duration::from_secs(5);

/// First pause before it is asked again; doubled each time.
const PAUSE: Duration = Duration::from_millis(100);

/// The kicks that follow logins.
pub(super) struct Replaced {
    reach: Reach,
    metrics: LogicMetrics,
    places: Arc<Semaphore>,
}

impl Replaced {
    pub(super) fn new(reach: Reach, metrics: LogicMetrics) -> Self {
        Replaced { reach, metrics, places: Arc::new(Semaphore::new(UNDER_WAY_MAX)) }
    }

    /// Has the connections that `key` had on `server` before the login `by` closed, in the background.
    pub(super) fn close(&self, server: ServerId, key: Key, by: Generation) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.metrics.replaced.of(ReplacedKick::Failed).inc();
            return;
        };
        let (reach, metrics) = (Arc::clone(&self.reach), self.metrics.clone());
        tokio::spawn(async move {
            let result = kick(&reach, &server, &key, by).await;
            metrics.replaced.of(result).inc();
            drop(place);
        });
    }
}

async fn kick(reach: &Reach, server: &ServerId, key: &Key, by: Generation) -> ReplacedKick {
    let end = Instant::now() + TRIED_FOR;
    let mut pause = PAUSE;
    loop {
        // Asked each time: a comet that has left takes its connections along.
        let Some(comet) = reach(server) else { return ReplacedKick::Failed };
        let kicked = timeout_at(end, comet.kick(key.clone(), Some(by), CloseReason::Replaced, None)).await;
        let why = match kicked {
            Ok(Ok(())) => return ReplacedKick::Taken,
            Ok(Err(DispatchError::Invalid(why))) => {
                debug!(comet = %server, why, "a replaced connection stays until its comet closes it");
                return ReplacedKick::Unsupported;
            }
            Ok(Err(DispatchError::Unreachable(why))) => why,
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() + pause >= end {
            debug!(comet = %server, why, "a replaced connection stays until its session is renewed");
            return ReplacedKick::Failed;
        }
        sleep(pause).await;
        pause *= 2;
    }
}
