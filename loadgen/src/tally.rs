//! What the clients of one thread counted.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::latency::Times;

/// Counters; all only grow, but `open`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Clients logged in now.
    pub(crate) open: u64,
    /// Logins that were answered.
    pub(crate) logins: u64,
    /// Connections that ended before their login was answered, by reason.
    pub(crate) failures: Reasons,
    /// Connections that ended after it, by reason; not those this program closed.
    pub(crate) disconnects: Reasons,
    /// When the last login was answered.
    pub(crate) last_login_ns: u64,
    /// Pushed messages that arrived, of any kind.
    pub(crate) deliveries: u64,
    /// When the last of them arrived.
    pub(crate) last_delivery_ns: u64,
    /// Messages of this run that arrived for the first time.
    pub(crate) fresh: u64,
    /// Messages of this run that arrived again.
    pub(crate) duplicated: u64,
    /// Messages of this run that arrived after a later one; part of `fresh`.
    pub(crate) out_of_order: u64,
    /// Messages of this run with bytes that were not pushed, or at a client they were not for.
    pub(crate) damaged: u64,
    /// Messages of other runs or programs.
    pub(crate) foreign: u64,
    /// Bytes read from the sockets, framing included.
    pub(crate) bytes: u64,
    pub(crate) heartbeats_sent: u64,
    pub(crate) heartbeats_answered: u64,
}

/// How often each reason was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Reasons(BTreeMap<String, u64>);

/// Counters and times of one thread, or of several together.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) tally: Tally,
    /// From the planned send time to the read.
    pub(crate) latency: Times,
    /// How long each timed message can have waited for this program, at most.
    pub(crate) delays: Times,
    /// From connect to the login's answer.
    pub(crate) connects: Times,
}

impl Reasons {
    /// Counts one.
    pub(crate) fn add(&mut self, reason: &str) {
        match self.0.get_mut(reason) {
            Some(count) => *count += 1,
            None => drop(self.0.insert(reason.to_owned(), 1)),
        }
    }

    /// All together.
    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// `12 (10 reset, 2 closed by the server)`, or `0`.
    pub(crate) fn text(&self) -> String {
        let list: Vec<_> = self.0.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        match list.is_empty() {
            true => "0".to_owned(),
            false => format!("{} ({})", self.total(), list.join(", ")),
        }
    }

    fn add_all(&mut self, other: &Self) {
        for (reason, count) in &other.0 {
            *self.0.entry(reason.clone()).or_default() += count;
        }
    }
}

impl Tally {
    /// Adds another thread's counters.
    pub(crate) fn add(&mut self, other: &Self) {
        self.open += other.open;
        self.logins += other.logins;
        self.failures.add_all(&other.failures);
        self.disconnects.add_all(&other.disconnects);
        self.last_login_ns = self.last_login_ns.max(other.last_login_ns);
        self.deliveries += other.deliveries;
        self.last_delivery_ns = self.last_delivery_ns.max(other.last_delivery_ns);
        self.fresh += other.fresh;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
        self.damaged += other.damaged;
        self.foreign += other.foreign;
        self.bytes += other.bytes;
        self.heartbeats_sent += other.heartbeats_sent;
        self.heartbeats_answered += other.heartbeats_answered;
    }
}

impl Measured {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            tally: Tally::default(),
            latency: Times::default(),
            delays: Times::default(),
            connects: Times::default(),
        }
    }

    /// Adds another thread's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.tally.add(&other.tally);
        self.latency.add(&other.latency);
        self.delays.add(&other.delays);
        self.connects.add(&other.connects);
    }

    /// Brings `self` up to date: the counters are copied, the times moved out of `latest`.
    pub(crate) fn update_from(&mut self, latest: &mut Self) {
        self.tally.clone_from(&latest.tally);
        self.latency.take_from(&mut latest.latency);
        self.delays.take_from(&mut latest.delays);
        self.connects.take_from(&mut latest.connects);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_and_told() {
        let mut reasons = Reasons::default();
        assert_eq!(reasons.text(), "0");
        for reason in ["reset", "closed by the server", "reset"] {
            reasons.add(reason);
        }
        assert_eq!(reasons.text(), "3 (1 closed by the server, 2 reset)");
        let mut both = reasons.clone();
        both.add_all(&reasons);
        assert_eq!(both.total(), 6);
    }

    #[test]
    fn published_times_are_moved_and_counters_copied() {
        let (mut shared, mut own) = (Measured::new(), Measured::new());
        for round in 1..=2 {
            own.tally.deliveries += 1;
            own.latency.record_ns(5000);
            shared.update_from(&mut own);
            assert_eq!(shared.tally.deliveries, round);
            assert_eq!(shared.latency.quantiles().map(|q| q.count), Some(round));
        }
    }
}
