//! What waits to be sent to one connection, and the runs that go out in one write.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use proto::encoded::Encoded;
use seam::Time;
use smallvec::SmallVec;

/// One encoded frame for connections of a shard. All of them share the allocation, without an atomic count within the
/// shard.
#[derive(Clone, Debug)]
pub struct Outgoing(Rc<Frame>);

#[derive(Debug)]
struct Frame {
    bytes: Rc<Bytes>,
    /// Where the bytes for a TCP client begin. A WebSocket client gets all bytes.
    tcp_start: u16,
    /// Number of goim frames inside, for the counters.
    frames: u32,
    /// Whether the frame may be dropped for a slow reader. Replies and control frames may not, because the connection
    /// depends on them. They have twice the room of pushes; a client that goes on asking and does not read the answers
    /// is closed.
    droppable: bool,
    /// When logic accepted the push.
    accepted: Option<Time>,
}

impl Outgoing {
    /// A push. It may be dropped if its receiver is slow.
    pub fn push(encoded: &Encoded, accepted: Option<Time>) -> Outgoing {
        Outgoing::new(encoded, true, accepted)
    }

    /// A reply or control frame.
    pub fn reply(encoded: &Encoded) -> Outgoing {
        Outgoing::new(encoded, false, None)
    }

    /// Bytes that are no frame and the same on both wires: an HTTP answer.
    pub fn raw(bytes: Vec<u8>) -> Outgoing {
        let bytes = Rc::new(bytes.into());
        Outgoing(Rc::new(Frame { bytes, tcp_start: 0, frames: 0, droppable: false, accepted: None }))
    }

    fn new(encoded: &Encoded, droppable: bool, accepted: Option<Time>) -> Outgoing {
        Outgoing(Rc::new(Frame {
            tcp_start: encoded.tcp_start() as u16,
            frames: encoded.frames() as u32,
            bytes: Rc::new(encoded.bytes().clone()),
            droppable,
            accepted,
        }))
    }

    /// Number of goim frames inside.
    pub fn frames(&self) -> u32 {
        self.0.frames
    }
}

impl Frame {
    fn start(&self, wire: WireKind) -> usize {
        match wire {
            WireKind::Tcp => usize::from(self.tcp_start),
            WireKind::WebSocket => 0,
        }
    }

    fn len(&self, wire: WireKind) -> usize {
        self.bytes.len() - self.start(wire)
    }

    /// All of it as one run.
    fn run(&self, wire: WireKind) -> Run {
        let Frame { frames, accepted, .. } = *self;
        Run { bytes: Rc::clone(&self.bytes), start: self.start(wire), frames, accepted }
    }
}

/// Which of the two forms of an encoded frame a connection takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireKind {
    /// Bare goim frames.
    Tcp,
    /// WebSocket messages.
    WebSocket,
}

/// Bytes for one write. All connections that send the same share them.
#[derive(Clone, Debug)]
pub struct Run {
    /// The bytes. Those before `start` are not for this connection.
    pub bytes: Rc<Bytes>,
    /// Where this connection's bytes begin.
    pub start: usize,
    /// Number of goim frames inside.
    pub frames: u32,
    /// When logic accepted the oldest push inside.
    pub accepted: Option<Time>,
}

impl Run {
    /// The bytes to write.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// What happened to a frame that was put into a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It waits.
    Waiting,
    /// It waits, and this many older frames were dropped for it.
    DroppedOldest(u32),
    /// Nothing was queued, and the connection has to be closed, because the policy says so or the frame is a reply.
    Overflow,
}

/// What a full send queue does. The bound is in bytes and per connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowConsumer {
    /// Drop what waited longest: a slow reader sees the newest state.
    DropOldest,
    /// Close with 4413. The client then reconnects and asks for what it missed.
    Close,
}

/// Frames that wait until the write under way ends. An empty queue owns no heap.
#[derive(Debug, Default)]
pub struct SendQueue {
    waiting: SmallVec<[Outgoing; 1]>,
    bytes: u32,
}

impl SendQueue {
    /// Bytes that wait.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a reply waits, which nothing should delay.
    pub fn has_reply(&self) -> bool {
        self.waiting.iter().any(|frame| !frame.0.droppable)
    }

    /// Whether there is room for a frame without dropping others.
    pub fn fits(&self, outgoing: &Outgoing, wire: WireKind, limit: u32) -> bool {
        let others = self.bytes - self.overlong(wire, limit);
        let room = if outgoing.0.droppable { limit } else { limit.saturating_mul(2) };
        self.waiting.is_empty() || others.saturating_add(outgoing.0.len(wire) as u32) <= room
    }

