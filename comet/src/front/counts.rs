//! Counts people per room: over all shards, and over all comets as logic reports them.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
};

use contract::ClientCount;
use proto::ids::RoomId;
use seam::RandomState;

/// Counts of this comet.
#[derive(Default)]
pub(super) struct RoomCounts {
    shards: usize,
    rooms: HashMap<RoomId, RoomCount, RandomState>,
    addresses: HashMap<IpAddr, u32>,
    connections: u64,
    /// Something changed since the last report to logic.
    changed: bool,
}

struct RoomCount {
    /// Members on each shard.
    shards: Box<[u32]>,
    /// People on other comets.
    other_comets: u32,
}

impl RoomCount {
    fn here(&self) -> u32 {
        self.shards.iter().sum()
    }
}

/// For each shard, how many people of a room are elsewhere.
pub(super) type Elsewhere = Vec<Vec<(RoomId, u32)>>;

impl RoomCounts {
    pub(super) fn new(shards: usize) -> RoomCounts {
        RoomCounts { shards, ..RoomCounts::default() }
    }

    pub(super) fn opened(&mut self, peer: IpAddr) {
        self.connections += 1;
        *self.addresses.entry(peer).or_default() += 1;
        self.changed = true;
    }

    pub(super) fn ended(&mut self, peer: IpAddr) {
        self.connections = self.connections.saturating_sub(1);
        if let Entry::Occupied(mut entry) = self.addresses.entry(peer) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
        self.changed = true;
    }

    /// Takes a shard's report, and returns what to tell the shards.
    pub(super) fn report(&mut self, shard: u16, counts: Vec<(RoomId, u32)>) -> Elsewhere {
        let mut news = vec![Vec::new(); self.shards];
        self.changed |= !counts.is_empty();
        for (id, count) in counts {
            let shards = self.shards;
            let room = self
                .rooms
                .entry(id.clone())
                .or_insert_with(|| RoomCount { shards: vec![0; shards].into(), other_comets: 0 });
            room.shards[usize::from(shard)] = count;
            if room.here() == 0 {
                self.rooms.remove(&id);
                continue;
            }
            tell(&id, room, &mut news);
        }
        news
    }

    /// Takes logic's counts over all comets. `own` are the counts that logic had of this comet when it made them.
    pub(super) fn all_comets(&mut self, own: &HashMap<RoomId, u32>, all: &HashMap<RoomId, u32>) -> Elsewhere {
        let mut news = vec![Vec::new(); self.shards];
        for (id, room) in &mut self.rooms {
            let others = all.get(id).copied().unwrap_or(0).saturating_sub(own.get(id).copied().unwrap_or(0));
            if others != room.other_comets {
                room.other_comets = others;
                tell(id, room, &mut news);
            }
        }
        news
    }

    /// Everything that the shards should know, for when an earlier mail did not reach them.
    pub(super) fn everything(&self) -> Elsewhere {
        let mut news = vec![Vec::new(); self.shards];
        self.rooms.iter().for_each(|(id, room)| tell(id, room, &mut news));
        news
    }

    /// Makes the next report due, because logic did not take the last one.
    pub(super) fn report_again(&mut self) {
        self.changed = true;
    }

    /// Whether something has changed since the last report. Resets the mark.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn counts(&self) -> (HashMap<RoomId, u32>, ClientCount) {
        let rooms = self.rooms.iter().map(|(id, room)| (id.clone(), room.here())).collect();
        (rooms, self.clients())
    }

    pub(super) fn clients(&self) -> ClientCount {
        ClientCount { connections: self.connections, addresses: self.addresses.len() as u64 }
    }

    pub(super) fn rooms(&self) -> Vec<RoomId> {
        self.rooms.keys().cloned().collect()
    }
}

/// Adds to `news`, for each shard with members in the room, how many people are elsewhere.
fn tell(id: &RoomId, room: &RoomCount, news: &mut Elsewhere) {
    let all = room.here() + room.other_comets;
    for (shard, members) in room.shards.iter().enumerate() {
        if *members > 0 {
            news[shard].push((id.clone(), all - members));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> RoomId {
        RoomId::parse(name).expect("a room id")
    }

    #[test]
    fn each_shard_learns_of_the_people_on_the_others() {
        let mut counts = RoomCounts::new(2);
        counts.report(0, vec![(room("a"), 3)]);
        let news = counts.report(1, vec![(room("a"), 4)]);
        assert_eq!(news, [vec![(room("a"), 4)], vec![(room("a"), 3)]]);
        let own = counts.counts().0;
        assert_eq!(own[&room("a")], 7);
        let news = counts.all_comets(&own, &HashMap::from([(room("a"), 17)]));
        assert_eq!(news, [vec![(room("a"), 14)], vec![(room("a"), 13)]]);
    }

    #[test]
    fn a_room_without_people_is_forgotten() {
        let mut counts = RoomCounts::new(1);
        counts.report(0, vec![(room("a"), 1)]);
        counts.report(0, vec![(room("a"), 0)]);
        assert!(counts.rooms().is_empty());
    }

    #[test]
    fn addresses_are_counted_once_each() {
        let mut counts = RoomCounts::new(1);
        let [a, b]: [IpAddr; 2] = [[127, 0, 0, 1].into(), [127, 0, 0, 2].into()];
        [a, a, b].into_iter().for_each(|peer| counts.opened(peer));
        assert_eq!(counts.counts().1, ClientCount { connections: 3, addresses: 2 });
        [a, b].into_iter().for_each(|peer| counts.ended(peer));
        assert_eq!(counts.counts().1, ClientCount { connections: 1, addresses: 1 });
        assert!(counts.take_changed() && !counts.take_changed());
    }
}
