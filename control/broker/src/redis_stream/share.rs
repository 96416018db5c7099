//! The streams that a consumer owns, and how far it is in each: what it has read, handed out and acknowledged.
//!
//! When the reader brings entries and when the consumer hands them out, this checks whether the consumer still owns the
//! stream. Each ownership has a term. Entries that were read in an earlier term are dropped, and read again if the
//! consumer still owns the stream.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tracing::{info, warn};

use super::{
    Topic,
    entry::{Entry, EntryId},
    scripts::{Held, HeldStream, State, Todo},
};
use crate::{Delivery, Offset, Position, Source};

/// A consumer's streams, by number.
pub(super) struct Share {
    topic: Topic,
    streams: Mutex<Streams>,
    /// Notified when there may be something to read or to give back.
    pub(super) changed: Notify,
    /// Notified when the member has to ask Redis at once.
    pub(super) hurry: Notify,
}

struct Streams {
    of: Vec<Stream>,
    terms: u64,
}

#[derive(Default)]
struct Stream {
    owned: Option<Owned>,
    /// It has another type, and this was logged.
    is_foreign: bool,
}

/// A stream that this consumer owns.
struct Owned {
    source: Source,
    incarnation: String,
    epoch: u64,
    /// Entries that were read for this ownership have the same term.
    term: u64,
    since: Instant,
    /// After this another consumer may own it.
    until: Instant,
    read: EntryId,
    /// How far the reader was when Redis was last asked. If the stream's last entry is older than this, the stream went
    /// back in time.
    read_before: EntryId,
    handed_out: EntryId,
    acked: EntryId,
    /// The acknowledgement that Redis has.
    stored: EntryId,
    /// The stream will be given back, so nothing more of it is handed out.
    is_leaving: bool,
    went_back: bool,
    len: usize,
}

/// A stream to read, and from where.
#[derive(Clone, Debug)]
pub(super) struct ToRead {
    pub(super) stream: u32,
    pub(super) term: u64,
    pub(super) after: EntryId,
    pub(super) incarnation: String,
}

/// Entries of one stream, as read in one term.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) stream: u32,
    pub(super) term: u64,
    pub(super) entries: std::vec::IntoIter<Entry>,
}

/// An acknowledgement for Redis.
#[derive(Debug)]
pub(super) struct ToStore {
    pub(super) stream: u32,
    pub(super) incarnation: String,
    pub(super) id: EntryId,
}

impl Share {
    pub(super) fn new(topic: &Topic) -> Self {
        let of = topic.numbers().map(|_| Stream::default()).collect();
        Share {
            topic: topic.clone(),
            streams: Mutex::new(Streams { of, terms: 0 }),
            changed: Notify::new(),
            hurry: Notify::new(),
        }
    }

    /// What to ask of Redis for each stream. A stream is not trimmed before it was owned for `settled`, so that groups
    /// that Redis has forgotten are back by then.
    pub(super) fn todo(&self, settled: Duration) -> Vec<Todo> {
        let todo = |stream: &mut Stream| {
            let Some(owned) = &mut stream.owned else { return Todo::Renew };
            owned.read_before = owned.read;
            match owned {
                Owned { went_back: true, .. } => Todo::Reset,
                Owned { since, .. } if since.elapsed() >= settled => Todo::Trim,
                _ => Todo::Renew,
            }
        };
        self.streams().of.iter_mut().map(todo).collect()
    }

    /// Notes what Redis says. Leases last until `until`.
    pub(super) fn update(&self, held: Held, until: Instant) {
        let mut streams = self.streams();
        let Streams { of, terms } = &mut *streams;
        for ((number, stream), held) in self.topic.numbers().zip(of.iter_mut()).zip(held.streams) {
            let is_foreign = matches!(held, HeldStream::Foreign(_));
            let was_foreign = std::mem::replace(&mut stream.is_foreign, is_foreign);
            match held {
                HeldStream::Owned(state) => {
                    *terms += 1;
                    stream.hold(self.topic.stream(number), state, until, *terms);
                }
                HeldStream::Foreign(is) => {
                    if !was_foreign {
                        let name = self.topic.stream(number);
                        warn!(
                            "{name} in Redis is a {is} where pushes belong: nothing goes through it until it is deleted"
                        );
                    }
                    stream.owned = None;
                }
                HeldStream::NotOwned => {
                    if stream.owned.take().is_some_and(|owned| !owned.is_leaving) {
                        info!("the stream {} belongs to another job now", self.topic.stream(number));
                    }
                }
            }
        }
        give_up_surplus(of, held.share, terms);
        // A stream of which everything handed out is acknowledged can go back at once.
        if of
            .iter()
            .filter_map(|stream| stream.owned.as_ref())
            .any(|owned| owned.is_leaving && owned.is_done())
        {
            self.hurry.notify_one();
        }
        drop(streams);
        self.changed.notify_one();
    }

    /// The streams to read, and from where.
    pub(super) fn to_read(&self) -> Vec<ToRead> {
        let now = Instant::now();
        let streams = self.streams();
        let owned = self.topic.numbers().zip(&streams.of).filter_map(|(n, s)| Some((n, s.owned.as_ref()?)));
        owned
            .filter(|(_, owned)| !owned.is_leaving && owned.until > now)
            .map(|(stream, owned)| ToRead {
                stream,
                term: owned.term,
                after: owned.read,
                incarnation: owned.incarnation.clone(),
            })
            .collect()
    }

