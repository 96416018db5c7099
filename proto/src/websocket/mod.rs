//! RFC 6455 without sockets: the server's side, and the few parts that a client needs (load generator, tests).
//!
//! A connection starts with an [`Upgrade`]. It reads the HTTP head and returns a [`Request`], which the server answers
//! with its [`response`](Request::response), or a [`Refusal`]. From then on a [`Reader`] turns bytes into [`Item`]s.
//! [`Encoded`](crate::encoded::Encoded) makes what the server sends. The server agrees to no extension (deflate) and
//! chooses no subprotocol.

mod client;
mod forwarded;
mod header;
mod mask;
mod reader;
mod upgrade;

pub use client::{ClientUpgrade, ClientUpgradeError, client_frame};
pub(crate) use header::server_header;
pub use header::{Opcode, has_close};
pub use reader::{Item, MessageLimits, Reader, WsViolation};
pub use upgrade::{HEAD_LEN_MAX, HEADERS_MAX, LINE_LEN_MAX, Refusal, Request, ToldIn, Upgrade, UpgradeRules};
