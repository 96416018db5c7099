//! One push to a room: appended to the queue of every member, flushed a thousand at a time, every write ended. Per
//! delivery, without the kernel's part.
#![allow(missing_docs)] // criterion's macros

use contract::Transport;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use halley_micro::{BODY, Gateway};
use proto::{encoded::Encoded, op::Op};

fn fanout(criterion: &mut Criterion) {
    let encoded = Encoded::push(Op(1000), &BODY);
    for (name, transport) in [("tcp", Transport::Tcp), ("websocket", Transport::WebSocket)] {
        let mut group = criterion.benchmark_group(format!("fan-out {name}"));
        for members in [1, 10, 100, 1000, 10_000, 100_000] {
            let mut gateway = Gateway::with_members(members, transport);
            group.throughput(Throughput::Elements(members as u64));
            group.bench_function(BenchmarkId::new("members", members), |bencher| {
                bencher.iter(|| {
                    gateway.push(&encoded);
                    assert_eq!(gateway.write(), members as u64);
                });
            });
        }
        group.finish();
    }
}

/// Three pushes wait: every member gets them in one write, joined once for all.
fn joined(criterion: &mut Criterion) {
    let encoded = [1, 2, 3].map(|body| Encoded::push(Op(1000), &[body; 60]));
    let mut group = criterion.benchmark_group("fan-out tcp, three joined");
    for members in [100, 10_000] {
        let mut gateway = Gateway::with_members(members, Transport::Tcp);
        let frames = 3 * members as u64;
        group.throughput(Throughput::Elements(frames));
        group.bench_function(BenchmarkId::new("members", members), |bencher| {
            bencher.iter(|| {
                encoded.iter().for_each(|push| gateway.push(push));
                assert_eq!(gateway.write(), frames);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, fanout, joined);
criterion_main!(benches);
