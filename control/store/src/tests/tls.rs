//! Over TLS, with a user that is not the default one.

use services::{Authority, TlsFiles};

use super::*;

const PASSWORD: &str = "sesame-opens";
const WRONG: &str = "wrong-word";

/// A server that lets nobody in but `halley` with a certificate.
fn locked(authority: &Authority) -> Server {
    let user = format!("user halley on >{PASSWORD} ~* &* +@all");
    Server::start_with_tls(authority, &["user default off", &user])
}

/// The user, and a certificate of this authority.
fn halley(server: &Server, authority: &Authority) -> RedisConfig {
    let TlsFiles { ca, cert, key, .. } = authority.sign("client");
    let mut config = config(server);
    (config.server.user, config.server.auth) = ("halley".to_owned(), PASSWORD.into());
    config.tls = TlsClientConfig { tls: true, ca, cert, key };
    config
}

/// Waits until the reason for which commands fail has these words. No secret is in it.
async fn expect_refusal(config: &RedisConfig, words: &[&str]) {
    let redis = Redis::connect(config).expect("its files are right");
    let mut said = String::new();
    let refused = async {
        while !words.iter().all(|words| said.contains(words)) {
            sleep(Duration::from_millis(20)).await;
            said = get(&redis).await.expect_err("it was let in").to_string();
        }
    };
    let in_time = timeout(PATIENCE, refused).await.is_ok();
    assert!(in_time && !said.contains(PASSWORD) && !said.contains(WRONG), "{words:?}: {said}");
}

#[tokio::test]
async fn a_user_with_a_certificate_has_all_that_works_without_and_is_back_after_a_crash() {
    let authority = Authority::new();
    let mut server = locked(&authority);
    let redis = Redis::connect(&halley(&server, &authority)).unwrap();
    for round in ["1", "2"] {
        until(&redis, true).await;
        set(&redis, round).await.unwrap();
        assert_eq!(get(&redis).await.unwrap().as_deref(), Some(round));
        let script = redis::Script::new("return redis.call('GET', KEYS[1])");
        assert_eq!(redis.script::<String>(&script.key("k")).await.unwrap(), round);
        let mut pipe = redis::pipe();
        pipe.cmd("GET").arg("k").cmd("PING");
        let (value, _) = redis.pipeline::<(String, String)>(&pipe).await.unwrap();
        assert_eq!(value, round);
        // Longer than a record of TLS.
        let long = "x".repeat(1 << 20);
        set(&redis, &long).await.unwrap();
        assert_eq!(get(&redis).await.unwrap().map(|value| value.len()), Some(long.len()));
        let mut dedicated = redis.dedicated().await.unwrap();
        let blocking = redis::cmd("BLPOP").arg("list").arg(0.7).to_owned();
        let waited = blocking.query_async::<Option<(String, String)>>(&mut dedicated).await;
        assert_eq!(waited.unwrap(), None);
        server.kill();
        until(&redis, false).await;
        server.restart();
    }
}

/// The connection of a consumer that goes away must not take an entry that comes later.
#[tokio::test]
async fn a_dedicated_connection_that_waits_ends_when_it_is_dropped() {
    let authority = Authority::new();
    let (certified, plain) = (locked(&authority), Server::start());
    for config in [halley(&certified, &authority), config(&plain)] {
        let redis = Redis::connect(&config).unwrap();
        until(&redis, true).await;
        let mut dedicated = redis.dedicated().await.unwrap();
        let waits = async |count: usize| {
            let clients = redis::cmd("INFO").arg("clients").to_owned();
            let counted = async {
                let line = format!("blocked_clients:{count}\r");
                while !redis.command::<String>(&clients).await.unwrap().contains(&line) {
                    sleep(Duration::from_millis(20)).await;
                }
            };
            timeout(PATIENCE, counted).await.expect("in time");
        };
        let waiting = tokio::spawn(async move {
            let blocking = redis::cmd("BLPOP").arg("list").arg(600).to_owned();
            blocking.query_async::<(String, String)>(&mut dedicated).await
        });
        waits(1).await;
        waiting.abort();
        waits(0).await;
        let push = redis::cmd("RPUSH").arg("list").arg("entry").to_owned();
        redis.command::<()>(&push).await.unwrap();
        let len = redis.command::<usize>(redis::cmd("LLEN").arg("list")).await.unwrap();
        assert_eq!(len, 1, "nobody took it");
    }
}

#[tokio::test]
async fn who_is_not_trusted_is_told_with_the_key_to_look_at() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = locked(&authority);
    let with = |change: fn(&mut RedisConfig, TlsFiles)| {
        let mut config = halley(&server, &authority);
        change(&mut config, other.sign("client"));
        config
    };
    let another_authority = with(|config, other| config.tls.ca = other.ca);
    expect_refusal(&another_authority, &["invalid peer certificate: UnknownIssuer", "redis.ca"]).await;
    let no_certificate = with(|config, _| (config.tls.cert, config.tls.key) = <_>::default());
    expect_refusal(&no_certificate, &["CertificateRequired", "redis.cert"]).await;
    let another_s = with(|config, other| (config.tls.cert, config.tls.key) = (other.cert, other.key));
    expect_refusal(&another_s, &["received fatal alert", "redis.cert"]).await;
    let wrong_password = with(|config, _| config.server.auth = WRONG.into());
    expect_refusal(&wrong_password, &["redis.user and redis.auth"]).await;
    let another_user = with(|config, _| config.server.user = "nobody".to_owned());
    expect_refusal(&another_user, &["redis.user and redis.auth"]).await;
}

#[tokio::test]
async fn one_side_alone_with_tls_is_told_as_such() {
    let authority = Authority::new();
    let (certified, plain) = (locked(&authority), Server::start());
    expect_refusal(&config(&certified), &["a server that speaks TLS only", "redis.tls"]).await;
    let with_tls = halley(&plain, &authority);
    expect_refusal(&with_tls, &["a server without TLS", "redis.tls"]).await;
}

#[tokio::test]
async fn sentinels_are_asked_over_tls_with_a_login_of_their_own() {
    let authority = Authority::new();
    let master = locked(&authority);
    let lines = [
        "sentinel auth-user mymaster halley".to_owned(),
        format!("sentinel auth-pass mymaster {PASSWORD}"),
        "requirepass sesame-of-sentinels".to_owned(),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let sentinel = Sentinel::start_with_tls(&authority, &master.addr(), &lines);
    let mut config = halley(&master, &authority);
    // Nobody listens there: only Sentinel knows.
    config.server.addr = "127.0.0.1:1".parse().unwrap();
    config.server.sentinels = vec![sentinel.addr().parse().unwrap()].into();
    config.server.sentinel_auth = WRONG.into();
    expect_refusal(&config, &[&sentinel.addr(), "redis.sentinelUser and redis.sentinelAuth"]).await;
    config.server.sentinel_auth = "sesame-of-sentinels".into();
    let redis = Redis::connect(&config).unwrap();
    until(&redis, true).await;
    set(&redis, "v").await.unwrap();
}