    /// Bytes of the first frame if it alone exceeds `limit`; otherwise 0. It was taken because nothing else waited, and
    /// it does not count against the frames behind it: a long push must not make a healthy reader lose short ones, nor
    /// the other way round.
    fn overlong(&self, wire: WireKind, limit: u32) -> u32 {
        let first = self.waiting.first().map_or(0, |frame| frame.0.len(wire) as u32);
        if first > limit { first } else { 0 }
    }

    /// Queues a frame. An empty queue takes a frame that exceeds `limit`, because otherwise that frame could never be
    /// sent.
    pub fn push(&mut self, outgoing: Outgoing, wire: WireKind, limit: u32, policy: SlowConsumer) -> Queued {
        let len = outgoing.0.len(wire) as u32;
        if len == 0 {
            return Queued::Waiting;
        }
        let mut dropped = 0;
        if !self.fits(&outgoing, wire, limit) {
            match policy {
                _ if !outgoing.0.droppable => return Queued::Overflow,
                SlowConsumer::Close => return Queued::Overflow,
                SlowConsumer::DropOldest => dropped = self.make_room(len, wire, limit),
            }
        }
        self.bytes += len;
        self.waiting.push(outgoing);
        if dropped > 0 { Queued::DroppedOldest(dropped) } else { Queued::Waiting }
    }

    /// Drops the oldest droppable frames until `len` bytes fit. Returns how many goim frames that were.
    fn make_room(&mut self, len: u32, wire: WireKind, limit: u32) -> u32 {
        // Only another overlong frame may displace an overlong one.
        let mut kept = if len > limit { 0 } else { self.overlong(wire, limit) };
        let (mut others, mut dropped) = (self.bytes - kept, 0);
        self.bytes = 0;
        self.waiting.retain(|Outgoing(frame)| {
            let drop = kept == 0 && frame.droppable && others.saturating_add(len) > limit;
            if drop {
                others -= frame.len(wire) as u32;
                dropped += frame.frames;
            } else {
                self.bytes += frame.len(wire) as u32;
            }
            kept = 0; // only the first frame is overlong
            !drop
        });
        dropped
    }

    /// Drops everything that waits. Returns how many goim frames that were.
    pub fn clear(&mut self) -> u32 {
        self.bytes = 0;
        std::mem::take(&mut self.waiting).iter().map(Outgoing::frames).sum()
    }

    /// Takes everything that waits as one run.
    pub fn take(&mut self, wire: WireKind, joined: &mut JoinedRuns) -> Option<Run> {
        let run = match self.waiting.as_slice() {
            [] => return None,
            [Outgoing(one)] => one.run(wire),
            several => joined.join(several, wire),
        };
        self.bytes = 0;
        self.waiting = SmallVec::new();
        Some(run)
    }
}

/// Runs that were joined during one flush. Members of a room usually wait for the very same frames, so these are joined
/// only once.
#[derive(Default)]
pub struct JoinedRuns {
    recent: Vec<Joined>,
}

struct Joined {
    frames: SmallVec<[Outgoing; 8]>,
    wire: WireKind,
    run: Run,
}

/// How many joined runs are remembered within a flush: those of two rooms on both wires.
const RECENT_MAX: usize = 4;

impl JoinedRuns {
    fn join(&mut self, frames: &[Outgoing], wire: WireKind) -> Run {
        let same = |joined: &&Joined| {
            joined.wire == wire
                && joined.frames.len() == frames.len()
                && joined.frames.iter().zip(frames).all(|(a, b)| Rc::ptr_eq(&a.0, &b.0))
        };
        if let Some(joined) = self.recent.iter().find(same) {
            return joined.run.clone();
        }
        let mut bytes = BytesMut::with_capacity(frames.iter().map(|frame| frame.0.len(wire)).sum());
        for Outgoing(frame) in frames {
            bytes.extend_from_slice(&frame.bytes[frame.start(wire)..]);
        }
        let run = Run {
            bytes: Rc::new(bytes.freeze()),
            start: 0,
            frames: frames.iter().map(Outgoing::frames).sum(),
            accepted: frames.iter().filter_map(|frame| frame.0.accepted).min(),
        };
        if self.recent.len() == RECENT_MAX {
            self.recent.remove(0);
        }
        self.recent.push(Joined { frames: frames.into(), wire, run: run.clone() });
        run
    }

    /// Forgets the runs. Otherwise they would keep their frames in memory.
    pub fn clear(&mut self) {
        self.recent.clear();
    }
}

