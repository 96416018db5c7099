//! However the network cuts a stream, it says the same.

mod common;

use common::{every_cut, frames, hex, masked, read};
use proto::{
    frame::{CLIENT_BODY_MAX, Header, encode},
    op::Op,
};

#[test]
fn frames_are_the_same_however_the_stream_is_cut() {
    let mut stream = Vec::new();
    for (i, body) in [&b""[..], b"x", b"sixteen bytes ok", &[7; 100]].iter().enumerate() {
        encode(Header { ver: i as i16, op: Op(i as i32 - 2), seq: i as i32 }, body, &mut stream);
    }
    let at_once = frames(&[&stream], CLIENT_BODY_MAX);
    assert_eq!((at_once.0.len(), at_once.1), (4, None));
    for pieces in every_cut(&stream) {
        assert_eq!(frames(&pieces, CLIENT_BODY_MAX), at_once);
    }
}

#[test]
fn a_violation_is_the_same_however_the_stream_is_cut() {
    for bad in [
        hex("0000000f 0010 0001 00000000 00000000"),
        hex("00001011 0010 0001 00000000 00000000"),
        hex("00000010 0011 0001 00000000 00000000"),
        hex("ffffffff ffff ffff ffffffff ffffffff"),
    ] {
        let stream = [hex("00000011 0010 0001 00000002 00000001 \"!\""), bad].concat();
        let at_once = frames(&[&stream], CLIENT_BODY_MAX);
        assert_eq!(at_once.0.len(), 1);
        assert!(at_once.1.is_some());
        for pieces in every_cut(&stream) {
            assert_eq!(frames(&pieces, CLIENT_BODY_MAX), at_once);
        }
    }
}

#[test]
fn websocket_items_are_the_same_however_the_stream_is_cut() {
    let stream = [
        masked(0x82, b"whole"),
        masked(0x01, "κόσ".as_bytes()),
        masked(0x89, b"ping"),
        masked(0x00, "με".as_bytes()),
        masked(0x8a, b""),
        masked(0x80, b""),
        masked(0x82, &[1; 126]),
        masked(0x81, b""),
        masked(0x88, b"\x03\xe8bye"),
        masked(0x82, b"discarded"),
    ]
    .concat();
    let at_once = read(&[&stream]);
    assert_eq!((at_once.0.len(), at_once.1), (7, None));
    for pieces in every_cut(&stream) {
        assert_eq!(read(&pieces), at_once);
    }
}

#[test]
fn a_websocket_length_of_each_form_is_the_same_however_its_header_is_cut() {
    for len in [125, 126, 65_535, 65_536] {
        let stream = [masked(0x02, &vec![b'a'; len]), masked(0x80, b"")].concat();
        let at_once = read(&[&stream]);
        assert_eq!((at_once.0.len(), at_once.1), (1, None));
        for at in 0..20 {
            assert_eq!(read(&[&stream[..at], &stream[at..]]), at_once, "{len} cut at {at}");
            let at = stream.len() - at;
            assert_eq!(read(&[&stream[..at], &stream[at..]]), at_once, "{len} cut at {at}");
        }
    }
}
