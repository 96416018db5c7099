//! A job that stood still goes on: what it was answered meanwhile counts before the time does.

use std::{thread, time::Duration};

use crate::{
    harness::{BOTH, Frozen, Login, Next, eventually},
    world::{Cluster, Queue},
};

const PUSHES: usize = 10;

/// Longer than a push may wait for its comet, which is far longer than the rest takes.
const STANDS_STILL: Duration = Duration::from_secs(5);

/// comet has taken pushes, and its answers wait in job's socket, when job goes on and their time is over.
fn stands_still(queue: Queue) {
    let mut cluster = Cluster::servers_only(queue);
    cluster.logics.push(cluster.logic(&[]));
    cluster.jobs.push(cluster.job(&["dispatch.giveUp=4s"]));
    cluster.comets.push(cluster.comet(&[]));
    for server in cluster.logics.iter().chain(&cluster.jobs).chain(&cluster.comets) {
        server.expect_ready();
    }
    let (comet, job, logic) = (&cluster.comets[0], &cluster.jobs[0], &cluster.logics[0]);
    let mut client = comet.client(BOTH[0], &Login::key("k").mid(1).accepts(&[1000]));
    eventually("job knows the comet", || job.log().contains("dispatching to it").then_some(()));
    logic.push("keys?operation=1000&keys=k", "before");
    client.expect_push(1000, "before");

    let frozen_comet = Frozen::new([comet]);
    for n in 0..PUSHES {
        logic.push("keys?operation=1000&keys=k", n.to_string());
    }
    // Time for job to send them.
    thread::sleep(Duration::from_millis(500));
    let frozen_job = Frozen::new([job]);
    drop(frozen_comet);
    let mut sent = 0;
    while let Next::Frame(frame) = client.next(Duration::from_secs(1)) {
        assert_eq!(frame.text(), sent.to_string());
        sent += 1;
    }
    assert!(sent > 0, "comet had none of them before job stood still");
    frozen_job.thaw_after(STANDS_STILL);

    logic.push("keys?operation=1000&keys=k", "after");
    // A queue that took the job for dead hands some out again; none is missing.
    let mut seen: Vec<String> = (0..sent).map(|n| n.to_string()).collect();
    let mut again = 0;
    loop {
        let text = client.frame().text();
        if text == "after" {
            break;
        }
        if seen.contains(&text) {
            again += 1;
        } else {
            seen.push(text);
        }
    }
    assert!(seen.iter().map(|n| n.parse::<usize>()).eq((0..PUSHES).map(Ok)), "{seen:?}");
    println!("{sent} of {PUSHES} were taken while job stood still, {again} came again");
    let dropped =
        |reason| job.metrics().count(&format!("halley_dispatch_drops_total{{reason=\"{reason}\"}}"));
    for reason in ["comet_unreachable", "no_comet", "invalid", "poison"] {
        assert_eq!(dropped(reason), 0.0, "{reason}: put aside, though comet has it");
    }
}

#[test]
fn what_comet_took_while_job_stood_still_is_not_put_aside_with_redis_streams() {
    stands_still(Queue::Stream);
}

#[test]
fn what_comet_took_while_job_stood_still_is_not_put_aside_with_a_redis_list() {
    stands_still(Queue::List);
}

#[test]
fn what_comet_took_while_job_stood_still_is_not_put_aside_with_kafka() {
    stands_still(Queue::Kafka);
}
