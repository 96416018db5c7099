//! What a WebSocket client may send, what it may not, and the close it gets (RFC 6455).

mod common;

use common::{Opcode, Said, hex, masked, read, read_with};
use proto::{
    close::CloseReason,
    websocket::{Item, MessageLimits, Reader, WsViolation, client_frame},
};

const FIN_TEXT: u8 = 0x81;
const FIN_BINARY: u8 = 0x82;
const TEXT: u8 = 0x01;
const BINARY: u8 = 0x02;
const CONTINUATION: u8 = 0x00;
const FIN_CONTINUATION: u8 = 0x80;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

fn message(bytes: &[u8]) -> Said {
    Said::Message(bytes.to_vec())
}

/// What `stream` says, read at once and byte by byte; the two must agree.
#[track_caller]
fn said(stream: &[u8]) -> (Vec<Said>, Option<WsViolation>) {
    let at_once = read(&[stream]);
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(read(&bytes), at_once, "byte by byte");
    at_once
}

#[track_caller]
fn assert_refused(stream: &[u8], reason: CloseReason, label: &str) {
    let (said, violation) = said(stream);
    assert_eq!(said, [], "{label}");
    assert_eq!(violation.map(|violation| (violation.reason, violation.label)), Some((reason, label)));
}

#[test]
fn the_rfcs_own_examples_are_read() {
    // Section 5.7; the fragments and the ping are masked here, as a client must.
    assert_eq!(said(&hex("81 85 37 fa 21 3d 7f 9f 4d 51 58")), (vec![message(b"Hello")], None));
    let fragments = [masked(TEXT, b"Hel"), masked(FIN_CONTINUATION, b"lo")].concat();
    assert_eq!(said(&fragments), (vec![message(b"Hello")], None));
    assert_eq!(said(&masked(PING, b"Hello")), (vec![Said::Ping(b"Hello".to_vec())], None));
}

#[test]
fn every_length_form_is_read() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536] {
        let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let stream = masked(FIN_BINARY, &payload);
        assert_eq!(read(&[&stream]), (vec![message(&payload)], None), "{len}");
    }
}

#[test]
fn control_frames_come_between_fragments() {
    let stream = [
        masked(BINARY, b"a"),
        masked(PING, b"1"),
        masked(CONTINUATION, b"b"),
        masked(PONG, b"late"),
        masked(PING, b""),
        masked(FIN_CONTINUATION, b"c"),
        masked(FIN_BINARY, b"d"),
    ]
    .concat();
    let wanted =
        vec![Said::Ping(b"1".to_vec()), Said::Pong, Said::Ping(vec![]), message(b"abc"), message(b"d")];
    assert_eq!(said(&stream), (wanted, None));
}

#[test]
fn what_the_header_forbids_is_a_protocol_violation() {
    let long_control = [0x89, 0x80 | 126, 0, 126, 0, 0, 0, 0];
    for (stream, label) in [
        (hex("82 05 \"Hello\""), "mask"),
        (masked(0xc2, b""), "rsv"),
        (masked(0xa2, b""), "rsv"),
        (masked(0x92, b""), "rsv"),
        (masked(0x83, b""), "opcode"),
        (masked(0x87, b""), "opcode"),
        (masked(0x8b, b""), "opcode"),
        (masked(0x8f, b""), "opcode"),
        (masked(0x09, b""), "fragmented_control"),
        (masked(0x08, b""), "fragmented_control"),
        (masked(0x0a, b""), "fragmented_control"),
        (long_control.to_vec(), "long_control"),
        (masked(FIN_CONTINUATION, b"x"), "stray_continuation"),
        (masked(CONTINUATION, b""), "stray_continuation"),
        (hex("82 fe 00 7d 00000000"), "length_not_minimal"),
        (hex("82 fe 00 00 00000000"), "length_not_minimal"),
        (hex("82 ff 00 00 00 00 00 00 ff ff 00000000"), "length_not_minimal"),
        (hex("82 ff 80 00 00 00 00 00 00 00 00000000"), "length_sign"),
        (hex("82 ff ff ff ff ff ff ff ff ff 00000000"), "length_sign"),
    ] {
        assert_refused(&stream, CloseReason::ProtocolViolation, label);
    }
}

#[test]
fn a_new_message_inside_a_fragmented_one_is_a_protocol_violation() {
    for second in [FIN_BINARY, FIN_TEXT, BINARY, TEXT] {
        let stream = [masked(BINARY, b"a"), masked(second, b"b")].concat();
        assert_refused(&stream, CloseReason::ProtocolViolation, "interleaved_message");
    }
}

#[test]
fn a_bad_header_is_refused_before_its_payload() {
    // The header claims 60,000 bytes, none of which has come.
    for (stream, label) in [(hex("c2 fe ea 60"), "rsv"), (hex("82 7e"), "mask"), (hex("8b 80"), "opcode")] {
        assert_refused(&stream, CloseReason::ProtocolViolation, label);
    }
    // The length of a control frame is in its second byte.
    assert_refused(&hex("89 fe"), CloseReason::ProtocolViolation, "long_control");
}

