//! Halley's control plane: logic decides logins, keeps sessions and takes pushes; job carries pushes to the comets.
//!
//! Runs on tokio, beside comet's front in the all-in-one process, so nothing here blocks a thread. Never touches a
//! client's socket, never decides how a frame looks, and keeps no state that a restart may not lose: sessions are put
//! back by the comets, pushes are the broker's.
//!
//! | module | subject |
//! |---|---|
//! | [`broker`] | the log between logic and job, and what every broker must do |
//! | [`session`] | which comet holds which device, fenced against late ends |

#![forbid(unsafe_code)]

pub mod broker;
mod clock;
pub mod config;
pub mod job;
pub mod logic;
pub mod metrics;
pub mod session;
