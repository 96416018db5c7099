//! Halley's client wire: the bytes between a client and a comet, and the names that everybody uses for what is in them.
//! Everything protobuf is in `proto/grpc`.
//!
//! This crate opens no socket, reads no clock, starts no task, holds no lock and has no `unsafe`. Decoding checks every
//! length against a bound, and every refusal is a typed error; no input makes this crate panic. All numbers on the
//! client wire are big-endian.
//!
//! | module | subject |
//! |---|---|
//! | [`ids`] | who and what: device key, user, room, comet, generation of a session |
//! | [`op`] | operation numbers |
//! | [`frame`] | goim's 16-byte header and body: decoder, encoder, reader of a stream |
//! | [`encoded`] | one push encoded once for TCP and WebSocket clients alike |
//! | [`websocket`] | RFC 6455: upgrade and messages |
//! | [`close`] | the table of reasons for which a connection ends |
//! | [`login`] | body of the login operation |
//! | [`origin`] | the sender of a room message |
//! | [`network`] | networks of addresses |
//! | [`proxy`] | the header in which a proxy tells whose connection it passes on |

#![forbid(unsafe_code)]

pub mod close;
pub mod encoded;
pub mod frame;
pub mod ids;
mod json;
pub mod login;
pub mod network;
pub mod op;
pub mod origin;
pub mod proxy;
pub mod websocket;
