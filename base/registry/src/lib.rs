//! Which processes there are: every comet and every logic of the cluster.
//!
//! A process registers when it has begun to listen, and keeps the [`Registration`] as long as it serves. Everybody else
//! [`watch`](Registry::watch)es the set. [`Fixed`] keeps it in memory, `etcd::EtcdRegistry` (feature `etcd`) in etcd.
//! Both pass the same conformance suite (module `conformance`, feature of the same name).

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

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

/// Within this time everybody hears of a change in the registry. For a process that cannot ask the others whether they
/// have.
pub const HEARD: Duration = Duration::from_millis(500);

/// The set of processes, kept by the cluster.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// Makes `node` known, and returns when it is. From then on the implementation keeps it known until the
    /// registration ends, whatever happens to the store. If a node of the same service and server was there, this one
    /// replaces it, and the end of that node's registration no longer changes anything.
    ///
    /// # Errors
    /// The store could not be reached the first time. The caller tries again.
    async fn register(&self, node: Node) -> Result<Box<dyn Registration>, RegistryError>;

    /// The nodes as they are and as they change. While the store is away, the last known set stays.
    fn watch(&self) -> watch::Receiver<Arc<NodeSet>>;

    /// Returns as soon as the set was read from the store. Until then the set is empty, which says nothing about the
    /// nodes. Cancel safe, and may be called again.
    async fn known(&self) {}
}

/// One's own entry. Dropping it removes the entry too, but nobody waits until that is done.
#[async_trait]
pub trait Registration: Send + Sync {
    /// Publishes the new state of the node. Never waits. Of several updates in a row, the last one counts. Changed
    /// counts may be published about a second later, a changed `offline` is published at once.
    fn update(&self, state: NodeState);

    /// What is known about the entry now, and how that changes.
    fn standing(&self) -> watch::Receiver<Standing>;

    /// Removes the entry. Returns when it is gone, or when the store could not be reached; then the entry ends with its
    /// lease.
    async fn deregister(self: Box<Self>);
}

/// What is known about one's own entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The entry was not made yet.
    Pending,
    /// The entry is there. The store has said so, and would have reported if it had gone since; or the time is not over
    /// during which it stays without contact.
    Registered,
    /// The entry has gone, for this reason. It is made again as soon as the store takes it.
    Lost(&'static str),
    /// Another process has its place. It is made again when that one leaves.
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
    /// The store is away. The caller tries again after a pause.
    #[error("the registry is unreachable: {0}")]
    Unavailable(String),
    /// The store refuses the node: wrong password, no permission. The caller tries again, since an operator may repair
    /// this.
    #[error("the registry refused the node: {0}")]
    Refused(String),
}
