//! What one connection must be, made from what its client said and what its shard was told; and what it must get.

use std::{collections::VecDeque, net::IpAddr};

use contract::{Session, Transport};
use proto::{
    ids::{Generation, Key, RoomId},
    op::Op,
};
use seam::Time;
use shard::mail::ConnectionId;
use testkit::wire::{Heard, ServerStream};

use super::Rules;
use crate::secure::Secure;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In the backlog of a listener.
    Waiting,
    /// Before its login, after so many other operations.
    Before(u8),
    Lobby,
    /// Between two shards.
    Moving,
    Open,
    /// Its shard has begun to close it.
    Closed,
    /// Its descriptor is closed.
    Over,
}

/// A frame of a client.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) op: Op,
    pub(crate) seq: i32,
    pub(crate) body: Vec<u8>,
    /// Offset in what the client writes at which it is complete.
    pub(crate) end: u64,
}

/// A frame that the connection must get next, unless it is dropped.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    Push { id: u32, seq: i32 },
    Reply { op: i32, seq: i32, body: Option<Vec<u8>>, optional: bool },
}

/// One connection of a client, from its first byte to its descriptor's end.
pub(crate) struct Conn {
    pub(crate) peer: IpAddr,
    pub(crate) shard: u16,
    pub(crate) id: Option<ConnectionId>,
    pub(crate) phase: Phase,
    /// When the phase began, or, of an open connection, when it was last heard.
    pub(crate) since: Time,
    /// When its login came.
    pub(crate) arrived: Time,
    /// Frames that its client wrote and its shard has not read.
    pub(crate) requests: VecDeque<Request>,
    pub(crate) written: u64,
    pub(crate) handed: u64,
    /// Its client has said something for which it is closed.
    pub(crate) doomed: bool,
    /// A write is under way.
    pub(crate) writing: bool,
    /// Its client's TLS, where it has that. What was written, handed and read is text, but for the bytes of the server.
    pub(crate) secure: Option<Box<Secure>>,
    /// The last message of its client that logic published.
    pub(crate) last_message: Option<u32>,
    /// Questions to logic that it has not answered.
    pub(crate) asked: u32,
    /// It is not read: the way to the front is full.
    pub(crate) carrying: bool,
    pub(crate) session: Option<Session>,
    pub(crate) first: Option<RoomId>,
    pub(crate) others: Vec<RoomId>,
    pub(crate) accepts: Vec<Op>,
    pub(crate) reasons: bool,
    refusals: u8,
    expected: VecDeque<Expected>,
    stream: ServerStream,
    /// Bytes that the shard wants written and the client has not read.
    shadow: VecDeque<u8>,
    /// What those bytes say, with where in the stream it ends.
    said: VecDeque<(u64, Heard)>,
    read: u64,
    /// Broadcasts with a speed that it got.
    paced: Vec<u32>,
    /// Frames that it should have got and that its shard never sent.
    pub(crate) missing: u64,
    /// The same, where nobody can say whether it should have.
    pub(crate) doubtful: u64,
    /// An operation 6 may have been queued and dropped.
    pub(crate) announced: bool,
}

