//! The partitions of one member of a group, and how far the member is in each: what it fetched, handed out,
//! acknowledged and committed.
//!
//! Nothing in this file speaks with Kafka. The member's thread feeds these values, and the consumer takes entries from
//! them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use uuid::Uuid;

use crate::{Delivery, Offset, Position, Source};

/// Most fetched entries, and most bytes of them, that wait to be handed out. While there is any room, an entry of any
/// size fits.
const READY_ENTRIES_MAX: usize = 1024;
const READY_BYTES_MAX: usize = 4 << 20;

/// What a member has.
#[derive(Default)]
pub(super) struct Assignment {
    topic: String,
    parts: BTreeMap<i32, Partition>,
    /// How often partitions were taken over or given up so far.
    moves: u64,
    ready: VecDeque<(i32, i64, Bytes)>,
    ready_bytes: usize,
}

/// A partition that this member owns, or owned.
struct Partition {
    incarnation: String,
    source: Source,
    is_owned: bool,
    /// The offset after the last entry that was fetched.
    fetched: i64,
    /// The offset after the last entry that was handed out.
    handed_out: i64,
    /// The offset after the last acknowledged entry. This is what the member commits.
    acked: i64,
    /// The offset that the member last told librdkafka to commit.
    sent: i64,
    /// The offset that Kafka certainly has; 0 = none.
    committed: i64,
}

/// What Kafka should have, to compare with what it has.
pub(super) struct Expected {
    pub(super) progress: Vec<Progress>,
    /// The number of moves at that time. If it is still the same, no partition has moved since.
    moves: u64,
}

/// What Kafka knows about a group's progress in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) partition: i32,
    /// The offset of the first entry that is not done; none if the group has committed nothing.
    pub(super) offset: Option<i64>,
    /// The incarnation of the log, which the committer stored beside the offset. A Go job leaves it empty.
    pub(super) incarnation: String,
}

impl Assignment {
    pub(super) fn new(topic: &str) -> Self {
        Assignment { topic: topic.to_owned(), ..Assignment::default() }
    }

    /// Takes over a partition, and says where to start: `None` means where the group stands, or at the oldest entry.
    ///
    /// `known` is what Kafka has of the partition, `None` if it does not say. A partition that this member has owned
    /// before goes on behind what was handed out, which is still on its way to the comets. Whoever owned it meanwhile,
    /// this skips nothing, and dispatches nothing out of order.
    pub(super) fn take_over(&mut self, partition: i32, known: Option<Progress>) -> Option<i64> {
        self.moves += 1;
        let (offset, incarnation) =
            known.clone().map_or((None, String::new()), |p| (p.offset, p.incarnation));
        if let Some(part) = self.parts.get_mut(&partition) {
            let was_forgotten = known.is_some() && offset.is_none() && part.committed > 0;
            if !was_forgotten && (incarnation.is_empty() || incarnation == part.incarnation) {
                let start = part.handed_out.max(offset.unwrap_or(0));
                part.is_owned = true;
                part.fetched = start;
                // Never takes a commit back to the point where this member left.
                part.committed = part.committed.max(offset.unwrap_or(0));
                part.sent = part.committed;
                // This member has handed out nothing yet, so only Kafka knows where the group stands.
                return (start > 0).then_some(start);
            }
        }
        let incarnation = if incarnation.is_empty() { new_incarnation() } else { incarnation };
        let part = Partition {
            source: source(&self.topic, partition, &incarnation),
            incarnation,
            is_owned: true,
            fetched: offset.unwrap_or(0),
            handed_out: 0,
            acked: 0,
            sent: offset.unwrap_or(0),
            committed: offset.unwrap_or(0),
        };
        self.parts.insert(partition, part);
        None
    }

    /// Gives up a partition, and forgets what was fetched and not handed out.
    pub(super) fn give_up(&mut self, partition: i32) {
        self.moves += 1;
        if let Some(part) = self.parts.get_mut(&partition) {
            part.is_owned = false;
        }
        self.forget_ready(partition);
    }

