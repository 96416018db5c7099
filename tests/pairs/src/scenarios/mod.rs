//! Long forms: stories of their own on a [`Stage`](crate::stage::Stage), for minutes or hours.
//!
//! A scenario opens a stage, lets something happen in one story or several, and gives what the ledger says. It is run by
//! `pairs --scenario NAME --seconds N --seed N`; a test gives it few seconds.

mod calm;
mod drain;

use std::{future::Future, pin::Pin, time::Duration};

use anyhow::Result;

use crate::{ledger::Allowed, stage::Outcome};

/// What a scenario is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Long {
    /// Everything that is left to chance follows from it.
    pub seed: u64,
    /// How long things shall happen.
    pub lasts: Duration,
}

/// What came of it, and what it may be.
pub type Judged = (Outcome, Allowed);

/// A scenario under way.
pub type Running = Pin<Box<dyn Future<Output = Result<Judged>>>>;

/// One of them.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens, in one line.
    pub about: &'static str,
    /// Runs it.
    pub run: fn(Long) -> Running,
}

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "calm",
        about: "nothing happens but pushes: what every other run is compared with",
        run: |long| Box::pin(calm::run(long)),
    },
    Scenario {
        name: "drain",
        about: "a comet drains under 2,000 pushes a second, over 1 s and 20 s, on each queue",
        run: |long| Box::pin(drain::comets(long)),
    },
    Scenario {
        name: "rolling-restart",
        about: "every process is restarted, one after the other, under 2,000 pushes a second, on each queue",
        run: |long| Box::pin(drain::everything(long)),
    },
];
