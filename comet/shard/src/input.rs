//! Makes frames of bytes, on both wires.

use std::net::{IpAddr, Ipv4Addr};

use proto::{
    close::CloseReason,
    encoded::Encoded,
    frame::{Frame, FrameReader, HEADER_LEN, frames_of_message},
    op::Op,
    websocket::{Item, Opcode, Reader, Request, Upgrade, has_close},
};
use seam::Time;

use super::{
    Outputs, Shard,
    connection::State,
    mail::{Carried, ConnectionId, ToFront},
    wheel::Tick,
    wire::Wire,
};

/// How a client with TLS begins: a record of a handshake, of version 3 (RFC 8446, section 5.1). As a frame it would be of
/// 369 MB, and no request begins so.
const TLS_HELLO: [u8; 2] = [0x16, 3];

/// No address.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Whether the driver goes on reading a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Read,
    /// Not before [`super::Action::Resume`]. Meanwhile the driver only watches for a hang-up.
    Hold,
    /// As `Hold`, and a login came. The driver looks at once whether the client has already left, which it may have
    /// done long ago. If it has, the driver calls [`Shard::hung_up`], otherwise [`Shard::ask`].
    Login,
    /// As `Hold`, and a TLS handshake is to be taken further: the driver calls [`Shard::handshake`] soon.
    Handshake,
}

/// What to do after one frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Read the next frame.
    Frame,
    /// Read no more for now. The caller puts the bytes behind the frame aside.
    Hold,
    /// The connection is closing.
    Closed,
}

impl Shard {
    /// Takes input of a connection in whatever state it is.
    pub(super) fn input(
        &mut self,
        now: Time,
        id: ConnectionId,
        mut bytes: &mut [u8],
        out: &mut Outputs,
    ) -> Flow {
        loop {
            let Some(connection) = self.slots.get_mut(id) else { return Flow::Hold };
            // The driver should not have read from this connection, which is in the lobby or waits for the way to the
            // front. If it has, the bytes are kept, so nothing is lost.
            if connection.is_holding() {
                self.carry_raw(id, bytes);
                return Flow::Hold;
            }
            let wire = std::mem::replace(&mut connection.wire, Wire::Deaf);
            let (wire, flow) = match wire {
                Wire::Deaf => return Flow::Read,
                Wire::Tcp(mut reader) => {
                    let flow = self.tcp_input(now, id, &mut reader, bytes, out);
                    (Wire::Tcp(reader), flow)
                }
                Wire::WebSocket(mut reader) => {
                    let flow = self.websocket_input(now, id, &mut reader, bytes, out);
                    (Wire::WebSocket(reader), flow)
                }
                Wire::Http(mut upgrade) => match self.upgrade_input(now, id, &mut upgrade, &mut bytes, out) {
                    // The bytes after the head are WebSocket.
                    Some(wire) => {
                        self.put_back(id, wire);
                        continue;
                    }
                    None => (Wire::Http(upgrade), Flow::Read),
                },
            };
            self.put_back(id, wire);
            self.watch_partial(now, id);
            return flow;
        }
    }

    /// Takes complete frames, one after the other.
    pub(super) fn frames_of(
        &mut self,
        now: Time,
        id: ConnectionId,
        frames: &[u8],
        out: &mut Outputs,
    ) -> Flow {
        let mut used = 0;
        for frame in frames_of_message(frames, self.config.body_max) {
            let frame = match frame {
                Ok(frame) => frame,
                Err(violation) => {
                    self.bad_frame(now, id, violation.label(), out);
                    return Flow::Read;
                }
            };
            used += HEADER_LEN + frame.body.len();
            match self.frame(now, id, &frame, out) {
                Next::Frame => {}
                Next::Closed => return Flow::Read,
                Next::Hold => {
                    self.carry(id, |carried| carried.frames.extend_from_slice(&frames[used..]));
                    return Flow::Hold;
                }
            }
        }
        Flow::Read
    }

    /// Puts unparsed input aside until the connection goes on.
    pub(super) fn carry_raw(&mut self, id: ConnectionId, raw: &[u8]) {
        self.carry(id, |carried| carried.raw.extend_from_slice(raw));
    }

    fn carry(&mut self, id: ConnectionId, add: impl FnOnce(&mut Carried)) {
        match self.slots.get_mut(id).map(|connection| &mut connection.state) {
            Some(State::Lobby(lobby)) => add(&mut lobby.carried),
            Some(State::Open(open)) => add(open.carried.get_or_insert_default()),
            _ => {}
        }
    }

