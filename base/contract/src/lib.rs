//! What comet, logic and job say to each other: two traits and their values.
//!
//! comet calls logic ([`LogicApi`]); job and logic call comet ([`CometApi`]). Inside the all-in-one process the
//! implementations are called directly; between processes a gRPC client implements the same trait, so that nothing
//! on either side knows which it is. Nothing here opens a socket or starts a task.
//!
//! | module | subject |
//! | --- | --- |
//! | [`logic`] | logic as comet sees it |
//! | [`comet`] | comet as job and logic see it |

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic when nobody takes it, or wait for ever

pub mod comet;
pub mod logic;

pub use self::{
    comet::{CometApi, Dispatch, DispatchError, Payload, Receivers},
    logic::{
        Arrival, ClientCount, ClientMessage, ConnectRequest, LogicApi, LogicError, MessageReply, Renewed,
        Session, SessionRef, Transport,
    },
};
