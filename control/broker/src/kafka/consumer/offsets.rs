//! Asks Kafka about offsets, each time with a deadline.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::KafkaResult,
};

use crate::kafka::assignment::Progress;

/// How long Kafka may take to say where the group stands.
const COMMITTED_MAX: Duration = Duration::from_secs(3);

/// How long Kafka may take to say where the logs end.
const ENDS_MAX: Duration = Duration::from_secs(1);

/// What Kafka has of the group in these partitions. It may not know all of them.
pub(super) fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &TopicPartitionList,
) -> KafkaResult<Vec<Progress>> {
    let known = consumer.committed_offsets(partitions.clone(), COMMITTED_MAX)?;
    let known = known.elements();
    let known = known.iter().filter(|element| element.error().is_ok());
    Ok(known
        .map(|element| Progress {
            partition: element.partition(),
            offset: match element.offset() {
                KafkaOffset::Offset(offset) => Some(offset),
                _ => None,
            },
            incarnation: element.metadata().to_owned(),
        })
        .collect())
}

/// Where these partitions end or begin. Kafka's call for times takes these two words too.
pub(super) fn borders<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
    which: KafkaOffset,
) -> KafkaResult<BTreeMap<i32, i64>> {
    if partitions.is_empty() {
        return Ok(BTreeMap::new());
    }
    let found = consumer.offsets_for_times(list(topic, partitions, which), ENDS_MAX)?;
    let found = found.elements();
    let found = found.iter().filter(|element| element.error().is_ok());
    Ok(found
        .filter_map(|element| match element.offset() {
            KafkaOffset::Offset(offset) => Some((element.partition(), offset)),
            _ => None,
        })
        .collect())
}

/// A list of the partitions, each with this offset.
pub(super) fn list(topic: &str, partitions: &[i32], offset: KafkaOffset) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        // Words are never out of range, unlike numbers.
        let _ = list.add_partition_offset(topic, *partition, offset);
    }
    list
}
