//! Many pairs one after the other, on stages that are shared as long as they are right.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use tokio::task::block_in_place;

use crate::{
    backend::Rate,
    clock::{At, now},
    crowd::Habits,
    ledger::Verdict,
    machine,
    matrix::Pair,
    rng::Rng,
    stage::{Outcome, Stage},
    world::{Queue, Shape},
};

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// These, in this order.
    pub pairs: Vec<Pair>,
    /// Everything that is left to chance follows from it.
    pub seed: u64,
    /// No new pair is begun after this time.
    pub limit: Option<Duration>,
    /// Clusters at the same time.
    pub workers: usize,
    /// Where logs of clusters with a failed pair are kept.
    pub logs: PathBuf,
}

/// What came of a pair.
#[derive(Clone, Debug)]
pub struct Done {
    /// Which.
    pub pair: Pair,
    /// Nothing, when it could not be judged.
    pub outcome: Outcome,
    /// What was beyond what is allowed.
    pub beyond: Option<String>,
    /// How long it took.
    pub took: Duration,
}

struct Shared {
    waiting: Mutex<VecDeque<Pair>>,
    done: Mutex<Vec<Done>>,
    /// Pairs that were run again.
    again: Mutex<Vec<Pair>>,
    until: Option<At>,
    all: usize,
    plan: Plan,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The next pair, of this queue if there is one left.
    fn next(&self, queue: Option<Queue>) -> Option<Pair> {
        if self.until.is_some_and(|until| now() > until) {
            return None;
        }
        let mut waiting = lock(&self.waiting);
        let at = waiting.iter().position(|pair| Some(pair.queue) == queue).unwrap_or(0);
        waiting.remove(at)
    }
}

impl Shared {
    /// Puts a pair back, twice at most.
    fn try_again(&self, pair: Pair) -> bool {
        let mut again = lock(&self.again);
        again.push(pair);
        let is_left = again.iter().filter(|other| **other == pair).count() <= 2;
        if is_left {
            lock(&self.waiting).push_back(pair);
        }
        is_left
    }
}

/// Runs them all; what came of each.
///
/// # Errors
/// A cluster does not start.
pub async fn run(plan: Plan) -> Result<Vec<Done>> {
    machine::watch();
    let until = plan.limit.map(|limit| now() + limit);
    let (all, workers) = (plan.pairs.len(), plan.workers);
    let waiting = Mutex::new(plan.pairs.iter().copied().collect());
    let shared =
        Arc::new(Shared { waiting, done: Mutex::default(), again: Mutex::default(), until, all, plan });
    let mut tasks = Vec::new();
    for _ in 0..workers {
        tasks.push(tokio::spawn(work(Arc::clone(&shared))));
    }
    for task in tasks {
        task.await??;
    }
    let mut done = std::mem::take(&mut *lock(&shared.done));
    done.sort_by_key(|done| done.pair);
    Ok(done)
}

async fn work(shared: Arc<Shared>) -> Result<()> {
    let mut stage: Option<Stage> = None;
    let seed = shared.plan.seed;
    while let Some(pair) = shared.next(stage.as_ref().map(|stage| stage.world.queue)) {
        let mut present = match stage.take().filter(|stage| stage.world.queue == pair.queue) {
            Some(stage) => stage,
            None => {
                let logs = Some(shared.plan.logs.join("start"));
                let shape = Shape { comets: 3, logs, ..Shape::of(pair.queue) };
                Stage::open(&shape, Habits::default(), Rate::default(), seed).await?
            }
        };
        let begun = now();
        let (outcome, beyond) = match pair.run(&mut present, seed).await {
            Ok((outcome, allowed)) => {
                let beyond = outcome.book.beyond(&allowed);
                (outcome, beyond)
            }
            Err(error) => (Outcome::default(), Some(format!("not to be judged: {error:#}"))),
        };
        let done = Done { pair, outcome, beyond, took: now() - begun };
        if let (Some(_), Some(stall)) = (&done.beyond, machine::stalled_since(begun))
            && shared.try_again(pair)
        {
            println!("         {pair} is run again: the machine stood still for {stall:.1?}");
            continue;
        }
        // A disk that is busy may hold up what writes to it, and nothing else.
        block_in_place(|| report(&shared, &done, &present));
        // A cluster in which something went wrong is nothing to judge the next pair by.
        stage = done.beyond.is_none().then_some(present);
        lock(&shared.done).push(done);
    }
    Ok(())
}

fn report(shared: &Shared, done: &Done, stage: &Stage) {
    let Done { pair, outcome, beyond, took } = done;
    let (number, all) = (lock(&shared.done).len() + 1, shared.all);
    let verdict = if beyond.is_none() { "ok  " } else { "FAIL" };
    let mut text = format!("{number:>3}/{all} {verdict} {pair} ({:.0} s): {outcome}", took.as_secs_f64());
    if let Some(beyond) = beyond {
        let seed = shared.plan.seed;
        let logs = shared.plan.logs.join(pair.to_string().replace(" / ", "-").replace(' ', "_"));
        let kept =
            stage.keep_logs(&logs).map_or_else(|error| error.to_string(), |()| logs.display().to_string());
        let _ =
            write!(text, "\n    {beyond}\n    logs: {kept}\n    again: pairs --only '{pair}' --seed {seed}");
    }
    println!("{text}");
}

/// Pairs in the order of chance.
pub fn shuffled(mut pairs: Vec<Pair>, seed: u64) -> Vec<Pair> {
    Rng::seeded(seed).shuffle(&mut pairs);
    pairs
}

/// A table of all that was run, in Markdown: seconds it took; pushes accepted, refused and unknown; seconds until all was
/// ready, reachable and counted right again.
pub fn table(done: &[Done]) -> String {
    let mut text = String::from(
        "| queue | in trouble | what happens | s | pushes | received | back | found | |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for Done { pair, outcome, beyond, took } in done {
        let found: Vec<String> = Verdict::ALL
            .iter()
            .filter(|verdict| outcome.book.count(**verdict) > 0)
            .map(|verdict| format!("{} {}", outcome.book.count(*verdict), verdict.word()))
            .collect();
        let pushes = format!("{} + {} + {}", outcome.accepted, outcome.refused, outcome.unknown);
        let verdict = if beyond.is_none() { "right" } else { "**wrong**" };
        let [ready, reachable, counted] =
            [outcome.back.ready, outcome.back.reachable, outcome.back.counted].map(|time| time.as_secs_f64());
        let Pair { queue, trouble, event } = pair;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.0} | {pushes} | {} | {ready:.1} / {reachable:.1} / {counted:.1} | {} | {verdict} |",
            queue.word(),
            trouble.word(),
            event.word(),
            took.as_secs_f64(),
            outcome.received,
            found.join(", ")
        );
    }
    text
}
