//! Everything protobuf: the messages and services between comet, logic and job, generated from `schema/*.proto`, and a
//! push on the broker ([`envelope`]). This crate opens no socket; whoever calls or serves brings the connection.
//!
//! Names and numbers are goim's. Halley's own fields have numbers from 100 on, which Go ignores.

#![forbid(unsafe_code)]

pub mod envelope;

/// Package `goim.protocol`: a frame inside a gRPC message.
#[allow(clippy::all, unreachable_pub)]
pub mod protocol {
    tonic::include_proto!("goim.protocol");
}

/// Package `goim.comet`: what comet serves and job calls.
#[allow(clippy::all, unreachable_pub)]
pub mod comet {
    tonic::include_proto!("goim.comet");
}

/// Package `goim.logic`: what logic serves and comet calls, and the message on the broker.
#[allow(clippy::all, unreachable_pub)]
pub mod logic {
    tonic::include_proto!("goim.logic");
}

/// Most rooms in one page of `halley.v1.Logic/Online`: about a megabyte if the names are as long as possible.
pub const ROOMS_PAGE: usize = 10_000;

/// Package `halley.v1`: what Halley's own processes say to each other beyond goim's calls.
#[allow(clippy::all, unreachable_pub)]
pub mod halley {
    tonic::include_proto!("halley.v1");
}
