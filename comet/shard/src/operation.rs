//! What each operation of a logged-in client does (docs/PROTOCOL.md section 3).

use bytes::Bytes;
use contract::ClientMessage;
use proto::{
    close::CloseReason,
    encoded::Encoded,
    frame::{Frame, Header},
    ids::RoomId,
    op::Op,
};
use seam::{Bug, Time};

use super::{
    Outputs, Shard,
    connection::Open,
    input::Next,
    mail::{ConnectionId, ToFront},
    room::Membership,
    wheel::Tick,
};

impl Shard {
    /// Does what a frame asks for.
    pub(super) fn operation(
        &mut self,
        now: Time,
        id: ConnectionId,
        frame: &Frame<'_>,
        out: &mut Outputs,
    ) -> Next {
        match frame.header.op {
            Op::HEARTBEAT => self.heartbeat(id, frame.header),
            Op::SUBSCRIBE => self.subscribe(id, frame),
            Op::UNSUBSCRIBE => self.unsubscribe(id, frame),
            Op::CHANGE_ROOM => self.change_room(id, frame),
            Op::JOIN_ROOM => self.join_room(id, frame),
            Op::LEAVE_ROOM => self.leave_one_room(id, frame),
            op if op == Op::AUTH || op.is_server_only() => {
                self.stats.bad("frame", "operation");
                let reason = CloseReason::ProtocolViolation;
                self.close(now, id, reason, reason.text(), out);
                return Next::Closed;
            }
            _ => return self.message(id, frame, out),
        }
        let changes_rooms = matches!(frame.header.op, Op::CHANGE_ROOM | Op::JOIN_ROOM | Op::LEAVE_ROOM);
        match self.close_after_refusals(now, id, out) {
            // Each room that comes or goes is a count that the front has to hear of.
            Next::Frame if changes_rooms => self.hold_if_congested(id, out),
            next => next,
        }
    }

    /// Logic's answer to a client message.
    pub(super) fn logic_reply(&mut self, id: ConnectionId, request: Header, body: &Bytes) {
        if self.open_at(id).is_none() {
            return;
        }
        let same = self.config.unknown_reply_same && request.op != Op::SEND_MESSAGE;
        let op = if same { request.op } else { request.op.reply() };
        self.reply(id.slot, &Encoded::reply(Header { op, ..request }, body));
    }

    /// The way to the front is free again, so the connection goes on with the input that it carries.
    pub(super) fn go_on(&mut self, now: Time, id: ConnectionId, out: &mut Outputs) {
        let Some(open) = self.open_at(id) else { return };
        let Some(carried) = open.carried.take() else { return };
        if seam::planted(Bug::ForgottenResume) {
            return;
        }
        // The client seemed silent only because we did not read from it.
        open.heard = Tick::not_before(now);
        self.arm(id.slot);
        self.go_on_with(now, id, *carried, out);
    }

    /// Joins the room that operation 12 changes.
    pub(super) fn enter_first_room(&mut self, slot: u32, room: &RoomId) {
        // The client may be in it as a further room. It must not get the room's messages twice.
        self.exit_room(slot, room);
        let membership = self.rooms.join(room, slot);
        let Some((_, connection)) = self.slots.at_mut(slot) else { return };
        let Some(open) = connection.as_open_mut() else { return };
        open.memberships.insert(0, membership);
        open.has_first_room = true;
    }

    /// Joins a further room. False if the device has too many.
    pub(super) fn enter_room(&mut self, slot: u32, room: &RoomId) -> bool {
        let rooms_max = self.config.rooms_max;
        let Some((_, connection)) = self.slots.at_mut(slot) else { return false };
        let Some(open) = connection.as_open_mut() else { return false };
        if find_membership(&self.rooms, open, room).is_some() {
            return true;
        }
        if open.memberships.len() >= rooms_max {
            return false;
        }
        let membership = self.rooms.join(room, slot);
        open.memberships.push(membership);
        true
    }

