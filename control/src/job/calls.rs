//! How the queue of a link becomes calls of its comet.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use cluster::services::{Dispatch, Payload, Receivers};
use proto::{
    frame::{self, HEADER_LEN, Header},
    ids::RoomId,
    op::Op,
};
use tokio::time::Instant;

use super::link::Item;

/// Most entries in one call: what a failed call repeats is bounded.
pub(super) const BATCH_MAX: usize = 4096;

/// How far down the queue a unary call looks for messages of its room.
const JOIN_WINDOW: usize = 256;

/// Most bytes that are joined: half of what waits for one client at most (`comet.limits.sendQueue`), so that joining never
/// makes a frame that a slow client cannot take.
const JOIN_BYTES_MAX: usize = 32 << 10;

/// What one call of a comet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Everything that waits, in order, neither joined nor reordered: the comet joins.
    Batches,
    /// One push: goim's unary calls. What else waits of the same room goes into the same call; messages of different
    /// rooms, keyed pushes and broadcasts may pass each other, messages of one room never.
    Unary {
        /// Messages joined at most (`room.batch`).
        join_max: usize,
        /// Messages that arrived further apart are not joined (`room.signal`).
        join_within: Duration,
    },
}

impl Calls {
    /// Takes what the next call carries from the queue; nothing only when it is empty.
    pub(super) fn take(self, queue: &mut VecDeque<Item>) -> Vec<Item> {
        match self {
            Calls::Batches => queue.drain(..queue.len().min(BATCH_MAX)).collect(),
            Calls::Unary { join_max, join_within } => {
                let Some(first) = queue.pop_front() else { return Vec::new() };
                let latest = first.queued + join_within;
                let room = joinable(&first.dispatch).cloned();
                let mut call = vec![first];
                if let Some(room) = room {
                    take_room(queue, &room, latest, join_max, &mut call);
                }
                call
            }
        }
    }

    /// What to hand to the comet for these items.
    pub(super) fn dispatches(self, items: &[Item]) -> Vec<Dispatch> {
        match (self, items) {
            (Calls::Unary { .. }, [first, _, ..]) => vec![join(first, items)],
            _ => items.iter().map(|item| item.dispatch.clone()).collect(),
        }
    }
}

/// The room of a message that may be joined with others: not one that a client sent, whose copies differ.
fn joinable(dispatch: &Dispatch) -> Option<&RoomId> {
    match &dispatch.receivers {
        Receivers::Room(room) if dispatch.origin.is_none() => Some(room),
        _ => None,
    }
}

/// Moves messages of `room` from the queue to the call, up to the first that may not be joined.
fn take_room(queue: &mut VecDeque<Item>, room: &RoomId, latest: Instant, max: usize, call: &mut Vec<Item>) {
    let is_of_room = |item: &Item| matches!(&item.dispatch.receivers, Receivers::Room(r) if r == room);
    if !queue.iter().take(JOIN_WINDOW).any(is_of_room) {
        return;
    }
    let mut stay = Vec::new();
    let mut bytes = payload(&call[0].dispatch).len();
    for _ in 0..queue.len().min(JOIN_WINDOW) {
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
                frame::encode(Header { ver: 1, op: *op, seq: 0 }, body, &mut frames);
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
