//! The runtime glommio, on io_uring (feature `glommio`).
//!
//! glommio waits for sockets by polls on its ring, and reads and writes them by system calls of its own.

mod socket;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use glommio::{LocalExecutorBuilder, Placement, TaskQueueHandle, io::BufferedFile, net::TcpListener};

pub use self::socket::GlommioSocket;
use crate::runtime::Runtime;

/// glommio.
#[derive(Debug)]
pub struct Glommio;

impl Glommio {
    /// Runs a task on this thread; `entries` is the length of each of the three rings that glommio makes. The executor
    /// stays on the cores this thread is pinned to.
    ///
    /// # Errors
    /// Why the executor could not be made: the rings were refused, or `RLIMIT_MEMLOCK` is below 512 KiB.
    pub fn run<T>(entries: u32, task: impl Future<Output = T>) -> io::Result<T> {
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .ring_depth(entries as usize)
            // Buffers for files, of which there are none: as few as glommio makes.
            .io_memory(0)
            .make()?;
        Ok(executor.run(task))
    }
}

/// A listening socket of glommio.
#[derive(Debug)]
pub struct GlommioListener {
    listener: TcpListener,
    /// The same socket: glommio does not show its descriptor.
    socket: OwnedFd,
}

impl AsFd for GlommioListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Runtime for Glommio {
    type Socket = GlommioSocket;
    type Listener = GlommioListener;
    type Event = BufferedFile;

    fn spawn(task: impl Future<Output = ()> + 'static) {
        // `spawn_local` would run the task here and now, up to its first wait.
        let queued = glommio::spawn_local_into(task, TaskQueueHandle::default());
        queued.expect("the first task queue is there as long as the executor").detach();
    }

    fn sleep(time: Duration) -> impl Future<Output = ()> {
        glommio::timer::sleep(time)
    }

    fn listener(listener: std::net::TcpListener) -> io::Result<GlommioListener> {
        // On a nonblocking one the ring would not wait for a client.
        listener.set_nonblocking(false)?;
        let socket = listener.as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor is open, and nobody else owns it: its owner has just given it up.
        let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
        Ok(GlommioListener { listener, socket })
    }

    async fn accept(listener: &GlommioListener) -> io::Result<(GlommioSocket, SocketAddr)> {
        let socket = GlommioSocket::accepted(listener.listener.accept().await?)?;
        let peer = rustix::net::getpeername(&socket)?;
        // Only a socket that is no longer connected has no address.
        let peer = peer.ok_or(io::ErrorKind::NotConnected)?;
        Ok((socket, peer.try_into()?))
    }

    fn event(eventfd: OwnedFd) -> io::Result<BufferedFile> {
        // On a nonblocking one the ring would not wait for a wake. A write to it waits as little as before: the counter
        // never gets full.
        rustix::io::ioctl_fionbio(&eventfd, false)?;
        // SAFETY: the descriptor is open, and nobody else owns it: its owner has just given it up.
        Ok(unsafe { BufferedFile::from_raw_fd(eventfd.into_raw_fd()) })
    }

    async fn wait(event: Rc<BufferedFile>) -> io::Result<()> {
        event.read_at(0, size_of::<u64>()).await?;
        Ok(())
    }
}