impl Conn {
    pub(crate) fn new(
        transport: Transport,
        secure: Option<Secure>,
        peer: IpAddr,
        shard: u16,
        now: Time,
    ) -> Conn {
        Conn {
            peer,
            shard,
            id: None,
            phase: Phase::Waiting,
            since: now,
            arrived: now,
            requests: VecDeque::new(),
            written: 0,
            handed: 0,
            doomed: false,
            writing: false,
            secure: secure.map(Box::new),
            last_message: None,
            asked: 0,
            carrying: false,
            session: None,
            first: None,
            others: Vec::new(),
            accepts: Vec::new(),
            reasons: false,
            refusals: 0,
            expected: VecDeque::new(),
            stream: ServerStream::new(transport),
            shadow: VecDeque::new(),
            said: VecDeque::new(),
            read: 0,
            paced: Vec::new(),
            missing: 0,
            doubtful: 0,
            announced: false,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub(crate) fn key(&self) -> Option<&Key> {
        self.session.as_ref().map(|session| &session.key)
    }

    pub(crate) fn generation(&self) -> Option<Generation> {
        self.session.as_ref().and_then(|session| session.generation)
    }

    pub(crate) fn is_in(&self, room: &RoomId) -> bool {
        self.first.as_ref() == Some(room) || self.others.contains(room)
    }

    pub(crate) fn enter(&mut self, phase: Phase, now: Time) {
        (self.phase, self.since) = (phase, now);
    }

    /// Logged in.
    pub(crate) fn open(&mut self, rules: &Rules, now: Time) {
        self.enter(Phase::Open, now);
        let Some(session) = self.session.clone() else { return };
        self.accepts.clone_from(&session.accepts);
        self.first.clone_from(&session.room);
        for room in session.rooms {
            let total = self.others.len() + usize::from(self.first.is_some());
            if !self.is_in(&room) && total < rules.rooms_max {
                self.others.push(room);
            }
        }
        self.expect_reply(Op::AUTH_REPLY, 1, Some(Vec::new()), false);
        // Until what came behind the login was read.
        self.carrying = true;
    }

    /// Its shard has begun to close it. What it was promised in the same event may not have come about.
    pub(crate) fn close(&mut self, now: Time) {
        self.announced |= self.reasons;
        self.enter(Phase::Closed, now);
        self.carrying = false;
    }

    /// The login's reply, and replies to what was read since, are not promised: it closed in the same event.
    pub(crate) fn doubt_replies(&mut self, from: usize) {
        for expected in self.expected.iter_mut().skip(from) {
            if let Expected::Reply { optional, .. } = expected {
                *optional = true;
            }
        }
    }

    pub(crate) fn expected_len(&self) -> usize {
        self.expected.len()
    }

    pub(crate) fn expect_push(&mut self, id: u32, seq: i32) {
        self.expected.push_back(Expected::Push { id, seq });
    }

    pub(crate) fn expect_reply(&mut self, op: Op, seq: i32, body: Option<Vec<u8>>, optional: bool) {
        self.expected.push_back(Expected::Reply { op: op.0, seq, body, optional });
    }

    /// Its shard has been handed so many more bytes.
    pub(crate) fn hand(&mut self, bytes: usize) {
        match &mut self.secure {
            Some(secure) => self.handed = secure.handed(bytes),
            None => self.handed += bytes as u64,
        }
    }

    /// Its shard may have done the handshake: the time for the login begins.
    pub(crate) fn shake_hands(&mut self, now: Time) {
        if self.secure.as_mut().is_some_and(|secure| secure.step()) {
            self.since = now;
        }
    }

    /// Its client's TLS is not done.
    pub(crate) fn is_shaking_hands(&self) -> bool {
        self.secure.as_ref().is_some_and(|secure| !secure.is_done)
    }

    /// Ciphertext that its client can write now.
    pub(crate) fn take_written(&mut self) -> Vec<u8> {
        self.secure.as_mut().map_or(Vec::new(), |secure| secure.take_written(self.read))
    }

    /// Its shard has read one of its frames.
    pub(crate) fn take(&mut self, rules: &Rules) -> Result<(), String> {
        match self.requests.pop_front().filter(|request| request.end <= self.handed) {
            Some(request) => {
                self.apply(request, rules);
                Ok(())
            }
            None => Err("its shard read a frame that the client has not sent".into()),
        }
    }

    /// Everything that was handed to its shard must have been read.
    pub(crate) fn check_all_read(&self) -> Result<(), String> {
        // Of a connection without a login nothing says that it is closed while a write holds its last words up.
        let before = matches!(self.phase, Phase::Before(_)) && !self.writing;
        let reads = (self.is_open() || before) && !self.carrying && !self.doomed;
        match self.requests.front() {
            Some(request) if reads && request.end <= self.handed => {
                Err(format!("its operation {} (seq {}) was never read", request.op, request.seq))
            }
            _ => Ok(()),
        }
    }

    fn apply(&mut self, request: Request, rules: &Rules) {
        let Request { op, seq, body, .. } = request;
        match self.phase {
            Phase::Before(_) if op == Op::AUTH => return,
            Phase::Before(ignored) => {
                self.doomed |= ignored == rules.ignored_max;
                return self.phase = Phase::Before(ignored.saturating_add(1));
            }
            // In the event that closed it, too.
            Phase::Open | Phase::Closed => {}
            _ => return,
        }
        // A login that was read in the event that closed it.
        if self.session.is_none() {
            return;
        }
        let room = std::str::from_utf8(&body).ok().and_then(|name| RoomId::parse(name).ok());
        let total = self.others.len() + usize::from(self.first.is_some());
        let mut refused = false;
        let answer: Option<Vec<u8>> = match (op, room) {
            (Op::HEARTBEAT, _) => None,
            (Op::CHANGE_ROOM, None) if body.is_empty() => {
                self.first = None;
                Some(body)
            }
            (Op::CHANGE_ROOM, Some(room)) => {
                let others = self.others.iter().filter(|other| **other != room).count();
                let fits = self.others.len() < rules.rooms_max || self.is_in(&room);
                if fits && others < rules.rooms_max {
                    self.others.retain(|other| *other != room);
                    self.first = Some(room);
                    Some(body)
                } else {
                    refused = true;
                    Some(self.first.as_ref().map_or(Vec::new(), |room| room.as_str().as_bytes().to_vec()))
                }
            }
            (Op::JOIN_ROOM, Some(room)) => {
                if self.is_in(&room) {
                    Some(body)
                } else if total < rules.rooms_max {
                    self.others.push(room);
                    Some(body)
                } else {
                    refused = true;
                    Some(Vec::new())
                }
            }
            (Op::LEAVE_ROOM, Some(room)) => {
                if self.is_in(&room) {
                    self.others.retain(|other| *other != room);
                    self.first = self.first.take().filter(|first| *first != room);
                    Some(body)
                } else {
                    refused = true;
                    Some(Vec::new())
                }
            }
            (Op::CHANGE_ROOM, None) => {
                refused = true;
                Some(self.first.as_ref().map_or(Vec::new(), |room| room.as_str().as_bytes().to_vec()))
            }
            (Op::JOIN_ROOM | Op::LEAVE_ROOM, None) => {
                refused = true;
                Some(Vec::new())
            }
            (Op::SUBSCRIBE | Op::UNSUBSCRIBE, _) => {
                let ops: Option<Vec<Op>> = std::str::from_utf8(&body)
                    .ok()
                    .and_then(|text| text.split(',').map(|op| op.trim().parse().ok().map(Op)).collect());
                match ops {
                    Some(ops) if op == Op::UNSUBSCRIBE => {
                        self.accepts.retain(|op| !ops.contains(op));
                        Some(body)
                    }
                    Some(ops)
                        if self.accepts.len()
                            + ops.iter().filter(|op| !self.accepts.contains(op)).count()
                            <= rules.accepts_max =>
                    {
                        for op in ops {
                            if !self.accepts.contains(&op) {
                                self.accepts.push(op);
                            }
                        }
                        Some(body)
                    }
                    _ => {
                        refused = true;
                        Some(Vec::new())
                    }
                }
            }
            // Nobody is there to hear it.
            (Op::SEND_MESSAGE, _) if self.first.is_none() => Some(Vec::new()),
            // The shard closes it.
            (op, _) if op == Op::AUTH || op.is_server_only() => return,
            // The room answers, or logic.
            (Op::SEND_MESSAGE, _) => return,
            _ => return self.asked += 1,
        };
        self.refusals = self.refusals.saturating_add(u8::from(refused));
        // Whether the event that closed it answered first is anybody's guess.
        let optional = self.phase == Phase::Closed;
        self.expect_reply(op.reply(), seq, answer, optional);
    }

    /// Its shard wants these bytes written.
    pub(crate) fn sends(&mut self, bytes: &[u8], paced: &[u32]) -> Result<(), String> {
        self.shadow.extend(bytes);
        let mut got = Vec::new();
        match &mut self.secure {
            Some(secure) => {
                for (end, text) in secure.show(bytes)? {
                    let known = got.len();
                    self.stream.push(&text, &mut got)?;
                    got[known..].iter_mut().for_each(|(place, _)| *place = end);
                }
            }
            None => self.stream.push(bytes, &mut got)?,
        }
        for (end, got) in got {
            match &got {
                Heard::Frame(frame) => self.check_frame(frame.op, frame.seq, &frame.body, paced)?,
                Heard::Close(_) => self.doomed = true,
                Heard::Http(status) => self.doomed |= *status != 101,
                Heard::Ping(_) => return Err("the server sent a ping".into()),
                Heard::Pong => {}
            }
            self.said.push_back((end, got));
        }
        Ok(())
    }

    fn check_frame(&mut self, op: i32, seq: i32, body: &[u8], paced: &[u32]) -> Result<(), String> {
        if Op(op) == Op::DISCONNECT_REPLY {
            // That it left the lobby is not always said.
            let closing = matches!(self.phase, Phase::Closed | Phase::Over | Phase::Lobby);
            self.announced = false;
            self.phase = Phase::Closed;
            return if closing && self.reasons {
                Ok(())
            } else {
                Err("an operation 6 that it did not ask for".into())
            };
        }
        let id = push_id(body);
        if let Some(id) = id.filter(|id| paced.contains(id)) {
            if self.paced.contains(&id) {
                return Err(format!("push {id} came twice"));
            }
            self.paced.push(id);
            return Ok(());
        }
        while let Some(expected) = self.expected.pop_front() {
            match expected {
                Expected::Push { id: wanted, seq: wanted_seq } => {
                    if id == Some(wanted) && seq == wanted_seq {
                        return Ok(());
                    }
                    self.missing += 1;
                }
                Expected::Reply { op: wanted, seq: wanted_seq, body: wanted_body, optional } => {
                    let is_it = id.is_none() && wanted == op && wanted_seq == seq;
                    if is_it && wanted_body.as_ref().is_none_or(|wanted| wanted == body) {
                        return Ok(());
                    }
                    if !optional {
                        return Err(format!(
                            "it gets operation {op} (seq {seq}, {}) where operation {wanted} (seq {wanted_seq}, {}) is due",
                            crate::trace::short(body),
                            crate::trace::short(&wanted_body.unwrap_or_default())
                        ));
                    }
                    self.doubtful += 1;
                }
            }
        }
        Err(match id {
            Some(id) => format!("push {id} is not for it, came before, or comes out of order"),
            None => format!("operation {op} (seq {seq}) answers nothing"),
        })
    }

    /// Its client has read these bytes: what they say.
    pub(crate) fn client_read(&mut self, bytes: &[u8]) -> Result<Vec<Heard>, String> {
        for byte in bytes {
            if self.shadow.pop_front() != Some(*byte) {
                return Err(format!("byte {} is not what its shard sent", self.read));
            }
            self.read += 1;
        }
        let mut got = Vec::new();
        while self.said.front().is_some_and(|(end, _)| *end <= self.read) {
            got.extend(self.said.pop_front().map(|(_, got)| got));
        }
        Ok(got)
    }

    /// Its descriptor is closed: what it did not get is missing.
    pub(crate) fn over(&mut self, now: Time) {
        self.enter(Phase::Over, now);
        for expected in std::mem::take(&mut self.expected) {
            match expected {
                Expected::Reply { optional: true, .. } => self.doubtful += 1,
                _ => self.missing += 1,
            }
        }
        self.doubtful += u64::from(self.announced);
        self.requests = VecDeque::new();
    }

    /// Replies that are due: nothing of it may be at the end.
    pub(crate) fn due(&self) -> Option<String> {
        self.expected.iter().find_map(|expected| match expected {
            Expected::Reply { op, seq, optional: false, .. } => Some(format!("operation {op} (seq {seq})")),
            _ => None,
        })
    }
}

/// The number that each push's body begins with.
pub(crate) fn push_id(body: &[u8]) -> Option<u32> {
    let digits = body.strip_prefix(b"#")?;
    let end = digits.iter().position(|byte| *byte == b' ')?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// A push's body: its number, and as many bytes as it shall have.
pub(crate) fn push_body(id: u32, len: usize) -> Vec<u8> {
    let mut body = format!("#{id} ").into_bytes();
    body.resize(body.len().max(len), b'.');
    body
}
