//! Waking a runtime from another thread, and turns of the driver, on io_uring and epoll.

mod common;

use std::{
    cell::Cell,
    io::Write,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use common::{connection, drivers, on_both_drivers, on_thread};
use halley_ring::{ListenOptions, Monoio, Socket as _, Turns, wake_pair};
use monoio::time::{sleep, timeout};

const SOON: Duration = Duration::from_millis(5);

#[test]
fn a_wake_from_another_thread_ends_the_wait() {
    on_both_drivers(|| async {
        let (sender, seed) = wake_pair().unwrap();
        let mut receiver = seed.into_receiver::<Monoio>().unwrap();
        let waker = thread::spawn(move || {
            thread::sleep(SOON);
            sender.wake();
        });
        receiver.wait().await.unwrap();
        waker.join().unwrap();
    });
}

#[test]
fn a_wake_before_the_wait_counts_and_several_are_one() {
    on_both_drivers(|| async {
        let (sender, seed) = wake_pair().unwrap();
        let mut receiver = seed.into_receiver::<Monoio>().unwrap();
        for _ in 0..5 {
            sender.clone().wake();
        }
        receiver.wait().await.unwrap();
        assert!(timeout(SOON, receiver.wait()).await.is_err(), "the five were one");
        sender.wake();
        receiver.wait().await.unwrap();
    });
}

#[test]
fn an_abandoned_wait_loses_no_wake() {
    on_both_drivers(|| async {
        let (sender, seed) = wake_pair().unwrap();
        let mut receiver = seed.into_receiver::<Monoio>().unwrap();
        for _ in 0..3 {
            assert!(timeout(Duration::from_millis(1), receiver.wait()).await.is_err());
        }
        sender.wake();
        receiver.wait().await.unwrap();
        assert!(timeout(SOON, receiver.wait()).await.is_err(), "one wake, one return");
    });
}

#[test]
fn a_wake_after_the_receiver_is_gone_does_nothing() {
    on_both_drivers(|| async {
        let (sender, seed) = wake_pair().unwrap();
        drop(seed.into_receiver::<Monoio>().unwrap());
        sleep(SOON).await;
        sender.wake();
    });
}

/// Two runtimes wake each other in turn; one lost wake would end the game.
#[test]
fn no_wake_is_lost_in_ten_thousand() {
    const ROUNDS: u32 = 10_000;
    for first in drivers() {
        for second in drivers() {
            let ball = Arc::new(AtomicU32::new(0));
            let (wake_first, first_seed) = wake_pair().unwrap();
            let (wake_second, second_seed) = wake_pair().unwrap();
            let player =
                |parity: u32, seed: halley_ring::WakeReceiverSeed, other: halley_ring::WakeSender| {
                    let ball = Arc::clone(&ball);
                    move || async move {
                        let mut receiver = seed.into_receiver::<Monoio>().unwrap();
                        for round in (parity..ROUNDS).step_by(2) {
                            while ball.load(Ordering::Acquire) != round {
                                receiver.wait().await.unwrap();
                            }
                            ball.store(round + 1, Ordering::Release);
                            other.wake();
                        }
                    }
                };
            let one = on_thread(first, player(0, first_seed, wake_second));
            let two = on_thread(second, player(1, second_seed, wake_first));
            one();
            two();
        }
    }
}

/// What a task that yields by waking itself would prevent: see the module `turn`.
#[test]
fn everybody_else_gets_on_while_one_task_only_takes_turns() {
    on_both_drivers(|| async {
        let turns = Turns::start::<Monoio>().unwrap();
        let over = Rc::new(Cell::new(false));
        let taken = Rc::new(Cell::new(0_u32));
        let busy: Vec<_> = (0..2)
            .map(|_| {
                let (turns, over, taken) = (turns.clone(), Rc::clone(&over), Rc::clone(&taken));
                monoio::spawn(async move {
                    while !over.get() {
                        turns.next().await;
                        taken.set(taken.get() + 1);
                    }
                })
            })
            .collect();

        sleep(SOON).await; // a timer fires
        let (socket, mut peer) = connection(&ListenOptions::default()).await; // a poll is answered
        peer.write_all(b"x").unwrap();
        socket.readable().await.unwrap();
        turns.next().await; // the main future has turns too
        let (result, _) = socket.send(Rc::new(Bytes::from_static(b"y")), 0).await; // an operation is submitted and reaped
        result.unwrap();

        over.set(true);
        for task in busy {
            task.await;
        }
        assert!(taken.get() > 100, "{} turns", taken.get());
    });
}