#[test]
fn a_message_over_the_limit_is_refused_from_its_header() {
    let limits = MessageLimits { message_max: 200, fragments_max: 100 };
    let read = |stream: &[u8]| read_with(&mut Reader::new(), &[stream], &limits);
    assert_eq!(read(&masked(FIN_BINARY, &[1; 200])), (vec![message(&[1; 200])], None));
    let too_big = (vec![], Some(WsViolation { reason: CloseReason::MessageTooBig, label: "message_len" }));
    assert_eq!(read(&hex("82 fe 00c9 00000000")), too_big);
    assert_eq!(read(&hex("02 fe 00c9 00000000")), too_big);
    // The largest length there is.
    assert_eq!(read(&hex("82 ff 7fffffffffffffff 00000000")), too_big);
}

#[test]
fn the_limit_is_summed_over_fragments() {
    let limits = MessageLimits { message_max: 200, fragments_max: 100 };
    let read = |stream: &[u8]| read_with(&mut Reader::new(), &[stream], &limits);
    let first = [masked(BINARY, &[1; 100]), masked(CONTINUATION, &[1; 99])].concat();
    let fits = [&first[..], &masked(FIN_CONTINUATION, &[1])].concat();
    assert_eq!(read(&fits), (vec![message(&[1; 200])], None));
    let header_only = [&first[..], &hex("80 82 00000000")].concat();
    assert_eq!(read(&header_only).1.map(|violation| violation.reason), Some(CloseReason::MessageTooBig));
    let overflow = [&first[..], &hex("80 ff 7fffffffffffffff 00000000")].concat();
    assert_eq!(read(&overflow).1.map(|violation| violation.reason), Some(CloseReason::MessageTooBig));
    // A ping between them does not count.
    let with_ping = [&first[..], &masked(PING, &[0; 125]), &masked(FIN_CONTINUATION, &[1])].concat();
    assert_eq!(read(&with_ping).0.last(), Some(&message(&[1; 200])));
}

#[test]
fn a_hundred_fragments_are_read_and_no_more_even_when_empty() {
    let fragments = |count: usize| {
        let mut stream = masked(BINARY, b"");
        (0..count - 2).for_each(|_| stream.extend(masked(CONTINUATION, b"")));
        stream.extend(masked(FIN_CONTINUATION, b"end"));
        stream
    };
    assert_eq!(said(&fragments(100)), (vec![message(b"end")], None));
    assert_refused(&fragments(101), CloseReason::LimitBroken, "fragments");
    // The next message counts anew.
    let twice = [fragments(100), fragments(100)].concat();
    assert_eq!(said(&twice), (vec![message(b"end"), message(b"end")], None));
}

#[test]
fn text_is_utf8_whatever_its_fragments() {
    let text = "κόσμε \u{10ffff}€é".as_bytes();
    for at in 0..=text.len() {
        let stream = [masked(TEXT, &text[..at]), masked(FIN_CONTINUATION, &text[at..])].concat();
        assert_eq!(said(&stream), (vec![message(text)], None), "{at}");
    }
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    for bad in [
        &b"\xff"[..],
        b"a\xc0\x80",        // overlong
        b"\xed\xa0\x80",     // surrogate
        b"\xf4\x90\x80\x80", // above U+10FFFF
        b"\x80",             // continuation alone
        b"\xe2\x82",         // incomplete at the end
        b"\xf0\x9f\x92",     // incomplete at the end
        b"caf\xc3",          // incomplete at the end
    ] {
        assert_refused(&masked(FIN_TEXT, bad), CloseReason::BadUtf8, "utf8");
        for at in 0..=bad.len() {
            let stream = [masked(TEXT, &bad[..at]), masked(FIN_CONTINUATION, &bad[at..])].concat();
            assert_refused(&stream, CloseReason::BadUtf8, "utf8");
        }
        assert_eq!(said(&masked(FIN_BINARY, bad)), (vec![message(bad)], None), "binary may be anything");
    }
}

#[test]
fn bad_text_is_found_before_the_message_ends() {
    // The first fragment is proof enough, although it says that more follows.
    assert_refused(&masked(TEXT, b"abc\xffdef"), CloseReason::BadUtf8, "utf8");
    // So is the part of a frame that has come.
    let frame = masked(FIN_TEXT, b"abc\xffdef");
    assert_refused(&frame[..frame.len() - 2], CloseReason::BadUtf8, "utf8");
}

