//! Shows the inside of a shard to tests, fuzzing and the simulator, and checks that it fits together. It only reads,
//! and no shipped program contains it (feature `inspect`).

use hashbrown::HashMap;
use proto::op::Op;

use super::{
    Shard,
    connection::{Connection, State},
    mail::ConnectionId,
};

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its login has not come.
    BeforeLogin,
    /// logic decides about its login.
    Lobby,
    /// Logged in.
    Open,
    /// It is being closed.
    Closing,
}

/// One connection as the shard knows it.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionView<'a> {
    /// Its name.
    pub id: ConnectionId,
    /// Where it is in its life.
    pub stage: Stage,
    /// The driver holds bytes of ours for a write.
    pub is_writing: bool,
    /// The driver may still read from it.
    pub is_reading: bool,
    /// New input has to wait.
    pub is_holding: bool,
    /// Operations that a logged-in client accepts.
    pub accepts: &'a [Op],
}

/// What a shard holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Slots in use.
    pub connections: usize,
    /// Connections that have not logged in.
    pub unauthenticated: usize,
    /// Keys of the table.
    pub keys: usize,
    /// Rooms with a member.
    pub rooms: usize,
    /// Connections that wait until the way to the front has room.
    pub congested: usize,
    /// Connections that wait to be flushed.
    pub to_flush: usize,
    /// Bytes in send queues.
    pub queue_bytes: u64,
}

/// Lengths of lists from which stale entries go lazily. They must grow with the connections of now, not with all there
/// ever were.
#[derive(Clone, Copy, Debug)]
pub struct LazyLists {
    /// Entries in the list of connections before their login.
    pub unauthenticated: usize,
    /// Entries of the timing wheel.
    pub timers: usize,
    /// Capacity of the list of connections to flush.
    pub to_flush_capacity: usize,
}

impl Shard {
    /// One connection.
    pub fn view(&self, id: ConnectionId) -> Option<ConnectionView<'_>> {
        self.slots.get(id).map(|connection| view(id, connection))
    }

    /// All connections, by slot.
    pub fn views(&self) -> impl Iterator<Item = ConnectionView<'_>> {
        self.slots.iter().map(|(id, connection)| view(id, connection))
    }

    /// Counts what the shard holds; all 0 after everybody has left.
    pub fn census(&self) -> Census {
        Census {
            connections: self.slots.len(),
            unauthenticated: self.unauthenticated_now,
            keys: self.keys.len(),
            rooms: self.rooms.len(),
            congested: self.congested.len(),
            to_flush: self.fanout.dirty.len(),
            queue_bytes: self.stats.queue_bytes,
        }
    }

    /// The lengths of the lists from which stale entries go lazily.
    pub fn lazy_lists(&self) -> LazyLists {
        LazyLists {
            unauthenticated: self.unauthenticated.len(),
            timers: self.wheel.entries(),
            to_flush_capacity: self.fanout.dirty.capacity(),
        }
    }

    /// Checks that what the shard holds fits together. It must do so after every event.
    ///
    /// # Panics
    /// If it does not.
    pub fn check(&self) {
        let (mut open, mut unauthenticated, mut queue_bytes) = (0, 0, 0);
        let mut handshakes = 0;
        let mut members: HashMap<_, usize> = HashMap::new();
        for (id, connection) in self.slots.iter() {
            queue_bytes += u64::from(connection.queue.bytes());
            unauthenticated += usize::from(connection.is_unauthenticated());
            handshakes += usize::from(connection.handshaking);
            assert_eq!(connection.queue.bytes() == 0, connection.queue.is_empty());
            let on_its_way = connection.send_in_flight || connection.dirty;
            assert!(connection.queue.is_empty() || on_its_way, "what waits for {id:?} is forgotten");
            let Some(connection) = connection.as_open() else { continue };
            open += 1;
            assert!(!connection.has_first_room || !connection.memberships.is_empty());
            for membership in &connection.memberships {
                let slots = self.rooms.members(membership.room);
                assert_eq!(slots[membership.position as usize], id.slot, "its place in a room");
                *members.entry(self.rooms.id(membership.room)).or_default() += 1;
            }
            assert_eq!(self.find_key(&connection.key), Some(id.slot), "one live connection per key");
        }
        assert_eq!(self.stats.open, open);
        assert_eq!(self.stats.queue_bytes, queue_bytes);
        assert_eq!(self.keys.len() as u64, open, "every key has its connection");
        assert_eq!(self.unauthenticated_now, unauthenticated);
        assert_eq!(self.handshakes_now, handshakes);
        assert_eq!(self.rooms.len(), members.len(), "an empty room is gone");
        for (room, count) in members {
            assert_eq!(self.room_members(room), count, "{room}");
        }
    }
}

fn view(id: ConnectionId, connection: &Connection) -> ConnectionView<'_> {
    ConnectionView {
        id,
        stage: match connection.state {
            State::AwaitHeader { .. } | State::Handshaking { .. } | State::AwaitAuth { .. } => {
                Stage::BeforeLogin
            }
            State::Lobby(_) => Stage::Lobby,
            State::Open(_) => Stage::Open,
            State::Closing { .. } | State::Ended => Stage::Closing,
        },
        is_writing: connection.send_in_flight,
        is_reading: connection.reading,
        is_holding: connection.is_holding(),
        accepts: connection.as_open().map_or(&[], |open| &open.accepts),
    }
}
