//! Over TLS, with a certificate on both sides and a user.

use etcd_client::ConnectOptions;
use host::tls::TlsClientConfig;
use services::{Authority, TlsFiles};
use tokio::sync::Mutex as AsyncMutex;

use super::{
    access::{halley, lock_by},
    *,
};
use crate::etcd::config::DiscoveryConfig;

/// An etcd that lets nobody in but the user `halley` with a certificate.
struct Locked {
    authority: Authority,
    etcd: Etcd,
}

impl Locked {
    async fn start() -> Locked {
        let authority = Authority::new();
        let etcd = Etcd::start_with_tls(&authority);
        let own = DiscoveryConfig { etcd: short_lease(&etcd), tls: certified(&authority) };
        let options =
            ConnectOptions::new().with_tls(own.tls().expect("its files are right").expect("TLS is on"));
        let raw = Client::connect([format!("https://{}", etcd.addr())], Some(options)).await;
        lock_by(raw.expect("no request yet"), PASSWORD).await;
        Locked { authority, etcd }
    }

    fn config(&self) -> DiscoveryConfig {
        DiscoveryConfig { etcd: halley(&self.etcd, PASSWORD), tls: certified(&self.authority) }
    }
}

const PASSWORD: &str = "sesame-opens";
const WRONG: &str = "wrong-word";

/// A certificate of this authority.
fn certified(authority: &Authority) -> TlsClientConfig {
    let TlsFiles { ca, cert, key, .. } = authority.sign("client");
    TlsClientConfig { tls: true, ca, cert, key }
}

/// Why a node is not registered. No secret is in it.
async fn expect_refusal(config: &DiscoveryConfig, words: &[&str]) {
    let registry = registry_by(config);
    let mut said = String::new();
    let refused = async {
        while !words.iter().all(|words| said.contains(words)) {
            said = registry.register(comet(1)).await.err().expect("it was let in").to_string();
        }
    };
    let in_time = timeout(SOON, refused).await.is_ok();
    assert!(in_time && !said.contains(PASSWORD) && !said.contains(WRONG), "{words:?}: {said}");
}

#[tokio::test]
async fn a_user_with_a_certificate_is_registered_and_again_after_a_crash() {
    let mut locked = Locked::start().await;
    let by_scheme = {
        let mut config = locked.config();
        config.etcd.nodes = [format!("https://{}", locked.etcd.addr())].into_iter().collect();
        config.tls.tls = false;
        config
    };
    let (one, two) = (registry_by(&locked.config()), registry_by(&by_scheme));
    let _own = registered(&one, comet(1)).await;
    until(&two, |nodes| there(nodes, 1)).await;
    locked.etcd.kill();
    until_up(&one, false).await;
    locked.etcd.restart();
    until_up(&one, true).await;
    let _other = registered(&two, comet(2)).await;
    until(&one, |nodes| there(nodes, 1) && there(nodes, 2)).await;
}

#[tokio::test]
async fn who_is_not_trusted_is_told_with_the_key_to_look_at() {
    let (locked, other) = (Locked::start().await, Authority::new());
    let mut another_authority = locked.config();
    another_authority.tls.ca = other.ca();
    expect_refusal(&another_authority, &["invalid peer certificate: UnknownIssuer", "discovery.ca"]).await;
    let mut no_certificate = locked.config();
    (no_certificate.tls.cert, no_certificate.tls.key) = <_>::default();
    expect_refusal(&no_certificate, &["discovery.cert"]).await;
    let another_s = DiscoveryConfig {
        tls: TlsClientConfig { ca: locked.authority.ca(), ..certified(&other) },
        ..locked.config()
    };
    expect_refusal(&another_s, &["discovery.cert"]).await;
    let mut wrong_password = locked.config();
    wrong_password.etcd.password = WRONG.into();
    expect_refusal(&wrong_password, &["password"]).await;
}

#[tokio::test]
async fn one_side_alone_with_tls_is_told_as_such() {
    let locked = Locked::start().await;
    let without = DiscoveryConfig { tls: TlsClientConfig::default(), ..locked.config() };
    expect_refusal(&without, &["an etcd that speaks TLS only", "discovery.tls"]).await;
    let plain = shared();
    let with_tls = DiscoveryConfig { etcd: short_lease(&plain), tls: certified(&locked.authority) };
    expect_refusal(&with_tls, &["an etcd without TLS", "discovery.tls"]).await;
}

mod conformance {
    use super::*;

    /// One etcd for the tests that run now. It ends with the last of them.
    async fn locked() -> Arc<Locked> {
        static SHARED: AsyncMutex<Weak<Locked>> = AsyncMutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(locked) = shared.upgrade() {
            return locked;
        }
        let locked = Arc::new(Locked::start().await);
        *shared = Arc::downgrade(&locked);
        locked
    }

    /// A registry, which lives as long as the etcd.
    struct Held {
        registry: EtcdRegistry,
        _locked: Arc<Locked>,
    }

    #[async_trait]
    impl Registry for Held {
        async fn register(&self, node: Node) -> Result<Box<dyn Registration>, RegistryError> {
            self.registry.register(node).await
        }

        fn watch(&self) -> watch::Receiver<Arc<NodeSet>> {
            self.registry.watch()
        }
    }

    crate::registry_conformance!(async {
        let locked = locked().await;
        let mut config = locked.config();
        // Of keys that the user may write, and no other test.
        let number = own_layout().to_string().split('/').nth(1).unwrap().to_owned();
        config.etcd.layout =
            format!("/{{appid}}/{number}/{{env}}/{{region}}/{{zone}}/{{server}}").parse().unwrap();
        let client = || Held { registry: registry_by(&config), _locked: locked.clone() };
        (client(), client())
    });
}
