//! Very many clients at once: all log in, are pushed to, send heartbeats and leave, and each costs so much.
//!
//! Nothing goes wrong here, and no model is kept: every client only counts what it gets.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use comet::driver::sim::{
    event::{Event, Watch},
    network::{ClientRead, Faults, Network, SocketId},
    reactor::{Reactor, Turn},
};
use contract::Transport;
use logic::{Push, PushTarget};
use proto::{
    ids::{Generation, Key, Mid, RoomId, ServerId},
    op::Op,
};
use seam::{Begin, Random, Time};
use session::{MemorySessions, NewSession, Sessions as _, metrics::SessionMetrics};
use testkit::wire::{self, Frame, Heard, ServerStream};
use tokio::task::yield_now;

use crate::{clock::now, control::Control, plan::Plan, world::reactors};

/// Clients that connect, or leave, before everything settles again.
const WAVE: usize = 4000;

/// Clients of each room.
const ROOM: usize = 50;

/// Rounds in which everything must have come to rest.
const ROUNDS_MAX: usize = 100_000;

/// Operation of the pushes.
const PUSH: Op = Op(1000);

/// Runs so many clients at once, and prints what they cost. Returns what passed and what failed.
pub fn run(connections: u32) -> (u64, u64) {
    match simulate(connections as usize) {
        Ok(()) => (1, 0),
        Err(error) => {
            println!("sim: {error:#}");
            (0, 1)
        }
    }
}

fn simulate(connections: usize) -> anyhow::Result<()> {
    println!("sim: {connections} connections at once");
    let _simulation = seam::begin(Begin { seed: 0, bug: None, shrink: 1 });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async { Crowd::new(connections).await.run().await })
}

/// A client of the crowd.
struct Member {
    stream: ServerStream,
    transport: Transport,
    is_in: bool,
    /// Pushes it got.
    pushes: u32,
    /// People in its room, as its last heartbeat said.
    people: u32,
}

struct Crowd {
    connections: usize,
    now: Time,
    plan: Plan,
    network: Network,
    schedule: Random,
    shards: Vec<Reactor>,
    control: Control,
    members: Vec<Member>,
    events: Count,
    told: Instant,
}

#[derive(Default)]
struct Count(u64);

impl Watch for Count {
    fn event(&mut self, _: Time, _: u16, _: Event<'_>) {
        self.0 += 1;
    }
}

impl Crowd {
    async fn new(connections: usize) -> Crowd {
        let plan = Plan::quiet(connections);
        let now = Time::from_micros(0);
        let (shards, outboxes, inboxes) = reactors(&plan, now);
        let control = Control::start(&plan, outboxes, inboxes, Random::stream(0, "services")).await;
        Crowd {
            connections,
            now,
            network: Network::new(plan.shards, Faults::default(), Random::stream(0, "network")),
            schedule: Random::stream(0, "schedule"),
            shards,
            control,
            members: Vec::new(),
            events: Count::default(),
            told: crate::clock::now(),
            plan,
        }
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let count = self.connections;
        // Kept to the end, so that its memory is not taken for somebody else's.
        let (_store, session) = alone(count).await?;
        let socket = self.network.reserve(count);
        self.members.reserve_exact(count);
        let own = socket + size_of::<Member>() + Reactor::own_bytes();

        let (before, began) = (rss_anon()?, now());
        self.everybody_logs_in().await?;
        let each = (rss_anon()? - before) / count as i64;
        println!("  logged in               {:>10.1?}, {:.0} virtual s", began.elapsed(), self.seconds());
        println!("  memory of a connection: {each:>6} B in all (growth of RssAnon)");
        println!("    the simulator's own   {own:>6} B (socket, client, place in the driver)");
        println!("    session store         {session:>6} B (growth by as many sessions alone)");
        println!("    shard and front       {:>6} B (the rest)", each - own as i64 - session);

        let began = now();
        let pushes = self.everybody_is_pushed_to().await?;
        println!("  pushed to               {:>10.1?}, {pushes} deliveries", began.elapsed());
        let began = now();
        self.everybody_beats().await?;
        println!("  sent a heartbeat        {:>10.1?}", began.elapsed());
        let began = now();
        self.everybody_leaves().await?;
        println!("  left                    {:>10.1?}, {} events in all", began.elapsed(), self.events.0);
        Ok(())
    }