    /// Hands out no more of these partitions, because the member is about to give them up. True while something that
    /// was handed out of them is not acknowledged.
    pub(super) fn wind_up(&mut self, partitions: &[i32]) -> bool {
        partitions.iter().for_each(|partition| self.forget_ready(*partition));
        let is_open = |part: &Partition| part.is_owned && part.acked < part.handed_out;
        partitions.iter().filter_map(|partition| self.parts.get(partition)).any(is_open)
    }

    pub(super) fn give_up_all(&mut self) {
        self.moves += 1;
        self.parts.values_mut().for_each(|part| part.is_owned = false);
        self.ready.clear();
        self.ready_bytes = 0;
    }

    fn forget_ready(&mut self, partition: i32) {
        self.ready.retain(|(of, _, bytes)| {
            let stays = *of != partition;
            self.ready_bytes -= if stays { 0 } else { bytes.len() };
            stays
        });
    }

    pub(super) fn owned(&self) -> Vec<i32> {
        self.parts.iter().filter(|(_, part)| part.is_owned).map(|(partition, _)| *partition).collect()
    }

    pub(super) fn has_room(&self) -> bool {
        self.ready.len() < READY_ENTRIES_MAX && self.ready_bytes < READY_BYTES_MAX
    }

    /// Takes an entry that came from Kafka. True if its offset shows that this is another log than before: offsets went
    /// back, because the topic was made anew or the log lost its end. The offsets then name other entries, so the
    /// partition becomes a new source.
    pub(super) fn fetched(&mut self, partition: i32, offset: i64, bytes: Bytes) -> bool {
        let Some(part) = self.parts.get_mut(&partition).filter(|part| part.is_owned) else { return false };
        let is_another = offset < part.fetched;
        if is_another {
            part.incarnation = new_incarnation();
            part.source = source(&self.topic, partition, &part.incarnation);
            (part.handed_out, part.acked, part.sent, part.committed) = (0, 0, 0, 0);
        }
        part.fetched = offset + 1;
        if is_another {
            self.forget_ready(partition);
        }
        self.ready_bytes += bytes.len();
        self.ready.push_back((partition, offset, bytes));
        is_another
    }

    /// Hands out up to `max` entries.
    pub(super) fn hand_out(&mut self, max: usize) -> Vec<Delivery> {
        let count = self.ready.len().min(max);
        let Assignment { ready, ready_bytes, parts, .. } = self;
        let taken = ready.drain(..count).filter_map(|(partition, offset, bytes)| {
            *ready_bytes -= bytes.len();
            let part = parts.get_mut(&partition)?;
            part.handed_out = offset + 1;
            let position =
                Position { source: part.source.clone(), offset: Offset(u128::from(offset.unsigned_abs())) };
            Some(Delivery { position, bytes })
        });
        taken.collect()
    }

    /// Notes that everything up to the position is done. True if this is new and the partition is owned. The note is
    /// kept for a partition that is not owned too, for when it comes back.
    pub(super) fn acknowledge(&mut self, position: &Position) -> bool {
        let Some(part) = self.parts.values_mut().find(|part| part.source == position.source) else {
            return false;
        };
        let Ok(next) = i64::try_from(position.offset.0).map(|offset| offset.saturating_add(1)) else {
            return false;
        };
        if next > part.handed_out || next <= part.acked {
            return false;
        }
        part.acked = next;
        part.is_owned
    }

    /// What is acknowledged but not yet sent to Kafka, of the owned partitions.
    pub(super) fn to_commit(&self) -> Vec<Progress> {
        let is_due = |part: &Partition| part.is_owned && part.acked > part.sent;
        self.progress(is_due, |part| part.acked)
    }

    /// What is acknowledged of these partitions but perhaps not committed. The member commits it before it gives them
    /// up.
    pub(super) fn to_commit_last(&self, partitions: &[i32]) -> Vec<Progress> {
        let mut due = self.progress(|part| part.is_owned && part.acked > part.committed, |part| part.acked);
        due.retain(|progress| partitions.contains(&progress.partition));
        due
    }

    /// Notes that librdkafka was told to commit these.
    pub(super) fn sent(&mut self, progress: &[Progress]) {
        for Progress { partition, offset, incarnation } in progress {
            if let Some(part) = self.parts.get_mut(partition).filter(|part| part.incarnation == *incarnation)
            {
                part.sent = part.sent.max(offset.unwrap_or(0));
            }
        }
    }

