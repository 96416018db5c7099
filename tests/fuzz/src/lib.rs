#![forbid(unsafe_code)]
//! What the fuzz targets share: a bound on the heap, and inputs that say how they are cut.
//!
//! The targets are under `targets/`, one binary each; `tests/fuzz/run.sh` builds and runs them. Each states what must hold
//! for every input, and a panic is a finding.

/// Heap that one input may make the code under test hold at a time, in bytes.
pub const HEAP_MAX: u64 = 16 << 20;

/// Runs one input. libFuzzer's own limit on allocations needs a sanitizer, which the stable toolchain has not.
///
/// # Panics
/// When it held more than [`HEAP_MAX`] bytes at a time.
pub fn bounded(run: impl FnOnce()) {
    let held = allocation_counter::measure(run).bytes_max;
    assert!(held <= HEAP_MAX, "{held} bytes of heap for one input");
}

/// A stream and the pieces it comes in.
#[derive(Debug)]
pub struct Cut<'a> {
    /// All of it.
    pub stream: &'a [u8],
    /// The same, as the network delivers it; a piece may be empty.
    pub pieces: Vec<&'a [u8]>,
}

/// Pieces of one stream at most, but for a stream that comes byte by byte.
const PIECES_MAX: usize = 16;

impl<'a> Cut<'a> {
    /// Reads an input: a byte that says how many pieces are cut off, so many bytes with their lengths, then the stream.
    /// 255 cuts it into single bytes.
    pub fn new(input: &'a [u8]) -> Cut<'a> {
        let (&count, rest) = input.split_first().unwrap_or((&0, &[]));
        if count == u8::MAX {
            return Cut { stream: rest, pieces: rest.chunks(1).collect() };
        }
        let (lengths, stream) = rest.split_at(rest.len().min(usize::from(count) % PIECES_MAX));
        let mut left = stream;
        let mut pieces = Vec::with_capacity(PIECES_MAX);
        for len in lengths {
            let (piece, rest) = left.split_at(left.len().min(usize::from(*len)));
            pieces.push(piece);
            left = rest;
        }
        pieces.push(left);
        Cut { stream, pieces }
    }
}

/// Takes the first byte of an input to choose one of `choices`.
pub fn choose<'a, T: Copy>(choices: &[T], input: &'a [u8]) -> (T, &'a [u8]) {
    let (&byte, rest) = input.split_first().unwrap_or((&0, &[]));
    (choices[usize::from(byte) % choices.len()], rest)
}
