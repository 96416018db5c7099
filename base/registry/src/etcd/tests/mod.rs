//! Against a real etcd.

mod access;
mod keys;
mod losses;
mod outages;
mod tls;

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use etcd_client::Client;
use proto::ids::ServerId;
use services::Etcd;
use tokio::time::{sleep, timeout};

use super::*;

/// How long anything may take. Generous: a lease may have to run out on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// One etcd for all tests that do it no harm. It ends with the last of them.
fn shared() -> Arc<Etcd> {
    static SHARED: Mutex<Weak<Etcd>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let etcd = Arc::new(Etcd::start());
        *shared = Arc::downgrade(&etcd);
        etcd
    })
}

/// A layout nobody else has, so that tests share an etcd and do not meet.
fn own_layout() -> Layout {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Relaxed);
    format!("/test{number}/{{appid}}/{{env}}/{{region}}/{{zone}}/{{server}}").parse().unwrap()
}

fn config(etcd: &Etcd) -> EtcdConfig {
    EtcdConfig { nodes: [etcd.addr()].into_iter().collect(), ..EtcdConfig::default() }
}

/// With a lease that tests can wait for.
fn short_lease(etcd: &Etcd) -> EtcdConfig {
    EtcdConfig {
        lease_ttl: ::config::BoundedDuration::secs::<3>(),
        dial_timeout: ::config::BoundedDuration::secs::<1>(),
        ..config(etcd)
    }
}

fn scope(service: Service, zone: Option<&str>) -> Scope {
    Scope { service, env: "prod".to_owned(), region: "sh".to_owned(), zone: zone.map(str::to_owned) }
}

/// A registry that watches the comets of sh001 and the logics of sh.
fn registry(config: &EtcdConfig) -> EtcdRegistry {
    registry_by(&config.clone().into())
}

fn registry_by(config: &DiscoveryConfig) -> EtcdRegistry {
    let scopes = vec![scope(Service::Comet, Some("sh001")), scope(Service::Logic, None)];
    EtcdRegistry::new(config, scopes).expect("a good configuration")
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
        addrs: vec!["47.89.10.97".to_owned()],
        version: "0.1.0".to_owned(),
        ..Node::new(Service::Comet, server(port))
    }
}

fn there(nodes: &NodeSet, port: u16) -> bool {
    nodes.get(Service::Comet, &server(port)).is_some()
}

/// Registers as a process does: again and again.
async fn registered(registry: &EtcdRegistry, node: Node) -> Box<dyn Registration> {
    let attempts = async {
        loop {
            match registry.register(node.clone()).await {
                Ok(own) => return own,
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    };
    timeout(SOON, attempts).await.expect("registered in time")
}

/// Waits until the set is as asked for.
async fn until(registry: &EtcdRegistry, seen: impl Fn(&NodeSet) -> bool) -> Arc<NodeSet> {
    let mut nodes = registry.watch();
    let waited = timeout(SOON, nodes.wait_for(|nodes| seen(nodes))).await;
    match waited {
        Ok(set) => set.expect("the registry lives").clone(),
        Err(_) => panic!("not seen within {SOON:?}: {:?}", registry.watch().borrow()),
    }
}

async fn until_up(registry: &EtcdRegistry, up: bool) {
    let mut now = registry.up();
    timeout(SOON, now.wait_for(|now| *now == up)).await.expect("in time").expect("the registry lives");
}

/// Asks until the answer is yes.
async fn until_true<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let asked = async {
        while !ask().await {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, asked).await.unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"));
}

/// A client of the test's own.
async fn client(etcd: &Etcd) -> Client {
    Client::connect([etcd.addr()], None).await.expect("no request yet")
}

/// The value of a key.
async fn value(client: &mut Client, key: &str) -> Option<String> {
    let got = client.get(key, None).await.expect("etcd answers");
    got.kvs().first().map(|kv| kv.value_str().expect("text").to_owned())
}

/// A registry on the shared etcd, which lives as long.
struct Shared {
    registry: EtcdRegistry,
    _etcd: Arc<Etcd>,
}

#[async_trait]
impl Registry for Shared {
    async fn register(&self, node: Node) -> Result<Box<dyn Registration>, RegistryError> {
        self.registry.register(node).await
    }

    fn watch(&self) -> watch::Receiver<Arc<NodeSet>> {
        self.registry.watch()
    }
}

mod conformance {
    use super::*;

    fn two_clients(layout: Layout) -> (Shared, Shared) {
        let etcd = shared();
        let config = EtcdConfig { layout, ..config(&etcd) };
        let client = || Shared { registry: registry(&config), _etcd: etcd.clone() };
        (client(), client())
    }

    crate::registry_conformance!(async { two_clients(own_layout()) });

    /// What the path leaves out is told beside it.
    mod in_a_layout_without_zones {
        use super::*;

        crate::registry_conformance!(async {
            let text = own_layout().to_string().replace("/{env}/{region}/{zone}", "");
            two_clients(text.parse().unwrap())
        });
    }
}
