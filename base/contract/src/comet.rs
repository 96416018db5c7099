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
    /// One message: comet puts it into a frame.
    Message {
        /// Its operation.
        op: Op,
        /// Its body.
        body: Bytes,
    },
    /// Complete frames, one after the other, as goim's job sends them in operation 9.
    Frames(Bytes),
}

/// To whom one dispatch goes on the comet that gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receivers {
    /// These devices; a key given twice gets it twice.
    Keys(Vec<Key>),
    /// The members of a room, whatever they accept.
    Room(RoomId),
    /// Everybody who accepts the operation; `speed` is connections a second on this comet, 0 = at once.
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
    /// Operation checked against what a client accepts (keys and all; never rooms).
    pub filter: Op,
    /// What they get.
    pub payload: Payload,
    /// Set on client messages into a room.
    pub origin: Option<Origin>,
    /// When logic accepted the push, µs since the epoch; 0 = unknown.
    pub accepted_at_us: u64,
}

/// Why comet did not take a batch.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// The batch is malformed: never retried.
    #[error("comet refused the dispatch: {0}")]
    Invalid(String),
    /// comet is away or draining: retried until `dispatch.giveUp`.
    #[error("comet is unreachable: {0}")]
    Unreachable(String),
}

/// comet as job and logic see it: job dispatches, logic kicks.
#[async_trait]
pub trait CometApi: Send + Sync + 'static {
    /// Hands a batch to the shards, in order. Returns when every shard's mailbox has its part: what is lost from there
    /// on is counted by comet.
    async fn dispatch(&self, batch: &[Dispatch]) -> Result<(), DispatchError>;
    /// Closes the connection of `key` when its generation is below `below` (no generation: whatever it is). The client
    /// reads `text`, or the reason's own words. Returns when the shard's mailbox has it.
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
