//! The metrics of the services: counters with a label whose values are known at compile time, and latencies.
//!
//! A struct of metrics is made once and registered once. Clones are cheap and share the counters. The counter of a
//! label's value is looked up when the struct is made, never per push. Names start with `halley_`. Counters end in
//! `_total`, which the library adds.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

/// Upper bounds of latencies, seconds: from a memory broker's microseconds to the ten seconds of `dispatch.giveUp`.
const LATENCY_BUCKETS: [f64; 15] =
    [1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 2.0, 10.0];

/// Declares a label and its values.
#[macro_export]
macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $key:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $crate::metrics::Label for $name {
            const KEY: &'static str = $key;
            const WORDS: &'static [&'static str] = &[$($word,)*];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

/// The values of a label, known at compile time.
pub trait Label: Copy + 'static {
    /// The label's name.
    const KEY: &'static str;
    /// Its values, by [`index`](Self::index).
    const WORDS: &'static [&'static str];

    /// Place of this value.
    fn index(self) -> usize;
}

/// One label: its name and its value.
type Labels = [(&'static str, &'static str); 1];

/// One counter for each value of a label. All are there from the start, so that one that never moved reads 0.
#[derive(Clone, Debug)]
pub struct CounterBy<L> {
    family: Family<Labels, Counter>,
    counters: Arc<[Counter]>,
    label: std::marker::PhantomData<L>,
}

impl<L: Label> Default for CounterBy<L> {
    fn default() -> Self {
        let family = Family::<Labels, Counter>::default();
        let counters = L::WORDS.iter().map(|word| family.get_or_create_owned(&[(L::KEY, word)])).collect();
        CounterBy { family, counters, label: std::marker::PhantomData }
    }
}

impl<L: Label> CounterBy<L> {
    /// Adds it to a registry.
    pub fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.family.clone());
    }

    /// The counter of one value.
    pub fn of(&self, label: L) -> &Counter {
        &self.counters[label.index()]
    }

    /// Every value of the label with its count.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        L::WORDS.iter().copied().zip(self.counters.iter().map(|counter| counter.get()))
    }
}

/// A histogram of seconds, with buckets from 10 µs to 10 s.
#[derive(Clone, Debug)]
pub struct Latency(Histogram);

impl Default for Latency {
    fn default() -> Self {
        Latency(Histogram::new(LATENCY_BUCKETS))
    }
}

impl Latency {
    /// Adds it to a registry.
    pub fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.0.clone());
    }

    /// Adds one measurement.
    pub fn observe(&self, latency: Duration) {
        self.0.observe(latency.as_secs_f64());
    }

    /// Adds the time from `since_us` (wall clock, µs since the epoch; 0 = unknown, then not counted) to `now_us`. If
    /// the clock was set back in between, the time counts as 0.
    pub fn observe_since(&self, since_us: u64, now_us: u64) {
        if since_us != 0 {
            self.observe(Duration::from_micros(now_us.saturating_sub(since_us)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_start_is_not_measured() {
        let (latency, mut registry) = (Latency::default(), Registry::default());
        registry.register("l", "l", latency.0.clone());
        latency.observe_since(0, 5);
        latency.observe_since(7, 5);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("l_count 1\n") && text.contains("l_sum 0.0\n"), "{text}");
    }
}
