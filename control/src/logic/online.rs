//! How many people are where: what each comet reported last, and the sums.

use std::{collections::HashMap, time::Duration};

use cluster::services::ClientCount;
use proto::ids::{RoomId, ServerId};
use tokio::time::Instant;

/// A comet that has not reported for this long is gone, and so are its people. A Go comet reports every 10 s.
const REPORT_AGE_MAX: Duration = Duration::from_secs(15);

/// People per room on all comets.
#[derive(Debug, Default)]
pub(super) struct Online {
    comets: HashMap<ServerId, Report>,
    /// Sums of the reports; no room with nobody in it.
    rooms: HashMap<RoomId, u64>,
}

#[derive(Debug)]
struct Report {
    rooms: HashMap<RoomId, u32>,
    clients: ClientCount,
    updated: Instant,
}

impl Online {
    /// Takes a comet's report in the place of its last one.
    pub(super) fn report(
        &mut self,
        server: ServerId,
        rooms: HashMap<RoomId, u32>,
        clients: ClientCount,
        now: Instant,
    ) {
        for (room, people) in rooms.iter().filter(|(_, people)| **people > 0) {
            *self.rooms.entry(room.clone()).or_default() += u64::from(*people);
        }
        let old = self.comets.insert(server, Report { rooms, clients, updated: now });
        self.subtract(old);
    }

    /// Forgets comets that are silent.
    pub(super) fn expire(&mut self, now: Instant) {
        let silent: Vec<Report> = self
            .comets
            .extract_if(|_, report| now - report.updated >= REPORT_AGE_MAX)
            .map(|(_, report)| report)
            .collect();
        self.subtract(silent);
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

    /// Everybody's people per room.
    pub(super) fn rooms(&self) -> HashMap<RoomId, u32> {
        let capped = |people: u64| u32::try_from(people).unwrap_or(u32::MAX);
        self.rooms.iter().map(|(room, people)| (room.clone(), capped(*people))).collect()
    }

    /// Rooms with anybody in them.
    pub(super) fn room_count(&self) -> usize {
        self.rooms.len()
    }

    /// People in one room.
    pub(super) fn room(&self, room: &RoomId) -> u64 {
        self.rooms.get(room).copied().unwrap_or(0)
    }

    /// The fullest rooms of one kind, fullest first, equals by name.
    pub(super) fn top(&self, kind: &str, limit: usize) -> Vec<(RoomId, u64)> {
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

    /// Clients of one comet, when it has reported.
    pub(super) fn clients(&self, server: &ServerId) -> Option<ClientCount> {
        self.comets.get(server).map(|report| report.clients)
    }

    /// Clients of all comets. An address that is on two of them counts twice, as in goim.
    pub(super) fn total(&self) -> ClientCount {
        self.comets.values().fold(ClientCount::default(), |sum, report| ClientCount {
            connections: sum.connections + report.clients.connections,
            addresses: sum.addresses + report.clients.addresses,
        })
    }
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
        let (mut online, now) = (Online::default(), Instant::now());
        let (a, b) = (ServerId::new("a:1"), ServerId::new("b:1"));
        online.report(a.clone(), rooms(&[("live://1", 2), ("live://2", 1)]), clients(3, 1), now);
        online.report(b, rooms(&[("live://1", 5)]), clients(5, 2), now);
        assert_eq!(online.rooms(), rooms(&[("live://1", 7), ("live://2", 1)]));
        assert_eq!(online.total(), clients(8, 3));
        online.report(a.clone(), rooms(&[("live://1", 1), ("live://3", 0)]), clients(1, 1), now);
        assert_eq!(online.rooms(), rooms(&[("live://1", 6)]));
        assert_eq!((online.room(&room("live://1")), online.room(&room("live://2"))), (6, 0));
        assert_eq!((online.clients(&a), online.total()), (Some(clients(1, 1)), clients(6, 3)));
    }

    #[test]
    fn people_of_a_silent_comet_are_gone() {
        let (mut online, now) = (Online::default(), Instant::now());
        online.report(ServerId::new("a:1"), rooms(&[("live://1", 2)]), clients(2, 1), now);
        online.report(
            ServerId::new("b:1"),
            rooms(&[("live://1", 3)]),
            clients(3, 1),
            now + REPORT_AGE_MAX / 2,
        );
        online.expire(now + REPORT_AGE_MAX - Duration::from_millis(1));
        assert_eq!(online.room(&room("live://1")), 5);
        online.expire(now + REPORT_AGE_MAX);
        assert_eq!((online.room(&room("live://1")), online.total()), (3, clients(3, 1)));
    }

    #[test]
    fn the_top_is_of_one_kind_fullest_first() {
        let (mut online, now) = (Online::default(), Instant::now());
        let counts = [("live://a", 2), ("live://c", 9), ("live://b", 2), ("game://z", 50), ("plain", 7)];
        online.report(ServerId::new("a:1"), rooms(&counts), ClientCount::default(), now);
        assert_eq!(ids(&online.top("live", 2)), [("live://c", 9), ("live://a", 2)]);
        assert_eq!(ids(&online.top("live", 99)).len(), 3);
        assert_eq!(ids(&online.top("live", 0)), []);
        assert_eq!(ids(&online.top("none", 5)), []);
    }

    proptest! {
        /// The sums never drift from what the comets last said.
        #[test]
        fn sums_equal_the_reports(steps in prop::collection::vec((0..3u8, prop::collection::hash_map(0..5u8, 0..9u32, 0..5), 0..20u64), 1..40)) {
            let (mut online, mut now) = (Online::default(), Instant::now());
            for (comet, counts, pause) in steps {
                now += Duration::from_secs(pause);
                online.expire(now);
                let counts = counts.into_iter().map(|(n, people)| (room(&format!("live://{n}")), people)).collect();
                online.report(ServerId::new(comet.to_string()), counts, ClientCount::default(), now);
                let mut sums: HashMap<RoomId, u32> = HashMap::new();
                for (room, people) in online.comets.values().flat_map(|report| &report.rooms) {
                    *sums.entry(room.clone()).or_default() += people;
                }
                sums.retain(|_, people| *people > 0);
                prop_assert_eq!(online.rooms(), sums);
            }
        }
    }
}
