//! Every way in which a connection ends, step by step. It leaves its rooms and its key at once. Then what is queued
//! goes out, then the shard shuts its own side, then both sides. When the driver holds nothing of the connection any
//! more, its slot is free.

use std::time::Duration;

use contract::Transport;
use proto::{
    close::{CloseReason, close_payload, disconnect_body},
    encoded::Encoded,
    frame::{Header, VER},
    ids::{Generation, Key},
    op::Op,
    websocket::{Opcode, Refusal},
};
use seam::{Bug, Time};

use super::{
    Action, LINGER, Outputs, Shard,
    connection::{Connection, Open, State},
    mail::{ConnectionId, Outcome, ToFront},
    queue::Outgoing,
    stats::DropReason,
    wheel::{TICK_MICROS, Tick},
};

/// A drain under way. Each tick closes a share of the connections.
pub(super) struct Draining {
    next_slot: u32,
    per_tick: u32,
    over: Duration,
    /// The number of arrivals from other shards at which the shard last told the front that it has no connection left.
    told: Option<u64>,
}

impl Shard {
    /// Ends a connection for `reason`; `text` is what the client reads.
    pub(super) fn close(
        &mut self,
        now: Time,
        id: ConnectionId,
        reason: CloseReason,
        text: &str,
        out: &mut Outputs,
    ) {
        let draining =
            self.draining.as_ref().filter(|_| reason == CloseReason::GoingAway).map(|drain| drain.over);
        let Some(connection) = self.slots.get_mut(id) else { return };
        let reasons = match &mut connection.state {
            State::Closing { .. } | State::Ended => return,
            State::Open(open) => open.reasons,
            State::Lobby(lobby) => {
                match lobby.outcome.take() {
                    // The front has given its verdict and forgotten the login. Only the session is left.
                    Some(Outcome::Open(session) | Outcome::Move { session, .. }) => {
                        out.mail.push_back(ToFront::Abandoned(session));
                    }
                    // The front has never heard of this login.
                    None if lobby.login.is_some() => {}
                    Some(Outcome::Refuse { .. }) | None => out.mail.push_back(ToFront::LoginGone(id)),
                }
                lobby.reasons
            }
            State::AwaitHeader { .. } | State::Handshaking { .. } | State::AwaitAuth { .. } => false,
        };
        *self.stats.closes.entry(reason).or_default() += 1;
        if connection.is_unauthenticated() {
            self.unauthenticated_now -= 1;
        }
        let header_is_due = matches!(connection.state, State::AwaitHeader { is_due: true, .. });
        let is_web = connection.transport == Transport::WebSocket;
        // A client of which no header is due is at the begin of its head.
        let handshaking = match connection.state {
            State::Handshaking { .. } => true,
            State::AwaitHeader { is_due, .. } => is_web && !is_due,
            _ => false,
        };
        let upgraded = is_web && !handshaking && !header_is_due;
        let before_login = connection.is_unauthenticated();
        let still_reading = connection.reading;
        self.handshakes_now -= usize::from(std::mem::take(&mut connection.handshaking));
        let in_tls_handshake = connection.tls.as_ref().is_some_and(|tls| !tls.is_established());
        let left = connection.begin_close(Tick::not_before(now.after(LINGER)));
        if let Some(left) = left {
            self.leave(id, left.open, left.peer, reason, out);
        }
        if matches!(reason, CloseReason::SlowConsumer) {
            self.drop_waiting(id, DropReason::SlowConsumer);
        }
        if reason == CloseReason::ConnectionLost || !still_reading {
            return self.shut(id, false, out);
        }
        if reason.is_announced() {
            if reasons {
                let delay = draining.map(|over| jitter(id, over));
                let body = disconnect_body(reason, text, delay);
                let header = Header { ver: VER, op: Op::DISCONNECT_REPLY, seq: 0 };
                self.reply(id.slot, &Encoded::reply(header, &body));
            }
            if upgraded {
                self.reply(id.slot, &Encoded::ws_control(Opcode::Close, &close_payload(reason, text)));
            } else if header_is_due && reason == CloseReason::LoginTimeout {
                self.stats.bad("proxy", "timeout");
            } else if in_tls_handshake && reason == CloseReason::LoginTimeout {
                self.stats.bad("tls", "timeout");
            } else if handshaking && reason == CloseReason::LoginTimeout {
                self.stats.bad("http", Refusal::Timeout.label());
                self.reply_bytes(id.slot, Refusal::Timeout.response());
            }
        }
        // A client that breaks the protocol before its login gets no time to linger.
        let answers = upgraded
            || handshaking && !in_tls_handshake
            || self.slots.get(id).is_some_and(Connection::has_unsent);
        if before_login && reason == CloseReason::ProtocolViolation && !answers {
            return self.shut(id, true, out);
        }
        self.arm(id.slot);
        self.fanout.flush_soon(id.slot);
    }

