//! What the benches share: one shard with members, and a driver for it that writes nothing.
//!
//! The benches under `benches/` measure one part each, alone and on one thread unless they say otherwise: no socket, no
//! kernel. They find what a change did to a part; what a delivery costs in all is measured on whole processes
//! (`bench/measure.sh`). Everything goes through the public interfaces of the crates.
#![forbid(unsafe_code)]

use std::time::Duration;

use comet::config::CometConfig;
use contract::{Session, Transport};
use proto::{
    encoded::Encoded,
    ids::{Generation, Mid, RoomId},
    op::Op,
};
use seam::Time;
use shard::{
    Action, Batch, FlushState, Outputs, Shard, ShardConfig,
    mail::{ConnectionId, Handover, PushTo, Ticket, ToShard},
    wheel::TICK_MICROS,
};
use testkit::{
    wire,
    world::{START, handover, push_of, room, session_in, written},
};

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Body of the usual message, bytes.
pub const BODY: [u8; 60] = [b'x'; 60];

/// Writes handed out between two looks at everything else, as in the driver.
const SENDS_PER_TURN: usize = 1000;

/// The room that everybody is in.
const ROOM: &str = "live://1000";

/// One shard whose connections are all open and in one room. Unlike the driver of the tests it has no sockets: to look one up
/// for each write would cost about what is measured.
pub struct Gateway {
    now: Time,
    shard: Shard,
    out: Outputs,
    members: Vec<ConnectionId>,
    room: RoomId,
    next_heartbeat: usize,
    heartbeat: Vec<u8>,
}

impl Gateway {
    /// A shard with so many members, as they are after their login and its answer.
    pub fn with_members(members: usize, transport: Transport) -> Gateway {
        let now = START;
        let mut gateway = Gateway {
            now,
            shard: Shard::new(0, config(members), now),
            out: Outputs::default(),
            members: Vec::with_capacity(members),
            room: room(ROOM),
            next_heartbeat: 0,
            heartbeat: wire::frame(Op::HEARTBEAT.0, 1, &[]),
        };
        for number in 0..members as u64 {
            let state = member(number, transport);
            let id = gateway.shard.attached(now, state, &mut gateway.out);
            gateway.members.push(id);
            gateway.complete_writes();
        }
        assert_eq!(gateway.shard.room_members(&gateway.room), members);
        gateway
    }

    /// A push for the room: appended to the queue of every member.
    pub fn push(&mut self, encoded: &Encoded) {
        let mut push = push_of(PushTo::Room(self.room.clone()), encoded.clone(), self.now);
        push.accepted = Some(self.now);
        self.shard.mail(self.now, ToShard::Push(Box::new(push)), &mut self.out);
    }

    /// Hands out everything that waits, turn by turn, and ends each write as the kernel would. Returns the frames that
    /// were delivered.
    pub fn write(&mut self) -> u64 {
        let mut frames = 0;
        loop {
            let state = self.shard.flush(self.now, SENDS_PER_TURN, &mut self.out);
            frames += self.complete_writes();
            if state == FlushState::Idle {
                return frames;
            }
        }
    }

    /// The member whose turn it is sends a heartbeat and gets the answer.
    ///
    /// # Panics
    /// When it is not a TCP client's gateway, or the answer does not come.
    pub fn heartbeat(&mut self) {
        let id = self.members[self.next_heartbeat];
        self.next_heartbeat = (self.next_heartbeat + 1) % self.members.len();
        self.shard.received(self.now, id, &mut self.heartbeat, &mut self.out);
        assert_eq!(self.complete_writes(), 1, "the answer");
    }

    /// Time passes, without a tick.
    pub fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    /// One tick of the shard's clock passes.
    pub fn tick(&mut self) {
        self.pass(Duration::from_micros(TICK_MICROS));
        self.shard.tick(self.now, 100, 0, &mut self.out);
        self.complete_writes();
        assert_eq!(self.shard.connections(), self.members.len(), "nobody is closed");
    }

    fn complete_writes(&mut self) -> u64 {
        let mut frames = 0;
        while !self.out.actions.is_empty() {
            let mut actions = std::mem::take(&mut self.out.actions);
            for action in actions.drain(..) {
                let (id, run) = match action {
                    Action::Send { id, run } => (id, run),
                    Action::Resume { .. } => continue, // after the login: its client may be read
                    other => panic!("nobody is closed: {other:?}"),
                };
                frames += u64::from(run.frames);
                let sent = written(&run, self.now);
                self.shard.sent(self.now, id, sent, &mut self.out);
            }
            if self.out.actions.is_empty() {
                self.out.actions = actions; // its memory is used again, as in the driver
            }
        }
        self.out.mail.clear();
        frames
    }
}

fn member(number: u64, transport: Transport) -> Handover {
    let session = Session {
        mid: Mid(number as i64),
        accepts: vec![Op(1000)],
        generation: Some(Generation(number as i64 + 1)),
        ..session_in(&format!("key-{number}"), ROOM)
    };
    handover(Ticket(number), transport, session)
}

/// The program's defaults, with room for everybody and nothing joined on purpose.
fn config(connections: usize) -> ShardConfig {
    ShardConfig { batch: Batch::Off, ..CometConfig::default().shard(1, connections) }
}
