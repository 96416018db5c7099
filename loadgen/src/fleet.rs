//! Who the clients are: identity, room, and where each connects from and to.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use proto::ids::{Key, Mid, RoomId};

use crate::tls::Trust;

/// All clients of a run. Client `index` (from 0) is user `first_mid + index` with one device.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    pub(crate) first_mid: i64,
    pub(crate) count: u32,
    /// Where the clients connect to, taking turns; at least one.
    pub(crate) targets: Vec<Target>,
    /// Where they connect from, taking turns; none: the kernel chooses.
    pub(crate) sources: Vec<IpAddr>,
    /// Rooms, taking turns; none: nobody is in a room.
    pub(crate) rooms: Vec<RoomId>,
    pub(crate) accepts: Vec<i32>,
    pub(crate) features: Vec<String>,
    pub(crate) key_prefix: String,
    /// The whole key instead, of a fleet of one.
    pub(crate) key: Option<String>,
    pub(crate) transport: Transport,
    /// Inside TLS; none: without.
    pub(crate) tls: Option<Trust>,
    pub(crate) heartbeat: Duration,
    /// From connect to the login's answer, at most.
    pub(crate) connect_timeout: Duration,
}

/// An address as it was written and as it was resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `host:port`, for the Host header of an upgrade.
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
}

/// How clients speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    /// WebSocket, asking for this path.
    WebSocket(String),
}

impl Fleet {
    /// The user of client `index`.
    pub(crate) fn mid(&self, index: u32) -> Mid {
        Mid(self.first_mid + i64::from(index))
    }

    /// The device key of client `index`: prefix and mid, as goim's reference client names it.
    pub(crate) fn key(&self, index: u32) -> Key {
        match &self.key {
            Some(key) => Key::new(key.as_str()),
            None => Key::new(format!("{}{}", self.key_prefix, self.mid(index))),
        }
    }

    /// The room of client `index`.
    pub(crate) fn room(&self, index: u32) -> Option<&RoomId> {
        turn(&self.rooms, index)
    }

    /// Where client `index` connects to.
    pub(crate) fn target(&self, index: u32) -> &Target {
        turn(&self.targets, index).expect("a fleet has a target")
    }

    /// Where client `index` connects from.
    pub(crate) fn source(&self, index: u32) -> Option<IpAddr> {
        turn(&self.sources, index / self.targets.len() as u32).copied()
    }

    /// The body of client `index`'s login.
    pub(crate) fn login_body(&self, index: u32) -> Vec<u8> {
        let mut body = serde_json::json!({
            "mid": self.mid(index).0,
            "key": self.key(index).as_str(),
            "room_id": self.room(index).map_or("", RoomId::as_str),
            "platform": "web",
            "accepts": self.accepts,
        });
        if !self.features.is_empty() {
            body["features"] = self.features.as_slice().into();
        }
        body.to_string().into_bytes()
    }
}

fn turn<T>(list: &[T], index: u32) -> Option<&T> {
    list.get(index as usize % list.len().max(1))
}

/// Resolves `host:port[,host:port…]`.
pub(crate) fn resolve(addresses: &str) -> Result<Vec<Target>> {
    addresses
        .split(',')
        .map(str::trim)
        .map(|name| {
            let addr = name
                .to_socket_addrs()
                .with_context(|| format!("{name} is not an address of the form host:port"))?
                .next()
                .with_context(|| format!("{name} has no address"))?;
            Ok(Target { name: name.to_owned(), addr })
        })
        .collect()
}

/// The source addresses `count` connections need.
///
/// A source address has one port per connection to the same target, `ports` in all. When they do
/// not suffice, loopback targets get 127.0.0.2, 127.0.0.3 and so on; other targets need `given`.
pub(crate) fn sources(given: &[IpAddr], targets: &[Target], count: u32, ports: u32) -> Result<Vec<IpAddr>> {
    for source in given {
        ensure!(
            targets.iter().all(|t| t.addr.is_ipv4() == source.is_ipv4()),
            "--source {source}: not of the same IP version as the targets"
        );
    }
    // A tenth is left for connections that others make, and for those that linger in TIME_WAIT.
    let per_source = (ports - ports / 10).max(1);
    let needed = count.div_ceil(targets.len() as u32).div_ceil(per_source) as usize;
    if given.len().max(1) >= needed {
        return Ok(given.to_vec());
    }
    let loopback = targets.iter().all(|t| t.addr.is_ipv4() && t.addr.ip().is_loopback());
    if given.is_empty() && loopback && needed <= 250 {
        return Ok((0..needed).map(|n| Ipv4Addr::new(127, 0, 0, 2 + n as u8).into()).collect());
    }
    bail!(
        "{count} connections need {needed} source addresses with {per_source} ports each: name them with --source"
    )
}

