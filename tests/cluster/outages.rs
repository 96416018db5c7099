//! What the programs stand on goes away and comes back: connections stay, and everything is as before in time.

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    harness::{BOTH, Client, Login, Server, eventually, http, within},
    store::redis,
    world::{Cluster, Queue, expect_comets, kill},
};

/// The promise: every session is back so soon after Redis was wiped.
const BACK: Duration = Duration::from_secs(10);

pub(crate) fn clients(cluster: &Cluster, count: usize) -> Vec<Client> {
    let login = |n: usize| Login::key(&format!("k{n}")).mid(n as i64).room("live://1").accepts(&[1000]);
    (0..count).map(|n| cluster.comets[n % 2].client(BOTH[n / 2 % 2], &login(n))).collect()
}

/// Keys `k0` to the last, for a query.
fn keys(count: usize) -> String {
    (0..count).map(|n| format!("&keys=k{n}")).collect()
}

#[track_caller]
pub(crate) fn expect_all_sessions(logic: &Server, count: usize) {
    within(BACK, "all sessions are there", || {
        let answer = logic.get(&format!("/halley/online/keys?{}", keys(count).trim_start_matches('&')));
        if answer.status != 200 {
            return None;
        }
        let devices = answer.json()["data"].take();
        devices
            .as_object()
            .is_some_and(|devices| devices.values().all(|device| device.is_object()))
            .then_some(())
    });
}

/// A push to everybody, by key, repeated until it is accepted.
#[track_caller]
pub(crate) fn expect_pushes_arrive(cluster: &Cluster, clients: &mut [Client], body: &str) {
    let target = format!("/goim/push/keys?operation=1000{}", keys(clients.len()));
    within(BACK, "a push is accepted", || {
        let answer = cluster.logics[0].post(&target, body);
        (answer.status == 200).then(|| answer.expect_success())
    });
    for client in clients {
        client.expect_push(1000, body);
    }
}

#[test]
fn a_wiped_redis_has_every_session_again_within_ten_seconds() {
    let cluster = Cluster::start();
    let mut clients = clients(&cluster, 200);
    expect_all_sessions(&cluster.logics[0], 200);
    assert_eq!(redis(&cluster.redis, &["FLUSHALL"]), "+OK");
    expect_all_sessions(&cluster.logics[0], 200);
    expect_pushes_arrive(&cluster, &mut clients, "after the wipe");
}

#[test]
fn a_redis_that_crashed_and_came_back_empty_has_every_session_again() {
    let mut cluster = Cluster::start();
    let mut clients = clients(&cluster, 40);
    cluster.redis.kill();
    for server in cluster.logics.iter().chain(&cluster.jobs) {
        eventually("it is not ready without Redis", || {
            let answer = server.get("/readyz");
            (answer.status == 503 && answer.body.contains("redis")).then_some(())
        });
        assert_eq!(server.get("/healthz").status, 200);
    }
    // Nothing half accepted. The first may be under way on the connection as its end is seen: nobody knows of that one.
    eventually("a push is refused", || {
        let answer = cluster.logics[0].post("/goim/push/room?operation=1000&type=live&room=1", "lost");
        assert!([503, 504].contains(&answer.status), "{}", answer.body);
        (answer.status == 503).then(|| answer.expect_error(503, -500))
    });
    for client in &mut clients {
        client.send(2, 1, "");
        assert_eq!(client.frame().op, 3);
    }
    cluster.redis.restart();
    for server in cluster.logics.iter().chain(&cluster.jobs) {
        server.expect_ready();
    }
    expect_all_sessions(&cluster.logics[1], 40);
    expect_pushes_arrive(&cluster, &mut clients, "after the crash");
}

#[test]
fn without_etcd_pushes_go_on_and_a_new_comet_is_found_when_it_is_back() {
    let mut cluster = Cluster::start();
    let mut clients = clients(&cluster, 8);
    cluster.etcd.kill();
    for server in cluster.logics.iter().chain(&cluster.jobs).chain(&cluster.comets) {
        within(Duration::from_secs(30), "it is not ready without etcd", || {
            let answer = server.get("/readyz");
            (answer.status == 503 && answer.body.contains("etcd")).then_some(())
        });
    }
    // The last known set stays.
    for logic in &cluster.logics {
        expect_comets(logic, 2);
        logic.push("room?operation=1000&type=live&room=1", "without etcd");
        for client in &mut clients {
            client.expect_push(1000, "without etcd");
        }
    }
    // One that starts meanwhile waits for etcd, and so does who finds it.
    let late = cluster.comet(&[]);
    cluster.etcd.restart();
    for server in cluster.logics.iter().chain(&cluster.jobs).chain(&cluster.comets).chain([&late]) {
        within(Duration::from_secs(30), "it is ready again", || {
            (http::request(server.http, "GET", "/readyz", &[], b"").status == 200).then_some(())
        });
    }
    let mut client = late.client(BOTH[0], &Login::key("late").mid(99).accepts(&[1000]));
    expect_comets(&cluster.logics[0], 3);
    for job in &cluster.jobs {
        let address = late.comet_rpc.to_string();
        eventually("job dispatches to it", || job.log().contains(&address).then_some(()));
    }
    cluster.logics[0].push("keys?operation=1000&keys=late", "found");
    client.expect_push(1000, "found");
    for client in &mut clients {
        client.expect_silence();
    }
}

#[test]
fn a_comet_is_found_within_a_second_and_gone_when_it_drains() {
    let cluster = Cluster::start();
    let third = cluster.comet(&[]);
    third.expect_ready();
    // Registered, it is ready; a second is the promise, a busy machine gets more.
    within(Duration::from_secs(3), "logic knows it", || {
        let instances = cluster.logics[0].get("/goim/nodes/instances").json();
        (instances["data"].as_array().map(Vec::len) == Some(3)).then_some(())
    });
    let mut client = third.client(BOTH[1], &Login::key("k").mid(1).accepts(&[1000]));
    cluster.logics[1].push("keys?operation=1000&keys=k", "hello");
    client.expect_push(1000, "hello");
    drop(third);
    expect_comets(&cluster.logics[0], 2);
}

/// Whoever finds it in etcd must find it answering.
#[test]
fn a_logic_answers_until_its_entry_has_left_the_registry() {
    let cluster = Cluster::servers_only(Queue::Stream);
    let mut logic = cluster.logic(&[]);
    logic.expect_ready();
    cluster.etcd.pause();
    logic.signal(Signal::TERM);
    eventually("it drains", || logic.get("/readyz").body.contains("draining").then_some(()));
    logic.push("all?operation=1000", "late");
    cluster.etcd.resume();
    assert_eq!(logic.exit_status(Duration::from_secs(30)), Some(0));
}

#[test]
fn logins_go_on_when_one_logic_of_two_is_killed() {
    let mut cluster = Cluster::start();
    kill(&mut cluster.logics[0]);
    let login = |n: usize| Login::key(&format!("k{n}")).mid(n as i64 + 1).accepts(&[1000]);
    let mut clients: Vec<Client> =
        (0..12).map(|n| cluster.comets[n % 2].client(BOTH[n % 2], &login(n))).collect();
    cluster.logics[1].push(&format!("keys?operation=1000{}", keys(12)), "all of them");
    for client in &mut clients {
        client.expect_push(1000, "all of them");
    }
}
