//! Decides who may be connected, and who has to go if places are short.
//!
//! A server has a number of places, and some spare ones. Each connection has a place, or waits for one on a spare
//! place, where probes are answered all the same. So a probe or a push never waits for connections that do nothing: the
//! oldest idle connection goes first, then the oldest one of whose request only a part has come.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};

use super::metrics::{Closed, closed};

/// Spare places.
const SPARE: usize = 32;

/// No connection is sent away sooner than this after something happened on it, since its request may have come and not
/// be read yet.
const GRACE: Duration = Duration::from_millis(100);

/// How often a waiting connection looks for one that can go.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Longest wait of a request for a place.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(1);

/// What a connection waits for. One that waits for an earlier variant is sent away first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Waits {
    /// It waits for a request.
    Request,
    /// It waits for the rest of a request's head.
    Head,
    /// It has a request, and waits for a place.
    Place,
}

/// The places of one server.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// The connections that can be sent away. Among those that wait for the same, the oldest comes first.
    waiting: Mutex<BTreeMap<(Waits, u64), Waiting>>,
    order: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    told: Arc<Told>,
}

/// Tells a connection to go.
#[derive(Debug, Default)]
struct Told {
    is_told: AtomicBool,
    notify: Notify,
}

impl Places {
    pub(super) fn new(places: usize) -> Arc<Places> {
        Arc::new(Places {
            all: Arc::new(Semaphore::new(places + SPARE)),
            places: Arc::new(Semaphore::new(places)),
            waiting: Mutex::default(),
            order: AtomicU64::new(0),
        })
    }

    /// Waits until one more connection may be accepted, and sends another one away if necessary.
    pub(super) async fn spare(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(Ok(permit)) = timeout(LOOK_EVERY, Arc::clone(&self.all).acquire_owned()).await {
                return permit;
            }
            self.send_away(Waits::Place);
        }
    }

    /// The state of a connection that was just accepted.
    pub(super) fn enter(self: &Arc<Self>, spare: OwnedSemaphorePermit) -> Arc<Visit> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        if place.is_none() {
            self.send_away(Waits::Head);
        }
        let told = Arc::default();
        let key = self.wait(Waits::Request, &told);
        let stay = Stay { phase: Phase::Waits(Waits::Request, key), since: Instant::now(), place };
        Arc::new(Visit {
            places: Arc::clone(self),
            _spare: spare,
            told,
            is_writing: AtomicBool::new(false),
            stay: Mutex::new(stay),
        })
    }

    /// Tells one connection to go: the first of those that wait for `most` or for less.
    fn send_away(&self, most: Waits) {
        let mut waiting = lock(&self.waiting);
        let now = Instant::now();
        let first = [Waits::Request, Waits::Head, Waits::Place]
            .into_iter()
            .filter(|waits| *waits <= most)
            .find_map(|waits| {
                let (key, first) = waiting.range((waits, 0)..=(waits, u64::MAX)).next()?;
                (now - first.since >= GRACE).then_some(*key)
            });
        let Some((key, gone)) = first.and_then(|key| waiting.remove_entry(&key)) else { return };
        drop(waiting);
        closed(match key.0 {
            Waits::Request => Closed::Idle,
            Waits::Head => Closed::Head,
            Waits::Place => Closed::NoPlace,
        });
        gone.told.is_told.store(true, Relaxed);
        gone.told.notify.notify_one();
    }

    fn wait(&self, waits: Waits, told: &Arc<Told>) -> u64 {
        let order = self.order.fetch_add(1, Relaxed);
        let waiting = Waiting { since: Instant::now(), told: Arc::clone(told) };
        lock(&self.waiting).insert((waits, order), waiting);
        order
    }

    fn waits_no_more(&self, waits: Waits, order: u64) {
        lock(&self.waiting).remove(&(waits, order));
    }
}

/// One connection, as its task, its stream and its requests see it.
#[derive(Debug)]
pub(super) struct Visit {
    places: Arc<Places>,
    _spare: OwnedSemaphorePermit,
    told: Arc<Told>,
    is_writing: AtomicBool,
    stay: Mutex<Stay>,
}

/// A request that is being answered.
pub(super) struct Answering(Arc<Visit>);

impl Drop for Answering {
    fn drop(&mut self) {
        let mut stay = lock(&self.0.stay);
        if stay.phase == Phase::Answers {
            stay.phase = Phase::Answered;
        }
    }
}

