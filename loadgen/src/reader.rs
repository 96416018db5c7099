//! A thread that reads: it connects its share of the fleet, then turns its worker until the end.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    client::Client,
    clock::{Clock, ns},
    tally::Measured,
    worker::Worker,
};

/// The longest sleep of the loop, so that heartbeats and the end come in time.
const TICK: Duration = Duration::from_millis(20);

/// How often what was measured is shown to the others.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);

/// How fast one thread may connect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Connects a second; none: as fast as `in_flight` allows.
    pub(crate) rate: Option<f64>,
    /// Connects and logins under way at once.
    pub(crate) in_flight: u32,
}

/// A reader at work.
pub(crate) struct Reader {
    thread: JoinHandle<io::Result<Vec<(u32, Client)>>>,
    shared: Arc<Mutex<Measured>>,
}

impl Reader {
    /// Starts connecting the worker's clients; goes on until `end`.
    pub(crate) fn start(worker: Worker, pace: Pace, clock: Clock, end: Arc<AtomicBool>) -> io::Result<Self> {
        let shared = Arc::new(Mutex::new(Measured::new()));
        let work = Work { worker, pace, clock, end, shared: shared.clone() };
        let thread = thread::Builder::new().name("reader".to_owned()).spawn(move || work.run())?;
        Ok(Self { thread, shared })
    }

    /// What it measured, up to a tenth of a second ago.
    pub(crate) fn measured(&self) -> MutexGuard<'_, Measured> {
        lock(&self.shared)
    }

    /// Has it ended before its time?
    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end; the clients as they were left, and everything it measured.
    pub(crate) fn join(self) -> io::Result<(Vec<(u32, Client)>, Measured)> {
        let clients = self.thread.join().expect("a panic ends the process")?;
        let measured = lock(&self.shared).clone();
        Ok((clients, measured))
    }
}

fn lock(shared: &Mutex<Measured>) -> MutexGuard<'_, Measured> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Work {
    worker: Worker,
    pace: Pace,
    clock: Clock,
    end: Arc<AtomicBool>,
    shared: Arc<Mutex<Measured>>,
}

impl Work {
    fn run(mut self) -> io::Result<Vec<(u32, Client)>> {
        let started = self.clock.now_ns();
        let mut published = started;
        let mut next = 0;
        while !self.end.load(Ordering::Relaxed) {
            let now = self.clock.now_ns();
            let wait = self.connect_due(&mut next, now - started);
            self.worker.turn(wait)?;
            if now - published >= ns(PUBLISH_EVERY) {
                published = now;
                lock(&self.shared).update_from(&mut self.worker.measured);
            }
        }
        lock(&self.shared).update_from(&mut self.worker.measured);
        Ok(self.worker.into_clients().collect())
    }

    /// Connects the clients from `next` on whose turn it is; how long to sleep at most.
    fn connect_due(&mut self, next: &mut u32, elapsed_ns: u64) -> Duration {
        while *next < self.worker.count() && self.worker.in_flight() < self.pace.in_flight {
            if let Some(rate) = self.pace.rate {
                let due_ns = (f64::from(*next) * 1e9 / rate) as u64;
                if due_ns > elapsed_ns {
                    return TICK.min(Duration::from_nanos(due_ns - elapsed_ns));
                }
            }
            self.worker.connect(*next);
            *next += 1;
        }
        TICK
    }
}
