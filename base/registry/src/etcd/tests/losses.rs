//! Comets lose their keys and leases in every way there is, while their clients come and go, and have them again at once.
//!
//! `ROUNDS=20 cargo test -p halley-registry --features etcd --lib losses -- --nocapture` is the long form. It tells how long
//! the keys were away after etcd was back.

use std::sync::atomic::{AtomicBool, AtomicU64};

use contract::ClientCount;
use futures_util::future::join_all;
use services::Link;
use testkit::rounds::rounds;
use tokio::task::JoinHandle;

use super::*;
use crate::NodeState;

/// Comets side by side.
const COMETS: u16 = 4;

/// How long a key may be away after etcd is back: a second is the promise, a busy machine gets more.
const AGAIN: Duration = Duration::from_secs(6);

/// A key that is there for so long stays: a lease of two seconds that has ended has taken it along by then.
const SETTLED: Duration = Duration::from_millis(2700);

/// Longer than a lease, and than etcd takes to notice.
const OUTAGE: Duration = Duration::from_millis(3000);

fn state(connections: u64) -> NodeState {
    NodeState { clients: ClientCount { connections, addresses: 1 }, offline: false }
}

/// The shortest lease there is.
fn shortest_lease(addr: String, layout: Layout) -> EtcdConfig {
    EtcdConfig {
        nodes: [addr].into_iter().collect(),
        layout,
        lease_ttl: ::config::BoundedDuration::secs::<2>(),
        dial_timeout: ::config::BoundedDuration::millis::<600>(),
        ..EtcdConfig::default()
    }
}

