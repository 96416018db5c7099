//! Tells clients where to connect: which comets, weighted by region and load, and how to come back after a failure.

use std::{net::IpAddr, time::UNIX_EPOCH};

use contract::ClientCount;
use proto::network::Network;
use registry::Node;
use serde::Serialize;
use uuid::Uuid;

use crate::config::LogicConfig;

/// Most comets named in one answer, as in goim.
const NODES_MAX: usize = 5;

/// The `platform` whose clients get host names instead of addresses.
const WEB: &str = "web";

/// The answer to "where may I connect", with the fields in goim's order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Nodes {
    /// Host to use if no other is reachable.
    pub domain: String,
    /// Port for TCP.
    pub tcp_port: u16,
    /// Port for WebSocket.
    pub ws_port: u16,
    /// Port for WebSocket over TLS.
    pub wss_port: u16,
    /// Seconds between heartbeats.
    pub heartbeat: u32,
    /// Heartbeats that a client may miss.
    pub heartbeat_max: u32,
    /// Hosts, best first.
    pub nodes: Vec<String>,
    /// How to wait between attempts.
    pub backoff: Backoff,
}

/// How a client waits between attempts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Backoff {
    /// Longest wait, seconds.
    pub max_delay: u32,
    /// First wait, seconds.
    pub base_delay: u32,
    /// Growth from one wait to the next.
    pub factor: f64,
    /// Random share of a wait.
    pub jitter: f64,
}

/// One comet in `/goim/nodes/instances`, fields in goim's order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Instance {
    region: String,
    zone: String,
    env: String,
    appid: &'static str,
    hostname: String,
    addrs: Vec<String>,
    version: String,
    /// Nanoseconds since the epoch.
    latest_timestamp: u64,
    metadata: Metadata,
}

/// goim has texts here, whatever the fields mean.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Metadata {
    addrs: String,
    conn_count: String,
    ip_count: String,
    offline: String,
    weight: String,
}

impl Instance {
    pub(super) fn new(node: &Node, clients: ClientCount) -> Self {
        Instance {
            region: node.region.clone(),
            zone: node.zone.clone(),
            env: node.env.clone(),
            appid: node.service.app_id(),
            hostname: node.hostname.clone(),
            addrs: vec![format!("grpc://{}", node.server)],
            version: node.version.clone(),
            latest_timestamp: node
                .updated
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_nanos() as u64),
            metadata: Metadata {
                addrs: node.addrs.join(","),
                conn_count: clients.connections.to_string(),
                ip_count: clients.addresses.to_string(),
                offline: node.offline.to_string(),
                weight: node.weight.to_string(),
            },
        }
    }
}

/// Chooses comets for clients.
#[derive(Debug)]
pub(super) struct Chooser {
    template: Nodes,
    host_domain: String,
    region_weight: f64,
    regions: Vec<(Network, String)>,
}

impl Chooser {
    pub(super) fn new(config: &LogicConfig) -> Self {
        let LogicConfig { node, backoff, regions, .. } = config;
        let networks = |(region, networks): (&String, &config::StringList)| {
            // goim's configuration names provinces, which are no networks. They match nobody.
            let networks: Vec<Network> = networks.iter().filter_map(|network| network.parse().ok()).collect();
            networks.into_iter().map(|network| (network, region.clone())).collect::<Vec<_>>()
        };
        Chooser {
            template: Nodes {
                domain: node.default_domain.clone(),
                tcp_port: node.tcp_port.u16(),
                ws_port: node.ws_port.u16(),
                wss_port: node.wss_port.u16(),
                heartbeat: node.heartbeat.get().as_secs() as u32,
                heartbeat_max: node.heartbeat_max.u32(),
                nodes: Vec::new(),
                backoff: Backoff {
                    max_delay: backoff.max_delay.u32(),
                    base_delay: backoff.base_delay.u32(),
                    factor: backoff.factor,
                    jitter: backoff.jitter,
                },
            },
            host_domain: node.host_domain.clone(),
            region_weight: node.region_weight,
            regions: regions.iter().flat_map(networks).collect(),
        }
    }

