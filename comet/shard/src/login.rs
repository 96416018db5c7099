//! From the login to an open connection: the lobby, logic's verdict, the way to the shard that owns the key, and the
//! choice between two connections with one key.

use std::time::Duration;

use bytes::Bytes;
use contract::Session;
use proto::{
    close::CloseReason,
    encoded::Encoded,
    frame::{Frame, Header},
    ids::Generation,
    login::extras,
};
use seam::{Bug, Time};

use super::{
    Action, Flow, Outputs, Shard,
    connection::{Connection, State},
    mail::{Carried, ConnectionId, Handover, Login, OpenSession, Outcome, ToFront, Verdict},
    rate::TokenBucket,
    wheel::Tick,
};

/// Most slots whose sessions the shard lists at once. That takes well under a millisecond.
const SESSION_SLOTS: u32 = 4096;

/// How wrong a clock may be without having been set back.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

impl Shard {
    /// A login came. The connection goes into the lobby until logic has decided, and nothing more is read. The front
    /// hears of the login only with [`Shard::ask`].
    pub(super) fn login(&mut self, now: Time, id: ConnectionId, frame: &Frame<'_>) {
        let deadline = now.after(self.config.handshake);
        let Some(connection) = self.slots.get_mut(id) else { return };
        let reasons = extras(frame.body).features.reasons;
        let login = Box::new(Login {
            id,
            transport: connection.transport,
            peer: connection.peer,
            cookie: Box::default(),
            token: Bytes::copy_from_slice(frame.body),
            arrived: now,
            looked: now,
            deadline,
        });
        connection.enter_lobby(Tick::not_before(deadline), frame.header, reasons, login);
        self.arm(id.slot);
    }

    /// The driver calls this after [`Flow::Login`] if the client is still there. Its last bytes came `age` ago. The
    /// shard has logic asked, unless the client's deadline is already over.
    pub fn ask(&mut self, now: Time, id: ConnectionId, age: Duration, out: &mut Outputs) {
        let arrived = now.before(age);
        let deadline = arrived.after(self.config.handshake);
        let Some(State::Lobby(lobby)) = self.slots.get_mut(id).map(|connection| &mut connection.state) else {
            return;
        };
        if deadline > now {
            (lobby.arrived, lobby.deadline) = (arrived, Tick::not_before(deadline));
            let login = lobby.login.take().map(|login| Box::new(Login { arrived, deadline, ..*login }));
            out.mail.extend(login.map(ToFront::Login));
            return self.arm(id.slot);
        }
        let reason = CloseReason::LoginTimeout;
        self.close(now, id, reason, reason.text(), out);
        self.flush_urgent(now, out);
    }

    /// The driver has just looked for the client of a login, as the front wanted. If the client has left, the front was
    /// told so already.
    pub(super) fn looked_for(&self, id: ConnectionId, out: &mut Outputs) {
        if self.is_in_lobby(id) {
            out.mail.push_back(ToFront::LoginThere(id));
        }
    }

    /// logic's verdict on a login. If the client left meanwhile, its session is reported as abandoned.
    pub(super) fn verdict(&mut self, now: Time, verdict: Verdict, out: &mut Outputs) {
        let Verdict { id, outcome } = verdict;
        let in_lobby = |connection: &&mut Connection| matches!(connection.state, State::Lobby(_));
        let Some(connection) = self.slots.get_mut(id).filter(in_lobby) else {
            if let Outcome::Open(session) | Outcome::Move { session, .. } = outcome {
                out.mail.push_back(ToFront::Abandoned(session));
            }
            return;
        };
        // A connection may not move while a write is in flight, and the answer to its upgrade may still be one.
        let writing = connection.send_in_flight || connection.has_unsent();
        if let (true, State::Lobby(lobby), Outcome::Move { .. }) = (writing, &mut connection.state, &outcome)
        {
            lobby.outcome = Some(outcome);
            return;
        }
        self.decide(now, id, outcome, out);
    }

