//! One push on the broker, between logic and job: the bytes of `goim.logic.PushMsg`, without fields that have their
//! default.

use bytes::Bytes;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use proto::{
    ids::{Key, RoomId, RoomIdError, ServerId},
    op::Op,
    origin::Origin,
};

use crate::logic::{PushMsg, push_msg::Type};

/// One push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Who gets it.
    pub target: Target,
    /// Operation of the message. Clients that get it by key or with everybody must accept it.
    pub op: Op,
    /// The message.
    pub body: Bytes,
    /// When logic accepted the push, wall clock, µs since the epoch; 0 = unknown. Halley's field 100.
    pub accepted_at_us: u64,
    /// The client that sent the message, if a client did. Halley's fields 101 to 103.
    pub origin: Option<Origin>,
}

/// Who gets a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Devices on one comet.
    Keys {
        /// The comet.
        server: ServerId,
        /// At least one. A key given twice gets the message twice.
        keys: Vec<Key>,
    },
    /// The members of a room on all comets.
    Room(RoomId),
    /// Everybody.
    All {
        /// Receivers a second over all comets; 0 = at once.
        speed: u32,
    },
}

/// Bytes on the broker that are no push. job does not try them again: it counts them and puts them aside as a dead
/// letter.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The bytes are no protobuf `PushMsg`.
    #[error("not a PushMsg: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// The type is none of PUSH, ROOM, BROADCAST.
    #[error("unknown type {0}")]
    UnknownType(i32),
    /// A push to devices names no device.
    #[error("a push to devices has no keys")]
    NoKeys,
    /// A push to devices names no comet.
    #[error("a push to devices names no server")]
    NoServer,
    /// A push to a room has no valid room id.
    #[error("a push to a room: {0}")]
    Room(#[from] RoomIdError),
}

impl EnvelopeError {
    /// The word for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            EnvelopeError::Protobuf(_) => "protobuf",
            EnvelopeError::UnknownType(_) => "type",
            EnvelopeError::NoKeys => "no_keys",
            EnvelopeError::NoServer => "no_server",
            EnvelopeError::Room(_) => "room",
        }
    }
}

