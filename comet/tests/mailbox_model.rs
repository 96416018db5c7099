//! Every interleaving of the mailbox's sleep and wake, by loom: the same source as in the crate, on loom's atomics. A lost
//! wake is a deadlock, and loom reports it.

use std::rc::Rc;

use loom::{
    sync::{
        Arc, Notify,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use wake_flag::{Wake, WakeFlag, Wish};

#[path = "../src/mailbox/wake_flag.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is a module of another crate")]
mod wake_flag;

/// What the crate takes from std.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
}

/// Like an eventfd: a wake before the wait counts, several are one.
#[derive(Default)]
struct Event {
    notify: Notify,
    /// Counted by std, so that counting adds no order to what is examined.
    wakes: std::sync::atomic::AtomicUsize,
}

impl Wake for Event {
    fn wake(&self) {
        self.wakes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.notify.notify();
    }
}

/// Runs through every interleaving with at most `switches` away from a thread that could have gone on. More than here take
/// minutes and find the same: with one, each fence and each second look left out is noticed.
fn model(switches: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(check);
}

/// The sleeper: takes until it has `total`, and gives how often it set out to sleep.
fn take(total: usize, pushed: impl Fn() -> usize, flag: &WakeFlag<Event>) -> usize {
    let (mut taken, mut tried) = (0, 0);
    loop {
        taken += pushed() - taken;
        if taken == total {
            return tried;
        }
        tried += 1;
        if flag.try_sleep(|| pushed() != taken) {
            flag.waker().notify.wait();
            flag.awake();
        }
    }
}

fn wakes(flag: &WakeFlag<Event>) -> usize {
    flag.waker().wakes.load(std::sync::atomic::Ordering::Relaxed)
}

#[test]
fn no_wake_of_one_producer_is_lost_nor_paid_twice() {
    model(3, || {
        let flag = Arc::new(WakeFlag::new(Event::default()));
        let tail = Arc::new(AtomicUsize::new(0));
        let producer = thread::spawn({
            let (flag, tail) = (Arc::clone(&flag), Arc::clone(&tail));
            move || {
                for pushed in 1..=2 {
                    tail.store(pushed, Ordering::Release); // as the queue does
                    flag.wake();
                }
            }
        });
        let tried = take(2, || tail.load(Ordering::Acquire), &flag);
        producer.join().unwrap();
        assert!(wakes(&flag) <= tried, "{} wakes for {tried} sleeps", wakes(&flag));
    });
}

#[test]
fn no_wake_of_two_producers_is_lost() {
    model(2, || {
        let flag = Arc::new(WakeFlag::new(Event::default()));
        let tails = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let producer = |index: usize| {
            let (flag, tails) = (Arc::clone(&flag), Arc::clone(&tails));
            move || {
                tails[index].store(1, Ordering::Release);
                flag.wake();
            }
        };
        let first = thread::spawn(producer(0));
        let second = thread::spawn(producer(1));
        take(2, || tails.iter().map(|tail| tail.load(Ordering::Acquire)).sum(), &flag);
        first.join().unwrap();
        second.join().unwrap();
    });
}

/// A queue of one place and three values: both sides sleep, each wakes the other.
#[test]
fn no_wish_for_space_is_lost() {
    const VALUES: usize = 3;
    model(1, || {
        let (consumer, producer) =
            (Arc::new(WakeFlag::new(Event::default())), Arc::new(WakeFlag::new(Event::default())));
        let (head, tail) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let wish = Arc::new(Wish::default());
        let producing = thread::spawn({
            let (consumer, producer) = (Arc::clone(&consumer), Arc::clone(&producer));
            let (head, tail, wish) = (Arc::clone(&head), Arc::clone(&tail), Arc::clone(&wish));
            move || {
                for pushed in 0..VALUES {
                    let free = || 1 - (pushed - head.load(Ordering::Acquire));
                    while free() == 0 {
                        if producer.try_sleep(|| wish.satisfied(1, free)) {
                            producer.waker().notify.wait();
                            producer.awake();
                        }
                    }
                    tail.store(pushed + 1, Ordering::Release);
                    consumer.wake();
                }
            }
        });
        let taken = Rc::new(std::cell::Cell::new(0));
        while taken.get() < VALUES {
            let there = tail.load(Ordering::Acquire);
            if there != taken.get() {
                taken.set(there);
                head.store(there, Ordering::Release);
                if wish.grant(|| 1 - (tail.load(Ordering::Acquire) - there)) {
                    producer.wake();
                }
            } else if consumer.try_sleep(|| tail.load(Ordering::Acquire) != taken.get()) {
                consumer.waker().notify.wait();
                consumer.awake();
            }
        }
        producing.join().unwrap();
    });
}
