//! What accepted pushes owe to connections, what became of it, and what the counters say about the rest.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use super::{
    Answer, Book, Connection, Drops, End, Push, Rules, Story, Target, Verdict,
    index::{Index, is_told_offline},
    lane,
};
use crate::clock::At;

/// Deliveries that did not happen, by push and comet: what one counted dispatch can account for.
type Misses<'s> = BTreeMap<(u64, usize), Vec<&'s Connection>>;

pub(super) struct Owed<'s> {
    story: &'s Story,
    rules: &'s Rules,
    index: &'s Index<'s>,
    /// How long a push may take: [`Rules::reach`], or twice what one took that arrived. A machine that is slow is slow for
    /// what is missing, too.
    reach: Duration,
    /// For each connection and lane the latest `sent` among what it received.
    latest: Vec<HashMap<&'s str, At>>,
}

impl<'s> Owed<'s> {
    pub(super) fn new(story: &'s Story, rules: &'s Rules, index: &'s Index<'s>) -> Owed<'s> {
        let latest_of = |connection: &'s Connection| {
            let mut latest = HashMap::<&str, At>::new();
            for receipt in &connection.received {
                let Some(push) = index.push(receipt.id) else { continue };
                if let Some(lane) = lane(&push.target) {
                    let sent = latest.entry(lane).or_default();
                    *sent = push.sent.max(*sent);
                }
            }
            latest
        };
        let reach = rules.reach.max(slowest(story, index) * 2);
        Owed { story, rules, index, reach, latest: story.connections.iter().map(latest_of).collect() }
    }

    /// Notes what was owed and did not arrive.
    pub(super) fn settle(&self, book: &mut Book) {
        let mut drops = self.story.drops;
        let (mut missed, mut vanished) = (Misses::new(), Misses::new());
        for push in &self.story.pushes {
            let Answer::Accepted { at, offline } = &push.answer else { continue };
            for n in self.index.meant(&push.target) {
                let connection = &self.story.connections[n];
                if self.index.has(n, push.id) || !self.is_due(push, *at, n) {
                    continue;
                }
                if is_told_offline(&push.target, offline, connection) {
                    book.note(Verdict::LostButCounted, || {
                        format!("{}, said to be offline", miss(push, connection))
                    });
                } else {
                    missed.entry((push.id, connection.comet)).or_default().push(connection);
                }
            }
            self.find_vanished(push, *at, offline, &mut vanished);
        }
        self.cover(missed, &mut drops, Some(Verdict::LostButCounted), Verdict::Lost, book);
        self.cover(vanished, &mut drops, None, Verdict::InNoCounter, book);
        if self.rules.drops_are_losses {
            self.find_excess(drops.dispatches, book);
        }
    }

    /// Pushes that were counted as dropped for a comet although nobody misses them. Unknown ones may have been dropped.
    fn find_excess(&self, dispatches: u64, book: &mut Book) {
        let unknown = self.story.pushes.iter().filter(|push| push.answer == Answer::Unknown).count() as u64;
        book.note_many(Verdict::CountedWrong, dispatches.saturating_sub(unknown), || {
            "pushes that nobody misses were counted as dropped".to_owned()
        });
    }

    /// Notes what the counters cover as one verdict, what they do not as the other, and takes from them what was used.
    fn cover(
        &self,
        misses: Misses<'s>,
        drops: &mut Drops,
        covered: Option<Verdict>,
        not: Verdict,
        book: &mut Book,
    ) {
        let mut groups: Vec<_> = misses.into_iter().collect();
        groups.sort_by_key(|(_, connections)| std::cmp::Reverse(connections.len()));
        for ((id, _), connections) in groups {
            let is_dispatch = drops.dispatches > 0;
            drops.dispatches -= u64::from(is_dispatch);
            for connection in connections {
                let is_counted = is_dispatch || drops.frames > 0;
                drops.frames -= u64::from(!is_dispatch && is_counted);
                let verdict = if is_counted { covered } else { Some(not) };
                if let (Some(verdict), Some(push)) = (verdict, self.index.push(id)) {
                    book.note(verdict, || miss(push, connection));
                }
            }
        }
    }

    /// Whether a connection was there from a push's acceptance to its delivery.
    fn is_due(&self, push: &Push, accepted: At, n: usize) -> bool {
        let connection = &self.story.connections[n];
        let is_there = |from: At, until: Option<At>| {
            let Some(until) = until.into_iter().chain(connection.until).min() else {
                return push.sent >= from;
            };
            if push.sent < from || accepted > until || self.is_killed(connection, push.sent, until) {
                return false;
            }
            let received_later = || {
                let later = lane(&push.target).and_then(|lane| self.latest[n].get(lane));
                later.is_some_and(|sent| *sent > accepted && *sent <= until)
            };
            accepted + self.reach <= until || received_later()
        };
        match &push.target {
            Target::Room(room) => connection
                .stays
                .iter()
                .filter(|stay| stay.room == *room)
                .any(|stay| is_there(connection.opened.max(stay.from), stay.until)),
            _ => is_there(connection.opened, None),
        }
    }

    /// Whether its comet was killed in this time or within reach of it.
    fn is_killed(&self, connection: &Connection, from: At, until: At) -> bool {
        let within = |at: At| at + self.reach >= from && at <= until + self.reach;
        let ended = connection.until.is_some();
        ended
            && self.story.kills.iter().any(|(comet, at)| *comet == connection.comet && within(*at))
            && until < from + self.reach + self.rules.around_kill
    }

    /// Devices and users that a push named, that were not called offline, got nothing, and to whom nothing was due.
    fn find_vanished(&self, push: &Push, accepted: At, offline: &[String], vanished: &mut Misses<'s>) {
        let mut look = |connections: &[usize]| {
            let all = || connections.iter().map(|n| &self.story.connections[*n]);
            let arrived = connections.iter().any(|n| self.index.has(*n, push.id));
            let is_due = connections.iter().any(|n| self.is_due(push, accepted, *n));
            let is_told = all().any(|connection| is_told_offline(&push.target, offline, connection));
            let is_reckonable = all().all(|connection| self.is_reckonable(connection, push.sent, accepted));
            if let (Some(last), false, false, false, true) =
                (all().next_back(), arrived, is_due, is_told, is_reckonable)
            {
                vanished.entry((push.id, last.comet)).or_default().push(last);
            }
        };
        match &push.target {
            Target::Keys(keys) => keys.iter().for_each(|key| look(self.index.of_key(key))),
            Target::Mids(mids) => mids.iter().for_each(|mid| look(self.index.of_mid(*mid))),
            Target::Room(_) | Target::All => {}
        }
    }

    /// Whether what was on its way to a connection around this time can be known to have been delivered or counted.
    fn is_reckonable(&self, connection: &Connection, sent: At, accepted: At) -> bool {
        let near = |at: At, margin: Duration| at + margin >= sent && at <= accepted + margin;
        let is_broken = match &connection.end {
            Some((at, End::BrokenOff | End::Lost)) => near(*at, self.reach),
            Some((at, End::Silent)) => accepted + self.reach >= *at,
            _ => false,
        };
        let around = self.rules.around_kill.max(self.reach);
        let is_killed =
            self.story.kills.iter().any(|(comet, at)| *comet == connection.comet && near(*at, around));
        // What was accepted at the very end may still be on its way.
        !is_broken && !is_killed && accepted + self.reach <= self.story.until
    }
}

/// The longest time from a push's acceptance to its first arrival on a connection.
fn slowest(story: &Story, index: &Index<'_>) -> Duration {
    let of_connection = |connection: &Connection| {
        let mut seen = HashSet::new();
        let first = connection.received.iter().filter(|receipt| seen.insert(receipt.id));
        let took = first.filter_map(|receipt| match &index.push(receipt.id)?.answer {
            Answer::Accepted { at, .. } => Some(receipt.at.saturating_sub(*at)),
            Answer::Refused | Answer::Unknown => None,
        });
        took.max().unwrap_or_default()
    };
    story.connections.iter().map(of_connection).max().unwrap_or_default()
}

fn miss(push: &Push, connection: &Connection) -> String {
    let what = match &push.target {
        Target::Keys(_) => "keys".to_owned(),
        Target::Mids(_) => "mids".to_owned(),
        Target::Room(room) => room.to_string(),
        Target::All => "all".to_owned(),
    };
    let Connection { key, comet, opened, until, .. } = connection;
    let until = until.map_or("now".to_owned(), |at| format!("{at:.1?}"));
    format!(
        "push {} ({what}, sent {:.1?}) to {key} on comet {comet}, there from {opened:.1?} until {until}",
        push.id, push.sent
    )
}
