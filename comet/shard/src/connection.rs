//! One client socket and its state. Every transition of the state is in this file.
//!
//! ```text
//! AwaitHeader ─▶ Handshaking ─▶ AwaitAuth ─▶ Lobby ─▶ Open ─▶ Closing ─▶ Ended
//!  (proxies)     (WebSocket)        │          │                ▲
//!                                   └──────────┴────────────────┘
//! ```
//! What belongs to a state lives inside its variant, so nothing of `Open` can be read before the login.

use std::net::IpAddr;

use contract::{Session, Transport};
use proto::{
    close::CloseReason,
    frame::{FrameReader, Header},
    ids::{Generation, Key, Mid},
    op::Op,
    proxy::{HeaderReader, Source},
    websocket::Upgrade,
};
use seam::{Bug, Time};
use smallvec::SmallVec;
use tls::Tls;

use super::{
    mail::{Carried, Login, Outcome, Ticket},
    queue::{SendQueue, WireKind},
    rate::TokenBucket,
    room::Membership,
    wheel::Tick,
    wire::Wire,
};

/// One client socket.
pub(super) struct Connection {
    /// Its place in the order of accepts in this process.
    pub(super) ticket: Ticket,
    /// The client's address: where the connection comes from, until a proxy has said whose it is.
    pub(super) peer: IpAddr,
    pub(super) transport: Transport,
    pub(super) state: State,
    pub(super) wire: Wire,
    pub(super) queue: SendQueue,
    /// TLS, if it came to a port with it. What waits there to be sent goes before what waits in the queue.
    pub(super) tls: Option<Tls>,
    /// The tick of its live entry in the timing wheel.
    pub(super) timer: Tick,
    /// Whether the driver holds bytes of ours for a write.
    pub(super) send_in_flight: bool,
    /// Whether the driver may still read. False after it has said that it reads no more.
    pub(super) reading: bool,
    /// Whether it stands in the list of connections to flush.
    pub(super) dirty: bool,
    /// Whether it counts as a TLS handshake under way.
    pub(super) handshaking: bool,
    /// A proxy does not know whose connection it is. What is written into an upgrade is the client's own word then.
    pub(super) is_anonymous: bool,
}

/// Where a connection is in its life.
pub(super) enum State {
    /// The port is for proxies, and the header that tells whose connection it is has not come. `is_due`: it comes from a
    /// proxy that is trusted. Else no header may come.
    AwaitHeader { deadline: Tick, is_due: bool, reader: Box<HeaderReader> },
    /// The head of the upgrade is not complete.
    Handshaking { deadline: Tick },
    /// The login has not come. `ignored` counts other operations that came instead. `cookie` is the upgrade's, for
    /// logic.
    AwaitAuth { deadline: Tick, ignored: u8, cookie: Option<Box<[u8]>> },
    /// logic decides about the login, and the shard reads nothing.
    Lobby(Box<Lobby>),
    /// Logged in.
    Open(Open),
    /// What is queued goes out, then the shard shuts our side. It throws input away until the peer ends its side.
    Closing { deadline: Tick, half_closed: bool },
    /// The socket is shut both ways. The slot waits until the driver lets go.
    Ended,
}

impl State {
    /// Where the client begins.
    fn first(transport: Transport, deadline: Tick) -> State {
        match transport {
            Transport::Tcp => State::AwaitAuth { deadline, ignored: 0, cookie: None },
            Transport::WebSocket => State::Handshaking { deadline },
        }
    }
}

/// A login that waits for logic.
pub(super) struct Lobby {
    /// When the login came.
    pub(super) arrived: Time,
    pub(super) deadline: Tick,
    /// Header of the login, for the reply.
    pub(super) header: Header,
    pub(super) carried: Carried,
    pub(super) reasons: bool,
    /// The login, until the shard hands it to the front.
    pub(super) login: Option<Box<Login>>,
    /// A verdict that came while bytes of ours were still being written. It waits, since a connection may move only
    /// without a write in flight.
    pub(super) outcome: Option<Outcome>,
}

