//! Lets Go comets call logic's gRPC port.
//!
//! goim's comet names the service `goim.logic/prod/sh`, and grpc-go sends that as `:authority`. Slashes are not allowed
//! there, so the HTTP/2 library under the server resets the stream. [`ValidAuthority`] stands between socket and server
//! and replaces them by dots; no call depends on the name. It passes on everything else byte by byte, and does not look
//! at what the server sends.

mod block;
mod frames;

#[cfg(test)]
mod tests;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use self::frames::Frames;

/// A connection on which every request has an authority that the server accepts.
///
/// Reading fails with `InvalidData` if a header block is longer than 64 KiB. The value holds at most that much, and one
/// read.
pub(super) struct ValidAuthority<S> {
    stream: S,
    frames: Frames,
    /// Bytes for the server. It has read the first `taken` of them.
    ready: Vec<u8>,
    taken: usize,
}

impl<S> ValidAuthority<S> {
    pub(super) fn new(stream: S) -> Self {
        ValidAuthority { stream, frames: Frames::new(), ready: Vec::new(), taken: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ValidAuthority<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let ready = &this.ready[this.taken..];
            if !ready.is_empty() {
                let len = ready.len().min(buffer.remaining());
                buffer.put_slice(&ready[..len]);
                this.taken += len;
                return Poll::Ready(Ok(()));
            }
            this.ready.clear();
            this.taken = 0;

            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            let read = &buffer.filled()[before..];
            if read.is_empty() {
                this.frames.end(&mut this.ready);
                if this.ready.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            // Bytes within a frame of another kind stay where the socket put them.
            let passed = this.frames.pass(read);
            let pushed = this.frames.push(&read[passed..], &mut this.ready);
            // After a failed read the buffer must hold nothing new.
            buffer.set_filled(if pushed.is_ok() { before + passed } else { before });
            pushed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ValidAuthority<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S: Connected> Connected for ValidAuthority<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}
