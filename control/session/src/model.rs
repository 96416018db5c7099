//! The rules of a store once more, as plainly as possible, and random lives of logins, by which tests compare a store
//! with these rules.

use std::{collections::BTreeMap, time::Duration};

use contract::SessionRef;
use proptest::{collection::vec, prelude::*};
use proto::ids::{Generation, Key, Mid, ServerId};

use super::StoredSession;

/// How long a session of the model lives.
pub(super) const TTL: Duration = Duration::from_secs(10);

/// One step of a login's life, as it may reach the store: in any order, late, twice.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Put(Login),
    End(Login, bool),
    Renew(Login, bool),
    Wait(u8),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Login {
    pub(super) mid: i64,
    pub(super) key: u8,
    pub(super) server: u8,
    pub(super) generation: i64,
}

impl Login {
    pub(super) fn key(self) -> Key {
        Key::new(self.key.to_string())
    }

    pub(super) fn server(self) -> ServerId {
        ServerId::new(self.server.to_string())
    }

    pub(super) fn reference(self, fenced: bool) -> SessionRef {
        let generation = fenced.then_some(Generation(self.generation));
        SessionRef { mid: Mid(self.mid), key: self.key(), server: self.server(), generation }
    }

    pub(super) fn stored(self) -> StoredSession {
        let SessionRef { mid, key, server, generation } = self.reference(self.generation > 0);
        StoredSession { mid: Some(mid), key, server, generation }
    }
}

/// Random lives of up to `most` steps.
pub(super) fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let login = (0..3i64, 0..3u8, 0..2u8, 1..6i64).prop_map(|(mid, key, server, generation)| Login {
        mid,
        key,
        server,
        generation,
    });
    let step = prop_oneof![
        3 => login.clone().prop_map(Step::Put),
        2 => (login.clone(), any::<bool>()).prop_map(|(l, fenced)| Step::End(l, fenced)),
        2 => (login, any::<bool>()).prop_map(|(l, fenced)| Step::Renew(l, fenced)),
        1 => (0..8u8).prop_map(Step::Wait),
    ];
    vec(step, 1..=most)
}

/// The rules once more, as plainly as possible: key → (mid, server, generation, expires).
#[derive(Default)]
pub(super) struct Model {
    now_s: u32,
    pub(super) rows: BTreeMap<u8, (i64, u8, i64, u32)>,
}

impl Model {
    fn is_it(row: (i64, u8, i64, u32), login: Login, fenced: bool) -> bool {
        if fenced { row.2 == login.generation } else { row.1 == login.server }
    }

    pub(super) fn step(&mut self, step: Step) -> Option<bool> {
        let expires = self.now_s + TTL.as_secs() as u32;
        let row = |l: Login| self.rows.get(&l.key).copied();
        match step {
            Step::Put(l) => {
                let stored = row(l).is_none_or(|row| row.2 <= l.generation);
                if stored {
                    let is_other = |row: (i64, u8, i64, u32)| {
                        row.2 == l.generation && (row.0, row.1) != (l.mid, l.server)
                    };
                    let generation = l.generation + i64::from(row(l).is_some_and(is_other));
                    self.rows.insert(l.key, (l.mid, l.server, generation, expires));
                }
                Some(stored)
            }
            Step::End(l, fenced) => {
                let ended = row(l).is_some_and(|row| Self::is_it(row, l, fenced));
                if ended {
                    self.rows.remove(&l.key);
                }
                Some(ended)
            }
            Step::Renew(l, fenced) => {
                let generation = if fenced { l.generation } else { 0 };
                let renewed = match row(l) {
                    Some(row) if Self::is_it(row, l, fenced) => Some((row.0, row.1, row.2, expires)),
                    Some(row) if row.2 > generation || !fenced => None,
                    Some(_) | None => Some((l.mid, l.server, generation, expires)),
                };
                renewed.map(|row| self.rows.insert(l.key, row));
                Some(renewed.is_some())
            }
            Step::Wait(seconds) => {
                self.now_s += u32::from(seconds);
                self.rows.retain(|_, row| row.3 > self.now_s);
                None
            }
        }
    }
}
