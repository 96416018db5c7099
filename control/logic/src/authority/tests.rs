use std::time::Duration;

use loona_hpack::Decoder;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::{
    ValidAuthority,
    frames::{BlockTooLong, Frames},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Header blocks of three calls on one connection as grpc-go writes them: Huffman code, all that is new into the table.
/// The second refers to the authority of the first, the third is indices alone.
const CONNECT: &str = "8386449262639a95e83cc622f9cf3188c5e3d551489f418d98e6a57a0f3188c5761e46113f5f8b1d75d0620d263d4c4d\
    65647a8a9acac8b4c7602b884bb34082497f864d833505b11f40899acac8b24d494f6a7f867df7df13b6ff";
const RENEW: &str = "8386449562639a95e83cc622f9cf3188c6d2d45f1aaaa0d517c3c2c1c07f00867df7df6436ff408a9acac8b16a21e435537f\
    839bd9ab";
const AGAIN: &str = "8386c6c5c4c3c2c1";

/// `:authority: goim.logic/prod/sh`, into the table.
const GO_AUTHORITY: &str = "418d98e6a57a0f3188c5761e46113f";

fn hex(digits: &str) -> Vec<u8> {
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn call(stream: u32, block: &[u8]) -> Vec<u8> {
    [frame(HEADERS, END_HEADERS, stream, block), frame(DATA, END_STREAM, stream, &[0, 0, 0, 0, 0])].concat()
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[]), frames.concat()].concat()
}

/// What comes out when the bytes arrive in these pieces.
fn through<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, BlockTooLong> {
    let (mut frames, mut out) = (Frames::new(), Vec::new());
    for piece in pieces {
        let passed = frames.pass(piece);
        out.extend_from_slice(&piece[..passed]);
        frames.push(&piece[passed..], &mut out)?;
    }
    frames.end(&mut out);
    Ok(out)
}

fn whole(bytes: &[u8]) -> Vec<u8> {
    through([bytes]).unwrap()
}

/// A frame that is no part of a header block, or a header block in the place where its last frame stood.
#[derive(Debug, PartialEq)]
enum Seen {
    Frame(Vec<u8>),
    Block { stream: u32, end_stream: bool, priority: Vec<u8>, fields: Vec<(String, String)> },
}

/// Reads what a client sent with an ordinary decoder, as a server does.
fn seen(bytes: &[u8]) -> Vec<Seen> {
    let mut rest = bytes.strip_prefix(PREFACE).expect("a preface");
    let (mut decoder, mut seen, mut open) = (Decoder::new(), Vec::new(), None);
    while !rest.is_empty() {
        let len = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        assert!(len <= 16_384, "a frame of {len} bytes");
        let (kind, flags) = (rest[3], rest[4]);
        let stream = u32::from_be_bytes(rest[5..9].try_into().unwrap());
        let (frame, next) = rest.split_at(9 + len);
        rest = next;
        let mut part = &frame[9..];
        if kind == HEADERS {
            if flags & PADDED != 0 {
                part = &part[1..part.len() - usize::from(part[0])];
            }
            let mut priority = Vec::new();
            if flags & PRIORITY != 0 {
                priority = part[..5].to_vec();
                part = &part[5..];
            }
            open = Some((flags & END_STREAM != 0, priority, Vec::new()));
        } else if kind != CONTINUATION {
            assert!(open.is_none(), "a frame within a header block");
            seen.push(Seen::Frame(frame.to_vec()));
            continue;
        }
        open.as_mut().expect("a header block").2.extend_from_slice(part);
        if flags & END_HEADERS != 0 {
            let (end_stream, priority, block) = open.take().unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            let fields = decoder.decode(&block).expect("a header block");
            let fields = fields.into_iter().map(|(name, value)| (text(name), text(value))).collect();
            seen.push(Seen::Block { stream, end_stream, priority, fields });
        }
    }
    seen
}

/// What the server has to see when the client sends these bytes.
fn expected(bytes: &[u8]) -> Vec<Seen> {
    let mut all = seen(bytes);
    for one in &mut all {
        if let Seen::Block { fields, .. } = one {
            for (_, value) in fields.iter_mut().filter(|(name, _)| name == ":authority") {
                *value = value.replace('/', ".");
            }
        }
    }
    all
}