    /// Queues bytes that are no frame: an HTTP answer.
    pub(super) fn reply_bytes(&mut self, slot: u32, bytes: Vec<u8>) {
        self.enqueue(slot, Outgoing::raw(bytes), true);
    }

    /// Everything that was queued is written. Shuts our side, and both sides if the peer has ended its own.
    pub(super) fn finish(&mut self, id: ConnectionId, out: &mut Outputs) {
        let Some(connection) = self.slots.get_mut(id) else { return };
        if !connection.reading {
            return self.shut(id, false, out);
        }
        if let Some(tls) = &mut connection.tls {
            tls.close();
            if tls.has_output() {
                return self.send(id, out);
            }
        }
        if let State::Closing { half_closed, .. } = &mut connection.state
            && !*half_closed
        {
            *half_closed = true;
            out.actions.push(Action::Finish { id });
        }
    }

    /// Shuts both sides now.
    pub(super) fn shut(&mut self, id: ConnectionId, reset: bool, out: &mut Outputs) {
        self.drop_waiting(id, DropReason::Closed);
        let Some(connection) = self.slots.get_mut(id) else { return };
        if matches!(connection.state, State::Ended) {
            return;
        }
        connection.end();
        out.actions.push(Action::Shut { id, reset });
        self.release_if_drained(id, out);
    }

    /// Frees the slot when the driver holds nothing of the connection.
    pub(super) fn release_if_drained(&mut self, id: ConnectionId, out: &mut Outputs) {
        if self.slots.get(id).is_some_and(|connection| connection.is_drained()) {
            let connection = self.slots.remove(id).expect("it was just there");
            self.uncount(&connection);
            out.actions.push(Action::Release { id });
        }
    }

    /// It is not here any more.
    pub(super) fn uncount(&mut self, connection: &Connection) {
        *self.stats.connections.of(connection.transport) -= 1;
        self.stats.tls.connections -= u64::from(connection.tls.is_some());
    }

    /// Closes the connection of a key if its session is older than `below`, or whatever it is if there is no `below`.
    pub(super) fn kick(
        &mut self,
        now: Time,
        key: &Key,
        below: Option<Generation>,
        reason: CloseReason,
        text: &str,
        out: &mut Outputs,
    ) {
        let Some(slot) = self.find_key(key) else { return };
        let Some((id, connection)) = self.slots.at_mut(slot) else { return };
        let generation = connection.as_open().and_then(|open| open.session_generation);
        let older = below.is_none_or(|below| generation.is_some_and(|generation| generation < below));
        if older {
            self.close(now, id, reason, text, out);
        }
    }

    /// Makes room for a new connection that would exceed the limit of connections before their login: closes the
    /// oldest.
    pub(super) fn evict_oldest_unauthenticated(&mut self, now: Time, out: &mut Outputs) {
        while let Some((slot, generation)) = self.unauthenticated.pop_front() {
            let id = ConnectionId { shard: self.index, slot, generation };
            if self.slots.get(id).is_some_and(|connection| connection.is_unauthenticated()) {
                self.stats.bad("connection", "unauthenticated_limit");
                return self.close(now, id, CloseReason::Overloaded, CloseReason::Overloaded.text(), out);
            }
        }
    }