    async fn everybody_logs_in(&mut self) -> anyhow::Result<()> {
        for first in (0..self.connections).step_by(WAVE) {
            let wave = first..(first + WAVE).min(self.connections);
            wave.clone().for_each(|n| self.log_in(n));
            self.rest().await?;
            let out = wave.clone().filter(|n| !self.members[*n].is_in).count();
            ensure!(out == 0, "{out} of the clients {wave:?} are not logged in");
            self.pass(Duration::from_millis(20)).await;
            self.tell("logged in", wave.end);
        }
        // The counts go around.
        self.pass_slowly(Duration::from_secs(3)).await
    }

    fn log_in(&mut self, n: usize) {
        let transport = if n.is_multiple_of(2) { Transport::Tcp } else { Transport::WebSocket };
        let shard = (n % self.plan.shards) as u16;
        let peer = IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
        let socket = self.network.connect(shard, transport, peer, self.plan.socket_room.0);
        debug_assert_eq!(socket as usize, n);
        if transport == Transport::WebSocket {
            self.network.client_write(socket, &wire::upgrade("/sub", ""));
        }
        let login = format!(r#"{{"mid":{n},"key":"{}","room_id":"{}","accepts":[1000]}}"#, key(n), room(n));
        self.network
            .client_write(socket, &wire::sent(transport, &wire::frame(Op::AUTH.0, 1, login.as_bytes())));
        let stream = ServerStream::new(transport);
        self.members.push(Member { stream, transport, is_in: false, pushes: 0, people: 0 });
    }

    /// One push for every hundredth room, one for every thousandth client, and one for everybody.
    async fn everybody_is_pushed_to(&mut self) -> anyhow::Result<u64> {
        let (rooms, keys) = (self.connections.div_ceil(ROOM), self.connections);
        let mut expected = 0;
        let body = || Bytes::from_static(b"hello, everybody");
        for target in (0..rooms)
            .step_by(100)
            .map(|n| PushTarget::Rooms(vec![room(n * ROOM)]))
            .chain((0..keys).step_by(1000).map(|n| PushTarget::Keys(vec![key(n)])))
            .chain([PushTarget::All { speed: 0 }])
        {
            expected += match &target {
                PushTarget::Rooms(rooms) => rooms.iter().map(|room| self.people_of(room)).sum(),
                PushTarget::Keys(keys) => keys.len() as u64,
                _ => self.connections as u64,
            };
            self.control.logic.push(Push { target, op: PUSH, body: body() }).await.context("a push")?;
        }
        // Under load pushes wait for others a little.
        self.pass_slowly(Duration::from_millis(200)).await?;
        let got: u64 = self.members.iter().map(|member| u64::from(member.pushes)).sum();
        ensure!(got == expected, "{got} pushes were delivered, {expected} were due");
        let few = self.members.iter().filter(|member| member.pushes == 0).count();
        ensure!(few == 0, "{few} clients got nothing");
        Ok(got)
    }

    /// Members of a room: of the last one there may be fewer.
    fn people_of(&self, room: &RoomId) -> u64 {
        let number: usize = room.name().parse().unwrap_or_default();
        (self.connections - number * ROOM).min(ROOM) as u64
    }

    async fn everybody_beats(&mut self) -> anyhow::Result<()> {
        for first in (0..self.connections).step_by(WAVE) {
            let end = (first + WAVE).min(self.connections);
            for n in first..end {
                let bytes = wire::sent(self.members[n].transport, &wire::frame(Op::HEARTBEAT.0, 2, b""));
                self.network.client_write(n as SocketId, &bytes);
            }
            self.rest().await?;
            self.tell("heartbeats", end);
        }
        for n in 0..self.connections {
            let (people, told) = (self.people_of(&room(n)), self.members[n].people);
            ensure!(
                people == u64::from(told),
                "client {n} was told of {told} people, and there are {people}"
            );
        }
        Ok(())
    }

    async fn everybody_leaves(&mut self) -> anyhow::Result<()> {
        for first in (0..self.connections).step_by(WAVE) {
            let end = (first + WAVE).min(self.connections);
            (first..end).for_each(|n| self.network.client_close(n as SocketId));
            self.rest().await?;
            self.tell("left", end);
        }
        self.pass_slowly(Duration::from_secs(2)).await?;
        for shard in &self.shards {
            let census = shard.shard().census();
            ensure!(census == Default::default(), "everybody has left, and there is {census:?}");
        }
        ensure!(self.network.open() == 0, "{} descriptors are open", self.network.open());
        let keys: Vec<Key> = (0..self.connections).map(key).collect();
        let found = self.control.sessions.servers_of_keys(&keys).await?;
        ensure!(found.iter().all(Option::is_none), "{} sessions are left", found.iter().flatten().count());
        Ok(())
    }

    /// Everything that can be done at this moment is done.
    async fn rest(&mut self) -> anyhow::Result<()> {
        let mut idle = 0;
        for _ in 0..ROUNDS_MAX {
            for _ in 0..8 {
                yield_now().await;
            }
            let mut turn = Turn {
                now: self.now,
                network: &mut self.network,
                schedule: &mut self.schedule,
                watch: &mut self.events,
            };
            let mut busy = false;
            for shard in &mut self.shards {
                busy |= (0..1000).take_while(|_| shard.step(&mut turn)).count() > 0;
            }
            busy |= self.read()?;
            idle = if busy { 0 } else { idle + 1 };
            if idle == 20 {
                return Ok(());
            }
        }
        bail!("nobody comes to rest")
    }

    /// Clients read what has arrived.
    fn read(&mut self) -> anyhow::Result<bool> {
        let arrived = self.network.take_arrived();
        let (mut buffer, mut got) = (Vec::new(), Vec::new());
        for socket in &arrived {
            buffer.clear();
            if let ClientRead::Bytes(_) = self.network.client_read(*socket, usize::MAX, &mut buffer) {
                let member = &mut self.members[*socket as usize];
                got.clear();
                member.stream.push(&buffer, &mut got).map_err(anyhow::Error::msg)?;
                for (_, got) in &got {
                    member.got(got);
                }
            }
        }
        Ok(!arrived.is_empty())
    }

    async fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        seam::set_micros(self.now.as_micros());
        tokio::time::advance(time).await;
    }

