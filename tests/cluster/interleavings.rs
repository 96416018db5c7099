//! Logins and ends of few keys, from many threads at once, over both comets: at rest Redis says what the clients see.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher as _, RandomState},
    thread,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;

use crate::{
    harness::{BOTH, Client, Login, Next, PATIENCE, Server, Stopwatch},
    store,
    world::{Cluster, Queue},
};

const STEPS: usize = 10_000;
const THREADS: usize = 8;
const KEYS: u64 = 40;
/// The clients of the first keys never leave by themselves: of each of these one connection has to be left.
const STAYING: u64 = 10;
/// So soon after the last step Redis has to say the truth.
const AT_REST: Duration = Duration::from_secs(15);
/// What a look at a quiet connection may take.
const LOOK: Duration = Duration::from_millis(1);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }
}

/// What happened, for the closing line.
#[derive(Debug, Default)]
struct Tally {
    logins: usize,
    given_up: usize,
    replaced: usize,
    overtaken: usize,
    left: usize,
    heartbeats: usize,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.logins += other.logins;
        self.given_up += other.given_up;
        self.replaced += other.replaced;
        self.overtaken += other.overtaken;
        self.left += other.left;
        self.heartbeats += other.heartbeats;
    }
}

/// A connection that was logged in, or is about to be.
struct Held {
    key: u64,
    mid: u64,
    /// Its comet, as Redis names it.
    server: String,
    client: Client,
}

impl Held {
    /// Connects and sends the login.
    fn begin(comet: &Server, key: u64, random: &mut Random) -> Held {
        // Two keys share two users.
        let mid = key / 2 * 2 + random.below(2);
        let mut client = comet.connect(BOTH[random.index(2)]);
        let login = Login::key(&format!("k{key}")).mid(mid as i64).accepts(&[1000]).reasons();
        client.send(7, 1, login.body());
        Held { key, mid, server: comet.comet_rpc.to_string(), client }
    }

    /// True when it still is, false when it was replaced; anything else fails.
    fn is_open(&mut self) -> bool {
        loop {
            match self.client.next(LOOK) {
                Next::Silence => return true,
                Next::Frame(frame) if frame.op == 3 => {}
                Next::Frame(frame) if frame.op == 6 => {
                    let reason: serde_json::Value = serde_json::from_slice(&frame.body).expect("JSON");
                    assert_eq!(reason["code"], 4409, "k{}: {reason}", self.key);
                    self.client.end();
                    return false;
                }
                other => panic!("k{}: {other:?}", self.key),
            }
        }
    }
}

/// One thread's share of the steps.
struct Life<'a> {
    comets: &'a [Server],
    random: Random,
    held: Vec<Held>,
    tally: Tally,
}

impl Life<'_> {
    fn run(&mut self, steps: usize) {
        let mut done = 0;
        while done < steps {
            done += 1;
            match self.random.below(100) {
                0..35 => {
                    let key = self.random.below(KEYS);
                    let one = self.begin(key, None);
                    self.finish(one);
                }
                // On both comets at once.
                35..50 => {
                    done += 1;
                    let key = self.random.below(KEYS);
                    let both = [self.begin(key, Some(0)), self.begin(key, Some(1))];
                    both.into_iter().for_each(|one| self.finish(one));
                }
                // Gone before the answer.
                50..60 => {
                    let key = STAYING + self.random.below(KEYS - STAYING);
                    let one = self.begin(key, None);
                    self.tally.given_up += 1;
                    self.end(one.client);
                }
                60..90 => {
                    if let Some(one) = self.leaving() {
                        self.tally.left += 1;
                        self.end(one.client);
                    }
                }
                // Some of these bring a renewal.
                _ => {
                    let len = self.held.len();
                    if len > 0 {
                        let at = self.random.index(len);
                        self.held[at].client.send(2, 2, "");
                        self.tally.heartbeats += 1;
                    }
                }
            }
            if self.held.len() > 100 {
                self.look();
            }
        }
    }

    fn begin(&mut self, key: u64, comet: Option<usize>) -> Held {
        self.tally.logins += 1;
        let comet = comet.unwrap_or_else(|| self.random.index(self.comets.len()));
        Held::begin(&self.comets[comet], key, &mut self.random)
    }

    /// Waits for the answer: the login is accepted, or another one of the key overtook it.
    fn finish(&mut self, mut one: Held) {
        match one.client.next(PATIENCE) {
            Next::Frame(frame) if frame.op == 8 => self.held.push(one),
            Next::Frame(frame) if frame.op == 6 => {
                // Of two in the same moment, dated by two logics, it may not be known which is newer.
                let codes = ["4409", "1011"];
                assert!(
                    codes.iter().any(|code| frame.text().contains(code)),
                    "k{}: {}",
                    one.key,
                    frame.text()
                );
                self.tally.overtaken += 1;
                one.client.end();
            }
            other => panic!("k{}: the login is answered with {other:?}", one.key),
        }
    }

    /// One of those that may leave.
    fn leaving(&mut self) -> Option<Held> {
        let may: Vec<usize> = (0..self.held.len()).filter(|at| self.held[*at].key >= STAYING).collect();
        let at = *may.get(self.random.index(may.len().max(1)))?;
        Some(self.held.swap_remove(at))
    }

    /// In order, at once, or as a machine that crashed.
    fn end(&mut self, client: Client) {
        match self.random.below(3) {
            0 => client.leave(),
            1 => drop(client),
            _ => {
                set_socket_linger(&client.stream, Some(Duration::ZERO)).expect("a socket option");
                drop(client);
            }
        }
    }

    fn look(&mut self) {
        let before = self.held.len();
        self.held.retain_mut(Held::is_open);
        self.tally.replaced += before - self.held.len();
    }
}

