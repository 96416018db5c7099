//! How long this thread waited for a CPU although it could run.

use std::{fs::File, os::unix::fs::FileExt};

/// Linux's account of one thread's time on the run queue, `/proc/<pid>/task/<tid>/schedstat`. Without it (the kernel
/// may be built so) no waiting is seen.
pub(crate) struct RunQueue {
    schedstat: Option<File>,
    waited_ns: u64,
}

impl RunQueue {
    /// Of the calling thread, which must be the one that asks later.
    pub(crate) fn of_this_thread() -> Self {
        let schedstat = File::open("/proc/thread-self/schedstat").ok();
        let mut queue = Self { schedstat, waited_ns: 0 };
        queue.waited_since();
        queue
    }

    /// How long it waited since it was asked before, in ns.
    pub(crate) fn waited_since(&mut self) -> u64 {
        let mut text = [0; 96];
        let total = self
            .schedstat
            .as_ref()
            .and_then(|file| file.read_at(&mut text, 0).ok())
            .and_then(|length| waited(&text[..length]))
            .unwrap_or(self.waited_ns);
        let since = total.saturating_sub(self.waited_ns);
        self.waited_ns = total;
        since
    }
}

/// The second of the three numbers: ns on the run queue.
fn waited(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_number_is_the_waiting() {
        assert_eq!(waited(b"2092432 17855 5\n"), Some(17_855));
        assert_eq!(waited(b"2092432"), None);
        assert_eq!(waited(b""), None);
    }

    #[test]
    fn a_kernel_without_the_account_shows_no_waiting() {
        let mut queue = RunQueue { schedstat: None, waited_ns: 0 };
        assert_eq!(queue.waited_since(), 0);
    }
}
