//! Networks, by which operators name regions of clients and the proxies that they trust.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

/// Addresses with a common start, such as `10.1.0.0/16`. A bare address is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    start: IpAddr,
    bits: u8,
}

/// A text that is no network. Whoever wrote it has to change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no network: write an address and its length, such as 10.1.0.0/16, or an address")]
pub struct NoNetwork;

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let (start, bits) = match text.split_once('/') {
            Some((start, bits)) => (start, Some(bits.parse::<u8>().map_err(|_| NoNetwork)?)),
            None => (text, None),
        };
        let start: IpAddr = start.parse().map_err(|_| NoNetwork)?;
        let width = width(start);
        let bits = bits.unwrap_or(width);
        if bits > width { Err(NoNetwork) } else { Ok(Network { start, bits }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.start)?;
        if self.bits == width(self.start) { Ok(()) } else { write!(f, "/{}", self.bits) }
    }
}

impl Network {
    /// Whether the address is in it. An IPv4 address counts as one also where it is written as IPv6 (`::ffff:10.1.0.1`).
    pub fn contains(self, ip: IpAddr) -> bool {
        let (start, ip, width) = match (self.start, ip.to_canonical()) {
            (IpAddr::V4(start), IpAddr::V4(ip)) => (start.to_bits().into(), ip.to_bits().into(), 32),
            (IpAddr::V6(start), IpAddr::V6(ip)) => (start.to_bits(), ip.to_bits(), 128),
            _ => return false,
        };
        let differ: u128 = start ^ ip;
        differ.checked_shr(width - u32::from(self.bits)).unwrap_or(0) == 0
    }

    /// The same addresses as they should be written: nothing behind the common start (`10.1.2.3/16` is `10.1.0.0/16`), and
    /// IPv4 not as IPv6.
    pub fn normal(self) -> Network {
        let behind = u32::from(width(self.start) - self.bits);
        let cleared = |bits: u128| {
            bits.checked_shr(behind).and_then(|bits| bits.checked_shl(behind)).unwrap_or_default()
        };
        let start = match self.start {
            IpAddr::V4(start) => IpAddr::V4((cleared(start.to_bits().into()) as u32).into()),
            IpAddr::V6(start) => IpAddr::V6(cleared(start.to_bits()).into()),
        };
        match start.to_canonical() {
            canonical @ IpAddr::V4(_) if start.is_ipv6() && self.bits >= 96 => {
                Network { start: canonical, bits: self.bits - 96 }
            }
            _ => Network { start, bits: self.bits },
        }
    }

    /// Whether every address of IPv4, or every address of IPv6, is in it.
    pub fn is_everybody(self) -> bool {
        self.bits == 0
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Some networks, shared by all who look into them. A look compares the address with each of them.
#[derive(Clone, Debug, Default)]
pub struct Networks(Arc<[Network]>);

impl Networks {
    /// Whether the address is in one of them.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(ip))
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Networks(networks.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().expect(text)
    }

    #[test]
    fn a_network_has_the_addresses_with_its_start_and_no_others() {
        for (text, inside, outside) in [
            ("10.1.0.0/16", "10.1.255.255", "10.2.0.0"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("192.0.2.1/31", "192.0.2.0", "192.0.2.2"),
            ("10.1.0.0/16", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("0.0.0.0/0", "255.255.255.255", "::"),
            ("::/0", "ffff::", "0.0.0.0"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "127.0.0.1"),
            ("::1/128", "::1", "::2"),
        ] {
            let network = network(text);
            assert!(network.contains(inside.parse().unwrap()), "{text} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{text} {outside}");
            let all: Networks = [self::network("203.0.113.9"), network].into_iter().collect();
            assert!(all.contains(inside.parse().unwrap()) && !all.contains(outside.parse().unwrap()));
        }
        assert!(!Networks::default().contains("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "10.1.0.0/33",
            "::/129",
            "10.1/16",
            "10.1.0.0/",
            "10.1.0.0/-1",
            "/8",
            "a.example",
            "10.1.0.0/8/8",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NoNetwork), "{text}");
        }
    }

    #[test]
    fn a_network_has_one_right_way_to_be_written() {
        for (text, right) in [
            ("10.1.2.3/16", "10.1.0.0/16"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("10.1.2.3/0", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::1/0", "::/0"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/96", "::/96"),
        ] {
            assert_eq!(network(text).normal().to_string(), right);
            assert_eq!(network(right).normal(), network(right));
        }
    }
}