    /// Removes entries of connections that logged in or left from the front of the list, so that it grows no longer
    /// than the number of handshakes under way.
    pub(super) fn forget_logged_in(&mut self) {
        while let Some(&(slot, generation)) = self.unauthenticated.front() {
            let id = ConnectionId { shard: self.index, slot, generation };
            if self.slots.get(id).is_some_and(|connection| connection.is_unauthenticated()) {
                return;
            }
            self.unauthenticated.pop_front();
        }
    }

    /// Begins a drain: stops accepting, and spreads the closes over `over`. Connections before their login close at
    /// once, since no login gets an answer any more. A broadcast with a speed goes out at once to everybody whom it has
    /// not reached yet.
    pub(super) fn drain(&mut self, now: Time, over: Duration, out: &mut Outputs) {
        if self.draining.is_some() {
            return;
        }
        out.actions.push(Action::StopAccepting);
        let ticks = (over.as_micros() as u64 / TICK_MICROS).max(1) as u32;
        let per_tick = self.slots.end().div_ceil(ticks).max(1);
        self.draining = Some(Draining { next_slot: 0, per_tick, over, told: None });
        self.finish_paced(out);
        while let Some((slot, generation)) = self.unauthenticated.pop_front() {
            let id = ConnectionId { shard: self.index, slot, generation };
            if self.slots.get(id).is_some_and(|connection| connection.is_unauthenticated()) {
                self.go_away(now, id, out);
            }
        }
        self.drain_some(now, out);
    }

    /// Closes a connection because of the drain.
    pub(super) fn go_away(&mut self, now: Time, id: ConnectionId, out: &mut Outputs) {
        self.close(now, id, CloseReason::GoingAway, CloseReason::GoingAway.text(), out);
    }

    /// One tick's share of a drain.
    pub(super) fn drain_some(&mut self, now: Time, out: &mut Outputs) {
        let Some(draining) = &mut self.draining else { return };
        let from = draining.next_slot;
        let to = from.saturating_add(draining.per_tick).min(self.slots.end());
        draining.next_slot = draining.next_slot.max(to);
        let arrivals = self.arrivals;
        let is_news = self.slots.len() == 0 && draining.told.replace(arrivals) != Some(arrivals);
        for slot in from..to {
            if let Some((id, _)) = self.slots.at_mut(slot) {
                self.go_away(now, id, out);
            }
        }
        if is_news {
            self.report(out);
            out.mail.push_back(ToFront::Drained { arrivals });
        }
    }

    /// Takes an open connection out of keys and rooms and tells the front that it ended.
    fn leave(
        &mut self,
        id: ConnectionId,
        mut open: Open,
        peer: std::net::IpAddr,
        reason: CloseReason,
        out: &mut Outputs,
    ) {
        self.stats.open -= 1;
        self.remove_key(&open.key, id.slot);
        while let Some(membership) = open.memberships.pop() {
            self.leave_room(membership);
        }
        out.mail.push_back(ToFront::Ended {
            mid: open.mid,
            key: open.key,
            generation: open.session_generation,
            peer: Some(peer),
            reason,
        });
    }

    fn drop_waiting(&mut self, id: ConnectionId, reason: DropReason) {
        let Some(connection) = self.slots.get_mut(id) else { return };
        self.stats.queue_bytes -= u64::from(connection.queue.bytes());
        let frames = connection.queue.clear();
        if seam::planted(Bug::UncountedDrop) {
            return;
        }
        self.stats.drop_frames(reason, u64::from(frames));
    }
}

/// A delay for one client in milliseconds. Its slot decides, so that the delays spread evenly over `over`.
fn jitter(id: ConnectionId, over: Duration) -> u32 {
    let spread = (over.as_millis() as u64).max(1);
    ((u64::from(id.slot.wrapping_mul(2_654_435_761)) * spread) >> 32) as u32
}
