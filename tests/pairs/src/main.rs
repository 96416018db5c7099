//! `pairs`: what happens to a cluster while something is in trouble, judged by one ledger.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use pairs::{
    clock::secs,
    scenarios::{Long, SCENARIOS},
};

/// What happens to a cluster while something is in trouble, judged by one ledger
#[derive(Parser)]
struct Cli {
    /// Everything that is left to chance follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long to go on
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// One of the long forms
    #[arg(long)]
    scenario: Option<String>,
    /// Say what there is
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pairs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if cli.list {
        SCENARIOS.iter().for_each(|scenario| println!("{:<20} {}", scenario.name, scenario.about));
        return Ok(());
    }
    let name = cli.scenario.as_deref().unwrap_or("calm");
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).context("no such scenario")?;
    let long = Long { seed: cli.seed, lasts: secs(cli.seconds) };
    let (outcome, allowed) = runtime.block_on((scenario.run)(long))?;
    println!("{name}: {outcome}");
    match outcome.book.beyond(&allowed) {
        Some(beyond) => bail!("{name}:\n    {beyond}"),
        None => Ok(()),
    }
}
