//! The client's address, as proxies write it into the head of a request.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str,
};

use crate::network::Networks;

/// Most proxies of one request that are looked at. A client can write as many addresses into the header as its head has
/// room for, and each is compared with every trusted network.
pub(super) const HOPS_MAX: usize = 32;

/// Walks through the elements of all `X-Forwarded-For`, the last of them first, which the nearest proxy has written: the
/// first address that is not trusted is the client's. What is no address ends the walk, since no trusted proxy has written
/// it; then, and where all are trusted, the last good one counts.
pub(super) fn forwarded_for<'a>(
    elements: impl Iterator<Item = &'a [u8]>,
    trusted: &Networks,
) -> Option<IpAddr> {
    let mut client = None;
    // Empty elements of a list have no meaning (RFC 9110 section 5.6.1.2).
    for element in elements.filter(|element| !element.is_empty()).take(HOPS_MAX) {
        let Some(address) = address(element) else { break };
        client = Some(address);
        if !trusted.contains(address) {
            break;
        }
    }
    client
}

/// An address as some proxies write it: alone, with a port, in brackets, in quotes.
pub(super) fn address(element: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(element).ok()?.trim_ascii();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(in_brackets).or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_proxies_write_it() {
        for (text, address) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:5", "192.0.2.1"),
            (" \"192.0.2.1:5\"\t", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("\"[2001:db8::1]:5\"", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(super::address(text.as_bytes()), Some(address.parse().unwrap()), "{text}");
        }
        for text in [
            "",
            "unknown",
            "_hidden",
            "192.0.2.256",
            "192.0.2.1:",
            "192.0.2.1:99999",
            "192.0.2.1 192.0.2.2",
            "[192.0.2.1]",
            "[::1",
            "::1]",
            "\"::1",
            "for=192.0.2.1",
            "fe80::1%eth0",
            "1",
            "\u{663}.0.0.1",
        ] {
            assert_eq!(super::address(text.as_bytes()), None, "{text}");
        }
        assert_eq!(address(b"192.0.2.1\xff"), None);
    }

    fn walk(header: &str) -> Option<String> {
        let trusted = ["10.0.0.0/8", "::1"].map(|network| network.parse().unwrap()).into_iter().collect();
        let elements = header.as_bytes().rsplit(|&byte| byte == b',');
        forwarded_for(elements, &trusted).map(|address| address.to_string())
    }

    #[test]
    fn the_first_address_from_the_right_that_is_not_trusted_is_the_clients() {
        for (header, client) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("203.0.113.9, 192.0.2.1", Some("192.0.2.1")),
            ("203.0.113.9, 192.0.2.1, 10.1.1.1, [::1]:80", Some("192.0.2.1")),
            ("10.0.0.3, 10.0.0.2", Some("10.0.0.3")),
            ("192.0.2.1, nonsense, 10.0.0.2", Some("10.0.0.2")),
            ("192.0.2.1, nonsense", None),
            ("192.0.2.1,,", Some("192.0.2.1")),
            (",", None),
        ] {
            assert_eq!(walk(header).as_deref(), client, "{header}");
        }
    }

    #[test]
    fn only_some_hops_are_looked_at() {
        let hops = |number| format!("192.0.2.1{}", ",10.0.0.1".repeat(number));
        assert_eq!(walk(&hops(HOPS_MAX - 1)).as_deref(), Some("192.0.2.1"));
        assert_eq!(walk(&hops(HOPS_MAX)).as_deref(), Some("10.0.0.1"));
    }
}
