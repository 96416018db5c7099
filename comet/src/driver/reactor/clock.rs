//! What passes with time: load, timers, hang-ups of connections that are not read.

use std::{rc::Rc, time::Duration};

use ring::{Runtime, Socket};
use rustix::time::{ClockId, clock_gettime};
use seam::Time;
use shard::{mail::ConnectionId, wheel::TICK_MICROS};

use super::{Core, Reactor, clients::Released};

/// A thread that did not come round for so long stood still (SIGSTOP, a virtual machine that moved). What its clients sent
/// meanwhile is read first, for this long, or they would be taken for silent.
const STOOD_STILL: Duration = Duration::from_secs(1);
const CATCH_UP: Duration = Duration::from_millis(500);

/// The task of the timers.
pub(super) async fn tick<R: Runtime>(reactor: Rc<Reactor<R>>) {
    loop {
        R::sleep(Duration::from_micros(TICK_MICROS)).await;
        if Time::now().since(reactor.core.borrow().ticked) >= STOOD_STILL {
            R::sleep(CATCH_UP).await;
        }
        reactor.tell(|core, now| {
            let cpu = cpu_micros();
            let elapsed = now.since(core.ticked).as_micros().max(1) as u64;
            let load = ((cpu - core.cpu_micros) * 1000 / elapsed).min(1000);
            (core.cpu_micros, core.ticked) = (cpu, now);
            core.shard.tick(now, load, core.mailbox_depth, &mut core.out);
            core.mailbox_depth = 0;
            core.watch_held();
        });
    }
}

impl<R: Runtime> Core<R> {
    /// A client that hung up while its login was decided must not take its key from the connection it has made since.
    pub(super) fn look_for_hang_up(&mut self, id: ConnectionId) {
        if self.shard.is_in_lobby(id) && self.socket(id).is_some_and(|socket| socket.has_hung_up()) {
            self.shard.hung_up(Time::now(), id, &mut self.out);
        }
    }

    /// A held connection that its client left is read on, to its end.
    fn watch_held(&mut self) {
        let gone: Vec<ConnectionId> = self
            .held
            .keys()
            .filter(|id| self.socket(**id).is_some_and(|socket| socket.has_hung_up()))
            .copied()
            .collect();
        for id in gone {
            self.release(id, Released::Read);
        }
    }
}

/// CPU time of this thread in microseconds.
pub(super) fn cpu_micros() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}
