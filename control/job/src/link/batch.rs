//! How the queue of a link becomes calls of its comet.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use contract::{Dispatch, Payload, Receivers};
use proto::{
    frame,
    frame::{HEADER_LEN, Header, VER},
    ids::{Key, RoomId},
    op::Op,
};

use super::queue::Item;
use crate::awake::Moment;

/// Most entries in one call. It bounds what goes again after a failed call.
pub(crate) const BATCH_MAX: usize = 4096;

/// Unary calls to one comet that are under way at once. goim's job makes up to 32.
const AT_ONCE: usize = 16;

/// How many entries from the front of the queue job searches for a push whose receivers are not busy, and for messages
/// of the same room.
const WINDOW: usize = 256;

/// Most bytes that job joins into one message. This is half of what may wait for one client (`comet.limits.sendQueue`),
/// so a joined message still fits into the queue of a slow client.
const JOIN_BYTES_MAX: usize = 32 << 10;

/// What one call of a comet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Everything that waits, in order. job neither joins nor reorders messages; comet joins them.
    Batches,
    /// One push: goim's unary calls, several at once. job adds to the call what else waits for the same room. Pushes to
    /// different receivers may overtake each other; pushes to one key, to one room, or to everybody never do.
    Unary {
        /// Most messages that job joins (`room.batch`).
        join_max: usize,
        /// Messages that arrived further apart are not joined (`room.signal`).
        join_within: Duration,
    },
}

impl Calls {
    /// How many calls may be under way at once.
    pub(crate) fn at_once(self) -> usize {
        match self {
            Calls::Batches => 1,
            Calls::Unary { .. } => AT_ONCE,
        }
    }

    /// Takes the next call's pushes from the queue and marks their receivers as busy. Takes nothing if all that waits
    /// is for busy receivers.
    pub(crate) fn take(self, queue: &mut VecDeque<Item>, busy: &mut Busy) -> Vec<Item> {
        match self {
            Calls::Batches => queue.drain(..queue.len().min(BATCH_MAX)).collect(),
            Calls::Unary { join_max, join_within } => {
                let place = busy.first_free(queue);
                let Some(first) = place.and_then(|place| queue.remove(place)) else { return Vec::new() };
                let latest = first.queued + join_within;
                let room = joinable(&first.dispatch).cloned();
                let mut call = vec![first];
                if let Some(room) = room {
                    take_room(queue, &room, latest, join_max, &mut call);
                }
                busy.add(&call);
                call
            }
        }
    }

    /// What the call hands to comet for these items.
    pub(crate) fn dispatches(self, items: &[Item]) -> Vec<Dispatch> {
        match (self, items) {
            (Calls::Unary { .. }, [first, _, ..]) => vec![join(first, items)],
            _ => items.iter().map(|item| item.dispatch.clone()).collect(),
        }
    }
}

/// The receivers of the calls under way, with the number of pushes for each. Other pushes to a busy receiver wait,
/// which keeps their order. Empty for a comet that gets one call after the other.
#[derive(Default)]
pub(crate) struct Busy(HashMap<Receiver, usize>);

/// Whoever gets pushes in order: pushes to one of these never overtake each other.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Receiver {
    Key(Key),
    Room(RoomId),
    All,
}

impl Busy {
    fn add(&mut self, items: &[Item]) {
        for receiver in items.iter().flat_map(receivers) {
            *self.0.entry(receiver).or_default() += 1;
        }
    }

    /// These pushes are no longer under way, so their receivers may get the next ones.
    pub(crate) fn remove(&mut self, items: &[Item]) {
        if self.0.is_empty() {
            return;
        }
        for receiver in items.iter().flat_map(receivers) {
            if let Some(pushes) = self.0.get_mut(&receiver) {
                *pushes -= 1;
                if *pushes == 0 {
                    self.0.remove(&receiver);
                }
            }
        }
    }

    /// The place of the first push that has no receiver in common with a call under way or with a push before it.
    fn first_free(&self, queue: &VecDeque<Item>) -> Option<usize> {
        let mut waiting = HashSet::new();
        queue.iter().take(WINDOW).position(|item| {
            let is_free = receivers(item).iter().all(|it| !self.0.contains_key(it) && !waiting.contains(it));
            if !is_free {
                waiting.extend(receivers(item));
            }
            is_free
        })
    }
}

fn receivers(item: &Item) -> Vec<Receiver> {
    match &item.dispatch.receivers {
        Receivers::Keys(keys) => keys.iter().cloned().map(Receiver::Key).collect(),
        Receivers::Room(room) => vec![Receiver::Room(room.clone())],
        Receivers::All { .. } => vec![Receiver::All],
    }
}

/// The room of this message, if it may be joined with others. A message that a client sent may not, since its copies
/// differ from each other.
fn joinable(dispatch: &Dispatch) -> Option<&RoomId> {
    match &dispatch.receivers {
        Receivers::Room(room) if dispatch.origin.is_none() => Some(room),
        _ => None,
    }
}

/// Moves messages of `room` from the queue into the call, up to the first one that may not be joined.
fn take_room(queue: &mut VecDeque<Item>, room: &RoomId, latest: Moment, max: usize, call: &mut Vec<Item>) {
    let is_of_room = |item: &Item| matches!(&item.dispatch.receivers, Receivers::Room(r) if r == room);
    if !queue.iter().take(WINDOW).any(is_of_room) {
        return;
    }
    let mut stay = Vec::new();
    let mut bytes = payload(&call[0].dispatch).len();
    for _ in 0..queue.len().min(WINDOW) {
        let Some(item) = queue.pop_front() else { break };
        let fits = call.len() < max && bytes + payload(&item.dispatch).len() <= JOIN_BYTES_MAX;
        if fits && item.queued <= latest && joinable(&item.dispatch) == Some(room) {
            bytes += payload(&item.dispatch).len();
            call.push(item);
            continue;
        }
        let ends = is_of_room(&item);
        stay.push(item);
        if ends {
            break;
        }
    }
    for item in stay.into_iter().rev() {
        queue.push_front(item);
    }
}

/// Several messages of one room as complete frames, one after the other.
fn join(first: &Item, items: &[Item]) -> Dispatch {
    let len = items.iter().map(|item| HEADER_LEN + payload(&item.dispatch).len()).sum();
    let mut frames = Vec::with_capacity(len);
    for item in items {
        match &item.dispatch.payload {
            Payload::Message { op, body } => {
                frame::encode(Header { ver: VER, op: *op, seq: 0 }, body, &mut frames);
            }
            Payload::Frames(ready) => frames.extend_from_slice(ready),
        }
    }
    Dispatch {
        receivers: first.dispatch.receivers.clone(),
        filter: Op::RAW,
        payload: Payload::Frames(frames.into()),
        origin: None,
        accepted_at_us: first.dispatch.accepted_at_us,
    }
}

fn payload(dispatch: &Dispatch) -> &Bytes {
    match &dispatch.payload {
        Payload::Message { body, .. } => body,
        Payload::Frames(frames) => frames,
    }
}
