//! A load from beginning to end: connect, push on schedule, drain, report.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Write as _},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use proto::op::Op;

use crate::{
    cli::{LoadArgs, Who},
    client::{Client, Expected, State},
    clock::{Clock, ns},
    fleet::{Fleet, Transport},
    latency::{Times, verdict},
    plan::{Kind, Plan, pushers_for},
    process,
    pusher::{Pushed, Pusher, Pushing},
    reader::{Pace, Reader},
    report::{Pushes, Report},
    rng::Rng,
    status::{Status, columns},
    tally::{Measured, Tally},
    worker::{Share, Worker},
};

/// How often the conductor looks how far things are.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// From starting the pushers to the first planned push, so that none starts late.
const LEAD: Duration = Duration::from_millis(100);

/// After everything arrived: what comes now is too much.
const SETTLE: Duration = Duration::from_millis(300);

/// With clients missing nobody can say what everything is: the drain ends when nothing came for this long.
const QUIET: Duration = Duration::from_secs(1);

/// Runs the load; the exit status says whether all was well.
pub(crate) fn run(who: &Who, args: &LoadArgs) -> Result<ExitCode> {
    let load = Load::start(who, args)?;
    let report = load.conduct()?;
    if let Some(path) = &args.json {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        serde_json::to_writer_pretty(file, &report).with_context(|| path.display().to_string())?;
    }
    // Last: the terminal may have gone.
    io::stdout().write_all(report.table(columns(io::stdout())).as_bytes()).context("standard output")?;
    Ok(ExitCode::from(u8::from(!report.ok)))
}

struct Load<'a> {
    args: &'a LoadArgs,
    fleet: Arc<Fleet>,
    clock: Clock,
    /// Ctrl-C.
    stop: Arc<AtomicBool>,
    pushing: Option<Pushing>,
    timed_from_ns: Arc<AtomicU64>,
    readers: Vec<Reader>,
    readers_end: Arc<AtomicBool>,
    started_ns: u64,
    status: Status,
}

/// The part of the run that is measured.
struct Span {
    start_ns: u64,
    end_ns: u64,
    cpu_start: Duration,
    pushed: Vec<Pushed>,
}

impl<'a> Load<'a> {
    fn start(who: &Who, args: &'a LoadArgs) -> Result<Self> {
        let fleet = Arc::new(args.clients.fleet(who)?);
        let pushing = pushing(args, &fleet)?;
        let threads = args.threads.min(fleet.count);
        let pushers = pushing.as_ref().map_or(0, |pushing| pushing.plan.pushers);
        process::allow_sockets(u64::from(fleet.count) + u64::from(2 * threads + pushers))?;

        let (clock, stop) = (Clock::start(), process::stop_on_signal()?);
        let timed_from_ns = Arc::new(AtomicU64::new(u64::MAX));
        let readers_end = Arc::new(AtomicBool::new(false));
        let pace = Pace {
            rate: args.connect_rate.map(|rate| rate / f64::from(threads)),
            in_flight: args.clients.in_flight.div_ceil(threads),
        };
        ensure!(pace.rate.is_none_or(|rate| rate > 0.0), "--connect-rate must be more than 0");
        let started_ns = clock.now_ns();
        let mut readers = Vec::new();
        for number in 0..threads {
            let expected = pushing.as_ref().map(|pushing| Expected {
                run: pushing.run,
                size: pushing.size,
                plan: pushing.plan.clone(),
                timed_from_ns: timed_from_ns.clone(),
            });
            let share = Share { number, of: threads };
            let worker = Worker::new(fleet.clone(), share, expected, clock, Rng::random_seed())?;
            readers.push(Reader::start(worker, pace, clock, readers_end.clone())?);
        }
        let status = Status::new(fleet.count, started_ns);
        Ok(Self {
            args,
            fleet,
            clock,
            stop,
            pushing,
            timed_from_ns,
            readers,
            readers_end,
            started_ns,
            status,
        })
    }

    fn conduct(mut self) -> Result<Report> {
        let clients = u64::from(self.fleet.count);
        self.wait(None, 0, |tally| tally.logins + tally.failures.total() >= clients)?;
        let span = match self.pushing.clone() {
            Some(pushing) => self.push(&pushing)?,
            None => self.hold()?,
        };
        self.status.clear();
        self.readers_end.store(true, Ordering::Relaxed);
        let cpu = process::cpu_time() - span.cpu_start;
        let (mut all, mut measured) = (Vec::new(), Measured::new());
        for reader in std::mem::take(&mut self.readers) {
            let (clients, theirs) = reader.join()?;
            all.extend(clients);
            measured.add(&theirs);
        }
        Ok(self.report(&all, &measured, &span, cpu))
    }

