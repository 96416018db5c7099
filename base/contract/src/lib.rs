//! What comet, logic and job say to each other: two traits and their values.
//!
//! comet calls logic ([`LogicApi`]); job and logic call comet ([`CometApi`]). In the all-in-one process they call the
//! implementations directly. Between processes a gRPC client implements the same trait, so that neither side knows
//! which it is. Nothing here opens a socket or starts a task.
//!
//! | module | subject |
//! | --- | --- |
//! | [`logic`] | logic as comet sees it |
//! | [`comet`] | comet as job and logic see it |

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

pub mod comet;
pub mod logic;

pub use self::{
    comet::{CometApi, Dispatch, DispatchError, Payload, Receivers},
    logic::{
        Arrival, ClientCount, ClientMessage, ConnectRequest, LogicApi, LogicError, MessageReply, Renewed,
        Session, SessionRef, Transport,
    },
};
