//! Accepting clients, on any runtime.

use std::{
    cell::Cell,
    fmt, io,
    net::{Shutdown, SocketAddr},
    os::fd::AsFd,
};

use rustix::io::Errno;

use crate::{descriptor, runtime::Runtime, turn::Turns};

/// Connections taken from one listening socket before everything else gets a turn.
const ACCEPTS_PER_TURN: u32 = 64;

/// A listening socket on the thread of its shard.
pub struct Listener<R: Runtime> {
    listener: R::Listener,
    turns: Turns,
    taken_this_turn: Cell<u32>,
    stopped: Cell<bool>,
}

impl<R: Runtime> Listener<R> {
    /// Registers a listening socket with the runtime of the calling thread, whose `turns` keep a storm of connections
    /// from starving the open ones.
    ///
    /// # Errors
    /// What ioctl(2) or epoll_ctl(2) report.
    ///
    /// # Panics
    /// Outside of the runtime.
    pub fn from_std(listener: std::net::TcpListener, turns: Turns) -> io::Result<Self> {
        let listener = R::listener(listener)?;
        Ok(Self { listener, turns, taken_this_turn: Cell::new(0), stopped: Cell::new(false) })
    }

    /// The address listened on, with the port the kernel chose where 0 was asked for.
    ///
    /// # Errors
    /// What getsockname(2) reports.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(rustix::net::getsockname(&self.listener)?.try_into()?)
    }

    /// The next connection and its peer's address; `None` once [`stop`](Self::stop)ped.
    ///
    /// An error of one connection that was over before it was accepted is skipped. Do not drop this while pending: the
    /// wait would keep the port open; call `stop` instead.
    ///
    /// # Errors
    /// The listener goes on after any error, and the same error may follow at once: pause before the next call. `EMFILE`,
    /// `ENFILE`, `ENOBUFS`, `ENOMEM` are the ones to expect.
    pub async fn accept(&self) -> Option<io::Result<(R::Socket, SocketAddr)>> {
        loop {
            if self.taken_this_turn.get() >= ACCEPTS_PER_TURN {
                self.taken_this_turn.set(0);
                self.turns.next().await;
            }
            if self.stopped.get() {
                return None;
            }
            match R::accept(&self.listener).await {
                Ok(accepted) => {
                    self.taken_this_turn.set(self.taken_this_turn.get() + 1);
                    return Some(Ok(accepted));
                }
                Err(error) if self.stopped.get() || concerns_one_connection(&error) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Ends listening and makes a pending [`accept`](Self::accept) return `None`.
    ///
    /// Clients the kernel had queued and nobody had accepted are reset.
    pub fn stop(&self) {
        self.stopped.set(true);
        // On a listening socket this leaves the LISTEN state and wakes whoever waits on it. It can fail only when that
        // has happened already.
        let _ = descriptor::shutdown(self.listener.as_fd(), Shutdown::Both);
    }
}

impl<R: Runtime> fmt::Debug for Listener<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("fd", &self.listener.as_fd()).finish_non_exhaustive()
    }
}

/// accept(2) reports errors pending on the new connection as its own; it asks to try again.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::INTR
                | Errno::CONNABORTED
                | Errno::NOTCONN
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::NONET
                | Errno::OPNOTSUPP
                | Errno::PERM // a firewall rule
        )
    )
}
