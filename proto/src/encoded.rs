//! What a server sends, encoded once for all its receivers.
//!
//! One allocation holds `[WebSocket header][operation 9 header][frame]`. WebSocket connections send it from the start,
//! TCP connections from the frame on; nobody copies it. WebSocket messages of several `Encoded` may be sent one after
//! the other, and so may their frames on TCP.

use bytes::Bytes;

use crate::{
    frame::{HEADER_LEN, Header, Violation, frames_of_message, header_bytes},
    op::Op,
    websocket::{Opcode, server_header},
};

/// Header of the operation 9 frame around a push on WebSocket.
const BATCH: Header = Header { ver: 1, op: Op::RAW, seq: 0 };

/// Bytes ready to be sent, shared by all receivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    bytes: Bytes,
    tcp_start: u8,
    frames: u32,
}

impl Encoded {
    /// A push of one message: version 1, sequence number 0; on WebSocket inside an operation 9 frame. One allocation,
    /// the body is copied once.
    pub fn push(op: Op, body: &[u8]) -> Self {
        let header = header_bytes(Header { ver: 1, op, seq: 0 }, body.len());
        Self::batch(&[&header, body], 1)
    }

    /// A push of complete frames, as the body of goim job's operation 9: kept as they are, on WebSocket with one
    /// operation 9 frame around all of them.
    ///
    /// # Errors
    /// A [`Violation`] when `frames` is not one or several complete frames.
    pub fn push_frames(frames: &[u8]) -> Result<Self, Violation> {
        let mut count = 0u32;
        for frame in frames_of_message(frames, usize::MAX) {
            frame?;
            count += 1;
        }
        if count == 0 {
            return Err(Violation::Empty);
        }
        Ok(Self::batch(&[frames], count))
    }

    /// A reply to one client: on WebSocket the message holds the bare frame, without operation 9.
    pub fn reply(header: Header, body: &[u8]) -> Self {
        Self::new(&[], &[&header_bytes(header, body.len()), body], 1)
    }

    /// A WebSocket control frame (pong, close), nothing on TCP. The payload has at most 125 bytes (RFC 6455 section
    /// 5.5); what is beyond is cut off.
    pub fn ws_control(opcode: Opcode, payload: &[u8]) -> Self {
        let payload = &payload[..payload.len().min(125)];
        let (header, len) = server_header(opcode, payload.len());
        let bytes = Bytes::from([&header[..len], payload].concat());
        Encoded { tcp_start: bytes.len() as u8, bytes, frames: 0 }
    }

    fn batch(parts: &[&[u8]], frames: u32) -> Self {
        let len = parts.iter().map(|part| part.len()).sum();
        Self::new(&header_bytes(BATCH, len), parts, frames)
    }

    /// One allocation of `[WebSocket header][ws_only][parts…]`.
    fn new(ws_only: &[u8], parts: &[&[u8]], frames: u32) -> Self {
        let message_len = ws_only.len() + parts.iter().map(|part| part.len()).sum::<usize>();
        let (header, header_len) = server_header(Opcode::Binary, message_len);
        let mut bytes = Vec::with_capacity(header_len + message_len);
        bytes.extend_from_slice(&header[..header_len]);
        bytes.extend_from_slice(ws_only);
        let tcp_start = bytes.len() as u8;
        for part in parts {
            bytes.extend_from_slice(part);
        }
        // Length and capacity are equal, so this takes the allocation over instead of copying it.
        Encoded { bytes: Bytes::from(bytes), tcp_start, frames }
    }

    /// Everything: what [`ws`](Self::ws) gives, to be shared.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Where in [`bytes`](Self::bytes) the part for TCP starts.
    pub fn tcp_start(&self) -> usize {
        usize::from(self.tcp_start)
    }

    /// What a WebSocket connection sends: one whole message, or one control frame.
    pub fn ws(&self) -> &[u8] {
        &self.bytes
    }

    /// What a TCP connection sends: complete frames; empty for a WebSocket control frame.
    pub fn tcp(&self) -> &[u8] {
        &self.bytes[self.tcp_start()..]
    }

    /// Number of goim frames inside, the operation 9 frame around them not counted.
    pub fn frames(&self) -> usize {
        self.frames as usize
    }
}

/// Longest WebSocket header and the operation 9 header fit `tcp_start`.
const _: () = assert!(10 + HEADER_LEN <= u8::MAX as usize);