/// Sessions in Redis as they have to be for these connections.
fn truth(held: &[Held]) -> BTreeMap<String, String> {
    let rows = held.iter().flat_map(|Held { key, mid, server, .. }| {
        [
            (format!("golang_im:key_k{key}"), server.clone()),
            (format!("golang_im:mid_{mid} k{key}"), server.clone()),
            (format!("golang_im:gen_k{key}"), format!("GENERATION {mid} {server}")),
        ]
    });
    rows.collect()
}

/// Sessions in Redis as they are, the generations left out.
fn found(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut rows = store::sessions(&cluster.redis);
    for (_, value) in rows.iter_mut().filter(|(key, _)| key.starts_with("golang_im:gen_")) {
        let (generation, rest) = value.split_once(' ').expect("a generation, a user and a comet");
        assert!(generation.parse::<u64>().is_ok_and(|generation| generation > 0), "{value}");
        *value = format!("GENERATION {rest}");
    }
    rows
}

/// Waits until of each key one connection at most is open, and Redis says exactly these. How long it took.
#[track_caller]
fn expect_truth(cluster: &Cluster, held: &mut Vec<Held>, tally: &mut Tally) -> Duration {
    let started = Stopwatch::start();
    loop {
        let before = held.len();
        held.retain_mut(Held::is_open);
        tally.replaced += before - held.len();
        let keys: BTreeSet<u64> = held.iter().map(|one| one.key).collect();
        let (truth, found) = (truth(held), found(cluster));
        if keys.len() == held.len() && truth == found {
            return started.elapsed();
        }
        if started.elapsed() > AT_REST {
            let all: BTreeSet<&String> = truth.keys().chain(found.keys()).collect();
            let differ = all.into_iter().filter(|row| truth.get(*row) != found.get(*row));
            let differ: Vec<String> = differ
                .map(|row| format!("{row}: open {:?}, in Redis {:?}", truth.get(row), found.get(row)))
                .collect();
            let several: Vec<String> = keys
                .iter()
                .map(|key| held.iter().filter(|one| one.key == *key).collect::<Vec<_>>())
                .filter(|of_one| of_one.len() > 1)
                .map(|of_one| {
                    let places = of_one.iter().map(|one| format!("{} user {}", one.server, one.mid));
                    format!("k{} is open at {:?}", of_one[0].key, places.collect::<Vec<_>>())
                })
                .collect();
            panic!("not the truth after {AT_REST:?}:\n{}", [several, differ].concat().join("\n"));
        }
    }
}

/// A push to all of them by key through each logic arrives once.
#[track_caller]
fn expect_reachable(cluster: &Cluster, held: &mut [Held]) {
    let keys: String = held.iter().map(|one| format!("&keys=k{}", one.key)).collect();
    for (n, logic) in cluster.logics.iter().enumerate() {
        logic.push(&format!("keys?operation=1000{keys}"), format!("through logic {n}"));
        for one in &mut *held {
            let frame = one.client.frame();
            assert_eq!((frame.op, frame.text()), (1000, format!("through logic {n}")), "k{}", one.key);
        }
    }
    thread::sleep(Duration::from_millis(250));
    for one in held {
        assert!(one.is_open(), "k{} was replaced by nobody", one.key);
    }
}

#[test]
fn ten_thousand_logins_and_ends_over_two_comets_leave_the_truth_in_redis() {
    let random = || RandomState::new().hash_one(());
    let seed = std::env::var("SEED").map_or_else(|_| random(), |seed| seed.parse().expect("a number"));
    println!("SEED={seed}");
    let cluster = Cluster::start_with(Queue::Stream, &["protocol.renewInterval=1s"]);
    let started = Stopwatch::start();
    let (mut held, mut tally) = (Vec::new(), Tally::default());
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS as u64)
            .map(|n| {
                let mut random = Random(seed.wrapping_add(n));
                let random = Random(random.below(u64::MAX));
                let mut life =
                    Life { comets: &cluster.comets, random, held: Vec::new(), tally: Tally::default() };
                scope.spawn(move || {
                    life.run(STEPS / THREADS);
                    (life.held, life.tally)
                })
            })
            .collect();
        for thread in threads {
            let (of_thread, its_tally) = thread.join().unwrap_or_else(|_| panic!("SEED={seed}"));
            held.extend(of_thread);
            tally.add(&its_tally);
        }
    });
    let took = started.elapsed();
    let rest = expect_truth(&cluster, &mut held, &mut tally);
    println!("{STEPS} steps in {took:.1?}, the truth {rest:.1?} later, {} open: {tally:?}", held.len());
    let open: BTreeSet<u64> = held.iter().map(|one| one.key).collect();
    let lost: Vec<u64> = (0..STAYING).filter(|key| !open.contains(key)).collect();
    assert!(lost.is_empty(), "of these keys nobody left, and nobody is there: {lost:?}");
    expect_reachable(&cluster, &mut held);

    // Whatever they left behind, each key can be taken anew.
    let mut random = Random(seed);
    for key in 0..KEYS {
        let comet = &cluster.comets[random.index(2)];
        let mut one = Held::begin(comet, key, &mut random);
        let answer = one.client.frame();
        assert_eq!(answer.op, 8, "k{key}: {}", answer.text());
        held.push(one);
    }
    expect_truth(&cluster, &mut held, &mut tally);
    assert_eq!(held.len() as u64, KEYS);
    expect_reachable(&cluster, &mut held);
    held.drain(..).for_each(|one| one.client.leave());
    expect_truth(&cluster, &mut held, &mut tally);
}
