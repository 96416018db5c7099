//! Signals. The first of those that end a process begins a drain, the second one ends the process at once. The others
//! end nothing.

use std::{io, thread};

use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::telemetry::flush;

/// Tells every part of the process that it is draining. Clones are the same drain. Once begun, it never ends.
#[derive(Clone, Debug)]
pub struct Drain(watch::Sender<bool>);

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// A drain that has not begun.
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Begins the drain. True if this call did.
    pub fn begin(&self) -> bool {
        !self.0.send_replace(true)
    }

    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the drain has begun; at once if it has. Cancel safe, and may be called again.
    pub async fn draining(&self) {
        // Cannot fail: `self` holds the sender.
        let _ = self.0.subscribe().wait_for(|draining| *draining).await;
    }
}

/// Tells parts of the process that files may have changed (SIGHUP). Clones are the same.
#[derive(Clone, Debug)]
pub struct Reload(watch::Sender<u64>);

impl Default for Reload {
    fn default() -> Self {
        Self::new()
    }
}

impl Reload {
    /// Nobody has asked for one yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Asks for one. False if nobody listens.
    pub fn ask(&self) -> bool {
        self.0.send_modify(|asked| *asked += 1);
        self.0.receiver_count() > 0
    }

    /// Hears of each request from now on; of several while it is busy once.
    pub fn listen(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// Signals that end nothing. By default each would end the process without a word to its clients: when a terminal
/// closes, or when a script means "reload" or "rotate the log".
const HARMLESS: [(SignalKind, &str); 5] = [
    (SignalKind::user_defined1(), "SIGUSR1"),
    (SignalKind::user_defined2(), "SIGUSR2"),
    (SignalKind::alarm(), "SIGALRM"),
    (SignalKind::io(), "SIGIO"),
    (SignalKind::from_raw(30), "SIGPWR"),
];

/// A log file has reached its limit (`ulimit -f`). The failed write is counted. A line about it would fail as well.
const SIGXFSZ: SignalKind = SignalKind::from_raw(25);

/// The signals that end a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// SIGINT, Ctrl-C.
    Interrupt,
    /// SIGQUIT, Ctrl-\.
    Quit,
    /// SIGTERM.
    Terminate,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Begin to drain.
    Drain,
    /// Leave at once with this status.
    Exit(i32),
}

impl Ending {
    /// The first signal of any kind begins the drain. Every later one ends the process with the status that a shell
    /// would give, 128 + number.
    pub const fn response(self, draining: bool) -> Response {
        match (draining, self) {
            (false, _) => Response::Drain,
            (true, Ending::Interrupt) => Response::Exit(130),
            (true, Ending::Quit) => Response::Exit(131),
            (true, Ending::Terminate) => Response::Exit(143),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Ending::Interrupt => "SIGINT",
            Ending::Quit => "SIGQUIT",
            Ending::Terminate => "SIGTERM",
        }
    }
}

/// Handles signals from now on: the first SIGTERM, SIGINT or SIGQUIT begins `drain`, the second one exits the process
/// with status 143, 130 or 131. SIGHUP asks for a `reload`. Others are logged and end nothing.
///
/// A thread of its own waits for them, so that the second one ends even a process whose runtime is stuck.
///
/// # Errors
/// The handlers or the thread cannot be made.
pub fn on_signals(drain: Drain, reload: Reload) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let inside = runtime.enter();
    let (interrupt, quit, terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::quit())?, signal(SignalKind::terminate())?);
    let mut hangup = signal(SignalKind::hangup())?;
    runtime.spawn(async move {
        while hangup.recv().await.is_some() {
            if reload.ask() {
                tracing::info!("SIGHUP: certificates and keys are read anew");
            } else {
                tracing::info!("SIGHUP: ends nothing, and nothing is read anew");
            }
        }
    });
    for (kind, name) in HARMLESS {
        let mut harmless = signal(kind)?;
        runtime.spawn(async move {
            while harmless.recv().await.is_some() {
                tracing::info!("{name}: ends nothing, and nothing is read anew");
            }
        });
    }
    // The signal is received and ignored. What counts is that its default does not happen.
    let file_limit = signal(SIGXFSZ)?;
    drop(inside);
    let wait = move || {
        let _file_limit = file_limit;
        runtime.block_on(listen(drain, interrupt, quit, terminate));
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(())
}

async fn listen(drain: Drain, mut interrupt: Signal, mut quit: Signal, mut terminate: Signal) {
    loop {
        let ending = tokio::select! {
            _ = interrupt.recv() => Ending::Interrupt,
            _ = quit.recv() => Ending::Quit,
            _ = terminate.recv() => Ending::Terminate,
        };
        match ending.response(drain.is_draining()) {
            Response::Drain => {
                tracing::info!("{}: draining, a second signal ends the process at once", ending.name());
                drain.begin();
            }
            Response::Exit(status) => {
                tracing::warn!("{}: leaving without draining to the end", ending.name());
                flush();
                std::process::exit(status);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_who_waits_hears_of_the_drain() {
        let drain = Drain::new();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let drain = drain.clone();
                tokio::spawn(async move { drain.draining().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(!drain.is_draining() && !waiting[0].is_finished());
        assert!(drain.clone().begin());
        for task in waiting {
            task.await.unwrap();
        }
        assert!(drain.is_draining());
    }

    #[tokio::test]
    async fn who_comes_late_need_not_wait_and_it_begins_once() {
        let drain = Drain::new();
        assert!(drain.begin());
        assert!(!drain.begin());
        drain.draining().await;
        drain.clone().draining().await;
    }

    #[test]
    fn the_first_signal_drains_and_the_second_exits_whichever_they_are() {
        for ending in [Ending::Interrupt, Ending::Quit, Ending::Terminate] {
            assert_eq!(ending.response(false), Response::Drain);
        }
        assert_eq!(Ending::Interrupt.response(true), Response::Exit(130));
        assert_eq!(Ending::Quit.response(true), Response::Exit(131));
        assert_eq!(Ending::Terminate.response(true), Response::Exit(143));
    }
}
