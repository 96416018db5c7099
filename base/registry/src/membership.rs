//! One's own entry in the registry, from the start of a process to its end.

use std::{sync::Arc, time::Duration};

use contract::ClientCount;
use host::{admin::Health, backoff::Backoff, shutdown::Drain};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tracing::{info, warn};

use super::{Node, NodeState, Registration, Registry, RegistryError, Standing};

/// Pause between two attempts to register.
const PAUSE: Duration = Duration::from_millis(200);

/// Longest pause if the registry refuses, because then an operator has to repair something.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(2);

/// How often changed counts are published.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// The condition of [`Health`] that is met while the entry is in the registry.
const CONDITION: &str = "registration";

/// An entry that is made as soon as the registry takes it, and then kept current.
pub struct Membership {
    leaving: Drain,
    offline: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Membership {
    /// Makes `node` known in the background, and publishes `clients` when they change. While it is not known, at the
    /// start or later, `health` has an unmet condition. `registered` becomes true, for good, as soon as it is known.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn join(
        registry: Arc<dyn Registry>,
        node: Node,
        health: Arc<Health>,
        registered: watch::Sender<bool>,
        clients: impl Fn() -> ClientCount + Send + 'static,
    ) -> Membership {
        say(&health, Standing::Pending);
        let leaving = Drain::new();
        let left = leaving.clone();
        let (offline, mut is_offline) = watch::channel(node.offline);
        let task = tokio::spawn(async move {
            let (server, mut published) = (node.server.clone(), node.state());
            let registration = tokio::select! {
                registration = register(&*registry, node) => registration,
                () = left.draining() => return,
            };
            info!(%server, "registered");
            registered.send_replace(true);
            let mut standing = registration.standing();
            loop {
                say(&health, *standing.borrow_and_update());
                let now = NodeState { clients: clients(), offline: *is_offline.borrow_and_update() };
                if now != published {
                    registration.update(now);
                    published = now;
                }
                tokio::select! {
                    () = sleep(PUBLISH_EVERY) => {}
                    Ok(()) = is_offline.changed() => {}
                    Ok(()) = standing.changed() => {}
                    () = left.draining() => break,
                }
            }
            registration.deregister().await;
            info!(%server, "no longer registered");
        });
        Membership { leaving, offline, task }
    }

    /// Publishes, at once and for good, that no new clients should come to this node. The node stays known, and still
    /// gets pushes.
    pub fn mark_offline(&self) {
        self.offline.send_replace(true);
    }

    /// Removes the entry. Returns when it is gone, or when the registry could not be reached.
    pub async fn leave(self) {
        self.leaving.begin();
        // Nobody cancels the task, and a panic in it ends the process.
        let _ = self.task.await;
    }
}

/// Tells `health` whether the entry is in the registry.
fn say(health: &Health, standing: Standing) {
    match standing {
        Standing::Registered => health.met(CONDITION),
        standing => health.unmet(CONDITION, standing.to_string()),
    }
}

