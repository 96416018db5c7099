//! Reads a client's HTTP/2 frames (RFC 9113) and picks out the header blocks.

use super::block::with_valid_authority;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_LEN: usize = 9;
/// Longest frame, bytes. The server announces no larger limit.
const FRAME_LEN_MAX: usize = 16_384;
/// Longest header block, bytes. The heads of its frames count too, since a block of empty frames would otherwise never
/// end.
const BLOCK_LEN_MAX: usize = 64 << 10;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Bytes of the priority, if a HEADERS frame has one before its part of the block.
const PRIORITY_LEN: usize = 5;

/// A header block is longer than [`BLOCK_LEN_MAX`]. The connection has to end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a header block longer than {BLOCK_LEN_MAX} bytes")]
pub(super) struct BlockTooLong;

/// Reads one connection's bytes on their way from client to server.
///
/// Bytes that break the rules go on as they came, and so does everything after them: the server tells the client what
/// is wrong.
pub(super) struct Frames {
    at: At,
    /// The frames of the header block under way, as they came, then the frame under way.
    held: Vec<u8>,
    /// Where the frame under way begins in `held`.
    frame: usize,
    /// The header block under way.
    block: Vec<u8>,
}

#[derive(Clone, Copy)]
enum At {
    /// This many bytes of the preface have come.
    Preface(usize),
    /// In a frame, or in a header block of several frames, that is held back until it is whole.
    Held,
    /// In a frame of another kind: this many bytes of it are still to come.
    Passing(usize),
    /// Reading has ended; everything goes on as it comes.
    Unread,
}

/// The head of a frame.
struct Head {
    len: usize,
    kind: u8,
    flags: u8,
    stream: [u8; 4],
}

impl Head {
    fn read(bytes: &[u8]) -> Head {
        Head {
            len: usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]),
            kind: bytes[3],
            flags: bytes[4],
            stream: [bytes[5] & 0x7f, bytes[6], bytes[7], bytes[8]],
        }
    }

    fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&[(self.len >> 16) as u8, (self.len >> 8) as u8, self.len as u8]);
        into.extend_from_slice(&[self.kind, self.flags]);
        into.extend_from_slice(&self.stream);
    }
}

impl Frames {
    pub(super) fn new() -> Self {
        Frames { at: At::Preface(0), held: Vec::new(), frame: 0, block: Vec::new() }
    }

    /// How many of the client's next bytes go on untouched. The caller gives the rest to [`Frames::push`].
    pub(super) fn pass(&mut self, bytes: &[u8]) -> usize {
        match &mut self.at {
            At::Unread => bytes.len(),
            At::Passing(left) => {
                let passed = bytes.len().min(*left);
                *left -= passed;
                if *left == 0 {
                    self.at = At::Held;
                }
                passed
            }
            At::Preface(_) | At::Held => 0,
        }
    }

