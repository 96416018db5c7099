//! Listens, and accepts connections of services and operators, for ever.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::LazyLock,
    time::Duration,
};

use futures_util::{Stream, stream};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::sleep,
};
use tracing::{Level, warn};

use crate::{
    telemetry::OUTSIDERS,
    tls::{self, Mutual},
};

/// Pause after a failed accept (no descriptors left), so that accepting neither ends nor spins.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Most handshakes at once on one listener.
const HANDSHAKES_MAX: usize = 256;

/// Most connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// Whether this machine has IPv6 at all.
static HAS_IPV6: LazyLock<bool> = LazyLock::new(|| Socket::new(Domain::IPV6, Type::STREAM, None).is_ok());

/// What to bind for an address. If it means all addresses and the machine has no IPv6, this is all of IPv4, as Go does
/// for `:port`.
pub fn bindable(addr: SocketAddr) -> SocketAddr {
    either_family(addr, *HAS_IPV6)
}

fn either_family(addr: SocketAddr, has_ipv6: bool) -> SocketAddr {
    match addr {
        SocketAddr::V6(all) if all.ip().is_unspecified() && !has_ipv6 => {
            (Ipv4Addr::UNSPECIFIED, all.port()).into()
        }
        addr => addr,
    }
}

/// Listens on an address. `[::]` takes IPv4 too, whatever `net.ipv6.bindv6only` says.
///
/// # Errors
/// The system's error for this address.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let addr = bindable(addr);
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Connections of an earlier process that are still in TIME_WAIT do not listen, so they must not stand in the way.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts the next connection, and tells its other end; an IPv4 address comes in IPv4 form, whatever the listener is.
/// A failed accept is logged and tried again after a pause, so it ends nothing and never spins (goim's accept loops end
/// for ever on one EMFILE).
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, mut peer)) => {
                peer.set_ip(peer.ip().to_canonical());
                // Answers are small and complete, so waiting for more bytes gains nothing.
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) => {
                OUTSIDERS.log(Level::WARN, || warn!("cannot accept a connection: {error}"));
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// All connections of a listener, as a gRPC server takes them. With `mutual` they are TLS, and nobody comes in without a
/// certificate of its authority. Handshakes are made beside each other. One that fails ends that connection and nothing
/// else, and with more than 256 at once the oldest has to go, so that silence keeps nobody out.
pub fn incoming(
    listener: TcpListener,
    mutual: Option<Mutual>,
) -> impl Stream<Item = io::Result<tls::Stream>> {
    let handshakes = Handshakes { mutual, making: JoinSet::new(), oldest: VecDeque::new() };
    stream::unfold((listener, handshakes), async |(listener, mut handshakes)| {
        let stream = loop {
            tokio::select! {
                (stream, peer) = accept(&listener) => match handshakes.begin(stream, peer) {
                    Some(stream) => break stream,
                    None => continue,
                },
                Some(done) = handshakes.making.join_next() => match done {
                    Ok(Some(stream)) => break stream,
                    // It has failed, or had to go.
                    _ => continue,
                },
            }
        };
        Some((Ok(stream), (listener, handshakes)))
    })
}

/// The handshakes of a listener.
struct Handshakes {
    mutual: Option<Mutual>,
    making: JoinSet<Option<tls::Stream>>,
    /// In the order in which they came; some may be done.
    oldest: VecDeque<AbortHandle>,
}

impl Handshakes {
    /// Begins one, or gives the connection back where there is no TLS.
    fn begin(&mut self, stream: TcpStream, peer: SocketAddr) -> Option<tls::Stream> {
        let Some(mutual) = &self.mutual else { return Some(tls::Stream::Clear(stream)) };
        let config = mutual.get().server();
        self.oldest.retain(|handshake| !handshake.is_finished());
        if self.oldest.len() >= HANDSHAKES_MAX
            && let Some(oldest) = self.oldest.pop_front()
        {
            oldest.abort();
        }
        self.oldest.push_back(self.making.spawn(async move {
            let done = tls::accept(stream, config).await;
            let told = |error: &io::Error| {
                OUTSIDERS.log(Level::WARN, || warn!(%peer, "no TLS with whoever calls: {error}"));
            };
            done.inspect_err(told).ok()
        }));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_those_of_ipv4_where_there_is_no_other() {
        let bound = |addr: &str, has_ipv6| either_family(addr.parse().unwrap(), has_ipv6).to_string();
        assert_eq!(bound("[::]:3101", true), "[::]:3101");
        assert_eq!(bound("[::]:3101", false), "0.0.0.0:3101");
        for addr in ["0.0.0.0:3101", "127.0.0.1:3101", "[::1]:3101"] {
            assert_eq!([bound(addr, true), bound(addr, false)], [addr, addr]);
        }
    }

    #[tokio::test]
    async fn a_wildcard_takes_both_families_and_tells_ipv4_as_ipv4() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        for from in ["127.0.0.1", "::1"] {
            let _client = TcpStream::connect((from, port)).await.unwrap();
            assert_eq!(accept(&listener).await.1.ip().to_string(), from);
        }
    }
}
