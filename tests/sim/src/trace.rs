//! Everything that happens, in order, as one number; and, when somebody wants to read it, as lines.

use std::{collections::VecDeque, fmt::Write as _, hash::Hasher};

use seam::Time;

/// Lines kept: the last ones before a failure.
const LINES_KEPT: usize = 60;

/// What is done with the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lines {
    /// They are not even made.
    #[default]
    Off,
    /// The last ones are kept.
    Last,
    /// All are printed as they happen.
    Print,
}

/// The trace of one run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    lines: Lines,
    kept: VecDeque<String>,
}

impl Trace {
    /// An empty trace.
    pub fn new(lines: Lines) -> Trace {
        Trace { lines, ..Trace::default() }
    }

    /// The number that equal runs share.
    pub fn hash(&self) -> u64 {
        self.finish()
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The last lines, oldest first.
    pub fn into_lines(self) -> Vec<String> {
        self.kept.into()
    }

    /// One event: `hash` puts what it is into the number, `line` says it in words.
    pub fn event(&mut self, now: Time, hash: impl FnOnce(&mut Trace), line: impl FnOnce() -> String) {
        self.events += 1;
        self.write_u64(now.as_micros());
        hash(self);
        if self.lines != Lines::Off {
            let text = format!("{:>12.6}  {}", now.as_micros() as f64 / 1e6, line());
            if self.lines == Lines::Print {
                println!("{text}");
            }
            if self.kept.len() == LINES_KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back(text);
        }
    }
}

/// Bytes for a line: text where it is text, at most 40 of them.
pub(crate) fn short(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes.iter().take(40) {
        match byte {
            b' '..=b'~' => text.push(char::from(*byte)),
            0 => text.push('·'),
            other => {
                let _ = write!(text, "\\{other:02x}");
            }
        }
    }
    if bytes.len() > 40 {
        let _ = write!(text, "… {} B", bytes.len());
    }
    text
}

/// Not for tables: it only has to tell two runs apart, and be quick.
impl Hasher for Trace {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.write_u64(u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
        }
        let mut rest = [0; 8];
        rest[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        self.write_u64(u64::from_le_bytes(rest) ^ (bytes.len() as u64) << 56);
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.hash = (self.hash.rotate_left(23) ^ value).wrapping_mul(0x9fb2_1c65_1e98_df25);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}
