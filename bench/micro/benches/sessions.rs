//! The session store of the all-in-one process, with 100,000 sessions in it.
#![allow(missing_docs)] // criterion's macros

use std::{
    cell::{Cell, RefCell},
    hint::black_box,
    time::Duration,
};

use contract::SessionRef;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt;
use proto::ids::{Generation, Key, Mid, ServerId};
use session::{MemorySessions, NewSession, Put, Sessions, metrics::SessionMetrics};

const SESSIONS: u64 = 100_000;
/// Operations of one timed round: single ones are shorter than reading the clock.
const ROUND: u64 = 1000;

/// The memory store never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("an answer at once")
}

fn key(number: u64) -> Key {
    Key::new(format!("key-{number}"))
}

/// Numbers over all of the store, none of them near the one before.
fn scattered(number: u64) -> u64 {
    number.wrapping_mul(7_919) % SESSIONS
}

struct World {
    store: MemorySessions,
    server: ServerId,
    /// Generations only grow.
    generation: Cell<i64>,
    /// Sessions over those that are always there.
    newcomers: RefCell<Vec<SessionRef>>,
}

impl World {
    fn new() -> World {
        let store = MemorySessions::new(Duration::from_secs(1800), SessionMetrics::default());
        let server = ServerId::new("comet-1");
        let world = World { store, server, generation: Cell::new(0), newcomers: RefCell::default() };
        (0..SESSIONS).for_each(|number| world.put(world.login(number)));
        world
    }

    fn login(&self, number: u64) -> NewSession {
        self.generation.set(self.generation.get() + 1);
        NewSession {
            mid: Mid(number as i64),
            key: key(number),
            server: self.server.clone(),
            generation: Generation(self.generation.get()),
        }
    }

    /// Logins of keys that have no session. Those of the round before end first, so that the store does not grow.
    fn newcomers(&self) -> Vec<NewSession> {
        self.leave(&self.newcomers.take());
        let logins: Vec<_> = (0..ROUND).map(|number| self.login(SESSIONS + number)).collect();
        self.newcomers.replace(logins.iter().cloned().map(reference).collect());
        logins
    }

    fn put(&self, login: NewSession) {
        assert!(matches!(now(self.store.put(login)), Ok(Put::Stored { .. })));
    }

    fn leave(&self, sessions: &[SessionRef]) {
        sessions.iter().for_each(|session| assert_eq!(now(self.store.end(session)), Ok(true)));
    }
}

fn reference(NewSession { mid, key, server, generation }: NewSession) -> SessionRef {
    SessionRef { mid, key, server, generation: Some(generation) }
}

fn sessions(criterion: &mut Criterion) {
    let world = World::new();
    let each = |logins: Vec<NewSession>| logins.into_iter().for_each(|login| world.put(login));
    let mut group = criterion.benchmark_group("sessions, 100,000 stored");
    group.throughput(Throughput::Elements(ROUND));
    group.bench_function("login", |bencher| {
        bencher.iter_batched(|| world.newcomers(), each, BatchSize::PerIteration);
    });
    group.bench_function("end", |bencher| {
        let stored = || {
            each(world.newcomers());
            world.newcomers.take()
        };
        bencher.iter_batched(stored, |sessions| world.leave(&sessions), BatchSize::PerIteration);
    });
    group.bench_function("takeover of a key", |bencher| {
        let logins = || (0..ROUND).map(|number| world.login(scattered(number))).collect();
        bencher.iter_batched(logins, each, BatchSize::PerIteration);
    });
    let keys: Vec<Key> = (0..100).map(|number| key(scattered(number))).collect();
    group.throughput(Throughput::Elements(100));
    group.bench_function("lookup of keys/100", |bencher| {
        bencher.iter(|| {
            let found = now(world.store.servers_of_keys(black_box(&keys))).expect("an answer");
            assert!(found.iter().all(Option::is_some));
        });
    });
    group.finish();
}

criterion_group!(benches, sessions);
criterion_main!(benches);