    fn tcp_input(
        &mut self,
        now: Time,
        id: ConnectionId,
        reader: &mut FrameReader,
        bytes: &[u8],
        out: &mut Outputs,
    ) -> Flow {
        let mut rest = bytes;
        loop {
            match reader.next(&mut rest, self.config.body_max) {
                Ok(None) => return Flow::Read,
                Ok(Some(frame)) => match self.frame(now, id, &frame, out) {
                    Next::Frame => {}
                    Next::Closed => return Flow::Read,
                    Next::Hold => {
                        self.carry_raw(id, rest);
                        return Flow::Hold;
                    }
                },
                Err(_) if bytes.starts_with(&TLS_HELLO) && self.may_begin_with_tls(id) => {
                    self.tls_on_clear_port(now, id, out);
                    return Flow::Read;
                }
                Err(violation) => {
                    self.bad_frame(now, id, violation.label(), out);
                    return Flow::Read;
                }
            }
        }
    }

    /// Whether a client could have been given this port instead of one with TLS: not where TLS is around it already.
    fn may_begin_with_tls(&self, id: ConnectionId) -> bool {
        let connection = self.slots.get(id);
        connection.is_some_and(|connection| connection.tls.is_none() && connection.is_unauthenticated())
    }

    fn tls_on_clear_port(&mut self, now: Time, id: ConnectionId, out: &mut Outputs) {
        self.stats.bad("tls", "clear_port");
        let reason = CloseReason::ProtocolViolation;
        self.close(now, id, reason, reason.text(), out);
    }

    fn websocket_input(
        &mut self,
        now: Time,
        id: ConnectionId,
        reader: &mut Reader,
        bytes: &mut [u8],
        out: &mut Outputs,
    ) -> Flow {
        let mut rest = bytes;
        let limits = self.config.message;
        loop {
            match reader.next(&mut rest, &limits) {
                Ok(None) => return Flow::Read,
                // A message without a frame does nothing and costs as much as one with a frame, so it needs a token
                // too.
                Ok(Some(Item::Pong | Item::Message([]))) => {
                    if !self.take_token(now, id, out) {
                        return Flow::Read;
                    }
                    self.sign_of_life(now, id, out);
                }
                Ok(Some(Item::Message(message))) => {
                    if self.frames_of(now, id, message, out) == Flow::Hold {
                        // This is like the end of a TCP stream behind a login: the client has given its login up.
                        if self.is_in_lobby(id) && has_close(rest) {
                            return self.websocket_closed(now, id, None, out);
                        }
                        self.carry_raw(id, rest);
                        return Flow::Hold;
                    }
                }
                Ok(Some(Item::Ping(payload))) => {
                    if !self.take_token(now, id, out) {
                        return Flow::Read;
                    }
                    self.sign_of_life(now, id, out);
                    self.reply(id.slot, &Encoded::ws_control(Opcode::Pong, payload));
                }
                Ok(Some(Item::Close(code))) => return self.websocket_closed(now, id, code, out),
                Err(violation) => {
                    self.stats.bad("websocket", violation.label);
                    self.close(now, id, violation.reason, violation.reason.text(), out);
                    return Flow::Read;
                }
            }
            if self.slots.get(id).is_none_or(|connection| connection.is_closing()) {
                return Flow::Read;
            }
        }
    }

    /// Answers the client's close frame and closes.
    fn websocket_closed(
        &mut self,
        now: Time,
        id: ConnectionId,
        code: Option<u16>,
        out: &mut Outputs,
    ) -> Flow {
        let payload = code.map(u16::to_be_bytes);
        let payload = payload.as_ref().map_or(&[][..], |code| code);
        self.reply(id.slot, &Encoded::ws_control(Opcode::Close, payload));
        let reason = CloseReason::ClientClosed;
        self.close(now, id, reason, reason.text(), out);
        Flow::Read
    }

    /// Reads the head of the upgrade. Returns the new wire when the head is complete and right.
    fn upgrade_input(
        &mut self,
        now: Time,
        id: ConnectionId,
        upgrade: &mut Upgrade,
        bytes: &mut &mut [u8],
        out: &mut Outputs,
    ) -> Option<Wire> {
        let mut rest: &[u8] = bytes;
        let before = rest.len();
        let connection = self.slots.get(id)?;
        // No proxy is nobody.
        let peer = if connection.is_anonymous { NOBODY } else { connection.peer };
        let is_tls = bytes.starts_with(&TLS_HELLO) && self.may_begin_with_tls(id);
        let result = upgrade.push(&mut rest, peer, &self.config.upgrade);
        let used = before - rest.len();
        *bytes = &mut std::mem::take(bytes)[used..];
        match result {
            Ok(None) => None,
            Ok(Some(request)) => {
                self.upgraded(id, request);
                Some(Wire::WebSocket(Reader::new()))
            }
            // An answer in HTTP would tell such a client nothing.
            Err(_) if is_tls => {
                self.tls_on_clear_port(now, id, out);
                None
            }
            Err(refusal) => {
                self.stats.bad("http", refusal.label());
                self.reply_bytes(id.slot, refusal.response());
                let reason = CloseReason::ProtocolViolation;
                self.close(now, id, reason, reason.text(), out);
                None
            }
        }
    }