#[test]
fn the_authority_of_a_go_comet_becomes_valid_wherever_the_bytes_are_cut() {
    let sent = connection(&[
        call(1, &hex(CONNECT)),
        frame(PING, 0, 0, b"12345678"),
        call(3, &hex(RENEW)),
        call(5, &hex(AGAIN)),
    ]);
    let out = whole(&sent);
    assert_eq!(seen(&out), expected(&sent));
    let authorities = seen(&out).into_iter().filter_map(|one| match one {
        Seen::Block { fields, .. } => fields.into_iter().find(|(name, _)| name == ":authority"),
        Seen::Frame(_) => None,
    });
    assert_eq!(authorities.map(|(_, value)| value).collect::<Vec<_>>(), ["goim.logic.prod.sh"; 3]);
    // Once the name is in the table nothing is left to change.
    assert!(out.ends_with(&[call(3, &hex(RENEW)), call(5, &hex(AGAIN))].concat()));

    for cut in 0..=sent.len() {
        let (one, two) = sent.split_at(cut);
        assert_eq!(through([one, two]).unwrap(), out, "cut at {cut}");
    }
    assert_eq!(through(sent.chunks(1)).unwrap(), out);
}

#[test]
fn what_is_valid_goes_on_byte_by_byte() {
    for authority in ["127.0.0.1:3119", "localhost", "[::1]:3119", "goim.logic", ""] {
        let block = [&hex("838644012f41")[..], &[authority.len() as u8], authority.as_bytes()].concat();
        let padded = [&[2][..], &block, &[0, 0]].concat();
        let sent = connection(&[
            call(1, &block),
            frame(HEADERS, END_HEADERS | PADDED, 3, &padded),
            frame(HEADERS, END_STREAM, 5, &block[..3]),
            frame(CONTINUATION, END_HEADERS, 5, &block[3..]),
        ]);
        assert_eq!(whole(&sent), sent, "{authority}");
    }
}

#[test]
fn padding_priority_and_continuations_are_understood() {
    let block = hex(CONNECT);
    for cut in 0..=block.len() {
        let (one, two) = block.split_at(cut);
        let payload = [&[3][..], b"prior", one, &[0; 3]].concat();
        let sent = connection(&[
            frame(HEADERS, END_STREAM | PADDED | PRIORITY, 1, &payload),
            frame(CONTINUATION, 0, 1, &[]),
            frame(CONTINUATION, END_HEADERS, 1, two),
            call(3, &hex(RENEW)),
        ]);
        let out = whole(&sent);
        assert_eq!(seen(&out), expected(&sent), "cut at {cut}");
        assert!(
            matches!(&seen(&out)[1], Seen::Block { end_stream: true, priority, .. } if priority == b"prior")
        );
    }
}

#[test]
fn a_block_that_no_longer_fits_a_frame_is_cut() {
    // Literals that do not go into the table, as many as fill the frame: the plain text of the authority is longer than
    // its Huffman code.
    let mut block = hex(GO_AUTHORITY);
    while block.len() + 200 < 16_384 {
        block.extend([0, 1, b'x', 100]);
        block.extend([b'y'; 100]);
    }
    let left = 16_384 - block.len() - 4;
    block.extend([0, 1, b'x', 0x7f, (left - 128) as u8]);
    block.extend(vec![b'z'; left - 1]);
    assert_eq!(block.len(), 16_384);
    let sent = connection(&[call(1, &block), call(3, &hex("bebebe"))]);
    let out = whole(&sent);
    assert_eq!(seen(&out), expected(&sent));
    assert_eq!(out.len(), sent.len() + 9 + "goim.logic/prod/sh".len() - 13);
}

#[test]
fn what_breaks_the_rules_goes_on_as_it_came_and_all_after_it() {
    let headers = |flags, payload: &[u8]| frame(HEADERS, flags, 1, payload);
    let go = hex(GO_AUTHORITY);
    let cases: [(&str, Vec<u8>); 12] = [
        ("HTTP/1.1", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("a string beyond the block", connection(&[headers(END_HEADERS, &go[..8])])),
        ("an integer without end", connection(&[headers(END_HEADERS, &hex("ffffffffffff01"))])),
        ("a cut integer", connection(&[headers(END_HEADERS, &hex("ffff"))])),
        ("no Huffman code", connection(&[headers(END_HEADERS, &hex("4184ffffffff"))])),
        ("a name without value", connection(&[headers(END_HEADERS, &hex("400161"))])),
        ("padding beyond the frame", connection(&[headers(END_HEADERS | PADDED, &hex("05410161"))])),
        ("no padding length", connection(&[headers(END_HEADERS | PADDED, &[])])),
        ("a cut priority", connection(&[headers(END_HEADERS | PRIORITY, &hex("00000000"))])),
        ("a frame too long", connection(&[headers(END_HEADERS, &[0x82; 16_385])])),
        ("another stream", connection(&[headers(0, &go), frame(CONTINUATION, END_HEADERS, 3, &[])])),
        ("another frame", connection(&[headers(0, &go), frame(PING, 0, 0, b"12345678")])),
    ];
    for (what, mut sent) in cases {
        sent.extend(call(5, &go));
        assert_eq!(whole(&sent), sent, "{what}");
        assert_eq!(through(sent.chunks(7)).unwrap(), sent, "{what}");
    }
}

#[test]
fn a_header_block_without_end_ends_the_connection() {
    let begin = connection(&[frame(HEADERS, 0, 1, &[0x82; 16_384])]);
    let long = [begin.clone(), frame(CONTINUATION, 0, 1, &[0x82; 16_384]).repeat(3)].concat();
    assert_eq!(through([&long[..]]), Err(BlockTooLong));
    let empty = [begin, frame(CONTINUATION, 0, 1, &[]).repeat(8_000)].concat();
    assert_eq!(through(empty.chunks(100)), Err(BlockTooLong));
}

#[tokio::test]
async fn a_connection_is_read_through_it_to_its_end() {
    let mut sent =
        connection(&[call(1, &hex(CONNECT)), frame(DATA, 0, 1, &[7; 10_000]), call(3, &hex(RENEW))]);
    sent.extend(&frame(HEADERS, END_HEADERS, 5, &hex(AGAIN))[..12]);
    for pipe in [1, 7, 1 << 20] {
        let (mut client, server) = duplex(pipe);
        let bytes = sent.clone();
        let client = tokio::spawn(async move {
            client.write_all(&bytes).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        });
        let mut server = ValidAuthority::new(server);
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, whole(&sent), "the half of a frame included");
        server.write_all(b"still open").await.unwrap();
        drop(server);
        assert_eq!(client.await.unwrap(), "still open");
    }
}

