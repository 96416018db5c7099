//! RFC 6455 without sockets: the server's side, and the few pieces a client needs (load generator, tests).
//!
//! A connection starts as an [`Upgrade`], which reads the HTTP head and gives a [`Request`] to be answered with its
//! [`response`](Request::response), or a [`Refusal`]. From then on a [`Reader`] turns bytes into [`Item`]s. What the
//! server sends is made by [`Encoded`](crate::encoded::Encoded). Extensions (deflate) are never agreed to, and no
//! subprotocol is chosen.

mod client;
mod header;
mod mask;
mod reader;
mod upgrade;

pub use client::{ClientUpgrade, ClientUpgradeError, client_frame};
pub(crate) use header::server_header;
pub use header::{Opcode, has_close};
pub use reader::{Item, MessageLimits, Reader, WsViolation};
pub use upgrade::{HEAD_LEN_MAX, HEADERS_MAX, LINE_LEN_MAX, Refusal, Request, Upgrade, UpgradeRules};
