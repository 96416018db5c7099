//! The registry on etcd. goim's own programs can read and write it.
//!
//! goim's key of a node is a path that tells where the node is ([`Layout`]); its value is the node's `host:port`.
//! Everything else about a node stands in a second key, under `/halley.meta` and the same path. Both keys have one
//! lease. `docs/PROTOCOL.md` describes the bytes.
//!
//! | module | subject |
//! | --- | --- |
//! | `layout` | the path of a node, written and read |
//! | `meta` | the JSON beside it |
//! | `view` | makes nodes of keys, without IO |
//! | `watcher` | lists, watches, and lists again |
//! | `registration` | one's own registration, kept for ever by one loop |
//! | `keys` | its two keys and their lease, and how they are repaired |
//! | `connect`, `contact` | one member of etcd at a time; whether etcd answers |

mod config;
mod connect;
mod contact;
mod keys;
mod layout;
mod meta;
mod metrics;
mod registration;
mod terms;
#[cfg(test)]
mod tests;
mod view;
mod watcher;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::{sync::watch, task::JoinHandle, time::Instant};

pub use self::config::{DiscoveryConfig, EtcdConfig};
pub use layout::{Layout, LayoutError, PlaceError};
pub use metrics::RegistryMetrics;

use ::config::ConfigError;
use host::process::Place;

use self::{
    connect::Members, contact::Contact, layout::META, registration::Own, terms::Terms, view::View,
    watcher::Watcher,
};
use super::{Node, NodeSet, Registration, Registry, RegistryError, Service, Standing};

/// Which nodes to watch. [`Scope::logics`] and [`Scope::comets`] are the same as in goim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Which service.
    pub service: Service,
    /// goim's `deploy.env`.
    pub env: String,
    /// The region.
    pub region: String,
    /// The zone; `None` for all zones of the region.
    pub zone: Option<String>,
}

impl Scope {
    /// What a comet at `place` watches: the logics of its region, in all zones.
    pub fn logics(place: &Place) -> Scope {
        let Place { env, region, .. } = place;
        Scope { service: Service::Logic, env: env.clone(), region: region.clone(), zone: None }
    }

    /// What a logic or a job at `place` watches: the comets of its zone.
    pub fn comets(place: &Place) -> Scope {
        let Place { env, region, zone, .. } = place;
        let zone = Some(zone.clone());
        Scope { service: Service::Comet, env: env.clone(), region: region.clone(), zone }
    }
}

/// A registry on etcd. It watches until it is dropped; registrations go on without it.
pub struct EtcdRegistry {
    terms: Terms,
    members: Members,
    nodes: watch::Receiver<Arc<NodeSet>>,
    listed: watch::Receiver<bool>,
    watcher: JoinHandle<()>,
}

impl EtcdRegistry {
    /// Watches the nodes of `scopes` (at least one) as soon as etcd is there. Needs a tokio runtime. The set is empty
    /// until etcd has answered, see [`known`](Registry::known).
    ///
    /// # Errors
    /// The section contradicts itself or names a file that cannot be read, or a scope cannot be part of a key.
    pub fn new(config: &DiscoveryConfig, scopes: Vec<Scope>) -> Result<Self, ConfigError> {
        if let Some(error) = config.check().into_iter().next() {
            return Err(error);
        }
        assert!(!scopes.is_empty(), "a registry watches something");
        let EtcdConfig { layout, lease_ttl, .. } = &config.etcd;
        let mut prefixes = std::collections::BTreeSet::new();
        for scope in &scopes {
            let prefix = layout
                .prefix(scope)
                .map_err(|error| ConfigError::value("discovery.layout", layout, error.to_string()))?;
            prefixes.insert(format!("{META}{prefix}"));
            prefixes.insert(prefix);
        }
        let metrics = RegistryMetrics::default();
        let members = Members::new(config, metrics.clone())?;
        let contact = Arc::new(Contact::new(metrics.clone()));
        let (sender, nodes) = watch::channel(Arc::default());
        let (list, listed) = watch::channel(false);
        let lease_ttl = lease_ttl.get();
        let watcher = Watcher {
            members: members.clone(),
            view: View::new(layout.clone(), scopes),
            prefixes,
            nodes: sender,
            contact: contact.clone(),
            metrics: metrics.clone(),
            lease_ttl,
            listed: list,
            grace_until: Instant::now(),
        };
        let watcher = tokio::spawn(async move { match Box::pin(watcher.run()).await {} });
        let terms = Terms { layout: layout.clone(), lease_ttl, contact, metrics };
        Ok(Self { terms, members, nodes, listed, watcher })
    }

    /// The registry's metrics.
    pub fn metrics(&self) -> &RegistryMetrics {
        &self.terms.metrics
    }

    /// True while etcd answers everything that is asked of it; false at first. For `/readyz`.
    pub fn up(&self) -> watch::Receiver<bool> {
        self.terms.contact.up()
    }
}

#[async_trait]
impl Registry for EtcdRegistry {
    async fn register(&self, node: Node) -> Result<Box<dyn Registration>, RegistryError> {
        let refused = |error: PlaceError| RegistryError::Refused(error.to_string());
        let own = Own::new(self.terms.clone(), self.members.clone(), node).map_err(refused)?;
        let (kept, has_failed) = own.keep();
        let mut standing = kept.standing();
        tokio::select! {
            _ = standing.wait_for(|standing| *standing == Standing::Registered) => Ok(Box::new(kept)),
            Ok(error) = has_failed => Err(error),
        }
    }

    fn watch(&self) -> watch::Receiver<Arc<NodeSet>> {
        self.nodes.clone()
    }

    async fn known(&self) {
        // Fails only if the watch has ended, after which nobody can read the set.
        let _ = self.listed.clone().wait_for(|listed| *listed).await;
    }
}

impl Drop for EtcdRegistry {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}
