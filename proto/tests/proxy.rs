//! The header of the PROXY protocol, taken and refused the same however it is cut.

mod common;

use std::net::IpAddr;

use common::{cut, every_cut, spoil};
use proptest::{collection::vec, prelude::*};
use proto::proxy::{Fault, HeaderReader, Source, V1_LEN_MAX, V2_BODY_LEN_MAX};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
}

/// Addresses and ports of two clients of IPv4, 192.0.2.1 and another.
const IPV4: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 9, 220, 4, 1, 187];

fn ipv6() -> Vec<u8> {
    let client: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
    [&client.octets()[..], &[9; 16], &[220, 4, 1, 187]].concat()
}

/// What is made of a header, and how many bytes it was.
fn read(pieces: &[&[u8]]) -> Result<Option<(Source, usize)>, Fault> {
    let mut reader = HeaderReader::new();
    let mut used = 0;
    for piece in pieces {
        let mut input = *piece;
        let source = reader.push(&mut input)?;
        used += piece.len() - input.len();
        match source {
            Some(source) => return Ok(Some((source, used))),
            None => assert!(input.is_empty(), "bytes are left"),
        }
    }
    Ok(None)
}

#[track_caller]
fn is(header: &[u8], expected: Result<Source, Fault>) {
    let whole = expected.map(|source| Some((source, header.len())));
    assert_eq!(read(&[header]), whole, "{:?}", String::from_utf8_lossy(header));
    for pieces in every_cut(header) {
        assert_eq!(read(&pieces), whole, "{pieces:?}");
    }
    let bytes: Vec<&[u8]> = header.chunks(1).collect();
    assert_eq!(read(&bytes), whole);
    if let Ok(source) = expected {
        let more = [header, b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(read(&[&more]), Ok(Some((source, header.len()))), "what is behind it stays");
        for len in 0..header.len() {
            assert_eq!(read(&[&header[..len]]), Ok(None), "{len} bytes of it");
        }
    }
}

fn client(address: &str) -> Result<Source, Fault> {
    Ok(Source::Client(address.parse().unwrap()))
}

#[test]
fn version_1_is_read() {
    for (header, expected) in [
        ("PROXY TCP4 192.0.2.1 192.0.2.9 56324 443\r\n", client("192.0.2.1")),
        ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", client("255.255.255.255")),
        ("PROXY TCP6 2001:db8::1 ::9 0 443\r\n", client("2001:db8::1")),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::9 1 443\r\n", client("192.0.2.1")),
        ("PROXY UNKNOWN\r\n", Ok(Source::Unknown)),
        ("PROXY TCP6 2001:db8::1 ::9 9 5632 \n", Err(Fault::Malformed)),
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            Ok(Source::Unknown),
        ),
        ("PROXY UNKNOWN 192.0.2.1 and whatever else there is in this line\r\n", Ok(Source::Unknown)),
    ] {
        is(header.as_bytes(), expected);
    }
}

#[test]
fn what_is_wrong_in_version_1_is_refused() {
    for header in [
        "PROXY TCP4 192.0.2.1 192.0.2.9 56324 443\n",
        "PROXY TCP4 192.0.2.1 192.0.2.9 56324\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.9 56324 443 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.9 56324 443 1\r\n",
        "PROXY TCP4 192.0.2.1  192.0.2.9 56324 443\r\n",
        "PROXY TCP4 192.0.2.1\r192.0.2.9 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.9 56324 65536\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.9 56324 443\r\n",
        "PROXY TCP4 2001:db8::1 ::9 56324 443\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.9 56324 443\r\n",
        "PROXY TCP6 fe80::1%eth0 ::9 56324 443\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.9 56324 443\r\n",
        "PROXY tcp4 192.0.2.1 192.0.2.9 56324 443\r\n",
        "PROXY UNKNOWNS 192.0.2.1\r\n",
        "PROXY UNKNOWN\n",
        "PROXY \r\n",
        "PROXY  TCP4 192.0.2.1 192.0.2.9 56324 443\r\n",
        "PROXY TCP4 a.example 192.0.2.9 56324 443\r\n",
        "PROXY \u{663} \r\n",
    ] {
        is(header.as_bytes(), Err(Fault::Malformed));
    }
    is(b"PROXY TCP4 \xff\r\n", Err(Fault::Malformed));
}

#[test]
fn version_2_is_read_and_what_it_tells_beside_the_address_is_skipped() {
    let unix = [b'/'; 216];
    for (header, expected) in [
        (v2(0x21, 0x11, IPV4), client("192.0.2.1")),
        (v2(0x21, 0x21, &ipv6()), client("2001:db8::1")),
        // TLVs, in order or not.
        (v2(0x21, 0x11, &[IPV4, b"\x01\x00\x02h2\x03\xff\xffno"].concat()), client("192.0.2.1")),
        (v2(0x21, 0x21, &[&ipv6()[..], &[0xee; 2000]].concat()), client("2001:db8::1")),
        (v2(0x21, 0x11, &[IPV4, &vec![7; V2_BODY_LEN_MAX - 12]].concat()), client("192.0.2.1")),
        // Datagrams: a client of HTTP/3.
        (v2(0x21, 0x12, IPV4), client("192.0.2.1")),
        // The proxy's own, or no IP address.
        (v2(0x20, 0x00, b""), Ok(Source::Proxy)),
        (v2(0x20, 0x11, IPV4), Ok(Source::Proxy)),
        (v2(0x20, 0x11, b""), Ok(Source::Proxy)),
        (v2(0x20, 0xf0, b"whatever"), Ok(Source::Proxy)),
        (v2(0x21, 0x00, b""), Ok(Source::Unknown)),
        (v2(0x21, 0x00, b"something"), Ok(Source::Unknown)),
        (v2(0x21, 0x31, &unix), Ok(Source::Unknown)),
    ] {
        is(&header, expected);
    }
}