    /// Without pushes: keeps the connections.
    fn hold(&mut self) -> Result<Span> {
        let (start_ns, cpu_start) = (self.clock.now_ns(), process::cpu_time());
        self.wait(self.args.duration, 0, |tally| tally.open == 0)?;
        Ok(Span { start_ns, end_ns: self.clock.now_ns(), cpu_start, pushed: Vec::new() })
    }

    fn push(&mut self, pushing: &Pushing) -> Result<Span> {
        let plan = &pushing.plan;
        let cpu_start = process::cpu_time();
        let start_ns = self.clock.now_ns() + ns(LEAD);
        self.timed_from_ns.store(start_ns + ns(self.args.pushing.warmup), Ordering::Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        let pushers = (0..plan.pushers)
            .map(|number| Pusher::start(pushing, &self.fleet, number, self.clock, start_ns, &stop))
            .collect::<Result<Vec<_>>>()?;

        // A server too slow for the schedule gets until the end of the drain for it, no longer.
        let limit = self.args.duration.map(|duration| LEAD + duration + self.args.pushing.drain);
        let over_ns = limit.map(|limit| self.clock.now_ns() + ns(limit));
        while !pushers.iter().all(Pusher::is_finished) {
            let late = over_ns.is_some_and(|over| self.clock.now_ns() >= over);
            stop.store(late || self.stop.load(Ordering::Relaxed), Ordering::Relaxed);
            let passed = pushers.iter().map(Pusher::passed).max().unwrap_or(0);
            self.look(passed)?;
        }
        let pushed: Vec<_> = pushers.into_iter().map(Pusher::join).collect();
        let pushed_ns = self.clock.now_ns();
        self.drain(plan, &pushed)?;
        let end_ns = self.tally().last_delivery_ns.max(pushed_ns);
        Ok(Span { start_ns, end_ns, cpu_start, pushed })
    }

    /// Waits until everything that was pushed has arrived, and a little longer.
    fn drain(&mut self, plan: &Plan, pushed: &[Pushed]) -> Result<()> {
        let (clients, passed) = (u64::from(self.fleet.count), pushed.iter().map(|p| p.passed).max());
        let everything: u64 = (0..self.fleet.count)
            .map(|index| {
                let stream = plan.stream_of(index);
                let sent = u64::from(sent(plan, pushed, stream));
                sent - failures(plan, pushed, stream).map_or(0, |failed| failed.len() as u64)
            })
            .sum();
        let clock = self.clock;
        let since_ns = clock.now_ns();
        self.wait(Some(self.args.pushing.drain), passed.unwrap_or(0), |tally| {
            if tally.open < clients {
                let last_ns = tally.last_delivery_ns.max(since_ns);
                return clock.now_ns().saturating_sub(last_ns) > ns(QUIET);
            }
            tally.fresh >= everything
        })?;
        thread::sleep(SETTLE);
        Ok(())
    }

    /// Looks again and again until `done`, the time is over, or, unless it pushed, Ctrl-C.
    fn wait(&mut self, time: Option<Duration>, pushes: u64, done: impl Fn(&Tally) -> bool) -> Result<()> {
        let over_ns = time.map(|time| self.clock.now_ns() + ns(time));
        loop {
            let over = over_ns.is_some_and(|over| self.clock.now_ns() >= over);
            let stopped = pushes == 0 && self.stop.load(Ordering::Relaxed);
            if over || stopped || done(&self.tally()) {
                return Ok(());
            }
            self.look(pushes)?;
        }
    }

    fn look(&mut self, pushes: u64) -> Result<()> {
        thread::sleep(LOOK_EVERY);
        if let Some(at) = self.readers.iter().position(Reader::is_finished) {
            self.readers.swap_remove(at).join().context("a reader cannot go on")?;
        }
        let readers = &self.readers;
        self.status.show(self.clock.now_ns(), pushes, || {
            let mut sum = Measured::new();
            readers.iter().for_each(|reader| sum.add(&reader.measured()));
            sum
        });
        Ok(())
    }

    fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        self.readers.iter().for_each(|reader| sum.add(&reader.measured().tally));
        sum
    }

