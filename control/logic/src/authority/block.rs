//! One HTTP/2 header block: its fields (RFC 7541 section 6), and the `:authority` among them.
//!
//! The new authority is as long as the old one. So its entry in HPACK's dynamic table takes the same room, and every
//! later index means what the client meant. This is why logic can change the block where it stands: it keeps no table
//! and rewrites no later block. Whatever else may be wrong with a block, the server finds out.

use std::{cell::RefCell, ops::Range};

use axum::http::uri::Authority;
// The shipped program takes only the Huffman code from the library; the tests also use its decoder. loona-hpack is the
// successor of hpack-rs and fluke-hpack, which RUSTSEC-2023-0084 (`hpack` is unmaintained) recommends. It has no unsafe
// code, and answers bad input with an error, never a panic.
use loona_hpack::huffman::HuffmanDecoder;

thread_local! {
    /// The table of the Huffman code. Building it takes some microseconds.
    static HUFFMAN: RefCell<HuffmanDecoder> = RefCell::new(HuffmanDecoder::new());
}

/// Index of `:authority` in the static table.
const AUTHORITY_INDEX: usize = 1;

/// The block does not follow RFC 7541.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The block with a valid `:authority`; `None` if it needs no change. This finds the authority only under the name from
/// the static table, which every known client uses. Under a name that the client spells out, the authority stays as it
/// is.
pub(super) fn with_valid_authority(block: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut fields = Fields { block, at: 0 };
    let mut changed: Option<(Vec<u8>, usize)> = None;
    while let Some(&first) = block.get(fields.at) {
        // The first bits of a field tell its kind, and how many of the byte's other bits begin the index.
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

/// A valid authority of the same length, with a dot in place of each byte that does not belong into a name. `None` if
/// the authority is valid already, or empty.
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

/// Reads a block field by field.
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

    /// An integer that begins in the last `prefix` bits of a byte (section 5.1); five bytes at most.
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

    /// Skips a string (section 5.2), and tells where it is.
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
