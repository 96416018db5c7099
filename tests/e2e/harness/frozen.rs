//! Programs that stand still.

use std::{thread, time::Duration};

use rustix::process::Signal;

use super::{Server, Stopwatch};

/// Stops programs, and lets them go on in any case.
pub(crate) struct Frozen<'a>(Vec<&'a Server>, Stopwatch);

impl<'a> Frozen<'a> {
    pub(crate) fn new(servers: impl IntoIterator<Item = &'a Server>) -> Frozen<'a> {
        let servers: Vec<&Server> = servers.into_iter().collect();
        servers.iter().for_each(|server| server.try_signal(Signal::STOP).expect("it is there"));
        Frozen(servers, Stopwatch::start())
    }

    /// Lets them go on when they have stood still for so long.
    pub(crate) fn thaw_after(self, stood_still: Duration) {
        thread::sleep(stood_still.saturating_sub(self.1.elapsed()));
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // One that has ended stands still no more.
        for server in &self.0 {
            let _ = server.try_signal(Signal::CONT);
        }
    }
}
