//! The bytes in etcd, and what is made of those that others wrote.

use std::collections::BTreeSet;

use contract::ClientCount;
use etcd_client::{LeaseTimeToLiveOptions, PutOptions};

use super::*;
use crate::NodeState;

const META_HEAD: &str = concat!(
    r#"{"addrs":["47.89.10.97"],"weight":10,"offline":false,"conn_count":0,"ip_count":0,"version":"0.1.0","#,
    r#""hostname":"test","updated":"#
);

/// The shared etcd with goim's own layouts is not used: other tests' nodes would be seen.
#[tokio::test]
async fn a_comet_is_written_as_goim_writes_it_and_described_beside_it() {
    let etcd = Etcd::start();
    let mut raw = client(&etcd).await;
    for (layout, key, tail) in [
        ("goim", "/goim.comet/prod/sh/sh001/127.0.0.1:3109", ""),
        ("goim-docs", "/prod/goim.comet/sh/127.0.0.1:3109", r#","zone":"sh001""#),
    ] {
        let config = EtcdConfig { layout: layout.parse().unwrap(), ..config(&etcd) };
        let own = registered(&registry(&config), comet(3109)).await;
        assert_eq!(value(&mut raw, key).await.as_deref(), Some("127.0.0.1:3109"));
        let meta = value(&mut raw, &format!("/halley.meta{key}")).await.unwrap();
        let updated = meta.strip_prefix(META_HEAD).expect(&meta);
        let updated = updated.strip_suffix(&format!("{tail}}}")).expect(&meta);
        assert!(updated.parse::<u64>().is_ok(), "{meta}");
        own.deregister().await;
        assert_eq!(value(&mut raw, key).await, None);
        assert_eq!(value(&mut raw, &format!("/halley.meta{key}")).await, None);
        let everything = raw.get("/", Some(etcd_client::GetOptions::new().with_all_keys())).await.unwrap();
        assert_eq!(everything.count(), 0, "{layout}");
        assert!(raw.leases().await.unwrap().leases().is_empty(), "{layout}");
    }
}

#[tokio::test]
async fn both_keys_hang_on_one_lease_of_15_seconds() {
    let etcd = shared();
    let config = EtcdConfig { layout: own_layout(), ..config(&etcd) };
    let key = config.layout.key(&comet(1)).unwrap();
    let _own = registered(&registry(&config), comet(1)).await;
    let mut raw = client(&etcd).await;
    let lease = raw.get(key.as_str(), None).await.unwrap().kvs()[0].lease();
    let keys = LeaseTimeToLiveOptions::new().with_keys();
    let life = raw.lease_time_to_live(lease, Some(keys)).await.unwrap();
    assert_eq!(life.granted_ttl(), 15);
    let keys: BTreeSet<_> = life.keys().iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
    assert_eq!(keys, BTreeSet::from([format!("/halley.meta{key}"), key]));
}

/// Puts a key as goim does, and others that are no nodes of this scope.
#[tokio::test]
async fn goims_nodes_are_seen_and_those_of_other_places_are_not() {
    let etcd = shared();
    let config = EtcdConfig { layout: own_layout(), ..config(&etcd) };
    let registry = registry(&config);
    let mut raw = client(&etcd).await;
    let root = config.layout.to_string().split('/').nth(1).unwrap().to_owned();
    for (path, server) in [
        ("goim.comet/prod/sh2/sh001", "10.0.0.1:1"),
        ("goim.comet/prod/sh/sh0012", "10.0.0.2:1"),
        ("goim.comet/prod2/sh/sh001", "10.0.0.3:1"),
        ("goim.logic/prod/sh2/sh001", "10.0.0.4:1"),
        ("goim.comet/prod/sh/sh001", "10.0.0.5:1"),
        ("goim.logic/prod/sh/sh002", "10.0.0.6:1"),
        ("goim.comet/prod/sh/sh001", "10.0.0.7:1"),
    ] {
        raw.put(format!("/{root}/{path}/{server}"), server, None).await.unwrap();
    }
    let nodes = until(&registry, |nodes| nodes.len() == 3).await;
    let servers = |service| nodes.of(service).map(|node| node.server.to_string()).collect::<Vec<_>>();
    assert_eq!(servers(Service::Comet), ["10.0.0.5:1", "10.0.0.7:1"]);
    assert_eq!(servers(Service::Logic), ["10.0.0.6:1"]);
    let go = nodes.of(Service::Comet).next().unwrap();
    assert_eq!((go.weight, go.version.as_str()), (10, ""), "a node of Go has no version");
}

/// No meta is told with the second put: it is there already.
#[tokio::test]
async fn a_key_finds_the_meta_that_was_there_before_it() {
    let etcd = shared();
    let config = EtcdConfig { layout: own_layout(), ..config(&etcd) };
    let registry = registry(&config);
    let mut raw = client(&etcd).await;
    let key = config.layout.key(&comet(1)).unwrap();
    raw.put(format!("/halley.meta{key}"), r#"{"weight":7}"#, None).await.unwrap();
    for _ in 0..2 {
        raw.put(key.as_str(), "127.0.0.1:1", None).await.unwrap();
        let nodes = until(&registry, |nodes| there(nodes, 1)).await;
        assert_eq!(nodes.get(Service::Comet, &server(1)).unwrap().weight, 7);
        raw.delete(key.as_str(), None).await.unwrap();
        until(&registry, NodeSet::is_empty).await;
    }
}

#[tokio::test]
async fn a_value_that_is_no_address_is_left_out_and_hurts_nobody() {
    let etcd = shared();
    let config = EtcdConfig { layout: own_layout(), ..config(&etcd) };
    let registry = registry(&config);
    let mut raw = client(&etcd).await;
    let key = |port: u16| config.layout.key(&comet(port)).unwrap();
    raw.put(key(1), "nonsense", None).await.unwrap();
    raw.put(format!("/halley.meta{}", key(2)), "no JSON", None).await.unwrap();
    raw.put(key(2), "127.0.0.1:2", None).await.unwrap();
    let nodes = until(&registry, |nodes| there(nodes, 2)).await;
    assert_eq!(nodes.len(), 1);
    assert_eq!(registry.metrics().ignored.get(), 2);
    // Repaired, it is a node.
    raw.put(key(1), "127.0.0.1:1", None).await.unwrap();
    until(&registry, |nodes| there(nodes, 1)).await;
}

#[tokio::test]
async fn counts_are_written_about_once_a_second_and_the_last_one_counts() {
    let etcd = shared();
    let config = EtcdConfig { layout: own_layout(), ..config(&etcd) };
    let registry = registry(&config);
    let own = registered(&registry, comet(1)).await;
    let clients = |connections| ClientCount { connections, addresses: 1 };
    let state = |connections| NodeState { clients: clients(connections), offline: false };
    for connections in 1..=100 {
        own.update(state(connections));
        sleep(Duration::from_millis(20)).await;
    }
    until(&registry, |nodes| {
        nodes.get(Service::Comet, &server(1)).is_some_and(|node| node.clients == clients(100))
    })
    .await;
    let meta = format!("/halley.meta{}", config.layout.key(&comet(1)).unwrap());
    let mut raw = client(&etcd).await;
    let version = async |raw: &mut Client| raw.get(meta.as_str(), None).await.unwrap().kvs()[0].version();
    let written = version(&mut raw).await;
    assert!((2..20).contains(&written), "100 updates in two seconds were written {written} times");
    own.update(state(100));
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(version(&mut raw).await, written, "nothing has changed");
}

#[tokio::test]
async fn a_key_that_somebody_deletes_comes_back() {
    let etcd = shared();
    let config = EtcdConfig { layout: own_layout(), ..short_lease(&etcd) };
    let registry = registry(&config);
    let _own = registered(&registry, comet(1)).await;
    until(&registry, |nodes| there(nodes, 1)).await;
    let key = config.layout.key(&comet(1)).unwrap();
    client(&etcd).await.delete(key.as_str(), None).await.unwrap();
    until(&registry, NodeSet::is_empty).await;
    until(&registry, |nodes| there(nodes, 1)).await;
}

#[tokio::test]
async fn a_goim_comet_in_our_place_is_one_of_goims_and_our_end_changes_nothing() {
    let etcd = shared();
    let config = EtcdConfig { layout: own_layout(), ..config(&etcd) };
    let registry = registry(&config);
    let own = registered(&registry, comet(1)).await;
    until(&registry, |nodes| there(nodes, 1)).await;
    let mut raw = client(&etcd).await;
    let lease = raw.lease_grant(60, None).await.unwrap().id();
    let key = config.layout.key(&comet(1)).unwrap();
    let options = PutOptions::new().with_lease(lease);
    raw.put(key.as_str(), "127.0.0.1:1", Some(options)).await.unwrap();
    let mut standing = own.standing();
    timeout(SOON, standing.wait_for(|standing| *standing == Standing::Replaced)).await.unwrap().unwrap();
    let goims =
        |nodes: &NodeSet| nodes.get(Service::Comet, &server(1)).is_some_and(|node| node.version.is_empty());
    until(&registry, goims).await;
    own.deregister().await;
    assert_eq!(value(&mut raw, &key).await.as_deref(), Some("127.0.0.1:1"));
    assert_eq!(value(&mut raw, &format!("/halley.meta{key}")).await, None);
    raw.put(config.layout.key(&comet(2)).unwrap(), "127.0.0.1:2", None).await.unwrap();
    let nodes = until(&registry, |nodes| there(nodes, 2)).await;
    assert!(goims(&nodes));
}

/// It is ours again when the other has gone, and only then.
#[tokio::test]
async fn a_key_that_another_process_holds_is_taken_when_it_leaves() {
    let etcd = shared();
    let config = EtcdConfig { layout: own_layout(), ..config(&etcd) };
    let (one, other) = (registry(&config), registry(&config));
    let own = registered(&one, comet(1)).await;
    let second = registered(&other, Node { version: "0.2.0".to_owned(), ..comet(1) }).await;
    let mut standing = own.standing();
    timeout(SOON, standing.wait_for(|standing| *standing == Standing::Replaced)).await.unwrap().unwrap();
    assert_eq!((one.metrics().registered.get(), other.metrics().registered.get()), (0, 1));
    let five = NodeState { clients: ClientCount { connections: 5, addresses: 1 }, offline: false };
    own.update(five);
    sleep(Duration::from_millis(1500)).await;
    until(&other, |nodes| nodes.get(Service::Comet, &server(1)).is_some_and(|node| node.version == "0.2.0"))
        .await;
    second.deregister().await;
    timeout(SOON, standing.wait_for(|standing| *standing == Standing::Registered)).await.unwrap().unwrap();
    let is_ours = |node: &Arc<Node>| node.version == "0.1.0" && node.state() == five;
    until(&other, |nodes| nodes.get(Service::Comet, &server(1)).is_some_and(is_ours)).await;
}

/// The lease is a minute: what is gone in half of it was taken back.
#[tokio::test]
async fn a_node_that_leaves_is_gone_at_once() {
    let etcd = shared();
    let lease_ttl = ::config::BoundedDuration::secs::<60>();
    let config = EtcdConfig { layout: own_layout(), lease_ttl, ..config(&etcd) };
    let (one, other) = (registry(&config), registry(&config));
    for dropped in [false, true] {
        let own = registered(&one, comet(1)).await;
        until(&other, |nodes| there(nodes, 1)).await;
        match dropped {
            true => drop(own),
            false => own.deregister().await,
        }
        until(&other, NodeSet::is_empty).await;
    }
}
