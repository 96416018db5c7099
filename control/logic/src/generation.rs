//! Gives each login its number, its generation.
//!
//! The number is the time at which the login came to its comet, by the store's clock. A login may lie about for a
//! while, because a process stood still or was busy; meanwhile its client may have logged in again on another comet,
//! and the old login must not outrank the new one. The number is never below the time of arrival and never above the
//! present. How far above the arrival it is, nobody can tell.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use contract::{Arrival, ConnectRequest};
use proto::ids::Generation;
use seam::Bug;
use tokio::time::Instant;

/// How many numbers logic remembers so that it gives none twice. These are more than the logins that can come within
/// the time in which two logins of one key might get the same date.
const REMEMBERED: usize = 4096;

/// Dates logins.
#[derive(Default)]
pub(super) struct Generations(Mutex<Given>);

#[derive(Default)]
struct Given {
    numbers: HashSet<i64>,
    in_order: VecDeque<i64>,
}

impl Generations {
    /// The number of a login that is decided while the store's clock shows `now_us`.
    pub(super) fn of(&self, request: &ConnectRequest, now_us: u64) -> Generation {
        self.dated(&request.arrival, request.arrival.age(Instant::now().into_std()), now_us)
    }

    /// The number of a login that has waited for `age`.
    fn dated(&self, arrival: &Arrival, age: Duration, now_us: u64) -> Generation {
        // A repeated login counts as new, up to `by_us`. The store may have it from the first try, if only the answer
        // was lost, and a login must not be outranked by itself.
        let age = if arrival.is_repeated { 0 } else { u64::try_from(age.as_micros()).unwrap_or(u64::MAX) };
        let arrived = now_us.saturating_sub(age).min(arrival.by_us.unwrap_or(u64::MAX));
        let arrived = if seam::planted(Bug::DatedWhenDecided) { now_us } else { arrived };
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Generation(given.next(i64::try_from(arrived).unwrap_or(i64::MAX / 2).max(1)))
    }
}

impl Given {
    /// The first number from `from` on that was not given lately.
    fn next(&mut self, from: i64) -> i64 {
        let mut number = from;
        while !self.numbers.insert(number) {
            number += 1;
        }
        self.in_order.push_back(number);
        if self.in_order.len() > REMEMBERED
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.numbers.remove(&oldest);
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000_000;

    fn dated(generations: &Generations, age: Duration, by_us: Option<u64>) -> u64 {
        generations.dated(&Arrival::ago(Duration::ZERO, Instant::now().into_std()).by(by_us), age, NOW).0
            as u64
    }

    #[test]
    fn a_login_is_dated_by_its_arrival() {
        let of = |age, by_us| dated(&Generations::default(), age, by_us);
        let (none, three) = (Duration::ZERO, Duration::from_secs(3));
        assert_eq!(of(none, None), NOW);
        assert_eq!(of(three, None), NOW - 3_000_000, "the comet stood still");
        assert_eq!(of(none, Some(NOW - 2_000_000)), NOW - 2_000_000, "this logic stood still");
        assert_eq!(of(three, Some(NOW - 2_000_000)), NOW - 3_000_000, "whichever is known better");
        assert_eq!(of(none, Some(NOW + 9)), NOW, "nothing comes from the future");
        assert_eq!(of(none, Some(0)), 1, "0 is no fence");
        let by_us = Some(NOW - 2_900_000);
        let mut again = Arrival::ago(Duration::ZERO, Instant::now().into_std()).by(by_us);
        again.is_repeated = true;
        assert_eq!(
            Generations::default().dated(&again, three, NOW).0 as u64,
            NOW - 2_900_000,
            "it was asked before"
        );
    }

    #[test]
    fn no_number_is_given_twice_and_a_late_login_gets_a_smaller_one() {
        let generations = Generations::default();
        let of = |age| dated(&generations, age, None);
        let late = Duration::from_secs(3);
        let numbers: Vec<u64> = (0..5).flat_map(|_| [of(Duration::ZERO), of(late)]).collect();
        let expected: Vec<u64> = (0..5).flat_map(|n| [NOW + n, NOW - 3_000_000 + n]).collect();
        assert_eq!(numbers, expected);
        (0..2 * REMEMBERED).for_each(|_| _ = of(late));
        assert_eq!(generations.0.lock().unwrap().numbers.len(), REMEMBERED);
    }
}
