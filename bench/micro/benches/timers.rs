//! The timing wheel and the heartbeats that it must not be touched by.
#![allow(missing_docs)] // criterion's macros

use std::time::Duration;

use contract::Transport;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use halley_micro::Gateway;
use seam::Time;
use shard::wheel::{TICK_MICROS, Tick, Wheel};

const CONNECTIONS: u32 = 100_000;

/// 100,000 entries over the 1,024 places: each tick about 98 come up and are scheduled again.
fn wheel(criterion: &mut Criterion) {
    const ROUND: u32 = 1000; // ticks until a slot comes up again
    let mut now = Time::from_micros(0);
    let mut wheel = Wheel::new(now);
    for slot in 0..CONNECTIONS {
        wheel.schedule(slot, Tick::of(now).plus(1 + slot % ROUND));
    }
    let mut expired = Vec::new();
    let mut group = criterion.benchmark_group("timing wheel, 100,000 entries");
    group.throughput(Throughput::Elements(u64::from(CONNECTIONS / ROUND)));
    group.bench_function("a tick, what comes up is scheduled again", |bencher| {
        bencher.iter(|| {
            now = now.after(Duration::from_micros(TICK_MICROS));
            expired.clear();
            wheel.expire(now, &mut expired);
            for entry in &expired {
                wheel.schedule(entry.slot, entry.tick.plus(ROUND));
            }
            assert_eq!(expired.len(), (CONNECTIONS / ROUND) as usize);
        });
    });
    group.finish();
}

fn heartbeats(criterion: &mut Criterion) {
    let mut gateway = Gateway::with_members(CONNECTIONS as usize, Transport::Tcp);
    let mut group = criterion.benchmark_group("100,000 connections");
    group.throughput(Throughput::Elements(1));
    group.bench_function("a heartbeat and its answer", |bencher| {
        bencher.iter(|| {
            gateway.pass(Duration::from_micros(1));
            gateway.heartbeat();
        });
    });
    let mut gateway = Gateway::with_members(CONNECTIONS as usize, Transport::Tcp);
    // So everybody beats once in 250 s, before the 270 s that would close the connection.
    group.throughput(Throughput::Elements(40));
    group.bench_function("100 ms: 40 heartbeats and a tick", |bencher| {
        bencher.iter(|| {
            (0..40).for_each(|_| gateway.heartbeat());
            gateway.tick();
        });
    });
    group.finish();
}

criterion_group!(benches, wheel, heartbeats);
criterion_main!(benches);
