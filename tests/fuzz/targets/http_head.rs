#![no_main]
//! The head of an upgrade: read the same however it is cut, refused with a whole answer or taken.

use std::net::{IpAddr, Ipv4Addr};

use fuzz::{Cut, bounded, choose};
use libfuzzer_sys::fuzz_target;
use proto::websocket::{HEAD_LEN_MAX, Refusal, Request, Upgrade, UpgradeRules};

const ORIGINS: [&[&str]; 3] = [&[], &["https://app.example.com"], &["*"]];

/// A proxy that is believed.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fuzz_target!(|input: &[u8]| bounded(|| {
    let (origins, input) = choose(&ORIGINS, input);
    let origins = origins.iter().map(ToString::to_string).collect();
    let proxies = ["127.0.0.1", "10.0.0.0/8", "::/8"].map(|network| network.parse().expect("a network"));
    let rules = UpgradeRules { origins, proxies: proxies.into_iter().collect(), ..UpgradeRules::default() };
    let cut = Cut::new(input);
    let whole = read(&[cut.stream], &rules);
    assert_eq!(read(&cut.pieces, &rules), whole);
    match whole {
        Ok(None) => assert!(cut.stream.len() <= HEAD_LEN_MAX),
        Ok(Some((request, rest))) => accepted(&request, &cut.stream[..cut.stream.len() - rest.len()]),
        Err(refusal) => refused(refusal),
    }
}));

/// With the request comes what belongs to the WebSocket.
fn read(pieces: &[&[u8]], rules: &UpgradeRules) -> Result<Option<(Request, Vec<u8>)>, Refusal> {
    let mut upgrade = Upgrade::new();
    for (at, piece) in pieces.iter().enumerate() {
        let mut input = *piece;
        match upgrade.push(&mut input, PEER, rules) {
            Ok(None) => assert!(input.is_empty(), "bytes are left"),
            Ok(Some(request)) => return Ok(Some((request, [input, &pieces[at + 1..].concat()].concat()))),
            Err(refusal) => {
                assert_eq!(upgrade.push(&mut &b"GET"[..], PEER, rules), Err(refusal), "it stays refused");
                return Err(refusal);
            }
        }
    }
    Ok(None)
}

fn accepted(request: &Request, head: &[u8]) {
    assert!(head.ends_with(b"\r\n\r\n") && head.len() <= HEAD_LEN_MAX);
    // Empty lines may come before.
    let head = head.trim_ascii_start();
    assert!(head.starts_with(b"GET /sub") || head.starts_with(b"GET http") || head.starts_with(b"GET HTTP"));
    assert!(
        !head[..head.len() - 4].windows(4).any(|four| four == b"\r\n\r\n"),
        "the head ends at the first empty line"
    );
    assert_eq!(request.path, "/sub");
    let cookie = request.cookie.as_deref().unwrap_or_default();
    assert!(!cookie.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    assert!(request.client.is_none() || head.contains("x-forwarded-for:") || head.contains("x-real-ip:"));
    assert!(request.response().starts_with(b"HTTP/1.1 101 "));
}

fn refused(refusal: Refusal) {
    let response = String::from_utf8(refusal.response()).expect("an answer is text");
    let (head, body) = response.split_once("\r\n\r\n").expect("an answer has a head and a body");
    assert!(head.starts_with(&format!("HTTP/1.1 {} ", refusal.status())));
    assert!(head.contains(&format!("Content-Length: {}", body.len())));
}
