//! Halley's control plane: logic decides logins, keeps sessions and takes pushes; job carries pushes to the comets.
//!
//! Runs on tokio, beside comet's front in the all-in-one process, so nothing here blocks a thread. Never touches a
//! client's socket, never decides how a frame looks, and keeps no state that a restart may not lose: sessions are put
//! back by the comets, pushes are the broker's.
//!
//! | module | subject |
//! |---|---|
//! | [`logic`] | logins, sessions, counts, clients' messages, the push API over HTTP, the service over gRPC |
//! | [`job`] | from the broker to the comets, in order, none delaying another |
//! | [`comet_client`] | a comet in another process, for both |
//! | [`broker`] | the log between them: memory, and what every broker must do |
//! | [`session`] | which comet holds which device, fenced against late ends: memory, and what every store must do |
//! | `redis` | the connection to Redis (feature `redis`): sessions, counts and queues share it |
//! | [`counts`] | people per room of every comet, where every logic finds them: what such a store must do |
//! | [`config`] | goim's keys and Halley's, and what may not be open to strangers |
//! | [`metrics`] | what is counted |

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic when nobody takes it, or wait for ever

pub mod broker;
mod clock;
pub mod comet_client;
pub mod config;
pub mod counts;
pub mod job;
pub mod logic;
pub mod metrics;
#[cfg(feature = "redis")]
pub mod redis;
pub mod session;
