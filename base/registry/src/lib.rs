//! Which processes there are: every comet and logic of the cluster, seen by everybody.
//!
//! A process registers itself once it listens and keeps the [`Registration`] for as long as it serves; everybody else
//! [`watch`](Registry::watch)es the set. [`Fixed`] holds it in memory, `etcd::EtcdRegistry` (feature `etcd`) on etcd. Both
//! pass the same conformance suite (module `conformance`, feature of the same name).

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic when nobody takes it, or wait for ever

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(feature = "etcd")]
pub mod etcd;
mod fixed;
mod membership;
mod node;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

pub use fixed::Fixed;
pub use membership::Membership;
pub use node::{Node, NodeSet, NodeState, Service};

/// Time in which everybody hears of a change in the registry, for who has nobody to ask whether they have.
pub const HEARD: Duration = Duration::from_millis(500);

/// The set of processes, kept by the cluster.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// Makes `node` known; it is when this returns. From then on the implementation keeps it known, whatever its store
    /// goes through, until the registration ends. A node of the same service and server is replaced, and the end of the
    /// registration it had changes nothing any more.
    ///
    /// # Errors
    /// When the store could not be reached the first time. The caller tries again.
    async fn register(&self, node: Node) -> Result<Box<dyn Registration>, RegistryError>;

    /// The nodes as they are now and become. While the store is away the last known set stays.
    fn watch(&self) -> watch::Receiver<Arc<NodeSet>>;

    /// Returns once the set was read from the store. Until then it is empty, which says nothing about the nodes. May be
    /// dropped and asked for again.
    async fn known(&self) {}
}

/// One's own entry. Dropped, it is taken back as well, though nobody waits for that to be done.
#[async_trait]
pub trait Registration: Send + Sync {
    /// Publishes what became of the node. Never waits; of several updates in a row the last one counts. Changed counts may
    /// be published about a second later, a changed `offline` at once.
    fn update(&self, state: NodeState);

    /// Whether the node is known now, as it becomes known here.
    fn standing(&self) -> watch::Receiver<Standing>;

    /// Takes the entry back. Returns when it is gone, or when the store could not be reached: then the entry ends with
    /// its lease.
    async fn deregister(self: Box<Self>);
}

/// What is known of one's own entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was not made yet.
    Pending,
    /// It is there: the store has said so, and would have said if it had gone since, or the time for which it stays
    /// without a word is not over.
    Registered,
    /// It has gone, for this reason, and is made again as soon as the store takes it.
    Lost(&'static str),
    /// Another process has its place; it is made again when that one leaves.
    Replaced,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Standing::Pending => "this process is not in the registry yet",
            Standing::Registered => "this process is in the registry",
            Standing::Lost(why) => return write!(f, "this process is not in the registry: {why}"),
            Standing::Replaced => "another process is registered under the name of this one",
        })
    }
}

/// Why a node could not be registered.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The store is away. Retried with backoff.
    #[error("the registry is unreachable: {0}")]
    Unavailable(String),
    /// The store refuses it: wrong password, no permission. Retried all the same, for an operator may repair it.
    #[error("the registry refused the node: {0}")]
    Refused(String),
}
