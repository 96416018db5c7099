//! Adds up how many people are where, from the last report of each comet, here or to another logic.

mod shared;

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use contract::ClientCount;
use proto::ids::{RoomId, ServerId};
use tokio::time::Instant;

/// A comet that reports only here, and has not for this long, is gone, and so are its people. A Go comet reports every
/// 10 s.
const REPORT_AGE_MAX: Duration = Duration::from_secs(15);

/// People per room on all comets.
#[derive(Debug, Default)]
pub(crate) struct RoomCounts {
    comets: HashMap<ServerId, Report>,
    /// Sums of the reports. A room without people has no entry.
    rooms: HashMap<RoomId, u64>,
    /// When this logic first saw the registry's latest word on a comet, and that word's time by the comet's clock.
    registered: HashMap<ServerId, (Instant, SystemTime)>,
}

/// What logic knows of one comet.
#[derive(Debug)]
struct Report {
    rooms: HashMap<RoomId, u32>,
    /// When the rooms had these numbers.
    updated: Instant,
    /// The number of its clients as the comet reported it here, and when.
    said: Option<(ClientCount, Instant)>,
    /// Where the numbers of its rooms come from.
    source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The comet reported them here, and has to report again before they expire.
    Here,
    /// They come from the store of all logics, and hold until the store says something else.
    Store(Life),
}

/// What the store says about a comet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It may be alive.
    Alive,
    /// Its last report is too old for a comet that lives.
    Silent,
}

impl RoomCounts {
    /// Replaces a comet's last report by this one.
    pub(crate) fn report(
        &mut self,
        server: ServerId,
        rooms: HashMap<RoomId, u32>,
        clients: ClientCount,
        now: Instant,
    ) {
        self.replace(
            server,
            Report { rooms, updated: now, said: Some((clients, now)), source: Source::Here },
        );
    }

    /// Takes what the store had of a comet when it was asked at `asked`, unless the comet has reported here since.
    pub(crate) fn stored(
        &mut self,
        server: ServerId,
        rooms: HashMap<RoomId, u32>,
        life: Life,
        asked: Instant,
    ) {
        let old = self.comets.get(&server);
        if old.is_none_or(|old| old.updated < asked) {
            let said = old.and_then(|old| old.said);
            self.replace(server, Report { rooms, updated: asked, said, source: Source::Store(life) });
        }
    }

    /// Notes since when the registry says what it says of each comet, and forgets the comets that it no longer lists.
    pub(crate) fn registered<'a>(
        &mut self,
        comets: impl Iterator<Item = (&'a ServerId, SystemTime)>,
        now: Instant,
    ) {
        let mut known = std::mem::take(&mut self.registered);
        self.registered = comets
            .map(|(server, said)| {
                let old = known.remove(server).filter(|(_, old)| *old == said);
                (server.clone(), old.unwrap_or((now, said)))
            })
            .collect();
    }

    /// The comets whose last report came here, so that the numbers do not come from the store.
    pub(crate) fn reported_here(&self) -> Vec<ServerId> {
        let here = self.comets.iter().filter(|(_, report)| report.source == Source::Here);
        here.map(|(server, _)| server.clone()).collect()
    }

    /// Forgets a comet if the store had nothing of it at `asked`, unless it has reported here since.
    pub(crate) fn gone(&mut self, gone: &ServerId, asked: Instant) {
        self.forget(|server, report| server == gone && report.updated < asked);
    }

    /// Forgets the comets whose numbers come from the store and that are not `known` any more.
    pub(crate) fn keep_stored(&mut self, known: impl Fn(&ServerId) -> bool) {
        self.forget(|server, report| report.source != Source::Here && !known(server));
    }

