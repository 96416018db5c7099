//! One simulated client, as far as it is more than its connection.

use std::collections::VecDeque;

use comet::driver::sim::network::SocketId;
use contract::Transport;
use proto::op::Op;
use seam::Time;
use testkit::wire::Heard;

/// What a client is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Connected; nothing of its login is written.
    Arriving,
    /// Its login is written, in part or whole.
    LoggingIn,
    /// It has read operation 8.
    Open,
    /// It has ended its side, or seen the server's end.
    Leaving,
    /// It has closed its socket, or seen it broken.
    Gone,
}

/// One client.
pub(crate) struct Client {
    pub(crate) socket: SocketId,
    pub(crate) transport: Transport,
    pub(crate) doing: Doing,
    /// It does not read.
    pub(crate) stalled: bool,
    /// It says nothing by itself: no login, no heartbeat.
    pub(crate) silent: bool,
    /// It writes nothing more: what it wrote last has no end.
    pub(crate) mute: bool,
    /// When it sends its next heartbeat.
    pub(crate) next_beat: Time,
    /// Bytes it has still to write: it writes in pieces.
    pub(crate) unwritten: VecDeque<u8>,
    pub(crate) seq: i32,
    /// People in its room, as the last heartbeat said.
    pub(crate) people: Option<u32>,
}

impl Client {
    pub(crate) fn new(socket: SocketId, transport: Transport) -> Client {
        Client {
            socket,
            transport,
            doing: Doing::Arriving,
            stalled: false,
            silent: false,
            mute: false,
            next_beat: Time::default(),
            unwritten: VecDeque::new(),
            seq: 1,
            people: None,
        }
    }

    /// No more tricks.
    pub(crate) fn behave(&mut self) {
        (self.stalled, self.silent) = (false, false);
    }

    pub(crate) fn next_seq(&mut self) -> i32 {
        self.seq += 1;
        self.seq
    }

    pub(crate) fn is_here(&self) -> bool {
        self.doing != Doing::Gone
    }

    /// It reads something.
    pub(crate) fn got(&mut self, heard: &Heard, now: Time) {
        match heard {
            Heard::Frame(frame) if Op(frame.op) == Op::AUTH_REPLY => {
                self.doing = Doing::Open;
                self.next_beat = now;
            }
            Heard::Frame(frame) if Op(frame.op) == Op::HEARTBEAT_REPLY => {
                self.people = frame.body.as_slice().try_into().ok().map(u32::from_be_bytes);
            }
            _ => {}
        }
    }
}
