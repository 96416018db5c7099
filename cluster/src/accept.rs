//! Accepting connections of services and operators, for ever.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::{Stream, stream};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tracing::{Level, warn};

use crate::telemetry::OUTSIDERS;

/// Pause after an accept that failed (no descriptors left), so that it neither ends nor spins.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The next connection. An accept that fails is logged and made again, after a pause: it ends nothing and never spins
/// (goim's accept loops end for ever on one EMFILE).
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Answers are small and whole: nothing is gained by waiting for more of them.
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

/// All connections of a listener, as a gRPC server takes them.
pub fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    stream::unfold(listener, async |listener| {
        let (stream, _) = accept(&listener).await;
        Some((Ok(stream), listener))
    })
}
