//! Client sockets on monoio, on io_uring or epoll: accepted, awaited, written, handed over.
//!
//! monoio's own stream cannot be written while somebody waits on it, and cannot be taken apart
//! without a panic while an operation runs. [`Socket`] can, shared as `Rc<Socket>` between a task
//! that reads and short-lived tasks that send.

use std::{
    cell::{Cell, UnsafeCell},
    future::Future,
    io,
    net::{Shutdown, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use monoio::{
    buf::IoBuf,
    io::AsyncWriteRent,
    net::{TcpListener, UnixStream},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    net::{RecvFlags, SocketFlags},
};

use crate::turn::Turns;

/// Connections taken from one listening socket before everything else gets a turn.
const ACCEPTS_PER_TURN: u32 = 64;

/// `SIOCOUTQ`, which is `TIOCOUTQ`: equal on every architecture this is built for.
#[cfg(not(any(
    target_arch = "mips",
    target_arch = "mips64",
    target_arch = "powerpc64",
    target_arch = "sparc64"
)))]
const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;

/// The kernel's coarsest clock, which dates what is received.
const JIFFY_MAX: Duration = Duration::from_millis(10);

/// The descriptor of something of monoio's, for as long as that is borrowed.
pub(crate) fn borrow(owner: &impl AsRawFd) -> BorrowedFd<'_> {
    // SAFETY: all callers pass a stream or listener of monoio, which owns its descriptor and closes
    // it only when dropped or unwrapped by value; the result borrows it, so neither can happen first.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

/// A listening socket on the thread of its shard.
pub struct Listener {
    listener: TcpListener,
    turns: Turns,
    taken_this_turn: Cell<u32>,
    stopped: Cell<bool>,
}

