//! What the tests of all crates share, once each. The simulator, the fuzz targets and the benches use it too.
//!
//! | module | gives | feature |
//! | --- | --- | --- |
//! | [`fakes`] | a logic and a comet that answer as they are told and remember what they were asked | `fakes` |
//! | [`wire`] | both wires as a client sees them, written by hand: bytes out, things got in | |
//! | [`world`] | a shard with a fake driver, fake clients, a fake front and virtual time | `world` |
//!
//! What only one subject needs stays with its tests. Real servers (Redis, etcd, Kafka) and free ports are given by the crate
//! `services`, which needs nothing of Halley.
#![forbid(unsafe_code)]

#[cfg(feature = "fakes")]
pub mod fakes;
pub mod wire;
#[cfg(feature = "world")]
pub mod world;