    /// logic accepted a login of one of this shard's keys after its client had left. The session has no connection, so
    /// it ends. logic may have stored it over the session of a newer connection, so that one is renewed, which puts it
    /// back.
    pub(super) fn abandoned(&mut self, session: Session, out: &mut Outputs) {
        let live = self.find_key(&session.key).and_then(|slot| self.slots.at_mut(slot));
        let renew = live.and_then(|(_, connection)| connection.as_open()).map(|open| ToFront::Renew {
            mid: open.mid,
            key: open.key.clone(),
            generation: open.session_generation,
        });
        out.mail.push_back(ToFront::Ended {
            mid: session.mid,
            key: session.key,
            generation: session.generation,
            peer: None,
            reason: CloseReason::ClientClosed,
        });
        out.mail.extend(renew);
    }

    /// Lists the sessions of the open connections in some slots for the front.
    pub(super) fn sessions(&self, from: u32, out: &mut Outputs) {
        let to = from.saturating_add(SESSION_SLOTS).min(self.slots.end());
        let sessions = (from..to).filter_map(|slot| self.slots.open(slot)).map(|open| OpenSession {
            mid: open.mid,
            key: open.key.clone(),
            generation: open.session_generation,
        });
        let next = Some(to).filter(|to| *to < self.slots.end());
        out.mail.push_back(ToFront::Sessions { sessions: sessions.collect(), next });
    }

    /// Carries out a verdict.
    pub(super) fn decide(&mut self, now: Time, id: ConnectionId, outcome: Outcome, out: &mut Outputs) {
        match outcome {
            Outcome::Refuse { reason, text } => {
                self.close_in_lobby(now, id, reason, &text, out);
            }
            Outcome::Open(session) => {
                let Some(lobby) = self.slots.get_mut(id).and_then(Connection::leave_lobby) else { return };
                self.unauthenticated_now -= 1;
                self.open(now, id, lobby.arrived, lobby.header, &session, lobby.reasons, lobby.carried, out);
            }
            Outcome::Move { to, session } => {
                let Some(lobby) = self.slots.get_mut(id).and_then(Connection::leave_lobby) else { return };
                self.unauthenticated_now -= 1;
                let Some(connection) = self.slots.remove(id) else { return };
                self.uncount(&connection);
                let state = Box::new(Handover {
                    ticket: connection.ticket,
                    arrived: lobby.arrived,
                    peer: connection.peer,
                    transport: connection.transport,
                    header: lobby.header,
                    session,
                    reasons: lobby.reasons,
                    wire: connection.wire,
                    tls: connection.tls,
                    carried: lobby.carried,
                });
                out.actions.push(Action::Detach { id, to, state });
            }
        }
    }

    /// A connection came from another shard. It gets a slot here and is opened.
    pub(super) fn attach(&mut self, now: Time, state: Handover, out: &mut Outputs) -> ConnectionId {
        let Handover { ticket, arrived, peer, transport, header, session, reasons, wire, tls, carried } =
            state;
        let mut connection = Connection::new(ticket, peer, transport, Tick::NEVER);
        (connection.wire, connection.tls) = (wire, tls.filter(|_| !seam::planted(Bug::ForgottenTls)));
        self.stats.tls.connections += u64::from(connection.tls.is_some());
        let id = self.slots.insert(connection);
        *self.stats.connections.of(transport) += 1;
        self.stats.attached += 1;
        self.open(now, id, arrived, header, &session, reasons, carried, out);
        if self.draining.is_some() {
            self.go_away(now, id, out);
        }
        self.flush_urgent(now, out);
        id
    }

    /// Makes the connection the one of its key, answers the login, and goes on with the input that came behind it.
    #[allow(clippy::too_many_arguments)] // the parts of a login; a struct with one caller would only rename them
    fn open(
        &mut self,
        now: Time,
        id: ConnectionId,
        arrived: Time,
        header: Header,
        session: &Session,
        reasons: bool,
        carried: Carried,
        out: &mut Outputs,
    ) {
        let renew_at = Tick::not_before(now.after(self.config.renew));
        let bucket = TokenBucket::new(self.config.rate, now);
        let Some(connection) = self.slots.get_mut(id) else { return };
        connection.open(session, reasons, Tick::not_before(now), renew_at, bucket);
        let peer = connection.peer;
        self.stats.open += 1;
        out.mail.push_back(ToFront::Opened {
            mid: session.mid,
            key: session.key.clone(),
            generation: session.generation,
            peer,
        });
        if !self.take_key(now, id, arrived, session, out) {
            return;
        }
        self.arm(id.slot);
        let rooms = session.rooms.len() + usize::from(session.room.is_some());
        if rooms > self.config.rooms_max || session.accepts.len() > self.config.accepts_max {
            let reason = CloseReason::LimitBroken;
            return self.close(now, id, reason, reason.text(), out);
        }
        self.join_rooms(id.slot, session);
        let reply = Header { op: header.op.reply(), ..header };
        self.reply(id.slot, &Encoded::reply(reply, &[]));
        self.go_on_with(now, id, carried, out);
    }