    /// Forgets comets that have not reported for too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        let is_old = |at: Instant| now - at >= REPORT_AGE_MAX;
        for report in self.comets.values_mut() {
            report.said = report.said.filter(|(_, at)| !is_old(*at));
        }
        self.forget(|_, report| report.source == Source::Here && is_old(report.updated));
    }

    fn replace(&mut self, server: ServerId, report: Report) {
        for (room, people) in report.rooms.iter().filter(|(_, people)| **people > 0) {
            *self.rooms.entry(room.clone()).or_default() += u64::from(*people);
        }
        let old = self.comets.insert(server, report);
        self.subtract(old);
    }

    fn forget(&mut self, which: impl Fn(&ServerId, &Report) -> bool) {
        let forgotten = self.comets.extract_if(|server, report| which(server, report));
        let forgotten: Vec<Report> = forgotten.map(|(_, report)| report).collect();
        self.subtract(forgotten);
    }

    fn subtract(&mut self, reports: impl IntoIterator<Item = Report>) {
        for (room, people) in reports.into_iter().flat_map(|report| report.rooms) {
            if let Some(sum) = self.rooms.get_mut(&room) {
                *sum -= u64::from(people);
                if *sum == 0 {
                    self.rooms.remove(&room);
                }
            }
        }
    }

    /// People per room, over all comets.
    pub(crate) fn rooms(&self) -> HashMap<RoomId, u32> {
        self.rooms.iter().map(|(room, people)| (room.clone(), capped(*people))).collect()
    }

    /// Replaces the people of these rooms by those of all comets, and removes rooms without people.
    pub(crate) fn fill(&self, rooms: &mut HashMap<RoomId, u32>) {
        rooms.retain(|room, people| {
            *people = capped(self.room(room));
            *people > 0
        });
    }

    /// Number of rooms with people in them.
    pub(crate) fn room_count(&self) -> usize {
        self.rooms.len()
    }

    /// People in one room.
    pub(crate) fn room(&self, room: &RoomId) -> u64 {
        self.rooms.get(room).copied().unwrap_or(0)
    }

    /// The fullest rooms of one kind, fullest first; rooms with equally many people by name.
    pub(crate) fn top(&self, kind: &str, limit: usize) -> Vec<(RoomId, u64)> {
        let mut rooms: Vec<(&RoomId, u64)> = self
            .rooms
            .iter()
            .filter(|(room, _)| room.kind() == kind)
            .map(|(room, sum)| (room, *sum))
            .collect();
        let order = |a: &(&RoomId, u64), b: &(&RoomId, u64)| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0));
        if limit < rooms.len() {
            rooms.select_nth_unstable_by(limit, order);
            rooms.truncate(limit);
        }
        rooms.sort_unstable_by(order);
        rooms.into_iter().map(|(room, sum)| (room.clone(), sum)).collect()
    }

    /// Clients of one comet as it reported them here, or zero if the store says that it is silent. `None` if the
    /// registry's word is newer, because the comet may have reported to another logic since.
    pub(crate) fn clients(&self, server: &ServerId) -> Option<ClientCount> {
        let report = self.comets.get(server)?;
        let silent = report.source == Source::Store(Life::Silent);
        let registered = self.registered.get(server);
        let is_newer = |said: Instant| registered.is_none_or(|(seen, _)| *seen <= said);
        match report.said {
            Some((clients, said)) if is_newer(said) => Some(clients),
            _ => silent.then(ClientCount::default),
        }
    }

    /// Clients of all comets that reported here.
    pub(crate) fn total(&self) -> ClientCount {
        sum(self.comets.values().filter_map(|report| report.said).map(|(clients, _)| clients))
    }
}

/// A count in the 32 bits that a report's answer has for it.
fn capped(people: u64) -> u32 {
    u32::try_from(people).unwrap_or(u32::MAX)
}

