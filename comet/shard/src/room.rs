//! The rooms of one shard. A room may have members on every shard; each shard knows its own and how many people are
//! elsewhere.

use hashbrown::HashTable;
use proto::ids::RoomId;
use seam::{Bug, RandomState};

/// Index of a room in its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RoomIndex(u32);

/// A connection's place in a room. With it, leaving needs no search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    /// The room.
    pub(super) room: RoomIndex,
    /// The connection's index among the members.
    pub(super) position: u32,
}

struct Room {
    id: RoomId,
    /// Slots of the members, in no order.
    members: Vec<u32>,
    /// People of this room on other shards and other comets, as the front last said.
    elsewhere: u32,
    /// Whether the count has changed since the last report.
    changed: bool,
}

/// All rooms of a shard that have a member here.
pub(super) struct Rooms {
    rooms: Vec<Option<Room>>,
    free: Vec<RoomIndex>,
    by_id: HashTable<RoomIndex>,
    hasher: RandomState,
    changed: Vec<RoomId>,
}

impl Default for Rooms {
    fn default() -> Rooms {
        Rooms {
            rooms: Vec::new(),
            free: Vec::new(),
            by_id: HashTable::new(),
            hasher: RandomState::new(),
            changed: Vec::new(),
        }
    }
}

impl Rooms {
    /// Finds a room that has members here.
    pub(super) fn find(&self, id: &RoomId) -> Option<RoomIndex> {
        self.by_id.find(self.hasher.hash_one(id), |index| self.room(*index).id == *id).copied()
    }

    /// Adds the connection in `slot` to a room, and creates the room if it is not there.
    pub(super) fn join(&mut self, id: &RoomId, slot: u32) -> Membership {
        let index = self.find(id).unwrap_or_else(|| self.insert(id.clone()));
        let room = self.room_mut(index);
        room.members.push(slot);
        let position = room.members.len() as u32 - 1;
        self.note_change(index);
        Membership { room: index, position }
    }

    /// Takes a member out. The last member moves into its place, and `moved(slot)` hears of it, so that the caller can
    /// correct the position in that connection's membership. An empty room is removed at once.
    pub(super) fn leave(&mut self, membership: Membership, moved: impl FnOnce(u32)) {
        if !seam::planted(Bug::WrongRoomCount) || self.members(membership.room).len() < 3 {
            self.note_change(membership.room);
        }
        let room = self.room_mut(membership.room);
        room.members.swap_remove(membership.position as usize);
        if let Some(slot) = room.members.get(membership.position as usize) {
            moved(*slot);
        }
        if room.members.is_empty() {
            self.remove(membership.room);
        }
    }

    /// Slots of the members of a room.
    pub(super) fn members(&self, index: RoomIndex) -> &[u32] {
        &self.room(index).members
    }

    /// Id of a room.
    pub(super) fn id(&self, index: RoomIndex) -> &RoomId {
        &self.room(index).id
    }

    /// People in the room: those here and those elsewhere.
    pub(super) fn people(&self, index: RoomIndex) -> u32 {
        let room = self.room(index);
        (room.members.len() as u32).saturating_add(room.elsewhere)
    }

    /// Stores how many people of a room are elsewhere. Does nothing if the room has no member here.
    pub(super) fn set_elsewhere(&mut self, id: &RoomId, people: u32) {
        if let Some(index) = self.find(id) {
            self.room_mut(index).elsewhere = people;
        }
    }

    /// Up to `page` rooms whose count has changed since they were last taken, with the number of members here; 0 for a
    /// room that is gone.
    pub(super) fn take_changes(&mut self, page: usize) -> Vec<(RoomId, u32)> {
        let ids = self.changed.split_off(self.changed.len().saturating_sub(page));
        ids.into_iter()
            .map(|id| {
                let count = self.find(&id).map_or(0, |index| {
                    let room = self.room_mut(index);
                    room.changed = false;
                    room.members.len() as u32
                });
                (id, count)
            })
            .collect()
    }

