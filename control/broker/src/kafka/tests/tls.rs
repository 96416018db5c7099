//! Over TLS, with a login or a certificate.

use host::tls::TlsClientConfig;
use services::{Authority, Login, TlsFiles};

use super::*;

const LOGIN: Login = Login { user: "halley", password: "sesame-opens" };
const WRONG: &str = "wrong-word";

/// A Kafka of its own.
struct Locked {
    authority: Authority,
    kafka: Kafka,
}

impl Locked {
    async fn start() -> Arc<Locked> {
        static SHARED: Mutex<Weak<Locked>> = Mutex::new(Weak::new());
        let start = || {
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            shared.upgrade().unwrap_or_else(|| {
                let authority = Authority::new();
                let kafka = Kafka::start_with_tls(&authority, LOGIN);
                let locked = Arc::new(Locked { authority, kafka });
                *shared = Arc::downgrade(&locked);
                locked
            })
        };
        tokio::task::spawn_blocking(start).await.expect("it starts")
    }

    /// For the door at which clients log in.
    fn login(&self, sasl: Sasl) -> KafkaJobConfig {
        let mut config = config(&self.kafka);
        config.servers.sasl = sasl;
        config.servers.user = LOGIN.user.to_owned();
        config.servers.password = LOGIN.password.into();
        config.tls.tls = true;
        config.tls.ca = self.authority.ca();
        config
    }

    /// For the door at which clients have a certificate.
    fn certified(&self, of: &Authority) -> KafkaJobConfig {
        let TlsFiles { cert, key, .. } = of.sign("client");
        let mut config = config(&self.kafka);
        config.servers.brokers = [self.kafka.certified_addr()].into_iter().collect();
        config.tls = TlsClientConfig { tls: true, ca: self.authority.ca(), cert, key };
        config
    }
}

#[tokio::test]
async fn every_way_to_log_in_lets_pushes_through() {
    let locked = Locked::start().await;
    let ways = [
        locked.login(Sasl::Plain),
        locked.login(Sasl::ScramSha256),
        locked.login(Sasl::ScramSha512),
        locked.certified(&locked.authority),
    ];
    for config in ways {
        let broker = broker(&config).await;
        broker.publish(vec![outage::push("hello")]).await.expect("it is taken");
        let mut consumer = broker.consume(&config.queue.group).await.expect("a member");
        assert_eq!(take(&mut *consumer, 1).await.len(), 1);
        drop(consumer);
        broker.close().await;
    }
}

/// Waits until it is known why the brokers are not reached, in these words. No secret is in it.
async fn expect_refusal(what: &str, config: KafkaJobConfig, words: &str) {
    let broker = KafkaBroker::start_job(&config, BrokerMetrics::default()).await.expect("a client");
    let mut said = String::new();
    let refused = async {
        while !said.contains(words) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            said = broker.shared.voice.why().unwrap_or_default();
        }
    };
    let in_time = timeout(Duration::from_secs(5), refused).await.is_ok();
    assert!(in_time && !said.contains(LOGIN.password) && !said.contains(WRONG), "{what}: {words}: {said}");
    assert!(!*broker.ready().borrow(), "{what}");
}

#[tokio::test]
async fn who_is_not_let_in_is_told_with_the_keys_to_look_at() {
    let (locked, other) = (Locked::start().await, Authority::new());
    let with = |mut config: KafkaJobConfig, change: &dyn Fn(&mut KafkaJobConfig)| {
        change(&mut config);
        config
    };
    let wrong = |config: &mut KafkaJobConfig| config.servers.password = WRONG.into();
    let no_certificate = |config: &mut KafkaJobConfig| (config.tls.cert, config.tls.key) = <_>::default();
    let no_tls = |config: &mut KafkaJobConfig| config.tls = TlsClientConfig::default();
    let (tls, login, either) =
        ("kafka.tls, kafka.ca", "kafka.sasl, kafka.user and kafka.password", "kafka.tls and kafka.sasl");
    let (plain, scram) = (locked.login(Sasl::Plain), locked.login(Sasl::ScramSha512));
    let certified = locked.certified(&locked.authority);
    let rows = [
        ("another authority", with(plain.clone(), &|config| config.tls.ca = other.ca()), tls),
        ("a wrong password", with(plain.clone(), &wrong), login),
        ("a wrong password by SCRAM", with(scram, &wrong), login),
        ("another's certificate", locked.certified(&other), tls),
        ("no certificate", with(certified.clone(), &no_certificate), tls),
        ("no login", with(plain.clone(), &|config| config.servers.sasl = Sasl::Off), either),
        ("no TLS", with(plain, &no_tls), either),
        ("no TLS and no login", with(certified, &no_tls), either),
    ];
    let refused = rows.into_iter().map(|(what, config, words)| expect_refusal(what, config, words));
    futures_util::future::join_all(refused).await;
}

#[tokio::test]
async fn brokers_without_tls_are_told_as_such() {
    let (bench, authority) = (bench().await, Authority::new());
    let mut config = config(&bench.kafka);
    (config.tls.tls, config.tls.ca) = (true, authority.ca());
    expect_refusal("TLS", config, "kafka.tls").await;
}