impl Listener {
    /// Registers a listening socket with the monoio runtime of the calling thread, whose `turns`
    /// keep a storm of connections from starving the open ones.
    ///
    /// # Errors
    /// What ioctl(2) or epoll_ctl(2) report.
    ///
    /// # Panics
    /// Outside of a monoio runtime.
    pub fn from_std(listener: std::net::TcpListener, turns: Turns) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: TcpListener::from_std(listener)?,
            turns,
            taken_this_turn: Cell::new(0),
            stopped: Cell::new(false),
        })
    }

    /// The address listened on, with the port the kernel chose where 0 was asked for.
    ///
    /// # Errors
    /// What getsockname(2) reports.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection and its peer's address; `None` once [`stop`](Self::stop)ped.
    ///
    /// Waits without holding anything, then takes connections by accept4(2): the sockets come out
    /// nonblocking and closed on exec, and a burst costs one system call each. An error of one
    /// connection that was over before it was accepted is skipped. Do not drop this while pending:
    /// on io_uring the wait would keep the port open; call `stop` instead.
    ///
    /// # Errors
    /// The listener goes on after any error, and the same error may follow at once: pause before the
    /// next call. `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM` are the ones to expect.
    pub async fn accept(&self) -> Option<io::Result<(Socket, SocketAddr)>> {
        loop {
            if self.stopped.get() {
                return None;
            }
            if self.taken_this_turn.get() >= ACCEPTS_PER_TURN {
                self.taken_this_turn.set(0);
                self.turns.next().await;
                continue;
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::acceptfrom_with(borrow(&self.listener), flags) {
                Ok((fd, peer)) => {
                    self.taken_this_turn.set(self.taken_this_turn.get() + 1);
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    // No peer address: only a socket that is no longer connected has none.
                    let Some(peer) = peer else { continue };
                    return Some(Socket::register(fd).map(|socket| (socket, peer)));
                }
                Err(Errno::AGAIN) => {
                    self.taken_this_turn.set(0);
                    if let Err(error) = self.listener.readable(false).await {
                        return Some(Err(error));
                    }
                }
                Err(errno) if concerns_one_connection(errno) => {}
                Err(errno) => return Some(Err(errno.into())),
            }
        }
    }

    /// Ends listening and makes a pending [`accept`](Self::accept) return `None`.
    ///
    /// Clients the kernel had queued and nobody had accepted are reset.
    pub fn stop(&self) {
        self.stopped.set(true);
        // On a listening socket this leaves the LISTEN state and wakes whoever waits on it. It can
        // fail only when that has happened already.
        let _ = rustix::net::shutdown(borrow(&self.listener), rustix::net::Shutdown::Both);
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// accept(2) reports errors pending on the new connection as its own; it asks to try again.
fn concerns_one_connection(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::INTR
            | Errno::CONNABORTED
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
}

/// A connected TCP socket of the runtime it was accepted in or adopted by.
///
/// Takes 16 bytes here and one small allocation of monoio's; an idle one holds no buffer. Dropping
/// it closes the connection once no operation uses it.
pub struct Socket {
    /// monoio's plainest owner of a stream descriptor: unlike its `TcpStream` it caches no
    /// addresses, and nothing it does is specific to Unix sockets.
    stream: UnsafeCell<UnixStream>,
    /// Operations begun and not seen to their end.
    in_flight: Cell<u32>,
}

impl Socket {
    /// Registers a connected stream socket with the monoio runtime of the calling thread, whichever
    /// thread or driver it came from. Bytes that arrived on the way are still there to be read.
    ///
    /// # Errors
    /// What ioctl(2) or epoll_ctl(2) report; the connection is closed then.
    ///
    /// # Panics
    /// Outside of a monoio runtime.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        // epoll needs it; io_uring arms its own wait regardless (the tests pin that).
        rustix::io::ioctl_fionbio(&fd, true)?;
        Self::register(fd)
    }

    fn register(fd: OwnedFd) -> io::Result<Self> {
        let stream = UnixStream::from_std(fd.into())?;
        Ok(Self { stream: UnsafeCell::new(stream), in_flight: Cell::new(0) })
    }

    fn stream(&self) -> &UnixStream {
        // SAFETY: `Socket` is not `Sync`, so only this thread gets here, and the one exclusive
        // reference ever made (in `write`) lives only while that function runs, which calls nothing
        // that leads back here.
        unsafe { &*self.stream.get() }
    }

    /// Returns when bytes, the end of the stream or an error can be had by
    /// [`try_receive`](Self::try_receive), which may still find nothing.
    ///
    /// Holds no buffer meanwhile. Never drop it while pending, or [`detach`](Self::detach) fails
    /// from then on: end it by [`shutdown`](Self::shutdown). On epoll it returns without a turn of
    /// the driver when the socket is readable already, so a task that reads a flood must call
    /// [`Turns::next`] now and then.
    ///
    /// # Errors
    /// What the driver reports for the wait; errors of the connection come from `try_receive`.
    pub async fn readable(&self) -> io::Result<()> {
        self.tracked(self.stream().readable(false)).await
    }

    /// Takes what has arrived, up to the length of `buf`; 0 is the end of the stream. One system
    /// call, never waits.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when nothing has arrived, or what ended the connection.
    pub fn try_receive(&self, buf: &mut [u8]) -> io::Result<usize> {
        let (received, _) = rustix::net::recv(borrow(self.stream()), buf, RecvFlags::DONTWAIT)?;
        Ok(received)
    }

    /// Writes all of `bytes` from offset `start` on, and says how many were written in the end.
    ///
    /// Submitted to the ring together with everything else of this turn; nothing is copied. What the
    /// kernel takes in parts is continued here, so one send at a time: two would interleave. Dropping
    /// it while pending leaves the send to the kernel and breaks [`detach`](Self::detach).
    ///
    /// # Errors
    /// What ended the connection (reset, broken pipe, timeout), beside the bytes the kernel had taken
    /// before; it may not have delivered those.
    ///
    /// # Panics
    /// When `start` lies beyond the end of `bytes`.
    pub async fn send<B: IoBuf>(&self, bytes: B, start: usize) -> (io::Result<()>, usize) {
        let end = bytes.bytes_init();
        assert!(start <= end, "a send starts inside its bytes: {start} of {end}");
        let mut bytes = bytes;
        let mut next = start;
        while next < end {
            let (result, slice) = self.tracked(self.write(bytes.slice(next..end))).await;
            bytes = slice.into_inner();
            match result {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), next - start),
                Ok(written) => next += written,
                Err(error) => return (Err(error), next - start),
            }
        }
        (Ok(()), next - start)
    }

    /// One send operation, submitted in the driver's next turn.
    fn write<B: IoBuf>(&self, bytes: B) -> impl Future<Output = (io::Result<usize>, B)> + use<'_, B> {
        // SAFETY: `Socket` is not `Sync`, and no other exclusive reference exists: this function runs
        // no foreign code but `UnixStream::write` of monoio 0.2, which only clones the handle of the
        // descriptor into an operation and returns a future that owns that operation and the bytes,
        // and nothing of the stream. Shared references in pending `readable` futures are likewise
        // used by monoio only before their first wait. The operation keeps the bytes and the
        // descriptor alive until the kernel is done, even when its future is dropped.
        unsafe { &mut *self.stream.get() }.write(bytes)
    }

    /// Whether the peer has closed or reset the connection, or closed its sending half, even behind
    /// bytes not yet received. For connections whose reading is held. One system call, never waits.
    pub fn has_hung_up(&self) -> bool {
        let mut asked = [PollFd::from_borrowed_fd(borrow(self.stream()), PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match rustix::event::poll(&mut asked, Some(&now)) {
            // RDHUP, or the unasked ERR and HUP.
            Ok(ready) => ready > 0,
            // Interrupted: the next call tells.
            Err(_) => false,
        }
    }

    /// How long ago the newest bytes of the peer came into the kernel, however late they were accepted or received
    /// here: never more than it is, and up to 10 ms less. Zero where the kernel does not say. One system call.
    pub fn newest_bytes_age(&self) -> Duration {
        // SAFETY: a `tcp_info` is plain integers, for which zero is a value; the kernel writes no more bytes than `len`
        // says there are, and keeps neither pointer.
        let info = unsafe {
            let mut info: libc::tcp_info = std::mem::zeroed();
            let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
            let at = std::ptr::from_mut(&mut info).cast();
            match libc::getsockopt(
                self.stream().as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                at,
                &raw mut len,
            ) {
                0 => info,
                _ => return Duration::ZERO,
            }
        };
        Duration::from_millis(info.tcpi_last_data_recv.into()).saturating_sub(JIFFY_MAX)
    }

    /// Ends one or both directions. A pending [`readable`](Self::readable) returns and
    /// [`try_receive`](Self::try_receive) gives the bytes that had arrived, then 0.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotConnected`] when the peer has reset the connection; whoever waits has been
    /// woken by that.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        Ok(rustix::net::shutdown(borrow(self.stream()), how)?)
    }

    /// Makes the close drop what is unsent and reset the connection (`SO_LINGER` 0), instead of
    /// leaving the kernel to deliver it to a peer that may never read.
    ///
    /// # Errors
    /// What setsockopt(2) reports; none are known for a connected socket.
    pub fn set_reset_on_close(&self) -> io::Result<()> {
        Ok(rustix::net::sockopt::set_socket_linger(borrow(self.stream()), Some(Duration::ZERO))?)
    }

    /// Bytes the kernel holds because the peer has not acknowledged them. One system call.
    ///
    /// # Errors
    /// What ioctl(2) reports; none are known for a connected socket.
    pub fn unsent_bytes(&self) -> io::Result<usize> {
        // SAFETY: for SIOCOUTQ the kernel writes one int, which is what the getter makes room for.
        let bytes = unsafe {
            let getter = rustix::ioctl::Getter::<SIOCOUTQ, i32>::new();
            rustix::ioctl::ioctl(borrow(self.stream()), getter)?
        };
        Ok(usize::try_from(bytes).unwrap_or(0))
    }

    /// Takes the connection out of this runtime, to be [`adopt`](Self::adopt)ed by another; no byte
    /// is lost in between.
    ///
    /// # Errors
    /// Gives the socket back when another task still holds it, as one that waits or sends does, or
    /// when an operation was abandoned on it.
    pub fn detach(socket: Rc<Self>) -> Result<OwnedFd, DetachError> {
        let socket = Rc::try_unwrap(socket).map_err(|socket| DetachError { socket })?;
        if socket.in_flight.get() != 0 {
            return Err(DetachError { socket: Rc::new(socket) });
        }
        // Panics if an operation shared the stream; with none in flight none does.
        let fd = socket.stream.into_inner().into_raw_fd();
        // SAFETY: monoio has just given up this descriptor without closing it, so it is open and has
        // no other owner.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Counts the operation until its end has been seen; an abandoned one stays counted.
    async fn tracked<T>(&self, operation: impl Future<Output = T>) -> T {
        self.in_flight.set(self.in_flight.get() + 1);
        let output = operation.await;
        self.in_flight.set(self.in_flight.get() - 1);
        output
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket")
            .field("fd", &self.stream().as_raw_fd())
            .field("in_flight", &self.in_flight.get())
            .finish()
    }
}

/// A connection could not leave its runtime; see [`Socket::detach`].
#[derive(Debug, thiserror::Error)]
#[error("a task still uses {socket:?}, or abandoned an operation on it")]
pub struct DetachError {
    /// The socket, unchanged.
    pub socket: Rc<Socket>,
}