    fn report(&self, clients: &[(u32, Client)], measured: &Measured, span: &Span, cpu: Duration) -> Report {
        let tally = measured.tally.clone();
        let pushes = self.pushing.as_ref().map(|pushing| summary(pushing, &span.pushed, clients, measured));
        let all_there = tally.logins == u64::from(self.fleet.count) && tally.disconnects.total() == 0;
        Report {
            version: env!("CARGO_PKG_VERSION"),
            command: std::env::args().collect(),
            transport: match self.fleet.transport {
                Transport::Tcp => "TCP",
                Transport::WebSocket(_) => "WebSocket",
            },
            clients: self.fleet.count.into(),
            connected: tally.logins,
            connect_failures: tally.failures,
            disconnects: tally.disconnects,
            connect_seconds: seconds(self.started_ns, tally.last_login_ns),
            connect_latency: measured.connects.quantiles(),
            ok: all_there && pushes.as_ref().is_none_or(Pushes::ok),
            pushes,
            seconds: seconds(span.start_ns, span.end_ns),
            deliveries: tally.deliveries,
            foreign: tally.foreign,
            bytes: tally.bytes,
            heartbeats_sent: tally.heartbeats_sent,
            heartbeats_answered: tally.heartbeats_answered,
            cpu_seconds: cpu.as_secs_f64(),
        }
    }
}

fn seconds(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e9
}

/// What the arguments say about pushing.
fn pushing(args: &LoadArgs, fleet: &Fleet) -> Result<Option<Pushing>> {
    let given = &args.pushing;
    let Some(url) = &given.push else { return Ok(None) };
    ensure!(given.rate.is_finite() && given.rate > 0.0, "--rate must be more than 0");
    ensure!(args.duration.is_none_or(|d| d > given.warmup), "--warmup must be shorter than --duration");
    let targets = match given.kind {
        Kind::Room => fleet.rooms.len() as u32,
        Kind::All => 1,
        Kind::Mids | Kind::Keys => fleet.count,
    };
    ensure!(targets > 0, "--kind room needs a --room");
    ensure!(
        given.kind == Kind::Room || fleet.accepts.contains(&given.op),
        "operation {} is not in --accepts: nobody would receive it",
        given.op
    );
    let plan = Plan {
        kind: given.kind,
        targets,
        pushers: given.pushers.map_or_else(|| pushers_for(given.rate, targets), |n| n.min(targets)),
        rate: given.rate,
        total: args.duration.map(|duration| ((given.rate * duration.as_secs_f64()) as u64).max(1)),
    };
    Ok(Some(Pushing {
        url: url.clone(),
        token: given.token.clone(),
        op: Op(given.op),
        size: given.size,
        run: Rng::random_seed() as u32,
        plan,
    }))
}

/// How many messages were pushed to `stream`, accepted or not.
fn sent(plan: &Plan, pushed: &[Pushed], stream: u32) -> u32 {
    plan.sent_to(stream, pushed[plan.pusher_of(stream) as usize].passed)
}

/// Which of them were not accepted.
fn failures<'a>(plan: &Plan, pushed: &'a [Pushed], stream: u32) -> Option<&'a HashSet<u32>> {
    let failed: &HashMap<_, _> = &pushed[plan.pusher_of(stream) as usize].failed;
    failed.get(&stream)
}

fn summary(pushing: &Pushing, pushed: &[Pushed], clients: &[(u32, Client)], measured: &Measured) -> Pushes {
    let plan = &pushing.plan;
    let (mut lateness, mut answers) = (Times::default(), Times::default());
    for one in pushed {
        lateness.add(&one.lateness);
        answers.add(&one.answers);
    }
    let lost = clients.iter().map(|(index, client)| {
        let stream = plan.stream_of(*index);
        let failed = failures(plan, pushed, stream);
        let void = |seq| failed.is_some_and(|failed| failed.contains(&seq));
        match client.state {
            State::Open(_) => client.order.lost(sent(plan, pushed, stream), void),
            // What it missed after it was gone is not the server's loss; that it is gone is told.
            State::Away | State::Joining(..) => client.order.lost_until_now(void),
        }
    });
    let (tally, lost) = (&measured.tally, lost.sum());
    let (latency, latency_not_reported) = verdict(&measured.latency, &lateness, &measured.delays);
    Pushes {
        kind: plan.kind.to_possible_value().map(|kind| kind.get_name().to_owned()).unwrap_or_default(),
        rate: plan.rate,
        size: pushing.size,
        accepted: pushed.iter().map(|one| one.accepted).sum(),
        failed: pushed.iter().flat_map(|one| one.failed.values()).map(|seqs| seqs.len() as u64).sum(),
        first_failure: pushed.iter().find_map(|one| one.first_failure.clone()),
        answers: answers.quantiles(),
        expected: tally.fresh + lost,
        lost,
        duplicated: tally.duplicated,
        out_of_order: tally.out_of_order,
        damaged: tally.damaged,
        latency,
        latency_not_reported,
        own_pusher: lateness.quantiles(),
        own_reader: measured.delays.quantiles(),
    }
}