    /// Gives the key to the newer of two logins. That is the one with the higher generation, unless this generation is
    /// dated ahead of the clock. If logic gives no generations, it is the connection that was accepted later. If the
    /// other connection is newer, this one is closed, and the result is false.
    fn take_key(
        &mut self,
        now: Time,
        id: ConnectionId,
        arrived: Time,
        session: &Session,
        out: &mut Outputs,
    ) -> bool {
        if let Some(slot) = self.find_key(&session.key) {
            let ticket = self.slots.get(id).map(|connection| connection.ticket);
            let Some((other_id, other)) = self.slots.at_mut(slot) else { return true };
            let fence = other.as_open().and_then(|open| open.session_generation);
            let newer = match (session.generation, fence) {
                (Some(ours), Some(theirs)) if seam::planted(Bug::ReloginRace) => ours < theirs,
                (Some(ours), Some(theirs)) if ours < theirs && ticket > Some(other.ticket) => {
                    is_from_the_future(theirs, ours, now.since(arrived))
                }
                (Some(ours), Some(theirs)) => ours > theirs,
                _ => ticket > Some(other.ticket),
            };
            if !newer {
                self.replace(now, id, fence, out);
                return false;
            }
            self.replace(now, other_id, session.generation, out);
        }
        self.insert_key(&session.key, id.slot);
        true
    }

    /// Closes an open connection because a newer login, with the generation `by`, has its key.
    fn replace(&mut self, now: Time, id: ConnectionId, by: Option<Generation>, out: &mut Outputs) {
        if let Some(open) = self.slots.get_mut(id).and_then(Connection::as_open_mut)
            && (by.is_none() || by == open.session_generation)
        {
            // Without a generation the front does not tell logic of its end, which would take the newer session away: a
            // Go logic has stored that one beside the generation of the older, or two logics gave both the same
            // generation.
            open.session_generation = None;
        }
        let reason = CloseReason::Replaced;
        self.close(now, id, reason, reason.text(), out);
    }

    fn join_rooms(&mut self, slot: u32, session: &Session) {
        let first = session.room.as_ref();
        if let Some(room) = first {
            self.enter_first_room(slot, room);
        }
        for room in &session.rooms {
            self.enter_room(slot, room);
        }
    }

    /// Parses the input that waited, then has the driver read again.
    pub(super) fn go_on_with(&mut self, now: Time, id: ConnectionId, carried: Carried, out: &mut Outputs) {
        let Carried { frames, mut raw } = carried;
        let mut flow = self.frames_of(now, id, &frames, out);
        match flow {
            Flow::Hold => self.carry_raw(id, &raw),
            Flow::Read if !raw.is_empty() => flow = self.input(now, id, &mut raw, out),
            Flow::Read | Flow::Login | Flow::Handshake => {}
        }
        if flow == Flow::Read && self.slots.get(id).is_some() {
            out.actions.push(Action::Resume { id });
        }
    }

    fn close_in_lobby(
        &mut self,
        now: Time,
        id: ConnectionId,
        reason: CloseReason,
        text: &str,
        out: &mut Outputs,
    ) {
        // The front has given its verdict and forgotten the login, so it must not hear that the client left.
        let told = out.mail.len();
        self.close(now, id, reason, text, out);
        if out.mail.len() > told && matches!(out.mail.back(), Some(ToFront::LoginGone(gone)) if *gone == id) {
            out.mail.pop_back();
        }
    }
}

/// Whether the clock that dates logins was set back after the login of generation `theirs`. Then the clock cannot have
/// reached `theirs` yet: it shows at most `ours`, plus the time since that login came.
fn is_from_the_future(theirs: Generation, ours: Generation, ago: Duration) -> bool {
    theirs.0 > ours.0.saturating_add((ago + CLOCK_SLACK).as_micros() as i64)
}
