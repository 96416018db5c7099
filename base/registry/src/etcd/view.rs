//! What a watcher knows: the keys as etcd reported them, and the nodes that they make. No IO and no clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use proto::ids::ServerId;

use super::{
    super::{Node, NodeSet},
    Scope,
    layout::{Layout, META},
    meta::Meta,
};

/// Longest `host:port` that is accepted. A DNS name has at most 253 bytes.
const SERVER_LEN_MAX: usize = 259;

/// One key as etcd has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) key: &'a str,
    pub(super) value: &'a [u8],
    /// The lease it is attached to; 0 for none.
    pub(super) lease: i64,
    /// The store's revision at its last write.
    pub(super) revision: i64,
}

/// The keys of some scopes.
#[derive(Debug)]
pub(super) struct View {
    layout: Layout,
    scopes: Vec<Scope>,
    /// By path, which is goim's key.
    entries: BTreeMap<String, Entry>,
    /// Keys in the scopes that are no nodes. Each is logged once when it comes.
    ignored: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Entry {
    key: Option<Key>,
    meta: Option<(Meta, i64)>,
}

#[derive(Debug)]
struct Key {
    server: ServerId,
    lease: i64,
    revision: i64,
    seen: SystemTime,
    /// The key is no longer in etcd. It is kept, because etcd may have lost it.
    missing: bool,
}

impl Entry {
    /// The meta that was written with the key. Both are written under one lease. If the leases differ, an earlier
    /// process left this meta, or a later one has begun to write.
    fn own_meta(&self) -> Option<&Meta> {
        let lease = self.key.as_ref()?.lease;
        self.meta.as_ref().filter(|(_, of)| *of == lease).map(|(meta, _)| meta)
    }
}

impl View {
    pub(super) fn new(layout: Layout, scopes: Vec<Scope>) -> Self {
        Self { layout, scopes, entries: BTreeMap::new(), ignored: BTreeSet::new() }
    }

    /// Replaces everything. Nodes that are gone since the last time are kept as missing.
    pub(super) fn replace<'a>(&mut self, records: impl IntoIterator<Item = Record<'a>>, now: SystemTime) {
        self.entries.retain(|_, entry| entry.key.is_some());
        self.entries.values_mut().filter_map(|entry| entry.key.as_mut()).for_each(|key| key.missing = true);
        let mut still = BTreeSet::new();
        for record in records {
            self.put(record, now);
            if self.ignored.contains(record.key) {
                still.insert(record.key.to_owned());
            }
        }
        self.ignored = still;
    }

    /// A key was written. Returns the path of its meta if that is wanted and was not seen yet.
    pub(super) fn put(&mut self, record: Record<'_>, now: SystemTime) -> Option<String> {
        if let Some(path) = record.key.strip_prefix(META) {
            self.put_meta(path, record);
            return None;
        }
        let place = self.layout.place(record.key);
        if place.is_some_and(|place| !self.scopes.iter().any(|scope| scope.holds(&place))) {
            return None;
        }
        let Some(server) = place.and(server(record.value)) else {
            self.entries.remove(record.key);
            self.ignore(record, "its value is no host:port, or its path not that of a node");
            return None;
        };
        self.ignored.remove(record.key);
        let entry = self.entries.entry(record.key.to_owned()).or_default();
        let seen = match &entry.key {
            Some(key) if key.revision == record.revision => key.seen,
            _ => now,
        };
        let Record { lease, revision, .. } = record;
        entry.key = Some(Key { server, lease, revision, seen, missing: false });
        entry.own_meta().is_none().then(|| format!("{META}{}", record.key))
    }

    fn put_meta(&mut self, path: &str, record: Record<'_>) {
        match (self.layout.place(path), Meta::from_json(record.value)) {
            (Some(place), Some(meta)) => {
                if self.scopes.iter().any(|scope| scope.holds(&place)) {
                    self.ignored.remove(record.key);
                    self.entries.entry(path.to_owned()).or_default().meta = Some((meta, record.lease));
                }
            }
            _ => self.ignore(record, "its value is not the JSON that Halley writes"),
        }
    }

    fn ignore(&mut self, record: Record<'_>, why: &str) {
        if self.ignored.insert(record.key.to_owned()) {
            let value = String::from_utf8_lossy(&record.value[..record.value.len().min(80)]);
            tracing::warn!(key = ?record.key, value = ?value, "an etcd key is ignored: {why}");
        }
    }

