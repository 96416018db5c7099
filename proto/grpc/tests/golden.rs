//! The bytes of the protocol's document between our own services, both ways.

#[path = "../../tests/common/mod.rs"]
mod common;

use bytes::Bytes;
use common::hex;
use halley_grpc::{
    comet::{BroadcastReq, BroadcastRoomReq, PushMsgReq, RoomsReply},
    envelope::{Envelope, Target},
    logic::{
        Backoff, ConnectReply, ConnectReq, DisconnectReq, HeartbeatReq, NodesReply, OnlineReq, PushMsg,
        ReceiveReply, ReceiveReq,
    },
    protocol::Proto,
};
use prost::Message as _;
use proto::{
    ids::{Key, RoomId, ServerId},
    op::Op,
    origin::Origin,
};

fn envelope(target: Target) -> Envelope {
    Envelope { target, op: Op(1000), body: Bytes::from_static(b"hello"), accepted_at_us: 0, origin: None }
}

/// Section 3, and Halley's own fields.
fn envelopes() -> Vec<(Envelope, &'static str)> {
    let room = || Target::Room(RoomId::parse("live://1000").unwrap());
    vec![
        (
            envelope(Target::Keys { server: ServerId::new("127.0.0.1:3109"), keys: vec![Key::new("k1")] }),
            "10 e8 07 22 0e \"127.0.0.1:3109\" 32 02 \"k1\" 3a 05 \"hello\"",
        ),
        (envelope(room()), "08 01 10 e8 07 2a 0b \"live://1000\" 3a 05 \"hello\""),
        (envelope(Target::All { speed: 64 }), "08 02 10 e8 07 18 40 3a 05 \"hello\""),
        (
            Envelope {
                accepted_at_us: 300,
                origin: Some(Origin { key: Key::new("k1"), seq: -1, ver: 1 }),
                ..envelope(room())
            },
            "08 01 10 e8 07 2a 0b \"live://1000\" 3a 05 \"hello\"
             a0 06 ac 02 | aa 06 02 \"k1\" | b0 06 ff ff ff ff ff ff ff ff ff 01",
        ),
        (
            Envelope { origin: Some(Origin { key: Key::new("k1"), seq: 3, ver: 0 }), ..envelope(room()) },
            "08 01 10 e8 07 2a 0b \"live://1000\" 3a 05 \"hello\" aa 06 02 \"k1\" | b0 06 03 | b8 06 00",
        ),
        (Envelope { op: Op(0), body: Bytes::new(), ..envelope(Target::All { speed: 0 }) }, "08 02"),
        (
            Envelope {
                op: Op(-1),
                ..envelope(Target::Keys {
                    server: ServerId::new("h:1"),
                    keys: vec![Key::new("a"), Key::new(""), Key::new("a")],
                })
            },
            "10 ff ff ff ff ff ff ff ff ff 01 22 03 \"h:1\" 32 01 \"a\" 32 00 32 01 \"a\" 3a 05 \"hello\"",
        ),
    ]
}

#[test]
fn envelopes_have_the_bytes_of_section_3() {
    for (envelope, bytes) in envelopes() {
        assert_eq!(envelope.to_bytes(), hex(bytes), "{envelope:?}");
        assert_eq!(envelope.size(), hex(bytes).len(), "{envelope:?}");
        assert_eq!(Envelope::parse(hex(bytes).into()).unwrap(), envelope);
    }
}

#[test]
fn envelopes_have_the_bytes_a_protobuf_library_writes() {
    for (envelope, bytes) in envelopes() {
        let message = PushMsg::decode(&hex(bytes)[..]).unwrap();
        assert_eq!(message.encode_to_vec(), envelope.to_bytes(), "{envelope:?}");
    }
}

#[test]
fn an_envelopes_body_is_shared_with_its_bytes() {
    let bytes = Bytes::from(hex(envelopes()[0].1));
    let end = bytes.as_ptr_range().end;
    assert_eq!(Envelope::parse(bytes).unwrap().body.as_ptr_range().end, end);
}

#[track_caller]
fn assert_message<M: prost::Message + Default + PartialEq + std::fmt::Debug>(message: &M, bytes: &str) {
    assert_eq!(message.encode_to_vec(), hex(bytes), "{message:?}");
    assert_eq!(&M::decode(&hex(bytes)[..]).unwrap(), message);
}

fn proto() -> Option<Proto> {
    Some(Proto { ver: 1, op: 9, seq: 0, body: Bytes::from_static(b"x") })
}

