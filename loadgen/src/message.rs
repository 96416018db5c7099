//! The body of a message that loadgen pushes, and the reading of it.
//!
//! Printable, so that `loadgen sub` shows it as it is; hexadecimal digits are lower case:
//!
//! ```text
//! lg1 5f3a09c1 0000002a 0000000f 000000012a05f200 abcdefghi…
//! │   │        │        │        │                └ a to z over and over, up to --size
//! │   │        │        │        └ planned send time: ns since the pushing process started
//! │   │        │        └ sequence number in the stream, from 0
//! │   │        └ stream: one target of the run (a room, a client, everybody)
//! │   └ run: drawn at random by each loadgen process
//! └ the format
//! ```
//!
//! The planned time is of one process's monotonic clock, so latency is measured only where the
//! process that pushes is also the one that reads.

/// The shortest body: everything but the padding, in bytes.
pub const SIZE_MIN: usize = 4 + 9 + 9 + 9 + 16;

/// The longest body `--size` allows: the push limit Halley has by default, 1 MiB.
pub const SIZE_MAX: usize = 1 << 20;

const FORMAT: &[u8] = b"lg1 ";
const LETTERS: usize = 26;
const PADDING: [u8; LETTERS * 40] = padding();

/// What a message of a run says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The run it belongs to.
    pub run: u32,
    /// The target it was pushed to.
    pub stream: u32,
    /// Its place among the messages of that target, from 0.
    pub seq: u32,
    /// When it should have been pushed, in the clock of the pushing process.
    pub planned_ns: u64,
}

/// What a received body turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// A message of this run, whole.
    Ours(Stamp),
    /// Starts like a message of this run but is not what was pushed.
    Damaged,
    /// Somebody else's: another run or another program.
    Foreign,
}

impl Stamp {
    /// Replaces `out` by the body of `size` bytes, at least [`SIZE_MIN`].
    pub fn write(&self, size: usize, out: &mut Vec<u8>) {
        debug_assert!(size >= SIZE_MIN, "checked where --size is read");
        out.clear();
        out.extend_from_slice(FORMAT);
        for field in [self.run, self.stream, self.seq] {
            hex(u64::from(field), 8, out);
            out.push(b' ');
        }
        hex(self.planned_ns, 16, out);
        if size > SIZE_MIN {
            out.push(b' ');
        }
        while out.len() < size {
            let more = PADDING.len().min(size - out.len());
            out.extend_from_slice(&PADDING[..more]);
        }
    }
}

/// Reads a received body; messages of `run` must be `size` bytes and padded as written.
pub fn read(body: &[u8], run: u32, size: usize) -> Body {
    let Some(rest) = body.strip_prefix(FORMAT) else {
        return Body::Foreign;
    };
    let Some((theirs, rest)) = field::<8>(rest) else {
        return Body::Foreign;
    };
    if theirs != u64::from(run) {
        return Body::Foreign;
    }
    let stamp = || -> Option<(Stamp, &[u8])> {
        let (stream, rest) = field::<8>(rest.strip_prefix(b" ")?)?;
        let (seq, rest) = field::<8>(rest.strip_prefix(b" ")?)?;
        let (planned_ns, rest) = field::<16>(rest.strip_prefix(b" ")?)?;
        let stamp =
            Stamp { run, stream: u32::try_from(stream).ok()?, seq: u32::try_from(seq).ok()?, planned_ns };
        Some((stamp, rest))
    };
    match stamp() {
        Some((stamp, rest)) if body.len() == size && is_padding(rest) => Body::Ours(stamp),
        _ => Body::Damaged,
    }
}

fn is_padding(rest: &[u8]) -> bool {
    match rest.split_first() {
        None => true,
        Some((b' ', letters)) => letters.chunks(PADDING.len()).all(|chunk| chunk == &PADDING[..chunk.len()]),
        Some(_) => false,
    }
}

const fn padding() -> [u8; LETTERS * 40] {
    let mut out = [0; LETTERS * 40];
    let mut i = 0;
    while i < out.len() {
        out[i] = b'a' + (i % LETTERS) as u8;
        i += 1;
    }
    out
}

fn hex(value: u64, digits: u32, out: &mut Vec<u8>) {
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(value >> (4 * place) & 15) as usize]);
    }
}

/// Takes `N` lower case hexadecimal digits off the front.
fn field<const N: usize>(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (digits, rest) = bytes.split_first_chunk::<N>()?;
    let mut value = 0;
    for digit in digits {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | u64::from(nibble);
    }
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 0x5f3a_09c1, stream: 42, seq: 15, planned_ns: 5_000_000_000 };

    fn body(size: usize) -> Vec<u8> {
        let mut out = b"leftovers".to_vec();
        STAMP.write(size, &mut out);
        out
    }

    #[test]
    fn the_documented_line_is_what_is_written() {
        let text = String::from_utf8(body(60)).expect("printable");
        assert_eq!(text, "lg1 5f3a09c1 0000002a 0000000f 000000012a05f200 abcdefghijkl");
    }

    #[test]
    fn every_size_from_the_smallest_reads_back() {
        for size in (SIZE_MIN..SIZE_MIN + 60).chain([1039, 1040, 1041, 5000, SIZE_MAX]) {
            let body = body(size);
            assert_eq!(body.len(), size);
            assert_eq!(read(&body, STAMP.run, size), Body::Ours(STAMP), "{size} bytes");
        }
    }

    #[test]
    fn any_changed_byte_after_the_run_is_damage_or_another_stamp() {
        let sound = body(120);
        for at in 12..sound.len() {
            let mut bad = sound.clone();
            bad[at] ^= 0x20;
            assert_eq!(read(&bad, STAMP.run, 120), Body::Damaged, "byte {at}");
        }
    }

    #[test]
    fn a_body_cut_short_or_grown_is_damaged() {
        let sound = body(60);
        assert_eq!(read(&sound[..59], STAMP.run, 60), Body::Damaged);
        assert_eq!(read(&sound[..12], STAMP.run, 60), Body::Damaged);
        let long = [&sound[..], b"m"].concat();
        assert_eq!(read(&long, STAMP.run, 60), Body::Damaged);
    }

    #[test]
    fn another_run_or_program_is_foreign() {
        assert_eq!(read(&body(60), 1, 60), Body::Foreign);
        assert_eq!(read(b"", STAMP.run, 60), Body::Foreign);
        assert_eq!(read(b"hello", STAMP.run, 60), Body::Foreign);
        assert_eq!(read(b"lg1 5f3a", STAMP.run, 60), Body::Foreign);
    }
}
