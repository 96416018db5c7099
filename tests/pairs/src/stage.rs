//! A world, a crowd and backends: what a scenario works with, and the look around when its trouble is over.

use std::{fmt, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Result, anyhow};
use serde_json::Value;
use tokio::{task::block_in_place, time::sleep};

use crate::{
    backend::{self, Backend, Rate, Targets},
    clock::{At, ms, now, secs},
    crowd::{Crowd, Habits},
    http::{self, Http},
    ledger::{
        Answer, Book, Drops, Online, Push, Rules, Story, Target, Verdict, expect_online, expect_reached,
        judge,
    },
    world::{Shape, World},
};

/// Keys in one request: a URL has a bound.
const KEYS_AT_ONCE: usize = 60;

/// What has to be so again after a trouble, and when.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Every program says that it is ready.
    pub ready: Duration,
    /// Everybody who wants to be connected is, and a probe reaches everybody.
    pub reachable: Duration,
    /// The online API says what is; counted from when everybody is there.
    pub counted: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { ready: secs(15), reachable: secs(20), counted: secs(6) }
    }
}

/// What came of a story.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What the ledger says.
    pub book: Book,
    /// Pushes that were accepted.
    pub accepted: usize,
    /// Pushes that were certainly not taken.
    pub refused: usize,
    /// Pushes of which nobody knows.
    pub unknown: usize,
    /// Pushes that arrived at a client.
    pub received: usize,
    /// What the programs counted as not delivered.
    pub drops: Drops,
    /// How long all took to be right after the trouble.
    pub back: Back,
}

/// How long it took after a trouble until everything was right, or until it was no longer waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Back {
    /// Every program is ready.
    pub ready: Duration,
    /// Everybody is connected, and a probe has reached everybody.
    pub reachable: Duration,
    /// The online API says what is.
    pub counted: Duration,
}

impl Outcome {
    fn of(story: &Story, book: Book, back: Back) -> Outcome {
        let count = |is: fn(&Answer) -> bool| story.pushes.iter().filter(|push| is(&push.answer)).count();
        Outcome {
            book,
            accepted: count(|answer| matches!(answer, Answer::Accepted { .. })),
            refused: count(|answer| *answer == Answer::Refused),
            unknown: count(|answer| *answer == Answer::Unknown),
            received: story.connections.iter().map(|connection| connection.received.len()).sum(),
            drops: story.drops,
            back,
        }
    }

    /// Takes in what came of another, after which things took the longer time to be right.
    pub fn add(&mut self, other: Outcome) {
        let Outcome { book, accepted, refused, unknown, received, drops, back } = other;
        self.book.add(book);
        self.accepted += accepted;
        self.refused += refused;
        self.unknown += unknown;
        self.received += received;
        self.drops.frames += drops.frames;
        self.drops.dispatches += drops.dispatches;
        self.back.ready = self.back.ready.max(back.ready);
        self.back.reachable = self.back.reachable.max(back.reachable);
        self.back.counted = self.back.counted.max(back.counted);
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { book, accepted, refused, unknown, received, drops, back } = self;
        let Back { ready, reachable, counted } = back;
        write!(
            f,
            "{accepted} accepted, {refused} refused, {unknown} unknown, {received} received, {} and {} dropped; \
             ready {ready:.1?}, reachable {reachable:.1?}, counted {counted:.1?}; found: {book}",
            drops.frames, drops.dispatches
        )
    }
}

/// Everything together.
pub struct Stage {
    /// Servers and programs.
    pub world: World,
    /// Clients.
    pub crowd: Crowd,
    backend: Option<Backend>,
    rate: Rate,
    seed: u64,
    /// Counters and kills before the present story.
    drops: Drops,
    kills: usize,
    /// Findings of the present story that were made on the way.
    book: Book,
    back: Back,
    probes: Vec<Push>,
}

