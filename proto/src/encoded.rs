//! What a server sends. It is encoded once for all receivers.
//!
//! One allocation holds `[WebSocket header][operation 9 header][frame]`. WebSocket connections send it from the start,
//! TCP connections from the frame on, and nobody copies it. The WebSocket messages of several `Encoded` may be sent one
//! after the other, and so may their frames on TCP.

use bytes::Bytes;

use crate::{
    frame::{HEADER_LEN, Header, VER, Violation, frames_of_message, header_bytes},
    op::Op,
    websocket::{Opcode, server_header},
};

/// Header of the operation 9 frame around a push on WebSocket.
const BATCH: Header = Header { ver: VER, op: Op::RAW, seq: 0 };

/// Bytes ready to be sent. All receivers share them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    bytes: Bytes,
    tcp_start: u8,
    frames: u32,
}

impl Encoded {
    /// A push of one message: version 1, sequence number 0, on WebSocket inside an operation 9 frame. Makes one
    /// allocation and copies the body once.
    pub fn push(op: Op, body: &[u8]) -> Self {
        Self::message(Header { ver: VER, op, seq: 0 }, body)
    }

    /// The same with another header.
    pub fn message(header: Header, body: &[u8]) -> Self {
        Self::batch(&[&header_bytes(header, body.len()), body], 1)
    }

    /// A push of complete frames, like the body of operation 9 from goim's job. They stay as they are; on WebSocket one
    /// operation 9 frame is put around all of them.
    ///
    /// # Errors
    /// A [`Violation`] if `frames` is not one or several complete frames.
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

    /// A WebSocket control frame (pong, close); nothing on TCP. The payload is cut to 125 bytes (RFC 6455 section 5.5).
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
        // Length and capacity are equal, so `Bytes` takes the allocation over without a copy.
        Encoded { bytes: Bytes::from(bytes), tcp_start, frames }
    }

    /// All bytes, to be shared. The same as [`ws`](Self::ws).
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

    /// Number of goim frames inside, without the operation 9 frame around them.
    pub fn frames(&self) -> usize {
        self.frames as usize
    }
}

/// The longest WebSocket header and the operation 9 header must fit into `tcp_start`.
const _: () = assert!(10 + HEADER_LEN <= u8::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::encode;

    #[test]
    fn a_push_has_the_three_forms_of_a_websocket_length() {
        for (body_len, ws_header) in [
            (0, &[0x82, 32][..]),
            (93, &[0x82, 125]),
            (94, &[0x82, 126, 0, 126]),
            (65_503, &[0x82, 126, 0xff, 0xff]),
            (65_504, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let body = vec![7; body_len];
            let push = Encoded::push(Op(1000), &body);
            let mut frame = Vec::new();
            encode(Header { ver: 1, op: Op(1000), seq: 0 }, &body, &mut frame);
            assert_eq!(push.tcp(), frame, "{body_len}");
            assert!(push.ws().starts_with(ws_header), "{body_len}");
            assert_eq!(push.tcp_start(), ws_header.len() + HEADER_LEN);
            assert_eq!(push.ws().len(), push.tcp_start() + frame.len());
            assert_eq!(push.bytes(), push.ws());
        }
    }

    #[test]
    fn a_batch_that_is_no_run_of_complete_frames_is_refused() {
        let mut frame = Vec::new();
        encode(Header { ver: 1, op: Op(1), seq: 0 }, b"abc", &mut frame);
        assert_eq!(Encoded::push_frames(b""), Err(Violation::Empty));
        for cut in 1..frame.len() {
            let bytes = [&frame, &frame[..cut]].concat();
            assert!(Encoded::push_frames(&bytes).is_err(), "{cut}");
        }
        assert_eq!(Encoded::push_frames(&frame).unwrap().tcp(), frame);
    }

    #[test]
    fn a_batch_may_hold_bodies_longer_than_a_clients() {
        let mut frame = Vec::new();
        encode(Header { ver: 1, op: Op(1000), seq: 0 }, &[0; 100_000], &mut frame);
        assert_eq!(Encoded::push_frames(&frame).unwrap().frames(), 1);
    }

    #[test]
    fn a_batch_of_one_frame_is_the_same_as_its_push() {
        let push = Encoded::push(Op(1000), b"body");
        assert_eq!(Encoded::push_frames(push.tcp()), Ok(push));
    }

    #[test]
    fn a_control_frame_is_nothing_on_tcp() {
        let pong = Encoded::ws_control(Opcode::Pong, b"hi");
        assert_eq!(pong.ws(), b"\x8a\x02hi");
        assert_eq!((pong.tcp(), pong.frames()), (&b""[..], 0));
        let close = Encoded::ws_control(Opcode::Close, b"");
        assert_eq!(close.ws(), b"\x88\x00");
        assert_eq!(close.tcp(), b"");
    }

    #[test]
    fn a_control_frames_payload_is_cut_to_what_the_rfc_allows() {
        let ping = Encoded::ws_control(Opcode::Ping, &[1; 126]);
        assert_eq!(ping.ws()[..2], [0x89, 125]);
        assert_eq!(ping.ws().len(), 127);
        assert_eq!(ping.tcp(), b"");
    }
}