    /// Rooms with a member here.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    fn insert(&mut self, id: RoomId) -> RoomIndex {
        let hash = self.hasher.hash_one(&id);
        let room = Room { id, members: Vec::new(), elsewhere: 0, changed: false };
        let index = match self.free.pop() {
            Some(index) => {
                self.rooms[index.0 as usize] = Some(room);
                index
            }
            None => {
                self.rooms.push(Some(room));
                RoomIndex(self.rooms.len() as u32 - 1)
            }
        };
        let (rooms, hasher) = (&self.rooms, &self.hasher);
        self.by_id.insert_unique(hash, index, |index| {
            hasher.hash_one(&rooms[index.0 as usize].as_ref().expect("indexed rooms exist").id)
        });
        index
    }

    fn remove(&mut self, index: RoomIndex) {
        let hash = self.hasher.hash_one(&self.room(index).id);
        if let Ok(entry) = self.by_id.find_entry(hash, |other| *other == index) {
            entry.remove();
        }
        self.rooms[index.0 as usize] = None;
        self.free.push(index);
    }

    /// Notes that a count has changed. A room that is removed and created again before the report stands in the list
    /// twice; both entries report the present count.
    fn note_change(&mut self, index: RoomIndex) {
        let room = self.room_mut(index);
        if !room.changed {
            room.changed = true;
            let id = room.id.clone();
            self.changed.push(id);
        }
    }

    fn room(&self, index: RoomIndex) -> &Room {
        self.rooms[index.0 as usize].as_ref().expect("a membership keeps its room")
    }

    fn room_mut(&mut self, index: RoomIndex) -> &mut Room {
        self.rooms[index.0 as usize].as_mut().expect("a membership keeps its room")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> RoomId {
        RoomId::parse(name).expect("a room id")
    }

    #[test]
    fn the_last_member_takes_the_place_of_the_one_that_leaves() {
        let mut rooms = Rooms::default();
        let [first, _, last] = [10, 11, 12].map(|slot| rooms.join(&id("live://1"), slot));
        let mut moved = None;
        rooms.leave(first, |slot| moved = Some(slot));
        assert_eq!(moved, Some(12));
        assert_eq!(rooms.members(last.room), [12, 11]);
    }

    #[test]
    fn an_empty_room_is_gone_and_reported_as_zero() {
        let mut rooms = Rooms::default();
        let membership = rooms.join(&id("live://1"), 1);
        assert_eq!(rooms.take_changes(10), [(id("live://1"), 1)]);
        rooms.leave(membership, |_| panic!("nobody is left to move"));
        assert!(rooms.len() == 0 && rooms.find(&id("live://1")).is_none());
        assert_eq!(rooms.take_changes(10), [(id("live://1"), 0)]);
        assert_eq!(rooms.take_changes(10), []);
    }

    /// goim G13: joining a room while it empties fails there.
    #[test]
    fn a_room_that_emptied_can_be_joined_again() {
        let mut rooms = Rooms::default();
        for slot in 0..3 {
            let membership = rooms.join(&id("live://1"), slot);
            assert_eq!(rooms.members(membership.room), [slot]);
            rooms.leave(membership, |_| ());
        }
        rooms.join(&id("live://1"), 9);
        assert!(rooms.take_changes(10).iter().all(|(_, count)| *count == 1));
    }

    #[test]
    fn changes_are_reported_in_pages() {
        let mut rooms = Rooms::default();
        for n in 0..25 {
            rooms.join(&id(&format!("live://{n}")), n);
        }
        let pages: Vec<usize> = (0..4).map(|_| rooms.take_changes(10).len()).collect();
        assert_eq!(pages, [10, 10, 5, 0]);
    }

    #[test]
    fn people_counts_those_elsewhere_too() {
        let mut rooms = Rooms::default();
        let membership = rooms.join(&id("live://1"), 1);
        rooms.set_elsewhere(&id("live://1"), 41);
        rooms.set_elsewhere(&id("live://2"), 7);
        assert_eq!(rooms.people(membership.room), 42);
    }
}
