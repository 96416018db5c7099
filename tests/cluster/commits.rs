//! What job has acknowledged to Kafka, by the word of a client that has nothing to do with job: while nobody is killed, and
//! when jobs are.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};
use services::Kafka;
use testkit::rounds::rounds;

use crate::{
    harness::{BOTH, Client, Http, Login, Next, SUCCESS, Server, Stopwatch, eventually, within},
    world::{Cluster, Queue, kill},
};

const TOPIC: &str = "goim-push-topic";
const GROUP: &str = "goim-push-group-job";
const PARTITIONS: i32 = 4;

/// Kafka takes a killed job's partitions away after so long.
const SESSION: Duration = Duration::from_secs(6);

/// For what is promised within a second or two, on a busy machine.
const SOON: Duration = Duration::from_secs(15);

/// How often a client says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// A client of the group's coordinator that is no member.
struct Observer(BaseConsumer);

impl Observer {
    fn new(kafka: &Kafka) -> Observer {
        let client =
            ClientConfig::new().set("bootstrap.servers", kafka.addr()).set("group.id", GROUP).create();
        Observer(client.expect("a client of Kafka"))
    }

    /// Entries that the group has committed, and all there are.
    fn progress(&self) -> (u64, u64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(TOPIC, 0, PARTITIONS - 1);
        let committed = self.0.committed_offsets(list, SOON).expect("Kafka says it");
        let offset = |offset| if let Offset::Offset(offset) = offset { offset.unsigned_abs() } else { 0 };
        let committed = committed.elements().iter().map(|element| offset(element.offset())).sum();
        let end = |n| self.0.fetch_watermarks(TOPIC, n, SOON).expect("Kafka says it").1.unsigned_abs();
        (committed, (0..PARTITIONS).map(end).sum())
    }

    fn lag(&self) -> u64 {
        let (committed, all) = self.progress();
        all - committed
    }

    #[track_caller]
    fn expect_no_lag(&self, limit: Duration) {
        within(limit, "the lag is 0", || (self.lag() == 0).then_some(()));
    }
}

/// Pushes to keys of its own, one after the other, until it is told to stop; then the number of pushes to each.
fn pusher(
    logic: &Server,
    keys: Vec<String>,
    pause: Duration,
    is_over: &Arc<AtomicBool>,
) -> JoinHandle<usize> {
    let (address, is_over) = (logic.http, Arc::clone(is_over));
    thread::spawn(move || {
        let (mut http, started, mut rounds) = (Http::connect(address), Stopwatch::start(), 0);
        while !is_over.load(Relaxed) {
            for key in &keys {
                http.send(
                    "POST",
                    &format!("/goim/push/keys?operation=1000&keys={key}"),
                    &[],
                    rounds.to_string().as_bytes(),
                );
                assert_eq!(http.answer().body, SUCCESS, "push {rounds} to {key}");
            }
            rounds += 1;
            let due = pause * rounds as u32;
            thread::sleep(due.saturating_sub(started.elapsed()));
        }
        rounds
    })
}

/// What one key got.
#[derive(Debug, Default)]
struct Seen {
    /// Numbers in the order in which each came first.
    first: Vec<usize>,
    again: usize,
    /// First ones that came behind a later one.
    late: usize,
}

/// Reads what comes for one key until it is told to stop.
fn listener(mut client: Client, arrived: &Arc<AtomicUsize>, is_over: &Arc<AtomicBool>) -> JoinHandle<Seen> {
    let (arrived, is_over) = (Arc::clone(arrived), Arc::clone(is_over));
    thread::spawn(move || {
        let (mut seen, mut counts) = (Seen::default(), HashMap::<usize, usize>::new());
        let mut beat = Stopwatch::start();
        loop {
            if beat.elapsed() > HEARTBEAT {
                client.send(2, 1, "");
                beat = Stopwatch::start();
            }
            match client.next(Duration::from_millis(200)) {
                Next::Frame(frame) if frame.op == 1000 => {
                    let n: usize = frame.text().parse().expect("a number");
                    let count = counts.entry(n).or_default();
                    *count += 1;
                    if *count > 1 {
                        seen.again += 1;
                    } else {
                        seen.late += usize::from(seen.first.last().is_some_and(|last| *last > n));
                        seen.first.push(n);
                        arrived.fetch_add(1, Relaxed);
                    }
                }
                Next::Frame(_) => {}
                Next::Silence if is_over.load(Relaxed) => return seen,
                Next::Silence => {}
                Next::End(end) => panic!("the connection ended: {end:?}"),
            }
        }
    })
}

