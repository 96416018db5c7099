//! The queues between front and shard.
#![allow(missing_docs)] // criterion's macros

use std::{sync::Arc, thread};

use comet::mailbox::{Receiver, Sender, ShardFlag, ShardSleeper, TaskFlag, TaskWake, WakeFlag, channel};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ring::{Monoio, WakeReceiverSeed, WakeSender, probe_io_uring, wake_pair};

/// Both ends on one thread, the consumer awake: what the queue itself costs.
fn batch(criterion: &mut Criterion) {
    const BATCH: u64 = 64;
    let (mut sender, mut receiver) = channel(
        1024,
        Arc::<WakeFlag<()>>::new(WakeFlag::new(())),
        Arc::<WakeFlag<()>>::new(WakeFlag::new(())),
    );
    let mut group = criterion.benchmark_group("mailbox");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("push, notify and drain on one thread/64", |bencher| {
        bencher.iter(|| {
            (0..BATCH).for_each(|value| sender.push(value).expect("room"));
            sender.notify();
            assert_eq!(receiver.drain().sum::<u64>(), BATCH * (BATCH - 1) / 2);
        });
    });
    group.finish();
}

/// The shard's end: sends everything back until the front is gone.
struct Shard {
    flag: Arc<ShardFlag>,
    seed: WakeReceiverSeed,
    from_front: Receiver<u64, ()>,
    to_front: Sender<u64, TaskWake>,
}

async fn echo(Shard { flag, seed, mut from_front, mut to_front }: Shard) {
    let mut sleeper = ShardSleeper::<Monoio>::new(flag, seed).expect("an eventfd");
    while !from_front.is_closed() {
        sleeper.sleep_until(|| from_front.is_closed() || !from_front.is_empty()).await.expect("a wait");
        from_front.drain().for_each(|value| to_front.push(value).expect("room"));
        to_front.notify();
    }
}

fn run(shard: Shard) {
    if probe_io_uring(256, 1).is_ok() {
        Monoio::run_on_io_uring(256, echo(shard)).expect("io_uring");
    } else {
        Monoio::run_on_epoll(256, echo(shard)).expect("epoll");
    }
}

/// One value to the shard's thread and back, both asleep each time: what a lone push or a login pays, wakes included.
fn round_trip(criterion: &mut Criterion) {
    let (wake, seed) = wake_pair().expect("an eventfd");
    let (shard_flag, front_flag) = (Arc::<ShardFlag>::new(WakeFlag::new(wake)), Arc::<TaskFlag>::default());
    let (mut to_shard, from_front): (Sender<u64, WakeSender>, _) =
        channel(64, Arc::clone(&shard_flag), Arc::new(WakeFlag::new(())));
    let (to_front, mut from_shard) = channel(64, Arc::clone(&front_flag), Arc::clone(&shard_flag));
    let shard = Shard { flag: shard_flag, seed, from_front, to_front };
    let thread = thread::Builder::new().name("shard".into()).spawn(move || run(shard)).expect("a thread");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");

    let mut group = criterion.benchmark_group("mailbox");
    group.throughput(Throughput::Elements(1));
    group.bench_function("to a sleeping shard's thread and back", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                to_shard.push(7).expect("room");
                to_shard.notify();
                front_flag.until(|| !from_shard.is_empty()).await;
                assert_eq!(from_shard.pop(), Some(7));
            });
        });
    });
    group.finish();
    drop(to_shard);
    thread.join().expect("the shard ends with its front");
}

criterion_group!(benches, batch, round_trip);
criterion_main!(benches);
