//! From pushes to send queues, and from send queues to writes.
//!
//! The shard first appends a push to the queues of all its receivers. Later it flushes the connections that have
//! something to send, a limited number a turn, each with one write for everything that waits. What arrives in between
//! goes into the same write.

use std::{collections::VecDeque, time::Duration};

use proto::{close::CloseReason, ids::RoomId, op::Op};
use seam::{Bug, Time};
use tls::Tls;

use super::{
    Action, Batch, Outputs, Shard,
    connection::State,
    mail::{ConnectionId, Push, PushTo},
    queue::{Outgoing, Queued},
    secure::sealed,
    stats::DropReason,
    wheel::TICK_MICROS,
};

/// Broadcasts with a speed that may be under way at once. With one more, the oldest goes to all its remaining receivers
/// at once.
const PACED_MAX: usize = 64;

/// Bytes that one flush seals, and the run that goes beyond it. A push of 1 MiB to a thousand clients with TLS is a gigabyte
/// to seal, which nobody else shall wait for; this takes about a third of a millisecond.
const SEALED_MAX: u64 = 1 << 20;

/// Whether there is more to flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushState {
    /// Nothing.
    Idle,
    /// The window of batching is open until then.
    Wait(Time),
    /// More at once, because the budget of this turn is used up.
    More,
}

/// Which connections have something to send.
pub(super) struct Fanout {
    /// Slots with replies, which are flushed at the end of the event.
    urgent: Vec<u32>,
    /// Slots with pushes, which are flushed in turns. A connection stands here once. A slot may stand here more often,
    /// if earlier tenants left entries behind.
    pub(super) dirty: VecDeque<u32>,
    flush_at: Time,
    batch: Batch,
    window: Duration,
    paced: Vec<Paced>,
    /// Connections to close because their queue is full.
    overflowed: Vec<ConnectionId>,
    /// Connections to close because their TLS can seal no more.
    used_up: Vec<ConnectionId>,
    /// Bytes that TLS has sealed so far.
    sealed: u64,
    /// The last flush has left connections for the next turn because it had sealed enough.
    is_sealing: bool,
}

/// A broadcast that is spread over time.
struct Paced {
    outgoing: Outgoing,
    filter: Op,
    per_second: u32,
    next_slot: u32,
    started: Time,
    done: u64,
}

impl Fanout {
    pub(super) fn new(batch: Batch) -> Fanout {
        let window = match batch {
            Batch::Fixed(window) => window,
            Batch::Off | Batch::Adaptive(_) => Duration::ZERO,
        };
        Fanout {
            urgent: Vec::new(),
            dirty: VecDeque::new(),
            flush_at: Time::default(),
            batch,
            window,
            paced: Vec::new(),
            overflowed: Vec::new(),
            used_up: Vec::new(),
            sealed: 0,
            is_sealing: false,
        }
    }

    /// Sets the adaptive window by the load: none below half load, all of it from nine tenths on.
    pub(super) fn observe_load(&mut self, permille: u64) {
        if let Batch::Adaptive(window) = self.batch {
            self.window = window * permille.saturating_sub(500).min(400) as u32 / 400;
        }
    }

    /// Whether some connection waits for a flush.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Flushes this connection when the event ends.
    pub(super) fn flush_soon(&mut self, slot: u32) {
        self.urgent.push(slot);
    }
}

impl Shard {
    /// Appends a push to the queues of its receivers on this shard.
    pub(super) fn push(&mut self, now: Time, push: &Push, out: &mut Outputs) {
        self.stats.pushes += 1;
        self.stats.dispatch_to_shard.record(now.since(push.dispatched).as_micros() as u64);
        if self.fanout.dirty.is_empty() {
            self.fanout.flush_at = now.after(self.fanout.window);
        }
        let outgoing = Outgoing::push(&push.encoded, push.accepted);
        match &push.to {
            PushTo::Keys(keys) => {
                for key in keys {
                    match self.find_key(key) {
                        Some(slot) => drop(self.push_if_accepted(slot, push.filter, &outgoing, out)),
                        None => self.stats.drop_frames(DropReason::Absent, push.encoded.frames() as u64),
                    };
                }
            }
            PushTo::Room(room) => self.push_room(room, push, &outgoing, out),
            PushTo::All { speed: 0 } => {
                for slot in 0..self.slots.end() {
                    self.push_if_accepted(slot, push.filter, &outgoing, out);
                }
            }
            PushTo::All { speed } => self.start_paced(now, outgoing, push.filter, *speed, out),
        }
    }

