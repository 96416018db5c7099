//! The threads that push on schedule.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use proto::op::Op;

use crate::{
    api::{Api, Target},
    clock::Clock,
    fleet::Fleet,
    latency::Times,
    message::Stamp,
    plan::{Due, Kind, Plan},
};

/// The longest sleep, so that a stop is noticed soon.
const SLEEP_MAX_NS: u64 = 50_000_000;

/// What all pushers of a run have in common.
#[derive(Clone)]
pub(crate) struct Pushing {
    pub(crate) url: String,
    pub(crate) token: Option<String>,
    pub(crate) op: Op,
    /// Body length in bytes.
    pub(crate) size: usize,
    pub(crate) run: u32,
    pub(crate) plan: Plan,
}

/// A pusher at work.
pub(crate) struct Pusher {
    thread: JoinHandle<Pushed>,
    passed: Arc<AtomicU64>,
}

/// What one pusher did.
pub(crate) struct Pushed {
    /// All pushes of the schedule below this number are done, as far as they are this pusher's.
    pub(crate) passed: u64,
    pub(crate) accepted: u64,
    /// Messages that were not accepted for everybody they named, by stream.
    pub(crate) failed: HashMap<u32, HashSet<u32>>,
    /// What went wrong the first time.
    pub(crate) first_failure: Option<String>,
    /// Own lateness: from when a punctual pusher, given the same answers, would have written to when it was written.
    pub(crate) lateness: Times,
    /// From a push to its answer.
    pub(crate) answers: Times,
}

impl Pusher {
    /// Starts pusher `number` of `pushing.plan.pushers`; the schedule begins at `start_ns`.
    pub(crate) fn start(
        pushing: &Pushing,
        fleet: &Fleet,
        number: u32,
        clock: Clock,
        start_ns: u64,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self> {
        let api = Api::new(&pushing.url, pushing.token.as_deref())?;
        let plan = &pushing.plan;
        let urls = (0..plan.targets)
            .filter(|&target| plan.pusher_of(target) == number)
            .map(|target| api.push_url(&address(plan.kind, fleet, target), pushing.op))
            .collect();
        let passed = Arc::new(AtomicU64::new(0));
        let work = Work {
            pushing: pushing.clone(),
            number,
            api,
            urls,
            clock,
            start_ns,
            passed: passed.clone(),
            stop: stop.clone(),
        };
        let thread = thread::Builder::new().name(format!("pusher-{number}")).spawn(move || work.run())?;
        Ok(Self { thread, passed })
    }

    /// How far the pusher has come in the schedule.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Did it come to the end of the schedule, or stop?
    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for it.
    pub(crate) fn join(self) -> Pushed {
        self.thread.join().expect("a panic ends the process")
    }
}

fn address(kind: Kind, fleet: &Fleet, target: u32) -> Target {
    match kind {
        Kind::Room => Target::Room(fleet.rooms[target as usize].clone()),
        Kind::All => Target::All,
        Kind::Mids => Target::Mids(vec![fleet.mid(target)]),
        Kind::Keys => Target::Keys(vec![fleet.key(target)]),
    }
}

struct Work {
    pushing: Pushing,
    number: u32,
    api: Api,
    /// The addresses of this pusher's targets, in their order.
    urls: Vec<String>,
    clock: Clock,
    start_ns: u64,
    passed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Work {
    fn run(mut self) -> Pushed {
        // Sleeps end when they should instead of up to 50 µs later. Should it fail, they end later.
        let _ = nix::sys::prctl::set_timerslack(1);
        let mut pushed = Pushed {
            passed: 0,
            accepted: 0,
            failed: HashMap::new(),
            first_failure: None,
            lateness: Times::default(),
            answers: Times::default(),
        };
        let mut body = Vec::with_capacity(self.pushing.size);
        // When the connection would have been free, had this thread never been late.
        let mut free_ns = self.start_ns;
        for n in 0.. {
            let Some(due) = self.pushing.plan.due(n) else {
                pushed.passed = n;
                break;
            };
            if self.pushing.plan.pusher_of(due.target) != self.number {
                continue;
            }
            let planned_ns = self.start_ns + due.offset_ns;
            pushed.passed = n;
            self.passed.store(n, Ordering::Relaxed);
            if !self.sleep_until(planned_ns) {
                break;
            }
            let stamp = Stamp { run: self.pushing.run, stream: due.target, seq: due.seq, planned_ns };
            stamp.write(self.pushing.size, &mut body);
            let sent_ns = self.clock.now_ns();
            self.push(due, &body, &mut pushed);
            let answer_ns = self.clock.now_ns().saturating_sub(sent_ns);
            let punctual_ns = planned_ns.max(free_ns);
            pushed.lateness.record_ns(sent_ns.saturating_sub(punctual_ns));
            pushed.answers.record_ns(answer_ns);
            free_ns = punctual_ns + answer_ns;
        }
        self.passed.store(pushed.passed, Ordering::Relaxed);
        pushed
    }

    fn push(&mut self, due: Due, body: &[u8], pushed: &mut Pushed) {
        let url = &self.urls[(due.target / self.pushing.plan.pushers) as usize];
        let failure = match self.api.push(url, body) {
            Ok(answer) if answer.is_success() => {
                pushed.accepted += 1;
                return;
            }
            Ok(answer) => answer.text(),
            Err(error) => error.to_string(),
        };
        pushed.failed.entry(due.target).or_default().insert(due.seq);
        pushed.first_failure.get_or_insert_with(|| format!("{url}: {failure}"));
    }

    /// Sleeps; false when it was told to stop.
    fn sleep_until(&self, due_ns: u64) -> bool {
        while !self.stop.load(Ordering::Relaxed) {
            let now = self.clock.now_ns();
            if now >= due_ns {
                return true;
            }
            thread::sleep(Duration::from_nanos((due_ns - now).min(SLEEP_MAX_NS)));
        }
        false
    }
}
