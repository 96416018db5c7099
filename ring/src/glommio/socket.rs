//! Client sockets on glommio: awaited, written, handed over.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
    pin::Pin,
    rc::Rc,
};

use bytes::Bytes;
use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use rustix::io::FdFlags;

use crate::{
    descriptor::borrow,
    runtime::{DetachError, Socket},
};

/// A client on glommio.
///
/// glommio keeps a poll armed for each of its streams and reads into the caller's buffer once that is answered. So one
/// that waits needs the stream and the buffer only while it is polled, and another task can write meanwhile.
#[derive(Debug)]
pub struct GlommioSocket {
    stream: RefCell<TcpStream>,
}

impl GlommioSocket {
    /// glommio accepts as accept(2) does.
    pub(super) fn accepted(stream: TcpStream) -> io::Result<Self> {
        let socket = Self { stream: RefCell::new(stream) };
        rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(socket)
    }
}

impl Socket for GlommioSocket {
    fn adopt(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // SAFETY: the descriptor is open, and nobody else owns it: its owner has just given it up.
        let stream = unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) };
        Ok(Self { stream: RefCell::new(stream) })
    }

    async fn receive(&self, buffer: &RefCell<Vec<u8>>) -> io::Result<usize> {
        poll_fn(|context| {
            let mut stream = self.stream.borrow_mut();
            Pin::new(&mut *stream).poll_read(context, &mut buffer.borrow_mut())
        })
        .await
    }

    /// Each send is a system call of its own; only where the kernel has no room the ring waits for it.
    async fn send(&self, bytes: Rc<Bytes>, start: usize) -> (io::Result<()>, usize) {
        let end = bytes.len();
        assert!(start <= end, "a send starts inside its bytes: {start} of {end}");
        let mut next = start;
        while next < end {
            let written = poll_fn(|context| {
                let mut stream = self.stream.borrow_mut();
                Pin::new(&mut *stream).poll_write(context, &bytes[next..])
            });
            match written.await {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), next - start),
                Ok(written) => next += written,
                Err(error) => return (Err(error), next - start),
            }
        }
        (Ok(()), next - start)
    }

    /// glommio does not give a descriptor up, so the connection leaves by a duplicate. Dropping the original cancels its
    /// poll, which has read nothing.
    fn detach(socket: Rc<Self>) -> Result<OwnedFd, DetachError<Self>> {
        let socket = Rc::try_unwrap(socket).map_err(|socket| DetachError { socket })?;
        socket.as_fd().try_clone_to_owned().map_err(|_| DetachError { socket: Rc::new(socket) })
    }
}

impl AsRawFd for GlommioSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.borrow().as_raw_fd()
    }
}

impl AsFd for GlommioSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(self)
    }
}
