//! Every kind of push through every broker, and the order of the pushes to one key.

use crate::{
    harness::{BOTH, Client, Http, Login, PATIENCE, SUCCESS},
    world::{Cluster, Queue},
};

/// Pushes to one key, as fast as one connection goes.
const IN_A_ROW: usize = 5000;

/// Every kind of push, from both logics, and the order of many.
pub(crate) fn check(cluster: &Cluster) {
    let mut clients: Vec<Client> = (0..4)
        .map(|n| {
            let login = Login::key(&format!("k{n}")).mid(n as i64 / 2 + 1).room("live://1").accepts(&[1000]);
            cluster.comets[n % 2].client(BOTH[n / 2], &login)
        })
        .collect();
    for logic in &cluster.logics {
        logic.push("keys?operation=1000&keys=k0&keys=k3", "keys");
        clients[0].expect_push(1000, "keys");
        clients[3].expect_push(1000, "keys");
        logic.push("mids?operation=1000&mids=1", "mids");
        clients[0].expect_push(1000, "mids");
        clients[1].expect_push(1000, "mids");
        logic.push("room?operation=1000&type=live&room=1", "room");
        logic.push("room?operation=1000&type=live&room=1", "room again");
        for client in &mut clients {
            client.expect_push(1000, "room");
            client.expect_push(1000, "room again");
        }
        logic.push("all?operation=1000&speed=1000", "all");
        for client in &mut clients {
            client.expect_push(1000, "all");
        }
        let answer = logic.post("/goim/push/keys?operation=1000&keys=k0&keys=absent", "one is there");
        assert_eq!(answer.json()["data"]["offline"][0], "absent");
        clients[0].expect_push(1000, "one is there");
    }
    for client in &mut clients {
        client.expect_silence();
    }
    in_order(cluster, &mut clients[0]);
}

/// Pushes of one connection to `k0` arrive in order, none missing.
fn in_order(cluster: &Cluster, client: &mut Client) {
    let http = cluster.logics[0].http;
    let pusher = std::thread::spawn(move || {
        let mut http = Http::connect(http);
        for n in 0..IN_A_ROW {
            http.send("POST", "/goim/push/keys?operation=1000&keys=k0", &[], n.to_string().as_bytes());
            let answer = http.answer();
            assert_eq!(answer.body, SUCCESS, "push {n}");
        }
    });
    for n in 0..IN_A_ROW {
        let frame = client.frame();
        assert_eq!((frame.op, frame.text()), (1000, n.to_string()), "within {PATIENCE:?} each");
    }
    pusher.join().expect("all were accepted");
}

#[test]
fn every_push_goes_through_redis_streams_in_order() {
    check(&Cluster::start_on(Queue::Stream));
}

/// With one job: several that pop one list keep no order between them.
#[test]
fn every_push_goes_through_a_redis_list() {
    let mut cluster = Cluster::start_on(Queue::List);
    cluster.jobs.truncate(1);
    let login = Login::key("k0").accepts(&[1000]);
    let mut client = cluster.comets[1].client(BOTH[1], &login);
    in_order(&cluster, &mut client);
    drop(cluster);
    // Everything but the order, with two.
    let cluster = Cluster::start_on(Queue::List);
    let mut clients: Vec<Client> = (0..4)
        .map(|n| {
            let login = Login::key(&format!("k{n}")).mid(n as i64 / 2 + 1).room("live://1").accepts(&[1000]);
            cluster.comets[n % 2].client(BOTH[n / 2], &login)
        })
        .collect();
    let pushes = [
        "keys?keys=k0&keys=k1&keys=k2&keys=k3",
        "mids?mids=1&mids=2",
        "room?type=live&room=1",
        "all?speed=0",
    ];
    for (n, push) in pushes.iter().enumerate() {
        cluster.logics[n % 2].push(&format!("{push}&operation=1000"), push);
        for client in &mut clients {
            client.expect_push(1000, *push);
        }
    }
}

#[test]
fn every_push_goes_through_kafka_in_order() {
    check(&Cluster::start_on(Queue::Kafka));
}
