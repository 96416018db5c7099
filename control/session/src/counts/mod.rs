//! How many people are in which room on which comet, where every logic of a cluster finds it.
//!
//! A comet reports to one logic. That one keeps the report here, and every logic reads those of all comets, so that all
//! of them say the same. In one process there is one logic, and no need for this.

use std::collections::HashMap;

use async_trait::async_trait;
use proto::ids::{RoomId, ServerId};

#[cfg(feature = "redis")]
mod redis;

#[cfg(feature = "redis")]
pub use redis::RedisCounts;

/// Some of a comet's rooms, as they were reported together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CountedRooms {
    /// People per room.
    pub rooms: HashMap<RoomId, u32>,
    /// When, seconds since the epoch, by the clock of the sessions' store or, for a Go logic's, by its own.
    pub updated_s: u64,
}

/// The store is away, or holds something else there. The next report tells it all again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the online counts are unavailable: {0}")]
pub struct CountsUnavailable(pub String);

/// The people of every comet.
#[async_trait]
pub trait Counts: Send + Sync + 'static {
    /// Keeps what a comet said, in the place of what it said last. A room that is not there has ended.
    async fn write(
        &self,
        server: &ServerId,
        rooms: &HashMap<RoomId, u32>,
        now_s: u64,
    ) -> Result<(), CountsUnavailable>;

    /// What is kept of each of these comets, in the order asked; none for one whose counts cannot be read.
    async fn read(&self, servers: &[ServerId]) -> Result<Vec<Option<Vec<CountedRooms>>>, CountsUnavailable>;
}