    fn upgraded(&mut self, id: ConnectionId, request: Request) {
        let response = request.response();
        if let Some(connection) = self.slots.get_mut(id) {
            connection.upgraded(request.cookie.map(Vec::into_boxed_slice), request.client);
            self.reply_bytes(id.slot, response);
        }
    }

    /// Takes one frame of a client.
    fn frame(&mut self, now: Time, id: ConnectionId, frame: &Frame<'_>, out: &mut Outputs) -> Next {
        self.stats.frames_read += 1;
        #[cfg(feature = "sim")]
        self.read.push(id);
        let Some(connection) = self.slots.get_mut(id) else { return Next::Closed };
        match &mut connection.state {
            State::AwaitAuth { .. } if frame.header.op == Op::AUTH => {
                self.login(now, id, frame);
                Next::Hold
            }
            State::AwaitAuth { ignored, .. } => {
                *ignored += 1;
                if *ignored <= self.config.ignored_max {
                    return Next::Frame;
                }
                self.bad_frame(now, id, "before_login", out);
                Next::Closed
            }
            State::Open(open) => {
                open.frame_deadline = Tick::NEVER;
                if !self.take_token(now, id, out) {
                    return Next::Closed;
                }
                self.sign_of_life(now, id, out);
                self.operation(now, id, frame, out)
            }
            _ => Next::Closed,
        }
    }

    /// Notes that a logged-in client lives, and renews its session when that is due. A frame does this, and on
    /// WebSocket also a ping, a pong or an empty message. Since both follow the same signs, a client that counts as
    /// alive can be reached.
    fn sign_of_life(&mut self, now: Time, id: ConnectionId, out: &mut Outputs) {
        let renew_at = Tick::not_before(now.after(self.config.renew));
        let Some(open) = self.slots.get_mut(id).and_then(|connection| connection.as_open_mut()) else {
            return;
        };
        open.heard = Tick::not_before(now);
        #[cfg(feature = "sim")]
        self.heard.push(id);
        // If the way to the front is full, the next sign of life renews.
        if open.renew_at <= Tick::of(now) && !out.is_congested() {
            open.renew_at = renew_at;
            out.mail.push_back(ToFront::Renew {
                mid: open.mid,
                key: open.key.clone(),
                generation: open.session_generation,
            });
        }
    }

    /// Counts one input against the client's rate. False if that closed the connection.
    fn take_token(&mut self, now: Time, id: ConnectionId, out: &mut Outputs) -> bool {
        let (rate, ignored_max) = (self.config.rate, self.config.ignored_max);
        let allowed = match self.slots.get_mut(id).map(|connection| &mut connection.state) {
            Some(State::Open(open)) => open.bucket.take(rate, now),
            Some(State::AwaitAuth { ignored, .. }) => {
                *ignored += 1;
                *ignored <= ignored_max
            }
            _ => false,
        };
        if !allowed {
            self.stats.bad("frame", "rate");
            let reason = CloseReason::LimitBroken;
            self.close(now, id, reason, reason.text(), out);
        }
        allowed
    }

    fn bad_frame(&mut self, now: Time, id: ConnectionId, label: &'static str, out: &mut Outputs) {
        self.stats.bad("frame", label);
        let reason = CloseReason::ProtocolViolation;
        self.close(now, id, reason, reason.text(), out);
    }

    /// Puts the wire back, unless the connection has closed meanwhile.
    fn put_back(&mut self, id: ConnectionId, wire: Wire) {
        if let Some(connection) = self.slots.get_mut(id)
            && !connection.is_closing()
        {
            connection.wire = wire;
        }
    }

    /// Gives an incomplete frame a deadline of its own. Otherwise a byte now and then would keep it for ever.
    pub(super) fn watch_partial(&mut self, now: Time, id: ConnectionId) {
        let deadline = Tick::not_before(now.after(self.config.frame));
        let Some(connection) = self.slots.get_mut(id) else { return };
        let partial = connection.has_partial();
        let State::Open(open) = &mut connection.state else { return };
        match (partial, open.frame_deadline == Tick::NEVER) {
            (true, true) => {
                open.frame_deadline = deadline;
                self.arm(id.slot);
            }
            (false, false) => open.frame_deadline = Tick::NEVER,
            _ => {}
        }
    }
}
