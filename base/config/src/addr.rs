//! Addresses to listen on.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Deref,
    str::FromStr,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

use super::{ConfigError, list::one_or_many, string_schema};

/// One address to listen on: `127.0.0.1:3111`, `[::1]:3111`, or `:3111`. As in Go, the last one means every address: it
/// is `[::]:3111`, which takes IPv4 too. `0.0.0.0:3111` is every IPv4 address. Host names are refused, because what a
/// name resolves to may change between the check and the bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(SocketAddr);

/// Why a text is not an address. The operator has to change the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddrError {
    /// Not `IP:port`.
    #[error("{0:?} is not an address: write IP:port, such as 127.0.0.1:3101, or :3101")]
    Malformed(String),
    /// The same address stands twice in a list.
    #[error("{0} is given twice")]
    Twice(SocketAddr),
    /// One element of a list means all addresses of a port, and another one is among them.
    #[error("{all} takes {one} along{}: leave {one} out", ipv4_too(all, one))]
    Along {
        /// The wildcard.
        all: SocketAddr,
        /// The other.
        one: SocketAddr,
    },
}

fn ipv4_too(all: &SocketAddr, one: &SocketAddr) -> &'static str {
    if all.is_ipv6() && one.is_ipv4() { ", for it listens on IPv4 too" } else { "" }
}

/// Whether a socket on `all` takes connections to `one`. Port 0 becomes a different port each time.
pub(super) fn covers(all: SocketAddr, one: SocketAddr) -> bool {
    let (ip, port) = (all.ip().to_canonical(), all.port());
    let is_covered = match ip {
        IpAddr::V6(ip) if ip.is_unspecified() => true,
        IpAddr::V4(ip) if ip.is_unspecified() => one.ip().to_canonical().is_ipv4(),
        ip => ip == one.ip().to_canonical(),
    };
    port != 0 && port == one.port() && is_covered
}

impl Addr {
    /// The address.
    pub const fn get(self) -> SocketAddr {
        self.0
    }

    /// `127.0.0.1:port`, for defaults.
    pub const fn loopback(port: u16) -> Self {
        Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
    }

    /// Whether only this machine can reach it.
    pub const fn is_loopback(self) -> bool {
        match self.0.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(ip) => ip.is_loopback(),
                None => ip.is_loopback(),
            },
        }
    }
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Self {
        Self(addr)
    }
}

impl FromStr for Addr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let malformed = || AddrError::Malformed(text.to_owned());
        // `u16::from_str` would accept a plus sign.
        if let Some(port) = text.strip_prefix(':').filter(|port| port.bytes().all(|b| b.is_ascii_digit())) {
            let port = port.parse().map_err(|_| malformed())?;
            return Ok(Self(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)));
        }
        text.parse().map(Self).map_err(|_| malformed())
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Addr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Addr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Addr;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address such as \"127.0.0.1:3101\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Addr, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for Addr {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Addr".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        string_schema(None)
    }
}

/// Addresses to listen on: an array of [`Addr`], or one string with commas. No address may be there twice, by itself or
/// as part of a wildcard, except with port 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Addrs(Vec<SocketAddr>);

impl Addrs {
    /// The addresses, in the order given.
    pub fn get(&self) -> &[SocketAddr] {
        &self.0
    }

    /// `127.0.0.1:port`, for defaults.
    pub fn loopback(port: u16) -> Self {
        Self(vec![Addr::loopback(port).get()])
    }

    /// Whether only this machine can reach them. True if there are none.
    pub fn is_loopback(&self) -> bool {
        self.0.iter().all(|addr| Addr(*addr).is_loopback())
    }

    /// The addresses given, in that order.
    ///
    /// # Errors
    /// One address is there twice. The second bind would fail, or, with SO_REUSEPORT, succeed unnoticed.
    pub fn new(addrs: Vec<SocketAddr>) -> Result<Self, AddrError> {
        for (i, &addr) in addrs.iter().enumerate() {
            for &other in &addrs[..i] {
                match (covers(addr, other), covers(other, addr)) {
                    (false, false) => {}
                    (true, true) => return Err(AddrError::Twice(addr)),
                    (true, false) => return Err(AddrError::Along { all: addr, one: other }),
                    (false, true) => return Err(AddrError::Along { all: other, one: addr }),
                }
            }
        }
        Ok(Self(addrs))
    }
}

impl From<Addr> for Addrs {
    fn from(addr: Addr) -> Self {
        Self(vec![addr.0])
    }
}

impl Deref for Addrs {
    type Target = [SocketAddr];

    fn deref(&self) -> &[SocketAddr] {
        &self.0
    }
}

impl Serialize for Addrs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|addr| Addr(*addr)))
    }
}

impl<'de> Deserialize<'de> for Addrs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let addrs: Vec<Addr> = one_or_many(deserializer)?;
        Self::new(addrs.into_iter().map(Addr::get).collect()).map_err(de::Error::custom)
    }
}

impl JsonSchema for Addrs {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Addrs".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["array", "string"], "items": generator.subschema_for::<Addr>() })
    }
}

/// The value of a key with addresses.
#[derive(Clone, Copy, Debug)]
pub struct Listener<'a> {
    /// The key, with its sections.
    pub key: &'a str,
    /// Its value.
    pub addrs: &'a Addrs,
}