    /// Queues a push. If it does not fit and no write is under way, the driver first gets what waits: a connection
    /// counts as slow only during a write.
    fn deliver(&mut self, slot: u32, outgoing: Outgoing, out: &mut Outputs) {
        let limit = self.config.queue_bytes_max;
        let Some((id, connection)) = self.slots.at_mut(slot) else { return };
        if !connection.send_in_flight && !connection.queue.fits(&outgoing, connection.wire_kind(), limit) {
            self.send(id, out);
        }
        self.enqueue(slot, outgoing, false);
    }

    /// Puts a frame into a connection's queue. An urgent one leaves at the end of the event.
    pub(super) fn enqueue(&mut self, slot: u32, outgoing: Outgoing, urgent: bool) {
        let (mut limit, policy) = (self.config.queue_bytes_max, self.config.slow_consumer);
        let Some((id, connection)) = self.slots.at_mut(slot) else { return };
        if urgent && !connection.send_in_flight {
            limit = u32::MAX; // it leaves with this event, and one read asks for only so much
        }
        let wire = connection.wire_kind();
        let before = connection.queue.bytes();
        let frames = u64::from(outgoing.frames());
        match connection.queue.push(outgoing, wire, limit, policy) {
            Queued::Waiting => {}
            Queued::DroppedOldest(dropped) => {
                self.stats.drop_frames(DropReason::SlowConsumer, u64::from(dropped))
            }
            Queued::Overflow => {
                self.stats.drop_frames(DropReason::SlowConsumer, frames);
                self.fanout.overflowed.push(id);
            }
        }
        self.stats.queue_bytes =
            self.stats.queue_bytes + u64::from(connection.queue.bytes()) - u64::from(before);
        if connection.send_in_flight {
            return; // the end of that write takes what waits
        }
        if urgent {
            self.fanout.urgent.push(slot);
        } else if !connection.dirty {
            connection.dirty = true;
            self.fanout.dirty.push_back(slot);
        }
    }

    /// Flushes pushes to at most `budget` connections, and fewer where TLS seals much for them.
    pub fn flush(&mut self, now: Time, budget: usize, out: &mut Outputs) -> FlushState {
        self.fanout.is_sealing = false;
        if self.fanout.dirty.is_empty() {
            return FlushState::Idle;
        }
        if self.fanout.flush_at > now {
            return FlushState::Wait(self.fanout.flush_at);
        }
        let sealed_max = self.fanout.sealed + SEALED_MAX;
        for _ in 0..budget {
            if self.fanout.sealed >= sealed_max {
                self.fanout.is_sealing = self.fanout.is_dirty();
                break;
            }
            let Some(slot) = self.fanout.dirty.pop_front() else { break };
            if let Some((id, connection)) = self.slots.at_mut(slot)
                && std::mem::take(&mut connection.dirty)
            {
                self.send(id, out);
            }
        }
        if self.fanout.is_dirty() {
            return FlushState::More;
        }
        self.joined.clear();
        FlushState::Idle
    }

    /// Whether a flush is behind because TLS has much to seal. The driver takes no mail meanwhile: one more push would meet
    /// full queues, and what is in them would be sealed all at once.
    pub fn is_sealing(&self) -> bool {
        self.fanout.is_sealing
    }

    /// Ends an event: closes connections whose queue had no room, and sends what is urgent.
    pub(super) fn flush_urgent(&mut self, now: Time, out: &mut Outputs) {
        while let Some(id) = self.fanout.overflowed.pop() {
            let reason = CloseReason::SlowConsumer;
            self.close(now, id, reason, reason.text(), out);
        }
        while let Some(slot) = self.fanout.urgent.pop() {
            if let Some((id, _)) = self.slots.at_mut(slot) {
                self.send(id, out);
            }
        }
        while let Some(id) = self.fanout.used_up.pop() {
            let reason = CloseReason::GoingAway;
            self.close(now, id, reason, reason.text(), out);
            self.flush_urgent(now, out);
        }
    }

    /// A write ended. Sends what came meanwhile, or takes the step that waited for the write.
    pub(super) fn after_send(&mut self, now: Time, id: ConnectionId, out: &mut Outputs) {
        let Some(connection) = self.slots.get_mut(id) else { return };
        if !connection.has_unsent() {
            return match &mut connection.state {
                State::Closing { .. } => self.finish(id, out),
                State::Lobby(lobby) => {
                    if let Some(outcome) = lobby.outcome.take() {
                        self.decide(now, id, outcome, out);
                    }
                }
                _ => {}
            };
        }
        let pushes_only = matches!(connection.state, State::Open(_))
            && !connection.queue.has_reply()
            && !connection.tls.as_ref().is_some_and(Tls::has_output);
        if self.fanout.window.is_zero() || !pushes_only {
            self.send(id, out);
        } else if !connection.dirty {
            connection.dirty = true;
            if self.fanout.dirty.is_empty() {
                self.fanout.flush_at = now.after(self.fanout.window);
            }
            self.fanout.dirty.push_back(id.slot);
        }
    }