    /// Leaves a room, be it the first or a further one. False if the client is not in it.
    fn exit_room(&mut self, slot: u32, room: &RoomId) -> bool {
        let Some((_, connection)) = self.slots.at_mut(slot) else { return false };
        let Some(open) = connection.as_open_mut() else { return false };
        let Some(place) = find_membership(&self.rooms, open, room) else { return false };
        let membership = open.memberships.remove(place);
        if place == 0 {
            open.has_first_room = false;
        }
        self.leave_room(membership);
        true
    }

    /// Removes a membership that its connection no longer lists.
    pub(super) fn leave_room(&mut self, membership: Membership) {
        let (rooms, slots) = (&mut self.rooms, &mut self.slots);
        let last = rooms.members(membership.room).len() as u32 - 1;
        rooms.leave(membership, |slot| {
            let moved =
                slots.at_mut(slot).and_then(|(_, connection)| connection.as_open_mut()).and_then(|open| {
                    open.memberships
                        .iter_mut()
                        .find(|other| other.room == membership.room && other.position == last)
                });
            if let Some(moved) = moved {
                moved.position = membership.position;
            }
        });
    }

    /// Operation 2: answers how many people are in the first room. The sign of life was noted with the frame.
    fn heartbeat(&mut self, id: ConnectionId, header: Header) {
        let Some(open) = self.slots.get(id).and_then(|connection| connection.as_open()) else { return };
        let people = open.first_room().map_or(0, |membership| self.rooms.people(membership.room));
        let body = i32::try_from(people).unwrap_or(i32::MAX).to_be_bytes();
        self.answer(id, header, &body);
    }

    /// Operation 12: the room named in the body becomes the first room; an empty body leaves it. The shard refuses a
    /// malformed name by answering with the room that the client is still in.
    fn change_room(&mut self, id: ConnectionId, frame: &Frame<'_>) {
        let target = match frame.body {
            [] => Ok(None),
            body => parse_room(body).map(Some),
        };
        let Some(open) = self.slots.get(id).and_then(|connection| connection.as_open()) else { return };
        let current = open.first_room().map(|membership| self.rooms.id(membership.room).clone());
        let others = open.memberships.len() - usize::from(current.is_some());
        let fits =
            |room| others < self.config.rooms_max || find_membership(&self.rooms, open, room).is_some();
        match target {
            Ok(target) if target.as_ref().is_none_or(fits) => {
                if target != current {
                    if let Some(room) = &current {
                        self.exit_room(id.slot, room);
                    }
                    if let Some(room) = &target {
                        self.enter_first_room(id.slot, room);
                    }
                }
                self.answer(id, frame.header, frame.body);
            }
            _ => self.refuse(id, frame.header, current.as_ref().map_or(&[], |room| room.as_str().as_bytes())),
        }
    }

    fn join_room(&mut self, id: ConnectionId, frame: &Frame<'_>) {
        let joined = parse_room(frame.body).is_ok_and(|room| self.enter_room(id.slot, &room));
        match joined {
            true => self.answer(id, frame.header, frame.body),
            false => self.refuse(id, frame.header, &[]),
        }
    }

    fn leave_one_room(&mut self, id: ConnectionId, frame: &Frame<'_>) {
        let left = parse_room(frame.body).is_ok_and(|room| self.exit_room(id.slot, &room));
        match left {
            true => self.answer(id, frame.header, frame.body),
            false => self.refuse(id, frame.header, &[]),
        }
    }

    fn subscribe(&mut self, id: ConnectionId, frame: &Frame<'_>) {
        let accepts_max = self.config.accepts_max;
        let Some(open) = self.open_at(id) else { return };
        let ops = parse_ops(frame.body).filter(|ops| {
            let new = ops.iter().filter(|op| !open.accepts.contains(op)).count();
            open.accepts.len() + new <= accepts_max
        });
        let Some(ops) = ops else { return self.refuse(id, frame.header, &[]) };
        for op in &ops {
            if !open.accepts.contains(op) {
                open.accepts.push(*op);
            }
        }
        self.answer(id, frame.header, list(&ops).as_bytes());
    }