/// The numbers are goim's (docs/PROTOCOL.md section 8); Halley's own start at 100.
#[test]
fn messages_between_comet_and_logic_have_goims_numbers() {
    assert_message(
        &Proto { ver: 1, op: 1000, seq: 7, body: "hi".into() },
        "08 01 10 e8 07 18 07 22 02 \"hi\"",
    );
    assert_message(
        &ConnectReq {
            server: "h:1".into(),
            cookie: "c".into(),
            token: "{}".into(),
            client_ip: "::1".into(),
            transport: "tcp".into(),
            age_us: 5,
            arrived_by_us: 6,
            wanted_until_us: 7,
        },
        "0a 03 \"h:1\" 12 01 \"c\" 1a 02 \"{}\" | aa 06 03 \"::1\" b2 06 03 \"tcp\" b8 06 05 c0 06 06 c8 06 07",
    );
    assert_message(
        &ConnectReply {
            mid: 123,
            key: "k1".into(),
            room_id: "a".into(),
            accepts: vec![1000, 1001],
            heartbeat: 720_000_000_000,
            generation: 5,
            rooms: vec!["b".into(), "c".into()],
        },
        "08 7b 12 02 \"k1\" 1a 01 \"a\" 22 04 e8 07 e9 07 28 80 c0 e0 9a fa 14
         | a0 06 05 | ba 06 01 \"b\" ba 06 01 \"c\"",
    );
    assert_message(
        &DisconnectReq { mid: 1, key: "k".into(), server: "h:1".into(), generation: 2 },
        "08 01 12 01 \"k\" 1a 03 \"h:1\" a0 06 02",
    );
    assert_message(
        &HeartbeatReq { mid: 1, key: "k".into(), server: "h:1".into(), generation: 2 },
        "08 01 12 01 \"k\" 1a 03 \"h:1\" a0 06 02",
    );
    assert_message(
        &OnlineReq {
            server: "h:1".into(),
            room_count: [("a".to_owned(), 2)].into(),
            connections: 3,
            addresses: 1,
        },
        "0a 03 \"h:1\" 12 05 0a 01 \"a\" 10 02 | a0 06 03 a8 06 01",
    );
    assert_message(
        &ReceiveReq { mid: 1, proto: proto(), key: "k".into(), room: "a".into() },
        "08 01 12 07 08 01 10 09 22 01 \"x\" | a2 06 01 \"k\" aa 06 01 \"a\"",
    );
    assert_message(&ReceiveReply { body: "b".into(), room: Some(true) }, "a2 06 01 \"b\" a8 06 01");
    // Said, where goim's logic says nothing.
    assert_message(&ReceiveReply { body: "".into(), room: Some(false) }, "a8 06 00");
    assert_message(
        &NodesReply {
            domain: "d".into(),
            tcp_port: 3101,
            ws_port: 3102,
            wss_port: 3103,
            heartbeat: 30,
            nodes: vec!["n".into()],
            backoff: Some(Backoff { max_delay: 300, base_delay: 3, factor: 1.5, jitter: 0.5 }),
            heartbeat_max: 3,
        },
        "0a 01 \"d\" 10 9d 18 18 9e 18 20 9f 18 28 1e 32 01 \"n\"
         3a 0f 08 ac 02 10 03 1d 00 00 c0 3f 25 00 00 00 3f 40 03",
    );
}

#[test]
fn messages_between_job_and_comet_have_goims_numbers() {
    assert_message(
        &PushMsgReq { keys: vec!["a".into(), "b".into()], proto: proto(), proto_op: 1000, accepted_at_us: 1 },
        "0a 01 \"a\" 0a 01 \"b\" 12 07 08 01 10 09 22 01 \"x\" 18 e8 07 | a0 06 01",
    );
    assert_message(
        &BroadcastReq { proto_op: 1000, proto: proto(), speed: 32, accepted_at_us: 1 },
        "08 e8 07 12 07 08 01 10 09 22 01 \"x\" 18 20 | a0 06 01",
    );
    assert_message(
        &BroadcastRoomReq {
            room_id: "a".into(),
            proto: proto(),
            accepted_at_us: 1,
            origin_key: "k".into(),
            origin_seq: 4,
        },
        "0a 01 \"a\" 12 07 08 01 10 09 22 01 \"x\" | a0 06 01 aa 06 01 \"k\" b0 06 04",
    );
    assert_message(&RoomsReply { rooms: [("a".to_owned(), true)].into() }, "0a 05 0a 01 \"a\" 10 01");
}
