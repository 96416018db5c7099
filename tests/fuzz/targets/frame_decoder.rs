#![no_main]
//! goim's frames from a TCP stream: [`FrameReader`] with any cuts finds what [`decode`] finds in the whole.

use fuzz::{Cut, bounded, choose};
use libfuzzer_sys::fuzz_target;
use proto::{
    encoded::Encoded,
    frame::{
        CLIENT_BODY_MAX, Decoded, FrameReader, HEADER_LEN, Header, Violation, decode, encode,
        frames_of_message,
    },
};

const BODY_MAX: [usize; 4] = [CLIENT_BODY_MAX, 0, 40, usize::MAX];

/// Frames, then what ended them: an incomplete frame of so many bytes, or a violation.
type Found = (Vec<(Header, Vec<u8>)>, Result<usize, Violation>);

fuzz_target!(|input: &[u8]| bounded(|| {
    let (body_max, input) = choose(&BODY_MAX, input);
    let cut = Cut::new(input);
    let whole = by_decode(cut.stream, body_max);
    assert_eq!(by_reader(&cut.pieces, body_max), whole);
    assert_eq!(by_reader(&[cut.stream], body_max), whole);
    as_message(cut.stream, body_max, &whole);
}));

fn by_decode(stream: &[u8], body_max: usize) -> Found {
    let (mut frames, mut rest) = (Vec::new(), stream);
    loop {
        match decode(rest, body_max) {
            Ok(Decoded::Frame { frame, used }) => {
                let mut again = Vec::new();
                encode(frame.header, frame.body, &mut again);
                assert_eq!(again, rest[..used]);
                assert!(frame.body.len() <= body_max);
                frames.push((frame.header, frame.body.to_vec()));
                rest = &rest[used..];
            }
            Ok(Decoded::NeedMore { at_least }) => {
                assert!(at_least > rest.len() && at_least <= HEADER_LEN.saturating_add(body_max));
                return (frames, Ok(rest.len()));
            }
            Err(violation) => return (frames, Err(violation)),
        }
    }
}

/// Between two pieces the connection moves to another shard, with what is incomplete.
fn by_reader(pieces: &[&[u8]], body_max: usize) -> Found {
    let (mut frames, mut reader) = (Vec::new(), FrameReader::new());
    for piece in pieces {
        let mut input = *piece;
        loop {
            match reader.next(&mut input, body_max) {
                Ok(Some(frame)) => frames.push((frame.header, frame.body.to_vec())),
                Ok(None) => break,
                Err(violation) => {
                    assert_eq!(reader.next(&mut &[0; 16][..], body_max), Err(violation), "it stays failed");
                    return (frames, Err(violation));
                }
            }
        }
        assert!(input.is_empty(), "bytes are left");
        let has_partial = reader.has_partial();
        let partial = reader.into_partial();
        assert_eq!(has_partial, !partial.is_empty());
        reader = FrameReader::from_partial(partial);
    }
    (frames, Ok(reader.into_partial().len()))
}

/// The same bytes as one WebSocket message, where nothing may be incomplete; and as the batch of a job.
fn as_message(message: &[u8], body_max: usize, (frames, end): &Found) {
    let mut good = 0;
    let mut failed = false;
    for item in frames_of_message(message, body_max) {
        assert!(!failed, "a violation is the last item");
        match item {
            Ok(frame) => {
                assert_eq!((frame.header, frame.body), (frames[good].0, &frames[good].1[..]));
                good += 1;
            }
            Err(_) => failed = true,
        }
    }
    assert_eq!((good, failed), (frames.len(), *end != Ok(0)));
    if let Ok(push) = Encoded::push_frames(message) {
        assert_eq!(push.tcp(), message);
        assert!(push.frames() >= frames.len());
    }
}