    /// Notes that the reader has read this far. False if the consumer no longer owns the stream, or lost it for a
    /// while.
    pub(super) fn has_read(&self, stream: u32, term: u64, last: EntryId) -> bool {
        let mut streams = self.streams();
        let owned = streams.of[stream as usize].owned.as_mut().filter(|owned| owned.term == term);
        owned.map(|owned| owned.read = last).is_some()
    }

    /// Hands out up to `max` entries of a batch. Drops those that the consumer no longer owns.
    pub(super) fn hand_out(&self, batch: &mut Batch, max: usize) -> Vec<Delivery> {
        let mut streams = self.streams();
        let Streams { of, terms } = &mut *streams;
        let owned = of[batch.stream as usize].owned.as_mut().filter(|owned| owned.term == batch.term);
        let Some(owned) = owned else {
            batch.entries = Vec::new().into_iter();
            return Vec::new();
        };
        if owned.until <= Instant::now() {
            // If the lease is renewed later, the entries are read again.
            *terms += 1;
            owned.begin_term(*terms);
            batch.entries = Vec::new().into_iter();
            return Vec::new();
        }
        batch
            .entries
            .by_ref()
            .take(max)
            .map(|Entry { id, bytes }| {
                owned.handed_out = id;
                Delivery { position: Position { source: owned.source.clone(), offset: Offset(id.0) }, bytes }
            })
            .collect()
    }

    /// Notes an acknowledgement. False if it changes nothing.
    pub(super) fn acknowledge(&self, position: &Position) -> bool {
        let id = EntryId(position.offset.0);
        let mut streams = self.streams();
        let mut owned = streams.of.iter_mut().filter_map(|stream| stream.owned.as_mut());
        let Some(owned) = owned.find(|owned| owned.source == position.source) else { return false };
        let moves = id > owned.acked && id <= owned.handed_out;
        if moves {
            owned.acked = id;
        }
        moves
    }

    /// Acknowledgements that Redis does not have yet.
    pub(super) fn to_store(&self) -> Vec<ToStore> {
        let streams = self.streams();
        let owned = self.topic.numbers().zip(&streams.of).filter_map(|(n, s)| Some((n, s.owned.as_ref()?)));
        owned
            .filter(|(_, owned)| owned.acked > owned.stored)
            .map(|(stream, owned)| ToStore {
                stream,
                incarnation: owned.incarnation.clone(),
                id: owned.acked,
            })
            .collect()
    }

    /// Notes that Redis has this acknowledgement.
    pub(super) fn has_stored(&self, stored: &ToStore) {
        let mut streams = self.streams();
        if let Some(owned) = &mut streams.of[stored.stream as usize].owned
            && owned.incarnation == stored.incarnation
        {
            owned.stored = owned.stored.max(stored.id);
            if owned.is_leaving && owned.is_done() {
                self.hurry.notify_one();
            }
        }
    }

    /// Takes out the streams to be given back of which everything handed out is acknowledged. This consumer no longer
    /// owns them.
    pub(super) fn take_done(&self) -> Vec<u32> {
        let mut streams = self.streams();
        let mut done = Vec::new();
        for (number, stream) in self.topic.numbers().zip(&mut streams.of) {
            if stream.owned.as_ref().is_some_and(|owned| owned.is_leaving && owned.is_done()) {
                stream.owned = None;
                done.push(number);
            }
        }
        done
    }

    /// Number of entries in the owned streams.
    pub(super) fn len(&self) -> usize {
        self.streams().of.iter().filter_map(|stream| stream.owned.as_ref()).map(|owned| owned.len).sum()
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks streams beyond the share for giving back, idle ones first. Unmarks them if the share has grown.
fn give_up_surplus(streams: &mut [Stream], share: usize, terms: &mut u64) {
    let mut owned: Vec<&mut Owned> = streams.iter_mut().filter_map(|stream| stream.owned.as_mut()).collect();
    // Streams that are marked already come last, so that they stay marked.
    owned.sort_by_key(|owned| (owned.is_leaving, owned.is_done()));
    for (place, owned) in owned.into_iter().enumerate() {
        let leaves = place >= share;
        if leaves && !owned.is_leaving {
            *terms += 1;
            owned.begin_term(*terms);
        }
        owned.is_leaving = leaves;
    }
}

impl Stream {
    fn hold(&mut self, name: String, state: State, until: Instant, term: u64) {
        let State { epoch, incarnation, acked, last, len } = state;
        match &mut self.owned {
            // If the stream was lost and taken again with no other owner in between, it counts as kept.
            Some(owned)
                if owned.incarnation == incarnation && (owned.epoch..=owned.epoch + 1).contains(&epoch) =>
            {
                owned.until = until;
                owned.epoch = epoch;
                owned.went_back = last < owned.read_before;
                owned.len = len;
            }
            _ => {
                let source = Source::new(Arc::from(format!("{name}@{incarnation}")));
                let now = Instant::now();
                self.owned = Some(Owned {
                    source,
                    incarnation,
                    epoch,
                    term,
                    since: now,
                    until,
                    read: acked,
                    read_before: acked,
                    handed_out: acked,
                    acked,
                    stored: acked,
                    is_leaving: false,
                    went_back: false,
                    len,
                });
            }
        }
    }
}

impl Owned {
    /// Forgets what was read and not handed out, so that it is read again.
    fn begin_term(&mut self, term: u64) {
        self.term = term;
        self.read = self.handed_out;
    }

    /// Whether everything handed out is acknowledged and Redis knows it.
    fn is_done(&self) -> bool {
        self.stored == self.handed_out
    }
}
