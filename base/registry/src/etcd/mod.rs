//! The registry on etcd, readable and writable by goim's own programs.
//!
//! goim's key of a node is a path that says where it is ([`Layout`]), its value the node's `host:port`. What more is
//! known of a node stands beside it, under `/halley.meta` and the same path. Both hang on one lease. The bytes are in
//! `docs/PROTOCOL.md`.
//!
//! | module | what it is |
//! | --- | --- |
//! | `layout` | the path of a node, written and read |
//! | `meta` | the JSON beside it |
//! | `view` | from keys to nodes, without IO |
//! | `watcher` | list, watch, list again |
//! | `registration` | one's own registration, kept for ever; one loop |
//! | `keys` | its two keys and their lease, and how they are put right |
//! | `connect`, `contact` | one member of etcd at a time; does it answer? |

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

pub use self::config::DiscoveryConfig;
pub use layout::{Layout, LayoutError, PlaceError};
pub use metrics::RegistryMetrics;

use ::config::ConfigError;
use host::process::Place;

use self::{
    connect::Members, contact::Contact, layout::META, registration::Own, terms::Terms, view::View,
    watcher::Watcher,
};
use super::{Node, NodeSet, Registration, Registry, RegistryError, Service, Standing};

/// Which nodes to watch. [`Scope::logics`] and [`Scope::comets`] are goim's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Which service.
    pub service: Service,
    /// goim's `deploy.env`.
    pub env: String,
    /// The region.
    pub region: String,
    /// The zone; `None` = all of the region.
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

/// A registry on etcd. It watches until it is dropped; registrations live on their own.
pub struct EtcdRegistry {
    terms: Terms,
    members: Members,
    nodes: watch::Receiver<Arc<NodeSet>>,
    listed: watch::Receiver<bool>,
    watcher: JoinHandle<()>,
}

impl EtcdRegistry {
    /// Begins to watch the nodes of `scopes`, at least one, as soon as etcd is there. Needs a tokio runtime. The set is empty
    /// until etcd has answered, see [`known`](Registry::known).
    ///
    /// # Errors
    /// When the section is at odds with itself, names a file that cannot be read, or a scope cannot be part of a key.
    pub fn new(config: &DiscoveryConfig, scopes: Vec<Scope>) -> Result<Self, ConfigError> {
        if let Some(error) = config.check().into_iter().next() {
            return Err(error);
        }
        assert!(!scopes.is_empty(), "a registry watches something");
        let mut prefixes = std::collections::BTreeSet::new();
        for scope in &scopes {
            let prefix = config
                .layout
                .prefix(scope)
                .map_err(|error| ConfigError::value("discovery.layout", &config.layout, error.to_string()))?;
            prefixes.insert(format!("{META}{prefix}"));
            prefixes.insert(prefix);
        }
        let metrics = RegistryMetrics::default();
        let members = Members::new(config, metrics.clone())?;
        let contact = Arc::new(Contact::new(metrics.clone()));
        let (sender, nodes) = watch::channel(Arc::default());
        let (list, listed) = watch::channel(false);
        let lease_ttl = config.lease_ttl.get();
        let watcher = Watcher {
            members: members.clone(),
            view: View::new(config.layout.clone(), scopes),
            prefixes,
            nodes: sender,
            contact: contact.clone(),
            metrics: metrics.clone(),
            lease_ttl,
            listed: list,
            grace_until: Instant::now(),
        };
        let watcher = tokio::spawn(async move { match Box::pin(watcher.run()).await {} });
        let terms = Terms { layout: config.layout.clone(), lease_ttl, contact, metrics };
        Ok(Self { terms, members, nodes, listed, watcher })
    }

    /// What it counts.
    pub fn metrics(&self) -> &RegistryMetrics {
        &self.terms.metrics
    }

    /// True while etcd answers all that is asked of it; false at first. For `/readyz`.
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
        // Fails only when there is nobody any more who could read it.
        let _ = self.listed.clone().wait_for(|listed| *listed).await;
    }
}

impl Drop for EtcdRegistry {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}
