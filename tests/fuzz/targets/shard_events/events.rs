//! Scripts: from bytes to events.

use std::{collections::VecDeque, time::Duration};

use arbitrary::Unstructured;
use bytes::Bytes;
use contract::{Session, Transport};
use proto::{
    close::CloseReason,
    encoded::Encoded,
    frame::Header,
    ids::{Generation, Key, Mid, RoomId},
    op::Op,
    websocket::MessageLimits,
};
use shard::{
    Batch, MAIL_WAITING_MAX, Rate, SlowConsumer,
    mail::{ConnectionId, Outcome, Push, PushTo, ToShard},
};
use testkit::{
    wire::{self, CLOSE, PING, PONG, TEXT},
    world::{Said, World, room, session},
};

const SOCKETS_MAX: usize = 12;
const DETACHED_MAX: usize = 4;

/// Mail that a script puts before the front: a little less than what holds connections up.
const MAIL_MAX: usize = MAIL_WAITING_MAX - 4;

/// Client messages that logic may still answer.
const ASKED_MAX: usize = 32;

/// Operations that mean something, and one that is not the wire's own.
const OPS: [i32; 12] = [7, 2, 12, 2_000_000_000, 2_000_000_002, 14, 16, 4, 1000, 9, 3, -1];

/// Reads a byte; zero when the script is over.
fn byte(script: &mut Unstructured<'_>) -> u8 {
    script.arbitrary().unwrap_or_default()
}

/// Takes up to `len` bytes.
fn bytes<'a>(script: &mut Unstructured<'a>, len: u8) -> &'a [u8] {
    script.bytes(script.len().min(usize::from(len))).unwrap_or_default()
}

fn live(number: u8) -> RoomId {
    room(&format!("live://{}", number % 4))
}

fn key(number: u8) -> String {
    format!("k{}", number % 4)
}

/// A shard's world, and what its script has to remember.
pub(crate) struct Play {
    world: World,
    /// Logins that logic has given its word on, which it does once.
    decided: Vec<ConnectionId>,
    /// A connection that is over, for late words about it.
    over: Option<ConnectionId>,
    /// Client messages that logic has not answered, the newest first.
    asked: VecDeque<(ConnectionId, Header)>,
}

impl Play {
    /// An empty shard, as the first bytes of the script want it.
    pub(crate) fn new(script: &mut Unstructured<'_>) -> Play {
        let (kind, sizes) = (byte(script), byte(script));
        let window = Duration::from_millis(20);
        let mut world = World::with(|config| {
            config.handshake = Duration::from_secs(2);
            config.frame = Duration::from_secs(3);
            config.message = MessageLimits { message_max: 8192, fragments_max: 5 };
            config.queue_bytes_max = 4096;
            config.slow_consumer = [SlowConsumer::DropOldest, SlowConsumer::Close][usize::from(kind % 2)];
            config.rate = Rate { per_second: 20, burst: if kind & 4 == 0 { 1000 } else { 10 } };
            config.rooms_max = 3;
            config.accepts_max = 4;
            config.unauthenticated_max = 4;
            config.connections_max = SOCKETS_MAX - 2;
            config.ignored_max = 3;
            config.refusals_max = 3;
            config.renew = Duration::from_secs(1);
            config.unknown_reply_same = kind & 8 != 0;
            config.batch = [Batch::Off, Batch::Adaptive(window), Batch::Fixed(window), Batch::Off]
                [usize::from(kind >> 6)];
        });
        world.auto_flush = [Some(1000), Some(1), Some(3), None][usize::from(sizes % 4)];
        world.read_size = [usize::MAX, 1, 7, 100][usize::from(sizes / 4 % 4)];
        world.checks = false; // after each event is enough
        Play { world, decided: Vec::new(), over: None, asked: VecDeque::new() }
    }

    /// One event.
    pub(crate) fn step(&mut self, script: &mut Unstructured<'_>) {
        match byte(script) % 16 {
            0 => self.connect(byte(script)),
            1 | 2 => self.say(script),
            3 => self.noise(script),
            4 | 5 => self.verdict(script),
            6 => self.arrive_one(byte(script)),
            7 | 8 => self.push(script),
            9 => self.stall(script),
            10 => self.leave(script),
            11 => self.kick(script),
            12 => self.answer(script),
            13 => self.front(script),
            14 => drop(self.world.flush(usize::from(byte(script)))),
            _ => {
                self.world.load = u64::from(byte(script)) * 4;
                self.world.advance(Duration::from_millis(u64::from(byte(script)) * 10));
            }
        }
        self.world.settle();
        self.world.check();
        self.over = self.world.forget().or(self.over);
        for said in self.world.said() {
            if let Said::Message { id, header, .. } = said {
                self.asked.truncate(ASKED_MAX - 1);
                self.asked.push_front((id, header));
            }
        }
    }

