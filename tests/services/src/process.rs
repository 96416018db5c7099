//! One server process.

use std::{
    any::Any,
    fs::{self, OpenOptions},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::ports::Ports;

/// Looks at a server that starts, 50 ms apart: three minutes.
const LOOKS: usize = 3600;

/// Sets of ports that a server is tried on.
const TRIES: usize = 3;

/// A server that runs until this is dropped.
pub(crate) struct Process {
    program: &'static str,
    arguments: Vec<String>,
    directory: TempDir,
    child: Child,
    /// Held while it may be started again.
    _ports: Box<dyn Any + Send + Sync>,
}

/// Starts `program` on `N` free ports with the arguments that `arguments` makes of them and of its directory, and waits
/// until `answers`. Somebody who asks nobody can take a port before the server listens on it; then it tries others.
pub(crate) fn start<const N: usize>(
    program: &'static str,
    arguments: impl Fn([u16; N], &Path) -> Vec<String>,
    answers: impl Fn([u16; N]) -> bool,
) -> ([u16; N], Process) {
    let mut said = String::new();
    for _ in 0..TRIES {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let held = Ports::<N>::take();
        let ports = held.numbers;
        let arguments = arguments(ports, directory.path());
        let child = spawn(program, &arguments, directory.path());
        let mut process = Process { program, arguments, directory, child, _ports: Box::new(held) };
        match process.wait(|pid| listens_itself(pid, ports[0]) && answers(ports)) {
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

/// Whether somebody accepts on the port.
pub(crate) fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Whether it is this process that listens on the port: whoever took the port would answer too.
fn listens_itself(pid: u32, port: u16) -> bool {
    let sockets =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let listening: Vec<String> = sockets
        .iter()
        .flat_map(|table| table.lines())
        .filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, "0A", .., inode] = columns.get(..10)? else { return None };
            let (_, at) = local.rsplit_once(':')?;
            (u16::from_str_radix(at, 16) == Ok(port)).then(|| format!("socket:[{inode}]"))
        })
        .collect();
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let links = descriptors.flatten().filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    links.into_iter().any(|link| listening.iter().any(|socket| link.as_os_str() == socket.as_str()))
}

impl Process {
    /// Waits until it answers; with what it logged when it ends before that, or does not in time.
    fn wait(&mut self, answers: impl Fn(u32) -> bool) -> Result<(), String> {
        let mut why = "does not answer".to_owned();
        for _ in 0..LOOKS {
            thread::sleep(Duration::from_millis(50));
            let answers = answers(self.child.id());
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
        self.wait(|_| answers()).unwrap_or_else(|why| panic!("{why}"));
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
    use std::{cell::RefCell, net::TcpListener};

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
