//! May io_uring be used here? Asked at start with the real sizes, answered with what to change.

use std::io;

use monoio::{IoUringDriver, RuntimeBuilder};
use rustix::{io::Errno, process::Resource};

/// Why the kernel refused io_uring, and what would change that. The epoll driver works regardless.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// `ENOSYS`: the system call does not exist.
    #[error(
        "this kernel or sandbox has no io_uring (ENOSYS); it needs Linux 5.6 or newer, built with CONFIG_IO_URING"
    )]
    Missing,
    /// `EPERM` or `EACCES`: something forbids the system call.
    #[error("{}", describe_forbidden(*.sysctl))]
    Forbidden {
        /// `kernel.io_uring_disabled`: 0 for all, 1 privileged only, 2 nobody; `None` on kernels
        /// without it (before 6.6).
        sysctl: Option<u32>,
    },
    /// `ENOMEM`: the rings of a user without privileges count against a limit.
    #[error(
        "no memory for {rings} rings of {entries} entries (ENOMEM); the rings of a process without CAP_IPC_LOCK \
         count against RLIMIT_MEMLOCK, which is {}: raise it (systemd LimitMEMLOCK=, docker --ulimit memlock=, ulimit -l)",
        describe_limit(*.memlock_bytes)
    )]
    Memory {
        /// Entries of each ring.
        entries: u32,
        /// Rings asked for, one per shard.
        rings: usize,
        /// The soft limit in bytes; `None` when unlimited.
        memlock_bytes: Option<u64>,
    },
    /// `EMFILE` or `ENFILE`: each ring is a descriptor.
    #[error("no descriptor left for a ring: {0}; raise RLIMIT_NOFILE (systemd LimitNOFILE=, ulimit -n)")]
    Descriptors(io::Error),
    /// The ring could be made and lacks operations, or `MONOIO_FORCE_LEGACY_DRIVER` is set.
    #[error("this kernel's io_uring lacks operations the driver needs, or MONOIO_FORCE_LEGACY_DRIVER is set")]
    Operations,
    /// Anything else.
    #[error("io_uring cannot be used: {0}")]
    Other(io::Error),
}

impl Refusal {
    /// Explains the error of building a ring or a runtime over it.
    pub fn explain(error: io::Error, entries: u32, rings: usize) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::NOSYS) => Self::Missing,
            Some(Errno::PERM | Errno::ACCESS) => Self::Forbidden { sysctl: io_uring_disabled() },
            Some(Errno::NOMEM) => {
                let memlock_bytes = rustix::process::getrlimit(Resource::Memlock).current;
                Self::Memory { entries, rings, memlock_bytes }
            }
            Some(Errno::MFILE | Errno::NFILE) => Self::Descriptors(error),
            _ => Self::Other(error),
        }
    }
}

/// Builds `rings` rings of `entries` entries, as the shards will, and takes them down again.
///
/// A tiny ring would pass where the real ones do not fit the memory limit. The kernel returns the
/// memory a little later, so near the limit a shard's own ring can still be refused: explain that by
/// [`Refusal::explain`].
///
/// # Errors
/// Why not, with the setting to change.
pub fn probe_io_uring(entries: u32, rings: usize) -> Result<(), Refusal> {
    let mut built = Vec::with_capacity(rings);
    for _ in 0..rings {
        let ring = RuntimeBuilder::<IoUringDriver>::new().with_entries(entries).build();
        built.push(ring.map_err(|error| Refusal::explain(error, entries, rings))?);
    }
    if monoio::utils::detect_uring() { Ok(()) } else { Err(Refusal::Operations) }
}

fn io_uring_disabled() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

fn describe_forbidden(sysctl: Option<u32>) -> &'static str {
    match sysctl {
        Some(1) => {
            "io_uring is forbidden to unprivileged processes (EPERM, kernel.io_uring_disabled=1): \
             sysctl -w kernel.io_uring_disabled=0, or add the group named by kernel.io_uring_group"
        }
        Some(2..) => {
            "io_uring is forbidden on this host (EPERM, kernel.io_uring_disabled=2): \
             sysctl -w kernel.io_uring_disabled=0"
        }
        Some(0) | None => {
            "io_uring is forbidden (EPERM) though the kernel allows it: most likely a container's seccomp profile; \
             allow io_uring_setup, io_uring_enter and io_uring_register in it"
        }
    }
}

fn describe_limit(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "unlimited".to_owned(), |bytes| format!("{} KiB", bytes / 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(errno: Errno) -> Refusal {
        Refusal::explain(errno.into(), 1024, 4)
    }

    #[test]
    fn each_errno_names_its_cause() {
        assert!(matches!(explain(Errno::NOSYS), Refusal::Missing));
        assert!(matches!(explain(Errno::PERM), Refusal::Forbidden { .. }));
        assert!(matches!(explain(Errno::ACCESS), Refusal::Forbidden { .. }));
        assert!(matches!(explain(Errno::NOMEM), Refusal::Memory { entries: 1024, rings: 4, .. }));
        assert!(matches!(explain(Errno::MFILE), Refusal::Descriptors(_)));
        assert!(matches!(explain(Errno::INVAL), Refusal::Other(_)));
        let not_from_the_kernel = io::Error::other("no errno at all");
        assert!(matches!(Refusal::explain(not_from_the_kernel, 1024, 4), Refusal::Other(_)));
    }

    #[test]
    fn a_memory_refusal_names_the_limit_and_how_to_raise_it() {
        let refusal = Refusal::Memory { entries: 1024, rings: 4, memlock_bytes: Some(65_536) };
        let text = refusal.to_string();
        for part in ["4 rings of 1024", "RLIMIT_MEMLOCK, which is 64 KiB", "LimitMEMLOCK="] {
            assert!(text.contains(part), "{part:?} missing in: {text}");
        }
    }

    #[test]
    fn a_forbidden_ring_names_the_sysctl_only_when_that_is_the_cause() {
        let sysctl = "sysctl -w kernel.io_uring_disabled=0";
        assert!(Refusal::Forbidden { sysctl: Some(1) }.to_string().contains(sysctl));
        assert!(Refusal::Forbidden { sysctl: Some(2) }.to_string().contains(sysctl));
        for sysctl in [Some(0), None] {
            assert!(Refusal::Forbidden { sysctl }.to_string().contains("seccomp"));
        }
    }
}
