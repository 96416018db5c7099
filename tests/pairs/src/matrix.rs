//! Which events meet which troubles, on which queue; why the others do not; and what each pair may cost.

use std::fmt;

use anyhow::{Result, anyhow};
use tokio::time::sleep;

use crate::{
    clock::{ms, now, secs},
    event::Event,
    ledger::{Allowed, Rules, Verdict},
    rng::Rng,
    stage::{Bounds, Outcome, Stage},
    trouble::Trouble,
    world::{Kind, Queue},
};

/// Two things at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// What carries the pushes.
    pub queue: Queue,
    /// What is in trouble.
    pub trouble: Trouble,
    /// What happens.
    pub event: Event,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {} / {}", self.queue.word(), self.trouble.word(), self.event.word())
    }
}

/// Deliveries of about one second at the rate of the pairs: what a job may hold, or not have acknowledged, when it dies.
const IN_A_JOB: u64 = 1_500;

/// Deliveries that may be in Redis alone when it loses everything: of some hundred milliseconds.
const IN_REDIS: u64 = 500;

/// Two seconds of deliveries, to whom is told offline until every session is back.
const UNTIL_BACK: u64 = 3_000;

/// More than was ever seen where no order is promised.
const ANY_ORDER: u64 = 3_000;

impl Pair {
    /// Every pair that makes sense.
    pub fn all() -> Vec<Pair> {
        Pair::every().filter(|pair| pair.left_out().is_none()).collect()
    }

    /// Every pair there could be.
    pub fn every() -> impl Iterator<Item = Pair> {
        let queues = [Queue::Stream, Queue::List, Queue::Kafka];
        queues.into_iter().flat_map(|queue| {
            Trouble::ALL.iter().flat_map(move |trouble| {
                Event::ALL.iter().map(move |event| Pair { queue, trouble: *trouble, event: *event })
            })
        })
    }

