//! What must hold after every event, and at the end of a world.

use std::time::Duration;

use hashbrown::HashMap;

use super::{World, room};

impl World {
    /// What holds after every event.
    pub(in super::super) fn check(&mut self) {
        let shard = &mut self.shard;
        let (mut connections, mut open, mut unauthenticated, mut closing) = (0, 0, 0, 0);
        let mut queue_bytes = 0;
        let mut members: HashMap<&str, usize> = HashMap::new();
        for slot in 0..shard.slots.end() {
            let Some((id, connection)) = shard.slots.at_mut(slot) else { continue };
            let socket = self.sockets.get(&id).expect("every connection has its socket");
            connections += 1;
            assert_eq!(connection.send_in_flight, socket.write.is_some(), "{id:?}");
            assert_eq!(connection.reading, socket.reading, "{id:?}");
            assert!(socket.held || !connection.is_holding(), "{id:?} waits and is read all the same");
            queue_bytes += u64::from(connection.queue.bytes());
            assert_eq!(connection.queue.bytes() == 0, connection.queue.is_empty());
            let on_its_way = connection.send_in_flight || connection.dirty;
            assert!(connection.queue.is_empty() || on_its_way, "what waits for {id:?} is forgotten");
            closing += u64::from(connection.is_closing());
            unauthenticated += usize::from(connection.is_unauthenticated());
            let Some(connection) = connection.as_open() else { continue };
            open += 1;
            assert!(!connection.has_first_room || !connection.memberships.is_empty());
            for membership in &connection.memberships {
                assert_eq!(shard.rooms.members(membership.room)[membership.position as usize], slot);
                *members.entry(shard.rooms.id(membership.room).as_str()).or_default() += 1;
            }
            let key = connection.key.clone();
            let of_key =
                shard.keys.find(std::hash::BuildHasher::hash_one(&shard.key_hasher, &key), |other| {
                    shard.slots.key(*other) == Some(&key)
                });
            assert_eq!(of_key, Some(&slot), "one live connection per key");
        }
        assert_eq!(connections, self.sockets.len());
        assert_eq!(connections, shard.slots.len());
        assert_eq!(open, shard.keys.len() as u64);
        assert_eq!(unauthenticated, shard.unauthenticated_now);
        assert_eq!(shard.rooms.len(), members.len(), "an empty room is gone");
        for (name, count) in members {
            assert_eq!(
                shard.rooms.find(&room(name)).map(|index| shard.rooms.members(index).len()),
                Some(count)
            );
        }
        let stats = &shard.stats;
        assert_eq!(stats.open, open);
        assert_eq!(stats.queue_bytes, queue_bytes);
        assert_eq!((stats.deliveries, stats.bytes_written, stats.writes), self.taken);
        assert_eq!(stats.bytes_read, self.read);
        assert_eq!(stats.connections.tcp + stats.connections.websocket, connections as u64);
        let began = stats.accepted.tcp + stats.accepted.websocket - stats.refused + stats.attached;
        let ended = began - self.moved - (connections as u64 - closing);
        assert_eq!(stats.closes.values().sum::<u64>(), ended, "every end has its reason");
    }

    /// Ends every connection and checks that nothing of any is left.
    pub(in super::super) fn end(&mut self) {
        self.ring = usize::MAX;
        self.auto_flush = Some(1000);
        let mut ids: Vec<_> = self.sockets.keys().copied().collect();
        ids.sort_by_key(|id| (id.slot, id.generation));
        for id in ids {
            if let Some(socket) = self.sockets.get_mut(&id) {
                (socket.stalled, socket.stubborn) = (false, false);
                self.writes.push_back(id);
            }
            self.leave(id, false);
        }
        self.advance(Duration::from_secs(3));
        assert!(self.sockets.is_empty() && self.shard.slots.len() == 0, "no slot is left");
        assert_eq!((self.shard.keys.len(), self.shard.rooms.len()), (0, 0), "no key and no room is left");
        assert_eq!((self.shard.unauthenticated_now, self.shard.stats.queue_bytes), (0, 0));
        assert!(!self.shard.is_congested() && !self.shard.wants_flush());
        assert!(self.reported.values().all(|members| *members == 0), "every empty room was reported as such");
        self.check();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}
