//! What every [`Registry`](super::Registry) has to do. [`registry_conformance!`](crate::registry_conformance) makes a
//! test of each case.

use std::{sync::Arc, time::Duration};

use contract::ClientCount;
use proto::ids::ServerId;
use tokio::time::timeout;

use super::{Node, NodeSet, NodeState, Registry, Service};

/// Longest time until a change is seen. It is generous, since a lease may have to run out.
const SEEN_WITHIN: Duration = Duration::from_secs(30);

/// Makes one `#[tokio::test]` per case. The expression is evaluated anew for each case. It is a future of two views of
/// one fresh registry: two clients of the same store, or the same client twice.
#[macro_export]
macro_rules! registry_conformance {
    ($fresh:expr) => {
        $crate::registry_conformance!($fresh;
            a_registered_node_is_seen_by_everybody_as_it_was_given,
            who_watches_late_sees_what_is_there,
            updated_counts_are_seen_and_nothing_else_changes,
            a_node_that_takes_no_new_clients_says_so_at_once,
            a_deregistered_node_is_gone,
            a_dropped_registration_is_gone,
            a_comet_and_a_logic_of_one_server_are_two_nodes,
            nodes_come_and_go_without_touching_each_other,
            the_end_of_a_replaced_registration_changes_nothing,
            a_replaced_registration_updates_nothing,
            a_node_can_come_back,
        );
    };
    ($fresh:expr; $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $case() {
                let (one, other) = $fresh.await;
                $crate::conformance::$case(&one, &other).await;
            }
        )+
    };
}

fn server(port: u16) -> ServerId {
    ServerId::new(format!("127.0.0.1:{port}"))
}

fn comet(port: u16) -> Node {
    Node {
        region: "sh".to_owned(),
        zone: "sh001".to_owned(),
        env: "prod".to_owned(),
        hostname: "test".to_owned(),
        addrs: vec!["47.89.10.97".to_owned(), "47.89.10.98".to_owned()],
        weight: 7,
        offline: true,
        version: "0.1.0".to_owned(),
        ..Node::new(Service::Comet, server(port))
    }
}

/// Waits until `registry` shows what `seen` asks for. Returns that set.
async fn until(registry: &dyn Registry, seen: impl Fn(&NodeSet) -> bool) -> Arc<NodeSet> {
    let mut nodes = registry.watch();
    let waited = timeout(SEEN_WITHIN, nodes.wait_for(|nodes| seen(nodes))).await;
    match waited {
        Ok(set) => set.expect("a registry outlives its watchers").clone(),
        Err(_) => panic!("not seen within {SEEN_WITHIN:?}: {:?}", registry.watch().borrow()),
    }
}

async fn register(registry: &dyn Registry, node: Node) -> Box<dyn super::Registration> {
    registry.register(node).await.expect("the registry takes the node")
}

fn there(nodes: &NodeSet, port: u16) -> bool {
    nodes.get(Service::Comet, &server(port)).is_some()
}

fn clients(nodes: &NodeSet, port: u16) -> Option<ClientCount> {
    nodes.get(Service::Comet, &server(port)).map(|node| node.clients)
}

const FIVE: ClientCount = ClientCount { connections: 5, addresses: 1 };
const SIX: ClientCount = ClientCount { connections: 6, addresses: 2 };

/// A state for the nodes of this suite, which are offline from the start.
fn offline(clients: ClientCount) -> NodeState {
    NodeState { clients, offline: true }
}

/// Both views show every field, and the time of the update.
pub async fn a_registered_node_is_seen_by_everybody_as_it_was_given(
    one: &dyn Registry,
    other: &dyn Registry,
) {
    let _own = register(one, comet(1)).await;
    for view in [one, other] {
        let nodes = until(view, |nodes| there(nodes, 1)).await;
        let node = nodes.get(Service::Comet, &server(1)).expect("it was there");
        let age = node.updated.elapsed().unwrap_or_default();
        assert!(age < Duration::from_secs(60), "updated {age:?} ago");
        assert_eq!(**node, Node { updated: node.updated, ..comet(1) });
        assert_eq!(nodes.len(), 1);
    }
}

/// A watcher that comes late sees the nodes that came before.
pub async fn who_watches_late_sees_what_is_there(one: &dyn Registry, other: &dyn Registry) {
    let _own = register(one, comet(1)).await;
    until(other, |nodes| there(nodes, 1)).await;
    assert!(there(&other.watch().borrow(), 1), "the first look at a new watch");
}

/// The last of several updates counts.
pub async fn updated_counts_are_seen_and_nothing_else_changes(one: &dyn Registry, other: &dyn Registry) {
    let own = register(one, comet(1)).await;
    let before = until(other, |nodes| there(nodes, 1)).await;
    own.update(offline(FIVE));
    own.update(offline(SIX));
    let after = until(other, |nodes| clients(nodes, 1) == Some(SIX)).await;
    let [before, after] =
        [before, after].map(|nodes| nodes.get(Service::Comet, &server(1)).expect("there").clone());
    assert!(after.updated >= before.updated);
    assert_eq!(*after, Node { clients: SIX, updated: after.updated, ..comet(1) });
}

