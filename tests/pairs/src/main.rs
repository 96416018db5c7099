//! `pairs`: what happens to a cluster while something is in trouble, judged by one ledger.
#![forbid(unsafe_code)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use pairs::{
    clock::{now, secs},
    matrix::Pair,
    run::{Plan, run, shuffled, table},
    scenarios::{Long, SCENARIOS},
};
use tokio::signal::unix::{SignalKind, signal};

/// What happens to a cluster while something is in trouble, judged by one ledger
///
/// Without an option every pair is run: two clusters at a time, about half an hour.
#[derive(Parser)]
struct Cli {
    /// Everything that is left to chance follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Pairs in the order of the seed until so much time is over; of a scenario how long it goes on
    #[arg(long)]
    seconds: Option<u64>,
    /// Only pairs whose names hold this text, such as 'streams / etcd frozen'
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Clusters at the same time
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Write the closing table there too
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Keep logs of clusters with a failed pair below this folder
    #[arg(long, value_name = "FOLDER", default_value = "target/pairs")]
    logs: PathBuf,
    /// One of the long forms instead of pairs
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Say what there is: pairs, those left out with the reason, scenarios
    #[arg(long)]
    list: bool,
}

/// Files that are kept in memory.
const MEMORY: &str = "/dev/shm";

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.list {
        list();
        return ExitCode::SUCCESS;
    }
    // etcd waits for its disk, and a disk that others keep busy is a trouble that nobody asked for.
    if Path::new(MEMORY).is_dir() {
        let _ = tempfile::env::override_temp_dir(Path::new(MEMORY));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.context("no runtime").and_then(|runtime| {
        let result = runtime.block_on(until_told_to_end(&cli));
        // What runs still is dropped with it, and so are the servers and programs.
        drop(runtime);
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pairs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn until_told_to_end(cli: &Cli) -> Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let whole = async {
        match &cli.scenario {
            Some(name) => scenario(cli, name).await,
            None => pairs(cli).await,
        }
    };
    tokio::select! {
        result = whole => result,
        _ = terminated.recv() => bail!("told to end"),
        _ = tokio::signal::ctrl_c() => bail!("told to end"),
    }
}

fn list() {
    for pair in Pair::every() {
        match pair.left_out() {
            None => println!("{pair}"),
            Some(why) => println!("{pair}: left out, {why}"),
        }
    }
    SCENARIOS.iter().for_each(|scenario| println!("--scenario {}: {}", scenario.name, scenario.about));
}

async fn pairs(cli: &Cli) -> Result<()> {
    let mut pairs = Pair::all();
    if let Some(text) = &cli.only {
        pairs.retain(|pair| pair.to_string().contains(text.as_str()));
    }
    if pairs.is_empty() {
        bail!("no pair is called so (--list)");
    }
    if cli.seconds.is_some() {
        pairs = shuffled(pairs, cli.seed);
    }
    println!("{} pairs, seed {}", pairs.len(), cli.seed);
    let plan = Plan {
        pairs,
        seed: cli.seed,
        limit: cli.seconds.map(secs),
        workers: cli.workers.max(1),
        logs: cli.logs.clone(),
    };
    let done = run(plan).await?;
    let wrong = done.iter().filter(|done| done.beyond.is_some()).count();
    let text = table(&done);
    if let Some(path) = &cli.table {
        fs::write(path, &text).with_context(|| path.display().to_string())?;
    }
    if cli.seconds.is_none() && done.len() > 1 {
        println!("{text}");
    }
    let (all, minutes) = (done.len(), now().as_secs_f64() / 60.0);
    println!("pairs: {all} run, {wrong} wrong, {minutes:.1} minutes");
    if wrong > 0 {
        bail!("{wrong} of {all} pairs are wrong");
    }
    Ok(())
}

async fn scenario(cli: &Cli, name: &str) -> Result<()> {
    let scenario =
        SCENARIOS.iter().find(|scenario| scenario.name == name).context("no such scenario (--list)")?;
    let long = Long { seed: cli.seed, lasts: secs(cli.seconds.unwrap_or(60)) };
    let (outcome, allowed) = (scenario.run)(long).await?;
    println!("{name}: {outcome}");
    match outcome.book.beyond(&allowed) {
        Some(beyond) => bail!("{name}, seed {}:\n    {beyond}", cli.seed),
        None => Ok(()),
    }
}