/// Each address of one key that another key of the same program has already taken.
pub fn shared_ports(listeners: &[Listener<'_>]) -> Vec<ConfigError> {
    let mut shared = Vec::new();
    for (i, later) in listeners.iter().enumerate() {
        for &addr in later.addrs.iter() {
            let taken = listeners[..i].iter().find_map(|earlier| {
                let other =
                    earlier.addrs.iter().find(|other| covers(addr, **other) || covers(**other, addr))?;
                Some((earlier.key, other))
            });
            if let Some((key, other)) = taken {
                let reason = format!("{key} = {other} listens there already: choose another port");
                shared.push(ConfigError::value(later.key, addr, reason));
            }
        }
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ip_and_port_and_go_s_bare_port() {
        for (text, printed) in [
            ("127.0.0.1:3101", "127.0.0.1:3101"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            (":3101", "[::]:3101"),
            ("[::1]:3101", "[::1]:3101"),
            ("[::]:65535", "[::]:65535"),
        ] {
            assert_eq!(text.parse::<Addr>().map(|addr| addr.to_string()), Ok(printed.to_owned()), "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            ":",
            ":+1",
            ":65536",
            "3101",
            "127.0.0.1",
            "127.0.0.1:",
            "localhost:3101",
            "::1:x",
            "1.2.3.4:99999",
        ] {
            assert_eq!(text.parse::<Addr>(), Err(AddrError::Malformed(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn loopback_is_told_from_the_rest() {
        for (text, loopback) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            (":1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(text.parse::<Addr>().unwrap().is_loopback(), loopback, "{text}");
        }
        assert!(Addrs::loopback(1).is_loopback());
        assert!(
            !Addrs::new(vec!["127.0.0.1:1".parse().unwrap(), "10.0.0.1:1".parse().unwrap()])
                .unwrap()
                .is_loopback()
        );
    }

    #[derive(Debug, Deserialize)]
    struct File {
        bind: Addrs,
    }

    fn read(toml: &str) -> Result<Vec<String>, String> {
        let file: File = toml::from_str(toml).map_err(|e: toml::de::Error| e.message().to_owned())?;
        Ok(file.bind.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_list_may_be_one_string() {
        let both = Ok(vec!["127.0.0.1:1".to_owned(), "[::]:2".to_owned()]);
        assert_eq!(read("bind = [\"127.0.0.1:1\", \":2\"]"), both);
        assert_eq!(read("bind = \"127.0.0.1:1, :2\""), both);
        assert_eq!(read("bind = []"), Ok(vec![]));
    }

    #[test]
    fn the_same_address_twice_is_refused_but_for_port_0() {
        assert_eq!(read("bind = \":1,[::]:1\""), Err("[::]:1 is given twice".to_owned()));
        assert_eq!(read("bind = \":0,:0\"").map(|list| list.len()), Ok(2));
    }

    /// Both wildcards were "another process listens there".
    #[test]
    fn a_wildcard_takes_the_others_of_its_port_along() {
        let said = |list: &str| read(&format!("bind = {list:?}")).unwrap_err();
        let both = "[::]:1 takes 0.0.0.0:1 along, for it listens on IPv4 too: leave 0.0.0.0:1 out";
        for list in ["0.0.0.0:1,[::]:1", ":1,0.0.0.0:1", "[::]:1,127.0.0.1:2,0.0.0.0:1"] {
            assert_eq!(said(list), both, "{list}");
        }
        assert_eq!(said("127.0.0.1:1,0.0.0.0:1"), "0.0.0.0:1 takes 127.0.0.1:1 along: leave 127.0.0.1:1 out");
        assert_eq!(said("[::]:1,[::1]:1"), "[::]:1 takes [::1]:1 along: leave [::1]:1 out");
        for list in ["0.0.0.0:1,[::1]:1", "127.0.0.1:1,[::1]:1", ":1,:2", ":0,0.0.0.0:0"] {
            assert_eq!(read(&format!("bind = {list:?}")).map(|list| list.len()), Ok(2), "{list}");
        }
    }

    #[test]
    fn one_port_for_two_keys_is_refused() {
        let shared = |addrs: &[&str]| -> Vec<String> {
            let keys = ["tcp.bind", "websocket.bind", "rpcServer.addr"];
            let addrs: Vec<Addrs> = addrs
                .iter()
                .map(|addr| Addrs::new(vec![addr.parse::<Addr>().unwrap().get()]).unwrap())
                .collect();
            let listeners: Vec<Listener<'_>> =
                keys.into_iter().zip(&addrs).map(|(key, addrs)| Listener { key, addrs }).collect();
            shared_ports(&listeners).iter().map(ToString::to_string).collect()
        };
        let twice =
            "websocket.bind = 127.0.0.1:1: tcp.bind = 127.0.0.1:1 listens there already: choose another port";
        assert_eq!(shared(&["127.0.0.1:1", "127.0.0.1:1"]), [twice]);
        assert_eq!(shared(&[":1", "0.0.0.0:1", "127.0.0.1:1"]).len(), 2);
        assert_eq!(shared(&["127.0.0.1:1", "[::1]:2", ":1"]).len(), 1);
        assert_eq!(shared(&["127.0.0.1:0", "127.0.0.1:0", ":0"]).len(), 0);
        assert_eq!(shared(&["127.0.0.1:1", "127.0.0.2:1", "[::1]:1"]).len(), 0);
    }

    #[test]
    fn a_bad_element_is_named() {
        let words =
            "\"localhost:1\" is not an address: write IP:port, such as 127.0.0.1:3101, or :3101".to_owned();
        assert_eq!(read("bind = [\":1\", \"localhost:1\"]"), Err(words.clone()));
        assert_eq!(read("bind = \":1,localhost:1\""), Err(words));
        assert!(
            read("bind = [3101]").unwrap_err().ends_with("expected an address such as \"127.0.0.1:3101\"")
        );
    }
}
