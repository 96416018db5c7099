//! Asks Kafka once a second where the group stands: whether it has what was committed, and how far the group is behind
//! the end of the log.
//!
//! A commit gets no answer, because rust-rdkafka does not pass it on (its issue 856). So this thread reads the answer
//! where Kafka stores it. No other thread waits for this one, and each of its questions has a deadline.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use host::telemetry::OUTSIDERS;
use rdkafka::{Offset as KafkaOffset, consumer::BaseConsumer, error::KafkaResult};
use tokio::time::Instant;
use tracing::{Level, warn};

use super::{Shared, callbacks::Context, offsets};
use crate::{kafka::wake_flag::WakeFlag, metrics::CommitFailure};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The thread that looks. Dropping this ends it; afterwards the thread no longer holds the consumer.
pub(super) struct Looker {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    is_over: AtomicBool,
    wake: WakeFlag,
}

impl Looker {
    pub(super) fn start(shared: Arc<Shared>, consumer: Arc<BaseConsumer<Context>>) -> io::Result<Looker> {
        let stop = Arc::<Stop>::default();
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("kafka-progress".into()).spawn(move || {
            loop {
                stopped.wake.wait(LOOK_EVERY);
                if stopped.is_over.load(Relaxed) {
                    break;
                }
                look(&shared, &consumer);
            }
        })?;
        Ok(Looker { stop, thread: Some(thread) })
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        self.stop.is_over.store(true, Relaxed);
        self.stop.wake.set();
        if let Some(thread) = self.thread.take() {
            // The thread ends within one look, and a panic in it ends the process.
            let _ = thread.join();
        }
    }
}

fn look(shared: &Shared, consumer: &BaseConsumer<Context>) {
    let (asked, expected) = (Instant::now(), shared.state().parts.expected());
    shared.tell_age();
    let partitions: Vec<i32> = expected.progress.iter().map(|progress| progress.partition).collect();
    if partitions.is_empty() {
        shared.membership.metrics.set_entries(0);
        return;
    }
    let topic = &shared.membership.topic;
    let known = offsets::committed(consumer, &offsets::list(topic, &partitions, KafkaOffset::Invalid));
    let failures = &shared.membership.metrics.commit_failures;
    let mut state = shared.state();
    state.is_answered = known.is_ok();
    match known {
        Ok(known) => {
            let refused = state.parts.confirm(&expected, &known);
            // What was acknowledged before this look is confirmed, or goes again.
            state.behind_since = if refused > 0 { state.behind_since } else { Some(asked) };
            state.is_dirty |= refused > 0;
            drop(state);
            if refused > 0 {
                failures.of(CommitFailure::Refused).inc();
                OUTSIDERS.log(Level::WARN, || {
                    warn!("Kafka lacks the last commit of {refused} partitions of {topic}, sending it again");
                });
                shared.wake.set();
            }
        }
        Err(error) => {
            drop(state);
            failures.of(CommitFailure::Timeout).inc();
            OUTSIDERS.log(Level::WARN, || {
                warn!("Kafka does not say whether the last commit is there, asking again: {error}");
            });
        }
    }
    shared.tell_age();
    if let Ok(lag) = lag(shared, consumer) {
        shared.membership.metrics.set_entries(usize::try_from(lag).unwrap_or(usize::MAX));
    }
}

/// Entries after the group's commit, over the owned partitions.
fn lag(shared: &Shared, consumer: &BaseConsumer<Context>) -> KafkaResult<u64> {
    let (owned, new) = {
        let state = shared.state();
        (state.parts.owned(), state.parts.not_begun())
    };
    let topic = &shared.membership.topic;
    let ends = offsets::borders(consumer, topic, &owned, KafkaOffset::End)?;
    let begins = offsets::borders(consumer, topic, &new, KafkaOffset::Beginning)?;
    Ok(shared.state().parts.lag(&begins, &ends))
}
