//! People per room and in all, over comets, those that were killed included.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    harness::{BOTH, Client, Login, Server, Transport, within},
    world::{Cluster, kill},
};

/// The promise: counts equal the truth within this time of any change, crashes included.
const TRUTH: Duration = Duration::from_secs(15);

/// So many clients in a room, on both transports.
fn crowd(comet: &Server, name: &str, room: &str, count: usize) -> Vec<Client> {
    let login = |n: usize| Login::key(&format!("{name}-{n}")).mid(n as i64 + 1).room(room);
    (0..count).map(|n| comet.client(BOTH[n % 2], &login(n))).collect()
}

#[track_caller]
fn expect_online(cluster: &Cluster, target: &str, data: &Value) {
    for logic in &cluster.logics {
        let mut last = Value::Null;
        within(TRUTH, &format!("{target} says {data}"), || {
            let answer = logic.get(&format!("/goim/online/{target}")).json()["data"].take();
            let is_so = answer == *data;
            if last != answer {
                eprintln!("{target}: {answer}");
                last = answer;
            }
            is_so.then_some(())
        });
    }
}

#[track_caller]
fn expect_heartbeat(client: &mut Client, people: i32) {
    within(TRUTH, &format!("the heartbeat says {people}"), || {
        client.send(2, 1, "");
        let reply = client.frame();
        assert_eq!(reply.op, 3);
        (reply.body == people.to_be_bytes()).then_some(())
    });
}

#[test]
fn counts_equal_the_truth_over_comets_also_when_one_is_killed() {
    let mut cluster = Cluster::start();
    let mut first = crowd(&cluster.comets[0], "a", "live://big", 5);
    let mut second = crowd(&cluster.comets[1], "b", "live://big", 3);
    second.extend(crowd(&cluster.comets[1], "c", "live://small", 2));
    let room = |id: &str, count: usize| json!({"room_id": id, "count": count});
    expect_online(
        &cluster,
        "room?type=live&rooms=big&rooms=small&rooms=none",
        &json!({"big": 8, "small": 2, "none": 0}),
    );
    expect_online(&cluster, "top?type=live&limit=5", &json!([room("big", 8), room("small", 2)]));
    // An address that is on two comets counts twice, as in goim.
    expect_online(&cluster, "total", &json!({"conn_count": 10, "ip_count": 2}));
    expect_heartbeat(&mut first[0], 8);
    expect_heartbeat(&mut second[0], 8);
    expect_heartbeat(&mut second[4], 2);

    first.pop().expect("five").leave();
    expect_online(&cluster, "room?type=live&rooms=big", &json!({"big": 7}));
    expect_heartbeat(&mut second[0], 7);

    kill(&mut cluster.comets[1]);
    expect_online(&cluster, "room?type=live&rooms=big&rooms=small", &json!({"big": 4, "small": 0}));
    expect_online(&cluster, "top?type=live&limit=5", &json!([room("big", 4)]));
    expect_online(&cluster, "total", &json!({"conn_count": 4, "ip_count": 1}));
    expect_heartbeat(&mut first[0], 4);
}

#[test]
fn many_rooms_are_counted() {
    let cluster = Cluster::start();
    let mut clients = Vec::new();
    // 32 rooms each, no two the same.
    for n in 0..60 {
        let rooms: Vec<String> = (0..32).map(|room| format!("many://{}", n * 32 + room)).collect();
        let rooms: Vec<&str> = rooms.iter().map(String::as_str).collect();
        let login = Login::key(&format!("k{n}")).rooms(&rooms);
        clients.push(cluster.comets[n % 2].client(Transport::Tcp, &login));
    }
    let all: String = (0..60 * 32).step_by(100).map(|room| format!("&rooms={room}")).collect();
    let data: Value = (0..60 * 32)
        .step_by(100)
        .map(|room| (room.to_string(), json!(1)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    expect_online(&cluster, &format!("room?type=many{all}"), &data);
}

/// Well below the 10 s after which a comet that says nothing is missed.
const AT_ONCE: Duration = Duration::from_secs(7);

/// They were counted until the comet was missed.
#[test]
fn people_of_a_drained_comet_are_gone_at_once() {
    let mut cluster = Cluster::start();
    let _stay = crowd(&cluster.comets[0], "a", "live://big", 3);
    let go = crowd(&cluster.comets[1], "b", "live://big", 6);
    expect_online(&cluster, "room?type=live&rooms=big", &json!({"big": 9}));
    expect_online(&cluster, "total", &json!({"conn_count": 9, "ip_count": 2}));
    // Every logic has heard of them from the comet itself.
    std::thread::sleep(Duration::from_secs(10));
    cluster.comets[1].signal(Signal::TERM);
    assert_eq!(cluster.comets[1].exit_status(Duration::from_secs(30)), Some(0));
    for logic in &cluster.logics {
        for (target, data) in [
            ("room?type=live&rooms=big", json!({"big": 3})),
            ("top?type=live&limit=5", json!([{"room_id": "big", "count": 3}])),
            ("total", json!({"conn_count": 3, "ip_count": 1})),
        ] {
            within(AT_ONCE, &format!("{target} says {data}"), || {
                let answer = logic.get(&format!("/goim/online/{target}")).json()["data"].take();
                (answer == data).then_some(())
            });
        }
    }
    drop(go);
}
