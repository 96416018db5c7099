//! Client sockets on monoio: awaited, written, handed over.
//!
//! monoio's own stream cannot be written while somebody waits on it, and cannot be taken apart without a panic while an
//! operation runs. [`MonoioSocket`] can.

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    future::Future,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    rc::Rc,
};

use bytes::Bytes;
use monoio::{buf::IoBuf, io::AsyncWriteRent, net::UnixStream};
use rustix::net::RecvFlags;

use crate::{
    descriptor::borrow,
    runtime::{DetachError, Socket},
};

/// A client on monoio. Takes 16 bytes here and one small allocation of monoio's.
pub struct MonoioSocket {
    /// monoio's plainest owner of a stream descriptor: unlike its `TcpStream` it caches no
    /// addresses, and nothing it does is specific to Unix sockets.
    stream: UnsafeCell<UnixStream>,
    /// Operations begun and not seen to their end.
    in_flight: Cell<u32>,
}

impl MonoioSocket {
    pub(super) fn register(fd: OwnedFd) -> io::Result<Self> {
        let stream = UnixStream::from_std(fd.into())?;
        Ok(Self { stream: UnsafeCell::new(stream), in_flight: Cell::new(0) })
    }

    fn stream(&self) -> &UnixStream {
        // SAFETY: `MonoioSocket` is not `Sync`, so only this thread gets here, and the one exclusive
        // reference ever made (in `write`) lives only while that function runs, which calls nothing
        // that leads back here.
        unsafe { &*self.stream.get() }
    }

    /// Returns when bytes, the end of the stream or an error can be had by
    /// [`try_receive`](Self::try_receive), which may still find nothing. Holds no buffer meanwhile.
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
        let (received, _) = rustix::net::recv(self, buf, RecvFlags::DONTWAIT)?;
        Ok(received)
    }

    /// One send operation, submitted in the driver's next turn.
    fn write<B: IoBuf>(&self, bytes: B) -> impl Future<Output = (io::Result<usize>, B)> + use<'_, B> {
        // SAFETY: `MonoioSocket` is not `Sync`, and no other exclusive reference exists: this function runs
        // no foreign code but `UnixStream::write` of monoio 0.2, which only clones the handle of the
        // descriptor into an operation and returns a future that owns that operation and the bytes,
        // and nothing of the stream. Shared references in pending `readable` futures are likewise
        // used by monoio only before their first wait. The operation keeps the bytes and the
        // descriptor alive until the kernel is done, even when its future is dropped.
        unsafe { &mut *self.stream.get() }.write(bytes)
    }

    /// Counts the operation until its end has been seen; an abandoned one stays counted.
    async fn tracked<T>(&self, operation: impl Future<Output = T>) -> T {
        self.in_flight.set(self.in_flight.get() + 1);
        let output = operation.await;
        self.in_flight.set(self.in_flight.get() - 1);
        output
    }
}

impl Socket for MonoioSocket {
    fn adopt(fd: OwnedFd) -> io::Result<Self> {
        // epoll needs it; io_uring arms its own wait regardless (the tests pin that).
        rustix::io::ioctl_fionbio(&fd, true)?;
        Self::register(fd)
    }

    async fn receive(&self, buffer: &RefCell<Vec<u8>>) -> io::Result<usize> {
        // Not by `tracked`, nor by `readable`: a future keeps what it was given beside what it waits for, and every idle
        // client has this one.
        self.in_flight.set(self.in_flight.get() + 1);
        // What fails here fails in the read too, which tells why.
        let _ = self.stream().readable(false).await;
        self.in_flight.set(self.in_flight.get() - 1);
        self.try_receive(&mut buffer.borrow_mut())
    }

    /// Submitted to the ring together with everything else of this turn.
    async fn send(&self, bytes: Rc<Bytes>, start: usize) -> (io::Result<()>, usize) {
        let end = bytes.len();
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

    fn detach(socket: Rc<Self>) -> Result<OwnedFd, DetachError<Self>> {
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
}

impl AsFd for MonoioSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(self.stream())
    }
}

impl std::fmt::Debug for MonoioSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MonoioSocket")
            .field("fd", &self.stream().as_raw_fd())
            .field("in_flight", &self.in_flight.get())
            .finish()
    }
}
