//! One client: its socket, where it stands, and what it makes of what it hears.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use mio::net::TcpStream;
use proto::{frame::Frame, op::Op};
use serde::Deserialize;

use crate::{
    check::{Arrival, Order},
    message::{self, Body},
    plan::Plan,
    tally::Measured,
    tls::Tls,
    wire::{Heard, Wire},
};

/// One client of the fleet.
pub(crate) struct Client {
    pub(crate) state: State,
    /// The messages it has seen, over all its connections.
    pub(crate) order: Order,
    /// Why the server said it would close, heard before it did.
    pub(crate) farewell: Option<String>,
    /// What the socket did not take yet; empty but when the server does not read.
    pub(crate) unsent: Vec<u8>,
}

/// Where a client stands.
pub(crate) enum State {
    /// Without a connection.
    Away,
    /// From the call of connect to the answer of the login.
    Joining(Link, Joining),
    /// Logged in.
    Open(Link),
}

/// A socket and what is spoken on it.
pub(crate) struct Link {
    pub(crate) socket: TcpStream,
    pub(crate) tls: Option<Tls>,
    pub(crate) wire: Wire,
}

/// How far a client that joins has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Joining {
    pub(crate) since_ns: u64,
    pub(crate) connected: bool,
}

/// Which messages the run expects.
#[derive(Clone)]
pub(crate) struct Expected {
    pub(crate) run: u32,
    pub(crate) size: usize,
    pub(crate) plan: Plan,
    /// Messages planned before this are checked but not timed.
    pub(crate) timed_from_ns: Arc<AtomicU64>,
}

/// What listening needs beside the client.
pub(crate) struct Ears<'a> {
    /// None: this process pushes nothing, and every message is foreign.
    pub(crate) expected: Option<&'a Expected>,
    /// The client's place in the fleet.
    pub(crate) index: u32,
    pub(crate) measured: &'a mut Measured,
    /// When the bytes were read, and since when they can have waited.
    pub(crate) read_ns: u64,
    pub(crate) ready_ns: u64,
}

/// What the client must do about what it heard.
#[derive(Debug, Default)]
pub(crate) struct Todo {
    /// The upgrade is done: log in.
    pub(crate) log_in: bool,
    /// The login was answered.
    pub(crate) logged_in: bool,
    /// A ping to answer.
    pub(crate) pong: Option<Vec<u8>>,
}

impl Client {
    /// A client that never connected.
    pub(crate) fn new() -> Self {
        Self { state: State::Away, order: Order::default(), farewell: None, unsent: Vec::new() }
    }

    /// Its connection, if it has one.
    pub(crate) fn link(&mut self) -> Option<&mut Link> {
        match &mut self.state {
            State::Away => None,
            State::Joining(link, _) | State::Open(link) => Some(link),
        }
    }

    /// Takes in what was read; an error says why the connection is of no more use.
    pub(crate) fn hear(&mut self, input: &mut [u8], mut ears: Ears<'_>) -> Result<Todo, String> {
        let mut todo = Todo::default();
        let (Self { state, order, farewell, .. }, mut close) = (self, None);
        let link = match state {
            State::Away => return Ok(todo),
            State::Joining(link, _) | State::Open(link) => link,
        };
        link.wire.hear(input, &mut |heard| match heard {
            Heard::Upgraded => todo.log_in = true,
            Heard::Ping(payload) => todo.pong = Some(payload.to_vec()),
            Heard::Close(reason) => close = Some(reason),
            Heard::Frame(frame) => match frame.header.op {
                Op::AUTH_REPLY => todo.logged_in = true,
                Op::HEARTBEAT_REPLY => ears.measured.tally.heartbeats_answered += 1,
                Op::DISCONNECT_REPLY => *farewell = Some(reason(frame.body)),
                _ => ears.message(&frame, order),
            },
        })?;
        close.map_or(Ok(todo), Err)
    }
}

impl Ears<'_> {
    fn message(&mut self, frame: &Frame<'_>, order: &mut Order) {
        let tally = &mut self.measured.tally;
        tally.deliveries += 1;
        tally.last_delivery_ns = self.read_ns;
        let Some(expected) = self.expected else {
            tally.foreign += 1;
            return;
        };
        let stamp = match message::read(frame.body, expected.run, expected.size) {
            Body::Ours(stamp) if stamp.stream == expected.plan.stream_of(self.index) => stamp,
            Body::Ours(_) | Body::Damaged => {
                tally.damaged += 1;
                return;
            }
            Body::Foreign => {
                tally.foreign += 1;
                return;
            }
        };
        match order.arrived(stamp.seq) {
            Arrival::InOrder => {}
            Arrival::OutOfOrder => tally.out_of_order += 1,
            Arrival::Duplicate => {
                tally.duplicated += 1;
                return;
            }
        }
        tally.fresh += 1;
        if stamp.planned_ns >= expected.timed_from_ns.load(Ordering::Relaxed) {
            let latency = self.read_ns.saturating_sub(stamp.planned_ns);
            self.measured.latency.record_ns(latency);
            let waited = self.read_ns.saturating_sub(self.ready_ns);
            self.measured.delays.record_ns(waited.min(latency));
        }
    }
}

/// The words of an operation 6: `4409 replaced`.
pub(crate) fn reason(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Disconnect {
        code: i64,
        reason: String,
    }
    match serde_json::from_slice::<Disconnect>(body) {
        Ok(said) => format!("{} {}", said.code, said.reason),
        Err(_) => "disconnect without a reason".to_owned(),
    }
}
