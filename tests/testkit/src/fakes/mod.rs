//! A logic and a comet that answer as they are told and remember what they were asked.

mod comet;
mod gate;
mod logic;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use self::{
    comet::{FakeComet, Kick, messages},
    gate::Gate,
    logic::{FakeLogic, Report, Told},
};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
