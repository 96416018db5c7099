//! The bytes of the protocol's document, both ways: what goim writes and reads.

mod common;

use common::hex;
use proto::{
    encoded::Encoded,
    frame,
    frame::{Decoded, Frame, Header},
    ids::Key,
    op::Op,
};

/// Section 6: one message with operation 1000 and this body.
const BODY: &[u8] = br#"{"a":1}"#;
const FRAME: &str = "00 00 00 17 00 10 00 01 00 00 03 e8 00 00 00 00 7b 22 61 22 3a 31 7d";

#[test]
fn a_push_is_the_bare_frame_on_tcp_and_inside_operation_9_on_websocket() {
    let push = Encoded::push(Op(1000), BODY);
    assert_eq!(push.tcp(), hex(FRAME));
    assert_eq!(push.ws(), hex(&format!("82 27 | 00 00 00 27 00 10 00 01 00 00 00 09 00 00 00 00 | {FRAME}")));
    assert_eq!((push.frames(), push.tcp_start()), (1, 18));
}

#[test]
fn three_messages_of_goims_job_get_one_operation_9_around_them() {
    let header = Header { ver: 1, op: Op(1000), seq: 0 };
    let mut frames = Vec::new();
    for body in ["abc", "def", "ghijk"] {
        frame::encode(header, body.as_bytes(), &mut frames);
    }
    let joined = hex("00 00 00 13 00 10 00 01 00 00 03 e8 00 00 00 00 \"abc\"
         00 00 00 13 00 10 00 01 00 00 03 e8 00 00 00 00 \"def\"
         00 00 00 15 00 10 00 01 00 00 03 e8 00 00 00 00 \"ghijk\"");
    assert_eq!(frames, joined);

    let push = Encoded::push_frames(&frames).unwrap();
    assert_eq!(push.tcp(), joined);
    let wrapper = hex("82 4b | 00 00 00 4b 00 10 00 01 00 00 00 09 00 00 00 00");
    assert_eq!(push.ws(), [wrapper, joined].concat());
    assert_eq!(push.frames(), 3);
}

#[test]
fn a_frame_decodes_to_what_it_says() {
    let bytes = hex(FRAME);
    let frame = Frame { header: Header { ver: 1, op: Op(1000), seq: 0 }, body: BODY };
    assert_eq!(frame::decode(&bytes, 4096), Ok(Decoded::Frame { frame, used: 23 }));
}

#[test]
fn replies_are_those_of_section_5() {
    for (op, seq, body, bytes) in [
        (Op::AUTH_REPLY, 1, &b""[..], "00000010 0010 0001 00000008 00000001"),
        (Op::HEARTBEAT_REPLY, 2, &[0, 0, 0, 5], "00000014 0010 0001 00000003 00000002 00000005"),
        (Op::CHANGE_ROOM_REPLY, -1, b"live://2000", "0000001b 0010 0001 0000000d ffffffff \"live://2000\""),
        (Op::JOIN_ROOM.reply(), 9, b"r", "00000011 0010 0001 77359401 00000009 \"r\""),
    ] {
        let reply = Encoded::reply(Header { ver: 1, op, seq }, body);
        assert_eq!(reply.tcp(), hex(bytes), "{op}");
        let header = [0x82, reply.tcp().len() as u8];
        assert_eq!(reply.ws(), [&header[..], reply.tcp()].concat(), "{op}: no operation 9 around a reply");
    }
}

#[test]
fn a_login_of_section_5_decodes() {
    let body = r#"{"mid":123,"key":"k1","room_id":"live://1000","platform":"web","accepts":[1000,1001]}"#;
    let mut bytes = hex("00000065 0010 0001 00000007 00000001");
    bytes.extend_from_slice(body.as_bytes());
    let Ok(Decoded::Frame { frame, used: 0x65 }) = frame::decode(&bytes, 4096) else { panic!("not a frame") };
    assert_eq!(frame.header, Header { ver: 1, op: Op::AUTH, seq: 1 });
    let login = proto::login::Login::parse(frame.body).unwrap();
    assert_eq!(login.mid.0, 123);
    assert_eq!(login.key, Some(Key::new("k1")));
    assert_eq!(login.room.unwrap().as_str(), "live://1000");
    assert_eq!(login.platform, "web");
    assert_eq!(login.accepts, [Op(1000), Op(1001)]);
}
