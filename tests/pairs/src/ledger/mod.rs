//! The one ledger by which every run is judged. Pure: records in, findings out; no IO, no clock.
//!
//! What a push owes. It is *due* to a connection that was there all the time: it was sent after the login's answer (and the
//! room's) had been read, and the client stayed, in the room, for [`Rules::reach`] after the acceptance; or it stayed long enough
//! to receive a push to the same key or room that was sent after this one had been accepted. Around a new login of
//! its key, a change of room and its end a connection is owed nothing, but a device that neither receives a push nor is called
//! offline must be found in a counter.

mod book;
mod checks;
mod index;
mod owed;
mod records;
#[cfg(test)]
mod tests;

pub use self::{
    book::{Allowed, Book, Verdict},
    checks::{Online, expect_online, expect_reached},
    records::{Answer, Connection, Drops, End, Push, Receipt, Rules, Stay, Story, Target},
};
use self::{index::Index, owed::Owed};

/// Judges a story.
pub fn judge(story: &Story, rules: &Rules) -> Book {
    let mut book = Book::default();
    let index = Index::new(story);
    for connection in &story.connections {
        find_doubles(&index, connection, &mut book);
        find_disorder(&index, connection, &mut book);
    }
    Owed::new(story, rules, &index).settle(&mut book);
    book
}

/// The same push twice on a connection, one that was refused, or one of long ago.
fn find_doubles(index: &Index<'_>, connection: &Connection, book: &mut Book) {
    let mut seen = std::collections::HashMap::new();
    for receipt in &connection.received {
        let Some(push) = index.push(receipt.id) else {
            if index.is_of_before(receipt.id) {
                // Its story ended when all had arrived.
                book.note(Verdict::Doubled, || {
                    format!(
                        "push {} to {} at {:.1?}, long after its time",
                        receipt.id, connection.key, receipt.at
                    )
                });
            }
            continue;
        };
        if let Some(first) = seen.insert(receipt.id, receipt.at) {
            book.note(Verdict::Doubled, || {
                let Connection { key, comet, .. } = connection;
                format!("push {} to {key} on comet {comet} at {first:.1?} and {:.1?}", push.id, receipt.at)
            });
        }
        if push.answer == Answer::Refused {
            book.note(Verdict::Doubled, || format!("push {} was refused and arrived", push.id));
        }
    }
}

/// Pushes of which one was accepted before the other was sent, received the other way round. Repetitions do not count.
fn find_disorder(index: &Index<'_>, connection: &Connection, book: &mut Book) {
    let mut latest = std::collections::HashMap::new();
    let mut seen = std::collections::HashSet::new();
    for receipt in &connection.received {
        let Some(push) = index.push(receipt.id).filter(|push| seen.insert(push.id)) else { continue };
        let Some(lane) = lane(&push.target) else { continue };
        let newest: &mut &Push = latest.entry(lane).or_insert(push);
        if matches!(push.answer, Answer::Accepted { at, .. } if at < newest.sent) {
            book.note(Verdict::Reordered, || {
                format!(
                    "{} on comet {}: push {} (sent {:.1?}) came after {} (sent {:.1?}), at {:.1?}",
                    connection.key, connection.comet, push.id, push.sent, newest.id, newest.sent, receipt.at
                )
            });
        }
        if push.sent > newest.sent {
            *newest = push;
        }
    }
}

/// What keeps its order on a connection: what is for the device itself (`""`), and each room.
fn lane(target: &Target) -> Option<&str> {
    match target {
        Target::Keys(_) | Target::Mids(_) => Some(""),
        Target::Room(room) => Some(room),
        Target::All => None,
    }
}
