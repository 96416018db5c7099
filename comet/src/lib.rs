//! comet, Halley's gateway: it holds the client connections and delivers what it is told to.
//!
//! The rules for a share of the connections are a crate of their own, without IO: `shard`.
//!
//! - [`driver`]: what moves bytes and time for a shard.
//! - [`front`]: the tokio side: dispatch in, logins and client messages out, registration, metrics.
//! - [`mail`]: what the two tell each other.
//! - [`mailbox`]: the bounded queues between front and shards, with their sleep and wake.
//! - [`service`]: all of it together.
//! - [`config`]: what can be set.
//!
//! It never decides who a client is (logic does), never stores a message, never blocks a shard and never takes a lock on
//! one.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

pub mod config;
pub mod driver;
pub mod front;
pub mod mail;
pub mod mailbox;
pub mod service;
pub mod tls;

pub use service::{Comet, OpenFiles, StartError};
