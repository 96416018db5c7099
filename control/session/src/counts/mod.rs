//! Keeps how many people are in which room on which comet, where every logic of a cluster finds it.
//!
//! A comet reports to one logic. This logic stores the report here, and every logic reads the reports of all comets, so
//! that all logics give the same answers. If all services run in one process there is one logic, which does not need
//! this.

use std::collections::HashMap;

use async_trait::async_trait;
use proto::ids::{RoomId, ServerId};

#[cfg(feature = "redis")]
mod redis;

#[cfg(feature = "redis")]
pub use redis::RedisCounts;

/// A part of a comet's rooms that was reported together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CountedRooms {
    /// People per room.
    pub rooms: HashMap<RoomId, u32>,
    /// When it was reported, in seconds since the epoch: by the clock of the session store, or by a Go logic's own
    /// clock.
    pub updated_s: u64,
}

/// The store is away, or holds a key of another type. The next report says everything again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the online counts are unavailable: {0}")]
pub struct CountsUnavailable(pub String);

/// The people of every comet.
#[async_trait]
pub trait Counts: Send + Sync + 'static {
    /// Replaces what a comet last reported. A room that is missing in `rooms` has ended.
    async fn write(
        &self,
        server: &ServerId,
        rooms: &HashMap<RoomId, u32>,
        now_s: u64,
    ) -> Result<(), CountsUnavailable>;

    /// What is stored of each of these comets, in the order asked; none for a comet whose counts cannot be read.
    async fn read(&self, servers: &[ServerId]) -> Result<Vec<Option<Vec<CountedRooms>>>, CountsUnavailable>;
}
