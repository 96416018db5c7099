//! A connection with or without TLS.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// As it is.
    Clear(TcpStream),
    /// Inside TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Our end's address.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Stream::Clear(stream) => stream.local_addr(),
            Stream::Tls(stream) => stream.get_ref().0.local_addr(),
        }
    }
}

/// Longest time for the server's part of a handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Handshakes that came to nothing here, of services and of HTTPS.
pub(super) static FAILED: AtomicU64 = AtomicU64::new(0);

/// The server's part of a handshake, for at most 5 s. One that fails is counted.
///
/// # Errors
/// The socket's, what is wrong with the client's part, or that its time is over.
pub async fn accept(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<Stream> {
    let done = timeout(HANDSHAKE_MAX, TlsAcceptor::from(config).accept(stream)).await;
    match done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => Ok(Stream::Tls(Box::new(stream.into()))),
        Err(error) => {
            FAILED.fetch_add(1, Relaxed);
            Err(error)
        }
    }
}

/// The client's part of a handshake with `host`, which the other side's certificate must name, until the server has said
/// something: in TLS 1.3 it refuses our certificate only after our part is done. A server of gRPC speaks first. The caller
/// sets the deadline.
///
/// # Errors
/// The socket's, what is wrong with the server's part, or that it has refused us.
pub async fn connect(stream: TcpStream, host: &str, config: Arc<ClientConfig>) -> io::Result<Stream> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?} is no name of a host")))?;
    let mut stream = TlsConnector::from(config).connect(name, stream).await?;
    if stream.fill_buf().await?.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Stream::Tls(Box::new(stream.into())))
}

/// Calls `$method` of what is inside.
macro_rules! inside {
    ($stream:expr, $($method:tt)+) => {
        match $stream.get_mut() {
            Stream::Clear(stream) => Pin::new(stream).$($method)+,
            Stream::Tls(stream) => Pin::new(&mut **stream).$($method)+,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        inside!(self, poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        inside!(self, poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        inside!(self, poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        inside!(self, poll_shutdown(context))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inside!(self, poll_write_vectored(context, buffers))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Clear(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

impl Connected for Stream {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match self {
            Stream::Clear(stream) => stream.connect_info(),
            Stream::Tls(stream) => stream.get_ref().0.connect_info(),
        }
    }
}
