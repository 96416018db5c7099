//! One server process.

use std::{
    fs::{self, OpenOptions},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Looks at a server that starts, 50 ms apart: a minute.
const LOOKS: usize = 1200;

/// A server that runs until this is dropped.
pub(crate) struct Process {
    program: &'static str,
    arguments: Vec<String>,
    directory: TempDir,
    child: Child,
}

/// Starts `program` on `N` free ports with the arguments that `arguments` makes of them and of its directory.
pub(crate) fn start<const N: usize>(
    program: &'static str,
    arguments: impl FnOnce([u16; N], &Path) -> Vec<String>,
) -> ([u16; N], Process) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ports = free_ports();
    let arguments = arguments(ports, directory.path());
    let child = spawn(program, &arguments, directory.path());
    (ports, Process { program, arguments, directory, child })
}

fn spawn(program: &str, arguments: &[String], directory: &Path) -> Child {
    let log = OpenOptions::new().create(true).append(true).open(directory.join("log")).expect("a log file");
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a second descriptor")).stderr(log);
    command.spawn().unwrap_or_else(|error| panic!("{program}: {error} (`make deps` installs it)"))
}

/// Ports that nobody listens on now.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
}

impl Process {
    /// Waits until somebody accepts on the port.
    pub(crate) fn wait_for_port(&self, port: u16) {
        let what = format!("listen on {port}");
        self.wait_until(&what, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// Waits until it is so.
    pub(crate) fn wait_until(&self, what: &str, mut so: impl FnMut() -> bool) {
        for _ in 0..LOOKS {
            if so() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        panic!("{} does not {what}:\n{log}", self.program);
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

    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.program, &self.arguments, self.directory.path());
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
