//! Scripts: from bytes to events.

use std::{net::{IpAddr, Ipv4Addr}, time::Duration};

use arbitrary::Unstructured;
use bytes::Bytes;
use contract::{Session, Transport};
use proto::{close::CloseReason, encoded::Encoded, frame::{Header, encode}, ids::{Generation, Key, Mid, RoomId}, op::Op, websocket::{ClientUpgrade, MessageLimits, Opcode, UpgradeRules}};
use seam::Time;
use shard::{Batch, Rate, Shard, ShardConfig, SlowConsumer, mail::{ConnectionId, Outcome, Push, PushTo, ToFront, ToShard, Verdict}};

use super::{client::sent, driver::{Socket, World}};

const START: Time = Time::from_micros(12_345_678);
const SOCKETS_MAX: usize = 12;
const DETACHED_MAX: usize = 4;

/// Mail that a script puts before the front: a little less than what holds connections up.
const MAIL_MAX: usize = 1020;

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

fn room(number: u8) -> RoomId {
    RoomId::parse(&format!("live://{}", number % 4)).expect("a room id")
}

fn key(number: u8) -> Key {
    Key::new(format!("k{}", number % 4))
}

/// An empty shard, as the first bytes of the script want it.
pub(crate) fn world(script: &mut Unstructured<'_>) -> World {
    let (kind, sizes) = (byte(script), byte(script));
    let window = Duration::from_millis(20);
    let config = ShardConfig {
        handshake: Duration::from_secs(2),
        frame: Duration::from_secs(3),
        upgrade: UpgradeRules::default(),
        message: MessageLimits { message_max: 8192, fragments_max: 5 },
        body_max: 4096,
        queue_bytes_max: 4096,
        slow_consumer: [SlowConsumer::DropOldest, SlowConsumer::Close][usize::from(kind % 2)],
        rate: Rate { per_second: 20, burst: if kind & 4 == 0 { 1000 } else { 10 } },
        rooms_max: 3,
        accepts_max: 4,
        unauthenticated_max: 4,
        connections_max: SOCKETS_MAX - 2,
        ignored_max: 3,
        refusals_max: 3,
        renew: Duration::from_secs(1),
        unknown_reply_same: kind & 8 != 0,
        batch: [Batch::Off, Batch::Adaptive(window), Batch::Fixed(window), Batch::Off]
            [usize::from(kind >> 6)],
    };
    let mut world = World::new(Shard::new(3, config, START), START);
    world.flush_budget = [1000, 1, 3, 0][usize::from(sizes % 4)];
    world.read_size = [usize::MAX, 1, 7, 100][usize::from(sizes / 4 % 4)];
    world
}

