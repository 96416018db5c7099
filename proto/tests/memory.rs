//! What the codec allocates: nothing for what is whole, one block for a push, and never what a header merely claims.

mod common;

use allocation_counter::{AllocationInfo, measure};
use common::{Opcode, PEER, hex, masked};
use proptest::{collection::vec, prelude::*};
use proto::{
    encoded::Encoded,
    frame::{CLIENT_BODY_MAX, FrameReader, Header, decode, encode, frames_of_message},
    login::Login,
    op::Op,
    proxy::{HeaderReader, V2_BODY_LEN_MAX},
    websocket::{HEAD_LEN_MAX, MessageLimits, Reader, Upgrade, UpgradeRules},
};

/// Feeds `pieces` to a WebSocket reader and measures that alone.
fn websocket(pieces: &mut [Vec<u8>], limits: &MessageLimits) -> AllocationInfo {
    let mut reader = Reader::new();
    measure(|| {
        for piece in pieces {
            let mut input = &mut piece[..];
            while let Ok(Some(_)) = reader.next(&mut input, limits) {}
        }
    })
}

/// Feeds `pieces` to a frame reader and measures that alone.
fn frames(pieces: &[&[u8]]) -> AllocationInfo {
    let mut reader = FrameReader::new();
    measure(|| {
        for piece in pieces {
            let mut input = *piece;
            while let Ok(Some(_)) = reader.next(&mut input, CLIENT_BODY_MAX) {}
        }
    })
}

#[test]
fn a_push_a_batch_and_a_reply_are_one_allocation() {
    let header = Header { ver: 1, op: Op(1000), seq: 0 };
    let mut frame = Vec::new();
    encode(header, &[1; 100], &mut frame);
    for body_len in [0, 60, 94, 4096, 70_000] {
        let body = vec![1; body_len];
        assert_eq!(measure(|| drop(Encoded::push(Op(1000), &body))).count_total, 1, "{body_len}");
    }
    assert_eq!(measure(|| drop(Encoded::push_frames(&frame))).count_total, 1);
    assert_eq!(measure(|| drop(Encoded::reply(header, b"live://1000"))).count_total, 1);
    assert_eq!(measure(|| drop(Encoded::ws_control(Opcode::Pong, b"hi"))).count_total, 1);
}

#[test]
fn whole_frames_are_read_without_an_allocation() {
    let mut stream = Vec::new();
    for body in [&b""[..], b"body", &[0; CLIENT_BODY_MAX]] {
        encode(Header { ver: 1, op: Op(2), seq: 0 }, body, &mut stream);
    }
    assert_eq!(frames(&[&stream, &stream]).count_total, 0);
    assert_eq!(measure(|| assert_eq!(frames_of_message(&stream, CLIENT_BODY_MAX).count(), 3)).count_total, 0);
}

#[test]
fn whole_messages_and_control_frames_are_read_without_an_allocation() {
    let stream = [
        masked(0x82, &[1; 5000]),
        masked(0x81, b"text"),
        masked(0x89, b"ping"),
        masked(0x8a, b""),
        masked(0x88, b""),
    ]
    .concat();
    assert_eq!(websocket(&mut [stream], &MessageLimits::default()).count_total, 0);
}

#[test]
fn readers_own_nothing_between_frames_and_messages() {
    let mut stream = Vec::new();
    encode(Header { ver: 1, op: Op(2), seq: 0 }, b"body", &mut stream);
    let mut message = [masked(0x01, b"a"), masked(0x89, b"p"), masked(0x80, b"b")].concat();
    for at in 1..stream.len() {
        let info = frames(&[&stream[..at], &stream[at..]]);
        assert!(info.count_total > 0 && info.bytes_current == 0, "cut at {at}: {info:?}");
    }
    for at in 1..message.len() {
        let rest = message.split_off(at);
        let info = websocket(&mut [message.clone(), rest.clone(), Vec::new()], &MessageLimits::default());
        assert!(info.count_total > 0 && info.bytes_current == 0, "cut at {at}: {info:?}");
        message.extend(rest);
    }
}

#[test]
fn a_header_reserves_nothing_of_what_it_claims() {
    let header = hex("00001010 0010 0001 00000007 00000001");
    assert!(decode(&header, CLIENT_BODY_MAX).is_ok());
    assert!(frames(&[&header]).bytes_max <= 64);

    let limits = MessageLimits { message_max: 1 << 20, fragments_max: 100 };
    for header in [hex("82 ff 0000000000100000 00000000"), hex("02 ff 0000000000100000 00000000")] {
        assert!(websocket(&mut [header], &limits).bytes_max <= 512);
    }
}

