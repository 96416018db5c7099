//! Sockets of clients: how they connect, end, and fail.

use std::{
    io::{self, ErrorKind, IoSliceMut},
    net::{IpAddr, SocketAddr, TcpStream as StdTcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use mio::net::TcpStream;
use nix::{
    errno::Errno,
    sys::{
        socket::{
            ControlMessageOwned, MsgFlags, recvmsg, setsockopt,
            sockopt::{IpBindAddressNoPort, ReceiveTimestampns},
        },
        time::TimeSpec,
    },
};
use socket2::{Domain, SockRef, Socket, Type};

/// A socket that begins to connect; whether it did shows when it becomes writable.
pub fn connect(target: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), None)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        // The port is chosen at connect, when the target is known: another target may share it.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
        _ => Ok(TcpStream::from_std(StdTcpStream::from(socket))),
    }
}

/// Makes the kernel note when bytes arrive, for [`receive`]; where it does not, none are told.
pub fn note_arrivals(socket: &TcpStream) {
    let _ = setsockopt(socket, ReceiveTimestampns, &true);
}

/// Room for the kernel's note.
pub fn arrival_space() -> Vec<u8> {
    nix::cmsg_space!(TimeSpec)
}

/// Reads what has arrived, and when the last of it did: wall clock, ns. One system call.
pub fn receive(socket: &TcpStream, buffer: &mut [u8], space: &mut [u8]) -> io::Result<(usize, Option<u64>)> {
    let mut parts = [IoSliceMut::new(buffer)];
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(space), MsgFlags::empty())?;
    let arrived = received.cmsgs()?.find_map(|note| match note {
        ControlMessageOwned::ScmTimestampns(at) => {
            Some(at.tv_sec() as u64 * 1_000_000_000 + at.tv_nsec() as u64)
        }
        _ => None,
    });
    Ok((received.bytes, arrived))
}

/// Makes the close of this socket a reset, as a crash would; should the option fail, it is closed in order.
pub fn reset_on_close(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// The few words an error of a socket is counted under.
pub fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset".to_owned(),
        ErrorKind::AddrNotAvailable => "no local port left".to_owned(),
        ErrorKind::TimedOut => "timed out".to_owned(),
        _ => error.to_string(),
    }
}