impl Stage {
    /// Starts a world with a crowd inside, everybody reachable. Nothing is pushed yet.
    ///
    /// # Errors
    /// A program does not start, somebody does not get in, or a push does not reach everybody.
    pub async fn open(shape: &Shape, habits: Habits, rate: Rate, seed: u64) -> Result<Stage> {
        let world = World::start(shape).await?;
        let crowd = Crowd::new(&world, habits);
        if let Err(missing) = crowd.all_come(secs(60)).await {
            return Err(world.give_up(shape, anyhow!("not in: {}", missing.join("; "))));
        }
        let (drops, book, back) = (Drops::default(), Book::default(), Back::default());
        let probes = Vec::new();
        let mut stage =
            Stage { world, crowd, backend: None, rate, seed, drops, kills: 0, book, back, probes };
        stage.look_around(&Bounds { reachable: secs(60), counted: secs(60), ready: secs(60) }).await;
        let found = std::mem::take(&mut stage.book);
        if let Some(trouble) = found.beyond(&crate::ledger::Allowed::nothing()) {
            return Err(stage.world.give_up(shape, anyhow!("a fresh cluster is not right: {trouble}")));
        }
        Ok(stage)
    }

    /// Begins a story: what was noted before is forgotten, and pushes start.
    pub async fn begin(&mut self) {
        // What still comes belongs to the story before.
        self.crowd.quiet(ms(500)).await;
        self.world.scrape().await;
        self.drops = self.world.drops();
        self.kills = self.world.comet_kills().len();
        (self.book, self.back) = (Book::default(), Back::default());
        self.probes.clear();
        self.crowd.forget();
        self.seed += 1;
        self.backend = Some(Backend::start(&self.world, Targets::of(&self.crowd), self.rate, self.seed));
    }

    async fn end_pushes(&mut self) -> Vec<Push> {
        match self.backend.take() {
            Some(backend) => backend.stop().await,
            None => Vec::new(),
        }
    }

    /// Notes something that the scenario itself found.
    pub fn note(&mut self, verdict: Verdict, example: impl FnOnce() -> String) {
        self.book.note(verdict, example);
    }

    /// Looks around, now that the trouble is over, and brings back whom the server sent away for good. Pushes go on meanwhile.
    pub async fn look_around(&mut self, bounds: &Bounds) {
        let over = now();
        self.expect_ready(bounds.ready).await;
        self.back.ready = now() - over;
        self.expect_everybody(over, bounds.reachable).await;
        self.expect_probe(over, bounds.reachable).await;
        self.back.reachable = now() - over;
        self.expect_counts(bounds.counted).await;
        self.back.counted = now() - over;
    }

    /// Ends the story and judges it: when all has arrived, or [`Rules::tail`] after its last push.
    pub async fn end(&mut self, rules: &Rules) -> Outcome {
        let mut pushes = self.end_pushes().await;
        pushes.append(&mut self.probes);
        let ended = now();
        let mut story = Story { pushes, ..Story::default() };
        loop {
            sleep(ms(1500)).await;
            self.world.scrape().await;
            let (before, after) = (self.drops, self.world.drops());
            story.drops = Drops {
                frames: after.frames.saturating_sub(before.frames),
                dispatches: after.dispatches.saturating_sub(before.dispatches),
            };
            story.kills = self.world.comet_kills().split_off(self.kills);
            story.connections = self.crowd.story();
            story.until = now();
            let found = block_in_place(|| judge(&story, rules));
            let is_open =
                [Verdict::Lost, Verdict::InNoCounter].iter().any(|verdict| found.count(*verdict) > 0);
            if !is_open || now() - ended > rules.tail {
                let mut book = std::mem::take(&mut self.book);
                book.add(found);
                return Outcome::of(&story, book, self.back);
            }
        }
    }

    async fn expect_ready(&mut self, limit: Duration) {
        if let Err(why) = self.world.expect_ready(limit).await {
            self.book.note(Verdict::NotReady, || why.to_string());
        }
    }

    async fn expect_everybody(&mut self, over: At, limit: Duration) {
        while !self.crowd.missing().is_empty() && now() - over < limit {
            sleep(ms(50)).await;
        }
        for missing in self.crowd.missing() {
            self.book.note(Verdict::Unreachable, || missing);
        }
        // Probes and counts shall not find the same people again.
        self.crowd.call_back().await;
        sleep(ms(500)).await;
    }

