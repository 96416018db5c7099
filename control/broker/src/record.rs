//! The key under which a push is filed on a broker of several sources.

use std::borrow::Cow;

use grpc::envelope::{Envelope, Target};

/// goim's record key: the first device key, or the room, or the operation in decimal. Pushes with one record key are in
/// one source, so they keep their order. The device keys of one envelope have to belong to one partition
/// ([`Broker::partition`](super::Broker::partition)).
pub(crate) fn record_key(envelope: &Envelope) -> Cow<'_, str> {
    match &envelope.target {
        Target::Keys { keys, .. } => Cow::Borrowed(keys.first().map_or("", |key| key.as_str())),
        Target::Room(room) => Cow::Borrowed(room.as_str()),
        Target::All { .. } => Cow::Owned(envelope.op.0.to_string()),
    }
}

/// 32-bit FNV-1a. It spreads record keys over the sources.
pub(crate) fn fnv1a(record_key: &str) -> u32 {
    record_key.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proto::{
        ids::{Key, RoomId, ServerId},
        op::Op,
    };

    use super::*;

    fn key_of(target: Target) -> String {
        let envelope = Envelope { target, op: Op(1000), body: Bytes::new(), accepted_at_us: 1, origin: None };
        record_key(&envelope).into_owned()
    }

    #[test]
    fn a_push_to_devices_is_filed_under_its_first_key() {
        let keys = ["k2", "k1"].map(Key::new).to_vec();
        assert_eq!(key_of(Target::Keys { server: ServerId::new("127.0.0.1:3109"), keys }), "k2");
    }

    #[test]
    fn a_push_to_a_room_is_filed_under_the_room() {
        assert_eq!(key_of(Target::Room(RoomId::parse("live://1000").unwrap())), "live://1000");
    }

    #[test]
    fn a_push_to_everybody_is_filed_under_its_operation() {
        assert_eq!(key_of(Target::All { speed: 64 }), "1000");
    }
}
