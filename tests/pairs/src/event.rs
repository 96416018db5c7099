//! What can happen to a cluster while something is in trouble.

use anyhow::Result;
use tokio::time::sleep;

use crate::{
    clock::{ms, now, secs},
    crowd::Leave,
    ledger::Verdict,
    rng::Rng,
    stage::Stage,
    world::{Kind, Program},
};

/// Declares the events once.
macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// An event. Pushes to keys, users, rooms and everybody go on in each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Event {
            $($(#[$doc])* $name,)*
        }

        impl Event {
            /// All of them.
            pub const ALL: &[Event] = &[$(Event::$name,)*];

            /// Its words, in tables and on the command line.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Event::$name => $word,)*
                }
            }
        }
    };
}

events! {
    /// Pushes alone.
    Push = "pushes",
    /// A third of the people come.
    Come = "come",
    /// A third go: a third of these in order, a third by a reset, a third without a word.
    Go = "go",
    /// A third log in once more where they are.
    Relogin = "relogin",
    /// A third log in on the next comet.
    Hop = "hop",
    /// A third change their room, twice.
    Rooms = "rooms",
    /// Comet 1 drains and is started again.
    DrainComet = "drain a comet",
    /// Logic 1 drains and is started again.
    DrainLogic = "drain a logic",
    /// Job 1 drains and is started again.
    DrainJob = "drain a job",
    /// Comet 1 is killed and started again.
    KillComet = "kill a comet",
    /// Logic 1 is killed and started again.
    KillLogic = "kill a logic",
    /// Job 1 is killed and started again.
    KillJob = "kill a job",
}

/// Between two people who do something.
const STEP: std::time::Duration = ms(50);

impl Event {
    /// The kind of program that is drained or killed in it.
    pub const fn program(self) -> Option<Kind> {
        match self {
            Event::DrainComet | Event::KillComet => Some(Kind::Comet),
            Event::DrainLogic | Event::KillLogic => Some(Kind::Logic),
            Event::DrainJob | Event::KillJob => Some(Kind::Job),
            _ => None,
        }
    }

    /// Whether that is killed.
    pub const fn kills(self) -> bool {
        matches!(self, Event::KillComet | Event::KillLogic | Event::KillJob)
    }

    /// Makes ready what it needs, in peace.
    pub async fn prepare(self, stage: &Stage) {
        if self == Event::Come {
            for n in third(stage, 0) {
                stage.crowd.go(n, Leave::InOrder).await;
            }
            sleep(secs(1)).await;
        }
    }

    /// Lets it happen; where nothing else does, people of a drained comet must be gone before it is back.
    ///
    /// # Errors
    /// A program does not start again.
    pub async fn happen(self, stage: &mut Stage, rng: &mut Rng, is_alone: bool) -> Result<()> {
        let comets = stage.crowd.comets();
        match self {
            Event::Push => sleep(secs(2)).await,
            Event::Come => {
                for n in third(stage, 0) {
                    stage.crowd.come(n, n % comets).await;
                    sleep(STEP).await;
                }
            }
            Event::Go => {
                for (at, n) in third(stage, rng.below(3)).into_iter().enumerate() {
                    let how = [Leave::InOrder, Leave::BreakOff, Leave::Silently][at % 3];
                    stage.crowd.go(n, how).await;
                    sleep(STEP).await;
                }
            }
            Event::Relogin | Event::Hop => {
                let further = usize::from(self == Event::Hop);
                for n in third(stage, rng.below(3)) {
                    let comet = stage.crowd.comet_of(n).unwrap_or(0);
                    stage.crowd.log_in_again(n, (comet + further) % comets).await;
                    sleep(STEP).await;
                }
            }
            Event::Rooms => {
                let some = third(stage, rng.below(3));
                for n in [some.clone(), some].concat() {
                    stage.crowd.change_room(n, rng.below(1 << 16)).await;
                    sleep(STEP).await;
                }
            }
            Event::DrainComet | Event::DrainLogic | Event::DrainJob => {
                let program = self.subject(stage);
                program.terminate();
                let ended = program.expect_end(secs(40)).await;
                if let Err(why) = ended {
                    stage.note(Verdict::NotReady, || format!("a drain: {why}"));
                    self.subject(stage).kill().await;
                }
                if is_alone && self == Event::DrainComet {
                    let ended = now();
                    while !stage.crowd.missing().is_empty() && now() - ended < secs(10) {
                        sleep(ms(50)).await;
                    }
                    stage.expect_counts(secs(5)).await;
                }
                sleep(ms(500)).await;
                self.subject(stage).start().await?;
            }
            Event::KillComet | Event::KillLogic | Event::KillJob => {
                self.subject(stage).kill().await;
                sleep(secs(2)).await;
                self.subject(stage).start().await?;
            }
        }
        Ok(())
    }

    fn subject(self, stage: &mut Stage) -> &mut Program {
        let kind = self.program().unwrap_or(Kind::Job);
        &mut stage.world.of(kind)[1]
    }
}

/// Every third person, from this one on.
fn third(stage: &Stage, from: usize) -> Vec<usize> {
    // Both devices of a user would be there or not together; and all comets have some.
    (0..stage.crowd.len()).filter(|n| (n * 7 + n / 3 + from).is_multiple_of(3)).collect()
}