    /// What Kafka should have by now: for [`confirm`](Self::confirm).
    pub(super) fn expected(&self) -> Expected {
        let progress = self.progress(|part| part.is_owned || part.sent > part.committed, |part| part.sent);
        Expected { progress, moves: self.moves }
    }

    /// Compares what Kafka has with what it should have. Returns in how many partitions Kafka has less; the member
    /// sends those it owns again.
    pub(super) fn confirm(&mut self, expected: &Expected, known: &[Progress]) -> usize {
        let has_moved = expected.moves != self.moves;
        let mut refused = 0;
        for Progress { partition, offset: sent, incarnation } in &expected.progress {
            let sent = sent.unwrap_or(0);
            let part = self.parts.get_mut(partition).filter(|part| part.incarnation == *incarnation);
            let known = known.iter().find(|known| known.partition == *partition);
            let (Some(part), Some(known)) = (part, known) else { continue };
            // The partition may belong to another member now, who may have made up another incarnation.
            let is_ours = !part.is_owned || sent == 0 || known.incarnation == part.incarnation;
            match known.offset {
                Some(offset) if is_ours && offset >= sent => {
                    part.committed = part.committed.max(offset);
                    part.sent = part.sent.max(offset);
                }
                // The group's progress was deleted together with the topic, and nothing of the new log is done yet.
                None if sent == 0 || part.committed > 0 => {}
                // A partition has moved since Kafka was asked, so this answer may be out of date.
                _ if has_moved => {}
                less => {
                    refused += 1;
                    part.committed = less.filter(|_| is_ours).unwrap_or(0);
                    part.sent = part.committed;
                }
            }
        }
        refused
    }

    /// Whether something acknowledged in an owned partition is perhaps not committed.
    pub(super) fn is_behind(&self) -> bool {
        self.parts.values().any(|part| part.is_owned && part.acked > part.committed)
    }

    /// The owned partitions in which the group has committed nothing.
    pub(super) fn not_begun(&self) -> Vec<i32> {
        let is_new = |part: &Partition| part.is_owned && part.committed == 0;
        self.progress(is_new, |_| 0).into_iter().map(|progress| progress.partition).collect()
    }

    /// Entries after the group's commit, over all owned partitions. `ends` tells where each log ends. If the group has
    /// committed nothing, this counts from where the log begins.
    pub(super) fn lag(&self, begins: &BTreeMap<i32, i64>, ends: &BTreeMap<i32, i64>) -> u64 {
        let owned = self.parts.iter().filter(|(_, part)| part.is_owned);
        let behind = owned.filter_map(|(partition, part)| {
            let begin = || begins.get(partition).copied().unwrap_or(0);
            let from = if part.committed > 0 { part.committed } else { begin() };
            Some(ends.get(partition)?.saturating_sub(from).max(0).unsigned_abs())
        });
        behind.sum()
    }

    fn progress(
        &self,
        is_meant: impl Fn(&Partition) -> bool,
        offset: impl Fn(&Partition) -> i64,
    ) -> Vec<Progress> {
        let meant = self.parts.iter().filter(|(_, part)| is_meant(part));
        meant
            .map(|(&partition, part)| Progress {
                partition,
                offset: Some(offset(part)),
                incarnation: part.incarnation.clone(),
            })
            .collect()
    }
}

fn new_incarnation() -> String {
    Uuid::new_v4().to_string()
}

