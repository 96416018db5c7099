//! Programs that stand still.

use std::{io, thread, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use super::{Server, Stopwatch};

/// Stops programs, and lets them go on in any case.
pub(crate) struct Frozen<'a>(Vec<&'a Server>, Stopwatch);

impl<'a> Frozen<'a> {
    pub(crate) fn new(servers: impl IntoIterator<Item = &'a Server>) -> Frozen<'a> {
        let servers: Vec<&Server> = servers.into_iter().collect();
        servers.iter().for_each(|server| signal(server, Signal::STOP).expect("it is there"));
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
        self.0.iter().for_each(|server| drop(signal(server, Signal::CONT)));
    }
}

fn signal(server: &Server, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(server.pid()).ok().and_then(Pid::from_raw).expect("a process of ours");
    Ok(kill_process(pid, signal)?)
}
