//! comet as job and logic see it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use proto::{
    close::CloseReason,
    ids::{Generation, Key, RoomId},
    op::Op,
    origin::Origin,
};

/// What one dispatch carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// One message. comet puts it into a frame.
    Message {
        /// Its operation.
        op: Op,
        /// Its body.
        body: Bytes,
    },
    /// Complete frames, one after the other, as goim's job sends them in operation 9.
    Frames(Bytes),
}

/// Who gets a dispatch on the comet to which it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receivers {
    /// These devices. A key given twice gets the push twice.
    Keys(Vec<Key>),
    /// The members of a room, whichever operations they accept.
    Room(RoomId),
    /// Everybody who accepts the operation; `speed` is receivers a second on this comet, 0 = at once.
    All {
        /// Receivers a second on this comet.
        speed: u32,
    },
}

/// One push, addressed to one comet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatch {
    /// Who gets it.
    pub receivers: Receivers,
    /// Clients get the push only if they accept this operation. Checked for keys and for everybody, never for rooms.
    pub filter: Op,
    /// What they get.
    pub payload: Payload,
    /// Set if a client sent this message into its room.
    pub origin: Option<Origin>,
    /// When logic accepted the push, µs since the epoch; 0 = unknown.
    pub accepted_at_us: u64,
}

/// Why comet did not take a batch.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// The batch is malformed. job does not try it again.
    #[error("comet refused the dispatch: {0}")]
    Invalid(String),
    /// comet is away or draining. job tries again until `dispatch.giveUp`.
    #[error("comet is unreachable: {0}")]
    Unreachable(String),
}

/// comet as job and logic see it: job dispatches, logic kicks.
#[async_trait]
pub trait CometApi: Send + Sync + 'static {
    /// Hands a batch to the shards, in order. Returns when the mailbox of every shard concerned has its part. comet
    /// counts what is lost after that.
    async fn dispatch(&self, batch: &[Dispatch]) -> Result<(), DispatchError>;
    /// Closes the connection of `key` if its generation is below `below`, or whatever it is if there is none. The
    /// client reads `text`, or else the reason's own words. Returns when the shard's mailbox has the kick.
    async fn kick(
        &self,
        key: Key,
        below: Option<Generation>,
        reason: CloseReason,
        text: Option<Arc<str>>,
    ) -> Result<(), DispatchError>;
    /// Rooms with at least one member here.
    async fn rooms(&self) -> Result<Vec<RoomId>, DispatchError>;
}