/// How many local ports the kernel hands out, from `net.ipv4.ip_local_port_range`.
pub(crate) fn local_ports() -> u32 {
    const KERNEL_DEFAULT: u32 = 28_232;
    let range = || -> io::Result<Option<u32>> {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
        let mut ends = text.split_whitespace().map(str::parse::<u32>);
        Ok(match (ends.next(), ends.next()) {
            (Some(Ok(low)), Some(Ok(high))) => high.checked_sub(low).map(|n| n + 1),
            _ => None,
        })
    };
    range().ok().flatten().unwrap_or(KERNEL_DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(rooms: &[&str], addresses: &str) -> Fleet {
        Fleet {
            first_mid: 9999,
            count: 10,
            targets: resolve(addresses).expect("addresses"),
            sources: Vec::new(),
            rooms: rooms.iter().map(|r| RoomId::parse(r).expect("room")).collect(),
            accepts: vec![1000, 1001, 1002],
            features: Vec::new(),
            key_prefix: "web_".to_owned(),
            key: None,
            transport: Transport::Tcp,
            tls: None,
            heartbeat: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
        }
    }

    #[test]
    fn clients_log_in_as_the_reference_client_does() {
        let fleet = fleet(&["live://1000"], "127.0.0.1:1");
        let body: serde_json::Value = serde_json::from_slice(&fleet.login_body(1)).expect("JSON");
        assert_eq!(
            body,
            serde_json::json!({"mid":10000,"key":"web_10000","room_id":"live://1000","platform":"web","accepts":[1000,1001,1002]})
        );
    }

    #[test]
    fn addresses_rooms_and_sources_take_turns() {
        let mut fleet = fleet(&["live://1", "live://2", "live://3"], "127.0.0.1:1,127.0.0.1:2");
        fleet.sources = vec![[127, 0, 0, 2].into(), [127, 0, 0, 3].into()];
        let of = |n| {
            (
                fleet.target(n).addr.port(),
                fleet.source(n).expect("has sources").to_string(),
                fleet.room(n).expect("has rooms").as_str(),
            )
        };
        assert_eq!(of(0), (1, "127.0.0.2".to_owned(), "live://1"));
        assert_eq!(of(1), (2, "127.0.0.2".to_owned(), "live://2"));
        assert_eq!(of(2), (1, "127.0.0.3".to_owned(), "live://3"));
        assert_eq!(of(5), (2, "127.0.0.2".to_owned(), "live://3"));
    }

    #[test]
    fn loopback_targets_get_more_sources_by_themselves() {
        let local = resolve("127.0.0.1:1").expect("address");
        assert!(sources(&[], &local, 25_000, 28_000).expect("one suffices").is_empty());
        let two = sources(&[], &local, 30_000, 28_000).expect("loopback");
        assert_eq!(two, [IpAddr::from([127, 0, 0, 2]), [127, 0, 0, 3].into()]);
        let spread = resolve("127.0.0.1:1,127.0.0.1:2").expect("addresses");
        assert!(sources(&[], &spread, 50_000, 28_000).expect("25,000 each").is_empty());
    }

    #[test]
    fn other_targets_need_sources_named() {
        let remote = resolve("192.0.2.1:1").expect("address");
        let why = sources(&[], &remote, 60_000, 28_000).expect_err("three needed");
        assert!(why.to_string().contains("need 3 source addresses"), "{why}");
        let given: Vec<IpAddr> = (1..=3).map(|n| [192, 0, 2, n].into()).collect();
        assert_eq!(sources(&given, &remote, 60_000, 28_000).expect("named"), given);
        assert!(sources(&["::1".parse().expect("IPv6")], &remote, 1, 28_000).is_err());
    }
}
