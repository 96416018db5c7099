//! End to end in a cluster: the real `comet`, `logic` and `job`, two of each, on a real Redis, etcd and Kafka. One file per
//! subject; every test starts a cluster of its own on ports the system chooses.

#[path = "../e2e/harness/mod.rs"]
#[allow(dead_code, unused_imports)] // The tests of `halley` use the rest of it.
mod harness;

mod store;
mod world;

mod brokers;
mod bytes;
mod clock_set_back;
mod commits;
mod config;
mod counts;
mod drain;
mod encrypted;
mod frozen;
mod given_up;
mod go_peers;
mod goim;
mod interleavings;
mod ledger;
mod load;
mod outages;
mod output;
mod poison;
mod registry;
mod replaced;
mod rooms;
mod unknown;