    /// Probes in rounds until one reaches everybody; the last one counts.
    async fn expect_probe(&mut self, over: At, limit: Duration) {
        let logics: Vec<SocketAddr> = self.world.logics.iter().map(|logic| logic.ports.http).collect();
        for round in 0.. {
            let probes = self.probe(logics[round % logics.len()]).await;
            let asked = now();
            let mut found = self.reached(&probes);
            while found.count(Verdict::Unreachable) > 0 && now() - asked < secs(4) {
                sleep(ms(100)).await;
                found = self.reached(&probes);
            }
            self.probes.extend(probes);
            if found.count(Verdict::Unreachable) == 0 || now() - over > limit {
                self.book.add(found);
                return;
            }
        }
    }

    fn reached(&self, probes: &[Push]) -> Book {
        let mut found = block_in_place(|| expect_reached(probes, &self.crowd.present()));
        let not_accepted = probes
            .iter()
            .filter(|probe| !matches!(&probe.answer, Answer::Accepted { offline, .. } if offline.is_empty()));
        for probe in not_accepted {
            found.note(Verdict::Unreachable, || format!("probe {}: {:?}", probe.id, probe.answer));
        }
        found
    }

    /// A push to every device, every user, every room, and everybody.
    async fn probe(&self, logic: SocketAddr) -> Vec<Push> {
        let mut http = Http::new(logic);
        let keys = self.crowd.present();
        let keys: Vec<_> = keys.into_iter().map(|connection| connection.key).collect();
        let mut targets: Vec<Target> =
            keys.chunks(KEYS_AT_ONCE).map(|some| Target::Keys(some.to_vec())).collect();
        targets.extend(self.crowd.mids().chunks(KEYS_AT_ONCE).map(|some| Target::Mids(some.to_vec())));
        targets.extend(self.crowd.rooms().into_iter().map(Target::Room));
        targets.push(Target::All);
        let mut probes = Vec::new();
        for target in targets {
            probes.push(backend::push(&mut http, target).await);
        }
        probes
    }

    /// Every logic says what is.
    pub async fn expect_counts(&mut self, limit: Duration) {
        let begun = now();
        loop {
            let mut found = Book::default();
            for logic in &self.world.logics {
                let truth = self.crowd.truth();
                match online(logic.ports.http, &truth).await {
                    Ok(said) => found.add(expect_online(&logic.name(), &truth, &said)),
                    Err(why) => found.note(Verdict::CountedWrong, || format!("{}: {why}", logic.name())),
                }
            }
            if found.count(Verdict::CountedWrong) == 0 || now() - begun > limit {
                self.book.add(found);
                return;
            }
            sleep(ms(250)).await;
        }
    }

    /// Copies all logs into a folder.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn keep_logs(&self, to: &Path) -> Result<()> {
        self.world.keep_logs(to)
    }
}

/// What a logic says about the keys and rooms of `truth`.
async fn online(logic: SocketAddr, truth: &Online) -> Result<Online, String> {
    let ask = async |target: String| -> Result<Value, String> {
        let answer = http::get(logic, &target, secs(3)).await?;
        let mut body: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(body["data"].take()) } else { Err(answer.body) }
    };
    let total = ask("/goim/online/total".to_owned()).await?;
    let mut said = Online { total: total["conn_count"].as_u64().unwrap_or(0), ..Online::default() };
    let rooms: Vec<(&str, &str)> = truth.rooms.keys().filter_map(|room| room.split_once("://")).collect();
    let names: String = rooms.iter().map(|(_, name)| format!("&rooms={name}")).collect();
    let told = ask(format!("/goim/online/room?type={}{names}", crate::crowd::ROOM_TYPE)).await?;
    for (kind, name) in rooms {
        said.rooms.insert(format!("{kind}://{name}"), told[name].as_u64().unwrap_or(0));
    }
    let keys: Vec<&String> = truth.keys.keys().collect();
    for some in keys.chunks(KEYS_AT_ONCE) {
        let query: String = some.iter().map(|key| format!("&keys={key}")).collect();
        let told = ask(format!("/halley/online/keys?{}", query.trim_start_matches('&'))).await?;
        for key in some {
            said.keys.insert((*key).clone(), told[*key]["server"].as_str().map(str::to_owned));
        }
    }
    Ok(said)
}