    /// A key was deleted. If `kept`, it stays as missing, since etcd may have lost it.
    pub(super) fn delete(&mut self, key: &str, kept: bool) {
        self.ignored.remove(key);
        if let Some(path) = key.strip_prefix(META) {
            // While the key is there, its meta stays until the key goes; the key's deletion may be reported later.
            if let Some(entry) = self.entries.get_mut(path)
                && entry.own_meta().is_none()
            {
                entry.meta = None;
                if entry.key.is_none() {
                    self.entries.remove(path);
                }
            }
        } else if !kept {
            self.entries.remove(key);
        } else if let Some(key) = self.entries.get_mut(key).and_then(|entry| entry.key.as_mut()) {
            key.missing = true;
        }
    }

    /// Number of nodes that etcd no longer has.
    pub(super) fn missing(&self) -> usize {
        self.entries.values().filter(|entry| entry.key.as_ref().is_some_and(|key| key.missing)).count()
    }

    /// Forgets the missing nodes.
    pub(super) fn forget_missing(&mut self) {
        self.entries.retain(|_, entry| entry.key.as_ref().is_none_or(|key| !key.missing));
    }

    /// Number of keys that are no nodes.
    pub(super) fn ignored(&self) -> usize {
        self.ignored.len()
    }

    /// All nodes, including the missing ones.
    pub(super) fn nodes(&self) -> NodeSet {
        let mut keys: Vec<_> = self
            .entries
            .iter()
            .filter_map(|(path, entry)| entry.key.as_ref().map(|key| (path, key, entry)))
            .collect();
        // Two keys may name the same server, for instance after it moved to another zone. The one that etcd has counts.
        keys.sort_by_key(|(_, key, _)| !key.missing);
        keys.into_iter().filter_map(|(path, key, entry)| self.node(path, key, entry)).collect()
    }

    fn node(&self, path: &str, key: &Key, entry: &Entry) -> Option<Node> {
        let place = self.layout.place(path)?;
        let mut node = Node { updated: key.seen, ..Node::new(place.service, key.server.clone()) };
        match entry.own_meta() {
            Some(meta) => meta.describe(&mut node, &place),
            None => Meta::default().describe(&mut node, &place),
        }
        if node.hostname.is_empty() {
            let host = key.server.as_str().rsplit_once(':').map_or("", |(host, _)| host);
            node.hostname = host.to_owned();
        }
        Some(node)
    }
}

/// Reads `host:port`.
fn server(value: &[u8]) -> Option<ServerId> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= SERVER_LEN_MAX)?;
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().ok().map(|_| host)?,
        None => host,
    };
    let of_a_name = |c: char| c.is_alphanumeric() || "-._".contains(c);
    let is_host = host.starts_with('[') || (!host.is_empty() && host.chars().all(of_a_name));
    let is_port = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    (is_host && is_port).then(|| ServerId::new(text))
}

#[cfg(test)]
mod tests {
    use contract::ClientCount;

    use super::{super::Service, *};

    const KEY: &str = "/goim.comet/prod/sh/sh001/127.0.0.1:3109";
    const META_KEY: &str = "/halley.meta/goim.comet/prod/sh/sh001/127.0.0.1:3109";
    const SERVER: &[u8] = b"127.0.0.1:3109";
    const EPOCH: SystemTime = SystemTime::UNIX_EPOCH;

    fn view() -> View {
        let scope = Scope {
            service: Service::Comet,
            env: "prod".to_owned(),
            region: "sh".to_owned(),
            zone: Some("sh001".to_owned()),
        };
        View::new(Layout::default(), vec![scope])
    }

    fn record<'a>(key: &'a str, value: &'a [u8], lease: i64) -> Record<'a> {
        Record { key, value, lease, revision: lease }
    }

    fn only(view: &View) -> Node {
        let nodes = view.nodes();
        assert_eq!(nodes.len(), 1, "{nodes:?}");
        nodes.of(Service::Comet).next().map(|node| (**node).clone()).unwrap()
    }

    #[test]
    fn a_key_of_go_is_a_node_of_weight_10_without_a_version() {
        let mut view = view();
        assert_eq!(view.put(record(KEY, SERVER, 1), EPOCH).as_deref(), Some(META_KEY));
        let node = only(&view);
        assert_eq!((node.weight, node.version.as_str(), node.offline), (10, "", false));
        assert_eq!((node.env.as_str(), node.region.as_str(), node.zone.as_str()), ("prod", "sh", "sh001"));
        assert_eq!(node.hostname, "127.0.0.1");
    }