    /// Takes the next bytes of the client, and appends to `out` what can go on.
    pub(super) fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), BlockTooLong> {
        while !bytes.is_empty() {
            match self.at {
                At::Unread | At::Passing(_) => {
                    let (passed, rest) = bytes.split_at(self.pass(bytes));
                    out.extend_from_slice(passed);
                    bytes = rest;
                }
                At::Preface(seen) => {
                    let (passed, rest) = bytes.split_at(bytes.len().min(PREFACE.len() - seen));
                    out.extend_from_slice(passed);
                    bytes = rest;
                    let seen = seen + passed.len();
                    self.at = if !PREFACE[..seen].ends_with(passed) {
                        At::Unread
                    } else if seen == PREFACE.len() {
                        At::Held
                    } else {
                        At::Preface(seen)
                    };
                }
                At::Held => bytes = self.hold(bytes, out)?,
            }
        }
        Ok(())
    }

    /// Ends the reading because the client's bytes end or break the rules. What is held back goes on as it came.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
        self.at = At::Unread;
    }

    /// Takes as much as the head of the frame, or the frame, still needs; returns the rest.
    fn hold<'a>(&mut self, bytes: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], BlockTooLong> {
        let (is_whole, rest) = self.fill(bytes, HEAD_LEN);
        if !is_whole {
            return Ok(rest);
        }
        let head = Head::read(&self.held[self.frame..]);
        let is_first = self.frame == 0;
        if is_first && head.kind != HEADERS {
            out.append(&mut self.held);
            self.at = if head.len == 0 { At::Held } else { At::Passing(head.len) };
            return Ok(rest);
        }
        let belongs = is_first || head.kind == CONTINUATION && head.stream == Head::read(&self.held).stream;
        if !belongs || head.len > FRAME_LEN_MAX {
            self.end(out);
            return Ok(rest);
        }
        if self.frame + HEAD_LEN + head.len > BLOCK_LEN_MAX {
            return Err(BlockTooLong);
        }
        let (is_whole, rest) = self.fill(rest, HEAD_LEN + head.len);
        if is_whole {
            self.whole_frame(&head, out);
        }
        Ok(rest)
    }

    /// Adds to the frame under way until it has `len` bytes. Returns whether it has, and the rest.
    fn fill<'a>(&mut self, bytes: &'a [u8], len: usize) -> (bool, &'a [u8]) {
        let missing = (self.frame + len).saturating_sub(self.held.len());
        let (taken, rest) = bytes.split_at(bytes.len().min(missing));
        self.held.extend_from_slice(taken);
        (taken.len() == missing, rest)
    }

    fn whole_frame(&mut self, head: &Head, out: &mut Vec<u8>) {
        let payload = &self.held[self.frame + HEAD_LEN..];
        let part = if head.kind == HEADERS { part_of_headers(payload, head.flags) } else { Some(payload) };
        let Some(part) = part else {
            return self.end(out);
        };
        self.block.extend_from_slice(part);
        if head.flags & END_HEADERS == 0 {
            self.frame = self.held.len();
            return;
        }
        match with_valid_authority(&self.block) {
            Ok(None) => out.append(&mut self.held),
            Ok(Some(block)) => write_block(&self.held, &block, out),
            Err(_) => return self.end(out),
        }
        self.held.clear();
        self.block.clear();
        self.frame = 0;
    }
}

/// The part of a block in the payload of a HEADERS frame, without padding and priority.
fn part_of_headers(payload: &[u8], flags: u8) -> Option<&[u8]> {
    let mut part = payload;
    if flags & PADDED != 0 {
        let (&padding, rest) = part.split_first()?;
        part = rest.get(..rest.len().checked_sub(padding.into())?)?;
    }
    if flags & PRIORITY != 0 {
        part = part.get(PRIORITY_LEN..)?;
    }
    Some(part)
}

/// Writes a block in frames. The first one keeps stream, flags and priority of the first in `held`, but not its
/// padding.
fn write_block(held: &[u8], block: &[u8], out: &mut Vec<u8>) {
    let first = Head::read(held);
    let priority: &[u8] = if first.flags & PRIORITY != 0 {
        let begin = HEAD_LEN + usize::from(first.flags & PADDED != 0);
        &held[begin..begin + PRIORITY_LEN]
    } else {
        &[]
    };
    let mut prefix = priority;
    let (mut kind, mut flags) = (HEADERS, first.flags & !(PADDED | END_HEADERS));
    let mut rest = block;
    loop {
        let (part, left) = rest.split_at(rest.len().min(FRAME_LEN_MAX - prefix.len()));
        let end = if left.is_empty() { END_HEADERS } else { 0 };
        Head { len: prefix.len() + part.len(), kind, flags: flags | end, stream: first.stream }.write(out);
        out.extend_from_slice(prefix);
        out.extend_from_slice(part);
        if left.is_empty() {
            return;
        }
        (rest, prefix, kind, flags) = (left, &[], CONTINUATION, 0);
    }
}