/// A comet whose clients come and go several times a second.
struct Busy {
    registry: EtcdRegistry,
    own: Arc<dyn Registration>,
    key: String,
    standing: watch::Receiver<Standing>,
    /// How many clients it has.
    count: Arc<AtomicU64>,
    is_busy: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Busy {
    async fn start(config: &EtcdConfig, port: u16) -> Self {
        let busy = Self::start_idle(config, port).await;
        busy.is_busy.store(true, Relaxed);
        busy
    }

    /// Its clients come and go when it is told.
    async fn start_idle(config: &EtcdConfig, port: u16) -> Self {
        let registry = registry(config);
        let own: Arc<dyn Registration> = registered(&registry, comet(port)).await.into();
        let (count, is_busy) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let key = config.layout.key(&comet(port)).unwrap();
        let standing = own.standing();
        let (updated, counted, goes_on) = (own.clone(), count.clone(), is_busy.clone());
        let task = tokio::spawn(async move {
            for step in 0.. {
                sleep(Duration::from_millis(130 + u64::from(port))).await;
                if goes_on.load(Relaxed) {
                    counted.store(step % 7, Relaxed);
                    updated.update(state(step % 7));
                }
            }
        });
        Self { registry, own, key, standing, count, is_busy, task }
    }

    fn count(&self, count: u64) {
        self.count.store(count, Relaxed);
        self.own.update(state(count));
    }

    async fn is_there(&self, raw: &mut Client) -> bool {
        let got = timeout(Duration::from_secs(1), raw.get(self.key.as_str(), None)).await;
        got.is_ok_and(|got| got.is_ok_and(|got| !got.kvs().is_empty()))
            && *self.standing.borrow() == Standing::Registered
    }

    /// How long it was away since then, for good; then the counts are the true ones again, and etcd is said to be up.
    async fn again(&self, mut raw: Client, since: Instant) -> Duration {
        let mut away = since;
        while away.elapsed() < SETTLED {
            if !self.is_there(&mut raw).await {
                away = Instant::now();
            }
            assert!(away - since < AGAIN, "{} is away for {AGAIN:?}: {:?}", self.key, self.standing);
            sleep(Duration::from_millis(10)).await;
        }
        until_up(&self.registry, true).await;
        let was_busy = self.is_busy.swap(false, Relaxed);
        sleep(Duration::from_millis(200)).await;
        let counted = format!("\"conn_count\":{},", self.count.load(Relaxed));
        until_true("the counts are the true ones", || {
            let (mut raw, counted) = (raw.clone(), &counted);
            let meta = format!("/halley.meta{}", self.key);
            async move { value(&mut raw, &meta).await.is_some_and(|meta| meta.contains(counted)) }
        })
        .await;
        self.is_busy.store(was_busy, Relaxed);
        away - since
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Tells the figures.
fn tell(what: &str, mut away: Vec<Duration>) {
    away.sort();
    let (median, max) = (away[away.len() / 2], away[away.len() - 1]);
    eprintln!("{what}: {} losses, registered again after {median:?} (median), {max:?} (longest)", away.len());
}

/// An etcd, a link to it and comets behind that.
struct Site {
    etcd: Etcd,
    link: Link,
    comets: Vec<Busy>,
    away: Vec<Duration>,
}

impl Site {
    async fn begin() -> Self {
        let etcd = Etcd::start();
        let link = Link::to(&etcd.addr());
        let config = shortest_lease(link.addr(), Layout::default());
        let comets = join_all((1..=COMETS).map(|port| Busy::start(&config, port))).await;
        Self { etcd, link, comets, away: Vec::new() }
    }

    /// etcd is away for longer than the leases live. Nobody believes to be registered then.
    async fn outage(&self) {
        sleep(OUTAGE).await;
        for comet in &self.comets {
            let standing = *comet.standing.borrow();
            assert!(matches!(standing, Standing::Lost(_)), "{standing:?}");
            assert!(!*comet.registry.up().borrow());
        }
    }

    /// etcd is back: so are the comets.
    async fn ends(&mut self) {
        let (since, raw) = (Instant::now(), client(&self.etcd).await);
        let again = join_all(self.comets.iter().map(|comet| comet.again(raw.clone(), since)));
        self.away.extend(again.await);
    }
}

/// At every point of the second between two updates of the counts, some to be written and some not. The lease is long:
/// only who watches notices.
#[tokio::test]
async fn a_lease_is_revoked_around_a_login_or_an_end() {
    let etcd = shared();
    let raw = client(&etcd).await;
    let one = async |step: u64, is_login: bool| {
        let (mut raw, mut away) = (raw.clone(), Vec::new());
        let config = EtcdConfig { layout: own_layout(), ..config(&etcd) };
        let comet = Busy::start_idle(&config, 1).await;
        for round in 0..rounds() as u64 {
            let count = 10 + 2 * round;
            comet.count(count);
            sleep(Duration::from_millis(1500)).await;
            comet.count(if is_login { count + 1 } else { count - 1 });
            sleep(Duration::from_millis(step * 100)).await;
            let lease = raw.get(comet.key.as_str(), None).await.unwrap().kvs()[0].lease();
            raw.lease_revoke(lease).await.unwrap();
            away.push(comet.again(raw.clone(), Instant::now()).await);
        }
        away
    };
    let all = (0..=12).flat_map(|step| [one(step, true), one(step, false)]);
    tell("lease revoked", join_all(all).await.concat());
}

#[tokio::test]
async fn etcd_is_stalled_for_longer_than_the_leases() {
    let mut site = Site::begin().await;
    for _ in 0..rounds() {
        site.etcd.pause();
        site.outage().await;
        site.etcd.resume();
        site.ends().await;
    }
    tell("etcd stalled", site.away.split_off(0));
}

#[tokio::test]
async fn the_link_is_silent_for_longer_than_the_leases() {
    let mut site = Site::begin().await;
    for _ in 0..rounds() {
        site.link.silence();
        site.outage().await;
        site.link.restore();
        site.ends().await;
    }
    tell("link silent", site.away.split_off(0));
}

#[tokio::test]
async fn the_link_is_cut_for_longer_than_the_leases() {
    let mut site = Site::begin().await;
    for _ in 0..rounds() {
        site.link.cut();
        site.outage().await;
        site.link.restore();
        site.ends().await;
    }
    tell("link cut", site.away.split_off(0));
}

/// At once, without the time in which a lease could run out.
#[tokio::test]
async fn etcd_is_wiped() {
    let mut site = Site::begin().await;
    for _ in 0..rounds() {
        site.etcd.restart_empty();
        site.ends().await;
    }
    tell("etcd wiped", site.away.split_off(0));
}

#[tokio::test]
async fn etcd_is_killed_and_starts_again() {
    let mut site = Site::begin().await;
    for round in 0..rounds() {
        site.etcd.kill();
        if round % 2 == 0 {
            site.outage().await;
        }
        site.etcd.restart();
        site.ends().await;
    }
    tell("etcd killed", site.away.split_off(0));
}

/// The key, what stands beside it, or both. The leases are long: only who watches notices.
#[tokio::test]
async fn keys_are_deleted() {
    let etcd = shared();
    let mut raw = client(&etcd).await;
    let config = EtcdConfig { layout: own_layout(), ..config(&etcd) };
    let comets = join_all((1..=COMETS).map(|port| Busy::start(&config, port))).await;
    let mut away = Vec::new();
    for round in 0..3 * rounds() {
        let before: Vec<u64> = comets.iter().map(|comet| comet.registry.metrics().lost.get()).collect();
        let since = Instant::now();
        for comet in &comets {
            let meta = format!("/halley.meta{}", comet.key);
            if round % 3 != 1 {
                raw.delete(comet.key.as_str(), None).await.unwrap();
            }
            if round % 3 != 0 {
                raw.delete(meta, None).await.unwrap();
            }
        }
        away.extend(join_all(comets.iter().map(|comet| comet.again(raw.clone(), since))).await);
        for (comet, before) in comets.iter().zip(before) {
            // It was not registered meanwhile, and has said so. What stands beside the key may go without that.
            assert_eq!(comet.registry.metrics().lost.get() - before, u64::from(round % 3 != 1));
        }
    }
    tell("key deleted", away);
}
