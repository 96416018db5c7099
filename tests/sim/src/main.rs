//! `sim`: runs seeds, says what broke, and replays it.
#![forbid(unsafe_code)]

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use seam::Bug;
use sim::{
    clock::now,
    million,
    run::{Failure, Seeds, THOROUGH, Total, run, run_many},
    trace::Lines,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Simulates a comet with logic, job, clients and backends on one thread, in virtual time; what happens in which order
/// follows from a seed.
#[derive(Parser)]
#[command(
    name = "sim",
    after_help = "Examples:\n  sim                        500 seeds\n  sim --seeds 100000         many, for the night\n  \
                  sim --seed 4711            one, and the number of its trace\n  sim --seed 4711 --trace    the same, \
                  with everything that happens\n  sim --plant all            plants every bug and looks for it\n  sim \
                  --connections 1000000  so many clients at once, and what each costs"
)]
struct Cli {
    /// Number of seeds
    #[arg(long, default_value_t = 500, value_name = "N")]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    first: u64,
    /// Run this seed alone, twice, and compare the traces
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// Print all that happens (with --seed)
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Plant a bug and look for it; "all" for one after the other
    #[arg(long, value_name = "BUG", value_parser = bug_names())]
    plant: Option<String>,
    /// Instead of seeds: so many clients at once
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "first", "seed", "plant"])]
    connections: Option<u32>,
}

fn bug_names() -> Vec<&'static str> {
    std::iter::once("all").chain(Bug::ALL.iter().map(|(name, _)| *name)).collect()
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let bugs: Vec<(&str, Bug)> = Bug::ALL
        .iter()
        .copied()
        .filter(|(name, _)| cli.plant.as_deref().is_some_and(|plant| plant == *name || plant == "all"))
        .collect();
    let (passed, failed) = match (cli.connections, cli.seed, bugs.as_slice()) {
        (Some(connections), ..) => million::run(connections),
        (None, Some(seed), bugs) => one(seed, bugs.first().map(|(_, bug)| *bug), cli.trace),
        (None, None, []) => many(&cli),
        (None, None, bugs) => plants(&cli, bugs),
    };
    println!("{passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

/// One seed, twice: the same both times.
fn one(seed: u64, bug: Option<Bug>, trace: bool) -> (u64, u64) {
    println!("sim: seed {seed}");
    let first = run(seed, bug, if trace { Lines::Print } else { Lines::Last });
    let second = run(seed, bug, Lines::Off);
    match (first, second) {
        (Ok(first), Ok(second)) if first.hash == second.hash => {
            println!("sim: seed {seed} is clean: {} events, trace {:016x}", first.events, first.hash);
            (1, 0)
        }
        (Err(first), Err(second)) if first.hash == second.hash => {
            if !trace {
                first.lines.iter().for_each(|line| println!("{line}"));
            }
            println!("sim: {first} (trace {:016x}, both times)", first.hash);
            (0, 1)
        }
        (first, second) => {
            let ends = [first, second].map(|end| match end {
                Ok(figures) => format!("clean, {} events, trace {:016x}", figures.events, figures.hash),
                Err(failure) => format!("{failure}, trace {:016x}", failure.hash),
            });
            println!("sim: seed {seed} is not the same twice:\n  {}\n  {}", ends[0], ends[1]);
            (0, 1)
        }
    }
}

/// Failures that are told with their last events.
const FAILURES_TOLD: u64 = 10;

/// Many seeds.
fn many(cli: &Cli) -> (u64, u64) {
    println!("sim: seeds {} to {}", cli.first, cli.first + cli.seeds.saturating_sub(1));
    let seeds = Seeds { first: cli.first, count: cli.seeds, bug: None, until_failure: false };
    let began = now();
    let (mut told, mut failed) = (began, 0);
    let total = run_many(seeds, |done, ended| {
        if let Err(failure) = ended {
            failed += 1;
            if failed <= FAILURES_TOLD {
                tell(failure);
            }
        }
        if told.elapsed() > Duration::from_secs(2) {
            told = now();
            eprintln!("sim: {done} of {} seeds, {failed} failed, {:.0?}", seeds.count, began.elapsed());
        }
    });
    report(&total, began.elapsed());
    let never = total.never_seen();
    if cli.seeds >= THOROUGH && !never.is_empty() {
        println!("sim: in {} seeds this never happened: {}", cli.seeds, never.join(", "));
        failed += 1;
    }
    (total.passed, failed)
}

/// A failure: its last events, what broke, and how to see it again.
fn tell(failure: &Failure) {
    match run(failure.seed, None, Lines::Last) {
        Err(again) => {
            again.lines.iter().for_each(|line| println!("{line}"));
            if again.hash != failure.hash {
                println!("sim: the trace was another one this time: {again}");
            }
        }
        Ok(_) => println!("sim: this seed was clean when it was run again"),
    }
    println!("sim: {failure}\n     again: make sim SIM=\"--seed {} --trace\"", failure.seed);
}

fn report(total: &Total, took: Duration) {
    let sum = &total.sum;
    for (what, count) in &sum.seen {
        println!("  {what:<36} {count:>12}");
    }
    println!(
        "  {} connections, {} pushes, {} frames read, {} events; {:.0} virtual hours in {:.1?}, {:.1} ms a seed and core",
        sum.connections,
        sum.pushes,
        sum.frames,
        sum.events,
        sum.micros as f64 / 3.6e9,
        took,
        took.as_secs_f64() * 1e3 * std::thread::available_parallelism().map_or(1, usize::from) as f64
            / (total.passed + total.failures.len() as u64).max(1) as f64
    );
}

/// Each bug alone, until it is found.
fn plants(cli: &Cli, bugs: &[(&str, Bug)]) -> (u64, u64) {
    println!(
        "sim: seeds {} to {}, a bug planted in each",
        cli.first,
        cli.first + cli.seeds.saturating_sub(1)
    );
    let (mut passed, mut failed) = (0, 0);
    for (name, bug) in bugs {
        let seeds = Seeds { first: cli.first, count: cli.seeds, bug: Some(*bug), until_failure: true };
        let total = run_many(seeds, |_, _| ());
        match total.failures.first() {
            Some(failure) => {
                passed += 1;
                println!("  {name:<18} found by {failure}");
            }
            None => {
                failed += 1;
                println!("  {name:<18} NOT FOUND in {} seeds", cli.seeds);
            }
        }
    }
    (passed, failed)
}