    fn connect(&mut self, kind: u8) {
        if self.world.ids().len() >= SOCKETS_MAX {
            return self.world.shard.accept_failed();
        }
        let transport = if kind & 1 == 0 { Transport::Tcp } else { Transport::WebSocket };
        let Some(id) = self.world.accept(transport) else { return };
        let socket = self.world.socket_mut(id);
        (socket.stalled, socket.stubborn) = (kind & 2 != 0, kind & 4 != 0);
        if transport == Transport::WebSocket && kind & 8 == 0 {
            self.world.send(id, &wire::upgrade("/sub?a=1", "Cookie: c=1\r\n"));
        }
    }

    fn pick(&self, number: u8) -> Option<ConnectionId> {
        let ids = self.world.ids();
        ids.get(usize::from(number) % ids.len().max(1)).copied()
    }

    /// One whose client may say something.
    fn pick_speaker(&self, number: u8) -> Option<ConnectionId> {
        self.pick(number).filter(|id| self.world.socket(*id).ending.is_none())
    }

    /// A client says one to four things, on WebSocket in one message or several.
    fn say(&mut self, script: &mut Unstructured<'_>) {
        let (who, kind) = (byte(script), byte(script));
        let Some(id) = self.pick_speaker(who) else { return };
        let transport = self.world.socket(id).transport;
        let (mut frames, mut said) = (Vec::new(), Vec::new());
        for seq in 0..=i32::from(kind % 4) {
            let what = byte(script);
            let body = match what >> 4 {
                0..4 => live(what >> 4).as_str().as_bytes().to_vec(),
                4 => Vec::new(),
                5 => b"1000".to_vec(),
                6 => b"{\"features\":[\"reasons\"]}".to_vec(),
                7 => b"1000,1,2,3,4".to_vec(),
                _ => {
                    let len = byte(script);
                    bytes(script, len % 32).to_vec()
                }
            };
            if let Some(op) = OPS.get(usize::from(what % 16)) {
                frames.extend(wire::frame(*op, seq, &body));
                if kind & 4 == 0 {
                    said.extend(wire::sent(transport, &std::mem::take(&mut frames)));
                }
                continue;
            }
            let first = [PING, PONG, CLOSE, TEXT][usize::from(what % 4)];
            if transport == Transport::WebSocket {
                said.extend(wire::masked(first, &body[..body.len().min(125)]));
            }
        }
        if !frames.is_empty() {
            said.extend(wire::sent(transport, &frames));
        }
        if kind & 8 != 0 {
            said.truncate(said.len() / 2);
        }
        self.world.send(id, &said);
    }

    /// Any bytes.
    fn noise(&mut self, script: &mut Unstructured<'_>) {
        let (who, len) = (byte(script), byte(script));
        let noise = bytes(script, len % 64);
        if let Some(id) = self.pick_speaker(who) {
            self.world.send(id, noise);
        }
    }

    /// Logic's word on a login, or on a connection that waits for none.
    fn verdict(&mut self, script: &mut Unstructured<'_>) {
        let (who, kind, more) = (byte(script), byte(script), byte(script));
        let mut lobby = self.world.ids();
        lobby.retain(|id| self.world.shard.is_in_lobby(*id) && !self.decided.contains(id));
        let late = if who & 0x80 == 0 { None } else { self.over };
        let Some(id) = late.or_else(|| lobby.get(usize::from(who) % lobby.len().max(1)).copied()) else {
            return;
        };
        self.decided.push(id);
        let moves = kind & 8 != 0 && self.world.detached.len() < DETACHED_MAX;
        let outcome = if kind & 7 == 7 {
            Outcome::Refuse { reason: CloseReason::LoginRefused, text: "no".to_owned() }
        } else {
            let session = Session {
                mid: Mid(i64::from(kind)),
                room: (more & 1 != 0).then(|| live(more >> 1)),
                rooms: (0..more >> 6).map(|n| live((more >> 3).wrapping_add(n))).collect(),
                accepts: if more & 2 == 0 {
                    vec![Op(1000)]
                } else {
                    (0..i32::from(more >> 5)).map(Op).collect()
                },
                heartbeat: Duration::from_millis(1500),
                generation: (kind & 4 != 0).then(|| Generation(i64::from(more >> 3))),
                ..session(&key(kind >> 4))
            };
            if moves { Outcome::Move { to: 7, session } } else { Outcome::Open(session) }
        };
        self.world.verdict(id, outcome);
    }

