//! Counts people and clients of all comets, those included that report to other logics.

use std::{collections::HashMap, sync::Arc, time::Duration};

use contract::ClientCount;
use proto::ids::{RoomId, ServerId};
use registry::{Node, Service};
use session::counts::{CountedRooms, Counts};
use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};

use super::{Life, sum};
use crate::Logic;

/// How often logic reads the counts of all comets from the store.
const READ: Duration = Duration::from_secs(1);

/// A Halley comet reports at least every 4 s, and with a report a Halley logic rewrites what has been in the store for
/// more than 3 s. So what has this age, s, belongs to a dead comet.
const AGE_MAX_S: u64 = 10;

/// A Go comet reports every 10 s only.
const GO_AGE_MAX_S: u64 = 35;

impl Logic {
    /// Starts to read what comets report to other logics, if there can be other logics. The tasks end when this value
    /// is dropped.
    pub(crate) fn follow_counts(self: &Arc<Self>) {
        let Some(counts) = self.counts.clone() else { return };
        let (logic, mut nodes) = (Arc::downgrade(self), self.nodes.clone());
        tokio::spawn(async move {
            loop {
                let known = Arc::clone(&nodes.borrow_and_update());
                let Some(logic) = logic.upgrade() else { return };
                let comets = known.of(Service::Comet).map(|node| (&node.server, node.updated));
                logic.room_counts().registered(comets, Instant::now());
                drop(logic);
                if nodes.changed().await.is_err() {
                    return;
                }
            }
        });
        let logic = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                sleep(READ).await;
                let Some(logic) = logic.upgrade() else { return };
                logic.read_counts(&*counts).await;
            }
        });
    }

    /// Stores a comet's report where the other logics find it. They miss it if the store is away, which the store's
    /// connection logs, or if the store's time is not known yet: a report without a time would look like a dead
    /// comet's.
    pub(crate) async fn keep_counts(&self, server: &ServerId, rooms: &HashMap<RoomId, u32>) {
        if let (Some(counts), now_s @ 1..) = (&self.counts, self.store_s()) {
            let _ = counts.write(server, rooms, now_s).await;
        }
    }

    /// Clients of all comets. For each the newer number counts: what the comet said here, or what it told the registry.
    pub(crate) fn total(&self) -> ClientCount {
        match self.counts {
            None => self.room_counts().total(),
            Some(_) => self.comets(|comets| sum(comets.iter().map(|(_, clients)| *clients))),
        }
    }

    async fn read_counts(&self, counts: &dyn Counts) {
        let (nodes, asked) = (Arc::clone(&self.nodes.borrow()), Instant::now());
        let mut servers: Vec<ServerId> = nodes.of(Service::Comet).map(|node| node.server.clone()).collect();
        let listed = servers.len();
        // Also the comets that have left the registry or belong to another zone.
        let unlisted = self.room_counts().reported_here().into_iter();
        servers.extend(unlisted.filter(|server| nodes.get(Service::Comet, server).is_none()));
        // If the store is away, the last known counts stay.
        let Ok(mut found) = counts.read(&servers).await else { return };
        let now_s = self.store_s();
        for (server, counted) in servers[listed..].iter().zip(found.drain(listed..)) {
            // The comet's last report is an empty one, and it went to another logic.
            if counted.is_some_and(|counted| counted.is_empty()) && now_s > 0 {
                self.room_counts().gone(server, asked);
            }
        }
        for (node, counted) in nodes.of(Service::Comet).zip(found) {
            let Some(counted) = counted else { continue };
            let (rooms, life) = living(node, counted, now_s);
            self.room_counts().stored(node.server.clone(), rooms, life, asked);
            // A comet may have very many rooms, so other tasks run in between.
            yield_now().await;
        }
        self.room_counts().keep_stored(|server| nodes.get(Service::Comet, server).is_some());
    }

    /// Seconds of the store's clock.
    fn store_s(&self) -> u64 {
        self.sessions.now_us() / 1_000_000
    }
}

/// The rooms of a comet from reports that are not too old, and whether it lives.
fn living(node: &Node, counted: Vec<CountedRooms>, now_s: u64) -> (HashMap<RoomId, u32>, Life) {
    let is_go = node.version.is_empty();
    let age_max = if is_go { GO_AGE_MAX_S } else { AGE_MAX_S };
    let any = !counted.is_empty();
    let fresh = counted.into_iter().filter(|some| now_s.saturating_sub(some.updated_s) < age_max);
    let fresh: Vec<HashMap<RoomId, u32>> = fresh.map(|some| some.rooms).collect();
    // A Go logic leaves fields of rooms that ended, so old fields do not tell whether a Go comet lives.
    let life = if any && fresh.is_empty() && !is_go { Life::Silent } else { Life::Alive };
    (fresh.into_iter().flatten().collect(), life)
}