impl World {
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
            14 => drop(self.shard.flush(self.now, usize::from(byte(script)), &mut self.out)),
            _ => {
                self.load = u64::from(byte(script)) * 4;
                self.advance(Duration::from_millis(u64::from(byte(script)) * 10));
            }
        }
        self.settle();
    }

    fn connect(&mut self, kind: u8) {
        if self.sockets.len() >= SOCKETS_MAX {
            return self.shard.accept_failed();
        }
        let transport = if kind & 1 == 0 { Transport::Tcp } else { Transport::WebSocket };
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let Some(id) = self.shard.accepted(self.now, transport, peer, &mut self.out) else { return };
        self.add(id, transport);
        let Some(socket) = self.socket(id) else { return };
        (socket.stalled, socket.stubborn) = (kind & 2 != 0, kind & 4 != 0);
        if transport == Transport::WebSocket && kind & 8 == 0 {
            socket.unread.extend(ClientUpgrade::new([7; 16]).request(
                "halley.test",
                "/sub?a=1",
                &[("Cookie", "c=1")],
            ));
            self.readable(id);
        }
    }

    fn pick(&mut self, number: u8) -> Option<&mut Socket> {
        let count = self.sockets.len().max(1);
        self.sockets.get_mut(usize::from(number) % count)
    }

    /// A client says one to four things, on WebSocket in one message or several.
    fn say(&mut self, script: &mut Unstructured<'_>) {
        let (who, kind) = (byte(script), byte(script));
        let Some(socket) = self.pick(who).filter(|socket| socket.ending.is_none()) else { return };
        let (id, transport) = (socket.id, socket.transport);
        let (mut frames, mut said) = (Vec::new(), Vec::new());
        for seq in 0..=i32::from(kind % 4) {
            let what = byte(script);
            let body = match what >> 4 {
                0..4 => room(what >> 4).as_str().as_bytes().to_vec(),
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
                encode(Header { ver: 1, op: Op(*op), seq }, &body, &mut frames);
                if kind & 4 == 0 {
                    said.extend(sent(transport, Opcode::Binary, &std::mem::take(&mut frames)));
                }
                continue;
            }
            let opcode = [Opcode::Ping, Opcode::Pong, Opcode::Close, Opcode::Text][usize::from(what % 4)];
            if transport == Transport::WebSocket {
                said.extend(sent(transport, opcode, &body[..body.len().min(125)]));
            }
        }
        if !frames.is_empty() {
            said.extend(sent(transport, Opcode::Binary, &frames));
        }
        if kind & 8 != 0 {
            said.truncate(said.len() / 2);
        }
        let Some(socket) = self.socket(id) else { return };
        socket.unread.extend(said);
        self.readable(id);
    }

    /// Any bytes.
    fn noise(&mut self, script: &mut Unstructured<'_>) {
        let (who, len) = (byte(script), byte(script));
        let noise = bytes(script, len % 64);
        let Some(socket) = self.pick(who).filter(|socket| socket.ending.is_none()) else { return };
        let id = socket.id;
        socket.unread.extend(noise);
        self.readable(id);
    }

    /// Logic's word on a login, or on a connection that waits for none.
    fn verdict(&mut self, script: &mut Unstructured<'_>) {
        let (who, kind, more) = (byte(script), byte(script), byte(script));
        let waits = |socket: &&Socket| !socket.decided && self.shard.is_in_lobby(socket.id);
        let lobby: Vec<ConnectionId> = self.sockets.iter().filter(waits).map(|socket| socket.id).collect();
        let late = if who & 0x80 == 0 { None } else { self.over };
        let Some(id) = late.or_else(|| lobby.get(usize::from(who) % lobby.len().max(1)).copied()) else {
            return;
        };
        // A client that left is found before its session opens.
        if let Some(socket) = self.socket(id) {
            socket.decided = true;
            if socket.ending.is_some() {
                self.shard.hung_up(self.now, id, &mut self.out);
            }
        }
        let moves = kind & 8 != 0 && self.detached.len() < DETACHED_MAX;
        let outcome = if kind & 7 == 7 {
            Outcome::Refuse { reason: CloseReason::LoginRefused, text: "no".to_owned() }
        } else {
            self.granted += 1;
            let session = Session {
                mid: Mid(i64::from(kind)),
                key: key(kind >> 4),
                room: (more & 1 != 0).then(|| room(more >> 1)),
                rooms: (0..more >> 6).map(|n| room((more >> 3).wrapping_add(n))).collect(),
                accepts: if more & 2 == 0 {
                    vec![Op(1000)]
                } else {
                    (0..i32::from(more >> 5)).map(Op).collect()
                },
                heartbeat: Duration::from_millis(1500),
                generation: (kind & 4 != 0).then(|| Generation(i64::from(more >> 3))),
            };
            if moves { Outcome::Move { to: 7, session } } else { Outcome::Open(session) }
        };
        self.shard.mail(self.now, ToShard::Verdict(Box::new(Verdict { id, outcome })), &mut self.out);
    }

    fn arrive_one(&mut self, number: u8) {
        if !self.detached.is_empty() {
            let detached = self.detached.remove(usize::from(number) % self.detached.len());
            self.arrive(detached);
        }
    }

    /// One to four pushes that are taken from the mailbox together.
    fn push(&mut self, script: &mut Unstructured<'_>) {
        let (kind, len) = (byte(script), byte(script));
        let body = vec![b'.'; usize::from(len) * 24];
        for number in 0..=kind % 4 {
            let to = match kind >> 2 & 3 {
                0 => PushTo::Keys((0..=number).map(|n| key((kind >> 4).wrapping_add(n))).collect()),
                1 => PushTo::All { speed: u32::from(kind >> 4) * 10 },
                _ => PushTo::Room(room(kind >> 4)),
            };
            let origin = (kind & 0x40 != 0).then(|| {
                let header = Header { ver: 1, op: Op::SEND_MESSAGE_REPLY, seq: 5 };
                (key(number), Encoded::reply(header, &body))
            });
            let encoded = Encoded::push(Op(1000), &body);
            let (accepted, dispatched) = (Some(self.now), self.now);
            let push = Push { to, filter: Op(1000), encoded, origin, accepted, dispatched };
            self.shard.mail(self.now, ToShard::Push(Box::new(push)), &mut self.out);
        }
    }

    /// A client stops reading, reads again, or breaks while it is written to.
    fn stall(&mut self, script: &mut Unstructured<'_>) {
        let (who, kind) = (byte(script), byte(script));
        let Some(socket) = self.pick(who) else { return };
        let id = socket.id;
        match kind % 4 {
            0 => self.end_write(id, false),
            1 => self.end_write(id, true),
            2 => socket.stalled = true,
            _ => {
                socket.stalled = false;
                self.writable(id);
            }
        }
    }

    fn leave(&mut self, script: &mut Unstructured<'_>) {
        let (who, kind) = (byte(script), byte(script));
        let lost = kind & 1 != 0;
        if kind & 2 != 0 {
            let count = self.detached.len().max(1);
            if let Some(detached) = self.detached.get_mut(usize::from(who) % count) {
                detached.socket.ending.get_or_insert(lost);
            }
        } else if let Some(socket) = self.pick(who) {
            socket.ending.get_or_insert(lost);
            let id = socket.id;
            self.readable(id);
        }
    }

    fn kick(&mut self, script: &mut Unstructured<'_>) {
        let kind = byte(script);
        let below = (kind & 4 != 0).then(|| Generation(i64::from(kind >> 3)));
        let reason = if kind & 0x80 == 0 { CloseReason::Kicked } else { CloseReason::Replaced };
        let kick = ToShard::Kick { key: key(kind), below, reason, text: None };
        self.shard.mail(self.now, kick, &mut self.out);
    }

    /// Logic answers a client message, in any order and late.
    fn answer(&mut self, script: &mut Unstructured<'_>) {
        let (which, len) = (byte(script), byte(script));
        let count = self.asked.len().max(1);
        let Some((id, header)) = self.asked.remove(usize::from(which) % count) else { return };
        let body = Bytes::copy_from_slice(bytes(script, len % 32));
        self.shard.mail(self.now, ToShard::Reply { id, header, body }, &mut self.out);
    }

    /// The front: its ring is full or empties, people elsewhere, a drain.
    fn front(&mut self, script: &mut Unstructured<'_>) {
        let (kind, number) = (byte(script), byte(script));
        match kind % 5 {
            0 => {
                self.ring = usize::from(number);
                // Others have filled it.
                let others = if kind & 0x80 == 0 { 0 } else { MAIL_MAX.saturating_sub(self.out.mail.len()) };
                let nobody = ConnectionId { shard: u16::MAX, slot: 0, generation: 0 };
                self.out.mail.extend((0..others).map(|_| ToFront::LoginGone(nobody)));
            }
            1 => self.ring = usize::MAX,
            2 => {
                let people = vec![(room(number), u32::from(number) << (number % 25))];
                self.shard.mail(self.now, ToShard::Elsewhere(people), &mut self.out);
            }
            _ => {
                self.draining = true;
                let over = Duration::from_millis(u64::from(number) * 8);
                self.shard.mail(self.now, ToShard::Drain { over }, &mut self.out);
            }
        }
    }
}
