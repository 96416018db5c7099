//! The registry of one process. It holds its nodes in memory: fixed ones, and those that register.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use proto::ids::ServerId;
use tokio::sync::watch;

use super::{Node, NodeSet, NodeState, Registration, Registry, RegistryError, Service, Standing};

/// Nodes in memory. Clones are the same registry.
#[derive(Clone, Debug)]
pub struct Fixed(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    nodes: watch::Sender<Arc<NodeSet>>,
    owners: Mutex<Owners>,
}

/// Which registration a node belongs to, so that the end of an older one does not remove it.
#[derive(Debug, Default)]
struct Owners {
    current: HashMap<(Service, ServerId), u64>,
    last: u64,
}

impl Fixed {
    /// A registry that knows `nodes` for ever; others register beside them.
    pub fn new(nodes: impl IntoIterator<Item = Node>) -> Self {
        let set: NodeSet = nodes.into_iter().collect();
        Self(Arc::new(Shared { nodes: watch::Sender::new(Arc::new(set)), owners: Mutex::default() }))
    }
}

impl Shared {
    fn owners(&self) -> MutexGuard<'_, Owners> {
        // A panic cannot leave the map half changed.
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut NodeSet)) {
        self.nodes.send_modify(|nodes| change(Arc::make_mut(nodes)));
    }
}

#[async_trait]
impl Registry for Fixed {
    async fn register(&self, node: Node) -> Result<Box<dyn Registration>, RegistryError> {
        let mut owners = self.0.owners();
        owners.last += 1;
        let entry = Entry { registry: self.0.clone(), id: owners.last, node };
        owners.current.insert(entry.key(), entry.id);
        entry.publish(entry.node.state());
        Ok(Box::new(entry))
    }

    fn watch(&self) -> watch::Receiver<Arc<NodeSet>> {
        self.0.nodes.subscribe()
    }
}

/// The registration of one node.
struct Entry {
    registry: Arc<Shared>,
    id: u64,
    node: Node,
}

impl Entry {
    fn key(&self) -> (Service, ServerId) {
        (self.node.service, self.node.server.clone())
    }

    fn publish(&self, state: NodeState) {
        let mut node = Node { updated: host::clock::wall(), ..self.node.clone() };
        node.set_state(state);
        self.registry.change(|nodes| nodes.insert(node));
    }
}

#[async_trait]
impl Registration for Entry {
    fn update(&self, state: NodeState) {
        // Keep the lock while publishing, so that this does not overwrite what a newer registration puts in.
        let owners = self.registry.owners();
        if owners.current.get(&self.key()) == Some(&self.id) {
            self.publish(state);
        }
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        watch::channel(Standing::Registered).1
    }

    async fn deregister(self: Box<Self>) {}
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut owners = self.registry.owners();
        if owners.current.get(&self.key()) == Some(&self.id) {
            owners.current.remove(&self.key());
            self.registry.change(|nodes| {
                nodes.remove(self.node.service, &self.node.server);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::registry_conformance!(async {
        let fixed = Fixed::new([]);
        (fixed.clone(), fixed)
    });

    #[tokio::test]
    async fn given_nodes_are_there_from_the_start_and_stay() {
        let comet = ServerId::new("127.0.0.1:3109");
        let fixed = Fixed::new([Node::new(Service::Comet, comet.clone())]);
        let logic = fixed.register(Node::new(Service::Logic, ServerId::new("127.0.0.1:3119"))).await.unwrap();
        assert_eq!(fixed.watch().borrow().len(), 2);
        logic.deregister().await;
        let nodes = fixed.watch().borrow().clone();
        assert!(nodes.get(Service::Comet, &comet).is_some() && nodes.len() == 1);
    }
}
