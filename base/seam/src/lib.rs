//! Time and chance, as the simulator (`tests/sim`) may replace them: clocks, hashers, names, a few bounds, planted bugs.
//!
//! It depends on nothing, and is the one way to a clock for the crates that are simulated.
//!
//! With the feature `sim`, which no shipped program has, they belong to the simulation that a thread has begun
//! (`begin`); several run side by side, and every other thread has all as usual. Without the feature
//! they are constants, so the compiler leaves nothing of them.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic when nobody takes it, or wait for ever

mod bug;
mod clock;

pub use bug::Bug;
pub use clock::{Time, wall_micros};

#[cfg(feature = "sim")]
mod thread;

#[cfg(feature = "sim")]
pub use thread::*;
#[cfg(feature = "sim")]
use thread::{simulated_micros, simulated_wall_micros};

#[cfg(not(feature = "sim"))]
pub use none::*;
#[cfg(not(feature = "sim"))]
use none::{simulated_micros, simulated_wall_micros};

#[cfg(not(feature = "sim"))]
mod none {
    use super::Bug;

    pub use std::hash::RandomState;

    /// The time of a simulation in microseconds: there is none.
    #[inline(always)]
    pub(crate) const fn simulated_micros() -> Option<u64> {
        None
    }

    /// The wall clock of a simulation in microseconds since 1970: there is none.
    #[inline(always)]
    pub(crate) const fn simulated_wall_micros() -> Option<u64> {
        None
    }

    /// A number of a simulation for names that nobody else may have: there is none.
    #[inline(always)]
    pub const fn name() -> Option<u64> {
        None
    }

    /// A bound that a simulation makes small enough to be reached: as it is.
    #[inline(always)]
    pub const fn bound(usual: usize) -> usize {
        usual
    }

    /// Whether a bug is planted: never.
    #[inline(always)]
    pub const fn planted(_: Bug) -> bool {
        false
    }
}
