//! A bounded HTTP server: connections, their deadlines, and their end.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, extract::Request, http};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Sleep, sleep, timeout},
};
use tower::Service as _;
use tracing::debug;

use crate::{accept::accept, shutdown::Drain};

/// Longest head of a request, bytes: room for the longest URL that HTTP libraries take (64 KiB) and its headers.
const HEAD_LEN_MAX: usize = 128 << 10;

/// After an answer that cut a body off: how long, and how many bytes of the rest, are thrown away as they come. Without
/// that a client that only reads when it has written all it wants meets a reset instead of the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 32 << 20;

/// Bounds of the server.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Time for the head of a request, and for the next one to come.
    pub read_timeout: Duration,
    /// Time in which the other side must take something of an answer.
    pub write_timeout: Duration,
    /// Connections at once; more wait in the kernel.
    pub connections: usize,
}

/// The other end of a connection, as a request's extension.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Serves until the drain begins; returns when every request under way was answered.
pub async fn serve(listeners: Vec<TcpListener>, router: Router, limits: HttpLimits, drain: Drain) {
    let connections = Arc::new(Semaphore::new(limits.connections));
    let mut listening = JoinSet::new();
    for listener in listeners {
        listening.spawn(listen(listener, router.clone(), limits, Arc::clone(&connections), drain.clone()));
    }
    while listening.join_next().await.is_some() {}
}

async fn listen(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    connections: Arc<Semaphore>,
    drain: Drain,
) {
    let mut serving = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (permit, accept(&listener).await)
        };
        tokio::select! {
            () = drain.draining() => break,
            Some(_) = serving.join_next() => {}
            (permit, (stream, peer)) = next => {
                let connection = connection(stream, Peer(peer), router.clone(), limits, drain.clone());
                serving.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
        }
    }
    drop(listener);
    while serving.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, peer: Peer, router: Router, limits: HttpLimits, drain: Drain) {
    let service = service_fn(move |request: http::Request<Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(peer);
        router.clone().call(request)
    });
    let io = TokioIo::new(WriteDeadline::new(stream, limits.write_timeout));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.read_timeout)
        .max_buf_size(HEAD_LEN_MAX)
        .serve_connection(io, service);
    let mut is_draining = false;
    loop {
        let end = std::future::poll_fn(|context| connection.poll_without_shutdown(context));
        tokio::select! {
            result = end => {
                if let Err(error) = result {
                    debug!(peer = %peer.0, "an HTTP connection failed: {error}");
                }
                break;
            }
            () = drain.draining(), if !is_draining => {
                is_draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
    linger(connection.into_parts().io.into_inner().stream).await;
}

/// Ends the way out, then reads what the client still sends, for a while.
async fn linger(mut stream: TcpStream) {
    let rest = async {
        stream.shutdown().await?;
        let (mut buffer, mut left) = (vec![0; 16 << 10], LINGER_BYTES_MAX);
        loop {
            match stream.read(&mut buffer).await? {
                0 => return Ok::<(), io::Error>(()),
                read if read < left => left -= read,
                _ => return Ok(()),
            }
        }
    };
    // Whatever goes wrong here, the connection is at its end.
    let _ = timeout(LINGER, rest).await;
}

/// A stream whose writes fail when the other side takes nothing for too long.
struct WriteDeadline {
    stream: TcpStream,
    timeout: Duration,
    /// Runs while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl WriteDeadline {
    fn new(stream: TcpStream, timeout: Duration) -> Self {
        WriteDeadline { stream, timeout, deadline: None }
    }

    /// Passes on what a write says, or that it took too long.
    fn within<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match write(Pin::new(&mut self.stream), context) {
            Poll::Pending => {
                let timeout = self.timeout;
                let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(timeout)));
                ready!(deadline.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            done => {
                self.deadline = None;
                done
            }
        }
    }
}

impl AsyncRead for WriteDeadline {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for WriteDeadline {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.within(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.within(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.within(context, |stream, context| stream.poll_shutdown(context))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.within(context, |stream, context| stream.poll_write_vectored(context, buffers))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