    fn unsubscribe(&mut self, id: ConnectionId, frame: &Frame<'_>) {
        let Some(open) = self.open_at(id) else { return };
        let Some(ops) = parse_ops(frame.body) else { return self.refuse(id, frame.header, &[]) };
        open.accepts.retain(|op| !ops.contains(op));
        self.answer(id, frame.header, list(&ops).as_bytes());
    }

    /// Operation 4 and all operations that are not the protocol's own go to logic. Operation 4 of a client without a
    /// room has no receivers, so the shard answers it (goim's comet crashes on it).
    fn message(&mut self, id: ConnectionId, frame: &Frame<'_>, out: &mut Outputs) -> Next {
        let Some(open) = self.slots.get(id).and_then(|connection| connection.as_open()) else {
            return Next::Closed;
        };
        let room = open.first_room().map(|membership| self.rooms.id(membership.room).clone());
        if frame.header.op == Op::SEND_MESSAGE && room.is_none() {
            self.answer(id, frame.header, &[]);
            return Next::Frame;
        }
        out.mail.push_back(ToFront::Message {
            id,
            message: Box::new(ClientMessage {
                mid: open.mid,
                key: open.key.clone(),
                room,
                header: frame.header,
                body: Bytes::copy_from_slice(frame.body),
            }),
        });
        self.hold_if_congested(id, out)
    }

    /// If the way to the front is full, stops reading from the connection that has just added to it. So each connection
    /// owes the front one mail at most.
    fn hold_if_congested(&mut self, id: ConnectionId, out: &Outputs) -> Next {
        if !out.is_congested() {
            return Next::Frame;
        }
        self.congested.push_back(id);
        Next::Hold
    }

    fn answer(&mut self, id: ConnectionId, request: Header, body: &[u8]) {
        let header = Header { op: request.op.reply(), ..request };
        self.reply(id.slot, &Encoded::reply(header, body));
    }

    /// Answers a request that was refused and changed nothing.
    fn refuse(&mut self, id: ConnectionId, request: Header, body: &[u8]) {
        self.stats.bad("frame", "refused_request");
        if let Some(open) = self.open_at(id) {
            open.refusals = open.refusals.saturating_add(1);
        }
        self.answer(id, request, body);
    }

    fn close_after_refusals(&mut self, now: Time, id: ConnectionId, out: &mut Outputs) -> Next {
        let refusals_max = self.config.refusals_max;
        if self.open_at(id).is_some_and(|open| open.refusals > refusals_max) {
            let reason = CloseReason::LimitBroken;
            self.close(now, id, reason, reason.text(), out);
            return Next::Closed;
        }
        Next::Frame
    }

    fn open_at(&mut self, id: ConnectionId) -> Option<&mut Open> {
        self.slots.get_mut(id).and_then(|connection| connection.as_open_mut())
    }
}

fn find_membership(rooms: &super::room::Rooms, open: &Open, room: &RoomId) -> Option<usize> {
    let index = rooms.find(room)?;
    open.memberships.iter().position(|membership| membership.room == index)
}

fn parse_room(body: &[u8]) -> Result<RoomId, ()> {
    std::str::from_utf8(body).map_err(|_| ()).and_then(|room| RoomId::parse(room).map_err(|_| ()))
}

/// Reads the list of operations 14 and 16: decimal numbers between commas.
fn parse_ops(body: &[u8]) -> Option<Vec<Op>> {
    let text = std::str::from_utf8(body).ok()?;
    text.split(',').map(|op| op.trim().parse().ok().map(Op)).collect()
}

fn list(ops: &[Op]) -> String {
    ops.iter().map(Op::to_string).collect::<Vec<_>>().join(",")
}