/// Tries to register until it succeeds. Logs the same trouble only once.
async fn register(registry: &dyn Registry, node: Node) -> Box<dyn Registration> {
    let (mut refused_pause, mut told) = (Backoff::new(PAUSE, REFUSED_PAUSE_MAX), String::new());
    loop {
        match registry.register(node.clone()).await {
            Ok(registration) => return registration,
            Err(error) => {
                let trouble = error.to_string();
                if trouble != told {
                    warn!("cannot register yet, trying again: {trouble}");
                    told = trouble;
                }
                match error {
                    RegistryError::Refused(_) => refused_pause.pause().await,
                    RegistryError::Unavailable(_) => sleep(PAUSE).await,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    };

    use async_trait::async_trait;
    use proto::ids::ServerId;

    use super::*;
    use crate::{Fixed, NodeSet, RegistryError, Service};

    /// A registry that is away at first.
    struct Late {
        registry: Fixed,
        failures: Mutex<u32>,
    }

    #[async_trait]
    impl Registry for Late {
        async fn register(&self, node: Node) -> Result<Box<dyn Registration>, RegistryError> {
            let is_away = {
                let mut failures = self.failures.lock().unwrap();
                let is_away = *failures > 0;
                *failures = failures.saturating_sub(1);
                is_away
            };
            match is_away {
                true => Err(RegistryError::Unavailable("not there yet".to_owned())),
                false => self.registry.register(node).await,
            }
        }

        fn watch(&self) -> watch::Receiver<Arc<NodeSet>> {
            self.registry.watch()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_comes_late_gets_the_node_its_counts_and_its_end() {
        let registry = Arc::new(Late { registry: Fixed::new([]), failures: Mutex::new(5) });
        let (mut nodes, health) = (registry.watch(), Arc::new(Health::new()));
        let server = ServerId::new("127.0.0.1:3109");
        let connections = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&connections);
        let clients = move || ClientCount { connections: counted.load(Relaxed), addresses: 1 };
        let node = Node::new(Service::Comet, server.clone());
        let (registered, mut is_registered) = watch::channel(false);
        let membership = Membership::join(registry, node, Arc::clone(&health), registered, clients);
        assert!(!health.is_ready() && !*is_registered.borrow());
        is_registered.wait_for(|is| *is).await.unwrap();
        assert!(health.is_ready());
        connections.store(7, Relaxed);
        let of =
            |nodes: &Arc<NodeSet>| nodes.get(Service::Comet, &server).map(|node| node.clients.connections);
        nodes.wait_for(|nodes| of(nodes) == Some(7)).await.unwrap();
        membership.leave().await;
        assert_eq!(of(&nodes.borrow()), None);
    }

    /// A registry that says what the test says of its entry.
    struct Told(Fixed, watch::Sender<Standing>);

    #[async_trait]
    impl Registry for Told {
        async fn register(&self, node: Node) -> Result<Box<dyn Registration>, RegistryError> {
            Ok(Box::new(ToldEntry(self.0.register(node).await?, self.1.subscribe())))
        }

        fn watch(&self) -> watch::Receiver<Arc<NodeSet>> {
            self.0.watch()
        }
    }

    struct ToldEntry(Box<dyn Registration>, watch::Receiver<Standing>);

    #[async_trait]
    impl Registration for ToldEntry {
        fn update(&self, state: NodeState) {
            self.0.update(state);
        }

        fn standing(&self) -> watch::Receiver<Standing> {
            self.1.clone()
        }

        async fn deregister(self: Box<Self>) {
            self.0.deregister().await;
        }
    }

    /// It was met with the first registration, for good.
    #[tokio::test(start_paused = true)]
    async fn a_process_whose_entry_is_gone_is_not_ready_until_it_is_back() {
        let (told, health) = (watch::Sender::new(Standing::Registered), Arc::new(Health::new()));
        let registry = Arc::new(Told(Fixed::new([]), told.clone()));
        let node = Node::new(Service::Comet, ServerId::new("127.0.0.1:3109"));
        let (registered, is_registered) = watch::channel(false);
        let _membership =
            Membership::join(registry, node, Arc::clone(&health), registered, ClientCount::default);
        for (standing, report) in [
            (Standing::Registered, ""),
            (
                Standing::Lost("its key was deleted"),
                "registration: this process is not in the registry: its key was deleted\n",
            ),
            (Standing::Registered, ""),
            (Standing::Replaced, "registration: another process is registered under the name of this one\n"),
            (Standing::Registered, ""),
        ] {
            told.send_replace(standing);
            sleep(Duration::from_millis(1)).await;
            assert_eq!(health.report(), report);
        }
        assert!(*is_registered.borrow());
    }

    /// Long before the next time that counts are published, and with the counts of that moment.
    #[tokio::test(start_paused = true)]
    async fn a_node_is_offline_as_soon_as_it_is_marked() {
        let registry = Arc::new(Fixed::new([]));
        let (nodes, server) = (registry.watch(), ServerId::new("127.0.0.1:3109"));
        let node = Node::new(Service::Comet, server.clone());
        let (registered, mut is_registered) = watch::channel(false);
        let clients = || ClientCount { connections: 3, addresses: 1 };
        let membership = Membership::join(registry, node, Arc::default(), registered, clients);
        is_registered.wait_for(|is| *is).await.unwrap();
        membership.mark_offline();
        sleep(Duration::from_millis(1)).await;
        let state = || nodes.borrow().get(Service::Comet, &server).map(|node| node.state());
        assert_eq!(state(), Some(NodeState { clients: clients(), offline: true }));
        sleep(Duration::from_secs(60)).await;
        assert_eq!(state(), Some(NodeState { clients: clients(), offline: true }));
        membership.leave().await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_before_it_was_registered_does_not_wait() {
        let registry = Arc::new(Late { registry: Fixed::new([]), failures: Mutex::new(u32::MAX) });
        let node = Node::new(Service::Logic, ServerId::new("127.0.0.1:3119"));
        let (registered, is_registered) = watch::channel(false);
        let health = Arc::new(Health::new());
        let membership = Membership::join(registry, node, health, registered, ClientCount::default);
        sleep(Duration::from_secs(60)).await;
        membership.leave().await;
        assert!(!*is_registered.borrow());
    }
}
