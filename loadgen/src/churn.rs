//! `loadgen churn`: clients that come and go at random, and counts that must follow them exactly.
//!
//! A round connects everybody, then takes random steps: a client that is away connects (one in sixteen gives up at once),
//! one that is connected leaves (one in four by RST), one whose login is under way gives up. After the
//! first connects, after each quarter of the steps and after everybody left, it lets the logins end and
//! compares the server's online counts with what is connected.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    api::Api,
    cli::ChurnArgs,
    clock::{Clock, ns},
    fleet::Fleet,
    process,
    report::grouped,
    rng::Rng,
    worker::{Leave, Share, Worker},
};

/// Between two looks at the server's counts.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Runs all rounds; the exit status says whether all was well.
pub(crate) fn run(args: &ChurnArgs) -> Result<ExitCode> {
    let mut churn = Churn::new(args)?;
    churn.say(&format!("seed {}", churn.seed))?;
    for number in 1..=args.rounds {
        if churn.stop.load(Ordering::Relaxed) {
            break;
        }
        let round = churn.round(args.steps.unwrap_or(args.who.count))?;
        let text = churn.summary(number, &round);
        churn.say(&text)?;
    }
    let tally = &churn.worker.measured.tally;
    let well = tally.failures.total() + tally.disconnects.total() + churn.inexact == 0;
    let verdict = format!(
        "{} logins, not connected {}, disconnected {}, counts wrong {}",
        grouped(tally.logins),
        tally.failures.text(),
        tally.disconnects.text(),
        churn.inexact,
    );
    churn.say(&verdict)?;
    Ok(ExitCode::from(u8::from(!well)))
}

struct Churn {
    fleet: Arc<Fleet>,
    worker: Worker,
    clock: Clock,
    rng: Rng,
    seed: u64,
    in_flight: u32,
    settle: Duration,
    stop: Arc<AtomicBool>,
    counts: Option<Counts>,
    /// Comparisons that failed.
    inexact: u64,
}

/// The server's counts and what they were before this program came.
struct Counts {
    api: Api,
    base: Online,
}

/// Connections in all and in each room of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Online {
    total: u64,
    rooms: Vec<u64>,
}

/// What happened in one round.
#[derive(Debug, Default)]
struct Round {
    connects: u64,
    closed: u64,
    reset: u64,
    given_up: u64,
    exact: u32,
    compared: u32,
    slowest: Duration,
}

impl Churn {
    fn new(args: &ChurnArgs) -> Result<Self> {
        let fleet = Arc::new(args.clients.fleet(&args.who)?);
        process::allow_sockets(u64::from(fleet.count) + 2)?;
        let (clock, stop) = (Clock::start(), process::stop_on_signal()?);
        let seed = args.seed.unwrap_or_else(Rng::random_seed);
        let worker = Worker::new(fleet.clone(), Share { number: 0, of: 1 }, None, clock, seed)?;
        let counts = match &args.push {
            Some(url) => {
                let mut api = Api::new(url, args.token.as_deref())?;
                let base = steady(&mut api, &fleet, args.settle, clock)
                    .context("the online counts before the first round")?;
                Some(Counts { api, base })
            }
            None => None,
        };
        Ok(Self {
            fleet,
            worker,
            clock,
            rng: Rng::seeded(seed),
            seed,
            in_flight: args.clients.in_flight,
            settle: args.settle,
            stop,
            counts,
            inexact: 0,
        })
    }

    fn round(&mut self, steps: u32) -> Result<Round> {
        let mut round = Round::default();
        for n in 0..self.worker.count() {
            self.connect(n, &mut round)?;
        }
        self.compare(&mut round)?;
        for quarter in 0..4 {
            for _ in 0..steps / 4 + u32::from(quarter < steps % 4) {
                self.step(&mut round)?;
            }
            self.compare(&mut round)?;
        }
        for n in 0..self.worker.count() {
            if !self.worker.is_away(n) {
                self.leave(n, &mut round);
            }
            self.worker.turn(Duration::ZERO)?;
        }
        self.compare(&mut round)?;
        Ok(round)
    }

    fn step(&mut self, round: &mut Round) -> Result<()> {
        let n = self.rng.below(self.worker.count());
        if self.worker.is_away(n) {
            self.connect(n, round)?;
            if self.rng.below(16) > 0 {
                return Ok(());
            }
        }
        if self.worker.is_open(n) {
            self.leave(n, round);
        } else {
            self.worker.leave(n, Leave::Close);
            round.given_up += 1;
        }
        Ok(self.worker.turn(Duration::ZERO)?)
    }

