//! One process of the cluster, and all of them.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use contract::ClientCount;
use host::{
    build,
    process::{Entry, Place, hostname},
};
use proto::ids::ServerId;

/// What a registered process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// The gateway.
    Comet,
    /// The control plane's entry.
    Logic,
}

impl Service {
    /// goim's application id: the first part of the etcd key, `appid` in `/goim/nodes/instances`.
    pub const fn app_id(self) -> &'static str {
        match self {
            Service::Comet => "goim.comet",
            Service::Logic => "goim.logic",
        }
    }
}

/// One process, as `/goim/nodes/*` shows it and as job connects to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it does.
    pub service: Service,
    /// `host:port` of its gRPC server. This is its identity.
    pub server: ServerId,
    /// `sh`.
    pub region: String,
    /// `sh001`.
    pub zone: String,
    /// goim's `deploy.env`, `prod`.
    pub env: String,
    /// Name of the host.
    pub hostname: String,
    /// Where clients reach it, addresses or names without a port; goim's flag `-addrs`.
    pub addrs: Vec<String>,
    /// Share of new clients it should get, relative to the others.
    pub weight: u32,
    /// Whether no new clients should be sent to it, as it last said. It still gets pushes.
    pub offline: bool,
    /// Its connections and their distinct addresses, as it last said; 0 for logic.
    pub clients: ClientCount,
    /// The version it runs, such as `0.1.0`.
    pub version: String,
    /// When it last registered or updated its counts. The registry sets this; `register` ignores the given value.
    pub updated: SystemTime,
}

/// What changes of a node while it is registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Its connections and their distinct addresses.
    pub clients: ClientCount,
    /// Whether no new clients should be sent to it. It still gets pushes.
    pub offline: bool,
}

impl Node {
    /// A process at this place, as its command line describes it.
    pub fn here(service: Service, server: ServerId, place: &Place, entry: Entry) -> Node {
        let Entry { addrs, weight, offline } = entry;
        Node {
            region: place.region.clone(),
            zone: place.zone.clone(),
            env: place.env.clone(),
            hostname: hostname(),
            addrs,
            weight,
            offline,
            version: build::VERSION.to_owned(),
            ..Node::new(service, server)
        }
    }

    /// A node about which nothing else is known: weight 10, goim's default, and everything else empty.
    pub fn new(service: Service, server: ServerId) -> Self {
        Self {
            service,
            server,
            region: String::new(),
            zone: String::new(),
            env: String::new(),
            hostname: String::new(),
            addrs: Vec::new(),
            weight: 10,
            offline: false,
            clients: ClientCount::default(),
            version: String::new(),
            updated: SystemTime::UNIX_EPOCH,
        }
    }

    /// The part of it that may change.
    pub fn state(&self) -> NodeState {
        NodeState { clients: self.clients, offline: self.offline }
    }

    /// Sets the part of it that may change.
    pub fn set_state(&mut self, state: NodeState) {
        let NodeState { clients, offline } = state;
        (self.clients, self.offline) = (clients, offline);
    }
}

/// All nodes, by service and server. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSet(BTreeMap<(Service, ServerId), Arc<Node>>);

impl NodeSet {
    /// The nodes of one service, in the order of their servers.
    pub fn of(&self, service: Service) -> impl Iterator<Item = &Arc<Node>> {
        self.0.values().filter(move |node| node.service == service)
    }

    /// One node.
    pub fn get(&self, service: Service, server: &ServerId) -> Option<&Arc<Node>> {
        self.0.get(&(service, server.clone()))
    }

    /// Puts a node in. It replaces the one of the same service and server.
    pub fn insert(&mut self, node: Node) {
        self.0.insert((node.service, node.server.clone()), Arc::new(node));
    }

    /// Takes a node out. True if it was there.
    pub fn remove(&mut self, service: Service, server: &ServerId) -> bool {
        self.0.remove(&(service, server.clone())).is_some()
    }

    /// Number of nodes, of both services.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Node> for NodeSet {
    fn from_iter<I: IntoIterator<Item = Node>>(nodes: I) -> Self {
        let mut set = Self::default();
        nodes.into_iter().for_each(|node| set.insert(node));
        set
    }
}
