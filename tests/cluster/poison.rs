//! What anybody may put on the shared queue: it is counted, put aside, and everything else goes on.

use grpc::envelope::{Envelope, Target};
use proto::{
    ids::{Key, ServerId},
    op::Op,
};
use rustix::process::Signal;

use crate::{
    harness::{BOTH, Login, Server, eventually},
    store::{redis, redis_bytes},
    world::{Cluster, Queue},
};

const TOPIC: &str = "goim-push-topic";

fn envelope(target: Target) -> Vec<u8> {
    let body = b"nobody's".to_vec().into();
    Envelope { target, op: Op(1000), body, accepted_at_us: 0, origin: None }.to_bytes().to_vec()
}

/// Number of dead letters.
fn dead_letters(cluster: &Cluster) -> String {
    redis(&cluster.redis, &["LLEN", &format!("{TOPIC}.dead")])
}

/// Sum of a counter over both jobs.
fn dropped(jobs: &[Server], reason: &str) -> f64 {
    let sample = format!("halley_dispatch_drops_total{{reason=\"{reason}\"}}");
    jobs.iter().map(|job| job.metrics().count(&sample)).sum()
}

#[test]
fn what_is_no_push_is_put_aside_and_the_rest_goes_on() {
    let cluster = Cluster::start_on(Queue::List);
    let login = Login::key("k").mid(1).room("live://1").accepts(&[1000]);
    let mut client = cluster.comets[0].client(BOTH[0], &login);
    let dead_comet =
        envelope(Target::Keys { server: ServerId::new("127.0.0.1:1"), keys: vec![Key::new("k")] });
    for element in [&b"not protobuf"[..], b"", b"\x08\x07\x10\xe8\x07", &dead_comet] {
        redis_bytes(&cluster.redis, &[b"LPUSH", TOPIC.as_bytes(), element]);
    }
    cluster.logics[0].push("room?operation=1000&type=live&room=1", "goes on");
    client.expect_push(1000, "goes on");
    eventually("three are counted as poison", || (dropped(&cluster.jobs, "poison") == 3.0).then_some(()));
    eventually("one had no comet", || (dropped(&cluster.jobs, "no_comet") == 1.0).then_some(()));
    // Two jobs share the list: in any order.
    eventually("all four are put aside", || (dead_letters(&cluster) == "4").then_some(()));
    let dead = format!("{TOPIC}.dead");
    let mut aside = ["0", "1", "2", "3"]
        .map(|n| redis_bytes(&cluster.redis, &[b"LINDEX", dead.as_bytes(), n.as_bytes()]));
    aside.sort();
    let mut put = [Vec::new(), b"\x08\x07\x10\xe8\x07".to_vec(), b"not protobuf".to_vec(), dead_comet];
    put.sort();
    assert_eq!(aside, put);
    client.expect_silence();
}

#[test]
fn without_any_comet_pushes_are_counted_and_put_aside_until_there_is_one() {
    let mut cluster = Cluster::servers_only(Queue::Stream);
    cluster.logics.push(cluster.logic(&[]));
    // So long it waits for the first one.
    cluster.jobs.push(cluster.job(&["dispatch.giveUp=1s"]));
    for server in cluster.logics.iter().chain(&cluster.jobs) {
        server.expect_ready();
    }
    cluster.logics[0].push("room?operation=1000&type=live&room=1", "to nobody");
    cluster.logics[0].push("all?operation=1000", "to nobody");
    eventually("both are counted", || (dropped(&cluster.jobs, "no_comet") == 2.0).then_some(()));
    eventually("both are kept", || (dead_letters(&cluster) == "2").then_some(()));
    cluster.comets.push(cluster.comet(&[]));
    cluster.comets[0].expect_ready();
    let mut client = cluster.comets[0].client(BOTH[1], &Login::key("k").room("live://1"));
    eventually("job knows the comet", || cluster.jobs[0].log().contains("dispatching to it").then_some(()));
    cluster.logics[0].push("room?operation=1000&type=live&room=1", "to somebody");
    client.expect_push(1000, "to somebody");
    client.expect_silence();
}

/// goim's job comes to a stop behind such a comet, and with it everybody else's messages.
#[test]
fn what_a_comet_that_hangs_does_not_take_is_put_aside_and_the_others_wait_for_nothing() {
    let mut cluster = Cluster::servers_only(Queue::Stream);
    cluster.logics.push(cluster.logic(&[]));
    cluster.jobs.push(cluster.job(&["dispatch.giveUp=1s"]));
    cluster.comets = (0..2).map(|_| cluster.comet(&[])).collect();
    for server in cluster.logics.iter().chain(&cluster.jobs).chain(&cluster.comets) {
        server.expect_ready();
    }
    let login = |key| Login::key(key).room("live://1").accepts(&[1000]);
    let mut well = cluster.comets[0].client(BOTH[0], &login("well"));
    let _hung = cluster.comets[1].client(BOTH[0], &login("hung"));
    eventually("job knows both comets", || {
        (cluster.jobs[0].log().matches("dispatching to it").count() == 2).then_some(())
    });
    cluster.comets[1].signal(Signal::STOP);
    cluster.logics[0].push("keys?operation=1000&keys=hung", "to the one that hangs");
    cluster.logics[0].push("room?operation=1000&type=live&room=1", "to both");
    well.expect_push(1000, "to both");
    // Behind it: a room and a device are in different streams, in no order.
    cluster.logics[0].push("keys?operation=1000&keys=well", "to the other");
    well.expect_push(1000, "to the other");
    eventually("both are given up for it", || {
        (dropped(&cluster.jobs, "comet_unreachable") == 2.0).then_some(())
    });
    eventually("what nobody took is kept", || (dead_letters(&cluster) == "1").then_some(()));
    let aside = redis_bytes(&cluster.redis, &[b"LINDEX", format!("{TOPIC}.dead").as_bytes(), b"0"]);
    let aside = Envelope::parse(aside.into()).expect("as it stood on the queue");
    assert_eq!(aside.body, "to the one that hangs");
    cluster.comets[1].signal(Signal::CONT);
}

/// Another program's value under one of our names: told, and everything else goes on.
#[test]
fn a_wrong_type_under_a_key_of_ours_harms_only_that_key() {
    let cluster = Cluster::start();
    redis(&cluster.redis, &["HSET", "golang_im:key_odd", "a", "b"]);
    redis(&cluster.redis, &["SET", "golang_im:mid_77", "text"]);
    let mut well = cluster.comets[0].client(BOTH[0], &Login::key("well").mid(1).accepts(&[1000]));
    for target in ["keys?operation=1000&keys=odd", "mids?operation=1000&mids=77"] {
        let answer = cluster.logics[0].post(&format!("/goim/push/{target}"), "odd");
        assert_eq!(answer.status, 200, "{target}: {}", answer.body);
        assert!(answer.json()["data"]["offline"].is_array(), "{target}: nobody's session: {}", answer.body);
    }
    let answer = cluster.logics[0].post("/goim/push/mids?operation=1000&mids=77&mids=1", "well");
    assert_eq!(answer.status, 200, "{}", answer.body);
    well.expect_push(1000, "well");
    for logic in &cluster.logics {
        logic.expect_ready();
    }
}