#[tokio::test]
async fn reading_a_header_block_without_end_is_an_error() {
    let (mut client, server) = duplex(64);
    tokio::spawn(async move {
        let _ = client.write_all(&connection(&[frame(HEADERS, 0, 1, &[])])).await;
        while client.write_all(&frame(CONTINUATION, 0, 1, &[0x82; 100])).await.is_ok() {}
    });
    let read = async { ValidAuthority::new(server).read_to_end(&mut Vec::new()).await };
    let error = tokio::time::timeout(Duration::from_secs(30), read).await.expect("an end").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

/// One field as a client may write it: into the table, beside it, or out of it.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let text = |text: String| [vec![text.len() as u8], text.into_bytes()].concat();
    let authority = prop_oneof![
        "[a-z/]{1,100}".prop_map(text),
        Just(hex(&GO_AUTHORITY[2..])),
        Just(text("localhost:3119".into())),
    ];
    let first = prop_oneof![Just(0x40_u8), Just(0), Just(0x10)];
    prop_oneof![
        (first.clone(), authority).prop_map(|(first, value)| [vec![first | 1], value].concat()),
        (first, "[a-z]{1,9}", "[a-z0-9]{0,120}").prop_map(move |(first, name, value)| [
            vec![first],
            text(name),
            text(value)
        ]
        .concat()),
        (62_u8..90).prop_map(|index| vec![0x80 | index]),
        Just(vec![0x83]),
        // A smaller table, and the first one again.
        Just(hex("3f6182")),
        Just(hex("3fe11f82")),
    ]
}

proptest! {
    #[test]
    fn tables_stay_in_step(
        blocks in prop::collection::vec(prop::collection::vec(field(), 1..12), 1..40),
        cuts in prop::collection::vec(1_usize..300, 1..20),
    ) {
        // A field that refers to nothing ends a connection: it is left out.
        let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
        for (fields, stream) in blocks.iter().zip((1..).step_by(2)) {
            let taken = fields.iter().filter(|field| decoder.decode(field).is_ok());
            frames.push(call(stream, &taken.flatten().copied().collect::<Vec<u8>>()));
        }
        let sent = connection(&frames);
        let out = whole(&sent);
        prop_assert_eq!(seen(&out), expected(&sent));

        let (mut pieces, mut rest) = (Vec::new(), &sent[..]);
        for len in cuts.iter().cycle() {
            let (piece, next) = rest.split_at(rest.len().min(*len));
            pieces.push(piece);
            rest = next;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(through(pieces).unwrap(), out);
    }

    #[test]
    fn any_bytes_come_out_the_same_however_they_are_cut(
        frames in prop::collection::vec(
            (0_u8..11, any::<u8>(), 0_u32..4, prop::collection::vec(any::<u8>(), 0..60)),
            0..12,
        ),
        rest in prop::collection::vec(any::<u8>(), 0..60),
        len in 1_usize..40,
    ) {
        let frames: Vec<_> =
            frames.iter().map(|(kind, flags, stream, payload)| frame(*kind, *flags, *stream, payload)).collect();
        let sent = [connection(&frames), rest].concat();
        prop_assert_eq!(through(sent.chunks(len)).unwrap(), whole(&sent));
    }
}