#[test]
fn what_is_wrong_in_version_2_is_refused() {
    for header in [
        v2(0x11, 0x11, IPV4),
        v2(0x22, 0x11, IPV4),
        v2(0x21, 0x10, IPV4),
        v2(0x21, 0x13, IPV4),
        v2(0x21, 0x41, IPV4),
        v2(0x21, 0x11, &IPV4[1..]),
        v2(0x21, 0x11, b""),
        v2(0x21, 0x21, IPV4),
        v2(0x21, 0x31, IPV4),
    ] {
        is(&header, Err(Fault::Malformed));
    }
}

#[test]
fn a_header_that_is_too_long_is_refused_before_it_has_come() {
    for len in [V2_BODY_LEN_MAX + 1, 65_535] {
        let head = [SIGNATURE, b"\x21\x11", &(len as u16).to_be_bytes()].concat();
        is(&head, Err(Fault::TooLong));
        assert_eq!(read(&[&head[..15]]), Ok(None));
    }
    let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'a'; V1_LEN_MAX]].concat();
    assert_eq!(read(&[&endless[..V1_LEN_MAX - 1]]), Ok(None));
    is(&endless[..V1_LEN_MAX], Err(Fault::TooLong));
    let longest = [&endless[..V1_LEN_MAX - 2], b"\r\n"].concat();
    is(&longest, Ok(Source::Unknown));
}

#[test]
fn a_stranger_is_known_by_its_first_other_byte_and_keeps_its_bytes() {
    for stranger in [
        "GET /sub HTTP/1.1",
        "PRO",
        "\r\nGET",
        "\0\0\0\x10",
        "\x16\x03\x01",
        "PROXY\t",
        "\r\n\r\n\0\r\nQUIT\r",
    ] {
        let stranger = [stranger.as_bytes(), b"!"].concat();
        for pieces in every_cut(&stranger) {
            let mut reader = HeaderReader::new();
            let mut kept = Vec::new();
            for (at, piece) in pieces.iter().enumerate() {
                let mut input = *piece;
                match reader.push(&mut input) {
                    Ok(None) => assert!(input.is_empty()),
                    Err(fault) => {
                        assert_eq!(fault, Fault::Missing);
                        kept = [reader.taken(), input, &pieces[at + 1..].concat()].concat();
                        break;
                    }
                    Ok(Some(source)) => panic!("{source:?}"),
                }
                assert!(!reader.is_header());
            }
            assert_eq!(kept, stranger);
        }
    }
}

/// Any address there is.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

/// A whole header with this address.
fn header() -> impl Strategy<Value = (IpAddr, Vec<u8>)> {
    let more = vec(any::<u8>(), 0..40);
    (address(), any::<bool>(), more).prop_map(|(address, is_text, more)| {
        let header = match address {
            IpAddr::V4(ip) if is_text => format!("PROXY TCP4 {ip} 192.0.2.9 1 65535\r\n").into_bytes(),
            IpAddr::V6(ip) if is_text => format!("PROXY TCP6 {ip} ::9 1 65535\r\n").into_bytes(),
            IpAddr::V4(ip) => v2(0x21, 0x11, &[&ip.octets()[..], &[1; 8], &more].concat()),
            IpAddr::V6(ip) => v2(0x21, 0x21, &[&ip.octets()[..], &[1; 20], &more].concat()),
        };
        (address.to_canonical(), header)
    })
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    vec(any::<usize>(), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_address_is_told(sent in header(), cuts in cuts(), after in vec(any::<u8>(), 0..20)) {
        let (address, header) = sent;
        let stream = [&header[..], &after].concat();
        let told = Ok(Some((Source::Client(address), header.len())));
        prop_assert_eq!(read(&cut(&stream, &cuts)), told);
    }

    #[test]
    fn noise_is_never_an_address(noise in vec(any::<u8>(), 0..300), cuts in cuts()) {
        prop_assert!(matches!(read(&cut(&noise, &cuts)), Ok(None) | Err(Fault::Missing)));
    }

    /// Noise behind the first bytes of a header gets as far as both parsers.
    #[test]
    fn noise_behind_a_signature_says_the_same_however_cut(
        noise in vec(any::<u8>(), 0..300), is_text in any::<bool>(), cuts in cuts()
    ) {
        let start = if is_text { b"PROXY TCP4 " } else { SIGNATURE };
        let stream = [start, &noise].concat();
        let whole = read(&[&stream]);
        prop_assert_eq!(read(&cut(&stream, &cuts)), whole);
        if is_text {
            prop_assert!(!matches!(whole, Ok(Some(_))), "{:?}", whole);
        }
    }

    #[test]
    fn a_spoiled_header_says_the_same_however_cut(
        sent in header(), spots in spoil::spots(), cuts in cuts()
    ) {
        let stream = spoil::spoil(sent.1, &spots);
        let whole = read(&[&stream]);
        prop_assert_eq!(read(&cut(&stream, &cuts)), whole);
        if let Ok(Some((_, used))) = whole {
            prop_assert!(used <= stream.len());
        }
    }
}
