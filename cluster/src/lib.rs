#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic when nobody takes it, or wait for ever
//! What every Halley process shares.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`config`] | value types, the loader of a file and `--set`, the commented default file |
//! | [`services`] | the boundaries comet → logic and job → comet, as traits |
//! | [`registry`] | which comets and logics there are: trait, in memory, conformance suite |
//! | [`dial`] | gRPC connections to the other processes, ours and goim's |
//! | [`awake`] | deadlines of a process that may stand still |
//! | [`backoff`] | pauses between attempts |
//! | [`telemetry`] | logs, a limit on lines that outsiders cause, metrics of the process |
//! | [`admin`] | `/metrics`, `/healthz`, `/readyz` |
//! | [`http`] | a bounded HTTP server |
//! | [`process`] | command line, start and exit status of a program |
//! | [`shutdown`] | SIGTERM and SIGINT: drain, then exit |
//! | [`sim`] | the seams for the simulator; without its feature nothing |
//! | [`build`] | version and commit |
//!
//! It never touches a client's connection or a client's bytes, holds no rule of the protocol, and has no global state
//! but the logs. Nothing here runs on a shard's hot path: [`telemetry::LogLimit`] is the one thing a shard calls.

pub mod accept;
pub mod admin;
pub mod awake;
pub mod backoff;
pub mod build;
mod clock;
pub mod config;
pub mod dial;
pub mod http;
pub mod process;
pub mod registry;
pub mod services;
pub mod shutdown;
pub mod sim;
pub mod telemetry;
