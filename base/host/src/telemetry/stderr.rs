//! Writes to standard error through a bounded queue and one thread, so that nobody waits for whoever reads it.
//!
//! The reader may be a pipe that hangs, a terminal that is held (Ctrl-S) or a full disk. Lines that it does not take
//! are lost and counted, and the log says so when it takes lines again.

use std::{
    io::{self, Write},
    mem,
    sync::{
        Condvar, Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tracing::warn;

/// Most bytes that wait to be written: some thousand lines. Beyond that lines are lost.
const WAITING_BYTES_MAX: usize = 256 << 10;

/// How long a process that ends waits for its last lines to be written.
const FLUSH_MAX: Duration = Duration::from_millis(500);

static STDERR: Queue = Queue::new();

/// How many log lines standard error has not taken since the start of the process, because there was no place for them
/// (nobody reads) or writing failed (a full disk, a closed pipe).
pub fn lost_lines() -> u64 {
    STDERR.lost.load(Relaxed)
}

/// Hands whole lines, each with its end, to the writing thread. Never waits and never fails.
pub fn say(lines: &str) {
    STDERR.put(lines.as_bytes());
}

/// Waits until everything is written, at most half a second. For a process that is about to end.
pub fn flush() {
    STDERR.flush(FLUSH_MAX);
}

/// The writer for `tracing`. Each write is one whole line.
pub(super) struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        STDERR.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Queue {
    state: Mutex<State>,
    /// Notified when there is something to write.
    filled: Condvar,
    /// Notified when everything is written.
    idle: Condvar,
    lost: AtomicU64,
    started: Once,
}

struct State {
    waiting: Vec<u8>,
    /// The thread has taken bytes and is writing them.
    writing: bool,
}

impl Queue {
    const fn new() -> Queue {
        Queue {
            state: Mutex::new(State { waiting: Vec::new(), writing: false }),
            filled: Condvar::new(),
            idle: Condvar::new(),
            lost: AtomicU64::new(0),
            started: Once::new(),
        }
    }

    fn put(&'static self, lines: &[u8]) {
        // If the thread cannot be started, the queue fills up, and lines are lost and counted.
        self.started.call_once(|| {
            let _ = thread::Builder::new().name("log".to_owned()).spawn(|| self.write_to(io::stderr()));
        });
        let mut state = self.lock();
        if state.waiting.len() + lines.len() > WAITING_BYTES_MAX {
            self.lose(lines);
            return;
        }
        state.waiting.extend_from_slice(lines);
        self.filled.notify_one();
    }

    fn flush(&self, longest: Duration) {
        let busy = |state: &mut State| state.writing || !state.waiting.is_empty();
        let waited = self.idle.wait_timeout_while(self.lock(), longest, busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Writes what is put into the queue, for ever.
    fn write_to(&self, to: impl Write) {
        let (mut to, mut batch, mut told) = (Whole { to, torn: false }, Vec::new(), 0);
        loop {
            let mut state = self.lock();
            while state.waiting.is_empty() {
                state.writing = false;
                self.idle.notify_all();
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.writing = true;
            mem::swap(&mut state.waiting, &mut batch);
            drop(state);
            match to.write(&batch) {
                Ok(()) => {
                    let lost = self.lost.load(Relaxed);
                    if lost > told {
                        warn!("{} log lines before this one were lost: nobody took them", lost - told);
                        told = lost;
                    }
                }
                Err(unwritten) => self.lose(unwritten),
            }
            batch.clear();
        }
    }

    fn lose(&self, lines: &[u8]) {
        let lost = lines.iter().filter(|byte| **byte == b'\n').count();
        self.lost.fetch_add(lost as u64, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes lines. If one was cut off, the next write begins a new line.
struct Whole<W> {
    to: W,
    /// The last write ended in the middle of a line.
    torn: bool,
}

impl<W: Write> Whole<W> {
    /// Writes everything, or returns what was not written, beginning with the line that was cut off.
    fn write<'a>(&mut self, lines: &'a [u8]) -> Result<(), &'a [u8]> {
        if self.torn {
            self.to.write_all(b"\n").map_err(|_| lines)?;
            self.torn = false;
        }
        let mut written = 0;
        while written < lines.len() {
            match self.to.write(&lines[written..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    self.torn = written > 0 && lines[written - 1] != b'\n';
                    return Err(&lines[written..]);
                }
                Ok(more) => written += more,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes what it is allowed to, in the order of the answers.
    struct Reader(mpsc::Receiver<io::Result<usize>>, mpsc::SyncSender<Vec<u8>>);

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = self.0.recv().map_err(|_| io::ErrorKind::BrokenPipe)??.min(bytes.len());
            let _ = self.1.send(bytes[..taken].to_vec());
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Written {
        queue: &'static Queue,
        answer: mpsc::SyncSender<io::Result<usize>>,
        taken: mpsc::Receiver<Vec<u8>>,
    }

    fn started() -> Written {
        let queue: &'static Queue = Box::leak(Box::new(Queue::new()));
        queue.started.call_once(|| {});
        let (answer, answers) = mpsc::sync_channel(100);
        let (sender, taken) = mpsc::sync_channel(100);
        thread::spawn(move || queue.write_to(Reader(answers, sender)));
        Written { queue, answer, taken }
    }

    impl Written {
        fn take(&self) -> String {
            self.answer.send(Ok(usize::MAX)).unwrap();
            String::from_utf8(self.taken.recv().unwrap()).unwrap()
        }
    }

    #[test]
    fn lines_are_written_in_their_order() {
        let written = started();
        written.queue.put(b"one\n");
        assert_eq!(written.take(), "one\n");
        written.queue.put(b"two\nthree\n");
        assert_eq!(written.take(), "two\nthree\n");
        written.queue.flush(Duration::from_secs(30));
        assert_eq!(written.queue.lost.load(Relaxed), 0);
    }

    /// A log shipper hung, and with it every thread that had something to say.
    #[test]
    fn who_reads_nothing_costs_lines_and_nobody_waits() {
        let written = started();
        let line = [&[b'.'; 1023][..], b"\n"].concat();
        for _ in 0..2 * WAITING_BYTES_MAX / line.len() {
            written.queue.put(&line);
        }
        let lost = written.queue.lost.load(Relaxed) as usize;
        // The thread may have taken one queue full before it found that nobody reads.
        assert!((1..=WAITING_BYTES_MAX / line.len()).contains(&lost), "{lost}");
        let begin = crate::clock::now();
        written.queue.flush(Duration::from_millis(50));
        assert!(begin.elapsed() >= Duration::from_millis(50));
        // It reads again: nothing of what had a place is lost.
        let mut read = 0;
        while read < 2 * WAITING_BYTES_MAX - lost * line.len() {
            read += written.take().len();
        }
        written.queue.flush(Duration::from_secs(30));
        assert_eq!(written.queue.lost.load(Relaxed) as usize, lost);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_next_line_begins_at_its_beginning() {
        let written = started();
        written.queue.put(b"one\ntwo\nthree\n");
        written.answer.send(Ok(6)).unwrap();
        assert_eq!(written.taken.recv().unwrap(), b"one\ntw");
        written.answer.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        written.queue.flush(Duration::from_secs(30));
        assert_eq!(written.queue.lost.load(Relaxed), 2);
        written.queue.put(b"four\n");
        assert_eq!(written.take() + &written.take(), "\nfour\n");
    }
}
