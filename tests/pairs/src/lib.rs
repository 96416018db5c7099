//! Two things at once: what can happen to a cluster while something is in trouble, with the real programs on the real
//! Redis, etcd and Kafka, judged by one ledger.
//!
//! | module | subject |
//! |---|---|
//! | [`ledger`] | the judge: pushes and connections in, findings out; pure |
//! | [`world`] | the servers and programs: start, kill, freeze, restart on the same ports; links, readiness, metrics, logs |
//! | [`crowd`] | the clients: come, go, relogin, hop, change rooms; every frame and every end is noted |
//! | [`backend`] | the pushers: a fixed rate over several logics, every answer is noted |
//! | [`stage`] | all of these together, and the look around when a trouble is over |
//! | [`event`], [`trouble`] | what can happen; what can be in trouble |
//! | [`matrix`], [`run`] | which of them meet, and what each pair may cost; many pairs in a row |
//! | [`machine`] | whether the machine itself stood still |
//! | [`scenarios`] | long forms, each a story of its own |
#![forbid(unsafe_code)]

pub mod backend;
pub mod clock;
pub mod crowd;
pub mod event;
pub mod http;
pub mod ledger;
pub mod machine;
pub mod matrix;
pub mod rng;
pub mod run;
pub mod scenarios;
pub mod stage;
pub mod trouble;
pub mod world;
