mod tls;

use host::tls::TlsClientConfig;
use services::{Redis as Server, Sentinel};
use tokio::time::sleep;

use super::*;
use crate::metrics::RedisFailure;

/// Longest wait for anything that takes a moment.
const PATIENCE: Duration = Duration::from_secs(30);

fn config(server: &Server) -> RedisConfig {
    RedisConfig::at(server.addr().parse().unwrap())
}

async fn until(redis: &Redis, ready: bool) {
    let mut watched = redis.ready();
    timeout(PATIENCE, watched.wait_for(|now| *now == ready)).await.expect("in time").unwrap();
}

async fn set(redis: &Redis, value: &str) -> Result<(), RedisError> {
    redis.command(redis::cmd("SET").arg("k").arg(value)).await
}

async fn get(redis: &Redis) -> Result<Option<String>, RedisError> {
    redis.command(redis::cmd("GET").arg("k")).await
}

/// Carries out a command at a server as an operator would.
async fn at(server: &Server, command: &[&str]) {
    let client = redis::Client::open(format!("redis://{}", server.addr())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut cmd = redis::cmd(command[0]);
    command[1..].iter().for_each(|argument| _ = cmd.arg(*argument));
    cmd.exec_async(&mut connection).await.unwrap();
}

#[tokio::test]
async fn a_server_that_comes_later_is_found_and_found_again() {
    let mut server = Server::start();
    let config = config(&server);
    server.kill();
    let redis = Redis::connect(&config).unwrap();
    let started = Instant::now();
    assert!(matches!(get(&redis).await, Err(RedisError::Away(_))));
    assert!(started.elapsed() < Duration::from_secs(1), "a command without a connection fails at once");
    for round in ["1", "2"] {
        server.restart();
        until(&redis, true).await;
        assert_eq!(get(&redis).await, Ok(None), "it is empty");
        set(&redis, round).await.unwrap();
        assert_eq!(get(&redis).await.unwrap().as_deref(), Some(round));
        server.kill();
        until(&redis, false).await;
        assert!(matches!(get(&redis).await, Err(RedisError::Away(_))));
    }
}

#[tokio::test]
async fn a_silent_server_costs_a_command_its_deadline() {
    let server = Server::start();
    let redis = Redis::connect(&config(&server)).unwrap();
    until(&redis, true).await;
    server.pause();
    let started = Instant::now();
    let silent = get(&redis).await;
    assert!(matches!(silent, Err(RedisError::Unknown(_))), "it may have been carried out: {silent:?}");
    assert!(started.elapsed() < Duration::from_secs(10), "it took {:?}", started.elapsed());
    until(&redis, false).await;
    let away = get(&redis).await;
    assert!(matches!(away, Err(RedisError::Away(_))), "nothing was sent: {away:?}");
    let failures = &redis.metrics().failures;
    assert!(failures.of(RedisFailure::Unknown).get() >= 1 && failures.of(RedisFailure::Refused).get() == 0);
    server.resume();
    until(&redis, true).await;
    assert_eq!(get(&redis).await, Ok(None));
}

/// Commands that were given up lie in the buffers of a server that stood still. It carried out some of them behind what came
/// over the next connection: of two pushes the older one, refused as its sender was told, was delivered last.
#[tokio::test]
async fn what_was_given_up_is_never_carried_out_behind_what_is_newer() {
    /// More than a server reads at once, and less than a socket takes.
    const ENTRIES: usize = 60;
    let server = Server::start();
    let redis = Redis::connect(&config(&server)).unwrap();
    let push = async |entry: String| redis.command::<()>(redis::cmd("RPUSH").arg("list").arg(entry)).await;
    // The second and third time it is the connection after the first.
    for round in 0..3 {
        until(&redis, true).await;
        server.pause();
        let old = futures_util::future::join_all((0..ENTRIES).map(|n| {
            // Long, so that the server has much to read.
            push(format!("old {round} {n} {}", "x".repeat(16 << 10)))
        }));
        assert!(old.await.iter().all(Result::is_err), "nobody answers");
        until(&redis, false).await;
        server.resume();
        until(&redis, true).await;
        push(format!("new {round}")).await.expect("it answers again");
        // Time for whatever might still be read.
        sleep(Duration::from_millis(300)).await;
        let entries: Vec<String> =
            redis.command(redis::cmd("LRANGE").arg("list").arg(0).arg(-1)).await.expect("a list");
        let last = entries.last().expect("the new one");
        assert_eq!(*last, format!("new {round}"), "an older one came behind it");
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_as_such_and_works_once_repaired() {
    let server = Server::start_with(&["requirepass other"]);
    let addr = server.addr().parse().unwrap();
    let wrong = RedisServerConfig { addr, auth: "sesame".into(), ..RedisServerConfig::default() };
    let redis = Redis::connect(&wrong.into()).unwrap();
    let refused = async {
        while !matches!(get(&redis).await, Err(RedisError::Refused(_))) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, refused).await.expect("in time");
    let error = get(&redis).await.unwrap_err().to_string();
    assert!(error.contains("redis.auth") && !error.contains("sesame"), "{error}");
    let operator = redis::Client::open(format!("redis://:other@{}", server.addr())).unwrap();
    let mut operator = operator.get_multiplexed_async_connection().await.unwrap();
    let repair = redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("sesame").to_owned();
    repair.exec_async(&mut operator).await.unwrap();
    until(&redis, true).await;
    set(&redis, "v").await.unwrap();
}

#[tokio::test]
async fn a_replica_is_refused_until_it_is_a_master() {
    let (master, replica) = (Server::start(), Server::start());
    let (host, port) = master.addr().rsplit_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap();
    let redis = Redis::connect(&config(&replica)).unwrap();
    until(&redis, true).await;
    at(&replica, &["REPLICAOF", &host, &port]).await;
    assert!(matches!(set(&redis, "v").await, Err(RedisError::ReadOnly(_) | RedisError::Unknown(_))));
    until(&redis, false).await;
    let read_only = async {
        while !matches!(get(&redis).await, Err(RedisError::ReadOnly(_))) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, read_only).await.expect("in time");
    at(&replica, &["REPLICAOF", "NO", "ONE"]).await;
    until(&redis, true).await;
    set(&redis, "v").await.unwrap();
}

#[tokio::test]
async fn a_failover_by_sentinel_is_followed() {
    let (mut master, replica) = (Server::start(), Server::start());
    let (host, port) = master.addr().rsplit_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap();
    at(&replica, &["REPLICAOF", &host, &port]).await;
    let sentinel = Sentinel::start(&master.addr());
    let by_sentinel = RedisServerConfig {
        // Nobody listens there: only Sentinel knows.
        addr: "127.0.0.1:1".parse().unwrap(),
        sentinels: vec!["127.0.0.1:1".parse().unwrap(), sentinel.addr().parse().unwrap()].into(),
        ..RedisServerConfig::default()
    };
    let redis = Redis::connect(&by_sentinel.into()).unwrap();
    until(&redis, true).await;
    set(&redis, "before").await.unwrap();
    // Sentinel learns of the replica from the master, every ten seconds.
    let known = async {
        let client = redis::Client::open(format!("redis://{}", sentinel.addr())).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let replicas = redis::cmd("SENTINEL").arg("replicas").arg("mymaster").to_owned();
        while replicas.query_async::<Vec<redis::Value>>(&mut connection).await.unwrap().is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, known).await.expect("in time");
    master.kill();
    let started = Instant::now();
    let written = async {
        while set(&redis, "after").await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, written).await.expect("in time");
    println!("writes resumed {:?} after the master was killed", started.elapsed());
    let client = redis::Client::open(format!("redis://{}", replica.addr())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let stored: String = redis::cmd("GET").arg("k").query_async(&mut connection).await.unwrap();
    assert_eq!(stored, "after", "the replica is the master now");
}

#[tokio::test]
async fn one_bad_key_disturbs_no_other() {
    let server = Server::start();
    let redis = Redis::connect(&config(&server)).unwrap();
    until(&redis, true).await;
    set(&redis, "text").await.unwrap();
    let wrong = redis.command::<u64>(redis::cmd("HLEN").arg("k")).await;
    assert!(matches!(wrong, Err(RedisError::WrongType(_))), "{wrong:?}");
    let script = redis::Script::new("return redis.call('HLEN', KEYS[1])");
    let wrong = redis.script::<u64>(&script.key("k")).await;
    assert!(matches!(wrong, Err(RedisError::WrongType(_))), "{wrong:?}");
    let mut pipe = redis::pipe();
    pipe.cmd("GET").arg("k").cmd("HLEN").arg("k");
    let wrong = redis.pipeline::<(String, u64)>(&pipe).await;
    assert!(matches!(wrong, Err(RedisError::WrongType(_))), "{wrong:?}");
    assert_eq!(get(&redis).await.unwrap().as_deref(), Some("text"));
    assert!(*redis.ready().borrow());
}

#[tokio::test]
async fn a_full_server_is_told_as_such() {
    let server = Server::start();
    let redis = Redis::connect(&config(&server)).unwrap();
    until(&redis, true).await;
    at(&server, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let full = set(&redis, "text").await;
    assert!(matches!(full, Err(RedisError::Full(_))), "{full:?}");
    at(&server, &["CONFIG", "SET", "maxmemory", "0"]).await;
    set(&redis, "text").await.unwrap();
}

#[tokio::test]
async fn a_dedicated_connection_may_wait_longer_than_any_command() {
    let server = Server::start();
    let redis = Redis::connect(&config(&server)).unwrap();
    until(&redis, true).await;
    let mut dedicated = redis.dedicated().await.unwrap();
    let blocking = redis::cmd("BLPOP").arg("list").arg(2.5).to_owned();
    let waited = blocking.query_async::<Option<(String, String)>>(&mut dedicated).await;
    assert_eq!(waited.unwrap(), None);
}

/// The user of a hosted Redis has no dangerous and no administrator's commands. Its log said that Redis does not let us in.
#[tokio::test]
async fn a_user_who_may_not_ask_for_the_role_is_let_in_and_can_do_all_else() {
    for (rules, forbidden) in [
        (&["-@dangerous", "-@admin"][..], &["ROLE", "INFO"][..]),
        (&["-role"], &["ROLE"]),
        (&["-info", "-client", "-config", "-keys", "-select"], &["INFO"]),
        (&["-select", "-client", "-keys", "-flushall"], &[]),
    ] {
        let server = Server::start();
        let base = ["ACL", "SETUSER", "default", "resetkeys", "~golang_im:*", "~goim-push-topic*"];
        at(&server, &[&base[..], rules].concat()).await;
        let redis = Redis::connect(&config(&server)).unwrap();
        until(&redis, true).await;
        assert_eq!(redis.0.dial.open().await.expect("a connection").1, forbidden, "{rules:?}");
        let set = redis::cmd("SET").arg("golang_im:k").arg("v").to_owned();
        redis.command::<()>(&set).await.unwrap();
        // Twice: the server does not know the script at first.
        let script = redis::Script::new("return redis.call('GET', KEYS[1])");
        for _ in 0..2 {
            assert_eq!(redis.script::<String>(&script.key("golang_im:k")).await.unwrap(), "v");
        }
        let info = redis.if_allowed::<String>(redis::cmd("INFO").arg("server")).await.unwrap();
        assert_eq!(info.is_none(), forbidden.contains(&"INFO"));
        // A key that is not ours is told as what it is.
        let error = redis.command::<()>(redis::cmd("GET").arg("other")).await.unwrap_err();
        assert!(matches!(error, RedisError::Forbidden(_)), "{error:?}");
        assert!(*redis.ready().borrow(), "and the connection stays");
    }
}
