//! One seed, and many: on as many threads as there are cores, with figures at the end.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    panic::{self, AssertUnwindSafe, catch_unwind},
    sync::{
        Once,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread,
    time::Duration,
};

use proto::close::CloseReason;
use seam::{Begin, Bug};
use shard::stats::{DropReason, HandshakeKind};

use crate::{
    plan::Plan,
    trace::Lines,
    world::{Figures, World},
};

/// What has to happen, each at least once, in a run that calls itself thorough: a simulator that never injected a fault
/// proves nothing.
pub const MUST_HAPPEN: &[&str] = &[
    "fault: short read",
    "fault: short write",
    "fault: EAGAIN",
    "fault: full socket buffer",
    "fault: reset",
    "fault: failed write",
    "fault: bytes to a closed client",
    "fault: slow call between services",
    "fault: failed call between services",
    "fault: dispatch given up",
    "fault: sessions lost",
    "fault: stalled reader",
    "fault: shard held up",
    "fault: front held up",
    "fault: full mailbox",
    "push longer than comet takes",
    "hand-over to another shard",
    "hand-over to nobody",
    "hand-over with TLS",
    "hand-over within a record of TLS",
    "TLS 1.2",
    "TLS 1.2, with a ticket",
    "TLS 1.3",
    "TLS 1.3, with a ticket",
    "TLS: key changed by the client",
    "TLS ended: plain text",
    "TLS ended: bad message",
    "TLS ended: bad record",
    "TLS ended: handshake timeout",
    "TLS ended: one handshake too many",
    "connection held for want of room",
    "connection refused",
    "closed: going away",
    "closed: protocol violation",
    "closed: bad UTF-8",
    "closed: message too big",
    "closed: limit broken",
    "closed: server error",
    "closed: overloaded",
    "closed: login refused",
    "closed: login timeout",
    "closed: heartbeat timeout",
    "closed: replaced",
    "closed: slow consumer",
    "closed: kicked",
    "closed: by the client",
    "closed: connection lost",
    "dropped: slow consumer",
    "dropped: closed",
    "dropped: absent",
];

/// A seed takes milliseconds: one that takes so long never ends.
const STUCK: Duration = Duration::from_secs(120);

/// Seeds after which [`MUST_HAPPEN`] is asked for.
pub const THOROUGH: u64 = 500;

/// What broke, and where.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The broken rule, in words.
    pub what: String,
    /// Number of the trace up to there, and its events.
    pub hash: u64,
    /// Events up to there.
    pub events: u64,
    /// The last of them, when they were asked for.
    pub lines: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, event {}: {}", self.seed, self.events, self.what)
    }
}

/// How a seed ended.
pub type Ended = Result<Figures, Box<Failure>>;

/// Runs one seed.
///
/// # Errors
/// What was wrong.
pub fn run(seed: u64, bug: Option<Bug>, lines: Lines) -> Ended {
    catch_panics();
    let plan = Plan::new(seed);
    let _simulation = seam::begin(Begin { seed, bug, shrink: plan.shrink });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .event_interval(plan.tokio_interval)
        .build()
        .expect("a runtime without IO needs nothing");
    // Outside, so that it is there when something panics.
    let mut world = None;
    let all = async { world.insert(World::new(seed, plan, lines).await).run().await };
    let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on(all)));
    RUNS.set(false);
    let what = match (result, &mut world) {
        (Ok(Ok(())), Some(world)) => return Ok(world.figures()),
        (Ok(Err(what)), _) => what,
        (Err(_), _) => format!("panic: {}", PANIC.take()),
        (Ok(Ok(())), None) => "there was no world".to_owned(),
    };
    let trace = world.map(|world| world.oracle.trace).unwrap_or_default();
    Err(Box::new(Failure {
        seed,
        what,
        hash: trace.hash(),
        events: trace.events(),
        lines: trace.into_lines(),
    }))
}

thread_local! {
    /// What the last panic said.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    /// Whether panics of this thread are findings.
    static RUNS: RefCell<bool> = const { RefCell::new(false) };
}

/// A panic on a thread that runs seeds is a finding, to be told with its seed.
fn catch_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| match RUNS.with_borrow(|runs| *runs) {
            true => PANIC.set(info.to_string().replace('\n', " ")),
            false => before(info),
        }));
    });
    RUNS.set(true);
}

/// Which seeds are run, and how.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// The first one.
    pub first: u64,
    /// Their number.
    pub count: u64,
    /// The planted bug.
    pub bug: Option<Bug>,
    /// The run ends with the first failure.
    pub until_failure: bool,
}

/// What many seeds came to.
#[derive(Debug, Default)]
pub struct Total {
    /// Seeds that were clean.
    pub passed: u64,
    /// Those that were not.
    pub failures: Vec<Failure>,
    /// Sums of their figures.
    pub sum: Figures,
}

