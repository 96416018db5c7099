//! What the tests of all crates share, once each. The simulator, the fuzz targets and the benches use it too.
//!
//! | module | gives | feature |
//! | --- | --- | --- |
//! | [`client`] | a client on a blocking socket, both transports | |
//! | [`clock`] | a stopwatch, waiting with an end | |
//! | [`fakes`] | a logic and a comet that answer as they are told and remember what they were asked | `fakes` |
//! | [`login`] | the body of a login | |
//! | [`proxy`] | headers by which proxies tell whose connection they pass on | |
//! | [`queue`] | what carries pushes in a cluster, and its settings | |
//! | [`rounds`] | how long tests with a long form are: `ROUNDS=20` | |
//! | [`site`] | a certificate, the acceptors of ports that show it, clients that trust it | `site` |
//! | [`trust`] | a client of rustls that trusts one certificate | `trust` |
//! | [`wire`] | both wires as a client sees them, written by hand: bytes out, things got in | |
//! | [`world`] | a shard with a fake driver, fake clients, a fake front and virtual time | `world` |
//!
//! What only one subject needs stays with its tests. Real servers (Redis, etcd, Kafka) and free ports are given by the crate
//! `services`, which needs nothing of Halley.
#![forbid(unsafe_code)]

pub mod client;
pub mod clock;
#[cfg(feature = "fakes")]
pub mod fakes;
pub mod login;
pub mod proxy;
pub mod queue;
pub mod rounds;
#[cfg(feature = "site")]
pub mod site;
#[cfg(feature = "trust")]
pub mod trust;
pub mod wire;
#[cfg(feature = "world")]
pub mod world;
