//! Header of a WebSocket frame. Writes it for a server's frames, and reads it for both sides' frames.

use super::WsViolation;

/// Longest payload of a control frame, bytes (RFC 6455 section 5.5).
pub(super) const CONTROL_LEN_MAX: usize = 125;

/// Longest header, bytes: 2, a length of 8, a mask of 4.
pub(super) const HEADER_LEN_MAX: usize = 14;

/// Type of a WebSocket frame (RFC 6455 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opcode {
    /// A further fragment.
    Continuation,
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
    /// Close.
    Close,
    /// Asks for a pong.
    Ping,
    /// Answers a ping.
    Pong,
}

impl Opcode {
    /// The four bits of the header; `None` for a reserved value.
    pub const fn from_bits(bits: u8) -> Option<Opcode> {
        match bits {
            0x0 => Some(Opcode::Continuation),
            0x1 => Some(Opcode::Text),
            0x2 => Some(Opcode::Binary),
            0x8 => Some(Opcode::Close),
            0x9 => Some(Opcode::Ping),
            0xa => Some(Opcode::Pong),
            _ => None,
        }
    }

    /// The four bits of the header.
    pub const fn bits(self) -> u8 {
        match self {
            Opcode::Continuation => 0x0,
            Opcode::Text => 0x1,
            Opcode::Binary => 0x2,
            Opcode::Close => 0x8,
            Opcode::Ping => 0x9,
            Opcode::Pong => 0xa,
        }
    }

    /// Close, ping and pong: never fragmented, at most 125 bytes.
    pub const fn is_control(self) -> bool {
        self.bits() >= 0x8
    }
}

/// Header of an unfragmented, unmasked frame: the bytes, and how many of them are used (2, 4 or 10).
pub(crate) fn server_header(opcode: Opcode, payload_len: usize) -> ([u8; 10], usize) {
    let mut header = [0; 10];
    header[0] = 0x80 | opcode.bits();
    let len = match payload_len {
        0..=125 => {
            header[1] = payload_len as u8;
            2
        }
        126..=0xffff => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
            10
        }
    };
    (header, len)
}

/// The sender of the frames: a client masks all of its frames, a server none (RFC 6455 section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Client,
    Server,
}

/// Header of a frame that is arriving.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameHeader {
    /// This is the last fragment of its message.
    pub(super) fin: bool,
    pub(super) opcode: Opcode,
    /// Zero for a server's frames. Unmasking with it changes nothing.
    pub(super) mask: [u8; 4],
    /// Length of the payload, bytes.
    pub(super) payload_len: u64,
    /// Length of this header, bytes.
    pub(super) header_len: usize,
}

impl FrameHeader {
    /// Reads a header at the start of `input`; `None` while it is incomplete.
    ///
    /// Checks everything that a single header can show, as soon as its bytes are there (RFC 6455 sections 5.2 and 5.5).
    pub(super) fn parse(input: &[u8], peer: Peer) -> Result<Option<FrameHeader>, WsViolation> {
        let &[first, second, ref rest @ ..] = input else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(WsViolation::protocol("rsv"));
        }
        let Some(opcode) = Opcode::from_bits(first & 0x0f) else {
            return Err(WsViolation::protocol("opcode"));
        };
        let fin = first & 0x80 != 0;
        let masked = second & 0x80 != 0;
        if masked != (peer == Peer::Client) {
            return Err(WsViolation::protocol("mask"));
        }
        let short = second & 0x7f;
        if opcode.is_control() && !fin {
            return Err(WsViolation::protocol("fragmented_control"));
        }
        if opcode.is_control() && usize::from(short) > CONTROL_LEN_MAX {
            return Err(WsViolation::protocol("long_control"));
        }

        let (payload_len, rest) = match short {
            126 => {
                let Some((bytes, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
                let len = u64::from(u16::from_be_bytes(*bytes));
                if len < 126 {
                    return Err(WsViolation::protocol("length_not_minimal"));
                }
                (len, rest)
            }
            127 => {
                let Some((bytes, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
                let len = u64::from_be_bytes(*bytes);
                if len >> 63 != 0 {
                    return Err(WsViolation::protocol("length_sign"));
                }
                if len <= 0xffff {
                    return Err(WsViolation::protocol("length_not_minimal"));
                }
                (len, rest)
            }
            short => (u64::from(short), rest),
        };
        let (mask, rest) = match peer {
            Peer::Server => ([0; 4], rest),
            Peer::Client => match rest.split_first_chunk::<4>() {
                Some((mask, rest)) => (*mask, rest),
                None => return Ok(None),
            },
        };
        Ok(Some(FrameHeader { fin, opcode, mask, payload_len, header_len: input.len() - rest.len() }))
    }
}

/// Whether these bytes contain a client's close frame. They begin with a frame.
pub fn has_close(mut input: &[u8]) -> bool {
    while let Ok(Some(header)) = FrameHeader::parse(input, Peer::Client) {
        if header.opcode == Opcode::Close {
            return true;
        }
        let len = usize::try_from(header.payload_len).unwrap_or(usize::MAX).saturating_add(header.header_len);
        let Some(rest) = input.get(len..) else { return false };
        input = rest;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcode_bits_are_the_rfcs() {
        for bits in 0..16 {
            match Opcode::from_bits(bits) {
                Some(opcode) => assert_eq!(opcode.bits(), bits),
                None => assert!(matches!(bits, 0x3..=0x7 | 0xb..=0xf)),
            }
        }
    }

    #[test]
    fn server_header_takes_the_shortest_of_its_three_forms() {
        for (len, wanted) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 0xff, 0xff]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let (header, header_len) = server_header(Opcode::Binary, len);
            assert_eq!(&header[..header_len], wanted, "{len}");
            let parsed = FrameHeader::parse(wanted, Peer::Server).unwrap().unwrap();
            assert_eq!((parsed.payload_len, parsed.header_len), (len as u64, wanted.len()));
        }
    }
}