impl Total {
    fn add(&mut self, result: Ended) {
        let figures = match result {
            Ok(figures) => figures,
            Err(failure) => return self.failures.push(*failure),
        };
        self.passed += 1;
        // In whatever order the seeds end.
        self.sum.hash = self.sum.hash.wrapping_add(figures.hash);
        self.sum.events += figures.events;
        self.sum.micros += figures.micros;
        self.sum.frames += figures.frames;
        self.sum.pushes += figures.pushes;
        self.sum.connections += figures.connections;
        for (what, count) in figures.seen {
            *self.sum.seen.entry(what).or_default() += count;
        }
    }

    /// What should have happened and never did.
    pub fn never_seen(&self) -> Vec<&'static str> {
        let seen: &BTreeMap<&'static str, u64> = &self.sum.seen;
        MUST_HAPPEN.iter().copied().filter(|what| seen.get(what).copied().unwrap_or(0) == 0).collect()
    }
}

/// Runs many seeds, on all cores. `ended` is called after each, with the number done and what it came to.
pub fn run_many(seeds: Seeds, mut ended: impl FnMut(u64, &Ended)) -> Total {
    let Seeds { first, count, bug, until_failure } = seeds;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (results, coming) = sync_channel(threads * 4);
    let mut total = Total::default();
    thread::scope(|scope| {
        for _ in 0..threads {
            let (results, next, stop) = (results.clone(), &next, &stop);
            scope.spawn(move || {
                loop {
                    let n = next.fetch_add(1, Relaxed);
                    if n >= count || stop.load(Relaxed) {
                        return;
                    }
                    if results.send(run(first + n, bug, Lines::Off)).is_err() {
                        return; // nobody listens any more
                    }
                }
            });
        }
        drop(results);
        let mut done = 0;
        loop {
            match coming.recv_timeout(STUCK) {
                Ok(result) => {
                    done += 1;
                    stop.fetch_or(until_failure && result.is_err(), Relaxed);
                    ended(done, &result);
                    total.add(result);
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let next = first + next.load(Relaxed);
                    eprintln!(
                        "sim: no seed has ended for {STUCK:?}: one of the {threads} before {next} never does"
                    );
                    std::process::exit(1); // its thread cannot be ended
                }
            }
        }
    });
    total.failures.sort_by_key(|failure| failure.seed);
    total
}

pub(crate) const fn close_label(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::GoingAway => "closed: going away",
        CloseReason::ProtocolViolation => "closed: protocol violation",
        CloseReason::BadUtf8 => "closed: bad UTF-8",
        CloseReason::MessageTooBig => "closed: message too big",
        CloseReason::LimitBroken => "closed: limit broken",
        CloseReason::ServerError => "closed: server error",
        CloseReason::Overloaded => "closed: overloaded",
        CloseReason::LoginRefused => "closed: login refused",
        CloseReason::LoginTimeout => "closed: login timeout",
        CloseReason::HeartbeatTimeout => "closed: heartbeat timeout",
        CloseReason::Replaced => "closed: replaced",
        CloseReason::SlowConsumer => "closed: slow consumer",
        CloseReason::Kicked => "closed: kicked",
        CloseReason::ClientClosed => "closed: by the client",
        CloseReason::ConnectionLost => "closed: connection lost",
        _ => "closed: for another reason",
    }
}

pub(crate) const fn handshake_label(kind: HandshakeKind) -> &'static str {
    match (kind.version, kind.resumed) {
        (tls::Version::Tls12, false) => "TLS 1.2",
        (tls::Version::Tls12, true) => "TLS 1.2, with a ticket",
        (tls::Version::Tls13, false) => "TLS 1.3",
        (tls::Version::Tls13, true) => "TLS 1.3, with a ticket",
    }
}

pub(crate) fn tls_label(proto: &str, reason: &str) -> Option<&'static str> {
    match (proto, reason) {
        ("tls", "plain_text") => Some("TLS ended: plain text"),
        ("tls", "bad_message") => Some("TLS ended: bad message"),
        ("tls", "bad_record") => Some("TLS ended: bad record"),
        ("tls", "timeout") => Some("TLS ended: handshake timeout"),
        ("tls", "handshake_limit") => Some("TLS ended: one handshake too many"),
        ("tls", "used_up") => Some("TLS ended: keys used up"),
        ("tls", _) => Some("TLS ended: for another reason"),
        _ => None,
    }
}

pub(crate) const fn drop_label(reason: DropReason) -> &'static str {
    match reason {
        DropReason::SlowConsumer => "dropped: slow consumer",
        DropReason::Closed => "dropped: closed",
        DropReason::Absent => "dropped: absent",
    }
}
