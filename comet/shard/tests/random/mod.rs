//! Random events against a model that knows who must get what.
//!
//! The model keeps, per client, everything that was ever queued for it, in order. At the end what the client got must
//! be those things in that order, pushes left out here and there and the tail cut off where it was closed; what is
//! missing must be counted as dropped, to the frame.

mod model;

use std::{collections::HashMap, time::Duration};

use contract::{Session, Transport};
use proto::{
    close::CloseReason,
    ids::{Generation, Key, RoomId},
    op::Op,
};
use shard::{
    Batch, Rate, SlowConsumer,
    mail::{ConnectionId, Outcome, PushTo, ToShard},
};
use testkit::{
    wire::{self, BOTH, Got, frame, masked, raw_frame, sent},
    world::{World, room, session},
};

use self::model::{Client, Place, Request};

const SEEDS: u64 = 200;
const STEPS: u32 = 1500;
const CLIENTS_MAX: usize = 12;
const KEYS: u64 = 5;
const ROOMS: u64 = 4;
const ROOMS_PER_CLIENT: usize = 3;

struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

/// Says which seed it was when a test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {}", self.0);
        }
    }
}

struct Model {
    random: Xorshift,
    world: World,
    clients: Vec<Client>,
    /// A connection that is over.
    last_over: Option<ConnectionId>,
    /// Frames that clients did not get.
    missing: u64,
    /// Client messages that logic has not answered.
    asked: Vec<(ConnectionId, i32, i32)>,
    next: i32,
    closes: HashMap<CloseReason, u64>,
    absent: u64,
    /// Open now, in the model's eyes.
    opened: u64,
    with_generations: u64,
}

