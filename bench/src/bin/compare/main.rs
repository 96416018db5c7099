//! `compare`: Halley beside the floor and beside nchan, mosquitto and nats-server, in one run.
//!
//! It starts each system alone and pinned, lets the same clients join the same room, publishes on the same schedule, and
//! writes what each cost: tables, JSON, two charts. Systems take turns, so that what the machine does in between concerns
//! all. It never compares figures of two runs, and never leaves out a run that went badly.
//!
//! | module | subject |
//! |---|---|
//! | [`systems`] | what is compared, and how each is started |
//! | [`wire`] | what its clients say and hear |
//! | [`fleet`], [`publisher`] | the clients; who publishes |
//! | [`account`] | what the kernel charges a server for |
//! | [`measure`] | one measurement |
//! | [`statistics`], [`report`], [`charts`] | medians and intervals; tables and JSON; SVG |

#![forbid(unsafe_code)]

mod account;
mod charts;
mod fleet;
mod measure;
mod publisher;
mod report;
mod statistics;
mod systems;
mod wire;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    measure::{Idle, Load, Outcome, Room, idle},
    report::{About, Environment, Report},
    systems::{Setting, System},
};

/// Rates of the sweep, messages a second.
const RATES: [f64; 7] = [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0];

/// A system that needs so long for one load is done with the sweep.
const BEHIND: Duration = Duration::from_secs(3);

/// Idle connections that are there before those that are measured, and those.
///
/// From near an eighth to near all of a power of two, so that tables which double neither flatter nor burden anybody.
const IDLE: (usize, usize) = (1_000, 14_000);

/// Rounds of idle connections.
const IDLE_ROUNDS: usize = 3;

/// Compares Halley with the floor and its peers on this machine
#[derive(Parser)]
#[command(after_help = "Examples:
  compare                                     everything, about 15 minutes
  compare --only floor,halley --rounds 3      a part of it
  compare --goim ./start-goim.sh              with a goim of yours: the command runs in the foreground,
                                              all its processes below it, on goim's own ports 3101 and 3111")]
struct Cli {
    /// Rounds of the canonical room
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Seconds of messages in each round
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Only systems whose names begin so, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only the canonical room: no sweep, no idle connections
    #[arg(long)]
    room_only: bool,
    /// A command that starts a goim
    #[arg(long)]
    goim: Option<String>,
    /// Where the report goes
    #[arg(long)]
    out: PathBuf,
    /// Cores of the servers, as taskset takes them
    #[arg(long, default_value = "0")]
    server_cpus: String,
    /// The core of this program
    #[arg(long, default_value_t = 1)]
    client_cpu: usize,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut cpus = CpuSet::new();
    cpus.set(cli.client_cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("--client-cpu")?;
    ring::raise_open_file_limit();
    fs::create_dir_all(&cli.out)?;
    let programs = std::env::current_exe()?.parent().context("a program is in a folder")?.to_owned();
    let load = Load { members: 2_000, rate: 40.0, size: 60, seconds: cli.seconds };
    let setting = Setting { programs, cpus: cli.server_cpus.clone(), size: load.size };
    let systems: Vec<System> = systems::all(cli.goim.as_deref())
        .into_iter()
        .filter(|system| {
            cli.only.is_empty() || cli.only.iter().any(|name| system.name.starts_with(name.as_str()))
        })
        .collect();
    ensure!(!systems.is_empty(), "--only names no system");
    let about = systems.iter().map(|system| About {
        name: system.name,
        about: system.about,
        version: system.version(&setting),
        is_floor: system.is_floor(),
    });
    let mut report = Report {
        environment: Environment::of_this_machine(&cli.server_cpus, cli.client_cpu),
        systems: about.collect(),
        load,
        room: Vec::new(),
        sweep: Vec::new(),
        idle: Vec::new(),
        failures: Vec::new(),
    };
    for round in 1..=cli.rounds {
        // Each is first in turn, so that no one always follows the same.
        for n in 0..systems.len() {
            let system = &systems[(n + round) % systems.len()];
            let done = room(system, &setting, load, round);
            let line = format!("room {round}/{}  {:<13}", cli.rounds, system.name);
            if let Some(outcome) = told(&line, done, outcome_words, &mut report.failures) {
                report.room.push(outcome);
            }
        }
    }
    if !cli.room_only {
        for system in systems.iter().filter(|system| system.sweeps) {
            let system = system.clone().with_defaults();
            let done = sweep(&system, &setting, load, &mut report.sweep);
            told(&format!("sweep  {:<13}", system.name), done, |()| String::new(), &mut report.failures);
        }
        for round in 1..=IDLE_ROUNDS {
            for system in systems.iter().filter(|system| system.idles) {
                let done = idle(system, &setting, IDLE.0, IDLE.1, round);
                let words = |idle: &Idle| format!("{:6.0} B  {:6.1} µs per login", idle.bytes, idle.join_us);
                let line = format!("idle {round}/{IDLE_ROUNDS}  {:<13}", system.name);
                if let Some(idle) = told(&line, done, words, &mut report.failures) {
                    report.idle.push(idle);
                }
            }
        }
    }
    let text = report.write(&cli.out)?;
    charts::cpu(&report, &cli.out.join("cpu.svg"))?;
    if !report.sweep.is_empty() {
        charts::latency(&report, &cli.out.join("latency.svg"))?;
    }
    println!(
        "\n{text}\ncompare: {} runs, {} failed; {}",
        runs(&report),
        report.failures.len(),
        cli.out.display()
    );
    Ok(())
}

fn runs(report: &Report) -> usize {
    report.room.len() + report.sweep.len() + report.idle.len() + report.failures.len()
}

/// The canonical room once: a second to warm up, then the load.
fn room(system: &System, setting: &Setting, load: Load, round: usize) -> Result<Outcome> {
    let mut room = Room::open(system, setting, load.members, round)?;
    room.publish(Load { seconds: 1.0, ..load })?;
    room.publish(load)
}

/// Rates one after the other, until the system falls behind.
fn sweep(system: &System, setting: &Setting, load: Load, into: &mut Vec<Outcome>) -> Result<()> {
    let mut room = Room::open(system, setting, load.members, 1)?;
    room.publish(Load { seconds: 1.0, ..load })?;
    for rate in RATES {
        let load = Load { rate, seconds: 4.0, ..load };
        let outcome = room.publish(load)?;
        println!("sweep  {:<13} {rate:>4}/s  {}", system.name, outcome_words(&outcome));
        let behind = outcome.took_s > load.seconds + BEHIND.as_secs_f64();
        let broken = outcome.lost > 0;
        into.push(outcome);
        if behind || broken {
            break;
        }
    }
    Ok(())
}

fn outcome_words(outcome: &Outcome) -> String {
    format!(
        "{:6.2} µs  p50 {:6.1} ms  p99 {:6.1} ms  lost {}  generator {:3.0} %",
        outcome.cpu_us, outcome.p50_ms, outcome.p99_ms, outcome.lost, outcome.generator_percent,
    )
}

/// Says how a measurement went; one that failed is kept in words, and the others go on.
fn told<T>(
    line: &str,
    done: Result<T>,
    words: impl Fn(&T) -> String,
    failures: &mut Vec<String>,
) -> Option<T> {
    match done {
        Ok(done) => {
            println!("{line} {}", words(&done));
            Some(done)
        }
        Err(error) => {
            println!("{line} failed: {error:#}");
            let words = format!("{}: {error:#}", line.trim());
            failures.push(words.split_whitespace().collect::<Vec<_>>().join(" "));
            None
        }
    }
}
