//! A bounded HTTP server: connections, their deadlines, and their end.
//!
//! - [`places`]: who may be connected, and who goes when places are short
//! - [`stream`]: writes with a deadline
//! - [`guard`]: requests of other hosts' web pages

mod guard;
mod metrics;
mod places;
mod stream;

use std::{
    convert::Infallible,
    future::{Future as _, poll_fn},
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{self, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::Service as _;
use tracing::debug;

pub use self::guard::Guard;
pub(crate) use self::metrics::register;
use self::{
    places::{Places, Visit},
    stream::Watched,
};
use crate::{
    accept::accept,
    shutdown::Drain,
    tls::{self, Current, Stream},
};

/// Longest head of a request, bytes: room for the longest URL that HTTP libraries take (64 KiB) and its headers.
const HEAD_LEN_MAX: usize = 128 << 10;

/// After an answer that cuts a body off, the server reads and discards what still comes, for at most so long and so
/// many bytes. Otherwise a client that writes everything before it reads would meet a reset instead of the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 32 << 20;

/// Paths that are answered however many other requests are under way.
pub const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// How long a connection may be idle. This is longer than proxies and clients keep theirs (the longest usual time is
/// ten minutes), so they close it. If the server did, a client could write a request to a connection that is just being
/// closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(650);

/// Bounds of the server.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Longest time for the head of a request to arrive, from its first byte on.
    pub read_timeout: Duration,
    /// Longest time for the other side to take some bytes of an answer.
    pub write_timeout: Duration,
    /// Longest time without a request.
    pub idle_timeout: Duration,
    /// Most connections at once. Beyond that the server closes the oldest idle ones, and requests wait up to a second.
    pub connections: usize,
}

/// The other end of a connection. Each request has it as an extension.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What the connections of a server share.
#[derive(Clone)]
struct Server {
    router: Router,
    guard: Guard,
    limits: HttpLimits,
    places: Arc<Places>,
    drain: Drain,
}

/// The certificates of a listener that speaks TLS.
pub type Https = Current<rustls::ServerConfig>;

/// Serves until the drain begins. Returns when every request under way is answered.
pub async fn serve(
    listeners: Vec<(TcpListener, Option<Https>)>,
    router: Router,
    guard: Guard,
    limits: HttpLimits,
    drain: Drain,
) {
    let server = Server { router, guard, limits, places: Places::new(limits.connections), drain };
    let mut listening = JoinSet::new();
    for (listener, https) in listeners {
        listening.spawn(server.clone().listen(listener, https));
    }
    while listening.join_next().await.is_some() {}
}

impl Server {
    async fn listen(self, listener: TcpListener, https: Option<Https>) {
        let mut serving = JoinSet::new();
        loop {
            let next = async {
                let spare = self.places.spare().await;
                (spare, accept(&listener).await)
            };
            tokio::select! {
                () = self.drain.draining() => break,
                Some(_) = serving.join_next() => {}
                (spare, (stream, peer)) = next => {
                    let (server, https) = (self.clone(), https.clone());
                    let visit = self.places.enter(spare);
                    serving.spawn(async move {
                        if let Some(stream) = server.secured(stream, https, &visit).await {
                            server.connection(stream, Peer(peer), visit).await;
                        }
                    });
                }
            }
        }
        drop(listener);
        while serving.join_next().await.is_some() {}
    }

    /// The connection, after the handshake if it is HTTPS; none if that fails, takes too long, or has to make room.
    async fn secured(&self, stream: TcpStream, https: Option<Https>, visit: &Visit) -> Option<Stream> {
        let Some(https) = https else { return Some(Stream::Clear(stream)) };
        let done = tokio::select! {
            () = self.drain.draining() => return None,
            () = visit.told_to_go() => return None,
            done = tls::accept(stream, https.get()) => done,
        };
        done.map_err(|error| debug!("no HTTPS with whoever calls: {error}")).ok()
    }

    async fn connection(self, stream: Stream, peer: Peer, visit: Arc<Visit>) {
        let HttpLimits { read_timeout, write_timeout, idle_timeout, .. } = self.limits;
        let local = stream.local_addr().map_or(IpAddr::from([0, 0, 0, 0]), |local| local.ip());
        let service = {
            let (server, visit) = (self.clone(), Arc::clone(&visit));
            service_fn(move |request| {
                Box::pin(server.clone().request(request, peer, local, Arc::clone(&visit)))
            })
        };
        let io = TokioIo::new(Watched::new(stream, Arc::clone(&visit), write_timeout));
        let mut connection = http1::Builder::new().max_buf_size(HEAD_LEN_MAX).serve_connection(io, service);
        let mut patience = pin!(sleep(read_timeout));
        let mut told_to_go = pin!(visit.told_to_go());
        let mut draining = pin!(self.drain.draining());
        let (mut is_draining, mut is_told) = (false, false);
        let end = poll_fn(|context| {
            if !is_draining && draining.as_mut().poll(context).is_ready() {
                is_draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            // Poll the connection first, so that a request that has come is seen before `can_go` is asked.
            if let Poll::Ready(result) = connection.poll_without_shutdown(context) {
                return Poll::Ready(End::Finished(result));
            }
            visit.rest();
            is_told = is_told || told_to_go.as_mut().poll(context).is_ready();
            if (is_told && visit.can_go()) || (is_draining && visit.is_idle()) {
                return Poll::Ready(End::SentAway);
            }
            let Some(deadline) = visit.deadline(idle_timeout, read_timeout) else { return Poll::Pending };
            if patience.deadline() != deadline {
                patience.as_mut().reset(deadline);
            }
            patience.as_mut().poll(context).map(|()| End::SentAway)
        });
        match end.await {
            // Nothing was answered, so no answer can be cut off.
            End::SentAway => return,
            End::Finished(Ok(())) => {}
            End::Finished(Err(error)) => debug!(peer = %peer.0, "an HTTP connection failed: {error}"),
        }
        visit.leave();
        linger(connection.into_parts().io.into_inner().stream).await;
    }

    async fn request(
        self,
        request: http::Request<Incoming>,
        peer: Peer,
        local: IpAddr,
        visit: Arc<Visit>,
    ) -> Result<Response, Infallible> {
        let _answering = visit.begin();
        let is_probe = PROBES.contains(&request.uri().path());
        let refused = if is_probe && request.uri().path() != "/metrics" {
            None
        } else {
            self.guard.refuse(local, &request)
        };
        let mut response = if let Some(refused) = refused {
            refused
        } else if is_probe || visit.get_place().await {
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            self.router.clone().call(request).await?
        } else {
            too_many()
        };
        if visit.is_told_to_go() || !visit.has_place() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

/// How a connection ends.
enum End {
    /// It has ended by itself.
    Finished(hyper::Result<()>),
    /// Its time is over, or its place is needed.
    SentAway,
}

/// No place became free for a request within its time.
fn too_many() -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json; charset=utf-8"), (header::RETRY_AFTER, "1")];
    let body = Body::from(r#"{"code":-500,"message":"too many requests at once"}"#);
    (StatusCode::SERVICE_UNAVAILABLE, headers, body).into_response()
}

/// Shuts the way out, then reads for a while what the client still sends.
async fn linger(mut stream: Stream) {
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
    // Errors do not matter, since the connection ends here.
    let _ = timeout(LINGER, rest).await;
}
