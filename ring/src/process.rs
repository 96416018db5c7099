//! Limits and figures of this process.

use std::io;

use rustix::process::{Resource, Rlimit};

/// The limit on open descriptors before and after raising it. A connection needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFileLimit {
    /// The soft limit as found; `None` is unlimited.
    pub before: Option<u64>,
    /// The soft limit now.
    pub after: Option<u64>,
    /// What the soft limit may be raised to without privileges.
    pub hard: Option<u64>,
}

/// Raises the soft limit on open descriptors (`RLIMIT_NOFILE`) to the hard one.
///
/// Many systems start services at a soft limit of 1,024. A refusal shows as `after` below `hard`.
pub fn raise_open_file_limit() -> OpenFileLimit {
    let found = rustix::process::getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: found.maximum, maximum: found.maximum };
    let raised = rustix::process::setrlimit(Resource::Nofile, wanted).is_ok();
    OpenFileLimit {
        before: found.current,
        after: if raised { found.maximum } else { found.current },
        hard: found.maximum,
    }
}

/// Descriptors this process has open. Walks a directory: for metrics and tests, not for hot paths.
///
/// # Errors
/// When `/proc` is not mounted, or no descriptor is left to read it.
pub fn descriptors_open() -> io::Result<usize> {
    // One of them is the directory being read.
    Ok(std::fs::read_dir("/proc/self/fd")?.count().saturating_sub(1))
}

/// Resident anonymous memory of this process in bytes (`RssAnon`): heap and stacks, without the
/// pages of the program file.
///
/// # Errors
/// When `/proc` is not mounted or does not say.
pub fn resident_anonymous_bytes() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    anonymous_bytes(&status)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no RssAnon in /proc/self/status"))
}

fn anonymous_bytes(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_status_file() {
        assert_eq!(
            anonymous_bytes("VmRSS:\t  900 kB\nRssAnon:\t     312 kB\nRssFile:\t 588 kB\n"),
            Some(312 * 1024)
        );
        assert_eq!(anonymous_bytes("VmRSS:\t  900 kB\n"), None);
        assert_eq!(anonymous_bytes("RssAnon:\t many kB\n"), None);
        assert!(resident_anonymous_bytes().unwrap() > 0);
    }

    #[test]
    fn an_opened_file_is_counted() {
        // Other tests of this process open files at the same time, so only a large change is telling.
        let before = descriptors_open().unwrap();
        let held: Vec<_> = (0..200).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert!(descriptors_open().unwrap() >= before + 150, "{} files held", held.len());
    }

    #[test]
    fn the_soft_limit_reaches_the_hard_one() {
        let limit = raise_open_file_limit();
        assert_eq!(limit.after, limit.hard);
        assert_eq!(rustix::process::getrlimit(Resource::Nofile).current, limit.after);
    }
}