    /// Connects client `n` as soon as there is room among those under way.
    fn connect(&mut self, n: u32, round: &mut Round) -> Result<()> {
        while self.worker.in_flight() >= self.in_flight {
            self.worker.turn(ASK_EVERY)?;
        }
        self.worker.connect(n);
        round.connects += 1;
        Ok(self.worker.turn(Duration::ZERO)?)
    }

    fn leave(&mut self, n: u32, round: &mut Round) {
        let how = if self.rng.below(4) == 0 { Leave::Reset } else { Leave::Close };
        match how {
            Leave::Close => round.closed += 1,
            Leave::Reset => round.reset += 1,
        }
        self.worker.leave(n, how);
    }

    /// Lets the logins under way end, then waits until the server's counts are exact.
    fn compare(&mut self, round: &mut Round) -> Result<()> {
        while self.worker.in_flight() > 0 {
            self.worker.turn(ASK_EVERY)?;
        }
        let Some(counts) = &mut self.counts else { return Ok(()) };
        let truth = truth(&self.fleet, &self.worker, &counts.base);
        let since_ns = self.clock.now_ns();
        round.compared += 1;
        loop {
            let told = online(&mut counts.api, &self.fleet)?;
            let passed = Duration::from_nanos(self.clock.now_ns() - since_ns);
            if told == truth {
                round.exact += 1;
                round.slowest = round.slowest.max(passed);
                return Ok(());
            }
            if passed >= self.settle {
                self.inexact += 1;
                let text = difference(&self.fleet.rooms, &told, &truth);
                return self.say(&format!("after {:.1} s: {text}", passed.as_secs_f64()));
            }
            // Heartbeats go on meanwhile, and a turn ends early when something happens.
            self.worker.turn(ASK_EVERY)?;
        }
    }

    fn summary(&self, number: u32, round: &Round) -> String {
        let mut text = format!(
            "round {number}: {} connects, {} closed, {} reset, {} given up before the login's answer",
            grouped(round.connects),
            grouped(round.closed),
            grouped(round.reset),
            grouped(round.given_up),
        );
        if self.counts.is_some() {
            text += &format!(
                "; counts exact {} of {} times, within {} ms",
                round.exact,
                round.compared,
                round.slowest.as_millis()
            );
        }
        text
    }

    fn say(&self, text: &str) -> Result<()> {
        writeln!(io::stdout(), "{text}").context("standard output")
    }
}

/// What the server says.
fn online(api: &mut Api, fleet: &Fleet) -> Result<Online> {
    Ok(Online { total: api.online_total()?, rooms: api.online_rooms(&fleet.rooms)? })
}

/// What the server says once it has said the same for `settle`: those who left shortly before may still count.
fn steady(api: &mut Api, fleet: &Fleet, settle: Duration, clock: Clock) -> Result<Online> {
    let (mut told, mut since_ns) = (online(api, fleet)?, clock.now_ns());
    while clock.now_ns() - since_ns < ns(settle) {
        thread::sleep(ASK_EVERY);
        let now = online(api, fleet)?;
        if now != told {
            (told, since_ns) = (now, clock.now_ns());
        }
    }
    Ok(told)
}

/// What is connected, beside what was there before.
fn truth(fleet: &Fleet, worker: &Worker, base: &Online) -> Online {
    let mut online = base.clone();
    for n in (0..worker.count()).filter(|&n| worker.is_open(n)) {
        online.total += 1;
        if let Some(room) = (worker.index(n) as usize).checked_rem(fleet.rooms.len()) {
            online.rooms[room] += 1;
        }
    }
    online
}

/// The first count that is wrong.
fn difference(rooms: &[impl AsRef<str>], told: &Online, truth: &Online) -> String {
    let names = std::iter::once("all").chain(rooms.iter().map(AsRef::as_ref));
    let told = std::iter::once(&told.total).chain(&told.rooms);
    let truth = std::iter::once(&truth.total).chain(&truth.rooms);
    match names.zip(told.zip(truth)).find(|(_, (told, truth))| told != truth) {
        Some((name, (told, truth))) => {
            format!("{name}: the server says {}, connected are {}", grouped(*told), grouped(*truth))
        }
        None => "no difference".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wrong_count_is_named() {
        let rooms = ["live://1".to_owned()];
        let of = |total, room| Online { total, rooms: vec![room] };
        let text = difference(&rooms, &of(5, 4), &of(5, 5));
        assert_eq!(text, "live://1: the server says 4, connected are 5");
        let text = difference(&rooms, &of(1200, 4), &of(5, 5));
        assert_eq!(text, "all: the server says 1,200, connected are 5");
    }
}
