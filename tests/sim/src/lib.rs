//! A whole comet with logic, job and clients on one thread, in virtual time and in an order that a seed decides.
#![forbid(unsafe_code)]

mod check;
mod client;
pub mod clock;
mod control;
pub mod million;
mod oracle;
pub mod plan;
pub mod run;
mod secure;
pub mod trace;
mod workload;
pub mod world;
