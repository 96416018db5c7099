//! Everything encrypted at once: the core cases with a Redis, an etcd and a Kafka that speak TLS only, and want a
//! certificate or a login; with gRPC whose both ends show a certificate, and clients over TLS.

use std::time::Duration;

use crate::{
    brokers,
    harness::within,
    outages::{clients, expect_all_sessions, expect_pushes_arrive},
    world::{Cluster, LOGIN, Queue},
};

/// No log of a program has a password in it, or a key.
fn expect_no_secret(cluster: &Cluster) {
    for server in cluster.logics.iter().chain(&cluster.jobs).chain(&cluster.comets) {
        let log = server.log();
        assert!(!log.contains(LOGIN.password) && !log.contains("PRIVATE KEY"), "{log}");
    }
}

#[test]
fn every_push_goes_through_an_encrypted_redis_in_order() {
    let cluster = Cluster::start_encrypted(Queue::Stream);
    brokers::check(&cluster);
    expect_no_secret(&cluster);
}

#[test]
fn every_push_goes_through_an_encrypted_kafka_in_order() {
    let cluster = Cluster::start_encrypted(Queue::Kafka);
    brokers::check(&cluster);
    expect_no_secret(&cluster);
}

#[test]
fn an_encrypted_redis_and_etcd_that_crashed_are_found_again() {
    let mut cluster = Cluster::start_encrypted(Queue::Stream);
    let mut clients = clients(&cluster, 40);
    cluster.redis.kill();
    cluster.etcd.kill();
    for server in cluster.logics.iter().chain(&cluster.jobs).chain(&cluster.comets) {
        within(Duration::from_secs(30), "it is not ready without them", || {
            (server.get("/readyz").status == 503).then_some(())
        });
    }
    cluster.redis.restart();
    cluster.etcd.restart();
    for server in cluster.logics.iter().chain(&cluster.jobs).chain(&cluster.comets) {
        within(Duration::from_secs(30), "it is ready again", || {
            (server.get("/readyz").status == 200).then_some(())
        });
    }
    expect_all_sessions(&cluster.logics[1], 40);
    expect_pushes_arrive(&cluster, &mut clients, "after the crash");
    expect_no_secret(&cluster);
}
