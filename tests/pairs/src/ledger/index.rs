//! Who is meant by a push, quickly.

use std::collections::{HashMap, HashSet};

use super::{Connection, Push, Story, Target};

/// A story's pushes by number, its connections by what they can be addressed by.
pub(super) struct Index<'s> {
    pushes: HashMap<u64, &'s Push>,
    first: Option<u64>,
    by_key: HashMap<&'s str, Vec<usize>>,
    by_mid: HashMap<i64, Vec<usize>>,
    by_room: HashMap<&'s str, Vec<usize>>,
    all: Vec<usize>,
    /// What each connection has received.
    received: Vec<HashSet<u64>>,
}

impl<'s> Index<'s> {
    pub(super) fn new(story: &'s Story) -> Index<'s> {
        let mut index = Index {
            pushes: story.pushes.iter().map(|push| (push.id, push)).collect(),
            first: story.pushes.iter().map(|push| push.id).min(),
            by_key: HashMap::new(),
            by_mid: HashMap::new(),
            by_room: HashMap::new(),
            all: (0..story.connections.len()).collect(),
            received: Vec::new(),
        };
        for (at, connection) in story.connections.iter().enumerate() {
            index.by_key.entry(&connection.key).or_default().push(at);
            index.by_mid.entry(connection.mid).or_default().push(at);
            let rooms: HashSet<&str> = connection.stays.iter().map(|stay| &*stay.room).collect();
            rooms.into_iter().for_each(|room| index.by_room.entry(room).or_default().push(at));
            index.received.push(connection.received.iter().map(|receipt| receipt.id).collect());
        }
        index
    }

    pub(super) fn push(&self, id: u64) -> Option<&'s Push> {
        self.pushes.get(&id).copied()
    }

    /// Whether a connection has received a push.
    pub(super) fn has(&self, connection: usize, id: u64) -> bool {
        self.received[connection].contains(&id)
    }

    /// Whether a push belongs to an earlier story: all numbers grow.
    pub(super) fn is_of_before(&self, id: u64) -> bool {
        self.first.is_some_and(|first| id < first)
    }

    /// Connections of a device.
    pub(super) fn of_key(&self, key: &str) -> &[usize] {
        self.by_key.get(key).map_or(&[], Vec::as_slice)
    }

    /// Connections of a user's devices.
    pub(super) fn of_mid(&self, mid: i64) -> &[usize] {
        self.by_mid.get(&mid).map_or(&[], Vec::as_slice)
    }

    /// Connections that a push could be meant for, whenever they were there.
    pub(super) fn meant(&self, target: &Target) -> Vec<usize> {
        match target {
            Target::Keys(keys) => keys.iter().flat_map(|key| self.of_key(key)).copied().collect(),
            Target::Mids(mids) => mids.iter().flat_map(|mid| self.of_mid(*mid)).copied().collect(),
            Target::Room(room) => self.by_room.get(&**room).cloned().unwrap_or_default(),
            Target::All => self.all.clone(),
        }
    }
}

/// Whether the answer to a push called this connection's device or user offline.
pub(super) fn is_told_offline(target: &Target, offline: &[String], connection: &Connection) -> bool {
    match target {
        Target::Keys(_) => offline.iter().any(|key| **key == *connection.key),
        Target::Mids(_) => offline.iter().any(|mid| *mid == connection.mid.to_string()),
        Target::Room(_) | Target::All => false,
    }
}
