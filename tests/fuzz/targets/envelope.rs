#![no_main]
//! One push on the broker: what parses is written back as it was meant, and what is written parses, as protobuf's own
//! library sees it too.

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use fuzz::bounded;
use grpc::{
    envelope::{Envelope, Target},
    logic::PushMsg,
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use proto::{
    ids::{Key, RoomId, ServerId},
    op::Op,
    origin::Origin,
};

#[derive(Arbitrary)]
enum To<'a> {
    Keys { server: &'a str, keys: Vec<&'a str> },
    Room(&'a str),
    All { speed: u32 },
}

/// An envelope to be written.
#[derive(Arbitrary)]
struct Written<'a> {
    op: i32,
    accepted_at_us: u64,
    origin: Option<(&'a str, i32)>,
    to: To<'a>,
    body: &'a [u8],
}

fuzz_target!(|input: &[u8]| bounded(|| {
    match input.split_first() {
        // Bytes as they come, or an envelope that is made of them.
        Some((0, bytes)) => from_bytes(Bytes::copy_from_slice(bytes)),
        Some((_, seed)) => {
            if let Ok(written) = Written::arbitrary_take_rest(Unstructured::new(seed)) {
                from_envelope(written);
            }
        }
        None => {}
    }
}));

fn from_bytes(bytes: Bytes) {
    match Envelope::parse(bytes.clone()) {
        Ok(envelope) => {
            assert!(PushMsg::decode(bytes).is_ok());
            check(&envelope);
        }
        Err(error) => {
            assert!(!error.to_string().contains('\n') && !error.label().is_empty());
        }
    }
}

fn from_envelope(written: Written<'_>) {
    let target = match written.to {
        To::Keys { server, keys } if !server.is_empty() && !keys.is_empty() => {
            Target::Keys { server: ServerId::new(server), keys: keys.into_iter().map(Key::new).collect() }
        }
        To::Keys { .. } => return,
        To::Room(room) => match RoomId::parse(room) {
            Ok(room) => Target::Room(room),
            Err(_) => return,
        },
        To::All { speed } => Target::All { speed: speed & i32::MAX as u32 },
    };
    let origin = written.origin.filter(|(key, _)| !key.is_empty());
    check(&Envelope {
        target,
        op: Op(written.op),
        body: Bytes::copy_from_slice(written.body),
        accepted_at_us: written.accepted_at_us,
        origin: origin.map(|(key, seq)| Origin { key: Key::new(key), seq, ver: (seq >> 16) as i16 }),
    });
}

fn check(envelope: &Envelope) {
    let bytes = envelope.to_bytes();
    assert_eq!(bytes.len(), envelope.size());
    assert_eq!(&Envelope::parse(bytes.clone()).expect("what was written parses"), envelope);
    let message = PushMsg::decode(bytes.clone()).expect("what was written is protobuf");
    assert_eq!(message.encode_to_vec(), bytes, "as every protobuf library writes it");
}
