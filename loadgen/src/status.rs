//! The live line while a load runs: one line rewritten on a terminal, as wide as that allows, else one every few seconds.

use std::{
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use terminal_size::terminal_size_of;

use crate::{
    clock::ns,
    latency::{Point, human_us},
    report::{grouped, per_second},
    tally::Measured,
};
/// Longest wait at the end for the line to be removed.
const CLEAR_MAX: Duration = Duration::from_millis(500);

/// Columns of a terminal that does not tell.
const COLUMNS: usize = 80;

/// Columns of what a stream is shown on; no bound where that is no terminal.
pub(crate) fn columns(stream: impl AsFd + IsTerminal) -> usize {
    let is_terminal = stream.is_terminal();
    match terminal_size_of(stream) {
        Some((width, _)) if width.0 > 0 => width.0.into(),
        _ if is_terminal => COLUMNS,
        _ => usize::MAX,
    }
}

/// Shows how it goes, on the error stream. A thread of its own writes there: who does not read must not stop the load.
pub(crate) struct Status {
    /// One line waits at most; nobody needs an old one.
    lines: Option<SyncSender<String>>,
    /// Ends when everything is written.
    written: Receiver<()>,
    terminal: bool,
    every_ns: u64,
    shown_ns: u64,
    clients: u64,
    /// Logins, pushes and deliveries when the line was last shown.
    before: [u64; 3],
}

impl Status {
    /// For so many clients.
    pub(crate) fn new(clients: u32, now_ns: u64) -> Self {
        let terminal = io::stderr().is_terminal();
        let every = Duration::from_secs(if terminal { 1 } else { 5 });
        let (lines, to_write) = sync_channel::<String>(1);
        let (writing, written) = sync_channel(0);
        thread::spawn(move || {
            let _writing: SyncSender<()> = writing;
            for line in to_write {
                let mut out = io::stderr();
                // Nobody to show it to is no reason to stop.
                let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
            }
        });
        Self {
            lines: Some(lines),
            written,
            terminal,
            every_ns: ns(every),
            shown_ns: now_ns,
            clients: clients.into(),
            before: [0; 3],
        }
    }

    /// Shows the line if it is time to; `measured` is only asked for then.
    pub(crate) fn show(&mut self, now_ns: u64, pushes: u64, measured: impl FnOnce() -> Measured) {
        let passed_ns = now_ns.saturating_sub(self.shown_ns);
        if passed_ns < self.every_ns {
            return;
        }
        // A line that is as wide as the terminal, or wider, would be wrapped and not be overwritten.
        let columns = if self.terminal { columns(io::stderr()) - 1 } else { usize::MAX };
        let line = self.line(&measured(), pushes, passed_ns as f64 / 1e9, columns);
        self.shown_ns = now_ns;
        let line = if self.terminal { format!("\r\x1b[K{line}") } else { format!("{line}\n") };
        if let Some(lines) = &self.lines {
            let _ = lines.try_send(line);
        }
    }

    /// Removes the line; nothing is shown after it.
    pub(crate) fn clear(&mut self) {
        if let Some(lines) = self.lines.take().filter(|_| self.terminal) {
            let _ = lines.try_send("\r\x1b[K".to_owned());
        }
        let _ = self.written.recv_timeout(CLEAR_MAX);
    }

    fn line(&mut self, measured: &Measured, pushes: u64, seconds: f64, columns: usize) -> String {
        let tally = &measured.tally;
        let now = [tally.logins, pushes, tally.deliveries];
        let [logins, pushed, deliveries] =
            [0, 1, 2].map(|n| per_second(now[n].saturating_sub(self.before[n]), seconds));
        self.before = now;
        // With each part how important it is, 0 most: what is least so goes first where there is no room.
        let mut parts = vec![(0, format!("{}/{} connected", grouped(tally.open), grouped(self.clients)))];
        if tally.logins + tally.failures.total() < self.clients {
            parts.push((5, logins));
        }
        if tally.failures.total() + tally.disconnects.total() > 0 {
            parts.push((1, format!("{} failed", grouped(tally.failures.total()))));
            parts.push((2, format!("{} disconnected", grouped(tally.disconnects.total()))));
        }
        if pushes > 0 {
            parts.push((6, format!("pushes {pushed}")));
        }
        parts.push((3, format!("deliveries {deliveries}")));
        if let Some(q) = measured.latency.quantiles() {
            for (importance, point) in [(7, Point::P50), (4, Point::P99)] {
                parts.push((importance, format!("{} {}", point.name(), human_us(q.at(point).unwrap_or(0)))));
            }
        }
        fitted(parts, columns)
    }
}

/// The parts in one line, without the least important ones where they do not fit; the most important is cut if need be.
fn fitted(mut parts: Vec<(u8, String)>, columns: usize) -> String {
    loop {
        let line = parts.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("  ");
        if line.chars().count() <= columns {
            return line;
        }
        let least = parts.iter().enumerate().max_by_key(|(_, (importance, _))| *importance);
        match least {
            Some((at, _)) if parts.len() > 1 => _ = parts.remove(at),
            _ => return line.chars().take(columns).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_rates_since_the_last_one() {
        let mut status = Status::new(100, 0);
        let mut measured = Measured::new();
        (measured.tally.open, measured.tally.logins) = (40, 40);
        assert_eq!(status.line(&measured, 0, 2.0, 80), "40/100 connected  20.0/s  deliveries 0/s");
        (measured.tally.open, measured.tally.logins, measured.tally.deliveries) = (99, 100, 16_000);
        measured.tally.disconnects.add("reset");
        measured.latency.record_ns(2_000_000);
        assert_eq!(
            status.line(&measured, 80, 2.0, 200),
            "99/100 connected  0 failed  1 disconnected  pushes 40.0/s  deliveries 8,000/s  p50 2.00 ms  p99 2.00 ms"
        );
    }

    /// Each update left a line behind on a terminal of 80 columns.
    #[test]
    fn what_matters_least_goes_first_where_there_is_no_room() {
        let line = |columns| {
            let mut status = Status::new(10_000, 0);
            let mut measured = Measured::new();
            (measured.tally.open, measured.tally.logins, measured.tally.deliveries) = (9_999, 9_999, 160_000);
            measured.tally.disconnects.add("reset");
            measured.latency.record_ns(2_000_000);
            status.line(&measured, 80, 2.0, columns)
        };
        assert_eq!(line(79), "9,999/10,000 connected  0 failed  1 disconnected  deliveries 80,000/s");
        assert_eq!(line(59), "9,999/10,000 connected  0 failed  1 disconnected");
        assert_eq!(line(22), "9,999/10,000 connected");
        assert_eq!(line(5), "9,999");
        for columns in 1..200 {
            assert!(line(columns).chars().count() <= columns, "{columns}");
        }
    }
}