    /// Chooses comets for one client; `comets` has each with its load.
    pub(super) fn choose(
        &self,
        comets: &[(&Node, ClientCount)],
        platform: &str,
        client: Option<IpAddr>,
    ) -> Nodes {
        let region = client.and_then(|ip| self.region(ip));
        let mut nodes: Vec<String> = order(&self.weights(comets, region), random)
            .into_iter()
            .take(NODES_MAX)
            .flat_map(|chosen| self.hosts(comets[chosen].0, platform))
            .collect();
        if nodes.is_empty() {
            nodes.push(self.template.domain.clone());
        }
        Nodes { nodes, ..self.template.clone() }
    }

    /// The names or addresses by which a client reaches a comet.
    fn hosts(&self, node: &Node, platform: &str) -> Vec<String> {
        if platform == WEB && !node.hostname.is_empty() {
            return vec![format!("{}{}", node.hostname, self.host_domain)];
        }
        node.addrs.clone()
    }

    /// The chance of each comet: its weight, higher in the client's region. It is lower if the comet has more clients
    /// than its share by weight, higher if it has fewer, ten times at most.
    fn weights(&self, comets: &[(&Node, ClientCount)], region: Option<&str>) -> Vec<f64> {
        let total: f64 = comets.iter().map(|(_, clients)| clients.connections as f64).sum();
        let total_weight: f64 = comets.iter().map(|(node, _)| f64::from(node.weight)).sum();
        let weight = |(node, clients): &(&Node, ClientCount)| {
            if node.offline || node.weight == 0 {
                return 0.0;
            }
            let weight = f64::from(node.weight);
            let share = total * weight / total_weight;
            let need = (share + 1.0) / (clients.connections as f64 + 1.0);
            let is_near = region.is_some_and(|region| region == node.region);
            weight * need.clamp(0.1, 10.0) * if is_near { self.region_weight } else { 1.0 }
        };
        comets.iter().map(weight).collect()
    }

    fn region(&self, ip: IpAddr) -> Option<&str> {
        self.regions.iter().find(|(network, _)| network.contains(ip)).map(|(_, region)| region.as_str())
    }
}

/// A random order. Each place goes to one of the remaining comets with a chance proportional to its weight; weight 0
/// never gets a place. `random` gives numbers above 0 and up to 1. (Of exponential variables with rates w1, w2, … the
/// first one is the smallest with probability w1 / (w1 + w2 + …).)
fn order(weights: &[f64], mut random: impl FnMut() -> f64) -> Vec<usize> {
    let mut places: Vec<(f64, usize)> = weights
        .iter()
        .enumerate()
        .filter(|(_, weight)| **weight > 0.0)
        .map(|(index, weight)| (-random().ln() / weight, index))
        .collect();
    places.sort_by(|a, b| a.0.total_cmp(&b.0));
    places.into_iter().map(|(_, index)| index).collect()
}