    fn arrive_one(&mut self, number: u8) {
        if self.world.detached.is_empty() {
            return;
        }
        let at = usize::from(number) % self.world.detached.len();
        let detached = self.world.detached.remove(at);
        match detached.socket.ending {
            Some(_) => self.world.left_on_the_way(detached),
            None => drop(self.world.attach(detached)),
        }
    }

    /// One to four pushes that are taken from the mailbox together.
    fn push(&mut self, script: &mut Unstructured<'_>) {
        let (kind, len) = (byte(script), byte(script));
        let body = vec![b'.'; usize::from(len) * 24];
        for number in 0..=kind % 4 {
            let to = match kind >> 2 & 3 {
                0 => PushTo::Keys((0..=number).map(|n| Key::new(key((kind >> 4).wrapping_add(n)))).collect()),
                1 => PushTo::All { speed: u32::from(kind >> 4) * 10 },
                _ => PushTo::Room(live(kind >> 4)),
            };
            let origin = (kind & 0x40 != 0).then(|| {
                let header = Header { ver: 1, op: Op::SEND_MESSAGE_REPLY, seq: 5 };
                (Key::new(key(number)), Encoded::reply(header, &body))
            });
            let encoded = Encoded::push(Op(1000), &body);
            let (accepted, dispatched) = (Some(self.world.now), self.world.now);
            let push = Push { to, filter: Op(1000), encoded, origin, accepted, dispatched };
            self.world.hand(ToShard::Push(Box::new(push)));
        }
    }

    /// A client stops reading, reads again, or breaks while it is written to.
    fn stall(&mut self, script: &mut Unstructured<'_>) {
        let (who, kind) = (byte(script), byte(script));
        let Some(id) = self.pick(who) else { return };
        match kind % 4 {
            0 => self.world.take_write(id, false),
            1 => self.world.take_write(id, true),
            2 => self.world.stall(id, true),
            _ => self.world.stall(id, false),
        }
    }

    fn leave(&mut self, script: &mut Unstructured<'_>) {
        let (who, kind) = (byte(script), byte(script));
        let lost = kind & 1 != 0;
        if kind & 2 != 0 {
            let count = self.world.detached.len().max(1);
            if let Some(detached) = self.world.detached.get_mut(usize::from(who) % count) {
                detached.socket.ending.get_or_insert(lost);
            }
        } else if let Some(id) = self.pick(who) {
            self.world.leave(id, lost);
        }
    }

    fn kick(&mut self, script: &mut Unstructured<'_>) {
        let kind = byte(script);
        let below = (kind & 4 != 0).then(|| i64::from(kind >> 3));
        let reason = if kind & 0x80 == 0 { CloseReason::Kicked } else { CloseReason::Replaced };
        self.world.kick(&key(kind), below, reason);
    }

    /// Logic answers a client message, in any order and late.
    fn answer(&mut self, script: &mut Unstructured<'_>) {
        let (which, len) = (byte(script), byte(script));
        let count = self.asked.len().max(1);
        let Some((id, header)) = self.asked.remove(usize::from(which) % count) else { return };
        let body = Bytes::copy_from_slice(bytes(script, len % 32));
        self.world.mail(ToShard::Reply { id, header, body });
    }

    /// The front: its ring is full or empties, people elsewhere, a drain.
    fn front(&mut self, script: &mut Unstructured<'_>) {
        let (kind, number) = (byte(script), byte(script));
        match kind % 5 {
            0 => {
                self.world.ring = usize::from(number);
                // Others have filled it.
                if kind & 0x80 != 0 {
                    self.world.fill_mail(MAIL_MAX);
                }
            }
            1 => self.world.ring = usize::MAX,
            2 => {
                let people = vec![(live(number), u32::from(number) << (number % 25))];
                self.world.mail(ToShard::Elsewhere(people));
            }
            _ => self.world.mail(ToShard::Drain { over: Duration::from_millis(u64::from(number) * 8) }),
        }
    }
}
