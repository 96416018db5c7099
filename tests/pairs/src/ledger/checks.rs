//! What is looked at when a trouble is over and the crowd stands still.

use std::collections::BTreeMap;

use super::{Book, Connection, Push, Story, Verdict, index::Index};

/// Each of these pushes must have reached every connection it is meant for exactly once. The connections are those that stay.
pub fn expect_reached(probes: &[Push], connections: &[Connection]) -> Book {
    let mut book = Book::default();
    let story = Story { connections: connections.to_vec(), ..Story::default() };
    let index = Index::new(&story);
    for probe in probes {
        for n in index.meant(&probe.target) {
            let connection = &connections[n];
            let times = connection.received.iter().filter(|receipt| receipt.id == probe.id).count();
            if times != 1 {
                book.note(Verdict::Unreachable, || {
                    let Connection { key, comet, .. } = connection;
                    format!(
                        "{key} on comet {comet} got probe {} to {:?} {times} times",
                        probe.id,
                        kind(probe)
                    )
                });
            }
        }
    }
    book
}

fn kind(probe: &Push) -> &'static str {
    match probe.target {
        super::Target::Keys(_) => "keys",
        super::Target::Mids(_) => "mids",
        super::Target::Room(_) => "a room",
        super::Target::All => "all",
    }
}

/// Who is there: as the crowd knows it, or as a logic says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Online {
    /// Connections in all.
    pub total: u64,
    /// People by room.
    pub rooms: BTreeMap<String, u64>,
    /// The comet's name by key; none for who is not there.
    pub keys: BTreeMap<String, Option<String>>,
}

/// What a logic says must be what is.
pub fn expect_online(logic: &str, truth: &Online, said: &Online) -> Book {
    let mut book = Book::default();
    if truth.total != said.total {
        book.note(Verdict::CountedWrong, || {
            format!("{logic} says {} connections, there are {}", said.total, truth.total)
        });
    }
    for (room, people) in &truth.rooms {
        let told = said.rooms.get(room).copied().unwrap_or(0);
        if told != *people {
            book.note(Verdict::CountedWrong, || {
                format!("{logic} says {told} people in {room}, there are {people}")
            });
        }
    }
    for (key, comet) in &truth.keys {
        let told = said.keys.get(key).cloned().flatten();
        if told != *comet {
            book.note(Verdict::CountedWrong, || {
                format!("{logic} says {key} is on {told:?}, it is on {comet:?}")
            });
        }
    }
    book
}
