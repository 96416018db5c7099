//! The simulation of a thread.

use std::{
    cell::{Cell, RefCell},
    hash::{BuildHasher, DefaultHasher, Hash, Hasher as _},
    marker::PhantomData,
};

use super::Bug;

/// What a simulation begins with.
#[derive(Clone, Copy, Debug)]
pub struct Begin {
    /// All randomness follows from it.
    pub seed: u64,
    /// The bug that is planted.
    pub bug: Option<Bug>,
    /// Bounds that are reached only with thousands of things are divided by this.
    pub shrink: usize,
}

#[derive(Default)]
struct Current {
    begun: Cell<Option<Begin>>,
    micros: Cell<u64>,
    names: RefCell<Option<Random>>,
}

thread_local! {
    static CURRENT: Current = Current::default();
}

/// A simulation on this thread. Dropping this ends it.
#[derive(Debug)]
pub struct Simulation(PhantomData<*const ()>);

/// Begins a simulation on this thread, at moment 0.
pub fn begin(begin: Begin) -> Simulation {
    CURRENT.with(|current| {
        current.begun.set(Some(begin));
        current.micros.set(0);
        *current.names.borrow_mut() = Some(Random::stream(begin.seed, "names"));
    });
    Simulation(PhantomData)
}

impl Drop for Simulation {
    fn drop(&mut self) {
        CURRENT.with(|current| current.begun.set(None));
    }
}

/// Sets the time of this thread's simulation.
pub fn set_micros(micros: u64) {
    CURRENT.with(|current| current.micros.set(micros));
}

/// The time of this thread's simulation, if there is one.
pub(crate) fn simulated_micros() -> Option<u64> {
    CURRENT.with(|current| current.begun.get().map(|_| current.micros.get()))
}

/// The wall clock of this thread's simulation in microseconds since 1970. It begins in 2027.
pub(crate) fn simulated_wall_micros() -> Option<u64> {
    simulated_micros().map(|micros| 1_800_000_000_000_000 + micros)
}

/// Whether this thread's simulation has the bug.
pub fn planted(bug: Bug) -> bool {
    CURRENT.with(|current| current.begun.get()).is_some_and(|begun| begun.bug == Some(bug))
}

/// A bound as this thread's simulation sets it.
pub fn bound(usual: usize) -> usize {
    let shrink = CURRENT.with(|current| current.begun.get()).map_or(1, |begun| begun.shrink);
    usual.div_ceil(shrink)
}

/// A random number for names that would otherwise be impossible to guess; `None` outside of a simulation.
pub fn name() -> Option<u64> {
    CURRENT.with(|current| current.begun.get().and(current.names.borrow_mut().as_mut().map(Random::next)))
}

/// The hasher's randomness. It comes from the simulation's seed.
#[derive(Clone, Debug)]
pub struct RandomState(u64);

impl RandomState {
    /// The randomness of this thread's simulation.
    pub fn new() -> Self {
        RandomState(CURRENT.with(|current| current.begun.get()).map_or(0, |begun| begun.seed))
    }

    /// The hash of one value, as the real one offers it.
    pub fn hash_one<T: Hash>(&self, value: T) -> u64 {
        BuildHasher::hash_one(self, value)
    }
}

impl Default for RandomState {
    fn default() -> Self {
        RandomState::new()
    }
}

impl BuildHasher for RandomState {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

/// A stream of random numbers (splitmix64). Scheduler, network and workload have one each. So if one of them asks for
/// more numbers, the others still get the same ones.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream `name` of a seed.
    pub fn stream(seed: u64, name: &str) -> Random {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(seed);
        hasher.write(name.as_bytes());
        Random(hasher.finish())
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which may not be 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// True `times` in a thousand.
    pub fn per_mille(&mut self, times: u32) -> bool {
        self.below(1000) < times as usize
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of these values.
    pub fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }
}
