#![no_main]
//! The header of the PROXY protocol: read the same however it is cut, and nothing behind it is taken.

use fuzz::{Cut, bounded};
use libfuzzer_sys::fuzz_target;
use proto::proxy::{Fault, HeaderReader, Source, V1_LEN_MAX, V2_BODY_LEN_MAX};

fuzz_target!(|input: &[u8]| bounded(|| {
    let cut = Cut::new(input);
    let whole = read(&[cut.stream]);
    assert_eq!(read(&cut.pieces), whole);
    match whole {
        Ok(Some((source, used))) => {
            let header = &cut.stream[..used];
            assert!(used <= V2_BODY_LEN_MAX + 16);
            let is_text = header.starts_with(b"PROXY ") && header.ends_with(b"\r\n") && used <= V1_LEN_MAX;
            assert!(is_text || header.starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
            assert_eq!(read(&[header]), whole, "what is behind it does not matter");
            assert!(matches!(source, Source::Proxy | Source::Unknown) || used > 16);
        }
        Ok(None) => assert!(cut.stream.len() < V2_BODY_LEN_MAX + 16),
        Err(fault) => assert!(!fault.label().is_empty()),
    }
}));

/// Whose connection it is, and how long the header was.
fn read(pieces: &[&[u8]]) -> Result<Option<(Source, usize)>, Fault> {
    let mut reader = HeaderReader::new();
    let mut used = 0;
    for piece in pieces {
        let mut input = *piece;
        let pushed = reader.push(&mut input);
        used += piece.len() - input.len();
        match pushed? {
            Some(source) => return Ok(Some((source, used))),
            None => assert!(input.is_empty(), "bytes are left"),
        }
    }
    Ok(None)
}
