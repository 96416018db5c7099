//! The schedule of pushes: which message goes to whom, when, and through which connection.
//!
//! Push `n` is due `n / rate` seconds after the start, whatever happened to those before it: latency
//! counts from that planned moment, so a slow server cannot slow the schedule down and look fast.
//! Targets take turns, and a target belongs to one pusher (one thread, one HTTP connection, one
//! request at a time), so the order of its messages is the order in which they were accepted.

use clap::ValueEnum;

/// Whom a push is for. (Comments of the values are kept out of the help, which explains `--kind`.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    // A room: every client in it. With several rooms they take turns.
    Room,
    // Everybody connected.
    All,
    // One user after the other, by mid.
    Mids,
    // One device after the other, by key.
    Keys,
}

/// The whole schedule of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    /// How many targets take turns, at least 1; a target is a stream of messages.
    pub(crate) targets: u32,
    /// How many pushers share the targets, 1 to `targets`.
    pub(crate) pushers: u32,
    /// Pushes a second over all targets.
    pub(crate) rate: f64,
    /// How many pushes in all; none: until stopped.
    pub(crate) total: Option<u64>,
}

/// One push of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// Which target, from 0.
    pub(crate) target: u32,
    /// Its number within the target's stream, from 0.
    pub(crate) seq: u32,
    /// When, in ns after the start of the schedule.
    pub(crate) offset_ns: u64,
}

impl Plan {
    /// The `n`th push of all; none when the schedule ends before it.
    pub(crate) fn due(&self, n: u64) -> Option<Due> {
        if self.total.is_some_and(|total| n >= total) {
            return None;
        }
        let targets = u64::from(self.targets);
        Some(Due {
            target: (n % targets) as u32,
            seq: u32::try_from(n / targets).ok()?,
            offset_ns: (n as f64 * 1e9 / self.rate) as u64,
        })
    }

    /// The pusher that `target` belongs to.
    pub(crate) fn pusher_of(&self, target: u32) -> u32 {
        target % self.pushers
    }

    /// The target whose messages client `index` receives.
    pub(crate) fn stream_of(&self, index: u32) -> u32 {
        index % self.targets
    }

    /// How many messages `target` was sent when its pusher went through all pushes below `passed`.
    pub(crate) fn sent_to(&self, target: u32, passed: u64) -> u32 {
        let passed = self.total.map_or(passed, |total| passed.min(total));
        let targets = u64::from(self.targets);
        let rounds = passed / targets + u64::from(passed % targets > u64::from(target));
        u32::try_from(rounds).unwrap_or(u32::MAX)
    }
}

/// How many pushers a rate asks for when nobody said: one HTTP connection that waits for each answer
/// manages far more than 250 a second even against a busy server.
pub(crate) fn pushers_for(rate: f64, targets: u32) -> u32 {
    ((rate / 250.0).ceil() as u32).clamp(1, 16).min(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(targets: u32, total: Option<u64>) -> Plan {
        Plan { kind: Kind::Keys, targets, pushers: 2.min(targets), rate: 100.0, total }
    }

    #[test]
    fn pushes_are_evenly_spaced_and_targets_take_turns() {
        let plan = plan(3, Some(5));
        let all: Vec<_> = (0..).map_while(|n| plan.due(n)).collect();
        let seen: Vec<_> = all.iter().map(|d| (d.target, d.seq)).collect();
        assert_eq!(seen, [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)]);
        assert!(all.windows(2).all(|w| w[1].offset_ns - w[0].offset_ns == 10_000_000));
    }

    #[test]
    fn what_was_sent_to_a_target_is_counted_to_the_push() {
        let plan = plan(3, Some(100));
        for passed in 0..100 {
            for target in 0..3 {
                let counted = (0..passed).filter(|&n| plan.due(n).expect("within").target == target).count();
                assert_eq!(plan.sent_to(target, passed), counted as u32);
            }
        }
        assert_eq!(plan.sent_to(0, 100), 34);
        assert_eq!(plan.sent_to(0, 1000), 34, "nothing is sent after the last one");
    }

    #[test]
    fn one_target_has_one_pusher_whatever_the_rate() {
        assert_eq!(pushers_for(10_000.0, 1), 1);
        assert_eq!(pushers_for(40.0, 1000), 1);
        assert_eq!(pushers_for(2000.0, 1000), 8);
        assert_eq!(pushers_for(1e9, 1000), 16);
    }
}
