//! Time and chance as the simulator (`tests/sim`) may replace them: clocks, hashers, names, a few bounds, planted bugs.
//!
//! This crate depends on nothing. The simulated crates may read a clock only here.
//!
//! With the feature `sim`, which no shipped program has, these belong to the simulation that a thread has begun
//! (`begin`). Several simulations run side by side, and all other threads see the usual values. Without the feature
//! they are constants, and the compiler removes them.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

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

    pub use ahash::RandomState;

    /// The time of a simulation in microseconds. Here there is no simulation.
    #[inline(always)]
    pub(crate) const fn simulated_micros() -> Option<u64> {
        None
    }

    /// The wall clock of a simulation in microseconds since 1970. Here there is no simulation.
    #[inline(always)]
    pub(crate) const fn simulated_wall_micros() -> Option<u64> {
        None
    }

    /// A number of a simulation for unique names. Here there is no simulation.
    #[inline(always)]
    pub const fn name() -> Option<u64> {
        None
    }

    /// A bound that a simulation makes small enough to reach. Here it stays as it is.
    #[inline(always)]
    pub const fn bound(usual: usize) -> usize {
        usual
    }

    /// Whether a bug is planted. Here none is.
    #[inline(always)]
    pub const fn planted(_: Bug) -> bool {
        false
    }
}
