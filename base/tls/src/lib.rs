//! TLS, without IO.
//!
//! A [`Tls`] stands between the bytes of one socket and whoever reads and writes plain text: ciphertext in, plain text
//! out, and the other way round. It opens no socket and reads no clock but rustls's. rustls does the handshakes. After
//! the handshake a connection keeps its record layer only, which is [`record`]; with [`Memory::Plain`] it keeps all of
//! rustls.
//!
//! | module | subject |
//! | --- | --- |
//! | [`stage`] | one connection, from its first byte to its last |
//! | [`handshake`] | rustls, shown one record at a time |
//! | [`record`] | records after the handshake, in some 250 bytes |
//! | [`plain`] | records after the handshake, by rustls |
//! | [`acceptor`] | what all connections of a port share |
//! | [`identity`] | a certificate and its key; which one a client gets |
//! | [`mutual`] | how the parts of a cluster know each other |
//! | [`ticket`] | tickets of resumption |
//! | [`client`] | connections that we make: whom we trust, who we are |
//! | `summary`, `provider` | what is known of a connection; the one provider of cryptography |
//! | [`failure`] | what ends a connection, and the alert that says so |

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

pub mod acceptor;
pub mod client;
pub mod failure;
mod handshake;
pub mod identity;
pub mod mutual;
mod plain;
mod provider;
mod record;
pub mod stage;
mod summary;
pub mod ticket;

pub use self::{
    acceptor::{Acceptor, Memory, https},
    failure::Failure,
    identity::{Identity, IdentityError},
    mutual::Mutual,
    stage::{Handshake, Tls},
    summary::{Opened, Summary, Version},
    ticket::TicketKeys,
};

#[cfg(test)]
mod tests;
