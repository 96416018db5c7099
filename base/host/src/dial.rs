//! gRPC connections to the other processes of the cluster, ours and goim's.

use std::{
    error::Error as _,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::{
    Code, ConnectError, Response, Status,
    transport::{Channel, Endpoint, Error, Uri},
};
use tower::service_fn;

use crate::{
    awake,
    tls::{self, Mutual},
};

/// How often a silent connection is probed, as in goim.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A connection whose probe is not answered within this time ends, as in goim.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// How a server is called.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Longest time to connect, and for one call.
    pub limit: Duration,
    /// With which certificates; none: without TLS.
    pub tls: Option<Mutual>,
}

impl Dial {
    /// Without TLS.
    pub fn clear(limit: Duration) -> Dial {
        Dial { limit, tls: None }
    }
}

/// A gRPC server of the cluster. The connection is made with the first call, and again whenever it is lost. Clones
/// share it.
///
/// The server may be goim's, which lacks the services of `halley.v1`. Calling one shows this ([`Peer::ours`]). The
/// result is remembered as long as the connection lasts, since a Halley server may have the same address tomorrow.
#[derive(Clone, Debug)]
pub struct Peer {
    channel: Channel,
    limit: Duration,
    /// How many connections were made so far.
    made: Arc<AtomicU64>,
    /// The number of the last connection that led to goim's server.
    goims: Arc<AtomicU64>,
}

impl Peer {
    /// The server at `address` (`host:port`). Neither connecting nor a call made [`in_time`](Self::in_time) takes
    /// longer than `dial` says. Needs a tokio runtime, and does not wait.
    ///
    /// # Errors
    /// `address` is no address.
    pub fn new(address: &str, dial: &Dial) -> Result<Peer, Error> {
        let Dial { limit, tls } = dial.clone();
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let made = Arc::<AtomicU64>::default();
        let count = Arc::clone(&made);
        let channel = endpoint.connect_with_connector_lazy(service_fn(move |uri: Uri| {
            let (count, tls) = (Arc::clone(&count), tls.clone());
            async move {
                let stream = awake::timeout(limit, connect(&uri, tls)).await??;
                count.fetch_add(1, Relaxed);
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        }));
        Ok(Peer { channel, limit, made, goims: Arc::default() })
    }

    /// Waits for the whole answer, at most for the limit. If this process stood still and the answer lies in the socket
    /// by now, it is read. With tonic's own deadline it would be lost, and what the server did would count as not done.
    ///
    /// # Errors
    /// The server's status, or the transport's. If the time is over, a status that is no [answer](is_answer).
    pub async fn in_time<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        in_time(self.limit, call).await
    }

    /// The channel, for a client of a service.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Whether the last connection led to goim's server, which does not know the calls of `halley.v1`.
    pub fn is_goims(&self) -> bool {
        let goims = self.goims.load(Relaxed);
        goims != 0 && goims == self.made.load(Relaxed)
    }

    /// Makes a call of `halley.v1`. None if the server lacks the service, so that the caller has to use goim's calls.
    pub async fn ours<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Option<Result<Response<T>, Status>> {
        if self.is_goims() {
            return None;
        }
        let before = self.made.load(Relaxed);
        match call.await {
            Err(status) if status.code() == Code::Unimplemented => {
                // The answer came over this connection, unless the call made a new one. In that case the next call
                // shows it.
                self.goims.store(before, Relaxed);
                None
            }
            result => Some(result),
        }
    }
}

/// [`Peer::in_time`] with another limit, for a long answer.
///
/// # Errors
/// The same.
pub async fn in_time<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    awake::timeout(limit, call).await.unwrap_or_else(|elapsed| {
        let mut over = Status::deadline_exceeded(format!("no answer within {limit:?}"));
        over.set_source(Arc::new(elapsed));
        Err(over)
    })
}

/// Whether the server gave this status. If it has a source, the server did not: the connection broke, or the time was
/// over.
pub fn is_answer(status: &Status) -> bool {
    status.source().is_none()
}

/// Whether a failed call never left this process, because no connection could be made.
pub fn never_left(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

async fn connect(uri: &Uri, tls: Option<Mutual>) -> io::Result<tls::Stream> {
    let address = uri.authority().map_or("", |authority| authority.as_str());
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    match tls {
        Some(mutual) => tls::connect(stream, uri.host().unwrap_or(""), mutual.get().client()).await,
        None => Ok(tls::Stream::Clear(stream)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::mpsc::sync_channel,
        thread::{self, JoinHandle},
    };

    use grpc::{
        comet::{RoomsReq, comet_client::CometClient},
        halley::{RenewReq, logic_client::LogicClient},
    };
    use tokio::{net::TcpListener, runtime::Builder, sync::oneshot};
    use tonic::{service::Routes, transport::Server};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    /// A server with no service at all, on a thread of its own.
    struct Served {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        thread: JoinHandle<()>,
    }

    impl Served {
        fn start(address: SocketAddr) -> Served {
            let (stop, stopped) = oneshot::channel();
            let (bound, address_of) = sync_channel(1);
            let thread = thread::spawn(move || {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let listener = TcpListener::bind(address).await.unwrap();
                    bound.send(listener.local_addr().unwrap()).unwrap();
                    let server = Server::builder().add_routes(Routes::default());
                    tokio::spawn(server.serve_with_incoming(crate::accept::incoming(listener, None)));
                    let _ = stopped.await;
                });
            });
            Served { address: address_of.recv().unwrap(), stop, thread }
        }

        /// Its connections are gone when this returns.
        fn stop(self) {
            self.stop.send(()).unwrap();
            self.thread.join().unwrap();
        }
    }

    #[tokio::test]
    async fn who_lacks_a_service_is_asked_again_on_a_new_connection_only() {
        let server = Served::start(([127, 0, 0, 1], 0).into());
        let address = server.address;
        let peer = Peer::new(&address.to_string(), &Dial::clear(LIMIT)).unwrap();
        let ask = async || {
            let mut client = LogicClient::new(peer.channel());
            peer.ours(client.renew(RenewReq::default())).await
        };
        assert!(ask().await.is_none());
        // The first call made the connection, so it could not tell whose answer it was.
        assert!(!peer.is_goims());
        assert!(ask().await.is_none());
        assert!(peer.is_goims());
        server.stop();
        let server = Served::start(address);
        // goim's call, which finds the connection gone and makes a new one.
        for _ in 0..100 {
            let mut client = CometClient::new(peer.channel());
            let status = client.rooms(RoomsReq {}).await.expect_err("it has no service");
            if status.code() == Code::Unimplemented && !peer.is_goims() {
                return server.stop();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it is still taken for goim's");
    }

    #[tokio::test]
    async fn a_call_without_a_connection_never_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Peer::new(&listener.local_addr().unwrap().to_string(), &Dial::clear(LIMIT)).unwrap();
        drop(listener);
        let status = CometClient::new(peer.channel()).rooms(RoomsReq {}).await.expect_err("nobody is there");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(never_left(&status), "{status:?}");
        assert!(!never_left(&Status::unavailable("somebody said so")));
        assert!(Peer::new("no address", &Dial::clear(LIMIT)).is_err());
    }

    #[tokio::test]
    async fn silence_is_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer =
            Peer::new(&listener.local_addr().unwrap().to_string(), &Dial::clear(Duration::from_millis(50)))
                .unwrap();
        let status = peer.in_time(CometClient::new(peer.channel()).rooms(RoomsReq {})).await;
        let status = status.expect_err("nobody accepts it");
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert!(!is_answer(&status) && !never_left(&status), "{status:?}");
    }
}