/// Adds up the clients of several comets. An address that is on two of them counts twice, as in goim.
pub(crate) fn sum(clients: impl Iterator<Item = ClientCount>) -> ClientCount {
    clients.fold(ClientCount::default(), |sum, clients| ClientCount {
        connections: sum.connections + clients.connections,
        addresses: sum.addresses + clients.addresses,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn room(id: &str) -> RoomId {
        RoomId::parse(id).unwrap()
    }

    fn rooms(counts: &[(&str, u32)]) -> HashMap<RoomId, u32> {
        counts.iter().map(|(id, people)| (room(id), *people)).collect()
    }

    fn clients(connections: u64, addresses: u64) -> ClientCount {
        ClientCount { connections, addresses }
    }

    fn ids(top: &[(RoomId, u64)]) -> Vec<(&str, u64)> {
        top.iter().map(|(room, sum)| (room.as_str(), *sum)).collect()
    }

    #[test]
    fn reports_of_comets_are_added_and_a_new_one_replaces_the_old() {
        let (mut counts, now) = (RoomCounts::default(), Instant::now());
        let (a, b) = (ServerId::new("a:1"), ServerId::new("b:1"));
        counts.report(a.clone(), rooms(&[("live://1", 2), ("live://2", 1)]), clients(3, 1), now);
        counts.report(b, rooms(&[("live://1", 5)]), clients(5, 2), now);
        assert_eq!(counts.rooms(), rooms(&[("live://1", 7), ("live://2", 1)]));
        assert_eq!(counts.total(), clients(8, 3));
        counts.report(a.clone(), rooms(&[("live://1", 1), ("live://3", 0)]), clients(1, 1), now);
        assert_eq!(counts.rooms(), rooms(&[("live://1", 6)]));
        assert_eq!((counts.room(&room("live://1")), counts.room(&room("live://2"))), (6, 0));
        assert_eq!((counts.clients(&a), counts.total()), (Some(clients(1, 1)), clients(6, 3)));
    }

    #[test]
    fn asked_for_some_rooms_everybody_in_them_is_counted() {
        let (mut counts, now) = (RoomCounts::default(), Instant::now());
        let clients = ClientCount::default();
        counts.report(ServerId::new("a:1"), rooms(&[("live://1", 2), ("live://2", 1)]), clients, now);
        counts.report(ServerId::new("b:1"), rooms(&[("live://1", u32::MAX), ("live://3", 4)]), clients, now);
        let mut asked = rooms(&[("live://1", 2), ("live://3", 0), ("live://4", 0)]);
        counts.fill(&mut asked);
        assert_eq!(asked, rooms(&[("live://1", u32::MAX), ("live://3", 4)]));
    }

    #[test]
    fn people_of_a_silent_comet_are_gone() {
        let (mut counts, now) = (RoomCounts::default(), Instant::now());
        counts.report(ServerId::new("a:1"), rooms(&[("live://1", 2)]), clients(2, 1), now);
        counts.report(
            ServerId::new("b:1"),
            rooms(&[("live://1", 3)]),
            clients(3, 1),
            now + REPORT_AGE_MAX / 2,
        );
        counts.expire(now + REPORT_AGE_MAX - Duration::from_millis(1));
        assert_eq!(counts.room(&room("live://1")), 5);
        counts.expire(now + REPORT_AGE_MAX);
        assert_eq!((counts.room(&room("live://1")), counts.total()), (3, clients(3, 1)));
    }

    #[test]
    fn what_the_store_says_stands_until_it_says_otherwise() {
        let (mut counts, start) = (RoomCounts::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let (a, b) = (ServerId::new("a:1"), ServerId::new("b:1"));
        counts.report(a.clone(), rooms(&[("live://1", 2)]), clients(2, 1), after(1));
        counts.stored(a.clone(), rooms(&[("live://1", 7)]), Life::Alive, after(0));
        assert_eq!(counts.room(&room("live://1")), 2, "asked before the comet reported here");
        counts.stored(b.clone(), rooms(&[("live://1", 3)]), Life::Alive, after(2));
        counts.stored(a.clone(), rooms(&[("live://2", 1)]), Life::Alive, after(2));
        assert_eq!(counts.rooms(), rooms(&[("live://1", 3), ("live://2", 1)]), "a reported elsewhere since");
        assert_eq!((counts.clients(&a), counts.clients(&b)), (Some(clients(2, 1)), None));
        counts.expire(after(100));
        assert_eq!(counts.rooms(), rooms(&[("live://1", 3), ("live://2", 1)]), "the store may be away");
        assert_eq!(counts.clients(&a), None, "another logic knows better by now");
        counts.stored(b.clone(), rooms(&[]), Life::Silent, after(101));
        assert_eq!((counts.room(&room("live://1")), counts.clients(&b)), (0, Some(clients(0, 0))));
        counts.keep_stored(|server| *server == b);
        assert_eq!((counts.room_count(), counts.clients(&a)), (0, None));
    }

    /// What a comet had said here stood for 15 s, while it reported to other logics and the registry knew.
    #[test]
    fn of_what_a_comet_said_here_and_to_the_registry_the_newer_counts() {
        let (mut counts, start) = (RoomCounts::default(), Instant::now());
        let (after, a) = (|seconds| start + Duration::from_secs(seconds), ServerId::new("a:1"));
        let said = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        counts.registered([(&a, said(1))].into_iter(), after(1));
        assert_eq!(counts.clients(&a), None, "only the registry knows");
        counts.report(a.clone(), HashMap::new(), clients(3, 1), after(2));
        assert_eq!(counts.clients(&a), Some(clients(3, 1)));
        // Seen again, and no newer for it; the comet's clock may show what it will.
        counts.registered([(&a, said(1))].into_iter(), after(3));
        assert_eq!(counts.clients(&a), Some(clients(3, 1)));
        counts.registered([(&a, said(0))].into_iter(), after(4));
        assert_eq!(counts.clients(&a), None);
        counts.stored(a.clone(), HashMap::new(), Life::Silent, after(5));
        assert_eq!(counts.clients(&a), Some(clients(0, 0)), "it is dead");
        counts.report(a.clone(), HashMap::new(), clients(4, 1), after(6));
        counts.registered([].into_iter(), after(7));
        assert_eq!(counts.clients(&a), Some(clients(4, 1)), "the registry says nothing");
    }

    #[test]
    fn a_comet_of_which_nothing_is_stored_is_gone_unless_it_has_reported_since() {
        let (mut counts, start) = (RoomCounts::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let (a, b) = (ServerId::new("a:1"), ServerId::new("b:1"));
        counts.report(a.clone(), rooms(&[("live://1", 2)]), clients(2, 1), after(1));
        counts.report(b.clone(), rooms(&[("live://1", 3)]), clients(3, 1), after(3));
        counts.gone(&a, after(2));
        counts.gone(&b, after(2));
        assert_eq!((counts.room(&room("live://1")), counts.reported_here()), (3, vec![b]));
    }

    #[test]
    fn the_top_is_of_one_kind_fullest_first() {
        let (mut counts, now) = (RoomCounts::default(), Instant::now());
        let people = [("live://a", 2), ("live://c", 9), ("live://b", 2), ("game://z", 50), ("plain", 7)];
        counts.report(ServerId::new("a:1"), rooms(&people), ClientCount::default(), now);
        assert_eq!(ids(&counts.top("live", 2)), [("live://c", 9), ("live://a", 2)]);
        assert_eq!(ids(&counts.top("live", 99)).len(), 3);
        assert_eq!(ids(&counts.top("live", 0)), []);
        assert_eq!(ids(&counts.top("none", 5)), []);
    }

    proptest! {
        /// The sums never drift from what the comets last said.
        #[test]
        fn sums_equal_the_reports(steps in prop::collection::vec((0..3u8, prop::collection::hash_map(0..5u8, 0..9u32, 0..5), 0..20u64), 1..40)) {
            let (mut counts, mut now) = (RoomCounts::default(), Instant::now());
            for (comet, reported, pause) in steps {
                now += Duration::from_secs(pause);
                counts.expire(now);
                let reported = reported.into_iter().map(|(n, people)| (room(&format!("live://{n}")), people)).collect();
                counts.report(ServerId::new(comet.to_string()), reported, ClientCount::default(), now);
                let mut sums: HashMap<RoomId, u32> = HashMap::new();
                for (room, people) in counts.comets.values().flat_map(|report| &report.rooms) {
                    *sums.entry(room.clone()).or_default() += people;
                }
                sums.retain(|_, people| *people > 0);
                prop_assert_eq!(counts.rooms(), sums);
            }
        }
    }
}
