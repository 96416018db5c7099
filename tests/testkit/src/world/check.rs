//! What must hold after every event, and at the end of a world.

use std::time::Duration;

use shard::inspect::{Census, Stage};

use super::World;

impl World {
    /// What holds after every event.
    ///
    /// # Panics
    /// Something does not.
    pub fn check(&self) {
        self.shard.check();
        let mut closing = 0;
        for connection in self.shard.views() {
            let id = connection.id;
            let socket = self.sockets.get(id).expect("every connection has its socket");
            assert_eq!(connection.is_writing, socket.write.is_some(), "{id:?}");
            assert_eq!(connection.is_reading, socket.reading, "{id:?}");
            assert!(socket.held || !connection.is_holding, "{id:?} waits and is read all the same");
            closing += u64::from(connection.stage == Stage::Closing);
        }
        let (connections, stats) = (self.shard.connections(), self.shard.stats());
        assert_eq!(connections, self.sockets.len());
        assert_eq!((stats.deliveries, stats.bytes_written, stats.writes), self.taken);
        assert_eq!(stats.bytes_read, self.read);
        assert_eq!(stats.connections.tcp + stats.connections.websocket, connections as u64);
        let began = stats.accepted.tcp + stats.accepted.websocket - stats.refused + stats.attached;
        let ended = began - self.sessions.moved - (connections as u64 - closing);
        assert_eq!(stats.closes.values().sum::<u64>(), ended, "every end has its reason");
    }

    /// Ends every connection and checks that nothing of any is left.
    ///
    /// # Panics
    /// Something is.
    pub fn end(&mut self) {
        self.ring = usize::MAX;
        self.auto_flush = Some(1000);
        for id in self.ids() {
            if let Some(socket) = self.sockets.get_mut(id) {
                (socket.stalled, socket.stubborn) = (false, false);
                self.writes.push_back(id);
            }
            self.leave(id, false);
        }
        self.advance(Duration::from_secs(3));
        assert_eq!(self.sockets.len(), 0, "no socket is left");
        assert_eq!(self.shard.census(), Census::default(), "the shard holds nothing");
        assert!(!self.shard.is_congested() && !self.shard.wants_flush() && self.out.mail.is_empty());
        assert!(self.reported.values().all(|members| *members == 0), "every empty room was reported as such");
        let sessions = &self.sessions;
        assert_eq!(sessions.opened, sessions.ended, "what opened has ended");
        let over = sessions.ended + sessions.abandoned + sessions.moved;
        assert_eq!(sessions.granted, over, "no session outlives its client: {sessions:?}");
        assert_eq!(self.draining, sessions.drained > 0, "a drain ends, and nothing else is one");
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
