//! goim's frame: `packLen i32 | headerLen i16 = 16 | ver i16 | op i32 | seq i32 | body`, big-endian; packLen counts
//! header and body.
//!
//! [`decode`] looks at one input; [`FrameReader`] keeps what is incomplete between inputs of a TCP stream;
//! [`frames_of_message`] walks one WebSocket message, where nothing may be incomplete.

use crate::op::Op;

/// Length of a frame's header, bytes.
pub const HEADER_LEN: usize = 16;

/// Longest body a client may send, bytes (goim's own limit: packLen ≤ 4112).
pub const CLIENT_BODY_MAX: usize = 4096;

/// Longest body that can be encoded, bytes, since packLen is an i32, also that of an operation 9 frame around it.
/// Wherever bodies enter Halley, the limit is far below.
pub const BODY_LEN_MAX: usize = i32::MAX as usize - 2 * HEADER_LEN;

/// Version of the frames that Halley starts.
pub const VER: i16 = 1;

/// What a header says besides the lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Version. Frames that Halley starts have [`VER`]; a reply copies it from its request, and a client's message to
    /// its room keeps it. Any value is tolerated.
    pub ver: i16,
    /// Operation.
    pub op: Op,
    /// Sequence number. A reply copies it from its request, a push has 0.
    pub seq: i32,
}

/// One complete frame, borrowed from the input it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// Its body.
    pub body: &'a [u8],
}

/// What an input starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// No complete frame yet.
    NeedMore {
        /// How many bytes the input must have in all before another look is worthwhile.
        at_least: usize,
    },
    /// A frame.
    Frame {
        /// The frame.
        frame: Frame<'a>,
        /// Bytes of the input it takes.
        used: usize,
    },
}

/// A frame that no honest peer sends. The connection is closed with
/// [`CloseReason::ProtocolViolation`](crate::close::CloseReason::ProtocolViolation), since the next frame cannot be
/// found any more.
///
/// Offsets count from the start of the frame; in [`frames_of_message`] and
/// [`Encoded::push_frames`](crate::encoded::Encoded::push_frames) they count from the start of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// packLen is below a header's length (or negative).
    #[error("packLen {found} at offset {offset} is below the minimum {HEADER_LEN}")]
    PackLenTooSmall {
        /// Where packLen stands.
        offset: usize,
        /// Its value.
        found: i32,
    },
    /// packLen is above the longest frame allowed.
    #[error("packLen {found} at offset {offset} is above the maximum {limit}")]
    PackLenTooBig {
        /// Where packLen stands.
        offset: usize,
        /// Its value.
        found: i32,
        /// Longest frame allowed, header included, bytes.
        limit: usize,
    },
    /// headerLen is not 16.
    #[error("headerLen {found} at offset {offset} is not {HEADER_LEN}")]
    HeaderLen {
        /// Where headerLen stands.
        offset: usize,
        /// Its value.
        found: i16,
    },
    /// A message ends inside a header.
    #[error("{left} bytes at offset {offset} are less than a header of {HEADER_LEN}")]
    Tail {
        /// Where the incomplete header starts.
        offset: usize,
        /// Bytes of it that are there.
        left: usize,
    },
    /// A frame is longer than the rest of its message.
    #[error("packLen {found} at offset {offset} is above the {left} bytes left in the message")]
    BeyondMessage {
        /// Where packLen stands.
        offset: usize,
        /// Its value.
        found: usize,
        /// Bytes left in the message from there.
        left: usize,
    },
    /// A batch without a single frame.
    #[error("a batch at offset 0 has no frame, the minimum is 1")]
    Empty,
}

impl Violation {
    /// The word for the metric `bad_input_total{reason}`.
    pub const fn label(&self) -> &'static str {
        match self {
            Violation::PackLenTooSmall { .. }
            | Violation::PackLenTooBig { .. }
            | Violation::HeaderLen { .. } => "len",
            Violation::Tail { .. } => "tail",
            Violation::BeyondMessage { .. } => "beyond_message",
            Violation::Empty => "empty",
        }
    }
}

