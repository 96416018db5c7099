//! Programs leave in order while backends push, and come back on their ports: nobody who stays connected misses anything.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::{Judged, Long};
use crate::{
    backend::Rate,
    clock::{At, ms, now, secs},
    crowd::Habits,
    ledger::{Allowed, Rules},
    stage::{Bounds, Outcome, Stage},
    world::{Kind, Program, Queue, Shape},
};

/// Each with a spread over which there is little time to lose anything, and one over which there is much.
const QUEUES: [Queue; 3] = [Queue::Stream, Queue::List, Queue::Kafka];
const SPREADS: [&str; 2] = ["1s", "20s"];

const RATE: Rate = Rate { backends: 16, pushes: 2000 };

/// With more time than this for a push, what is lost in a spread of a second would be forgiven. The ledger gives more where
/// pushes took longer.
const REACH: Duration = ms(500);

/// Longest end of a program.
const END: Duration = secs(60);

/// Pushes go on for so long between two steps.
const STEP: Duration = secs(2);

async fn open(queue: Queue, spread: &str, seed: u64) -> Result<Stage> {
    let mut shape = Shape::of(queue)
        .set(Kind::Comet, &format!("drain.spread={spread}"))
        .set(Kind::Comet, "drain.timeout=40s");
    if queue == Queue::List {
        // Several that pop one list keep no order between them.
        shape.jobs = 1;
    }
    let mut stage = Stage::open(&shape, Habits::default(), RATE, seed).await?;
    stage.begin().await;
    sleep(STEP).await;
    Ok(stage)
}

async fn close(mut stage: Stage, until: At, what: &str, all: &mut Outcome) {
    sleep(until.saturating_sub(now())).await;
    stage.look_around(&Bounds::default()).await;
    let outcome = stage.end(&Rules { reach: REACH, ..Rules::default() }).await;
    println!("{what}: {outcome}");
    all.add(outcome);
}

async fn restart(program: &mut Program) -> Result<()> {
    program.terminate();
    program.expect_end(END).await?;
    sleep(STEP).await;
    program.start().await
}

/// A comet drains, on every queue, over a short time and a long one.
pub(super) async fn comets(long: Long) -> Result<Judged> {
    let mut all = Outcome::default();
    for queue in QUEUES {
        for spread in SPREADS {
            let until = now() + long.lasts / 6;
            let mut stage = open(queue, spread, long.seed).await?;
            restart(&mut stage.world.comets[1]).await?;
            close(stage, until, &format!("drain over {spread}, {}", queue.word()), &mut all).await;
        }
    }
    Ok((all, Allowed::nothing()))
}

/// Everything is restarted, one process after the other: the logics, the jobs, the comets.
pub(super) async fn everything(long: Long) -> Result<Judged> {
    let mut all = Outcome::default();
    for queue in QUEUES {
        let until = now() + long.lasts / 3;
        let mut stage = open(queue, "3s", long.seed).await?;
        for kind in [Kind::Logic, Kind::Job, Kind::Comet] {
            for number in 0..stage.world.of(kind).len() {
                restart(&mut stage.world.of(kind)[number]).await?;
                // A comet whose clients are not back would be followed by the one that has them.
                stage.world.expect_ready(END).await?;
                let _ = stage.crowd.all_come(END).await;
                sleep(STEP).await;
            }
        }
        close(stage, until, &format!("rolling restart, {}", queue.word()), &mut all).await;
    }
    Ok((all, Allowed::nothing()))
}
