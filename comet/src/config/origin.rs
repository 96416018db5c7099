//! Origins that web pages may come from.

use std::{
    borrow::Cow,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The ports that browsers leave out of an origin.
const OWN_PORTS: [(&str, &str); 2] = [("http", "80"), ("https", "443")];

/// Longest name of a host, and longest part of it (RFC 1035 section 2.3.4).
const NAME_LEN_MAX: usize = 253;
const LABEL_LEN_MAX: usize = 63;

/// An origin as browsers send it (RFC 6454 section 7), or `*` for all. One that is written otherwise would equal none that
/// is ever sent, so it is refused. The case of letters does not matter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin(String);

/// Why a text is no origin. Not retried: the operator changes the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no page has the origin {origin:?}: {reason}")]
pub struct BadOrigin {
    origin: String,
    reason: String,
}

impl Origin {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Self, BadOrigin> {
        match fault(text) {
            None => Ok(Origin(text.to_owned())),
            Some(reason) => Err(BadOrigin { origin: text.to_owned(), reason }),
        }
    }
}

/// What keeps a text from being what a browser sends.
fn fault(text: &str) -> Option<String> {
    // `null` is sent by pages of files and in sandboxes.
    if text == "*" || text == "null" {
        return None;
    }
    if text.contains('*') {
        return Some("patterns are not understood, list each one, or \"*\" alone for all".to_owned());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Some(format!("write its scheme too, https://{}", text.trim_matches('/')));
    };
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    {
        return Some(format!("{scheme:?} is no scheme, write https://"));
    }
    if scheme.eq_ignore_ascii_case("ws") || scheme.eq_ignore_ascii_case("wss") {
        return Some(format!(
            "it is where the page comes from, write {}://",
            scheme.to_lowercase().replace("ws", "http")
        ));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.len() < rest.len() {
        return Some(format!("it ends with the host or port, write {scheme}://{authority}"));
    }
    if !authority.is_ascii() {
        return Some("browsers send the xn-- form of this host".to_owned());
    }
    if authority.is_empty()
        || authority.contains('@')
        || !authority.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Some("write scheme://host, or scheme://host:port".to_owned());
    }
    // What else may be in a host, a name of an extension has; and there browsers change nothing.
    let is_web = OWN_PORTS.iter().any(|(name, _)| scheme.eq_ignore_ascii_case(name));
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else {
                return Some("the bracket does not end".to_owned());
            };
            match address.parse::<Ipv6Addr>().map(as_browsers_write) {
                Ok(written) if written == address.to_lowercase() => {}
                Ok(written) => return Some(format!("browsers write this address [{written}]")),
                Err(_) => return Some(format!("{address} is no IPv6 address")),
            }
            (address, if port.is_empty() { None } else { port.strip_prefix(':').or(Some(port)) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if is_web && !authority.starts_with('[') {
        let is_of_names = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if let Some(other) = host.chars().find(|c| !u8::try_from(*c).is_ok_and(is_of_names)) {
            return Some(format!("{other:?} is in no host's name"));
        }
        if host.len() > NAME_LEN_MAX || host.split('.').any(|label| label.len() > LABEL_LEN_MAX) {
            return Some(format!(
                "no name is so long: {NAME_LEN_MAX} bytes in all, {LABEL_LEN_MAX} between two dots"
            ));
        }
        // Browsers take a name that ends in a number for an IPv4 address in whatever form, and write it as four numbers.
        if ends_in_number(host) && host.parse::<Ipv4Addr>().is_err() {
            return Some(format!("browsers take {host} for an IPv4 address: write its four decimal numbers"));
        }
    }
    let port = port?;
    if host.is_empty()
        || port.starts_with('0')
        || !port.bytes().all(|byte| byte.is_ascii_digit())
        || port.parse::<u16>().is_err()
    {
        return Some(format!("{port:?} is no port"));
    }
    let is_own = OWN_PORTS.iter().any(|(name, own)| scheme.eq_ignore_ascii_case(name) && port == *own);
    is_own.then(|| {
        let without = text.strip_suffix(&format!(":{port}")).unwrap_or(text);
        format!("browsers leave :{port} out of it, write {without}")
    })
}

/// An IPv4 address inside stands in hexadecimal like the rest.
fn as_browsers_write(address: Ipv6Addr) -> String {
    match address.to_ipv4_mapped().map(|_| address.segments()) {
        Some([.., high, low]) => format!("::ffff:{high:x}:{low:x}"),
        None => address.to_string(),
    }
}

/// <https://url.spec.whatwg.org/#ends-in-a-number-checker>
fn ends_in_number(host: &str) -> bool {
    let last = host.strip_suffix('.').unwrap_or(host).rsplit('.').next().unwrap_or_default();
    let digits = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    match digits {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Origin {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Origin".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of them was taken, and no page in the world got in.
    #[test]
    fn an_origin_that_no_browser_sends_is_refused_with_the_one_that_it_does() {
        for (origin, words) in [
            ("https://app.example.com/", "write https://app.example.com"),
            ("https://app.example.com/chat?a#b", "write https://app.example.com"),
            ("https://*.example.com", "patterns are not understood"),
            ("*.example.com", "patterns are not understood"),
            ("app.example.com", "write its scheme too, https://app.example.com"),
            ("app.example.com:8443/", "https://app.example.com:8443"),
            ("//app.example.com", "https://app.example.com"),
            ("https://app.example.com:443", "write https://app.example.com"),
            ("HTTP://app.example.com:80", "write HTTP://app.example.com"),
            ("https://[::1]:443", "write https://[::1]"),
            ("wss://app.example.com", "write https://"),
            ("ws://app.example.com", "write http://"),
            ("https://", "scheme://host"),
            ("https://bücher.example", "xn--"),
            ("https://user@app.example.com", "scheme://host"),
            ("https://app.example.com:", "no port"),
            ("https://app.example.com:0443", "no port"),
            ("https://app.example.com:99999", "no port"),
            ("https://app example.com", "scheme://host"),
            ("https://[0:0::1]:8443", "[::1]"),
            ("https://[::1", "bracket"),
            ("http://[::ffff:1.2.3.4]", "[::ffff:102:304]"),
            ("https://1.2.3.04", "four decimal numbers"),
            ("https://0x7f.1:8443", "four decimal numbers"),
            ("https://127.1", "four decimal numbers"),
            ("https://2130706433", "four decimal numbers"),
            ("https://app.0x7f", "four decimal numbers"),
            ("https://%61.example.com", "'%' is in no host's name"),
            ("https://app.example.com\\", "is in no host's name"),
            ("https://app.example.com\"", "is in no host's name"),
            (&format!("https://{}.com", "a".repeat(64)), "no name is so long"),
            (&format!("https://{}com", "abc.".repeat(63)), "no name is so long"),
            ("", "scheme"),
        ] {
            let said = origin.parse::<Origin>().expect_err(origin).to_string();
            assert!(
                said.starts_with(&format!("no page has the origin {origin:?}: ")) && said.contains(words),
                "{said}"
            );
        }
    }

    #[test]
    fn what_browsers_send_is_taken() {
        for origin in [
            "*",
            "null",
            "https://app.example.com",
            "https://App.Example.com:8443",
            "http://localhost:3000",
            "http://app.example.com:443",
            "https://192.0.2.1:80",
            "http://[::ffff:102:304]:3000",
            "https://a_b.1-2.example",
            "http://[::1]:3000",
            "https://[2001:db8::1]",
            "https://xn--bcher-kva.example",
            "chrome-extension://abcdefghijklmnop",
            "capacitor://localhost",
        ] {
            assert_eq!(origin.parse::<Origin>().map(|read| read.to_string()), Ok(origin.to_owned()));
        }
    }
}
