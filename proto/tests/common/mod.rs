//! What several test files need.

#![allow(dead_code)] // each test file uses its part

pub(crate) mod spoil;

use std::net::{IpAddr, Ipv4Addr};

use proto::{
    frame::{FrameReader, Header, Violation},
    websocket::{
        Item, MessageLimits, Reader, Refusal, Request, Upgrade, UpgradeRules, WsViolation, client_frame,
    },
};

pub(crate) use proto::websocket::Opcode;

/// Bytes in the notation of the protocol's document: hex digits and `"text"`; white space and `|` are for the eye.
#[track_caller]
pub(crate) fn hex(notation: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (i, part) in notation.split('"').enumerate() {
        if i % 2 == 1 {
            bytes.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: String = part.chars().filter(|c| !c.is_whitespace() && *c != '|').collect();
        assert!(digits.len().is_multiple_of(2), "odd number of digits in {notation:?}");
        for pair in digits.as_bytes().chunks(2) {
            let pair = std::str::from_utf8(pair).unwrap();
            bytes.push(u8::from_str_radix(pair, 16).unwrap_or_else(|_| panic!("{pair:?} is not hex")));
        }
    }
    bytes
}

/// An [`Item`] that outlives its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Message(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
}

/// Reads `pieces` one after the other with `reader`, each until `None`, and checks that all of each was taken.
pub(crate) fn read_with(
    reader: &mut Reader,
    pieces: &[&[u8]],
    limits: &MessageLimits,
) -> (Vec<Said>, Option<WsViolation>) {
    let mut said = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match reader.next(&mut input, limits) {
                Ok(Some(Item::Message(bytes))) => said.push(Said::Message(bytes.to_vec())),
                Ok(Some(Item::Ping(bytes))) => said.push(Said::Ping(bytes.to_vec())),
                Ok(Some(Item::Pong)) => said.push(Said::Pong),
                Ok(Some(Item::Close(code))) => said.push(Said::Close(code)),
                Ok(None) => break,
                Err(violation) => return (said, Some(violation)),
            }
        }
        assert!(input.is_empty(), "the reader left {} bytes", input.len());
    }
    (said, None)
}

/// Reads `pieces` of a client's stream with the default limits.
pub(crate) fn read(pieces: &[&[u8]]) -> (Vec<Said>, Option<WsViolation>) {
    read_with(&mut Reader::new(), pieces, &MessageLimits::default())
}

/// A client's frame of any kind, right or wrong: first byte and payload; the shortest length form; masked.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    client_frame(Opcode::Binary, payload, [0xa1, 0x5b, 0x00, 0xff], &mut bytes);
    bytes[0] = first;
    bytes
}

/// Frames of `pieces`, and the violation that ended them.
pub(crate) fn frames(pieces: &[&[u8]], body_max: usize) -> (Vec<(Header, Vec<u8>)>, Option<Violation>) {
    let mut reader = FrameReader::new();
    let mut frames = Vec::new();
    for piece in pieces {
        let mut input = *piece;
        loop {
            match reader.next(&mut input, body_max) {
                Ok(Some(frame)) => frames.push((frame.header, frame.body.to_vec())),
                Ok(None) => break,
                Err(violation) => return (frames, Some(violation)),
            }
        }
        assert!(input.is_empty(), "the reader left {} bytes", input.len());
    }
    (frames, None)
}

/// Where heads come from.
pub(crate) const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Reads a head in `pieces`; with the request comes what was left of the last piece taken.
pub(crate) fn upgrade(pieces: &[&[u8]], rules: &UpgradeRules) -> Result<Option<(Request, Vec<u8>)>, Refusal> {
    let mut reader = Upgrade::new();
    for (i, piece) in pieces.iter().enumerate() {
        let mut input = *piece;
        if let Some(request) = reader.push(&mut input, PEER, rules)? {
            let rest = [input, &pieces[i + 1..].concat()].concat();
            return Ok(Some((request, rest)));
        }
        assert!(input.is_empty(), "the reader left {} bytes", input.len());
    }
    Ok(None)
}

/// Cuts `bytes` at `cuts` (taken modulo the length).
pub(crate) fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    at.sort_unstable();
    let mut pieces = Vec::new();
    let mut from = 0;
    for to in at.into_iter().chain([bytes.len()]) {
        pieces.push(&bytes[from..to]);
        from = to;
    }
    pieces
}

/// Every way to cut `bytes` in two, all bytes one by one, and all in threes.
pub(crate) fn every_cut(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    (0..=bytes.len())
        .map(|at| vec![&bytes[..at], &bytes[at..]])
        .chain([bytes.chunks(1).collect(), bytes.chunks(3).collect()])
}