/// Looks for one frame at the start of `input`. Never copies.
///
/// # Errors
/// A [`Violation`] as soon as the bytes that prove it are there: packLen after 4 bytes, headerLen after 6. So no byte
/// of a body comes first.
pub fn decode(input: &[u8], body_max: usize) -> Result<Decoded<'_>, Violation> {
    decode_at(input, 0, body_max)
}

/// [`decode`] of `input`, which begins `base` bytes into a message.
fn decode_at(input: &[u8], base: usize, body_max: usize) -> Result<Decoded<'_>, Violation> {
    let at_least = needed(input, base, body_max)?;
    if input.len() < at_least {
        return Ok(Decoded::NeedMore { at_least });
    }
    let (header, rest) = input.split_at(HEADER_LEN);
    let header = Header {
        ver: i16::from_be_bytes([header[6], header[7]]),
        op: Op(be_i32(header, 8)),
        seq: be_i32(header, 12),
    };
    let frame = Frame { header, body: &rest[..at_least - HEADER_LEN] };
    Ok(Decoded::Frame { frame, used: at_least })
}

/// How many bytes the input must have: a header's while the header is incomplete, after that the frame's.
fn needed(input: &[u8], base: usize, body_max: usize) -> Result<usize, Violation> {
    if input.len() < 4 {
        return Ok(HEADER_LEN);
    }
    let found = be_i32(input, 0);
    let limit = HEADER_LEN + body_max.min(BODY_LEN_MAX);
    let pack_len = match usize::try_from(found) {
        Ok(pack_len) if pack_len >= HEADER_LEN => pack_len,
        _ => return Err(Violation::PackLenTooSmall { offset: base, found }),
    };
    if pack_len > limit {
        return Err(Violation::PackLenTooBig { offset: base, found, limit });
    }
    if input.len() < 6 {
        return Ok(HEADER_LEN);
    }
    let header_len = i16::from_be_bytes([input[4], input[5]]);
    if header_len != HEADER_LEN as i16 {
        return Err(Violation::HeaderLen { offset: base + 4, found: header_len });
    }
    Ok(if input.len() < HEADER_LEN { HEADER_LEN } else { pack_len })
}

/// The i32 at `at`, which the caller has checked to be there.
fn be_i32(input: &[u8], at: usize) -> i32 {
    i32::from_be_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]])
}

/// The 16 bytes before a body of `body_len` bytes.
pub(crate) fn header_bytes(header: Header, body_len: usize) -> [u8; HEADER_LEN] {
    assert!(
        body_len <= BODY_LEN_MAX + HEADER_LEN,
        "every way in limits the body far below {BODY_LEN_MAX} bytes"
    );
    let mut out = [0; HEADER_LEN];
    out[0..4].copy_from_slice(&((HEADER_LEN + body_len) as u32).to_be_bytes());
    out[4..6].copy_from_slice(&(HEADER_LEN as u16).to_be_bytes());
    out[6..8].copy_from_slice(&header.ver.to_be_bytes());
    out[8..12].copy_from_slice(&header.op.0.to_be_bytes());
    out[12..16].copy_from_slice(&header.seq.to_be_bytes());
    out
}

/// Appends one frame to `out`. The body has at most [`BODY_LEN_MAX`] bytes.
pub fn encode(header: Header, body: &[u8], out: &mut Vec<u8>) {
    out.reserve(HEADER_LEN + body.len());
    out.extend_from_slice(&header_bytes(header, body.len()));
    out.extend_from_slice(body);
}

/// Cuts a stream of bytes into frames, whatever pieces it arrives in.
///
/// A frame that lies whole in an input is lent from there. Only an incomplete one is copied. The copy grows with what
/// arrives, up to the limit. Without an incomplete frame the reader owns no memory.
#[derive(Debug, Default)]
pub struct FrameReader {
    /// An incomplete frame; or a complete one that was handed out and that the next call drops; or the header of a
    /// violation, so that the reader stays failed.
    kept: Vec<u8>,
}

