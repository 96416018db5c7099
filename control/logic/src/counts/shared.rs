//! People of all comets, those that report to other logics included.

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

/// How often the counts of all comets are read.
const READ: Duration = Duration::from_secs(1);

/// A comet of ours reports every 4 s at least, and a logic of ours lets what is kept of it age by 3 s more, so that
/// what has this age, s, is a dead one's.
const AGE_MAX_S: u64 = 10;

/// A Go comet reports every 10 s.
const GO_AGE_MAX_S: u64 = 35;

impl Logic {
    /// Starts to read what comets report to other logics, where there are such; it ends with the value.
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

    /// Keeps a comet's report where the other logics find it. They miss it while the store is away, which the store's
    /// connection logs, or its time is not known: one without a time would be a dead comet's.
    pub(crate) async fn keep_counts(&self, server: &ServerId, rooms: &HashMap<RoomId, u32>) {
        if let (Some(counts), now_s @ 1..) = (&self.counts, self.store_s()) {
            let _ = counts.write(server, rooms, now_s).await;
        }
    }

    /// Clients of all comets: as they said here or to the registry, whichever is newer.
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
        // One that has left the registry, or is another zone's.
        let unlisted = self.room_counts().reported_here().into_iter();
        servers.extend(unlisted.filter(|server| nodes.get(Service::Comet, server).is_none()));
        // While the store is away the last known counts stay.
        let Ok(mut found) = counts.read(&servers).await else { return };
        let now_s = self.store_s();
        for (server, counted) in servers[listed..].iter().zip(found.drain(listed..)) {
            // Its last report, an empty one, went to another logic.
            if counted.is_some_and(|counted| counted.is_empty()) && now_s > 0 {
                self.room_counts().gone(server, asked);
            }
        }
        for (node, counted) in nodes.of(Service::Comet).zip(found) {
            let Some(counted) = counted else { continue };
            let (rooms, life) = living(node, counted, now_s);
            self.room_counts().stored(node.server.clone(), rooms, life, asked);
            // A comet may have very many rooms.
            yield_now().await;
        }
        self.room_counts().keep_stored(|server| nodes.get(Service::Comet, server).is_some());
    }

    /// Seconds of the store's clock.
    fn store_s(&self) -> u64 {
        self.sessions.now_us() / 1_000_000
    }
}

/// The rooms of a comet that are not too old, and whether it lives.
fn living(node: &Node, counted: Vec<CountedRooms>, now_s: u64) -> (HashMap<RoomId, u32>, Life) {
    let is_go = node.version.is_empty();
    let age_max = if is_go { GO_AGE_MAX_S } else { AGE_MAX_S };
    let any = !counted.is_empty();
    let fresh = counted.into_iter().filter(|some| now_s.saturating_sub(some.updated_s) < age_max);
    let fresh: Vec<HashMap<RoomId, u32>> = fresh.map(|some| some.rooms).collect();
    // A Go logic leaves fields of rooms that ended, so an old field says nothing about a Go comet.
    let life = if any && fresh.is_empty() && !is_go { Life::Silent } else { Life::Alive };
    (fresh.into_iter().flatten().collect(), life)
}
