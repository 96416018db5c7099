//! The proxies in front of the client ports.

use std::{borrow::Cow, fmt, str::FromStr};

use config::List;
use proto::{
    network::{Network, Networks},
    websocket::ToldIn,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Most networks. An address is compared with each of them.
pub(super) const TRUSTED_MAX: usize = 256;

/// Proxies in front of the client ports, and what is believed of what they say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ProxiesConfig {
    /// Networks of the proxies, such as "10.0.0.0/8" or "::1": who comes from there may say whose connection it passes on, by
    /// the PROXY protocol where `proxyProtocol` has it, and on WebSocket by `header`. Of everybody else nothing of that is
    /// believed.
    pub trusted: List<ProxyNetwork>,
    /// The header in which they write the client's address into a WebSocket upgrade: "x-forwarded-for", or "x-real-ip". The
    /// other one is not looked at, since they pass it on as the client sent it.
    pub header: ProxyHeader,
}

/// The header in which proxies write a client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// A list, of which each proxy appends an element.
    #[default]
    XForwardedFor,
    /// One address.
    XRealIp,
}

impl ProxiesConfig {
    /// The same for the rules.
    pub(super) fn networks(&self) -> Networks {
        self.trusted.iter().map(|network| network.0).collect()
    }

    /// The same of the header.
    pub(super) fn told_in(&self) -> ToldIn {
        match self.header {
            ProxyHeader::XForwardedFor => ToldIn::ForwardedFor,
            ProxyHeader::XRealIp => ToldIn::RealIp,
        }
    }
}

/// A network of proxies. One that is written so that it may be another than was meant is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProxyNetwork(Network);

/// Why a text is no network of proxies. Not retried: the operator changes the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{network:?}: {reason}")]
pub struct BadProxyNetwork {
    network: String,
    reason: String,
}

impl ProxyNetwork {
    /// Whether every address of IPv4, or every address of IPv6, is in it.
    pub fn is_everybody(self) -> bool {
        self.0.is_everybody()
    }
}

impl FromStr for ProxyNetwork {
    type Err = BadProxyNetwork;

    fn from_str(text: &str) -> Result<Self, BadProxyNetwork> {
        let bad = |reason: String| BadProxyNetwork { network: text.to_owned(), reason };
        let network: Network = text.parse().map_err(|no| bad(format!("{no}")))?;
        let normal = network.normal();
        if normal != network {
            return Err(bad(format!(
                "the address goes on behind the length, or is IPv4 written as IPv6: write {normal}"
            )));
        }
        Ok(ProxyNetwork(network))
    }
}

impl fmt::Display for ProxyNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for ProxyNetwork {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ProxyNetwork {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for ProxyNetwork {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ProxyNetwork".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CometConfig;

    /// What is wrong with a configuration, and what is doubted.
    fn said(trusted: &[&str], proxied: bool) -> (Vec<String>, Vec<String>) {
        let mut config = CometConfig::default();
        config.proxies.trusted =
            trusted.iter().map(|network| network.parse::<ProxyNetwork>().unwrap()).collect();
        (config.tcp.proxy_protocol, config.websocket.proxy_protocol) = (proxied, proxied);
        let wrong = config.check("comet.").iter().map(ToString::to_string).collect();
        (wrong, config.doubts("comet."))
    }

    #[test]
    fn a_port_for_proxies_needs_some_and_everybody_is_doubted() {
        let fine = (vec![], vec![]);
        assert_eq!(said(&[], false), fine);
        assert_eq!(said(&["10.0.0.0/8"], false), fine);
        assert_eq!(said(&["10.0.0.0/8"], true), fine);
        let (wrong, _) = said(&[], true);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong.iter().all(|said| said.contains("comet.proxies.trusted")), "{wrong:?}");
        assert_eq!(said(&vec!["10.0.0.1"; TRUSTED_MAX], true), fine);
        let (wrong, _) = said(&vec!["10.0.0.1"; TRUSTED_MAX + 1], true);
        assert!(wrong[0].contains("256"), "{wrong:?}");
        for everybody in ["0.0.0.0/0", "::/0"] {
            let (wrong, doubts) = said(&["10.0.0.0/8", everybody], true);
            assert!(wrong.is_empty() && doubts[0].contains(everybody) && doubts.len() == 1, "{doubts:?}");
        }
    }

    #[test]
    fn a_network_is_taken_as_it_should_be_written_and_no_other() {
        for network in ["10.0.0.0/8", "::1", "192.0.2.1", "0.0.0.0/0", "2001:db8::/32"] {
            assert_eq!(network.parse::<ProxyNetwork>().map(|read| read.to_string()), Ok(network.to_owned()));
        }
        for (network, words) in [
            ("10.0.0.1/8", "write 10.0.0.0/8"),
            ("2001:db8::1/64", "write 2001:db8::/64"),
            ("::ffff:10.0.0.0/104", "write 10.0.0.0/8"),
            ("10.0.0.0/33", "no network"),
            ("proxy.example.com", "no network"),
            ("10.0.0.1:80", "no network"),
        ] {
            let said = network.parse::<ProxyNetwork>().expect_err(network).to_string();
            assert!(said.starts_with(&format!("{network:?}: ")) && said.contains(words), "{said}");
        }
    }
}
