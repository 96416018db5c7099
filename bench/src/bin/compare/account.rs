//! What the kernel charges a server for: every process of it.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

/// A process and all that descend from it.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        next += 1;
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    all
}

/// CPU time of a process and its descendants so far, user and kernel, by their CPU clocks (nanoseconds, not ticks).
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    family(pid)
        .into_iter()
        .map(|pid| {
            let clock =
                clock_getcpuclockid(Pid::from_raw(pid as i32)).context("a process of the server ended")?;
            Ok(duration(clock_gettime(clock)?))
        })
        .sum()
}

/// CPU time of this program so far.
pub(crate) fn own_cpu() -> Result<Duration> {
    Ok(duration(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?))
}

fn duration(time: TimeSpec) -> Duration {
    Duration::new(time.tv_sec() as u64, time.tv_nsec() as u32)
}

/// Memory of a process and its descendants in user space that no file backs, bytes: heaps, stacks, shared memory.
pub(crate) fn memory(pid: u32) -> Result<u64> {
    let mut total = 0;
    for pid in family(pid) {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        total += status
            .lines()
            .filter(|line| line.starts_with("RssAnon:") || line.starts_with("RssShmem:"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>()
            * 1024;
    }
    Ok(total)
}

/// Does somebody listen on this port of 127.0.0.1 or of all addresses?
pub(crate) fn is_listened_on(port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        fs::read_to_string(table).unwrap_or_default().lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, _, state) = (fields.next(), fields.next(), fields.next());
            state == Some("0A") && local.is_some_and(|local| local.ends_with(&wanted))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_counts_with_its_parent() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 20 & while :; do :; done"])
            .spawn()
            .expect("a shell");
        std::thread::sleep(Duration::from_millis(300));
        let (family, cpu, memory) = (family(shell.id()), cpu(shell.id()), memory(shell.id()));
        family.iter().rev().for_each(|pid| {
            let _ = nix::sys::signal::kill(Pid::from_raw(*pid as i32), nix::sys::signal::Signal::SIGKILL);
        });
        let _ = shell.wait();
        assert_eq!(family.len(), 2, "the shell and its sleep");
        assert!(cpu.expect("counted") > Duration::from_millis(20), "it was busy");
        assert!(memory.expect("counted") > 0);
    }

    #[test]
    fn a_listener_is_seen_and_a_free_port_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        assert!(is_listened_on(port));
        drop(listener);
        assert!(!is_listened_on(port));
    }
}
