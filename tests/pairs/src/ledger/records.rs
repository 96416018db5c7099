//! What the harness notes down while a cluster runs: pushes, connections, receipts. Plain data.

use std::{sync::Arc, time::Duration};

use crate::clock::{At, ms, secs};

/// Whom a push is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Devices, by key.
    Keys(Vec<Arc<str>>),
    /// Users: every device of each.
    Mids(Vec<i64>),
    /// A room, `type://name`.
    Room(Arc<str>),
    /// Everybody.
    All,
}

/// What logic said to a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Code 0. It has to arrive, but for the keys and users that the answer calls offline.
    Accepted {
        /// When the answer was read.
        at: At,
        /// Keys, or users as decimal numbers, that nobody is online for.
        offline: Vec<String>,
    },
    /// It certainly never was on the queue: it must not arrive.
    Refused,
    /// No answer, or one that leaves it open: it may arrive once.
    Unknown,
}

/// One push.
#[derive(Clone, Debug)]
pub struct Push {
    /// Its number; stands in its body.
    pub id: u64,
    /// Whom it is for.
    pub target: Target,
    /// When its request was written.
    pub sent: At,
    /// What was said to it.
    pub answer: Answer,
}

/// The time in which a connection was in a room, for certain.
#[derive(Clone, Debug)]
pub struct Stay {
    /// `type://name`.
    pub room: Arc<str>,
    /// The answer that it joined was read.
    pub from: At,
    /// The request to leave was written; none: until the connection ends.
    pub until: Option<At>,
}

/// Something that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The push.
    pub id: u64,
    /// When it was read.
    pub at: At,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The client closed in order and read to the end.
    Left,
    /// The client broke it off: what was on its way to it is nobody's fault.
    BrokenOff,
    /// The client fell silent. Its socket goes on taking what comes, until the server notices.
    Silent,
    /// The server closed, with this code (0: it gave none).
    Closed(u16),
    /// The server's end came without a word, or as a reset.
    Lost,
}

impl End {
    /// Whether the server told a client that obeys never to come back.
    pub fn is_final(&self) -> bool {
        matches!(self, End::Closed(1002 | 1007 | 1009 | 4401 | 4403 | 4409 | 4420))
    }
}

/// One connection whose login was answered.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Key of its device.
    pub key: Arc<str>,
    /// Its user.
    pub mid: i64,
    /// Number of its comet.
    pub comet: usize,
    /// When it was begun.
    pub dialled: At,
    /// When the login's answer was read: from now on it must be reachable.
    pub opened: At,
    /// When its client began to leave, or saw it end. Until then it must be reachable.
    pub until: Option<At>,
    /// How it ended, and when its client saw that.
    pub end: Option<(At, End)>,
    /// Its rooms.
    pub stays: Vec<Stay>,
    /// What arrived, in order.
    pub received: Vec<Receipt>,
}

/// What the programs counted as not delivered, in the time of a story.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// Frames for one connection each: `halley_drops_total`.
    pub frames: u64,
    /// Pushes for one comet each: `halley_dispatch_drops_total`.
    pub dispatches: u64,
}

/// Everything that was noted in some time, to be judged.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// All pushes.
    pub pushes: Vec<Push>,
    /// All connections.
    pub connections: Vec<Connection>,
    /// When comets were killed: what was inside them is in no counter.
    pub kills: Vec<(usize, At)>,
    /// What the programs counted.
    pub drops: Drops,
    /// The end: what was accepted [`Rules::reach`] before has arrived or is missed.
    pub until: At,
}

/// What is taken for granted when a story is judged.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long a push may take from its acceptance to its receiver. Who leaves sooner need not have it.
    pub reach: Duration,
    /// What a comet holds when it is killed was accepted at most so long before.
    pub around_kill: Duration,
    /// How long is waited at the end for what is still on its way, and for counters that come late: above `dispatch.giveUp`.
    pub tail: Duration,
    /// Whether every push that a job calls dropped must be missed by somebody: not while comets without members die.
    pub drops_are_losses: bool,
}

impl Default for Rules {
    /// A machine that is busy, and no trouble that holds pushes up.
    fn default() -> Self {
        Rules { reach: ms(1500), around_kill: secs(3), tail: secs(8), drops_are_losses: true }
    }
}