    #[test]
    fn a_meta_counts_only_for_the_key_of_its_lease() {
        let mut view = view();
        assert_eq!(view.put(record(META_KEY, br#"{"weight":7,"version":"1"}"#, 1), EPOCH), None);
        assert!(view.nodes().is_empty());
        assert_eq!(view.put(record(KEY, SERVER, 1), EPOCH), None, "its meta is here");
        assert_eq!(only(&view).weight, 7);
        // Go takes the place; ours expires later.
        assert!(view.put(record(KEY, SERVER, 2), EPOCH).is_some());
        assert_eq!((only(&view).weight, only(&view).version.as_str()), (10, ""));
        view.delete(META_KEY, false);
        assert_eq!(only(&view).weight, 10);
    }

    #[test]
    fn a_node_never_loses_its_meta_before_its_key() {
        let mut view = view();
        view.put(record(KEY, SERVER, 1), EPOCH);
        view.put(record(META_KEY, br#"{"offline":true,"conn_count":5,"ip_count":2,"new":[]}"#, 1), EPOCH);
        view.delete(META_KEY, false);
        let node = only(&view);
        assert_eq!((node.offline, node.clients), (true, ClientCount { connections: 5, addresses: 2 }));
        view.delete(KEY, false);
        assert!(view.nodes().is_empty());
        assert!(view.entries.is_empty(), "nothing is left of it");
    }

    #[test]
    fn what_is_gone_after_a_new_list_is_kept_until_it_is_given_up() {
        let mut view = view();
        view.put(record(KEY, SERVER, 1), EPOCH);
        view.put(record(META_KEY, br#"{"weight":7}"#, 1), EPOCH);
        view.replace([], EPOCH);
        assert_eq!(view.missing(), 1);
        assert_eq!(only(&view).weight, 7);
        view.put(record(KEY, SERVER, 2), EPOCH);
        assert_eq!(view.missing(), 0);
        view.replace([], EPOCH);
        view.forget_missing();
        assert!(view.nodes().is_empty() && view.entries.is_empty());
    }

    #[test]
    fn a_server_that_moved_is_where_it_is_now() {
        let mut view = view();
        view.scopes[0].zone = None;
        view.put(record(KEY, SERVER, 1), EPOCH);
        view.replace([record("/goim.comet/prod/sh/sh000/127.0.0.1:3109", SERVER, 2)], EPOCH);
        assert_eq!(only(&view).zone, "sh000");
    }

    #[test]
    fn keys_that_are_no_node_are_counted_and_hurt_nobody() {
        let mut view = view();
        let bad: [&[u8]; 8] =
            [b"", b"hello", b"127.0.0.1:0", b"127.0.0.1:65536", b":3109", b"a b:1", b"http://a:1", b"\xff:1"];
        for value in bad {
            view.put(record(KEY, value, 1), EPOCH);
            assert_eq!((view.nodes().len(), view.ignored()), (0, 1), "{value:?}");
        }
        view.put(record("/goim.comet/prod/sh/sh001/x/y:1", b"y:1", 1), EPOCH);
        assert_eq!(view.ignored(), 2);
        view.put(record(KEY, SERVER, 1), EPOCH);
        view.put(record(META_KEY, b"{", 1), EPOCH);
        assert_eq!((view.nodes().len(), view.ignored()), (1, 2));
        view.delete(META_KEY, false);
        view.replace([record(KEY, SERVER, 1)], EPOCH);
        assert_eq!((view.nodes().len(), view.ignored()), (1, 0));
    }

    #[test]
    fn names_and_both_kinds_of_addresses_are_servers() {
        for value in ["a:1", "comet-1.example.com:3109", "10.0.0.1:65535", "[::1]:3109", "my_host:1"] {
            assert_eq!(server(value.as_bytes()).unwrap().as_str(), value);
        }
        assert_eq!(server(b"::1:3109"), None, "an IPv6 address has brackets");
    }

    #[test]
    fn another_scope_is_not_seen() {
        let mut view = view();
        view.put(record("/goim.comet/prod/sh/sh002/127.0.0.1:3109", SERVER, 1), EPOCH);
        view.put(record("/goim.logic/prod/sh/sh001/127.0.0.1:3109", SERVER, 1), EPOCH);
        assert_eq!((view.nodes().len(), view.ignored(), view.entries.len()), (0, 0, 0));
    }
}