/// A random number above 0 and up to 1.
fn random() -> f64 {
    // The low half of a version 4 UUID: two of its 64 bits are fixed, and shifting drops them. 53 bits are left.
    let bits = (Uuid::new_v4().as_u128() as u64) << 2 >> 11;
    (bits + 1) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proto::ids::ServerId;
    use registry::Service;

    use super::*;

    fn node(name: &str, region: &str, weight: u32) -> Node {
        Node {
            region: region.to_owned(),
            hostname: name.to_owned(),
            addrs: vec![format!("addr-of-{name}")],
            weight,
            ..Node::new(Service::Comet, ServerId::new(format!("{name}:3109")))
        }
    }

    fn connections(connections: u64) -> ClientCount {
        ClientCount { connections, addresses: 1 }
    }

    fn chooser(sets: &[&str]) -> Chooser {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        Chooser::new(&config::load(None, &sets, &[]).unwrap().config)
    }

    #[test]
    fn browsers_get_names_and_others_addresses() {
        let a = node("a", "sh", 10);
        let comets = [(&a, connections(0))];
        let chooser = chooser(&["node.hostDomain=.conn.example"]);
        assert_eq!(chooser.choose(&comets, "web", None).nodes, ["a.conn.example"]);
        assert_eq!(chooser.choose(&comets, "android", None).nodes, ["addr-of-a"]);
    }

    #[test]
    fn without_a_comet_there_is_the_default_domain() {
        let offline = Node { offline: true, ..node("a", "sh", 10) };
        let chooser = chooser(&["node.defaultDomain=conn.example"]);
        assert_eq!(chooser.choose(&[], "web", None).nodes, ["conn.example"]);
        assert_eq!(chooser.choose(&[(&offline, connections(0))], "web", None).nodes, ["conn.example"]);
    }

    #[test]
    fn five_at_most_and_none_twice() {
        let nodes: Vec<Node> = (0..9).map(|n| node(&n.to_string(), "sh", 10)).collect();
        let comets: Vec<_> = nodes.iter().map(|node| (node, connections(0))).collect();
        let mut chosen = chooser(&[]).choose(&comets, "web", None).nodes;
        assert_eq!(chosen.len(), NODES_MAX);
        chosen.sort();
        chosen.dedup();
        assert_eq!(chosen.len(), NODES_MAX);
    }

    #[test]
    fn weight_region_and_load_change_the_chance() {
        let chooser = chooser(&["node.regionWeight=4.0", "regions.sh=10.1.0.0/16"]);
        let (a, b, heavy) = (node("a", "sh", 10), node("b", "bj", 10), node("c", "bj", 30));
        let ratio = |comets: &[(&Node, ClientCount)], region| {
            let weights = chooser.weights(comets, region);
            weights[0] / weights[1]
        };
        assert_eq!(ratio(&[(&a, connections(0)), (&b, connections(0))], None), 1.0);
        assert_eq!(ratio(&[(&heavy, connections(0)), (&b, connections(0))], None), 3.0);
        assert_eq!(ratio(&[(&a, connections(0)), (&b, connections(0))], Some("sh")), 4.0);
        assert!(
            ratio(&[(&a, connections(900)), (&b, connections(100))], None) < 0.2,
            "who has more gets less"
        );
        assert_eq!(chooser.region("10.1.2.3".parse().unwrap()), Some("sh"));
        assert_eq!(chooser.region("10.2.2.3".parse().unwrap()), None);
    }

    #[test]
    fn places_are_drawn_in_proportion_to_the_weights() {
        let mut firsts = [0; 3];
        for _ in 0..10_000 {
            firsts[order(&[1.0, 0.0, 3.0], random)[0]] += 1;
        }
        assert_eq!(firsts[1], 0);
        // Eleven standard deviations on each side.
        assert!((7000..8000).contains(&firsts[2]), "{firsts:?}");
        assert!((0..1000).all(|_| (f64::MIN_POSITIVE..=1.0).contains(&random())));
    }

    #[test]
    fn networks_hold_what_starts_like_them() {
        for (network, ip, inside) in [
            ("10.1.0.0/16", "10.1.255.255", true),
            ("10.1.0.0/16", "10.2.0.0", false),
            ("10.1.0.0/16", "::ffff:10.1.2.3", true),
            ("0.0.0.0/0", "9.9.9.9", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "1.2.3.4", false),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert_eq!(parsed.contains(ip.parse().unwrap()), inside, "{ip} in {network}");
        }
        for none in ["上海", "10.1.0.0/33", "10.1.0.0/", "::/129", ""] {
            assert!(none.parse::<Network>().is_err(), "{none}");
        }
    }

    #[test]
    fn an_instance_looks_like_goims() {
        let node = Node {
            version: "0.1.0".to_owned(),
            zone: "sh001".to_owned(),
            env: "dev".to_owned(),
            ..node("test", "sh", 10)
        };
        let instance = serde_json::to_string(&Instance::new(&node, connections(7))).unwrap();
        assert_eq!(
            instance,
            r#"{"region":"sh","zone":"sh001","env":"dev","appid":"goim.comet","hostname":"test","addrs":["grpc://test:3109"],"version":"0.1.0","latest_timestamp":0,"metadata":{"addrs":"addr-of-test","conn_count":"7","ip_count":"1","offline":"false","weight":"10"}}"#
        );
    }
}