    /// Why it is not run.
    pub fn left_out(self) -> Option<&'static str> {
        let Pair { queue, trouble, event } = self;
        if trouble.is_of_kafka() != (queue == Queue::Kafka) && trouble.is_of_kafka() {
            return Some("there is no Kafka");
        }
        let twice = matches!(
            (trouble, event),
            (Trouble::CometDead, Event::KillLogic | Event::KillJob) | (Trouble::LogicDead, Event::KillJob)
        );
        if twice {
            return Some("the same two deaths, the other way round");
        }
        if matches!(trouble, Trouble::EtcdSlow | Trouble::EtcdKey)
            && matches!(event, Event::Rooms | Event::Relogin | Event::DrainJob | Event::KillJob)
        {
            return Some("etcd has no part in it while it answers");
        }
        if queue == Queue::Stream {
            return None;
        }
        // What does not touch the queue is said on the streams once.
        let touches = matches!(
            event,
            Event::Push
                | Event::Hop
                | Event::DrainComet
                | Event::DrainJob
                | Event::KillJob
                | Event::DrainLogic
        );
        let of_queue = match queue {
            Queue::Kafka => matches!(
                trouble,
                Trouble::Nothing
                    | Trouble::KafkaFrozen
                    | Trouble::KafkaDead
                    | Trouble::RedisDead
                    | Trouble::CometFrozen
                    | Trouble::JobFrozen
                    | Trouble::JobDead
            ),
            _ => matches!(
                trouble,
                Trouble::Nothing
                    | Trouble::RedisFrozen
                    | Trouble::RedisDead
                    | Trouble::CometFrozen
                    | Trouble::JobFrozen
                    | Trouble::JobDead
            ),
        };
        (!touches || !of_queue).then_some("this queue has no part in it: the streams' pair says the same")
    }

    /// What it may cost, by what is promised.
    fn allowed(self) -> Allowed {
        let Pair { queue, trouble, event } = self;
        let mut allowed = Allowed::nothing();
        let job_dies = trouble == Trouble::JobDead || event == Event::KillJob;
        if job_dies || trouble == Trouble::JobFrozen {
            // At least once: what was not acknowledged comes again. From the list it is gone, and nobody can count it; and what
            // a frozen job holds of it comes too late for who has left meanwhile, though the other job brought them newer ones.
            allowed = match queue {
                Queue::List => allowed
                    .and(Verdict::Lost, IN_A_JOB)
                    .and(Verdict::LostButCounted, IN_A_JOB)
                    .and(Verdict::InNoCounter, IN_A_JOB),
                Queue::Stream | Queue::Kafka => allowed.and(Verdict::Doubled, IN_A_JOB),
            };
        }
        if trouble == Trouble::RedisFrozen {
            // A job that cannot renew what it owns loses it to another, and what it could not acknowledge comes again.
            allowed = allowed.and(Verdict::Doubled, IN_A_JOB);
        }
        if queue == Queue::List {
            // Two jobs take from it in turn.
            allowed = allowed.and(Verdict::Reordered, ANY_ORDER);
        }
        if trouble == Trouble::JobFrozen {
            // What it had handed out before may pass what its heir hands out; see PROTOCOL.md, the queue.
            allowed = allowed.and(Verdict::Reordered, IN_A_JOB);
        }
        if matches!(trouble, Trouble::RedisDead | Trouble::RedisWiped) {
            // What was on its queue is gone; and until every session is back, a user with one device known is not offline,
            // though nobody knows of the other.
            allowed = allowed
                .and(Verdict::LostButCounted, UNTIL_BACK)
                .and(Verdict::Lost, IN_REDIS)
                .and(Verdict::InNoCounter, IN_REDIS);
        }
        if trouble == Trouble::KafkaDead || trouble == Trouble::KafkaFrozen {
            allowed = allowed.and(Verdict::Doubled, IN_A_JOB);
        }
        allowed
    }

    fn rules(self) -> Rules {
        let mut rules = Rules::default();
        let holds_up = !matches!(self.trouble, Trouble::Nothing | Trouble::EtcdSlow);
        if holds_up || self.event.program() == Some(Kind::Job) {
            rules.reach = self.trouble.lasts() + secs(6);
            rules.tail = rules.reach + secs(8);
        }
        rules.drops_are_losses =
            matches!(self.trouble, Trouble::Nothing | Trouble::JobFrozen | Trouble::EtcdSlow)
                && self.event.program() != Some(Kind::Comet);
        rules
    }

    fn bounds(self) -> Bounds {
        let mut bounds = Bounds::default();
        let comet_dies = self.trouble == Trouble::CometDead || self.event == Event::KillComet;
        let is_quiet = matches!(
            self.trouble,
            Trouble::Nothing | Trouble::EtcdSlow | Trouble::JobFrozen | Trouble::JobDead
        );
        if comet_dies || !is_quiet {
            bounds.counted = secs(15);
        }
        if self.event == Event::Go {
            // Until the silent ones are noticed: three heartbeats.
            bounds.counted += secs(17);
        }
        bounds
    }

    /// Lets it happen on a stage at rest.
    ///
    /// # Errors
    /// The stage is of no more use: somebody does not get in, or a program does not start.
    pub async fn run(self, stage: &mut Stage, seed: u64) -> Result<(Outcome, Allowed)> {
        let mut rng = Rng::seeded(seed);
        stage.crowd.spread(secs(20)).await.map_err(|missing| anyhow!("before it: {}", missing.join("; ")))?;
        self.event.prepare(stage).await;
        stage.begin().await;
        sleep(ms(500)).await;
        let watch = self.trouble.watch(&stage.world);
        let begun = now();
        if let Err(why) = self.trouble.begin(&mut stage.world).await {
            stage.note(Verdict::NotReady, || format!("{}: {why:#}", self.trouble.word()));
        }
        sleep(ms(500)).await;
        self.event.happen(stage, &mut rng, self.trouble == Trouble::Nothing).await?;
        sleep((begun + self.trouble.lasts()).saturating_sub(now())).await;
        for ready in watch.end().await {
            stage.note(Verdict::NotReady, || format!("{ready} was ready all the time"));
        }
        self.trouble.end(&mut stage.world).await?;
        stage.look_around(&self.bounds()).await;
        Ok((stage.end(&self.rules()).await, self.allowed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_meets_every_trouble_somewhere_or_a_reason_is_given() {
        let all = Pair::all();
        for trouble in Trouble::ALL {
            for event in Event::ALL {
                let is_run = all.iter().any(|pair| (pair.trouble, pair.event) == (*trouble, *event));
                let is_explained = Pair::every()
                    .filter(|pair| (pair.trouble, pair.event) == (*trouble, *event))
                    .all(|pair| pair.left_out().is_some());
                assert!(is_run != is_explained, "{trouble:?} {event:?}");
            }
        }
        assert!(all.len() > 150, "{}", all.len());
    }
}
