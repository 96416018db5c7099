//! A push on the broker comes back as it went, whatever it is, and costs one allocation.

#[path = "../../tests/common/mod.rs"]
mod common;

use allocation_counter::measure;
use bytes::Bytes;
use common::spoil::{spoil, spots};
use halley_grpc::envelope::{Envelope, Target};
use proptest::{collection::vec, prelude::*};
use proto::{
    ids::{Key, RoomId, ServerId},
    op::Op,
    origin::Origin,
};

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => vec(any::<u8>(), 0..64), 1 => vec(any::<u8>(), 0..=4096)]
}

fn key() -> impl Strategy<Value = Key> {
    "[a-z0-9_]{0,20}".prop_map(Key::new)
}

fn envelope() -> impl Strategy<Value = Envelope> {
    let target = prop_oneof![
        ("[a-z0-9.:]{1,20}", vec(key(), 1..5))
            .prop_map(|(server, keys)| Target::Keys { server: ServerId::new(server), keys }),
        "[a-zé]{1,8}://[^\\p{Cc}]{0,20}".prop_map(|room| Target::Room(RoomId::parse(&room).unwrap())),
        (0..=i32::MAX as u32).prop_map(|speed| Target::All { speed }),
    ];
    let origin = ("[a-z]{1,9}", any::<i32>(), any::<i16>()).prop_map(|(key, seq, ver)| Origin {
        key: Key::new(key),
        seq,
        ver,
    });
    (target, any::<i32>(), body(), any::<u64>(), proptest::option::of(origin)).prop_map(
        |(target, op, body, accepted_at_us, origin)| Envelope {
            target,
            op: Op(op),
            body: Bytes::from(body),
            accepted_at_us,
            origin,
        },
    )
}

proptest! {
    #[test]
    fn an_envelope_comes_back_as_it_went(envelope in envelope()) {
        let bytes = envelope.to_bytes();
        prop_assert_eq!(bytes.len(), envelope.size());
        prop_assert_eq!(Envelope::parse(bytes).unwrap(), envelope);
    }

    #[test]
    fn spoiled_envelopes_are_refused_or_come_back_the_same(envelope in envelope(), spots in spots()) {
        let bytes = spoil(envelope.to_bytes().to_vec(), &spots);
        if let Ok(envelope) = Envelope::parse(bytes.into()) {
            prop_assert_eq!(Envelope::parse(envelope.to_bytes()).unwrap(), envelope);
        }
    }
}

#[test]
fn an_envelope_is_written_in_one_allocation_and_sized_in_none() {
    let envelope = Envelope {
        target: Target::Room(RoomId::parse("live://1000").unwrap()),
        op: Op(1000),
        body: vec![0; 1000].into(),
        accepted_at_us: 1,
        origin: None,
    };
    assert_eq!(measure(|| drop(envelope.to_bytes())).count_total, 1);
    assert_eq!(measure(|| assert_ne!(envelope.size(), 0)).count_total, 0);
}
