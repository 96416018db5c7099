//! End to end: the real `halley`, only its wire and its public interfaces. One file per subject; every test starts a server
//! of its own on ports the system chooses, and ends it by SIGTERM.

mod bad_input;
mod client_log;
mod close_reasons;
mod config;
mod connections;
mod delivery;
mod devices;
mod foreign;
mod grpc;
mod grpc_go;
mod harness;
mod http;
mod https;
mod lifecycle;
mod metrics;
mod operations;
mod output;
mod page;
mod proxies;
mod readme;
mod sessions;
mod tls;
mod tls_peers;