#[test]
fn what_was_delivered_is_committed_while_the_job_runs_and_never_comes_again() {
    let mut cluster = Cluster::start_on(Queue::Kafka);
    cluster.jobs.truncate(1);
    let observer = Observer::new(cluster.kafka.as_ref().expect("it is the queue"));
    let mut client = cluster.comets[0].client(BOTH[0], &Login::key("k").mid(1).accepts(&[1000]));
    for round in 0..3 {
        for n in 0..100 {
            cluster.logics[n % 2].push("keys?operation=1000&keys=k", format!("{round} {n}"));
            thread::sleep(Duration::from_millis(2));
            client.expect_push(1000, format!("{round} {n}"));
        }
        observer.expect_no_lag(SOON);
        eventually("job's own figure says so", || {
            (cluster.jobs[0].metrics().count("halley_broker_entries") == 0.0).then_some(())
        });
    }
    kill(&mut cluster.jobs[0]);
    cluster.jobs[0] = cluster.job(&[]);
    cluster.logics[0].push("keys?operation=1000&keys=k", "after the kill");
    within(SESSION + SOON, "the partitions come back", || (observer.lag() == 0).then_some(()));
    // The first thing since the kill.
    client.expect_push(1000, "after the kill");
    client.expect_silence();
}

/// Jobs that are killed in turn under load, and what clients and Kafka saw of it.
fn kill_jobs(jobs: usize, kills: usize, between: Duration, rate: usize) {
    const KEYS: usize = 32;
    const PUSHERS: usize = 32;
    let mut cluster = Cluster::start_on(Queue::Kafka);
    cluster.jobs.truncate(jobs);
    let observer = Observer::new(cluster.kafka.as_ref().expect("it is the queue"));
    let key = |n: usize| format!("k{n}");
    let (stop_pushing, stop_listening) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let arrived = Arc::<AtomicUsize>::default();
    let listeners: Vec<_> = (0..KEYS)
        .map(|n| {
            let login = Login::key(&key(n)).mid(n as i64 + 1).accepts(&[1000]);
            listener(cluster.comets[n % 2].client(BOTH[n % 2], &login), &arrived, &stop_listening)
        })
        .collect();
    let pause = Duration::from_micros((KEYS * 1_000_000 / rate) as u64);
    let started = Stopwatch::start();
    let pushers: Vec<_> = (0..PUSHERS)
        .map(|n| {
            let keys = (n..KEYS).step_by(PUSHERS).map(key).collect();
            pusher(&cluster.logics[n % 2], keys, pause, &stop_pushing)
        })
        .collect();
    let (mut uncommitted, mut worst) = (0, 0);
    for n in 0..kills {
        thread::sleep(between);
        kill(&mut cluster.jobs[n % jobs]);
        // Nothing of it is committed any more, and what it had delivered is at most what is there.
        let (committed, _) = observer.progress();
        let open = (arrived.load(Relaxed) as u64).saturating_sub(committed);
        uncommitted += open;
        worst = worst.max(open);
        cluster.jobs[n % jobs] = cluster.job(&[]);
    }
    thread::sleep(between);
    stop_pushing.store(true, Relaxed);
    let rounds: Vec<usize> =
        pushers.into_iter().map(|pusher| pusher.join().expect("all were accepted")).collect();
    let stopped = Stopwatch::start();
    let pushed_for = started.elapsed();
    observer.expect_no_lag(SESSION + SOON);
    let lag_gone = stopped.elapsed();
    let pushed: usize = (0..KEYS).map(|n| rounds[n % PUSHERS]).sum();
    within(SOON, "all arrived", || (arrived.load(Relaxed) == pushed).then_some(()));
    stop_listening.store(true, Relaxed);
    let seen: Vec<Seen> = listeners.into_iter().map(|listener| listener.join().expect("it stayed")).collect();
    let again: usize = seen.iter().map(|seen| seen.again).sum();
    println!(
        "{pushed} pushes in {pushed_for:.1?}, {kills} kills of {jobs} jobs: {again} came again, {uncommitted} were delivered and \
         not committed at the kills (at most {worst} at one), the lag was 0 {lag_gone:.1?} after the last push"
    );
    for (n, seen) in seen.iter().enumerate() {
        assert!(seen.first.iter().copied().eq(0..rounds[n % PUSHERS]), "{}: lost or out of order", key(n));
        assert_eq!(seen.late, 0);
    }
    // A push is delivered a moment before or after it is counted.
    let slack = (kills * rate / 2) as u64;
    assert!(again as u64 <= uncommitted + slack, "{again} came again, {uncommitted} were not committed");
    // With nothing committed since the start it would be all of them.
    assert!(
        worst <= (SOON.as_secs() * rate as u64).min(pushed as u64 / 2),
        "{worst} were not committed at a kill"
    );
}

/// `ROUNDS=10` with `--nocapture` is the long form: so many kills of two jobs in turn, at 1,500 pushes a second, which takes four
/// minutes.
#[test]
fn a_job_that_is_killed_under_load_repeats_no_more_than_what_was_not_committed() {
    match rounds() {
        1 => kill_jobs(1, 1, Duration::from_secs(6), 300),
        kills => kill_jobs(2, kills, Duration::from_secs(16), 1500),
    }
}
