//! What is asked of a client's descriptor, whatever runtime waits on it. Each is one system call that never waits.

use std::{
    io,
    net::Shutdown,
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec};

/// `SIOCOUTQ`, which is `TIOCOUTQ`: equal on every architecture this is built for.
#[cfg(not(any(
    target_arch = "mips",
    target_arch = "mips64",
    target_arch = "powerpc64",
    target_arch = "sparc64"
)))]
const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;

/// The kernel's coarsest clock, which dates what is received.
const JIFFY_MAX: Duration = Duration::from_millis(10);

/// The descriptor of something of a runtime's, for as long as that is borrowed.
pub(crate) fn borrow(owner: &impl AsRawFd) -> BorrowedFd<'_> {
    // SAFETY: all callers pass a stream, a file or a listener of a runtime, which owns its descriptor and closes it only
    // when dropped or unwrapped by value; the result borrows it, so neither can happen first.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

pub(crate) fn has_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut asked = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut asked, Some(&now)) {
        // RDHUP, or the unasked ERR and HUP.
        Ok(ready) => ready > 0,
        // Interrupted: the next call tells.
        Err(_) => false,
    }
}

pub(crate) fn newest_bytes_age(fd: BorrowedFd<'_>) -> Duration {
    // SAFETY: a `tcp_info` is plain integers, for which zero is a value; the kernel writes no more bytes than `len`
    // says there are, and keeps neither pointer.
    let info = unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
        let at = std::ptr::from_mut(&mut info).cast();
        match libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, at, &raw mut len) {
            0 => info,
            _ => return Duration::ZERO,
        }
    };
    Duration::from_millis(info.tcpi_last_data_recv.into()).saturating_sub(JIFFY_MAX)
}

pub(crate) fn shutdown(fd: BorrowedFd<'_>, how: Shutdown) -> io::Result<()> {
    let how = match how {
        Shutdown::Read => rustix::net::Shutdown::Read,
        Shutdown::Write => rustix::net::Shutdown::Write,
        Shutdown::Both => rustix::net::Shutdown::Both,
    };
    Ok(rustix::net::shutdown(fd, how)?)
}

pub(crate) fn set_reset_on_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(fd, Some(Duration::ZERO))?)
}

pub(crate) fn unsent_bytes(fd: BorrowedFd<'_>) -> io::Result<usize> {
    // SAFETY: for SIOCOUTQ the kernel writes one int, which is what the getter makes room for.
    let bytes = unsafe {
        let getter = rustix::ioctl::Getter::<SIOCOUTQ, i32>::new();
        rustix::ioctl::ioctl(fd, getter)?
    };
    Ok(usize::try_from(bytes).unwrap_or(0))
}
