//! The slots of a shard's connections. If a slot is used again, its generation differs, so an id never names two
//! connections.

use proto::ids::Key;

use super::{
    connection::{Connection, Open},
    mail::ConnectionId,
};

struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

pub(super) struct Slots {
    shard: u16,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slots {
    pub(super) fn new(shard: u16) -> Slots {
        Slots { shard, slots: Vec::new(), free: Vec::new() }
    }

    /// Number of slots in use.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Number of slots, used or not. Every slot is below this.
    pub(super) fn end(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(super) fn insert(&mut self, connection: Connection) -> ConnectionId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, connection: None });
            self.slots.len() as u32 - 1
        });
        let place = &mut self.slots[slot as usize];
        place.connection = Some(connection);
        ConnectionId { shard: self.shard, slot, generation: place.generation }
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let place = self.slots.get_mut(id.slot as usize).filter(|place| place.generation == id.generation)?;
        let connection = place.connection.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.slot);
        Some(connection)
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.slots
            .get(id.slot as usize)
            .filter(|place| place.generation == id.generation)
            .and_then(|place| place.connection.as_ref())
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.slots
            .get_mut(id.slot as usize)
            .filter(|place| place.generation == id.generation)
            .and_then(|place| place.connection.as_mut())
    }

    /// The connection that is in this slot now.
    pub(super) fn at_mut(&mut self, slot: u32) -> Option<(ConnectionId, &mut Connection)> {
        let place = self.slots.get_mut(slot as usize)?;
        let id = ConnectionId { shard: self.shard, slot, generation: place.generation };
        place.connection.as_mut().map(|connection| (id, connection))
    }

    /// All connections, by slot.
    #[cfg(feature = "inspect")]
    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.slots.iter().enumerate().filter_map(|(slot, place)| {
            let id = ConnectionId { shard: self.shard, slot: slot as u32, generation: place.generation };
            place.connection.as_ref().map(|connection| (id, connection))
        })
    }

    /// The key of the open connection in this slot.
    pub(super) fn key(&self, slot: u32) -> Option<&Key> {
        self.open(slot).map(|open| &open.key)
    }

    /// The open connection in this slot.
    pub(super) fn open(&self, slot: u32) -> Option<&Open> {
        self.slots.get(slot as usize)?.connection.as_ref()?.as_open()
    }
}
