//! The shard in a world of fake sockets, a fake front and virtual time.
//!
//! [`world`] plays the driver and checks after every step what must always hold, [`wire`] writes and reads the bytes
//! of both wires by hand. The other files are the tests, by subject.

mod closing;
mod congestion;
mod fanout;
mod limits;
mod login;
mod operations;
mod random;
mod rooms;
mod takeover;
mod websocket;
mod wire;
mod world;
