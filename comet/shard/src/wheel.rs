//! A timing wheel whose entries are checked only when they come up.
//!
//! A heartbeat does not touch the wheel: the connection only stores the time. When the connection's entry comes up, the
//! shard looks at the real deadline and schedules the rest. So each connection has about one entry, whatever it does.

use std::time::Duration;

use seam::Time;

/// Length of one tick in microseconds. A deadline is met at most this much late.
pub const TICK_MICROS: u64 = 100_000;

/// Places of the wheel. A deadline beyond the last place comes up early and is scheduled again.
const PLACES: u32 = 1024;

/// A deadline, in ticks since the clock's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(u32);

impl Tick {
    /// A deadline that never comes.
    pub const NEVER: Tick = Tick(u32::MAX);

    /// The tick that `time` falls into.
    pub const fn of(time: Time) -> Tick {
        Tick((time.as_micros() / TICK_MICROS) as u32)
    }

    /// The tick that is `ticks` later.
    pub const fn plus(self, ticks: u32) -> Tick {
        Tick(self.0.saturating_add(ticks))
    }

    /// Ticks in a time, rounded up, and at most `u32::MAX`, which is several years.
    pub const fn count_of(time: Duration) -> u32 {
        let ticks = time.as_micros().div_ceil(TICK_MICROS as u128);
        if ticks < u32::MAX as u128 { ticks as u32 } else { u32::MAX }
    }

    /// The first tick that begins at or after `time`, so that a deadline is never met early.
    pub const fn not_before(time: Time) -> Tick {
        Tick(time.as_micros().div_ceil(TICK_MICROS) as u32)
    }
}

/// An entry that comes up: the slot, and the tick for which it was scheduled. By the tick the shard tells a live entry
/// from a stale one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Slot of the connection.
    pub slot: u32,
    /// The tick for which it was scheduled.
    pub tick: Tick,
}

/// The wheel of one shard.
pub struct Wheel {
    places: Vec<Vec<Entry>>,
    /// The next tick to expire.
    next: Tick,
}

impl Wheel {
    /// An empty wheel that starts at `now`.
    pub fn new(now: Time) -> Wheel {
        Wheel { places: (0..PLACES).map(|_| Vec::new()).collect(), next: Tick::of(now) }
    }

    /// Schedules `slot`. Returns the tick at which it will come up: `due`, or an earlier one if `due` is out of reach.
    pub fn schedule(&mut self, slot: u32, due: Tick) -> Tick {
        let tick = Tick(due.0.clamp(self.next.0, self.next.0 + PLACES - 1));
        self.places[(tick.0 % PLACES) as usize].push(Entry { slot, tick });
        tick
    }

    /// Number of entries, live or stale.
    #[cfg(feature = "inspect")]
    pub(super) fn entries(&self) -> usize {
        self.places.iter().map(Vec::len).sum()
    }

    /// Appends every entry due at `now` to `expired`.
    pub fn expire(&mut self, now: Time, expired: &mut Vec<Entry>) {
        let now = Tick::of(now);
        // After a long pause one round is enough to pass every place.
        for _ in 0..PLACES {
            if self.next > now {
                return;
            }
            // Takes the vector, so that the place gives its memory back. Otherwise a storm of connections would leave a
            // trace in every place.
            expired.extend(std::mem::take(&mut self.places[(self.next.0 % PLACES) as usize]));
            self.next.0 += 1;
        }
        self.next = Tick(now.0 + 1).max(self.next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ticks: u64) -> Time {
        Time::from_micros(ticks * TICK_MICROS)
    }

    fn expired(wheel: &mut Wheel, now: Time) -> Vec<u32> {
        let mut entries = Vec::new();
        wheel.expire(now, &mut entries);
        entries.iter().map(|entry| entry.slot).collect()
    }

    #[test]
    fn an_entry_comes_up_at_its_tick_and_not_before() {
        let mut wheel = Wheel::new(at(5));
        wheel.schedule(7, Tick::not_before(at(9)));
        assert!(expired(&mut wheel, at(8)).is_empty());
        assert_eq!(expired(&mut wheel, at(9)), [7]);
        assert!(expired(&mut wheel, at(5000)).is_empty());
    }

    #[test]
    fn a_deadline_between_ticks_is_never_met_early() {
        let due = Time::from_micros(3 * TICK_MICROS + 1);
        assert_eq!(Tick::not_before(due), Tick(4));
    }

    #[test]
    fn a_deadline_in_the_past_comes_up_at_the_next_tick() {
        let mut wheel = Wheel::new(at(100));
        wheel.schedule(1, Tick(3));
        assert_eq!(expired(&mut wheel, at(100)), [1]);
    }

    #[test]
    fn a_deadline_out_of_reach_comes_up_early_and_says_so() {
        let mut wheel = Wheel::new(at(0));
        let tick = wheel.schedule(1, Tick(10 * PLACES));
        assert_eq!(tick, Tick(PLACES - 1));
        assert_eq!(expired(&mut wheel, at(u64::from(PLACES) - 1)), [1]);
    }

    #[test]
    fn a_pause_longer_than_the_wheel_loses_nothing() {
        let mut wheel = Wheel::new(at(0));
        for slot in 0..PLACES {
            wheel.schedule(slot, Tick(slot));
        }
        assert_eq!(expired(&mut wheel, at(9_999)).len(), PLACES as usize);
        wheel.schedule(5, Tick(10_002));
        assert!(expired(&mut wheel, at(10_001)).is_empty());
        assert_eq!(expired(&mut wheel, at(10_002)), [5]);
    }
}