impl FrameReader {
    /// A reader at the start of a frame.
    pub const fn new() -> Self {
        FrameReader { kept: Vec::new() }
    }

    /// A reader that goes on with what [`into_partial`](Self::into_partial) of another one returned.
    pub fn from_partial(partial: Vec<u8>) -> Self {
        FrameReader { kept: partial }
    }

    /// Takes the next frame from `input`. If there is no whole one, keeps the rest of `input` and returns `None`. Call
    /// this until it does.
    ///
    /// # Errors
    /// A [`Violation`] as [`decode`] finds it; every later call repeats it.
    pub fn next<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
        body_max: usize,
    ) -> Result<Option<Frame<'s>>, Violation> {
        if self.holds_complete(body_max)? {
            self.kept = Vec::new();
        }
        if self.kept.is_empty() {
            return self.next_in(input, body_max);
        }
        loop {
            let at_least = needed(&self.kept, 0, body_max)?;
            if self.kept.len() == at_least {
                break;
            }
            let missing = at_least - self.kept.len();
            let Some(taken) = input.split_off(..missing.min(input.len())).filter(|taken| !taken.is_empty())
            else {
                return Ok(None);
            };
            self.kept.extend_from_slice(taken);
        }
        match decode(&self.kept, body_max)? {
            Decoded::Frame { frame, .. } => Ok(Some(frame)),
            Decoded::NeedMore { .. } => Ok(None),
        }
    }

    /// [`next`](Self::next) while nothing is kept.
    fn next_in<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
        body_max: usize,
    ) -> Result<Option<Frame<'s>>, Violation> {
        match decode(input, body_max) {
            Ok(Decoded::Frame { frame, used }) => {
                *input = &input[used..];
                Ok(Some(frame))
            }
            Ok(Decoded::NeedMore { .. }) => {
                self.kept.extend_from_slice(input);
                *input = &[];
                Ok(None)
            }
            Err(violation) => {
                self.kept.extend_from_slice(&input[..input.len().min(HEADER_LEN)]);
                Err(violation)
            }
        }
    }

    /// Whether an incomplete frame waits for its rest. Then the deadline for frames runs.
    pub fn has_partial(&self) -> bool {
        !self.kept.is_empty() && !self.holds_complete(BODY_LEN_MAX).unwrap_or(false)
    }

    /// Returns the incomplete frame, which a connection takes along to another shard; empty if there is none.
    pub fn into_partial(self) -> Vec<u8> {
        if self.has_partial() { self.kept } else { Vec::new() }
    }

    /// Whether `kept` is one whole frame, which was handed out.
    fn holds_complete(&self, body_max: usize) -> Result<bool, Violation> {
        Ok(self.kept.len() >= HEADER_LEN && self.kept.len() == needed(&self.kept, 0, body_max)?)
    }
}

/// All frames inside one complete WebSocket message, in order.
///
/// A tail shorter than a header and a packLen beyond the end of the message are a [`Violation`], which is the last
/// item. An empty message has no frames.
pub fn frames_of_message(
    message: &[u8],
    body_max: usize,
) -> impl Iterator<Item = Result<Frame<'_>, Violation>> {
    MessageFrames { message, at: 0, body_max }
}

struct MessageFrames<'a> {
    message: &'a [u8],
    /// Where the next frame starts.
    at: usize,
    body_max: usize,
}

impl<'a> Iterator for MessageFrames<'a> {
    type Item = Result<Frame<'a>, Violation>;

