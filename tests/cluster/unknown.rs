//! A queue that is silent under a push: the answer says that nobody knows, and what is refused is told apart.

use std::{thread, time::Duration};

use crate::{
    harness::{BOTH, Login, Next, within},
    world::{Cluster, Queue},
};

/// What backends are to do depends on it: a push that was refused may be repeated, one that is unknown may be there.
fn silent_queue(queue: Queue, stops: impl Fn(&Cluster), goes_on: impl Fn(&Cluster)) {
    let cluster = Cluster::start_on(queue);
    let logic = &cluster.logics[0];
    let mut client = cluster.comets[0].client(BOTH[0], &Login::key("k").room("live://1").accepts(&[1000]));
    let target = "/goim/push/room?operation=1000&type=live&room=1";
    logic.push("room?operation=1000&type=live&room=1", "before");
    client.expect_push(1000, "before");
    // It is acknowledged within a second, and does not come again.
    thread::sleep(Duration::from_secs(2));

    stops(&cluster);
    let unknown = logic.post(target, "unknown");
    unknown.expect_error(504, -504);
    assert_eq!(unknown.header("retry-after"), None, "a repetition may double it");
    within(Duration::from_secs(30), "it is known", || (logic.get("/readyz").status == 503).then_some(()));
    let refused = logic.post(target, "refused");
    refused.expect_error(503, -500);
    assert_eq!(refused.header("retry-after"), Some("1"));
    goes_on(&cluster);
    for server in cluster.logics.iter().chain(&cluster.jobs) {
        within(Duration::from_secs(60), "it is ready", || {
            (server.get("/readyz").status == 200).then_some(())
        });
    }
    logic.push("room?operation=1000&type=live&room=1", "after");

    // The unknown one may have come, before what is newer; the refused one never does.
    let mut first = client.frame().text();
    if first == "unknown" {
        first = client.frame().text();
    }
    assert_eq!(first, "after");
    match client.next(Duration::from_secs(2)) {
        Next::Silence => {}
        other => panic!("{other:?} came behind what is newer"),
    }
    let metrics = logic.metrics();
    for (code, count) in [(503, 1.0), (504, 1.0)] {
        assert_eq!(metrics.count(&format!("halley_http_errors_total{{code=\"{code}\"}}")), count);
    }
}

#[test]
fn a_push_under_which_redis_was_silent_is_unknown_and_one_that_it_never_got_is_refused() {
    for queue in [Queue::Stream, Queue::List] {
        silent_queue(queue, |cluster| cluster.redis.pause(), |cluster| cluster.redis.resume());
    }
}

#[test]
fn a_push_under_which_kafka_was_silent_is_unknown_and_one_that_it_never_got_is_refused() {
    let kafka = |cluster: &Cluster, is_to_stop| {
        let kafka = cluster.kafka.as_ref().expect("it is the queue");
        if is_to_stop { kafka.pause() } else { kafka.resume() }
    };
    silent_queue(Queue::Kafka, |cluster| kafka(cluster, true), |cluster| kafka(cluster, false));
}
