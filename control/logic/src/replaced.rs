//! After a key logged in on another comet, logic has the connection closed that the key had before.
//!
//! Sometimes logic does not know where that was: the store was silent during the login and has stored it all the same.
//! Then, as soon as the store answers again, logic tells every other comet.
//!
//! No login waits for these kicks, and they may fail. A comet that a kick did not reach learns the same with the next
//! renewal of the old session ([`contract::Renewed::superseded`]).

use std::{slice, sync::Arc, time::Duration};

use contract::DispatchError;
use futures_util::future::join_all;
use proto::{
    close::CloseReason,
    ids::{Generation, Key, ServerId},
};
use registry::{NodeSet, Service};
use session::{Sessions, StoredSession};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout_at},
};
use tracing::debug;

use super::Reach;
use crate::metrics::{LogicMetrics, ReplacedKick};

/// Kicks under way at once. logic counts those beyond as failed and leaves them to the renewals.
const UNDER_WAY_MAX: usize = 1024;

/// How long logic tries a kick again that a comet does not take.
const TRIED_FOR: Duration = Duration::from_secs(5);

/// First pause before the next try. It doubles each time.
const PAUSE: Duration = Duration::from_millis(100);

/// How many logins with an unknown result logic follows at once, including their kicks. It leaves those beyond to the
/// renewals.
const UNKNOWN_MAX: usize = 1024;

/// How often logic asks the store about such a login.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The kicks that follow logins.
pub(super) struct Replaced {
    reach: Reach,
    metrics: LogicMetrics,
    sessions: Arc<dyn Sessions>,
    nodes: watch::Receiver<Arc<NodeSet>>,
    places: Arc<Semaphore>,
    unknown: Arc<Semaphore>,
}

impl Replaced {
    pub(super) fn new(
        reach: Reach,
        metrics: LogicMetrics,
        sessions: Arc<dyn Sessions>,
        nodes: watch::Receiver<Arc<NodeSet>>,
    ) -> Self {
        let [places, unknown] = [UNDER_WAY_MAX, UNKNOWN_MAX].map(|count| Arc::new(Semaphore::new(count)));
        Replaced { reach, metrics, sessions, nodes, places, unknown }
    }

    /// The caller holds the guard while it stores a login of `key`.
    pub(super) fn unanswered<'a>(self: &'a Arc<Self>, key: &'a Key) -> Unanswered<'a> {
        Unanswered { replaced: self, key, is_answered: false }
    }

    /// Has the connections closed, in the background, that `key` had on `server` before the login `by`.
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

/// A login that the store may have although it has not answered. If comet stops waiting and its call is dropped, so is
/// this.
pub(super) struct Unanswered<'a> {
    replaced: &'a Arc<Replaced>,
    key: &'a Key,
    is_answered: bool,
}

impl Unanswered<'_> {
    /// Tells whether the store has answered.
    pub(super) fn end(mut self, is_answered: bool) {
        self.is_answered = is_answered;
    }
}

impl Drop for Unanswered<'_> {
    /// If the store has not answered, waits in the background until it tells who holds the key, and closes what the key
    /// has on the other comets.
    fn drop(&mut self) {
        let (false, Ok(runtime)) = (self.is_answered, Handle::try_current()) else { return };
        let (replaced, key) = (Arc::clone(self.replaced), self.key.clone());
        let Ok(place) = Arc::clone(&replaced.unknown).try_acquire_owned() else {
            replaced.metrics.replaced.of(ReplacedKick::Failed).inc();
            return;
        };
        runtime.spawn(async move {
            let holder = loop {
                sleep(ASK_EVERY).await;
                match replaced.sessions.sessions_of_keys(slice::from_ref(&key)).await {
                    Ok(holders) => break holders.into_iter().next().flatten(),
                    Err(error) => debug!(%key, %error, "not known yet who holds it"),
                }
            };
            let Some(StoredSession { server: holder, generation: Some(by), .. }) = holder else { return };
            let nodes = Arc::clone(&replaced.nodes.borrow());
            let others = nodes.of(Service::Comet).filter(|comet| comet.server != holder);
            let kicks = others.map(|comet| kick(&replaced.reach, &comet.server, &key, by));
            for result in join_all(kicks).await {
                replaced.metrics.replaced.of(result).inc();
            }
            drop(place);
        });
    }
}

async fn kick(reach: &Reach, server: &ServerId, key: &Key, by: Generation) -> ReplacedKick {
    let end = Instant::now() + TRIED_FOR;
    let mut pause = PAUSE;
    loop {
        // Looked up for each try, since the comet may have left meanwhile. Then its connections are gone too.
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
