//! etcd goes, and comes back. Each test has an etcd of its own to hurt.

use tokio::task::JoinHandle;

use super::{connect::Trouble, *};

/// Sees to it that a comet is in the set all the time, from now on.
struct NeverLost {
    nodes: watch::Receiver<Arc<NodeSet>>,
    port: u16,
    task: JoinHandle<()>,
}

impl NeverLost {
    async fn watch(registry: &EtcdRegistry, port: u16) -> Self {
        until(registry, |nodes| there(nodes, port)).await;
        let nodes = registry.watch();
        let mut changes = nodes.clone();
        let task = tokio::spawn(async move {
            loop {
                assert!(there(&changes.borrow_and_update(), port), "127.0.0.1:{port} was lost");
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
        Self { nodes, port, task }
    }

    fn check(&self) {
        assert!(!self.task.is_finished(), "127.0.0.1:{} was lost", self.port);
        assert!(there(&self.nodes.borrow(), self.port));
    }
}

impl Drop for NeverLost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A comet registered, somebody who watches, and an etcd to hurt.
struct Outage {
    etcd: Etcd,
    comet: EtcdRegistry,
    own: Box<dyn Registration>,
    watcher: EtcdRegistry,
    never_lost: NeverLost,
    key: String,
}

impl Outage {
    async fn begin() -> Self {
        let etcd = Etcd::start();
        let config = short_lease(&etcd);
        let (comet_side, watcher) = (registry(&config), registry(&config));
        let own = registered(&comet_side, comet(1)).await;
        let never_lost = NeverLost::watch(&watcher, 1).await;
        let key = config.layout.key(&comet(1)).unwrap();
        Self { etcd, comet: comet_side, own, watcher, never_lost, key }
    }

    /// The comet has its key again, another is seen, nobody was lost on the way, and all is as it was.
    async fn ends(self) {
        let mut raw = client(&self.etcd).await;
        for registry in [&self.comet, &self.watcher] {
            until_up(registry, true).await;
        }
        let key = self.key.as_str();
        until_true("the key is back", || {
            let mut raw = raw.clone();
            async move { raw.get(key, None).await.is_ok_and(|got| !got.kvs().is_empty()) }
        })
        .await;
        let _second = registered(&self.comet, comet(2)).await;
        until(&self.watcher, |nodes| there(nodes, 2)).await;
        until_true("nobody is missing", || async { self.watcher.metrics().missing.get() == 0 }).await;
        self.never_lost.check();
        // And the next end is an end.
        drop(self.never_lost);
        self.own.deregister().await;
        until(&self.watcher, |nodes| !there(nodes, 1)).await;
        assert_eq!(value(&mut raw, key).await, None);
    }
}

#[tokio::test]
async fn etcd_crashes_and_comes_back_with_its_data() {
    let mut outage = Outage::begin().await;
    outage.etcd.kill();
    until_up(&outage.watcher, false).await;
    until_up(&outage.comet, false).await;
    outage.never_lost.check();
    outage.etcd.restart();
    outage.ends().await;
}

/// Longer than all leases, and no key is left.
#[tokio::test]
async fn etcd_is_away_for_long_and_comes_back_empty() {
    let mut outage = Outage::begin().await;
    outage.etcd.kill();
    sleep(Duration::from_secs(5)).await;
    outage.never_lost.check();
    outage.etcd.restart_empty();
    outage.ends().await;
}

/// The leases run out while etcd stands still: when it goes on it deletes the keys before anybody can say a word.
#[tokio::test]
async fn etcd_stands_still_for_longer_than_a_lease() {
    let outage = Outage::begin().await;
    outage.etcd.pause();
    until_up(&outage.watcher, false).await;
    until_up(&outage.comet, false).await;
    sleep(Duration::from_secs(4)).await;
    outage.never_lost.check();
    outage.etcd.resume();
    outage.ends().await;
}

/// etcd is back and has the key, and only then finds that the lease is over: the comet is about to register again. The
/// watcher's lease is long, so that all of it happens well within its patience.
#[tokio::test]
async fn a_key_that_goes_just_after_etcd_came_back_is_waited_for() {
    let mut etcd = Etcd::start();
    let lease_ttl = ::config::BoundedDuration::secs::<60>();
    let watcher = registry(&EtcdConfig { lease_ttl, ..short_lease(&etcd) });
    let key = Layout::default().key(&comet(1)).unwrap();
    client(&etcd).await.put(key.as_str(), "127.0.0.1:1", None).await.unwrap();
    let never_lost = NeverLost::watch(&watcher, 1).await;
    etcd.kill();
    etcd.restart();
    until_true("it was listed anew", || async { watcher.metrics().lists.get() > 1 }).await;
    let mut raw = client(&etcd).await;
    raw.delete(key.as_str(), None).await.unwrap();
    until_true("it is missing", || async { watcher.metrics().missing.get() == 1 }).await;
    raw.put(key.as_str(), "127.0.0.1:1", None).await.unwrap();
    until_true("it is back", || async { watcher.metrics().missing.get() == 0 }).await;
    never_lost.check();
}

/// Nobody will register it again: after a moment it is gone.
#[tokio::test]
async fn a_node_that_died_while_etcd_was_away_is_forgotten() {
    let mut outage = Outage::begin().await;
    drop(outage.never_lost);
    outage.etcd.kill();
    until_up(&outage.watcher, false).await;
    outage.own.deregister().await;
    assert!(there(&outage.watcher.watch().borrow(), 1), "nobody has said that it is gone");
    outage.etcd.restart_empty();
    until_up(&outage.watcher, true).await;
    until(&outage.watcher, NodeSet::is_empty).await;
}

#[tokio::test]
async fn a_comet_that_starts_before_etcd_is_known_when_it_comes() {
    let mut etcd = Etcd::start();
    etcd.kill();
    let registry = registry(&short_lease(&etcd));
    let refused = registry.register(comet(1)).await.err();
    assert!(matches!(refused, Some(RegistryError::Unavailable(_))), "{refused:?}");
    assert!(!*registry.up().borrow());
    etcd.restart();
    until_up(&registry, true).await;
    let _own = registered(&registry, comet(1)).await;
    until(&registry, |nodes| there(nodes, 1)).await;
}

/// Two etcds that know nothing of each other stand for two members: what matters is who is asked.
#[tokio::test]
async fn the_next_member_is_asked_when_one_is_away() {
    let (mut first, second) = (Etcd::start(), Etcd::start());
    let nodes = [first.addr(), second.addr()].into_iter().collect();
    let config = EtcdConfig { nodes, ..short_lease(&first) };
    let registry = registry(&config);
    let _own = registered(&registry, comet(1)).await;
    let never_lost = NeverLost::watch(&registry, 1).await;
    let key = config.layout.key(&comet(1)).unwrap();
    assert!(value(&mut client(&first).await, &key).await.is_some());
    first.kill();
    let raw = client(&second).await;
    until_true("the key is on the second", || {
        let (mut raw, key) = (raw.clone(), &key);
        async move { value(&mut raw, key).await.is_some() }
    })
    .await;
    let _other = registered(&registry, comet(2)).await;
    until(&registry, |nodes| there(nodes, 2)).await;
    never_lost.check();
}

#[tokio::test]
async fn a_compacted_history_is_listed_anew() {
    let etcd = Etcd::start();
    let mut raw = client(&etcd).await;
    let mut revision = 0;
    for _ in 0..10 {
        let put = raw.put("/elsewhere", "x", None).await.unwrap();
        revision = put.header().unwrap().revision();
    }
    raw.compact(revision, None).await.unwrap();

    // A watch from what is not kept any more ends, and a list follows.
    let config = short_lease(&etcd);
    let metrics = RegistryMetrics::default();
    let mut watcher = Watcher {
        members: Members::new(&config.clone().into(), metrics.clone()).unwrap(),
        view: View::new(Layout::default(), vec![scope(Service::Comet, None)]),
        prefixes: ["/goim.comet/prod/sh/".to_owned()].into(),
        nodes: watch::channel(Arc::default()).0,
        contact: Arc::new(Contact::new(metrics.clone())),
        metrics: metrics.clone(),
        lease_ttl: config.lease_ttl.get(),
        listed: watch::Sender::new(false),
        grace_until: Instant::now(),
    };
    let mut backoff = connect::backoff();
    let followed = timeout(SOON, watcher.follow(&mut raw.clone(), 1, &mut backoff)).await.expect("in time");
    assert!(matches!(&followed, Err(Trouble::Away(why)) if why.contains("compacted")), "{followed:?}");

    // And then everything is there.
    let registry = registry(&config);
    let _one = registered(&registry, comet(1)).await;
    until(&registry, |nodes| there(nodes, 1)).await;
    let now = raw.get("/", None).await.unwrap().header().unwrap().revision();
    raw.compact(now, None).await.unwrap();
    let _two = registered(&registry, comet(2)).await;
    until(&registry, |nodes| there(nodes, 1) && there(nodes, 2)).await;
}

#[tokio::test]
async fn the_nodes_are_known_once_etcd_has_answered() {
    let etcd = Etcd::start();
    let config = short_lease(&etcd);
    let comet_side = registry(&config);
    let _own = registered(&comet_side, comet(1)).await;
    etcd.pause();
    let late = registry(&config);
    assert!(timeout(Duration::from_secs(1), late.known()).await.is_err());
    etcd.resume();
    timeout(SOON, late.known()).await.expect("etcd answers again");
    // Whether or not the comet's lease has run out meanwhile, it is back.
    until(&late, |nodes| there(nodes, 1)).await;
}