#[test]
fn a_message_that_dribbles_in_costs_at_most_thrice_its_limit() {
    let limits = MessageLimits { message_max: 10_000, fragments_max: 100 };
    let whole = masked(0x82, &[1; 10_000]);
    let mut dribble: Vec<Vec<u8>> = whole.chunks(7).map(<[u8]>::to_vec).collect();
    // While it grows, the old block and the new one of twice its size live side by side.
    assert!(websocket(&mut dribble, &limits).bytes_max <= 30_000 + 512);
}

#[test]
fn an_endless_head_is_kept_only_up_to_the_limit() {
    let rules = UpgradeRules::default();
    let line = b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let mut upgrade = Upgrade::new();
    let info = measure(|| {
        for _ in 0..10_000 {
            let _ = upgrade.push(&mut &line[..], PEER, &rules);
        }
    });
    assert!(info.bytes_max <= 3 * HEAD_LEN_MAX as u64 && info.bytes_current == 0, "{info:?}");
}

#[test]
fn a_proxys_header_is_kept_only_as_far_as_it_has_come() {
    let head = |len: u16| [b"\r\n\r\n\0\r\nQUIT\n\x21\x11", &len.to_be_bytes()[..]].concat();
    let mut reader = HeaderReader::new();
    let claimed = measure(|| {
        assert_eq!(reader.push(&mut &head(V2_BODY_LEN_MAX as u16)[..]), Ok(None));
    });
    assert!(claimed.bytes_current <= 32, "what is announced costs nothing: {claimed:?}");
    let whole = measure(|| {
        for _ in 1..V2_BODY_LEN_MAX {
            assert_eq!(reader.push(&mut &[7][..]), Ok(None));
        }
    });
    assert!(whole.bytes_max <= 2 * (2 * V2_BODY_LEN_MAX as u64), "{whole:?}");
}

#[test]
fn an_incomplete_head_holds_no_more_than_a_head_may_have() {
    let rules = UpgradeRules::default();
    let line = [b"X: ".as_slice(), &[b'a'; 4000], b"\r\n"].concat();
    let stream = [b"GET /sub HTTP/1.1\r\n".as_slice(), &line, &line, &line, &line].concat();
    for piece in [1, 100, 1400, 9000, stream.len()] {
        let mut upgrade = Upgrade::new();
        let info = measure(|| {
            for mut piece in stream.chunks(piece) {
                assert_eq!(upgrade.push(&mut piece, PEER, &rules), Ok(None));
            }
        });
        assert!(info.bytes_current <= HEAD_LEN_MAX as i64, "pieces of {piece}: {info:?}");
        assert!(info.bytes_max <= 2 * HEAD_LEN_MAX as u64, "while it grows two blocks live: {info:?}");
    }
}

#[test]
fn the_most_wasteful_login_stays_small() {
    for element in ["1", "[]", "{}", r#"{"":0}"#, "[[[[[[[[]]]]]]]]", r#""""#] {
        for field in ["accepts", "rooms", "features", "key", "unknown"] {
            let count = (CLIENT_BODY_MAX - field.len() - 6) / (element.len() + 1);
            let body = format!(r#"{{"{field}":[{}]}}"#, vec![element; count].join(","));
            assert!(body.len() <= CLIENT_BODY_MAX);
            let info = measure(|| drop(Login::parse(body.as_bytes())));
            assert!(info.bytes_max <= 1 << 20 && info.bytes_current == 0, "{field} of {element}: {info:?}");
        }
    }
}

proptest! {
    #[test]
    fn noise_costs_no_more_than_the_limits_allow(noise in vec(vec(any::<u8>(), 0..600), 0..20)) {
        let limits = MessageLimits { message_max: 1000, fragments_max: 100 };
        let mut pieces: Vec<Vec<u8>> = noise.clone();
        if let Some([first, second, ..]) = pieces.first_mut().map(|piece| &mut piece[..]) {
            *first &= 0x8f;
            *second |= 0x80;
        }
        prop_assert!(websocket(&mut pieces, &limits).bytes_max <= 3 * 1000 + 1024);
        let pieces: Vec<&[u8]> = noise.iter().map(|piece| &piece[..]).collect();
        prop_assert!(frames(&pieces).bytes_max <= 3 * (16 + CLIENT_BODY_MAX as u64));
    }
}
