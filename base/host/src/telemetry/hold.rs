//! Puts the banner of a start before every other line, although much is tried before the whole banner is known.

use std::{
    io::{self, Write},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde_json::{Map, Value};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::{
    MakeWriter, format,
    time::{FormatTime, SystemTime},
};

use super::{Format, stderr::say};
use crate::clock::now;

/// How long lines are held back at most. If a start takes longer, people want to see why.
const HOLD_MAX: Duration = Duration::from_secs(3);

/// Whether lines are held back. Every line reads this, so it needs no lock afterwards.
static HOLDING: AtomicBool = AtomicBool::new(false);

/// The lines that are held back, and since when.
static HELD: Mutex<Option<(Instant, String)>> = Mutex::new(None);

/// The form of the lines: text until the logs are started.
static FORMAT: OnceLock<Format> = OnceLock::new();

/// Notes the form of the lines.
pub(super) fn remember(format: Format) {
    // The logs are started only once.
    let _ = FORMAT.set(format);
}

/// Holds lines back until something is [`announce`]d, an error is logged, or three seconds have passed.
pub(crate) fn hold_back() {
    *held() = Some((now(), String::new()));
    HOLDING.store(true, Relaxed);
}

/// Writes the banner, a title and rows of names and values, then the lines that were held back.
pub(crate) fn announce(title: &str, rows: &[(&'static str, String)]) {
    say(&match FORMAT.get() {
        Some(Format::Json) => object(title, rows),
        _ => lines(title, rows),
    });
    release();
}

/// Writes the lines that were held back, and holds back no more.
pub(crate) fn release() {
    let mut held = held();
    HOLDING.store(false, Relaxed);
    if let Some((_, kept)) = held.take() {
        say(&kept);
    }
}

fn lines(title: &str, rows: &[(&'static str, String)]) -> String {
    let rows: String = rows.iter().map(|(name, value)| format!("  {name:<20}{value}\n")).collect();
    format!("{title}\n{rows}")
}

/// The banner in one line, in the form of the other lines.
fn object(title: &str, rows: &[(&'static str, String)]) -> String {
    let mut time = String::new();
    // Writing to a string cannot fail.
    let _ = SystemTime.format_time(&mut format::Writer::new(&mut time));
    let mut fields = Map::new();
    let first = [("timestamp", time.as_str()), ("level", "INFO"), ("message", title)];
    for (name, value) in first.into_iter().chain(rows.iter().map(|(name, value)| (*name, value.as_str()))) {
        fields.insert(name.to_owned(), Value::from(value));
    }
    format!("{}\n", Value::Object(fields))
}

fn held() -> MutexGuard<'static, Option<(Instant, String)>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes writers of lines that may be held back.
pub(super) struct Held<M>(pub(super) M);

/// The writer of one line.
pub(super) enum Line<W> {
    Kept,
    Written(W),
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Held<M> {
    type Writer = Line<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        if HOLDING.load(Relaxed) { Line::Kept } else { Line::Written(self.0.make_writer()) }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Self::Writer {
        // After an error the process may end at once, so write what was held back.
        if *about.level() == Level::ERROR && HOLDING.load(Relaxed) {
            release();
        }
        if HOLDING.load(Relaxed) { Line::Kept } else { Line::Written(self.0.make_writer_for(about)) }
    }
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self {
            Line::Written(writer) => writer.write(line),
            Line::Kept => {
                let text = String::from_utf8_lossy(line);
                let is_over = match &mut *held() {
                    Some((since, kept)) => {
                        kept.push_str(&text);
                        since.elapsed() >= HOLD_MAX
                    }
                    // The lines were released just now.
                    None => {
                        say(&text);
                        false
                    }
                };
                if is_over {
                    release();
                }
                Ok(line.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_one_object_or_aligned_lines() {
        let rows = [("HTTP API", "http://127.0.0.1:3111".to_owned()), ("login", "trust".to_owned())];
        assert_eq!(
            lines("logic 1", &rows),
            "logic 1\n  HTTP API            http://127.0.0.1:3111\n  login               trust\n"
        );
        let line = object("logic 1", &rows);
        let object: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (line.lines().count(), &object["message"], &object["login"]),
            (1, &"logic 1".into(), &"trust".into())
        );
        assert!(object["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    }
}