#[cfg(test)]
mod tests {
    use proto::op::Op;

    use super::*;

    fn push(body: &[u8]) -> Outgoing {
        Outgoing::push(&Encoded::push(Op(1000), body), None)
    }

    fn fill(queue: &mut SendQueue, count: usize, limit: u32, policy: SlowConsumer) -> Vec<Queued> {
        (0..count).map(|n| queue.push(push(&[n as u8; 84]), WireKind::Tcp, limit, policy)).collect()
    }

    #[test]
    fn one_frame_leaves_without_a_copy() {
        let (mut queue, mut joined) = (SendQueue::default(), JoinedRuns::default());
        let frame = push(b"hello");
        queue.push(frame.clone(), WireKind::WebSocket, 1000, SlowConsumer::Close);
        let run = queue.take(WireKind::WebSocket, &mut joined).expect("a run");
        assert!(Rc::ptr_eq(&run.bytes, &frame.0.bytes));
        assert_eq!(run.start, 0);
        assert!(queue.is_empty() && queue.bytes() == 0);
    }

    #[test]
    fn the_same_frames_are_joined_once_for_all_who_wait_for_them() {
        let mut joined = JoinedRuns::default();
        let frames = [push(b"one"), push(b"two")];
        let run = |joined: &mut JoinedRuns, wire| {
            let mut queue = SendQueue::default();
            for frame in &frames {
                queue.push(frame.clone(), wire, 1000, SlowConsumer::Close);
            }
            queue.take(wire, joined).expect("a run")
        };
        let (a, b) = (run(&mut joined, WireKind::Tcp), run(&mut joined, WireKind::Tcp));
        assert!(Rc::ptr_eq(&a.bytes, &b.bytes));
        let web = run(&mut joined, WireKind::WebSocket);
        assert_eq!(a.as_slice().len(), 2 * 19);
        assert_eq!(web.as_slice().len(), 2 * (2 + 16 + 19));
        assert_eq!(web.frames, 2);
    }

    #[test]
    fn the_bound_is_in_bytes_and_drops_as_the_policy_says() {
        let mut queue = SendQueue::default();
        let dropped = fill(&mut queue, 12, 1000, SlowConsumer::DropOldest);
        assert_eq!(&dropped[9..], [Queued::Waiting, Queued::DroppedOldest(1), Queued::DroppedOldest(1)]);
        assert_eq!((queue.bytes(), queue.waiting[0].0.bytes[34]), (1000, 2));

        let mut queue = SendQueue::default();
        assert_eq!(fill(&mut queue, 11, 1000, SlowConsumer::Close)[10], Queued::Overflow);
    }

    #[test]
    fn a_reply_is_never_dropped() {
        let mut queue = SendQueue::default();
        fill(&mut queue, 10, 1000, SlowConsumer::DropOldest);
        let reply = Outgoing::reply(&Encoded::push(Op(3), &[0; 4]));
        assert_eq!(queue.push(reply, WireKind::Tcp, 1000, SlowConsumer::DropOldest), Queued::Waiting);
        assert!(queue.has_reply());
        assert_eq!((queue.clear(), queue.bytes()), (11, 0));
    }

    /// A push longer than the queue's limit that waited behind a write was dropped with the next short one, so a healthy
    /// reader lost it.
    #[test]
    fn a_long_push_and_the_short_ones_behind_it_do_not_drop_each_other() {
        let mut queue = SendQueue::default();
        let mut push_len =
            |len: usize| queue.push(push(&vec![0; len - 16]), WireKind::Tcp, 1000, SlowConsumer::DropOldest);
        assert_eq!(push_len(5000), Queued::Waiting);
        assert!((0..10).all(|_| push_len(100) == Queued::Waiting));
        assert_eq!(push_len(100), Queued::DroppedOldest(1), "of the short ones");
        assert_eq!(push_len(6000), Queued::DroppedOldest(11), "one long push at a time");
        assert_eq!(queue.bytes(), 6000);
        let reply = |len: usize| Outgoing::reply(&Encoded::push(Op(3), &vec![0; len - 16]));
        assert!(
            queue.fits(&reply(2000), WireKind::Tcp, 1000) && !queue.fits(&reply(2001), WireKind::Tcp, 1000)
        );
    }

    #[test]
    fn a_frame_over_the_limit_is_sent_when_nothing_else_waits() {
        let mut queue = SendQueue::default();
        assert_eq!(
            queue.push(push(&[0; 5000]), WireKind::Tcp, 1000, SlowConsumer::DropOldest),
            Queued::Waiting
        );
    }
}