impl Envelope {
    /// The push as bytes for the broker, in one allocation.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.size());
        self.write(&mut out);
        Bytes::from(out)
    }

    /// The length of [`to_bytes`](Self::to_bytes), without making the bytes.
    pub fn size(&self) -> usize {
        let mut len = Length(0);
        self.write(&mut len);
        len.0
    }

    /// Reads a push from the broker's bytes. The body shares `bytes` and is not copied.
    ///
    /// # Errors
    /// An [`EnvelopeError`] if nobody can deliver this. As in goim, a negative speed is no error and means "at once".
    pub fn parse(bytes: Bytes) -> Result<Self, EnvelopeError> {
        let message = PushMsg::decode(bytes)?;
        let target = match Type::try_from(message.r#type) {
            Ok(Type::Push) if message.keys.is_empty() => return Err(EnvelopeError::NoKeys),
            Ok(Type::Push) if message.server.is_empty() => return Err(EnvelopeError::NoServer),
            Ok(Type::Push) => Target::Keys {
                server: ServerId::new(message.server),
                keys: message.keys.into_iter().map(Key::new).collect(),
            },
            Ok(Type::Room) => Target::Room(RoomId::parse(&message.room)?),
            Ok(Type::Broadcast) => Target::All { speed: u32::try_from(message.speed).unwrap_or(0) },
            Err(_) => return Err(EnvelopeError::UnknownType(message.r#type)),
        };
        let origin = Origin::from_wire(message.origin_key, message.origin_seq, message.origin_ver);
        Ok(Envelope {
            target,
            op: Op(message.operation),
            body: message.msg,
            accepted_at_us: message.accepted_at_us,
            origin,
        })
    }

    /// Writes the fields in the order of their numbers, as every protobuf library does.
    fn write(&self, out: &mut impl Fields) {
        let (kind, speed) = match &self.target {
            Target::Keys { .. } => (Type::Push, 0),
            Target::Room(_) => (Type::Room, 0),
            Target::All { speed } => (Type::Broadcast, i32::try_from(*speed).unwrap_or(i32::MAX)),
        };
        out.int32(1, kind.into());
        out.int32(2, self.op.0);
        out.int32(3, speed);
        match &self.target {
            Target::Keys { server, keys } => {
                out.bytes(4, server.as_str().as_bytes());
                // Protobuf writes an element of a repeated field even if it is empty.
                keys.iter().for_each(|key| out.element(6, key.as_str().as_bytes()));
            }
            Target::Room(room) => out.bytes(5, room.as_str().as_bytes()),
            Target::All { .. } => {}
        }
        out.bytes(7, &self.body);
        out.uint64(100, self.accepted_at_us);
        if let Some(origin) = &self.origin {
            out.bytes(101, origin.key.as_str().as_bytes());
            out.int32(102, origin.seq);
            if let Some(ver) = origin.ver_to_wire() {
                out.present_int32(103, ver);
            }
        }
    }
}

/// Takes protobuf fields: as bytes, or as the sum of their lengths. Fields that have their default are left out.
trait Fields {
    fn key(&mut self, number: u32, wire_type: WireType);
    fn varint(&mut self, value: u64);
    fn raw(&mut self, bytes: &[u8]);

    fn uint64(&mut self, number: u32, value: u64) {
        if value != 0 {
            self.key(number, WireType::Varint);
            self.varint(value);
        }
    }

    /// Negative numbers are sign-extended to 64 bits, as protobuf requires.
    fn int32(&mut self, number: u32, value: i32) {
        self.uint64(number, i64::from(value) as u64);
    }

    /// Writes an optional field, even if it is 0.
    fn present_int32(&mut self, number: u32, value: i32) {
        self.key(number, WireType::Varint);
        self.varint(i64::from(value) as u64);
    }

    fn bytes(&mut self, number: u32, value: &[u8]) {
        if !value.is_empty() {
            self.element(number, value);
        }
    }

    fn element(&mut self, number: u32, value: &[u8]) {
        self.key(number, WireType::LengthDelimited);
        self.varint(value.len() as u64);
        self.raw(value);
    }
}

impl Fields for Vec<u8> {
    fn key(&mut self, number: u32, wire_type: WireType) {
        encode_key(number, wire_type, self);
    }

    fn varint(&mut self, value: u64) {
        encode_varint(value, self);
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts the bytes that would be written.
struct Length(usize);

impl Fields for Length {
    fn key(&mut self, number: u32, _: WireType) {
        self.0 += key_len(number);
    }

    fn varint(&mut self, value: u64) {
        self.0 += encoded_len_varint(value);
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(message: &PushMsg) -> Result<Envelope, EnvelopeError> {
        Envelope::parse(message.encode_to_vec().into())
    }

    fn label(message: &PushMsg) -> &'static str {
        parse(message).unwrap_err().label()
    }

    #[test]
    fn what_nobody_can_deliver_is_refused() {
        let keys = |server: &str, keys: &[&str]| PushMsg {
            server: server.into(),
            keys: keys.iter().map(|key| (*key).into()).collect(),
            ..Default::default()
        };
        let room = |room: &str| PushMsg { r#type: 1, room: room.into(), ..Default::default() };
        assert_eq!(label(&PushMsg { r#type: 3, ..Default::default() }), "type");
        assert_eq!(label(&PushMsg { r#type: -1, ..Default::default() }), "type");
        assert_eq!(label(&keys("h:1", &[])), "no_keys");
        assert_eq!(label(&keys("", &["k"])), "no_server");
        assert_eq!(label(&room("")), "room");
        assert_eq!(label(&room(&"r".repeat(129))), "room");
        assert_eq!(label(&room("a\nb")), "room");
    }

    #[test]
    fn bytes_that_are_no_protobuf_are_refused() {
        for bytes in [&b"\xff"[..], b"hello", &[0x3a, 0x7f, 1], &[0x32, 1, 0xff], &[0x07]] {
            assert_eq!(Envelope::parse(bytes.into()).unwrap_err().label(), "protobuf", "{bytes:?}");
        }
        // An empty element is a push to devices without keys.
        assert_eq!(Envelope::parse(Bytes::new()).unwrap_err().label(), "no_keys");
    }

    #[test]
    fn a_speed_outside_its_range_is_unlimited_or_the_largest() {
        let all = |speed| PushMsg { r#type: 2, speed, ..Default::default() };
        assert_eq!(parse(&all(-1)).unwrap().target, Target::All { speed: 0 });
        let mut envelope = parse(&all(5)).unwrap();
        envelope.target = Target::All { speed: u32::MAX };
        let back = Envelope::parse(envelope.to_bytes()).unwrap();
        assert_eq!(back.target, Target::All { speed: i32::MAX as u32 });
    }

    #[test]
    fn fields_of_newer_versions_are_ignored() {
        let mut bytes = PushMsg { r#type: 2, ..Default::default() }.encode_to_vec();
        bytes.extend_from_slice(&[0xc0, 0x0c, 1]); // field 200
        assert!(Envelope::parse(bytes.into()).is_ok());
    }
}
