//! One server process.

use std::{
    fs::{self, OpenOptions},
    hash::{BuildHasher as _, RandomState},
    net::{TcpListener, TcpStream},
    ops::Range,
    path::Path,
    process::{self, Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Looks at a server that starts, 50 ms apart: a minute.
const LOOKS: usize = 1200;

/// Sets of ports that a server is tried on.
const TRIES: usize = 3;

/// A server that runs until this is dropped.
pub(crate) struct Process {
    program: &'static str,
    arguments: Vec<String>,
    directory: TempDir,
    child: Child,
}

/// Starts `program` on `N` free ports with the arguments that `arguments` makes of them and of its directory, and waits
/// until `answers`. A port can be taken by somebody else before the server listens on it; then it tries others.
pub(crate) fn start<const N: usize>(
    program: &'static str,
    arguments: impl Fn([u16; N], &Path) -> Vec<String>,
    answers: impl Fn([u16; N]) -> bool,
) -> ([u16; N], Process) {
    let mut said = String::new();
    for _ in 0..TRIES {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let ports = free_ports();
        let arguments = arguments(ports, directory.path());
        let child = spawn(program, &arguments, directory.path());
        let mut process = Process { program, arguments, directory, child };
        match process.wait(|| answers(ports)) {
            Ok(()) => return (ports, process),
            Err(why) if why.to_ascii_lowercase().contains("address already in use") => said = why,
            Err(why) => panic!("{why}"),
        }
    }
    panic!("{said}");
}

fn spawn(program: &str, arguments: &[String], directory: &Path) -> Child {
    let log = OpenOptions::new().create(true).append(true).open(directory.join("log")).expect("a log file");
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a second descriptor")).stderr(log);
    command.spawn().unwrap_or_else(|error| panic!("{program}: {error} (`make deps` installs it)"))
}

/// Where ports are looked for: below those that the system gives to outgoing connections (from 32,768 on), or one of them
/// would sooner or later stand on the port of a server that is started again.
const PORTS: Range<u16> = 12_000..32_000;

/// Ports that nobody listens on now, each different from those of the last calls of this process.
pub fn free_ports<const N: usize>() -> [u16; N] {
    /// Processes that look at the same time begin at different places.
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU16::new(RandomState::new().hash_one(process::id()) as u16));
    [(); N].map(|()| {
        loop {
            let port = PORTS.start + next.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return port;
            }
        }
    })
}

/// Whether somebody accepts on the port.
pub(crate) fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

impl Process {
    /// Waits until it answers; with what it logged when it ends before that, or does not in time.
    fn wait(&mut self, answers: impl Fn() -> bool) -> Result<(), String> {
        let mut why = "does not answer".to_owned();
        for _ in 0..LOOKS {
            // Whoever took its port may answer too: by now it has found that out.
            thread::sleep(Duration::from_millis(50));
            let answers = answers();
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                why = format!("ended, {status}");
                break;
            }
            if answers {
                return Ok(());
            }
        }
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        Err(format!("{} {why}:\n{log}", self.program))
    }

    /// Its own directory.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn kill(&mut self) {
        // A process that ended by itself is as dead.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on its ports, and waits until it `answers`.
    pub(crate) fn restart(&mut self, answers: impl Fn() -> bool) {
        self.kill();
        self.child = spawn(self.program, &self.arguments, self.directory.path());
        self.wait(answers).unwrap_or_else(|why| panic!("{why}"));
    }

    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        // Not yet waited for, the pid is still its own.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("the process is there");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_server_whose_port_was_taken_meanwhile_is_tried_on_another() {
        let taken = RefCell::new(None);
        let arguments = |[port]: [u16; 1], _: &Path| {
            if taken.borrow().is_none() {
                *taken.borrow_mut() = TcpListener::bind(("127.0.0.1", port)).ok();
            }
            ["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""].map(str::to_owned).to_vec()
        };
        let ([port], _process) = start("redis-server", arguments, |[port]| listens(port));
        let taken = taken.borrow().as_ref().and_then(|taken| taken.local_addr().ok()).expect("it was taken");
        assert_ne!(port, taken.port());
        assert!(listens(port));
    }

    #[test]
    #[should_panic(expected = "no-such-option")]
    fn a_server_that_ends_says_why() {
        let arguments = |_: [u16; 1], _: &Path| vec!["--no-such-option".to_owned(), "1".to_owned()];
        start("redis-server", arguments, |[port]| listens(port));
    }
}