    async fn pass_slowly(&mut self, time: Duration) -> anyhow::Result<()> {
        for _ in 0..time.as_millis() / 50 {
            self.pass(Duration::from_millis(50)).await;
            self.rest().await?;
        }
        Ok(())
    }

    fn seconds(&self) -> f64 {
        self.now.as_micros() as f64 / 1e6
    }

    fn tell(&mut self, what: &str, done: usize) {
        if self.told.elapsed() > Duration::from_secs(2) {
            self.told = now();
            eprintln!("sim: {done} of {} {what}", self.connections);
        }
    }
}

impl Member {
    fn got(&mut self, heard: &Heard) {
        let Heard::Frame(Frame { op, body, .. }) = heard else { return };
        match Op(*op) {
            Op::AUTH_REPLY => self.is_in = true,
            Op::HEARTBEAT_REPLY => self.people = body.as_slice().try_into().map_or(0, u32::from_be_bytes),
            PUSH => self.pushes += 1,
            _ => {}
        }
    }
}

fn key(n: usize) -> Key {
    Key::new(format!("web_{n:07}"))
}

fn room(n: usize) -> RoomId {
    RoomId::parse(&format!("live://{}", n / ROOM)).expect("a room id")
}

/// As many sessions in a store of their own, and what each takes there.
async fn alone(count: usize) -> anyhow::Result<(Arc<MemorySessions>, i64)> {
    let before = rss_anon()?;
    let store = Arc::new(MemorySessions::new(Duration::from_secs(1800), SessionMetrics::default()));
    for n in 0..count {
        let server = ServerId::new("comet:3109");
        let session =
            NewSession { mid: Mid(n as i64), key: key(n), server, generation: Generation(n as i64) };
        store.put(session).await?;
    }
    Ok((store, (rss_anon()? - before) / count as i64))
}

/// Anonymous memory of this process that is in use, bytes.
fn rss_anon() -> anyhow::Result<i64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).context("a Linux without RssAnon")?;
    let kib: i64 = line.split_whitespace().nth(1).unwrap_or_default().parse()?;
    Ok(kib * 1024)
}
