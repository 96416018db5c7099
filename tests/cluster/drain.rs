//! Programs are stopped while backends push: nobody who stays connected misses anything.

use std::{net::SocketAddr, thread::sleep, time::Duration};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    harness::{BOTH, Client, Login, PATIENCE, Server, Transport, eventually, within},
    ledger::{Crowd, Story},
    world::{Cluster, Queue, expect_comets},
};

/// Pushes go on for so long before and after a program is stopped.
const AROUND: Duration = Duration::from_secs(1);

/// How much is pushed to how many.
struct Load {
    clients: usize,
    pushers: usize,
    /// Of each pusher, from one push to the next.
    every: Duration,
}

/// Two comets, pushes to a room over both and to every key; the second drains, from the moment given on.
fn a_comet_drains(queue: Queue, spread: &str, load: &Load) -> (Story, Duration) {
    let mut cluster = Cluster::start_with(queue, &[&format!("drain.spread={spread}"), "drain.timeout=40s"]);
    if queue == Queue::List {
        // Several that pop one list keep no order between them.
        cluster.jobs.truncate(1);
    }
    if queue == Queue::Kafka {
        // While they share the partitions out a push waits, and may be too late for who goes meanwhile.
        let has_some = |job: &Server| {
            let log = job.log();
            let last = log.lines().rfind(|line| line.contains("consuming from Kafka"));
            last.is_some_and(|line| !line.contains("partitions=[]"))
        };
        within(PATIENCE * 3, "every job has partitions", || cluster.jobs.iter().all(has_some).then_some(()));
    }
    let mut crowd = Crowd::connect(load.clients, cluster.comets.iter().map(addresses));
    let logics: Vec<SocketAddr> = cluster.logics.iter().map(|logic| logic.http).collect();
    crowd.push(&logics, load.pushers, load.every);
    sleep(AROUND);

    let began = crowd.now();
    let mut comet = cluster.comets.pop().expect("two comets");
    comet.signal(Signal::TERM);
    let name = comet.comet_rpc.to_string();
    eventually("no client is sent there", || is_offline(&cluster.logics[0], &name).then_some(()));
    let answer = comet.get("/readyz");
    assert_eq!((answer.status, answer.body.contains("draining")), (503, true), "{}", answer.body);
    assert_eq!(comet.exit_status(Duration::from_secs(60)), Some(0));
    for logic in &cluster.logics {
        expect_comets(logic, 1);
    }
    sleep(AROUND);

    let story = crowd.finish(|| expect_empty(&cluster.jobs));
    // Nothing was left over for a comet that is gone.
    for job in &cluster.jobs {
        let metrics = job.metrics();
        assert_eq!(metrics.sum("halley_dispatch_drops_total"), 0.0, "{}", job.log());
    }
    (story, began)
}

/// A drain with what `make test` has time for.
fn check(queue: Queue) {
    let load = Load { clients: 80, pushers: 8, every: Duration::from_millis(20) };
    let (story, began) = a_comet_drains(queue, "2s", &load);
    story.expect_all_delivered();
    assert_eq!(story.connections(), load.clients * 3 / 2, "half of them came back once");
    let to_leavers = story.delivered_to_leavers(began);
    assert!(to_leavers > 50, "only {to_leavers} pushes to those who were told to go");
}

/// Waits until the jobs have brought everything to the comets, and the comets to the clients.
fn expect_empty(jobs: &[Server]) {
    sleep(AROUND);
    for job in jobs {
        job.expect_metric("halley_dispatch_queue_bytes", 0.0);
    }
    sleep(AROUND);
}

/// For TCP and WebSocket.
fn addresses(comet: &Server) -> [SocketAddr; 2] {
    BOTH.map(|transport| comet.address(transport))
}

/// Whether a logic tells that a comet takes no new clients, and sends nobody there.
fn is_offline(logic: &Server, name: &str) -> bool {
    let instances = logic.get("/goim/nodes/instances").json();
    let all = instances["data"].as_array().cloned().unwrap_or_default();
    let is_it = |instance: &&Value| instance["addrs"][0] == format!("grpc://{name}");
    all.iter().find(is_it).is_some_and(|instance| instance["metadata"]["offline"] == "true")
}

#[test]
fn nobody_misses_a_push_while_a_comet_drains_on_redis_streams() {
    check(Queue::Stream);
}

#[test]
fn nobody_misses_a_push_while_a_comet_drains_on_a_redis_list() {
    check(Queue::List);
}

#[test]
fn nobody_misses_a_push_while_a_comet_drains_on_kafka() {
    check(Queue::Kafka);
}

/// It left before it closed anybody, and half of what was pushed to them meanwhile was lost.
#[test]
fn a_comet_stays_in_the_registry_until_its_last_client_has_gone() {
    let cluster = Cluster::start();
    let mut third = cluster.comet(&["drain.spread=3s", "drain.timeout=20s"]);
    third.expect_ready();
    expect_comets(&cluster.logics[0], 3);
    let name = third.comet_rpc.to_string();
    let login = |n: usize| Login::key(&format!("k{n}")).mid(n as i64 + 1).room("live://1");
    let clients: Vec<Client> = (0..40).map(|n| third.client(BOTH[n % 2], &login(n))).collect();
    third.signal(Signal::TERM);
    eventually("no client is sent there", || is_offline(&cluster.logics[0], &name).then_some(()));
    cluster.logics[1].push("room?operation=1000&type=live&room=1", "who is still here?");
    // They go one after the other, over three seconds.
    let ends = clients.into_iter().map(|mut client| client.end());
    let got = ends.filter(|end| end.frames.iter().any(|frame| frame.text() == "who is still here?")).count();
    assert!(got > 0, "nobody was reached any more");
    assert_eq!(third.exit_status(Duration::from_secs(30)), Some(0));
    expect_comets(&cluster.logics[0], 2);
    let keys: Vec<String> = (0..40).map(|n| format!("keys=k{n}")).collect();
    let answer = cluster.logics[0].get(&format!("/halley/online/keys?{}", keys.join("&"))).json();
    let devices = answer["data"].as_object().expect("an answer for each");
    assert!(devices.values().all(Value::is_null), "no session is left: {answer}");
}

/// Without etcd nobody hears of it; it ends all the same, in time.
#[test]
fn a_comet_drains_without_etcd() {
    let mut cluster = Cluster::start();
    let mut client = cluster.comets[1].client(Transport::WebSocket, &Login::key("k").mid(1).accepts(&[1000]));
    cluster.etcd.pause();
    let mut comet = cluster.comets.pop().expect("two comets");
    comet.signal(Signal::TERM);
    assert_eq!(client.end().code(), Some(1001));
    assert_eq!(comet.exit_status(Duration::from_secs(30)), Some(0));
    cluster.etcd.resume();
}