    fn next(&mut self) -> Option<Self::Item> {
        let (offset, rest) = (self.at, &self.message[self.at..]);
        if rest.is_empty() {
            return None;
        }
        let left = rest.len();
        let violation = match decode_at(rest, offset, self.body_max) {
            Ok(Decoded::Frame { frame, used }) => {
                self.at += used;
                return Some(Ok(frame));
            }
            Ok(Decoded::NeedMore { .. }) if left < HEADER_LEN => Violation::Tail { offset, left },
            Ok(Decoded::NeedMore { at_least }) => Violation::BeyondMessage { offset, found: at_least, left },
            Err(violation) => violation,
        };
        self.at = self.message.len();
        Some(Err(violation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header { ver: 1, op: Op(1000), seq: 7 };

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(HEADER, body, &mut out);
        out
    }

    #[test]
    fn a_violation_is_found_before_the_body_and_even_before_the_header_is_whole() {
        let too_small = |found| Violation::PackLenTooSmall { offset: 0, found };
        let too_big = |found| Violation::PackLenTooBig { offset: 0, found, limit: 4112 };
        for (pack_len, violation) in [
            (i32::MIN, too_small(i32::MIN)),
            (-1, too_small(-1)),
            (0, too_small(0)),
            (15, too_small(15)),
            (4113, too_big(4113)),
            (i32::MAX, too_big(i32::MAX)),
        ] {
            assert_eq!(decode(&pack_len.to_be_bytes(), CLIENT_BODY_MAX), Err(violation));
            assert_eq!(violation.label(), "len");
        }
        for header_len in [i16::MIN, -16, -1, 0, 15, 17, i16::MAX] {
            let [a, b] = header_len.to_be_bytes();
            assert_eq!(
                decode(&[0, 0, 0, 16, a, b], CLIENT_BODY_MAX),
                Err(Violation::HeaderLen { offset: 4, found: header_len })
            );
        }
    }

    #[test]
    fn every_prefix_says_how_much_is_needed() {
        let bytes = frame(b"body");
        for len in 0..bytes.len() {
            let at_least = if len < HEADER_LEN { HEADER_LEN } else { bytes.len() };
            assert_eq!(decode(&bytes[..len], CLIENT_BODY_MAX), Ok(Decoded::NeedMore { at_least }), "{len}");
        }
    }

    #[test]
    fn the_longest_body_is_taken_and_the_next_byte_is_left() {
        let body = [9; CLIENT_BODY_MAX];
        let bytes = [frame(&body), vec![0]].concat();
        let wanted = Decoded::Frame { frame: Frame { header: HEADER, body: &body }, used: bytes.len() - 1 };
        assert_eq!(decode(&bytes, CLIENT_BODY_MAX), Ok(wanted));
    }

    #[test]
    fn unusual_versions_operations_and_sequence_numbers_pass() {
        for header in [
            Header { ver: -1, op: Op(-1), seq: -1 },
            Header { ver: i16::MAX, op: Op(i32::MAX), seq: i32::MAX },
            Header { ver: i16::MIN, op: Op(i32::MIN), seq: i32::MIN },
        ] {
            let mut bytes = Vec::new();
            encode(header, b"", &mut bytes);
            let frame = Frame { header, body: b"" };
            assert_eq!(decode(&bytes, 0), Ok(Decoded::Frame { frame, used: HEADER_LEN }));
        }
    }

    #[test]
    fn a_whole_frame_is_lent_from_the_input() {
        let bytes = [frame(b"one"), frame(b"two")].concat();
        let mut input = &bytes[..];
        let mut reader = FrameReader::new();
        let first = reader.next(&mut input, CLIENT_BODY_MAX).unwrap().unwrap();
        assert!(std::ptr::eq(first.body, &bytes[HEADER_LEN..HEADER_LEN + 3]));
        assert_eq!(reader.next(&mut input, CLIENT_BODY_MAX).unwrap().unwrap().body, b"two");
        assert_eq!(reader.next(&mut input, CLIENT_BODY_MAX), Ok(None));
        assert!(!reader.has_partial());
    }

    #[test]
    fn a_partial_frame_moves_to_another_reader() {
        let bytes = [frame(b"first"), frame(b"second")].concat();
        for at in 0..bytes.len() {
            let (mut before, mut after) = bytes.split_at(at);
            let mut bodies = Vec::new();
            let mut reader = FrameReader::new();
            while let Some(frame) = reader.next(&mut before, CLIENT_BODY_MAX).unwrap() {
                bodies.push(frame.body.to_vec());
            }
            assert_eq!(reader.has_partial(), ![0, 21].contains(&at), "{at}");
            let mut reader = FrameReader::from_partial(reader.into_partial());
            while let Some(frame) = reader.next(&mut after, CLIENT_BODY_MAX).unwrap() {
                bodies.push(frame.body.to_vec());
            }
            assert_eq!(bodies, [&b"first"[..], b"second"], "cut at {at}");
        }
    }

    #[test]
    fn a_frame_that_was_handed_out_is_no_partial() {
        let bytes = frame(b"body");
        let mut reader = FrameReader::new();
        assert_eq!(reader.next(&mut &bytes[..10], CLIENT_BODY_MAX), Ok(None));
        assert!(reader.has_partial());
        assert!(reader.next(&mut &bytes[10..], CLIENT_BODY_MAX).unwrap().is_some());
        assert!(!reader.has_partial());
        assert_eq!(reader.into_partial(), b"");
    }

    #[test]
    fn a_reader_stays_failed() {
        let good = frame(b"");
        for bad in [&[0, 0, 0, 1][..], &[0, 0, 0, 16, 0, 15], &[0xff; 40]] {
            for at in 0..bad.len() {
                let mut reader = FrameReader::new();
                let (mut first, mut second) = bad.split_at(at);
                let result = match reader.next(&mut first, CLIENT_BODY_MAX) {
                    Ok(_) => reader.next(&mut second, CLIENT_BODY_MAX).map(|_| ()),
                    Err(violation) => Err(violation),
                };
                assert!(result.is_err());
                assert_eq!(reader.next(&mut &good[..], CLIENT_BODY_MAX).map(|_| ()), result);
            }
        }
    }

    #[test]
    fn a_message_gives_all_its_frames_and_an_empty_one_none() {
        let message = [frame(b"one"), frame(b""), frame(b"three")].concat();
        let bodies: Vec<_> =
            frames_of_message(&message, CLIENT_BODY_MAX).map(|frame| frame.unwrap().body).collect();
        assert_eq!(bodies, [&b"one"[..], b"", b"three"]);
        assert_eq!(frames_of_message(b"", CLIENT_BODY_MAX).count(), 0);
    }

    #[test]
    fn lies_inside_a_message_end_it_and_are_located() {
        let good = frame(b"abc");
        let mut long = frame(b"abc");
        long[3] += 1;
        let mut header_len = frame(b"");
        header_len[5] = 0;
        let mut pack_len = frame(b"");
        pack_len[2] = 0x20;
        for (bad, violation, label) in [
            (&good[..1], Violation::Tail { offset: 19, left: 1 }, "tail"),
            (&good[..15], Violation::Tail { offset: 19, left: 15 }, "tail"),
            (&good[..16], Violation::BeyondMessage { offset: 19, found: 19, left: 16 }, "beyond_message"),
            (&long, Violation::BeyondMessage { offset: 19, found: 20, left: 19 }, "beyond_message"),
            (&header_len, Violation::HeaderLen { offset: 23, found: 0 }, "len"),
            (&pack_len, Violation::PackLenTooBig { offset: 19, found: 0x2010, limit: 4112 }, "len"),
            (&[0; 16], Violation::PackLenTooSmall { offset: 19, found: 0 }, "len"),
        ] {
            let message = [&good, bad].concat();
            let items: Vec<_> = frames_of_message(&message, CLIENT_BODY_MAX).collect();
            let first = Frame { header: HEADER, body: b"abc" };
            assert_eq!(items, [Ok(first), Err(violation)]);
            assert_eq!(violation.label(), label);
        }
    }

    #[test]
    fn a_violation_names_offset_and_limit() {
        let violation = Violation::PackLenTooBig { offset: 19, found: 8208, limit: 4112 };
        assert_eq!(violation.to_string(), "packLen 8208 at offset 19 is above the maximum 4112");
    }
}