    /// Sends one tick's share of the broadcasts with a speed.
    pub(super) fn pace(&mut self, now: Time, out: &mut Outputs) {
        let mut paced = std::mem::take(&mut self.fanout.paced);
        paced.retain_mut(|broadcast| {
            // Counting one tick ahead makes a broadcast begin at once.
            let elapsed = now.since(broadcast.started).as_micros() as u64 + TICK_MICROS;
            let due = elapsed * u64::from(broadcast.per_second) / 1_000_000;
            while broadcast.next_slot < self.slots.end() && broadcast.done < due {
                let slot = broadcast.next_slot;
                broadcast.next_slot += 1;
                if self.push_if_accepted(slot, broadcast.filter, &broadcast.outgoing, out) {
                    broadcast.done += 1;
                }
            }
            broadcast.next_slot < self.slots.end()
        });
        self.fanout.paced = paced;
    }

    fn start_paced(&mut self, now: Time, outgoing: Outgoing, filter: Op, per_second: u32, out: &mut Outputs) {
        if self.fanout.paced.len() == seam::bound(PACED_MAX) {
            let oldest = self.fanout.paced.remove(0);
            self.finish_one(&oldest, out);
        }
        self.fanout.paced.push(Paced { outgoing, filter, per_second, next_slot: 0, started: now, done: 0 });
        if self.draining.is_some() {
            self.finish_paced(out);
        }
    }

    /// Sends every broadcast with a speed at once to everybody whom it has not reached.
    pub(super) fn finish_paced(&mut self, out: &mut Outputs) {
        for broadcast in std::mem::take(&mut self.fanout.paced) {
            self.finish_one(&broadcast, out);
        }
    }

    fn finish_one(&mut self, broadcast: &Paced, out: &mut Outputs) {
        for slot in broadcast.next_slot..self.slots.end() {
            self.push_if_accepted(slot, broadcast.filter, &broadcast.outgoing, out);
        }
    }

    fn push_room(&mut self, room: &RoomId, push: &Push, outgoing: &Outgoing, out: &mut Outputs) {
        let Some(index) = self.rooms.find(room) else { return };
        let origin = push.origin.as_ref().and_then(|(key, copy)| {
            self.find_key(key).map(|slot| (slot, Outgoing::push(copy, push.accepted)))
        });
        for position in 0..self.rooms.members(index).len() {
            let slot = self.rooms.members(index)[position];
            match &origin {
                _ if position == 2 && seam::planted(Bug::LostFrame) => {}
                Some((sender, copy)) if *sender == slot => {
                    self.deliver(slot, copy.clone(), out);
                    if seam::planted(Bug::DoubleDelivery) {
                        self.deliver(slot, outgoing.clone(), out);
                    }
                }
                _ => self.deliver(slot, outgoing.clone(), out),
            }
        }
    }

    /// Queues a push for the connection in `slot` if it accepts the operation; true if it does.
    fn push_if_accepted(&mut self, slot: u32, filter: Op, outgoing: &Outgoing, out: &mut Outputs) -> bool {
        let accepted = self
            .slots
            .at_mut(slot)
            .and_then(|(_, connection)| connection.as_open())
            .is_some_and(|open| open.accepts(filter));
        if accepted {
            self.deliver(slot, outgoing.clone(), out);
        }
        accepted
    }

    /// Hands to the driver everything that waits for a connection, unless the last run is still being written.
    pub(super) fn send(&mut self, id: ConnectionId, out: &mut Outputs) {
        let Some(connection) = self.slots.get_mut(id) else { return };
        if connection.send_in_flight {
            return;
        }
        let waiting = u64::from(connection.queue.bytes());
        let wire = connection.wire_kind();
        let mut run = connection.queue.take(wire, &mut self.joined);
        if run.is_some() {
            self.stats.queue_bytes -= waiting;
        }
        if let Some(tls) = &mut connection.tls {
            let (sealed, lost) = sealed(tls, run);
            run = sealed;
            self.fanout.sealed += run.as_ref().map_or(0, |run| run.as_slice().len() as u64);
            if let Some(frames) = lost {
                self.stats.drop_frames(DropReason::Closed, u64::from(frames));
                self.fanout.used_up.push(id);
            }
        }
        match run {
            Some(run) => {
                connection.send_in_flight = true;
                out.actions.push(Action::Send { id, run });
            }
            None if matches!(connection.state, State::Closing { .. }) => self.finish(id, out),
            None => {}
        }
    }
}
