//! The load generator on both comets: nothing lost, doubled or out of order. A short form of what is measured.

use std::process::Command;

use crate::world::{Cluster, Queue, program};

fn load(queue: Queue) {
    let cluster = Cluster::start_on(queue);
    let [first, second] = [cluster.comets[0].tcp, cluster.comets[1].tcp];
    let output = Command::new(program("loadgen"))
        .args([
            "9999",
            "400",
            &format!("{first},{second}"),
            "--push",
            &format!("http://{}", cluster.logics[0].http),
        ])
        .args(["--rate", "5", "--duration", "6s"])
        .output()
        .expect("loadgen");
    let said = String::from_utf8_lossy(&output.stdout);
    // It ends with 0 only when everything arrived, once and in order, and everybody stayed.
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("lost"), "{said}");
}

#[test]
fn a_room_over_two_comets_loses_nothing_on_redis() {
    load(Queue::Stream);
}

#[test]
fn a_room_over_two_comets_loses_nothing_on_kafka() {
    load(Queue::Kafka);
}