/// A change of `offline` is seen at once, even if counts were published just before.
pub async fn a_node_that_takes_no_new_clients_says_so_at_once(one: &dyn Registry, other: &dyn Registry) {
    let own = register(one, Node { offline: false, ..comet(1) }).await;
    let is_offline = |nodes: &NodeSet| nodes.get(Service::Comet, &server(1)).map(|node| node.offline);
    until(other, |nodes| is_offline(nodes) == Some(false)).await;
    own.update(NodeState { clients: FIVE, offline: false });
    until(other, |nodes| clients(nodes, 1) == Some(FIVE)).await;
    own.update(NodeState { clients: SIX, offline: true });
    let nodes = until(other, |nodes| is_offline(nodes) == Some(true)).await;
    assert_eq!(clients(&nodes, 1), Some(SIX));
    own.update(NodeState { clients: FIVE, offline: false });
    until(other, |nodes| is_offline(nodes) == Some(false) && clients(nodes, 1) == Some(FIVE)).await;
}

/// When `deregister` returns, the caller sees the node gone; soon everybody does.
pub async fn a_deregistered_node_is_gone(one: &dyn Registry, other: &dyn Registry) {
    let own = register(one, comet(1)).await;
    until(other, |nodes| there(nodes, 1)).await;
    own.deregister().await;
    until(one, NodeSet::is_empty).await;
    until(other, NodeSet::is_empty).await;
}

/// A process that ends without deregistering is no node any more.
pub async fn a_dropped_registration_is_gone(one: &dyn Registry, other: &dyn Registry) {
    let own = register(one, comet(1)).await;
    until(other, |nodes| there(nodes, 1)).await;
    drop(own);
    until(other, NodeSet::is_empty).await;
}

/// The identity of a node is its service and its server.
pub async fn a_comet_and_a_logic_of_one_server_are_two_nodes(one: &dyn Registry, other: &dyn Registry) {
    let _comet = register(one, comet(1)).await;
    let logic = register(one, Node { service: Service::Logic, ..comet(1) }).await;
    let nodes = until(other, |nodes| nodes.len() == 2).await;
    for service in [Service::Comet, Service::Logic] {
        assert_eq!(nodes.of(service).map(|node| &node.server).collect::<Vec<_>>(), [&server(1)]);
    }
    logic.deregister().await;
    until(other, |nodes| nodes.len() == 1 && there(nodes, 1)).await;
}

/// Nodes do not touch each other, whichever view they came through.
pub async fn nodes_come_and_go_without_touching_each_other(one: &dyn Registry, other: &dyn Registry) {
    let first = register(one, comet(1)).await;
    let second = register(other, comet(2)).await;
    let third = register(one, comet(3)).await;
    until(one, |nodes| nodes.len() == 3).await;
    first.deregister().await;
    third.update(offline(FIVE));
    let nodes = until(other, |nodes| nodes.len() == 2 && clients(nodes, 3) == Some(FIVE)).await;
    assert_eq!(clients(&nodes, 2), Some(ClientCount::default()));
    second.deregister().await;
    until(one, |nodes| nodes.len() == 1 && there(nodes, 3)).await;
}

/// A process that restarts registers before the end of the old one is noticed.
pub async fn the_end_of_a_replaced_registration_changes_nothing(one: &dyn Registry, other: &dyn Registry) {
    let old = register(one, comet(1)).await;
    let _new = register(other, Node { version: "0.2.0".to_owned(), ..comet(1) }).await;
    fn renewed(nodes: &NodeSet) -> bool {
        nodes.get(Service::Comet, &server(1)).is_some_and(|node| node.version == "0.2.0")
    }
    until(one, renewed).await;
    old.deregister().await;
    // The same client does this after the old end, so a view that shows this has also seen the old end.
    let _after = register(one, comet(2)).await;
    for view in [one, other] {
        let nodes = until(view, |nodes| there(nodes, 2)).await;
        assert!(renewed(&nodes));
    }
}

/// After a restart only the newer process sets the counts of the node.
pub async fn a_replaced_registration_updates_nothing(one: &dyn Registry, other: &dyn Registry) {
    let old = register(one, comet(1)).await;
    let new = register(other, comet(1)).await;
    new.update(offline(SIX));
    until(one, |nodes| clients(nodes, 1) == Some(SIX)).await;
    old.update(offline(FIVE));
    let _after = register(one, comet(2)).await;
    for view in [one, other] {
        let nodes = until(view, |nodes| there(nodes, 2)).await;
        assert_eq!(clients(&nodes, 1), Some(SIX));
    }
}

/// The counts of a node that comes back start at 0.
pub async fn a_node_can_come_back(one: &dyn Registry, other: &dyn Registry) {
    let own = register(one, comet(1)).await;
    own.update(offline(FIVE));
    until(other, |nodes| clients(nodes, 1) == Some(FIVE)).await;
    own.deregister().await;
    until(other, NodeSet::is_empty).await;
    let _own = register(one, comet(1)).await;
    let nodes = until(other, |nodes| there(nodes, 1)).await;
    assert_eq!(clients(&nodes, 1), Some(ClientCount::default()));
}
