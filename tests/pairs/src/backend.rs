//! The backends: pushes at a fixed rate over several logics, each answer noted.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use proto::op::Op;
use serde_json::Value;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    clock::{now, secs},
    crowd::Crowd,
    http::{Http, NoAnswer},
    ledger::{Answer, Push, Target},
    rng::Rng,
    world::World,
};

/// The operation of all pushes.
pub const OP: Op = Op(1000);

/// How long a backend waits for an answer.
const PATIENCE: Duration = secs(5);

/// Numbers of pushes, over all backends of a process.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// The number of the push that stands in a body.
pub(crate) fn id_of(body: &[u8]) -> Option<u64> {
    std::str::from_utf8(body).ok()?.strip_prefix("push ")?.split(' ').next()?.parse().ok()
}

/// How much is pushed.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Backends; each has a connection to one logic and waits for an answer before it pushes again. They take turns over the logics.
    pub backends: usize,
    /// Pushes a second, all together, when no answer is late.
    pub pushes: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Rate { backends: 8, pushes: 100 }
    }
}

/// Whom pushes can be for.
#[derive(Clone, Debug)]
pub struct Targets {
    /// Devices.
    pub keys: Vec<Arc<str>>,
    /// Users.
    pub mids: Vec<i64>,
    /// Rooms.
    pub rooms: Vec<Arc<str>>,
}

impl Targets {
    /// All of a crowd.
    pub fn of(crowd: &Crowd) -> Targets {
        Targets { keys: crowd.keys(), mids: crowd.mids(), rooms: crowd.rooms() }
    }

    /// One of them: of 20 pushes 8 are for devices, 5 for users, 6 for a room, 1 for everybody.
    fn any(&self, rng: &mut Rng) -> Target {
        let mut some = |of: usize| (0..1 + rng.below(3)).map(|_| rng.below(of)).collect::<Vec<_>>();
        let (keys, mids) = (some(self.keys.len()), some(self.mids.len()));
        match rng.below(20) {
            0..8 => Target::Keys(distinct(keys).map(|n| Arc::clone(&self.keys[n])).collect()),
            8..13 => Target::Mids(distinct(mids).map(|n| self.mids[n]).collect()),
            13..19 => Target::Room(Arc::clone(&self.rooms[rng.below(self.rooms.len())])),
            _ => Target::All,
        }
    }
}

/// Who is named twice gets it twice, which the ledger would call a double.
fn distinct(mut numbers: Vec<usize>) -> impl Iterator<Item = usize> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into_iter()
}

/// Pushes go on until [`stop`](Backend::stop).
#[derive(Debug)]
pub struct Backend {
    pushes: Arc<Mutex<Vec<Push>>>,
    is_on: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Backend {
    /// Starts pushing to the logics of a world.
    pub fn start(world: &World, targets: Targets, rate: Rate, seed: u64) -> Backend {
        let logics: Vec<SocketAddr> = world.logics.iter().map(|logic| logic.ports.http).collect();
        let (is_on, on) = watch::channel(true);
        let pushes = Arc::<Mutex<Vec<Push>>>::default();
        let (targets, mut tasks) = (Arc::new(targets), JoinSet::new());
        let every = secs(1) * rate.backends as u32 / rate.pushes.max(1);
        for n in 0..rate.backends {
            let (targets, pushes, mut on) = (Arc::clone(&targets), Arc::clone(&pushes), on.clone());
            let mut http = Http::new(logics[n % logics.len()]);
            let mut rng = Rng::seeded(seed ^ (n as u64) << 32);
            tasks.spawn(async move {
                let mut turn = interval(every);
                turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    tokio::select! {
                        _ = turn.tick() => {}
                        _ = on.wait_for(|on| !on) => return,
                    }
                    let push = push(&mut http, targets.any(&mut rng)).await;
                    pushes.lock().unwrap_or_else(PoisonError::into_inner).push(push);
                }
            });
        }
        Backend { pushes, is_on, tasks }
    }

    /// Ends them; all pushes since the start.
    pub async fn stop(mut self) -> Vec<Push> {
        self.is_on.send_replace(false);
        while self.tasks.join_next().await.is_some() {}
        std::mem::take(&mut *self.pushes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Sends one push and waits for its answer.
pub async fn push(http: &mut Http, target: Target) -> Push {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let (path, words) = address(&target);
    let sent = now();
    let answer = http.ask("POST", &path, &format!("push {id} {words}"), PATIENCE).await;
    let answer = match answer {
        Ok(answer) if answer.status == 200 => accepted(&answer.body),
        // 504 leaves it open: what logic gave up waiting for may have been done.
        Ok(answer) if answer.status > 503 => Answer::Unknown,
        Ok(_) | Err(NoAnswer::NotSent(_)) => Answer::Refused,
        Err(NoAnswer::Unknown(_)) => Answer::Unknown,
    };
    Push { id, target, sent, answer }
}

fn accepted(body: &str) -> Answer {
    let answer: Value = serde_json::from_str(body).unwrap_or_default();
    if answer["code"] != 0 {
        return Answer::Unknown;
    }
    let offline = answer["data"]["offline"].as_array().into_iter().flatten();
    let word = |name: &Value| name.as_str().map_or_else(|| name.to_string(), str::to_owned);
    Answer::Accepted { at: now(), offline: offline.map(word).collect() }
}

/// The request for a target, and what its body says of it.
fn address(target: &Target) -> (String, String) {
    let list = |name: &str, values: Vec<String>| {
        values.iter().map(|value| format!("&{name}={value}")).collect::<String>()
    };
    let (path, words) = match target {
        Target::Keys(keys) => ("keys", list("keys", keys.iter().map(|key| key.to_string()).collect())),
        Target::Mids(mids) => ("mids", list("mids", mids.iter().map(i64::to_string).collect())),
        Target::Room(room) => {
            let (kind, name) = room.split_once("://").unwrap_or(("", room));
            ("room", format!("&type={kind}&room={name}"))
        }
        Target::All => ("all", String::new()),
    };
    (format!("/goim/push/{path}?operation={}{words}", OP.0), format!("{path}{words}"))
}
