//! goim's side of a mixed cluster: a program on goim's libraries, in its versions.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;

const MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../goim");

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One of them, which speaks in JSON lines; `tests/goim/main.go` lists the commands. It is killed when this is dropped.
pub struct GoPeer {
    child: Child,
    input: Option<ChildStdin>,
    heard: Arc<Heard>,
    listener: Option<JoinHandle<()>>,
    /// Lines that were answers, or the greeting.
    answered: usize,
}

#[derive(Default)]
struct Heard {
    said: Mutex<Said>,
    changed: Condvar,
}

#[derive(Default)]
struct Said {
    lines: Vec<Value>,
    /// It will say no more.
    is_over: bool,
}

impl Heard {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, output: ChildStdout) {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // One that is killed may leave half a line.
            let Ok(line) = serde_json::from_str(&line) else { break };
            self.said().lines.push(line);
            self.changed.notify_all();
        }
        self.said().is_over = true;
        self.changed.notify_all();
    }
}

impl GoPeer {
    /// Starts it with these arguments. The first in a process builds it.
    pub fn start(arguments: &[&str]) -> GoPeer {
        let mut command = Command::new(program());
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("what was built starts");
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        let heard = Arc::<Heard>::default();
        let listening = Arc::clone(&heard);
        let listener = Some(thread::spawn(move || listening.listen(output)));
        GoPeer { child, input, heard, listener, answered: 0 }
    }

    /// Serves goim's `comet` or `logic`, with these replies by method, and the address of it.
    pub fn serve(service: &str, replies: &Value) -> (GoPeer, String) {
        let mut peer = GoPeer::start(&["serve", service, &replies.to_string()]);
        let address = peer.answer()["Address"].as_str().expect("it says where").to_owned();
        (peer, address)
    }

    /// What `look` makes of all it said so far.
    pub fn said<T>(&self, look: impl FnOnce(&[Value]) -> T) -> T {
        look(&self.heard.said().lines)
    }

    /// Sends it a line and waits for the next one of its own. For commands that say nothing unasked.
    pub fn ask(&mut self, line: &Value) -> Value {
        let input = self.input.as_mut().expect("it has not left");
        writeln!(input, "{line}").expect("it reads");
        self.answer()
    }

    fn answer(&mut self) -> Value {
        let is_waiting = |said: &mut Said| said.lines.len() <= self.answered && !said.is_over;
        let waited = self.heard.changed.wait_timeout_while(self.heard.said(), PATIENCE, is_waiting);
        let (said, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let answer = said.lines.get(self.answered).cloned();
        drop(said);
        self.answered += 1;
        answer.unwrap_or_else(|| panic!("the Go peer ended, or does not answer within {PATIENCE:?}"))
    }

    /// Lets it end in good order.
    pub fn leave(&mut self) {
        drop(self.input.take());
        let status = self.child.wait().expect("it is our child");
        self.hear_the_rest();
        assert!(status.success(), "the Go peer ended with {status}");
    }

    /// Kills it, as a crash does. What it said before that can be read.
    pub fn kill(&mut self) {
        // One that ended by itself is as dead.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.hear_the_rest();
    }

    fn hear_the_rest(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.join().expect("it only listens");
        }
    }
}

impl Drop for GoPeer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program, built once in a process. Go fetches the modules when it has not got them, and keeps what it has built.
fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().expect("a test has a path");
        let path = test.with_file_name("goim-peer");
        let mut command = Command::new("go");
        command.args(["build", "-buildvcs=false", "-o"]).arg(&path).arg(".").current_dir(MODULE);
        let output = command.output().unwrap_or_else(|error| panic!("go: {error} (`make deps` installs it)"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "tests/goim cannot be built; the first time it needs Go's module proxy:\n{said}"
        );
        path
    })
}