#[test]
fn close_codes_are_those_that_may_be_sent() {
    let close = |code: u16, text: &[u8]| masked(CLOSE, &[&code.to_be_bytes()[..], text].concat());
    let valid = |code: u16| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    for code in 0..=u16::MAX {
        let wanted = if valid(code) {
            (vec![Said::Close(Some(code))], None)
        } else {
            (vec![], Some(WsViolation { reason: CloseReason::ProtocolViolation, label: "close_code" }))
        };
        assert_eq!(read(&[&close(code, b"")]), wanted, "{code}");
    }
    assert_eq!(said(&close(1000, "bye é".as_bytes())), (vec![Said::Close(Some(1000))], None));
    assert_eq!(said(&masked(CLOSE, b"")), (vec![Said::Close(None)], None));
    assert_refused(&masked(CLOSE, b"\x03"), CloseReason::ProtocolViolation, "close_len");
    assert_refused(&close(1000, b"\xff"), CloseReason::BadUtf8, "utf8");
    assert_refused(&close(1000, b"\xe2\x82"), CloseReason::BadUtf8, "utf8");
}

#[test]
fn what_follows_a_close_is_discarded() {
    for after in [masked(FIN_BINARY, b"x"), masked(CLOSE, b""), hex("ff ff ff"), masked(PING, b"")] {
        let stream = [masked(CLOSE, &1000u16.to_be_bytes()), after.clone()].concat();
        assert_eq!(said(&stream), (vec![Said::Close(Some(1000))], None));
        let inside = [masked(BINARY, b"half"), masked(CLOSE, b""), after].concat();
        assert_eq!(said(&inside), (vec![Said::Close(None)], None));
    }
}

#[test]
fn a_reader_stays_failed() {
    let mut reader = Reader::new();
    let limits = MessageLimits::default();
    let first = read_with(&mut reader, &[&masked(0x83, b"")], &limits).1;
    assert!(first.is_some());
    for _ in 0..2 {
        assert_eq!(read_with(&mut reader, &[&masked(FIN_BINARY, b"good")], &limits), (vec![], first));
    }
    assert!(!reader.has_partial());
}

#[test]
fn items_before_a_violation_are_given() {
    let stream = [masked(FIN_BINARY, b"good"), masked(PING, b""), masked(0x83, b"")].concat();
    let (said, violation) = said(&stream);
    assert_eq!(said, [message(b"good"), Said::Ping(vec![])]);
    assert_eq!(violation.map(|violation| violation.label), Some("opcode"));
}

#[test]
fn a_whole_message_is_lent_from_the_input() {
    let mut stream = [masked(FIN_BINARY, b"one"), masked(FIN_TEXT, b"two")].concat();
    let range = stream.as_ptr_range();
    let mut input = &mut stream[..];
    let mut reader = Reader::new();
    for wanted in [b"one", b"two"] {
        match reader.next(&mut input, &MessageLimits::default()) {
            Ok(Some(Item::Message(bytes))) => {
                assert_eq!(bytes, wanted);
                assert!(range.contains(&bytes.as_ptr()), "copied");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_partial_frame_or_message_is_known() {
    let limits = MessageLimits::default();
    let frame = masked(FIN_BINARY, b"abc");
    for at in 0..=frame.len() {
        let mut reader = Reader::new();
        read_with(&mut reader, &[&frame[..at]], &limits);
        assert_eq!(reader.has_partial(), at != 0 && at != frame.len(), "{at}");
        read_with(&mut reader, &[&frame[at..]], &limits);
        assert!(!reader.has_partial(), "{at}");
    }
    let mut reader = Reader::new();
    read_with(&mut reader, &[&masked(BINARY, b"a")], &limits);
    assert!(reader.has_partial(), "between fragments");
    read_with(&mut reader, &[&masked(PING, b"a")], &limits);
    assert!(reader.has_partial(), "after a ping between fragments");
    read_with(&mut reader, &[&masked(FIN_CONTINUATION, b"a")], &limits);
    assert!(!reader.has_partial());
}

#[test]
fn a_client_reads_a_servers_frames_and_refuses_masked_ones() {
    let limits = MessageLimits::default();
    let push = proto::encoded::Encoded::push(proto::op::Op(1000), b"hello");
    let pong = proto::encoded::Encoded::ws_control(Opcode::Pong, b"");
    let stream = [push.ws(), pong.ws()].concat();
    for pieces in common::every_cut(&stream) {
        let (said, violation) = read_with(&mut Reader::of_server(), &pieces, &limits);
        assert_eq!((said, violation), (vec![message(&push.ws()[2..]), Said::Pong], None));
    }
    let mut frame = Vec::new();
    client_frame(Opcode::Binary, b"x", [1, 2, 3, 4], &mut frame);
    let (_, violation) = read_with(&mut Reader::of_server(), &[&frame], &limits);
    assert_eq!(violation.map(|violation| violation.label), Some("mask"));
}

#[test]
fn a_zero_mask_is_a_mask() {
    let mut frame = Vec::new();
    client_frame(Opcode::Text, b"hi", [0; 4], &mut frame);
    assert_eq!(frame, hex("81 82 00000000 \"hi\""));
    assert_eq!(said(&frame), (vec![message(b"hi")], None));
}
