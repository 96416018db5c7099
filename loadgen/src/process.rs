//! What this process asks of the kernel for itself: open files, CPU time, signals.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::{
    resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit},
    time::TimeVal,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// Files that are open whatever the number of clients: standard streams, libraries, a little reserve.
const FILES_BESIDE: u64 = 64;

/// Raises the soft limit of open files so that `sockets` fit; says what is needed when they cannot.
pub(crate) fn allow_sockets(sockets: u64) -> Result<()> {
    let needed = sockets + FILES_BESIDE;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if needed <= soft {
        return Ok(());
    }
    if needed > hard {
        bail!(
            "{sockets} sockets need {needed} open files and the hard limit is {hard}: \
             raise it (`ulimit -Hn {needed}` as root, or LimitNOFILE) or use fewer clients"
        );
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        .with_context(|| format!("raising the limit of open files from {soft} to {hard}"))
}

/// CPU time this process has used, user and system.
pub(crate) fn cpu_time() -> Duration {
    let of = |time: TimeVal| {
        let (seconds, micros) = (time.tv_sec().try_into(), time.tv_usec().try_into());
        Duration::from_secs(seconds.unwrap_or(0)) + Duration::from_micros(micros.unwrap_or(0))
    };
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(Duration::ZERO, |usage| of(usage.user_time()) + of(usage.system_time()))
}

/// True after Ctrl-C, SIGTERM, SIGQUIT, or when the terminal closes: the report is made all the same. The second signal
/// ends the process at once.
pub(crate) fn stop_on_signal() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGQUIT, SIGHUP] {
        // In this order the first signal finds the flag down, and sets it.
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_the_number_needed() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        assert!(allow_sockets(1).is_ok());
        if let Some(too_many) = hard.checked_add(1).filter(|n| *n < u64::MAX - FILES_BESIDE) {
            let why = allow_sockets(too_many).expect_err("above the hard limit").to_string();
            assert!(why.contains(&(too_many + FILES_BESIDE).to_string()), "{why}");
        }
    }
}
