//! Ports that a test's server has to itself.
//!
//! A port that the system chose and let go is the next one's who asks, and every outgoing connection asks. So ports are
//! taken where the system gives none, and each is locked for as long as this holds it: for tests of this and of other
//! processes.

use std::{
    fs::{self, File, OpenOptions},
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

/// Below are the ports of services that a machine may run.
const FIRST: u16 = 10_000;

/// Fewer are too few to be alone on.
const ENOUGH: u16 = 1000;

/// `N` ports, one after the other. They are free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Ports<const N: usize> {
    pub(crate) numbers: [u16; N],
    _locks: Vec<File>,
}

impl<const N: usize> Ports<N> {
    /// Takes ports that nobody listens on and no other test has.
    pub(crate) fn take() -> Self {
        static TAKEN: AtomicU16 = AtomicU16::new(0);
        let range = apart(&fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default());
        let places = (range.end - range.start) / N as u16;
        // Processes begin in different places, so that they seldom try one that another has.
        let begin = std::process::id().wrapping_mul(97) as u16;
        for _ in 0..places {
            let place = begin.wrapping_add(TAKEN.fetch_add(1, Relaxed)) % places;
            let first = range.start + place * N as u16;
            let numbers = std::array::from_fn(|n| first + n as u16);
            if let Some(locks) = numbers.into_iter().map(lock).collect::<Option<Vec<File>>>() {
                return Ports { numbers, _locks: locks };
            }
        }
        panic!("no {N} ports are free in {range:?}");
    }
}

/// Ports for programs that this process starts itself: nobody else's until it ends.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let Ports { numbers, _locks: locks } = Ports::take();
    locks.into_iter().for_each(std::mem::forget);
    numbers
}

/// Where the system gives no ports to outgoing connections: below its range, or above. `range` is its two borders.
fn apart(range: &str) -> Range<u16> {
    let mut borders = range.split_whitespace().map(|border| border.parse().unwrap_or(0));
    let (low, high) = (borders.next().unwrap_or(32_768), borders.next().unwrap_or(60_999));
    if low >= FIRST + ENOUGH {
        FIRST..low
    } else if high <= u16::MAX - ENOUGH {
        high + 1..u16::MAX
    } else {
        // It gives all of them; then only the locks are left.
        FIRST..u16::MAX
    }
}

/// None when another test has it, or somebody listens there.
fn lock(port: u16) -> Option<File> {
    let path = directory().join(port.to_string());
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.try_lock().ok()?;
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok()?;
    Some(file)
}

/// Where this user's locks are: the kernel gives them up with the process that has them.
fn directory() -> PathBuf {
    let directory = format!("halley-test-ports-{}", rustix::process::getuid().as_raw());
    let directory = std::env::temp_dir().join(directory);
    fs::create_dir_all(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    directory
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ports_are_taken_where_the_system_gives_none() {
        assert_eq!(apart("32768\t60999\n"), 10_000..32_768);
        assert_eq!(apart("1024 60999"), 61_000..u16::MAX);
        assert_eq!(apart("1024 65535"), 10_000..u16::MAX);
        assert_eq!(apart(""), 10_000..32_768);
    }

    #[test]
    fn nobody_gets_a_port_that_another_has() {
        let taken: Vec<Ports<2>> = (0..50).map(|_| Ports::take()).collect();
        let numbers: HashSet<u16> = taken.iter().flat_map(|ports| ports.numbers).collect();
        assert_eq!(numbers.len(), 100);
        assert!(taken.iter().all(|Ports { numbers: [first, second], .. }| first + 1 == *second));
        // As another process, which has other descriptors, sees them.
        assert!(numbers.into_iter().all(|port| lock(port).is_none()));
        let [port] = Ports::<1>::take().numbers;
        assert!(lock(port).is_some(), "it was given back");
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("it is free");
        assert!(lock(port).is_none(), "somebody listens there");
        drop(listener);
    }
}