impl Model {
    fn new(seed: u64) -> Model {
        let mut random = Xorshift(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let policies = [SlowConsumer::DropOldest, SlowConsumer::Close];
        let window = Duration::from_millis(20);
        let batches = [Batch::Off, Batch::Adaptive(window), Batch::Fixed(window)];
        let mut world = World::with(|config| {
            config.slow_consumer = random.of(&policies);
            config.batch = random.of(&batches);
            config.queue_bytes_max = 4096;
            config.rate = Rate { per_second: 1_000_000, burst: 1_000_000 };
            config.rooms_max = ROOMS_PER_CLIENT;
            config.refusals_max = 255;
        });
        world.auto_flush = Some(random.of(&[1, 3, 1000]));
        Model {
            with_generations: random.below(3),
            random,
            world,
            clients: Vec::new(),
            last_over: None,
            missing: 0,
            asked: Vec::new(),
            next: 0,
            closes: HashMap::new(),
            absent: 0,
            opened: 0,
        }
    }

    fn step(&mut self) {
        self.world.checks = self.random.one_in(8);
        match self.random.below(100) {
            0..8 => self.connect(),
            8..20 => self.decide(),
            20..50 => self.speak(),
            50..52 => self.leave(),
            52..62 => self.stall(),
            62..78 => self.push(),
            78..80 => self.kick(),
            80..88 => self.answer(),
            88..92 => self.arrive(),
            _ => self.pass_time(),
        }
        self.follow();
    }

    fn number(&mut self) -> i32 {
        self.next += 1;
        self.next
    }

    fn pick(&mut self, places: impl Fn(&Client) -> bool) -> Option<usize> {
        let fitting: Vec<usize> =
            (0..self.clients.len()).filter(|n| !self.clients[*n].left && places(&self.clients[*n])).collect();
        (!fitting.is_empty()).then(|| self.random.of(&fitting))
    }

    fn room(&mut self) -> RoomId {
        room(&format!("live://{}", self.random.below(ROOMS)))
    }

    fn connect(&mut self) {
        if self.clients.iter().filter(|client| client.place != Place::Gone).count() >= CLIENTS_MAX {
            return;
        }
        let transport = self.random.of(&BOTH);
        let id = self.world.accept(transport).expect("room for it");
        self.world.stall(id, self.random.one_in(4));
        let mut expected = Vec::new();
        if transport == Transport::WebSocket {
            self.world.send(id, &wire::upgrade("/sub", ""));
            expected.push(Got::Http(101));
        }
        let born = self.number();
        self.clients.push(Client {
            id,
            born,
            transport,
            place: Place::Before(0),
            left: false,
            pending: Vec::new(),
            session: None,
            first: None,
            others: Vec::new(),
            accepts: false,
            expected,
        });
    }

    /// Logic's word on a login, sometimes on one that is long over.
    fn decide(&mut self) {
        let Some(n) = self.pick(|client| client.place == Place::Before(0)) else { return self.verdict() };
        self.say(n, vec![Request::Op(7, 1, b"{}".to_vec())]);
    }

    fn verdict(&mut self) {
        let late = self.last_over.take_if(|_| self.random.one_in(10));
        let lobby = self.pick(|client| client.place == Place::Lobby).filter(|_| late.is_none());
        let Some(id) = late.or(lobby.map(|n| self.clients[n].id)) else { return };
        if self.random.one_in(10) {
            if let Some(n) = lobby {
                self.gone(n, CloseReason::LoginRefused);
            }
            return self.world.refuse(id, CloseReason::LoginRefused, "no");
        }
        let generation = match self.with_generations {
            0 => None,
            1 => Some(Generation(self.random.below(1000) as i64)),
            _ => self.random.one_in(2).then(|| Generation(self.random.below(5) as i64)),
        };
        let session = Session {
            room: self.random.one_in(2).then(|| self.room()),
            rooms: (0..self.random.below(3)).map(|_| self.room()).collect(),
            accepts: if self.random.one_in(3) { vec![] } else { vec![Op(1000)] },
            generation,
            ..session(&format!("k{}", self.random.below(KEYS)))
        };
        let moves = self.random.one_in(3);
        if let Some(n) = lobby {
            self.clients[n].session = Some(session.clone());
            match moves {
                true => self.clients[n].place = Place::Leaving,
                false => self.open(n),
            }
        }
        let outcome = if moves { Outcome::Move { to: 7, session } } else { Outcome::Open(session) };
        self.world.verdict(id, outcome);
    }

    fn speak(&mut self) {
        let early = self.random.one_in(10);
        let speaks = |client: &Client| match client.place {
            Place::Open => true,
            Place::Before(_) | Place::Lobby => early,
            Place::Leaving | Place::Gone => false,
        };
        let Some(n) = self.pick(speaks) else { return };
        let requests = (0..1 + self.random.below(3)).map(|_| self.request(n)).collect();
        self.say(n, requests);
    }

    fn request(&mut self, n: usize) -> Request {
        let open = self.clients[n].place == Place::Open;
        let seq = self.number();
        let name = self.room().as_str().as_bytes().to_vec();
        match self.random.below(if open { 90 } else { 30 }) {
            0..8 => Request::Op(2, seq, Vec::new()),
            8..14 => Request::Op(12, seq, if self.random.one_in(4) { Vec::new() } else { name }),
            14..20 => Request::Op(2_000_000_000, seq, name),
            20..24 => Request::Op(2_000_000_002, seq, name),
            24..27 => Request::Op(self.random.of(&[4, 1000]), seq, name),
            27..30 => Request::Op(self.random.of(&[14, 16]), seq, b"1000".to_vec()),
            30..40 if self.clients[n].transport == Transport::WebSocket => Request::Ping(name),
            40 => Request::Op(9, seq, Vec::new()),
            41 => Request::Garbage,
            42 if self.clients[n].transport == Transport::WebSocket => Request::Close,
            _ => Request::Op(2, seq, Vec::new()),
        }
    }

    /// The client says several things in one segment, on WebSocket neighbouring frames now and then in one message.
    fn say(&mut self, n: usize, requests: Vec<Request>) {
        let transport = self.clients[n].transport;
        let together = self.random.one_in(2);
        let (mut bytes, mut frames) = (Vec::new(), Vec::new());
        for request in &requests {
            if let Request::Op(op, seq, body) = request {
                frames.extend(frame(*op, *seq, body));
                if together {
                    continue;
                }
            }
            if !frames.is_empty() {
                bytes.extend(sent(transport, &std::mem::take(&mut frames)));
            }
            match request {
                Request::Op(..) => {}
                Request::Ping(payload) => bytes.extend(masked(wire::PING, payload)),
                Request::Close => bytes.extend(masked(wire::CLOSE, b"")),
                Request::Garbage => bytes.extend(sent(transport, &raw_frame(-1, 16, 1, 2, 1, b""))),
            }
        }
        if !frames.is_empty() {
            bytes.extend(sent(transport, &frames));
        }
        for request in requests {
            match self.clients[n].place {
                Place::Lobby => self.clients[n].pending.push(request),
                _ => self.take(n, request),
            }
        }
        self.world.send(self.clients[n].id, &bytes);
    }

    fn leave(&mut self) {
        let Some(n) = self.pick(|client| client.place != Place::Gone) else { return };
        self.clients[n].left = true;
        let lost = self.random.one_in(2);
        let id = self.clients[n].id;
        match self.world.detached.iter_mut().find(|detached| detached.id == id) {
            Some(detached) => detached.socket.ending = Some(lost),
            None => self.world.leave(id, lost),
        }
    }

    fn stall(&mut self) {
        let moving = |id| self.world.detached.iter().any(|detached| detached.id == id);
        let here: Vec<usize> = (0..self.clients.len())
            .filter(|n| self.clients[*n].place != Place::Gone && !moving(self.clients[*n].id))
            .collect();
        if here.is_empty() {
            return;
        }
        let id = self.clients[self.random.of(&here)].id;
        match self.random.below(8) {
            0 => self.world.take_write(id, false),
            1 | 2 => self.world.take_write(id, true),
            3..6 => self.world.stall(id, true),
            _ => self.world.stall(id, false),
        }
    }

    fn push(&mut self) {
        for _ in 0..1 + self.random.below(4) {
            let body = format!("{}{}", self.number(), ".".repeat(self.random.below(700) as usize));
            let got = Got::Push { op: 1000, seq: 0, body: body.clone().into_bytes() };
            let open = |client: &&mut Client| client.place == Place::Open;
            let to = match self.random.below(4) {
                0 => {
                    let accepts = |client: &&mut Client| client.accepts;
                    let all = self.clients.iter_mut().filter(open).filter(accepts);
                    all.for_each(|client| client.expected.push(got.clone()));
                    PushTo::All { speed: 0 }
                }
                1 => {
                    let keys: Vec<Key> = (0..1 + self.random.below(4))
                        .map(|_| Key::new(format!("k{}", self.random.below(KEYS))))
                        .collect();
                    for key in &keys {
                        let of_key =
                            |client: &&mut Client| client.session.as_ref().map(|s| &s.key) == Some(key);
                        match self.clients.iter_mut().filter(open).find(of_key) {
                            Some(client) if client.accepts => client.expected.push(got.clone()),
                            Some(_) => {}
                            None => self.absent += 1,
                        }
                    }
                    PushTo::Keys(keys)
                }
                _ => {
                    let room = self.room();
                    let inside = |client: &&mut Client| {
                        client.first.as_ref() == Some(&room) || client.others.contains(&room)
                    };
                    let members = self.clients.iter_mut().filter(open).filter(inside);
                    members.for_each(|client| client.expected.push(got.clone()));
                    PushTo::Room(room)
                }
            };
            let push = self.world.push_of(to, &body);
            self.world.hand(ToShard::Push(Box::new(push)));
            self.follow(); // who was too slow is out
        }
        self.world.mails([]);
    }

    fn kick(&mut self) {
        let key = format!("k{}", self.random.below(KEYS));
        let below = self.random.one_in(2).then(|| self.random.below(6) as i64);
        let victim = (0..self.clients.len()).find(|n| {
            let client = &self.clients[*n];
            let Some(session) = &client.session else { return false };
            let generation = session.generation.map(|generation| generation.0);
            let older = below.is_none_or(|below| generation.is_some_and(|generation| generation < below));
            client.place == Place::Open && session.key.as_str() == key && older
        });
        if let Some(n) = victim {
            self.gone(n, CloseReason::Kicked);
        }
        self.world.kick(&key, below, CloseReason::Kicked);
    }

    /// Logic answers a client message.
    fn answer(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let at = self.random.below(self.asked.len() as u64) as usize;
        let (id, op, seq) = self.asked.swap_remove(at);
        let open = |client: &&mut Client| client.id == id && client.place == Place::Open;
        if let Some(client) = self.clients.iter_mut().find(open) {
            client.expected.push(Got::Reply { op: op + 1, seq, body: b"answer".to_vec() });
        }
        self.world.reply(id, op, seq, b"answer");
    }

    /// A connection that was on its way arrives. There is one shard here: it comes back to where it came from.
    fn arrive(&mut self) {
        if self.world.detached.is_empty() {
            return;
        }
        let at = self.random.below(self.world.detached.len() as u64) as usize;
        let detached = self.world.detached.swap_remove(at);
        let n =
            self.clients.iter().position(|client| client.id == detached.id).expect("a client of the model");
        self.open(n);
        if detached.socket.ending.is_some() {
            return self.world.left_on_the_way(detached);
        }
        self.clients[n].id = self.world.attach(detached);
    }

    fn pass_time(&mut self) {
        self.world.load = self.random.below(1001);
        let millis = if self.random.one_in(30) { 5300 } else { self.random.below(150) };
        self.world.advance(Duration::from_millis(millis));
    }
}

fn run(seeds: impl Iterator<Item = u64>) {
    for seed in seeds {
        let _seed = Seed(seed);
        let mut model = Model::new(seed);
        for _ in 0..STEPS {
            model.step();
        }
        model.end();
    }
}

#[test]
fn random_events_lose_nothing_uncounted_even_seeds() {
    run((0..SEEDS).filter(|seed| seed % 2 == 0));
}

#[test]
fn random_events_lose_nothing_uncounted_odd_seeds() {
    run((0..SEEDS).filter(|seed| seed % 2 == 1));
}