/// A logged-in connection.
pub(super) struct Open {
    pub(super) mid: Mid,
    pub(super) key: Key,
    pub(super) session_generation: Option<Generation>,
    pub(super) accepts: SmallVec<[Op; 4]>,
    pub(super) memberships: SmallVec<[Membership; 2]>,
    /// The first membership is the room that operation 12 changes.
    pub(super) has_first_room: bool,
    /// The client asked for operation 6 before a close.
    pub(super) reasons: bool,
    /// How many requests were refused so far. Too many close the connection.
    pub(super) refusals: u8,
    /// So many ticks of silence close the connection.
    pub(super) heartbeat_ticks: u32,
    /// When the last sign of life came. It is rounded up, so that a client is never closed too early.
    pub(super) heard: Tick,
    /// When the frame that has begun to arrive must be complete.
    pub(super) frame_deadline: Tick,
    /// The first sign of life after this renews the session.
    pub(super) renew_at: Tick,
    pub(super) bucket: TokenBucket,
    /// Input that waits because the way to the front was full.
    pub(super) carried: Option<Box<Carried>>,
}

impl Open {
    /// Whether a push of this operation to keys or to everybody is for this client.
    pub(super) fn accepts(&self, op: Op) -> bool {
        self.accepts.contains(&op)
    }

    /// The room that operation 12 changes.
    pub(super) fn first_room(&self) -> Option<Membership> {
        self.memberships.first().copied().filter(|_| self.has_first_room)
    }

    /// When the connection is closed if nothing more comes. Never while it waits for the way to the front, since we do
    /// not read what it sends.
    pub(super) fn deadline(&self) -> Tick {
        if self.carried.is_some() {
            return Tick::NEVER;
        }
        self.heard.plus(self.heartbeat_ticks).min(self.frame_deadline)
    }
}

/// What an open connection leaves behind.
pub(super) struct Left {
    pub(super) open: Open,
    pub(super) peer: IpAddr,
}

impl Connection {
    pub(super) fn new(ticket: Ticket, peer: IpAddr, transport: Transport, deadline: Tick) -> Self {
        let wire = match transport {
            Transport::Tcp => Wire::Tcp(FrameReader::new()),
            Transport::WebSocket => Wire::Http(Box::new(Upgrade::new())),
        };
        Connection {
            ticket,
            peer,
            transport,
            state: State::first(transport, deadline),
            wire,
            queue: SendQueue::default(),
            tls: None,
            timer: Tick::NEVER,
            send_in_flight: false,
            reading: true,
            dirty: false,
            handshaking: false,
            is_anonymous: false,
        }
    }

    /// A proxy's header may come first.
    pub(super) fn await_header(&mut self, deadline: Tick, is_due: bool) {
        self.state = State::AwaitHeader { deadline, is_due, reader: Box::default() };
    }

    /// The proxy's header has come, or it is known that none comes. The client begins.
    pub(super) fn header_done(&mut self, source: Source) {
        if let State::AwaitHeader { deadline, .. } = self.state {
            self.state = State::first(self.transport, deadline);
        }
        match source {
            Source::Client(address) => self.peer = address,
            Source::Unknown => self.is_anonymous = true,
            Source::Proxy => {}
        }
    }

    /// Whether a proxy's header may still come, or the rest of it.
    pub(super) fn awaits_header(&self) -> bool {
        matches!(self.state, State::AwaitHeader { .. })
    }

    /// The upgrade is done, so frames may come. A proxy may have said in it who the `client` is.
    pub(super) fn upgraded(&mut self, cookie: Option<Box<[u8]>>, client: Option<IpAddr>) {
        self.peer = client.unwrap_or(self.peer);
        if let State::Handshaking { deadline } = self.state {
            self.state = State::AwaitAuth { deadline, ignored: 0, cookie };
        }
    }

    /// Moves the connection into the lobby with its login.
    pub(super) fn enter_lobby(
        &mut self,
        deadline: Tick,
        header: Header,
        reasons: bool,
        mut login: Box<Login>,
    ) {
        if let State::AwaitAuth { cookie, .. } = &mut self.state {
            login.cookie = cookie.take().unwrap_or_default();
        }
        let (carried, arrived, login) = (Carried::default(), login.arrived, Some(login));
        self.state = State::Lobby(Box::new(Lobby {
            arrived,
            deadline,
            header,
            carried,
            reasons,
            login,
            outcome: None,
        }));
    }

    /// Whether a login has come and the front has not got it yet.
    pub(super) fn is_to_be_asked(&self) -> bool {
        matches!(&self.state, State::Lobby(lobby) if lobby.login.is_some())
    }

