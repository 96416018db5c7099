//! What one person of the crowd has seen, noted as it happens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    clock::now,
    ledger::{Connection, End, Receipt, Stay},
};

/// One person's notes. Connections are named by a number that stays.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// With their numbers; those that ended are taken away with a story.
    connections: Vec<(u64, Connection)>,
    next: u64,
    /// The newest connection, while it is open and no newer one was begun.
    pub(super) present: Option<u64>,
    /// Whether this person wants to be connected.
    pub(super) is_coming: bool,
    /// Why it does not come although it wants to: the server sent it away for good.
    pub(super) sent_away: Option<String>,
    /// Why its last attempt to log in failed.
    pub(super) last_failure: Option<String>,
}

/// Notes that the person's tasks write and the crowd reads.
#[derive(Clone, Debug, Default)]
pub(super) struct Record(Arc<Mutex<Notes>>);

impl Record {
    pub(super) fn lock(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notes {
    /// A login was answered.
    pub(super) fn opened(&mut self, connection: Connection) -> u64 {
        self.next += 1;
        self.connections.push((self.next, connection));
        self.present = Some(self.next);
        self.last_failure = None;
        self.next
    }

    fn of(&mut self, number: u64) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|(its, _)| *its == number).map(|(_, connection)| connection)
    }

    /// The person begins to leave this connection, or to replace it.
    pub(super) fn leaving(&mut self, number: u64) {
        if let Some(connection) = self.of(number) {
            connection.until.get_or_insert(now());
        }
        if self.present == Some(number) {
            self.present = None;
        }
    }

    pub(super) fn ended(&mut self, number: u64, end: End) {
        self.leaving(number);
        if let Some(connection) = self.of(number) {
            connection.end.get_or_insert((now(), end));
        }
    }

    pub(super) fn received(&mut self, number: u64, id: u64) {
        if let Some(connection) = self.of(number) {
            connection.received.push(Receipt { id, at: now() });
        }
    }

    /// The person asks to leave its first room.
    pub(super) fn leaving_room(&mut self, number: u64) {
        if let Some(stay) = self.of(number).and_then(|connection| connection.stays.first_mut()) {
            stay.until.get_or_insert(now());
        }
    }

    /// It is in this first room now; the former stay is kept for the ledger. Of two changes that were asked for together the
    /// first answer is of a room that it has left already.
    pub(super) fn in_room(&mut self, number: u64, room: &str) {
        self.leaving_room(number);
        if let Some(connection) = self.of(number) {
            connection.stays.insert(0, Stay { room: Arc::from(room), from: now(), until: None });
        }
    }

    /// The connection that is there now.
    pub(super) fn now(&self) -> Option<&Connection> {
        let present = self.present?;
        self.connections.iter().find(|(its, _)| *its == present).map(|(_, connection)| connection)
    }

    /// Begins a new story: what ended is forgotten, what goes on has received nothing yet.
    pub(super) fn forget(&mut self) {
        self.connections.retain_mut(|(_, connection)| {
            connection.received.clear();
            connection.stays.retain(|stay| stay.until.is_none());
            connection.end.is_none()
        });
    }

    /// Every connection that is open or has ended in this story.
    pub(super) fn all(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().map(|(_, connection)| connection)
    }
}
