//! The runtime monoio, on io_uring and on epoll.

mod socket;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use monoio::{
    IoUringDriver, LegacyDriver, RuntimeBuilder,
    net::{TcpListener, UnixStream},
};
use rustix::{io::Errno, net::SocketFlags};

pub use self::socket::MonoioSocket;
use crate::{descriptor::borrow, event::drain, runtime::Runtime};

/// monoio, whichever way it waits: that is chosen where the thread starts.
#[derive(Debug)]
pub struct Monoio;

impl Monoio {
    /// Runs a task on io_uring, on this thread; `entries` is the length of the submission queue.
    ///
    /// # Errors
    /// Why the ring could not be made.
    pub fn run_on_io_uring<T>(entries: u32, task: impl Future<Output = T>) -> io::Result<T> {
        let builder = RuntimeBuilder::<IoUringDriver>::new().enable_timer().with_entries(entries);
        Ok(builder.build()?.block_on(task))
    }

    /// Runs a task on epoll, on this thread; `entries` is the number of events taken at once.
    ///
    /// # Errors
    /// Why the epoll instance could not be made.
    pub fn run_on_epoll<T>(entries: u32, task: impl Future<Output = T>) -> io::Result<T> {
        let builder = RuntimeBuilder::<LegacyDriver>::new().enable_timer().with_entries(entries);
        Ok(builder.build()?.block_on(task))
    }
}

/// A listening socket of monoio.
#[derive(Debug)]
pub struct MonoioListener(TcpListener);

impl AsFd for MonoioListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.0)
    }
}

impl Runtime for Monoio {
    type Socket = MonoioSocket;
    type Listener = MonoioListener;
    /// monoio's plainest owner of a descriptor that can be awaited.
    type Event = UnixStream;

    fn spawn(task: impl Future<Output = ()> + 'static) {
        monoio::spawn(task);
    }

    fn sleep(time: Duration) -> impl Future<Output = ()> {
        monoio::time::sleep(time)
    }

    fn listener(listener: std::net::TcpListener) -> io::Result<MonoioListener> {
        listener.set_nonblocking(true)?;
        Ok(MonoioListener(TcpListener::from_std(listener)?))
    }

    /// Waits without holding anything, then takes connections by accept4(2): the sockets come out nonblocking and closed
    /// on exec, and a burst costs one system call each.
    async fn accept(listener: &MonoioListener) -> io::Result<(MonoioSocket, SocketAddr)> {
        loop {
            match rustix::net::acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok((fd, Some(peer))) => return Ok((MonoioSocket::register(fd)?, peer.try_into()?)),
                // Only a socket that is no longer connected has no address.
                Ok((_, None)) => {}
                Err(Errno::AGAIN) => listener.0.readable(false).await?,
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn event(eventfd: OwnedFd) -> io::Result<UnixStream> {
        UnixStream::from_std(eventfd.into())
    }

    async fn wait(event: Rc<UnixStream>) -> io::Result<()> {
        event.readable(false).await?;
        drain(borrow(&*event));
        Ok(())
    }
}