    /// Takes the connection out of the lobby; `None` if it is not there.
    pub(super) fn leave_lobby(&mut self) -> Option<Box<Lobby>> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Lobby(lobby) => Some(lobby),
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Makes it a logged-in connection. The caller joins its rooms.
    pub(super) fn open(
        &mut self,
        session: &Session,
        reasons: bool,
        now: Tick,
        renew_at: Tick,
        bucket: TokenBucket,
    ) {
        self.state = State::Open(Open {
            mid: session.mid,
            key: session.key.clone(),
            session_generation: session.generation,
            accepts: session.accepts.iter().copied().collect(),
            memberships: SmallVec::new(),
            has_first_room: false,
            reasons,
            refusals: 0,
            heartbeat_ticks: Tick::count_of(session.heartbeat),
            heard: now,
            frame_deadline: Tick::NEVER,
            renew_at,
            bucket,
            carried: None,
        });
    }

    /// Begins to close it; what is queued still goes out. Returns what an open connection was.
    pub(super) fn begin_close(&mut self, deadline: Tick) -> Option<Left> {
        let before = std::mem::replace(&mut self.state, State::Closing { deadline, half_closed: false });
        self.wire = Wire::Deaf;
        match before {
            State::Open(open) => Some(Left { open, peer: self.peer }),
            _ => None,
        }
    }

    /// Ends it: the socket is shut both ways.
    pub(super) fn end(&mut self) {
        self.state = State::Ended;
        self.wire = Wire::Deaf;
        self.queue = SendQueue::default();
    }

    /// Whether the driver holds nothing of this connection. Only then may the slot be used again.
    pub(super) fn is_drained(&self) -> bool {
        let writes = self.send_in_flight && !seam::planted(Bug::EarlySlotReuse);
        matches!(self.state, State::Ended) && !writes && !self.reading
    }

    /// Whether something waits to be written.
    pub(super) fn has_unsent(&self) -> bool {
        !self.queue.is_empty() || self.tls.as_ref().is_some_and(Tls::has_output)
    }

    /// The TLS handshake is done, so the login has its time from now on.
    pub(super) fn wait_for_login(&mut self, until: Tick) {
        if let State::Handshaking { deadline } | State::AwaitAuth { deadline, .. } = &mut self.state {
            *deadline = until;
        }
    }

    /// Which form of a frame the client takes.
    pub(super) fn wire_kind(&self) -> WireKind {
        match self.transport {
            Transport::Tcp => WireKind::Tcp,
            Transport::WebSocket => WireKind::WebSocket,
        }
    }

    /// Whether the login is not done yet. Then it costs a slot and a deadline and counts as unauthenticated.
    pub(super) fn is_unauthenticated(&self) -> bool {
        matches!(
            self.state,
            State::AwaitHeader { .. } | State::Handshaking { .. } | State::AwaitAuth { .. } | State::Lobby(_)
        )
    }

    /// Whether it is being closed, so that no input matters any more.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing { .. } | State::Ended)
    }

    /// Whether new input has to wait behind what is carried already.
    pub(super) fn is_holding(&self) -> bool {
        match &self.state {
            State::Lobby(_) => true,
            State::Open(open) => open.carried.is_some(),
            _ => false,
        }
    }

    /// Whether part of a record, frame or message has come.
    pub(super) fn has_partial(&self) -> bool {
        let inside = match &self.wire {
            Wire::Tcp(reader) => reader.has_partial(),
            Wire::WebSocket(reader) => reader.has_partial(),
            Wire::Http(_) | Wire::Deaf => false,
        };
        inside || self.tls.as_ref().is_some_and(Tls::has_partial)
    }

    pub(super) fn as_open(&self) -> Option<&Open> {
        match &self.state {
            State::Open(open) => Some(open),
            _ => None,
        }
    }

    pub(super) fn as_open_mut(&mut self) -> Option<&mut Open> {
        match &mut self.state {
            State::Open(open) => Some(open),
            _ => None,
        }
    }

    /// When the shard next has to do something about it, and with which reason it then closes.
    pub(super) fn deadline(&self) -> (Tick, CloseReason) {
        match &self.state {
            State::AwaitHeader { deadline, .. }
            | State::Handshaking { deadline }
            | State::AwaitAuth { deadline, .. } => (*deadline, CloseReason::LoginTimeout),
            State::Lobby(lobby) => (lobby.deadline, CloseReason::LoginTimeout),
            State::Open(open) => (open.deadline(), CloseReason::HeartbeatTimeout),
            State::Closing { deadline, .. } => (*deadline, CloseReason::ConnectionLost),
            State::Ended => (Tick::NEVER, CloseReason::ConnectionLost),
        }
    }
}
