//! Sends in batches on a raw io_uring, without a runtime.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
};

use bytes::Bytes;
use io_uring::{IoUring, opcode, types};
use rustix::io::Errno;

/// A ring that only sends: what it is given goes to the kernel in one system call with the next
/// [`submit_and_wait`](Self::submit_and_wait), and each send ends in one completion.
///
/// It belongs to the thread that made it (`SINGLE_ISSUER`), and completions are delivered only while
/// that thread waits for them (`DEFER_TASKRUN`, Linux 6.1). Two sends to one socket keep their order
/// only when the first has completed before the second is begun: wait for it, a short send would
/// otherwise be followed by the next bytes.
pub struct SendRing {
    ring: IoUring,
    /// What the kernel may still use, by `user_data`.
    sends: Vec<Option<InFlight>>,
    free: Vec<u32>,
}

/// One send: kept until its completion was seen.
struct InFlight {
    token: u64,
    /// Open until then, so that the descriptor's number cannot come to mean another socket.
    _socket: Rc<OwnedFd>,
    /// The memory the kernel reads.
    _bytes: Bytes,
}

/// How a send ended.
#[derive(Debug)]
pub struct SendDone {
    /// What [`SendRing::send`] was given.
    pub token: u64,
    /// Bytes taken by the kernel, perhaps fewer than given; or the socket's error.
    pub result: io::Result<usize>,
}

impl SendRing {
    /// A ring for up to `capacity` sends at once (1 to 32,768).
    ///
    /// # Errors
    /// What io_uring_setup(2) reports; [`Refusal::explain`](crate::Refusal::explain) says what to change.
    pub fn new(capacity: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .build(capacity)?;
        Ok(Self { ring, sends: (0..capacity).map(|_| None).collect(), free: (0..capacity).rev().collect() })
    }

    /// Sends begun and not seen to their end.
    pub fn in_flight(&self) -> usize {
        self.sends.len() - self.free.len()
    }

    /// Begins a send with the next submission. False: `capacity` are in flight, nothing was begun.
    ///
    /// Waits in the kernel for room in the socket's buffer, so a peer that does not read holds its
    /// place until the socket is shut.
    pub fn send(&mut self, token: u64, socket: &Rc<OwnedFd>, bytes: &Bytes) -> bool {
        let Some(place) = self.free.pop() else { return false };
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(types::Fd(socket.as_raw_fd()), bytes.as_ptr(), length)
            .flags(rustix::net::SendFlags::NOSIGNAL.bits() as i32)
            .build()
            .user_data(u64::from(place));
        self.sends[place as usize] =
            Some(InFlight { token, _socket: Rc::clone(socket), _bytes: bytes.clone() });
        // SAFETY: the entry names a descriptor and `length` bytes at most of memory that `sends` owns from the line
        // above until `completed` has seen this entry's completion; `Drop` waits for it or leaks them.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // The queue has a place for each of `capacity` sends, and each submission empties it.
        pushed.expect("as many entries as places");
        true
    }

    /// Submits what was begun, and waits until `completions` of all in flight have ended (0: does not wait).
    ///
    /// # Errors
    /// What io_uring_enter(2) reports; a signal only ends the wait.
    pub fn submit_and_wait(&mut self, completions: usize) -> io::Result<()> {
        match self.ring.submit_and_wait(completions.min(self.in_flight())) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes one send that has ended.
    pub fn completed(&mut self) -> Option<SendDone> {
        let entry = self.ring.completion().next()?;
        let place = entry.user_data() as usize;
        let send = self.sends[place].take().expect("each entry completes once");
        self.free.push(place as u32);
        let result =
            usize::try_from(entry.result()).map_err(|_| Errno::from_raw_os_error(-entry.result()).into());
        Some(SendDone { token: send.token, result })
    }
}

impl Drop for SendRing {
    fn drop(&mut self) {
        // What was begun and not submitted goes out, or stays unknown to the kernel with the ring; what waits for a
        // slow peer is cancelled.
        let _ = self.submit_and_wait(0);
        let _ = self.ring.submitter().register_sync_cancel(None, types::CancelBuilder::any());
        while self.in_flight() > 0 {
            if self.submit_and_wait(1).is_err() {
                // Nobody can say any more what the kernel uses: it is kept for ever.
                std::mem::forget(std::mem::take(&mut self.sends));
                return;
            }
            while self.completed().is_some() {}
        }
    }
}

impl std::fmt::Debug for SendRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendRing")
            .field("capacity", &self.sends.len())
            .field("in_flight", &self.in_flight())
            .finish()
    }
}
