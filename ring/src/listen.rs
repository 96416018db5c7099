//! Listening sockets: one per shard on the same port, options set once for all accepted sockets.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use socket2::{Domain, Protocol, Type};

/// What a listening socket and every socket accepted from it are given.
///
/// Linux copies these options from the listening socket, so an accepted connection costs no further
/// system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections the kernel completes and keeps until they are accepted; it lowers the figure to
    /// `net.core.somaxconn`. Beyond it a client's handshake is retried or refused.
    pub backlog: i32,
    /// `SO_SNDBUF` in bytes; the kernel reserves twice as much. `None` lets it grow to megabytes, in
    /// which tens of thousands of frames hide from a reader that stopped.
    pub send_buffer: Option<usize>,
    /// `SO_RCVBUF` in bytes, doubled in the same way.
    pub receive_buffer: Option<usize>,
    /// `SO_KEEPALIVE`, with the host's `net.ipv4.tcp_keepalive_*` times.
    pub keepalive: bool,
    /// `TCP_USER_TIMEOUT`: how long sent bytes may stay unacknowledged before the kernel gives the
    /// connection up. Millisecond precision.
    pub user_timeout: Option<Duration>,
    /// `TCP_NODELAY`: a frame leaves at once instead of waiting for more (Nagle's algorithm).
    pub nodelay: bool,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            backlog: 4096,
            send_buffer: Some(65_536),
            receive_buffer: None,
            keepalive: true,
            user_timeout: None,
            nodelay: true,
        }
    }
}

/// Fails with [`io::ErrorKind::AddrInUse`] when any socket listens on `addr`.
///
/// [`listen`] shares its port between the shards of one process (`SO_REUSEPORT`), and would share it
/// just as silently with a second process of the same user: each would get half of the clients. So
/// ask here first, for every address, before listening on any.
///
/// # Errors
/// `AddrInUse` as above, or whatever else forbids binding (`AddrNotAvailable`, `PermissionDenied`).
pub fn refuse_second_process(addr: SocketAddr) -> io::Result<()> {
    let socket = new_socket(addr)?;
    // Without it, connections of an earlier process still in TIME_WAIT would look like a listener.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(1)
}

/// Listens on `addr`, sharing the port with the other shards of this process.
///
/// The result is nonblocking and closed on exec; [`Listener::from_std`](crate::Listener::from_std)
/// adopts it on the shard's own thread. An IPv6 wildcard address takes IPv4 clients too, whatever
/// `net.ipv6.bindv6only` says.
///
/// # Errors
/// What socket(2), setsockopt(2), bind(2) and listen(2) report.
pub fn listen(addr: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    let socket = new_socket(addr)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.receive_buffer {
        // Before listen(2): the window scale is settled in each client's handshake.
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.set_keepalive(options.keepalive)?;
    socket.set_tcp_user_timeout(options.user_timeout)?;
    socket.set_tcp_nodelay(options.nodelay)?;
    socket.bind(&addr.into())?;
    socket.listen(options.backlog)?;
    Ok(socket.into())
}

fn new_socket(addr: SocketAddr) -> io::Result<socket2::Socket> {
    // socket2 sets CLOEXEC.
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}
