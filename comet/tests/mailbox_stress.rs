//! Front and shard as in the gateway, on real threads: a lost wake or wish would leave both asleep.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use halley_comet::mailbox::{Receiver, Sender, ShardFlag, ShardSleeper, TaskFlag, TaskWake, channel};
use ring::{Monoio, Runtime, WakeReceiverSeed, WakeSender, probe_io_uring, wake_pair};

/// A run takes about a second; who is not done by then sleeps for ever.
const DEADLINE: Duration = Duration::from_secs(60);

struct Front {
    flag: Arc<TaskFlag>,
    to_shard: Sender<u32, WakeSender>,
    from_shard: Receiver<u32, WakeSender>,
}

struct Shard {
    flag: Arc<ShardFlag>,
    seed: WakeReceiverSeed,
    from_front: Receiver<u32, TaskWake>,
    to_front: Sender<u32, TaskWake>,
}

/// Small queues, so that both sides run out of space and of values all the time.
fn pair(capacity: usize) -> (Front, Shard) {
    let (wake, seed) = wake_pair().unwrap();
    let shard = Arc::new(ShardFlag::new(wake));
    let front = Arc::new(TaskFlag::default());
    let (to_shard, from_front) = channel(capacity, Arc::clone(&shard), Arc::clone(&front));
    let (to_front, from_shard) = channel(capacity, Arc::clone(&front), Arc::clone(&shard));
    (Front { flag: front, to_shard, from_shard }, Shard { flag: shard, seed, from_front, to_front })
}

/// Sends the numbers below `count`, `in_flight` at most on their way, and sees them come back in order.
async fn front(Front { flag, mut to_shard, mut from_shard }: Front, count: u32, in_flight: u32) {
    let (mut sent, mut returned) = (0, 0);
    while returned < count {
        let may_send = |sent: u32, returned: u32| sent < count && sent - returned < in_flight;
        flag.until(|| !from_shard.is_empty() || may_send(sent, returned) && to_shard.has_space(1)).await;
        for value in from_shard.drain() {
            assert_eq!(value, returned);
            returned += 1;
        }
        while may_send(sent, returned) && to_shard.push(sent).is_ok() {
            sent += 1;
        }
        to_shard.notify();
    }
}

/// Sends everything back until the front is gone.
async fn shard<R: Runtime>(Shard { flag, seed, mut from_front, mut to_front }: Shard) {
    let mut sleeper = ShardSleeper::<R>::new(flag, seed).unwrap();
    while !from_front.is_closed() {
        sleeper
            .sleep_until(|| from_front.is_closed() || !from_front.is_empty() && to_front.has_space(1))
            .await
            .unwrap();
        let places = to_front.free();
        for value in from_front.drain().take(places) {
            to_front.push(value).unwrap();
        }
        to_front.notify();
    }
}

fn on_epoll(end: Shard) {
    Monoio::run_on_epoll(256, shard::<Monoio>(end)).unwrap();
}

fn on_io_uring(end: Shard) {
    Monoio::run_on_io_uring(256, shard::<Monoio>(end)).unwrap();
}

#[cfg(feature = "glommio")]
fn on_glommio(end: Shard) {
    ring::Glommio::run(256, shard::<ring::Glommio>(end)).unwrap();
}

/// Runs the shard's end on one of the runtimes.
type Run = fn(Shard);

fn run(count: u32, capacity: usize, in_flight: u32) {
    let mut drivers: Vec<(&str, Run)> = vec![("epoll", on_epoll)];
    match probe_io_uring(256, 1) {
        Ok(()) => {
            drivers.push(("io_uring", on_io_uring));
            #[cfg(feature = "glommio")]
            drivers.push(("glommio", on_glommio));
        }
        Err(refusal) => {
            assert!(std::env::var_os("REQUIRE_REAL").is_none(), "{refusal}");
            eprintln!("SKIPPED on io_uring: {refusal}");
        }
    }
    for (name, run_shard) in drivers {
        let (front_end, shard_end) = pair(capacity);
        let (done, end) = mpsc::sync_channel(2);
        let of_shard = done.clone();
        thread::spawn(move || {
            run_shard(shard_end);
            of_shard.send(()).unwrap();
        });
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(front(front_end, count, in_flight));
            done.send(()).unwrap();
        });
        for _ in 0..2 {
            end.recv_timeout(DEADLINE).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

/// Both sides work in batches and wait for space as often as for values.
#[test]
fn a_million_values_pass_through_small_queues_both_ways() {
    run(1_000_000, 16, u32::MAX);
}

/// Each value finds the other side asleep, or on its way there.
#[test]
fn no_wake_is_lost_when_both_sides_sleep_between_values() {
    run(25_000, 16, 1);
}

/// Every second push finds the queue full.
#[test]
fn no_wish_is_lost_in_queues_of_one_place() {
    run(25_000, 1, u32::MAX);
}
