//! What every program needs on a machine, whichever service it is.
//!
//! | module | subject |
//! | --- | --- |
//! | [`process`] | command line, start and exit status of a program |
//! | [`shutdown`] | SIGTERM and SIGINT: drain, then exit |
//! | [`telemetry`] | logs, a limit on lines that outsiders cause, metrics of the process |
//! | [`metrics`] | counters by a label, latencies |
//! | [`admin`] | `/metrics`, `/healthz`, `/readyz` |
//! | [`http`] | a bounded HTTP server |
//! | [`accept`] | connections from a listener, for gRPC servers |
//! | [`dial`] | gRPC connections to the other processes, ours and goim's |
//! | [`tls`] | HTTPS, gRPC whose both ends show a certificate, and to Redis, Kafka and etcd |
//! | [`awake`] | deadlines of a process that may stand still |
//! | [`backoff`] | pauses between attempts |
//! | [`clock`] | the only place of this crate that reads a clock |
//! | [`build`] | version and commit |
//!
//! This crate knows no service, no client and no rule of the protocol, and has no global state except the logs, counters and
//! the list of certificates. Nothing here runs on a shard's hot path; [`telemetry::LogLimit`] is the only part that a driver
//! calls.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

pub mod accept;
pub mod admin;
pub mod awake;
pub mod backoff;
pub mod build;
pub mod clock;
pub mod dial;
pub mod http;
pub mod metrics;
pub mod process;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
