//! `loadgen`: clients of a goim gateway by the thousand, and what they received.
//!
//! Opens connections, logs in as goim's reference client does, sends heartbeats, and answers nothing
//! else. On request it pushes on a fixed schedule through the HTTP API, checks that every client
//! receives every message once and in order, and reports the latency from the planned send time. It
//! never reconnects by itself, never retries a push, and never reports a latency that its own
//! lateness spoiled. The package `halley-bench` measures other servers with the same parts.
//!
//! | module | subject |
//! |---|---|
//! | [`cli`], [`units`] | the command line |
//! | [`load`] | a load from beginning to end |
//! | [`churn`], [`subscribe`] | the other commands |
//! | [`fleet`], [`plan`] | who the clients are; what is pushed when |
//! | [`message`], [`check`] | the body of a push; lost, duplicated, out of order |
//! | [`worker`], [`reader`] | the event loop, and the thread that turns it |
//! | [`beats`], [`runqueue`] | whose heartbeat is due; how long that thread waited for a CPU |
//! | [`client`], [`wire`], [`tls`], [`socket`] | one client; its protocol without a socket; its TLS; its socket |
//! | [`pusher`], [`api`] | threads that push; the HTTP API |
//! | [`tally`], [`latency`], [`report`], [`status`] | what was counted, timed and told |
//! | [`clock`], [`process`], [`rng`] | time, limits of the process, random numbers |

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic when nobody takes it

mod api;
mod beats;
mod check;
mod churn;
mod cli;
mod client;
pub mod clock;
mod fleet;
pub mod latency;
mod load;
pub mod message;
mod plan;
mod process;
mod pusher;
mod reader;
mod report;
mod rng;
mod runqueue;
pub mod socket;
mod status;
mod subscribe;
mod tally;
mod tls;
mod units;
mod wire;
mod worker;

use std::{io::Write as _, process::ExitCode};

use anyhow::Result;
use clap::Parser;
use cli::{Cli, Command, PushArgs};

/// The program: reads its command line, does what it says, and tells the exit status.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => return told(&answer),
    };
    let done = match (&cli.command, &cli.who) {
        (Some(Command::Churn(args)), _) => churn::run(args),
        (Some(Command::Sub(args)), _) => subscribe::run(args),
        (Some(Command::Push(args)), _) => push(args),
        (None, Some(who)) => load::run(who, &cli.load),
        (None, None) => Err(anyhow::anyhow!("see loadgen --help")),
    };
    done.unwrap_or_else(|error| failed(&error))
}

/// An answer could not be printed; the same as of the other programs.
const EXIT_OUTPUT: u8 = 74;

/// Help, the version, or what is wrong with the command line; the exit status says whether it could be printed.
fn told(answer: &clap::Error) -> ExitCode {
    match answer.print().and_then(|()| std::io::stdout().flush()) {
        Err(error) if !answer.use_stderr() => {
            // Not the status of a mistake in the command line.
            let _ = failed(&anyhow::Error::new(error).context("standard output"));
            ExitCode::from(EXIT_OUTPUT)
        }
        _ => ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(2)),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    // The status tells as much.
    let _ = writeln!(std::io::stderr(), "loadgen: {error:#}");
    ExitCode::from(2)
}

/// Pushes one message and prints the answer; the exit status says whether it was accepted.
fn push(args: &PushArgs) -> Result<ExitCode> {
    let mut api = api::Api::new(&args.push, args.token.as_deref())?;
    let url = api.push_url(&args.target()?, args.op());
    let answer = api.push(&url, args.body.as_bytes())?;
    writeln!(std::io::stdout(), "{}", answer.text())?;
    Ok(ExitCode::from(u8::from(!answer.is_success())))
}