#[derive(Debug)]
struct Stay {
    phase: Phase,
    /// When the present phase began.
    since: Instant,
    place: Option<OwnedSemaphorePermit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It waits and can be sent away. With its order among those that wait.
    Waits(Waits, u64),
    /// A request is being answered.
    Answers,
    /// The answer is ready, but perhaps not written yet.
    Answered,
}

impl Visit {
    /// Notes that bytes have come.
    pub(super) fn read(&self) {
        let mut stay = lock(&self.stay);
        match stay.phase {
            Phase::Waits(Waits::Request, _) | Phase::Answered => self.set(&mut stay, Some(Waits::Head)),
            Phase::Waits(..) | Phase::Answers => {}
        }
    }

    /// Notes that a request is there. Its answer is ready when the returned value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Answering {
        self.set(&mut lock(&self.stay), None);
        Answering(Arc::clone(self))
    }

    /// Sets whether a write waits for the other side.
    pub(super) fn set_writing(&self, writing: bool) {
        self.is_writing.store(writing, Relaxed);
    }

    /// Called when the connection can do nothing more now. If no write waits, an answer that was ready is written.
    pub(super) fn rest(&self) {
        let mut stay = lock(&self.stay);
        if stay.phase == Phase::Answered && !self.is_writing.load(Relaxed) {
            self.set(&mut stay, Some(Waits::Request));
        }
    }

    /// Gives the place back, since nothing but the end of the connection is left.
    pub(super) fn leave(&self) {
        let mut stay = lock(&self.stay);
        self.set(&mut stay, None);
        stay.place = None;
    }

    /// When the connection has to go: an idle one, or one whose request has come only in part. None while a request is
    /// answered.
    pub(super) fn deadline(&self, idle: Duration, head: Duration) -> Option<Instant> {
        let stay = lock(&self.stay);
        match stay.phase {
            Phase::Waits(Waits::Request, _) => Some(stay.since + idle),
            Phase::Waits(..) => Some(stay.since + head),
            Phase::Answers | Phase::Answered => None,
        }
    }

    /// Whether no request is under way, not even a part of one.
    pub(super) fn is_idle(&self) -> bool {
        matches!(lock(&self.stay).phase, Phase::Waits(Waits::Request, _))
    }

    /// Waits until the connection is told to go.
    pub(super) async fn told_to_go(&self) {
        self.told.notify.notified().await;
    }

    /// Whether the connection was told to go.
    pub(super) fn is_told_to_go(&self) -> bool {
        self.told.is_told.load(Relaxed)
    }

    /// Whether the connection has no request under way, so that it can go at once.
    pub(super) fn can_go(&self) -> bool {
        matches!(lock(&self.stay).phase, Phase::Waits(..))
    }

    /// Whether the connection has a place. Takes one if one is free.
    pub(super) fn has_place(&self) -> bool {
        let mut stay = lock(&self.stay);
        if stay.place.is_none() {
            stay.place = Arc::clone(&self.places.places).try_acquire_owned().ok();
        }
        stay.place.is_some()
    }

    /// Waits for a place for the request that has begun. False if none becomes free in time, or if others need the
    /// spare place.
    pub(super) async fn get_place(&self) -> bool {
        if self.has_place() {
            return true;
        }
        let told = Arc::<Told>::default();
        let order = self.places.wait(Waits::Place, &told);
        let get = async {
            let mut next = pin!(Arc::clone(&self.places.places).acquire_owned());
            loop {
                tokio::select! {
                    place = &mut next => return place.ok(),
                    () = told.notify.notified() => return None,
                    () = sleep(LOOK_EVERY) => self.places.send_away(Waits::Head),
                }
            }
        };
        let place = timeout(REQUEST_WAIT_MAX, get).await;
        self.places.waits_no_more(Waits::Place, order);
        if place.is_err() {
            closed(Closed::NoPlace);
        }
        lock(&self.stay).place = place.ok().flatten();
        lock(&self.stay).place.is_some()
    }

    /// Begins a phase: waiting for this, or answering.
    fn set(&self, stay: &mut Stay, waits: Option<Waits>) {
        if let Phase::Waits(waits, order) = stay.phase {
            self.places.waits_no_more(waits, order);
        }
        stay.since = Instant::now();
        stay.phase = match waits {
            Some(waits) => Phase::Waits(waits, self.places.wait(waits, &self.told)),
            None => Phase::Answers,
        };
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Phase::Waits(waits, order) = lock(&self.stay).phase {
            self.places.waits_no_more(waits, order);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
