//! What a driver asks of a thread-per-core runtime, so that it is written once for all of them.
//!
//! Everything is called on the thread of a running runtime. There is no dynamic dispatch: a driver is compiled for each
//! runtime it is used with.
//!
//! A driver relies on more than signatures say, and runtimes differ in it:
//!
//! - A task never begins within the call that spawns it: its spawner may hold what it borrows.
//! - No other task runs between the read of a [`Socket::receive`] and its return: all sockets share one buffer.
//! - Who waits for input holds no buffer: idle clients are most of what a gateway has.
//! - A runtime may look at the kernel only once no task can run. Long work calls [`Turns::next`](crate::Turns::next).

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    io,
    net::{Shutdown, SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;

use crate::descriptor;

/// A runtime with one thread, whose tasks never leave it.
pub trait Runtime: Sized + 'static {
    /// A client.
    type Socket: Socket;
    /// A listening socket, of which [`Listener`](crate::Listener) makes something that can be stopped.
    type Listener: AsFd + 'static;
    /// An eventfd, of which [`WakeReceiver`](crate::WakeReceiver) makes a sleep.
    type Event: 'static;

    /// Queues a task: it begins when its caller has come to a wait, never within this call.
    fn spawn(task: impl Future<Output = ()> + 'static);

    /// Returns when so much time has passed.
    fn sleep(time: Duration) -> impl Future<Output = ()>;

    /// Registers a listening socket.
    ///
    /// # Errors
    /// What ioctl(2) or epoll_ctl(2) report.
    fn listener(listener: TcpListener) -> io::Result<Self::Listener>;

    /// The next connection and its peer's address. Not to be dropped while pending.
    ///
    /// # Errors
    /// What accept(2) reports; the listener goes on.
    fn accept(listener: &Self::Listener) -> impl Future<Output = io::Result<(Self::Socket, SocketAddr)>>;

    /// Registers an eventfd.
    ///
    /// # Errors
    /// What ioctl(2) or epoll_ctl(2) report.
    fn event(eventfd: OwnedFd) -> io::Result<Self::Event>;

    /// Returns once the eventfd was written to, and empties it. Not to be dropped while pending.
    ///
    /// # Errors
    /// What the runtime reports for the wait; none are known.
    fn wait(event: Rc<Self::Event>) -> impl Future<Output = io::Result<()>> + 'static;
}

/// A connected TCP socket of the runtime it was accepted in or adopted by.
///
/// Shared as `Rc` between a task that receives and short-lived tasks that send. An idle one holds no buffer. Dropping it
/// closes the connection once no operation uses it.
pub trait Socket: AsFd + fmt::Debug + Sized + 'static {
    /// Registers a connected stream socket with the runtime of the calling thread, whichever thread or runtime it came
    /// from. Bytes that arrived on the way are still there to be read.
    ///
    /// # Errors
    /// What ioctl(2) or epoll_ctl(2) report; the connection is closed then.
    fn adopt(fd: OwnedFd) -> io::Result<Self>;

    /// Waits for input without a buffer, then takes what has arrived, up to the length of `buffer`; 0 is the end of the
    /// stream. `buffer` is borrowed only for the moment of the read, and what was read is still in it when this returns:
    /// no other task runs in between.
    ///
    /// Never drop it while pending, or [`detach`](Self::detach) may fail from then on: end it by
    /// [`shutdown`](Self::shutdown). It may return without a turn of the runtime, so a task that reads a flood must call
    /// [`Turns::next`](crate::Turns::next) now and then.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when nothing was there after all, or what ended the connection.
    fn receive(&self, buffer: &RefCell<Vec<u8>>) -> impl Future<Output = io::Result<usize>>;

    /// Writes all of `bytes` from offset `start` on, and says how many were written in the end. Nothing is copied.
    ///
    /// What the kernel takes in parts is continued here, so one send at a time: two would interleave. Dropping it while
    /// pending may leave the send to the kernel and break [`detach`](Self::detach).
    ///
    /// # Errors
    /// What ended the connection (reset, broken pipe, timeout), beside the bytes the kernel had taken before; it may not
    /// have delivered those.
    ///
    /// # Panics
    /// When `start` lies beyond the end of `bytes`.
    fn send(&self, bytes: Rc<Bytes>, start: usize) -> impl Future<Output = (io::Result<()>, usize)>;

    /// Takes the connection out of this runtime, to be [`adopt`](Self::adopt)ed by another; no byte is lost in between.
    ///
    /// # Errors
    /// Gives the socket back when another task still holds it, as one that waits or sends does, when an operation was
    /// abandoned on it, or when there is no descriptor left where one is needed.
    fn detach(socket: Rc<Self>) -> Result<OwnedFd, DetachError<Self>>;

    /// Whether the peer has closed or reset the connection, or closed its sending half, even behind bytes not yet
    /// received. For connections whose reading is held. One system call, never waits.
    fn has_hung_up(&self) -> bool {
        descriptor::has_hung_up(self.as_fd())
    }

    /// How long ago the newest bytes of the peer came into the kernel, however late they were accepted or received here:
    /// never more than it is, and up to 10 ms less. Zero where the kernel does not say. One system call.
    fn newest_bytes_age(&self) -> Duration {
        descriptor::newest_bytes_age(self.as_fd())
    }

    /// Ends one or both directions. A pending [`receive`](Self::receive) returns the bytes that had arrived, then 0.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotConnected`] when the peer has reset the connection; whoever waits has been woken by that.
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        descriptor::shutdown(self.as_fd(), how)
    }

    /// Makes the close drop what is unsent and reset the connection (`SO_LINGER` 0), instead of leaving the kernel to
    /// deliver it to a peer that may never read.
    ///
    /// # Errors
    /// What setsockopt(2) reports; none are known for a connected socket.
    fn set_reset_on_close(&self) -> io::Result<()> {
        descriptor::set_reset_on_close(self.as_fd())
    }

    /// Bytes the kernel holds because the peer has not acknowledged them. One system call.
    ///
    /// # Errors
    /// What ioctl(2) reports; none are known for a connected socket.
    fn unsent_bytes(&self) -> io::Result<usize> {
        descriptor::unsent_bytes(self.as_fd())
    }
}

/// A connection could not leave its runtime; see [`Socket::detach`].
#[derive(Debug, thiserror::Error)]
#[error("a task still uses {socket:?}, or abandoned an operation on it, or no descriptor is left")]
pub struct DetachError<S: Socket> {
    /// The socket, unchanged.
    pub socket: Rc<S>,
}
