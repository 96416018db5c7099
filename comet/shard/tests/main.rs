//! The rules of a shard in a world of fake sockets, a fake front and virtual time ([`testkit::world`]), by subject.
#![forbid(unsafe_code)]

mod closing;
mod congestion;
mod fanout;
mod limits;
mod login;
mod operations;
mod proxied;
mod random;
mod rooms;
mod takeover;
mod websocket;