fn source(topic: &str, partition: i32, incarnation: &str) -> Source {
    Source::new(format!("{topic}/{partition}@{incarnation}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Assignment {
        Assignment::new("t")
    }

    fn progress(offset: Option<i64>, incarnation: &str) -> Option<Progress> {
        Some(Progress { partition: 0, offset, incarnation: incarnation.into() })
    }

    /// Fetches entries and hands them out.
    fn through(parts: &mut Assignment, offsets: std::ops::Range<i64>) -> Vec<Delivery> {
        let count = offsets.clone().count();
        for offset in offsets {
            assert!(!parts.fetched(0, offset, Bytes::from_static(b"x")));
        }
        let taken = parts.hand_out(100);
        assert_eq!(taken.len(), count);
        taken
    }

    /// Commits what is due, and Kafka has it.
    fn commit(parts: &mut Assignment) -> Vec<Progress> {
        let progress = parts.to_commit();
        parts.sent(&progress);
        assert_eq!(parts.confirm(&parts.expected(), &progress), 0);
        progress
    }

    #[test]
    fn an_incarnation_that_was_committed_names_the_source() {
        let mut parts = parts();
        assert_eq!(parts.take_over(0, progress(Some(5), "abc")), None, "Kafka knows the place");
        assert_eq!(through(&mut parts, 5..6)[0].position.source.as_str(), "t/0@abc");
    }

    #[test]
    fn only_what_was_handed_out_can_be_acknowledged() {
        let mut parts = parts();
        parts.take_over(0, progress(None, ""));
        let taken = through(&mut parts, 0..3);
        parts.fetched(0, 3, Bytes::new());
        let beyond = Position { offset: Offset(3), ..taken[2].position.clone() };
        assert!(!parts.acknowledge(&beyond));
        assert!(!parts.acknowledge(&Position { offset: Offset(u128::MAX), ..beyond }));
        assert!(parts.acknowledge(&taken[1].position));
        assert!(!parts.acknowledge(&taken[0].position), "an older one takes nothing back");
        assert_eq!(parts.to_commit()[0].offset, Some(2));
    }

    #[test]
    fn a_partition_that_comes_back_goes_on_behind_what_was_handed_out() {
        let mut parts = parts();
        parts.take_over(0, progress(None, ""));
        let taken = through(&mut parts, 0..4);
        parts.fetched(0, 4, Bytes::new());
        parts.give_up(0);
        assert!(parts.hand_out(10).is_empty(), "what was not handed out is not ours");
        assert!(!parts.acknowledge(&taken[3].position));
        assert!(parts.to_commit().is_empty(), "nothing is committed of what is not owned");
        assert_eq!(parts.take_over(0, progress(None, "")), Some(4));
        let committed = commit(&mut parts);
        assert_eq!(committed[0].offset, Some(4), "what was done meanwhile counts now");
        parts.give_up(0);
        assert_eq!(
            parts.take_over(0, progress(Some(9), &committed[0].incarnation)),
            Some(9),
            "another job went on"
        );
        assert_eq!(through(&mut parts, 9..10)[0].position.source, taken[0].position.source);
    }

    #[test]
    fn what_another_job_committed_is_not_taken_back() {
        let mut parts = parts();
        parts.take_over(0, progress(None, ""));
        let taken = through(&mut parts, 0..4);
        parts.give_up(0);
        parts.acknowledge(&taken[3].position);
        let incarnation = parts.parts[&0].incarnation.clone();
        assert_eq!(parts.take_over(0, progress(Some(9), &incarnation)), Some(9));
        assert!(parts.to_commit().is_empty());
    }

    /// What is sent to be committed is answered by nobody: only what Kafka has counts.
    #[test]
    fn what_kafka_has_not_got_is_sent_again() {
        let mut parts = parts();
        parts.take_over(0, progress(Some(5), "abc"));
        let taken = through(&mut parts, 5..9);
        parts.acknowledge(&taken[1].position);
        let first = parts.to_commit();
        assert_eq!(first, [Progress { partition: 0, offset: Some(7), incarnation: "abc".into() }]);
        parts.sent(&first);
        assert!(parts.to_commit().is_empty(), "once is enough, until Kafka turns out to lack it");
        assert!(parts.is_behind());
        let expected = parts.expected();
        parts.acknowledge(&taken[3].position);
        let second = parts.to_commit();
        assert_eq!(second[0].offset, Some(9), "the next does not wait for the first");
        parts.sent(&second);
        // A rebalance made it refuse the first; of the second this look says nothing yet.
        assert_eq!(parts.confirm(&expected, &progress(Some(5), "abc").into_iter().collect::<Vec<_>>()), 1);
        assert_eq!(parts.to_commit(), second);
        parts.sent(&second);
        assert_eq!(parts.confirm(&parts.expected(), &second), 0);
        assert!(!parts.is_behind() && parts.to_commit().is_empty());
        // Somebody else's commit over ours, while the partition is ours.
        assert_eq!(parts.confirm(&parts.expected(), &[progress(Some(9), "xyz").unwrap()]), 1);
        assert_eq!(parts.to_commit(), second);
    }

    /// It is given back with the last word, which is compared once more and then left to the next owner.
    #[test]
    fn what_was_said_at_the_end_is_compared_and_never_said_again() {
        let mut parts = parts();
        parts.take_over(0, progress(Some(5), "abc"));
        let taken = through(&mut parts, 5..9);
        parts.acknowledge(&taken[0].position);
        parts.sent(&parts.to_commit());
        let last = parts.to_commit_last(&[0, 1]);
        assert_eq!(last[0].offset, Some(6), "sent is not committed");
        assert!(parts.to_commit_last(&[1]).is_empty());
        parts.sent(&last);
        parts.give_up(0);
        assert_eq!(parts.confirm(&parts.expected(), &[progress(Some(5), "abc").unwrap()]), 1);
        assert!(parts.expected().progress.is_empty() && parts.to_commit().is_empty());
        // The next owner went on meanwhile.
        parts.take_over(0, progress(Some(9), "abc"));
        let old = parts.expected();
        parts.give_up(0);
        parts.take_over(0, progress(Some(12), "abc"));
        assert_eq!(parts.confirm(&old, &[progress(Some(7), "abc").unwrap()]), 0, "an old word");
        assert!(parts.to_commit().is_empty(), "nothing is taken back");
    }

    #[test]
    fn a_group_lags_by_what_is_behind_its_commit() {
        let mut parts = parts();
        parts.take_over(0, progress(Some(5), "abc"));
        parts.take_over(1, None);
        assert_eq!(parts.not_begun(), [1]);
        let (begins, ends) = (BTreeMap::from([(1, 90)]), BTreeMap::from([(0, 12), (1, 100), (2, 1000)]));
        assert_eq!(parts.lag(&begins, &ends), 7 + 10, "of the partitions owned");
        let taken = through(&mut parts, 5..12);
        parts.acknowledge(&taken[6].position);
        assert_eq!(parts.lag(&begins, &ends), 7 + 10, "done is not committed");
        let progress = parts.to_commit();
        parts.sent(&progress);
        parts.confirm(&parts.expected(), &progress);
        assert_eq!(parts.lag(&begins, &ends), 10);
        parts.give_up(1);
        assert_eq!(parts.lag(&begins, &ends), 0);
    }

    #[test]
    fn a_log_made_anew_is_another_source() {
        let mut parts = parts();
        parts.take_over(0, progress(None, ""));
        let old = through(&mut parts, 0..3);
        parts.acknowledge(&old[2].position);
        commit(&mut parts);
        // Seen by its offsets while it is owned.
        parts.fetched(0, 3, Bytes::new());
        assert!(parts.fetched(0, 0, Bytes::from_static(b"new")));
        let new = parts.hand_out(10);
        assert_eq!(new.len(), 1, "the old log's entry is gone");
        assert_ne!(new[0].position.source, old[0].position.source);
        assert!(!parts.acknowledge(&old[2].position));
        // Seen by the group's progress, which Kafka deletes with the topic, when it is taken over.
        parts.acknowledge(&new[0].position);
        commit(&mut parts);
        parts.give_up(0);
        assert_eq!(parts.take_over(0, progress(None, "")), None);
        assert_ne!(through(&mut parts, 0..1)[0].position.source, new[0].position.source);
    }

    #[test]
    fn what_waits_is_bounded_in_entries_and_in_bytes() {
        for (entry, fits) in
            [(Bytes::from_static(b"x"), READY_ENTRIES_MAX), (vec![0; READY_BYTES_MAX].into(), 1)]
        {
            let mut parts = parts();
            parts.take_over(0, progress(None, ""));
            let mut offset = 0;
            while parts.has_room() {
                parts.fetched(0, offset, entry.clone());
                offset += 1;
            }
            assert_eq!(offset as usize, fits);
            parts.hand_out(1);
            assert!(parts.has_room());
            parts.give_up_all();
            assert_eq!(parts.ready_bytes, 0);
        }
    }
}
