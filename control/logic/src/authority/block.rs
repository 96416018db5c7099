//! One header block: its fields, as RFC 7541 section 6 writes them, and the `:authority` among them.
//!
//! The new authority is as long as the old one. So its entry in the dynamic table takes the same room, every later
//! index means what the client meant, and the block can be changed where it stands: no table is kept here, no later
//! block needs to be written anew, and what may be wrong with a block is for the server to say.

use std::{cell::RefCell, ops::Range};

use axum::http::uri::Authority;
// Only the Huffman code is taken from the library in what is shipped; the tests use its decoder. loona-hpack is what
// became of hpack-rs and of fluke-hpack, to which RUSTSEC-2023-0084 (`hpack` is unmaintained) sends people. It has no
// unsafe code, and bad input is an error in it, never a panic.
use loona_hpack::huffman::HuffmanDecoder;

thread_local! {
    /// The code's table, which takes some microseconds to build.
    static HUFFMAN: RefCell<HuffmanDecoder> = RefCell::new(HuffmanDecoder::new());
}

/// Where the static table has `:authority`.
const AUTHORITY_INDEX: usize = 1;

/// No header block of RFC 7541.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The block with a valid `:authority`; `None` when it needs no change. Only the name from the static table is looked
/// for, which every known client uses; under another the authority stays as it is.
pub(super) fn with_valid_authority(block: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut fields = Fields { block, at: 0 };
    let mut changed: Option<(Vec<u8>, usize)> = None;
    while let Some(&first) = block.get(fields.at) {
        // The bits before a field's index say what it is.
        let prefix = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let index = fields.integer(prefix)?;
        let is_literal = matches!(prefix, 4 | 6);
        if !is_literal {
            continue;
        }
        if index == 0 {
            fields.text()?;
        }
        let begin = fields.at;
        let value = fields.text()?;
        if index != AUTHORITY_INDEX {
            continue;
        }
        if let Some(authority) = valid(&value.decoded(block)?) {
            let (bytes, copied) = changed.get_or_insert_with(|| (Vec::with_capacity(block.len() + 16), 0));
            bytes.extend_from_slice(&block[*copied..begin]);
            write_text(&authority, bytes);
            *copied = fields.at;
        }
    }
    Ok(changed.map(|(mut bytes, copied)| {
        bytes.extend_from_slice(&block[copied..]);
        bytes
    }))
}

/// A valid authority of the same length, a dot in the place of whatever does not belong into a name; `None` when this
/// one is valid already, or empty.
fn valid(authority: &[u8]) -> Option<Vec<u8>> {
    if authority.is_empty() || Authority::try_from(authority).is_ok() {
        return None;
    }
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    Some(authority.iter().map(|&byte| if in_name(byte) { byte } else { b'.' }).collect())
}

/// A string as it stands in a block.
struct Text {
    bytes: Range<usize>,
    is_huffman: bool,
}

impl Text {
    fn decoded(&self, block: &[u8]) -> Result<Vec<u8>, Malformed> {
        let bytes = &block[self.bytes.clone()];
        if self.is_huffman {
            HUFFMAN.with_borrow_mut(|huffman| huffman.decode(bytes)).map_err(|_| Malformed)
        } else {
            Ok(bytes.to_vec())
        }
    }
}

/// Writes a string as it is, without the Huffman code.
fn write_text(text: &[u8], into: &mut Vec<u8>) {
    let (mut len, prefix) = (text.len(), 0x7f);
    if len < prefix {
        into.push(len as u8);
    } else {
        into.push(prefix as u8);
        len -= prefix;
        while len >= 0x80 {
            into.push((len % 0x80) as u8 | 0x80);
            len /= 0x80;
        }
        into.push(len as u8);
    }
    into.extend_from_slice(text);
}

/// Reads through a block.
struct Fields<'a> {
    block: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = *self.block.get(self.at).ok_or(Malformed)?;
        self.at += 1;
        Ok(byte)
    }

    /// An integer whose first bits are the last `prefix` ones of a byte (section 5.1); five bytes at most.
    fn integer(&mut self, prefix: u32) -> Result<usize, Malformed> {
        let mask = (1 << prefix) - 1;
        let mut value = usize::from(self.byte()?) & mask;
        if value < mask {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// A string (section 5.2), skipped.
    fn text(&mut self) -> Result<Text, Malformed> {
        let is_huffman = self.block.get(self.at).is_some_and(|byte| byte & 0x80 != 0);
        let len = self.integer(7)?;
        if len > self.block.len() - self.at {
            return Err(Malformed);
        }
        let bytes = self.at..self.at + len;
        self.at = bytes.end;
        Ok(Text { bytes, is_huffman })
    }
}
