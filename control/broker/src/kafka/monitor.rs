//! Watches whether the brokers answer and how many partitions the topic has, and replaces a producer that died.

use std::{
    io,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use rdkafka::error::RDKafkaErrorCode;
use tokio::{sync::oneshot, time::Instant};
use tracing::{error, info, warn};

use super::{Shared, producer::Producer};

/// Time between two looks while the brokers answer.
const CALM: Duration = Duration::from_secs(5);

/// Time between two looks while they do not.
const TROUBLE: Duration = Duration::from_millis(200);

/// How long the brokers may take to answer: as long as for a record, so that slow brokers do not count as away.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// How long a start waits for the brokers, and for a topic that is just being created.
const START_MAX: Duration = Duration::from_secs(5);

/// Starts the monitor's thread, which ends when the broker is dropped. The receiver hears of the first look that
/// succeeds, or of the last one that a start waits for.
pub(super) fn start(shared: Arc<Shared>) -> io::Result<oneshot::Receiver<()>> {
    let (looked, first_look) = oneshot::channel();
    thread::Builder::new().name("kafka-monitor".into()).spawn(move || run(&shared, looked))?;
    Ok(first_look)
}

fn run(shared: &Shared, looked: oneshot::Sender<()>) {
    let Shared { servers, topic, ready, voice, .. } = shared;
    let brokers = servers.brokers.join(",");
    let (mut looked, started, mut is_told_away) = (Some(looked), Instant::now(), false);
    while !shared.is_dropped.load(Relaxed) {
        replace_dead_producer(shared);
        let found = look(shared);
        let is_starting = looked.is_some() && started.elapsed() < START_MAX;
        match &found {
            Ok(partitions) => {
                let before = shared.partitions.swap(*partitions, Relaxed);
                if !ready.send_replace(true) || before != *partitions {
                    info!("Kafka at {brokers} is there, topic {topic} has {partitions} partitions");
                }
                is_told_away = false;
                // What was heard before is over.
                voice.forget_why();
            }
            // While a program starts, a topic that is just being created is not worth a line.
            Err(why) if !is_starting => {
                ready.send_replace(false);
                if !std::mem::replace(&mut is_told_away, true) {
                    let why = voice.why().unwrap_or_else(|| why.clone());
                    warn!("Kafka at {brokers} is away, trying again: {why}");
                }
            }
            Err(_) => {}
        }
        if (found.is_ok() || !is_starting)
            && let Some(looked) = looked.take()
        {
            // The receiver is gone if the start was given up.
            let _ = looked.send(());
        }
        voice.trouble.wait(if found.is_ok() { CALM } else { TROUBLE });
    }
}

/// The number of partitions, or why it is unknown.
fn look(shared: &Shared) -> Result<u32, String> {
    let metadata = shared
        .producer()
        .client()
        .fetch_metadata(Some(&shared.topic), ANSWER_MAX)
        .map_err(|error| error.to_string())?;
    let topic = metadata.topics().first().ok_or("it does not know the topic")?;
    if let Some(error) = topic.error() {
        let error = RDKafkaErrorCode::from(error);
        let hint = match error {
            RDKafkaErrorCode::UnknownTopicOrPartition => ": create it, the brokers do not",
            _ => "",
        };
        return Err(format!("topic {}: {error}{hint}", shared.topic));
    }
    match topic.partitions().len() {
        0 => Err(format!("topic {} has no partitions yet", shared.topic)),
        partitions => Ok(partitions as u32),
    }
}

/// Replaces the producer if it is dead. An idempotent producer dies when it cannot know any more whether its records
/// are in order.
fn replace_dead_producer(shared: &Shared) {
    let Some((code, why)) = shared.producer().client().fatal_error() else { return };
    error!("the Kafka producer died and is made anew: {code}: {why}");
    match Producer::new(&shared.servers, shared.voice.clone()) {
        Ok(producer) => {
            *shared.producer.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(producer);
        }
        Err(error) => warn!("cannot make a Kafka producer, trying again: {error}"),
    }
}
