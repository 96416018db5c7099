//! One connection to a server, with or without TLS.

use std::{io, sync::Arc, time::Duration};

use futures_util::future::select_ok;
use redis::{
    AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, RedisError, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    io::tcp::socket2::{SockRef, TcpKeepalive},
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

use super::HostPort;

/// The kernel probes a silent server this often, and closes the connection after [`SILENCE_MAX`]. This matters to
/// connections that only wait.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How long a server may leave our bytes unacknowledged.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// A connection. Clones share it; with the last of them it ends, whatever is under way.
#[derive(Clone, Debug)]
pub struct Connection {
    shared: MultiplexedConnection,
    _driver: Arc<Driver>,
}

/// The task that moves the bytes.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Connects and logs in; over TLS where there is a configuration for it. It has no deadline.
    ///
    /// The client of the crate `redis` would read the machine's authorities at every connection, and refuse all servers if
    /// one of these files is broken.
    pub(super) async fn open(
        addr: &HostPort,
        tls: Option<&Arc<ClientConfig>>,
        login: &RedisConnectionInfo,
    ) -> RedisResult<Connection> {
        let stream = reach(addr).await?;
        let Some(tls) = tls else { return Connection::start(stream, login).await };
        let name = ServerName::try_from(addr.host.clone()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
        Connection::start(stream, login).await
    }

    async fn start<S>(stream: S, login: &RedisConnectionInfo) -> RedisResult<Connection>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Each command gets its own deadline instead, since a blocking read waits longer.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let (shared, driver) = MultiplexedConnection::new_with_config(login, stream, config).await?;
        Ok(Connection { shared, _driver: Arc::new(Driver(tokio::spawn(driver))) })
    }
}

/// Connects to the first of the host's addresses that answers.
async fn reach(addr: &HostPort) -> Result<TcpStream, RedisError> {
    let found: Vec<_> = lookup_host((addr.host.as_str(), addr.port)).await?.collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into());
    }
    let (stream, _) = select_ok(found.into_iter().map(|addr| Box::pin(TcpStream::connect(addr)))).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE))?;
    socket.set_tcp_user_timeout(Some(SILENCE_MAX))?;
    Ok(stream)
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.shared.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.shared.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.shared.get_db()
    }
}
