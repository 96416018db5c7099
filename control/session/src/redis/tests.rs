mod goim;
mod interleavings;

use std::collections::BTreeMap;

use services::Redis as Server;
use tokio::time::{sleep, timeout};

use super::{clock::COMPARE, *};
use crate::conformance;

/// Longest wait for anything that takes a moment.
const PATIENCE: Duration = Duration::from_secs(30);

/// goim's.
const TTL: Duration = Duration::from_secs(1800);

const COMET: &str = "127.0.0.1:3109";

/// A server with what an operator, or a Go logic, does there.
struct Setup {
    server: Server,
    redis: Redis,
    operator: ::redis::aio::MultiplexedConnection,
}

impl Setup {
    async fn new() -> Self {
        Self::at(Server::start()).await
    }

    async fn at(server: Server) -> Self {
        let redis = Redis::connect(&config(&server)).unwrap();
        let ready = redis.ready().wait_for(|ready| *ready).await.map(|_| ());
        ready.unwrap();
        let client = ::redis::Client::open(format!("redis://{}", server.addr())).unwrap();
        let operator = client.get_multiplexed_async_connection().await.unwrap();
        Setup { server, redis, operator }
    }

    async fn sessions(&self) -> RedisSessions {
        started(RedisSessions::new(self.redis.clone(), &config(&self.server))).await
    }

    async fn ask<T: ::redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut cmd = ::redis::cmd(command[0]);
        command[1..].iter().for_each(|argument| _ = cmd.arg(*argument));
        cmd.query_async(&mut self.operator.clone()).await.unwrap()
    }

    async fn run(&self, command: &[&str]) {
        self.ask::<::redis::Value>(command).await;
    }

    /// Everything that is stored, but for the incarnation: of a text the value, of a hash its fields.
    async fn dump(&self) -> BTreeMap<String, String> {
        let mut dump = BTreeMap::new();
        for key in self.ask::<Vec<String>>(&["KEYS", "*"]).await {
            if key == "golang_im:incarnation" {
                continue;
            }
            let value = match &self.ask::<String>(&["TYPE", &key]).await[..] {
                "hash" => format!("{:?}", self.ask::<BTreeMap<String, String>>(&["HGETALL", &key]).await),
                _ => self.ask(&["GET", &key]).await,
            };
            dump.insert(key, value);
        }
        dump
    }

    /// True when a key lives as long as a new one.
    async fn is_fresh(&self, key: &str) -> bool {
        (TTL.as_secs() as i64 - 60..=TTL.as_secs() as i64).contains(&self.ask(&["TTL", key]).await)
    }
}

/// When it knows the server's clock.
async fn started(sessions: RedisSessions) -> RedisSessions {
    let compared = async {
        while sessions.now_us() == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, compared).await.expect("in time");
    sessions
}

fn config(server: &Server) -> RedisConfig {
    RedisConfig::at(server.addr().parse().unwrap())
}

fn new(mid: i64, key: &str, server: &str, generation: i64) -> NewSession {
    let (key, server) = (Key::new(key), ServerId::new(server));
    NewSession { mid: Mid(mid), key, server, generation: Generation(generation) }
}

fn reference(mid: i64, key: &str, server: &str, generation: Option<i64>) -> SessionRef {
    let (key, server) = (Key::new(key), ServerId::new(server));
    SessionRef { mid: Mid(mid), key, server, generation: generation.map(Generation) }
}

fn dump<const N: usize>(rows: [(&str, &str); N]) -> BTreeMap<String, String> {
    rows.map(|(key, value)| (format!("golang_im:{key}"), value.to_owned())).into()
}

#[tokio::test]
async fn redis_conforms() {
    let setup = Setup::new().await;
    conformance::run(async || {
        let prefix = format!("{}:", uuid::Uuid::new_v4());
        // Seconds of slack, for a machine that has more to do.
        let ttl = Duration::from_secs(4);
        let sessions = started(RedisSessions::with_ttl(setup.redis.clone(), prefix, ttl)).await;
        conformance::Subject { sessions: Arc::new(sessions), ttl }
    })
    .await;
}

#[tokio::test]
async fn keys_values_and_lives_are_goims_to_the_byte() {
    let setup = Setup::new().await;
    let sessions = setup.sessions().await;
    sessions.put(new(123, "k1", COMET, 1_795_416_741_000_001)).await.unwrap();
    let login = dump([
        ("mid_123", r#"{"k1": "127.0.0.1:3109"}"#),
        ("key_k1", "127.0.0.1:3109"),
        ("gen_k1", "1795416741000001 123 127.0.0.1:3109"),
    ]);
    assert_eq!(setup.dump().await, login);
    for key in login.keys() {
        assert!(setup.is_fresh(key).await, "{key} after the login");
        setup.run(&["EXPIRE", key, "100"]).await;
    }
    let session = reference(123, "k1", COMET, Some(1_795_416_741_000_001));
    assert_eq!(sessions.renew(std::slice::from_ref(&session)).await, Ok(vec![Renewal::Current]));
    assert_eq!(setup.dump().await, login, "a renewal writes no other bytes");
    for key in login.keys() {
        assert!(setup.is_fresh(key).await, "{key} after the renewal");
    }
    assert_eq!(sessions.end(&session).await, Ok(true));
    assert_eq!(setup.dump().await, dump([]), "nothing is left");
    sessions.put(new(0, "", COMET, 1)).await.unwrap();
    sessions.put(new(-7, "k 1\n", COMET, 2)).await.unwrap();
    let odd = [
        ("mid_0", r#"{"": "127.0.0.1:3109"}"#),
        ("key_", COMET),
        ("gen_", "1 0 127.0.0.1:3109"),
        ("mid_-7", r#"{"k 1\n": "127.0.0.1:3109"}"#),
        ("key_k 1\n", COMET),
        ("gen_k 1\n", "2 -7 127.0.0.1:3109"),
    ];
    assert_eq!(setup.dump().await, dump(odd), "any key and any user");
}

#[tokio::test]
async fn the_prefix_of_the_original_goim_is_none() {
    let setup = Setup::new().await;
    let sessions = started(RedisSessions::with_ttl(setup.redis.clone(), String::new(), TTL)).await;
    sessions.put(new(1, "k1", COMET, 5)).await.unwrap();
    assert_eq!(setup.ask::<String>(&["GET", "key_k1"]).await, COMET);
    assert_eq!(setup.ask::<String>(&["HGET", "mid_1", "k1"]).await, COMET);
}

#[tokio::test]
async fn generations_beyond_what_lua_counts_are_compared_to_the_last_digit() {
    let setup = Setup::new().await;
    let sessions = setup.sessions().await;
    let (older, newer) = (i64::MAX - 1, i64::MAX);
    sessions.put(new(1, "k", "a:1", newer)).await.unwrap();
    let late = sessions.put(new(1, "k", "b:1", older)).await.unwrap();
    assert!(matches!(late, Put::Undecided { by } if by.generation == Generation(newer)));
    assert_eq!(sessions.end(&reference(1, "k", "a:1", Some(older))).await, Ok(false));
    assert_eq!(sessions.end(&reference(1, "k", "a:1", Some(newer))).await, Ok(true));
}

#[tokio::test]
async fn many_at_once_are_answered_in_order() {
    let setup = Setup::new().await;
    let sessions = setup.sessions().await;
    let all: Vec<SessionRef> =
        (0..CHUNK as i64 * 3 + 7).map(|n| reference(n, &format!("k{n}"), "a:1", Some(n + 1))).collect();
    let renewals = sessions.renew(&all).await.unwrap();
    assert_eq!(renewals, vec![Renewal::Current; all.len()]);
    let (keys, mids): (Vec<Key>, Vec<Mid>) =
        all.iter().rev().map(|session| (session.key.clone(), session.mid)).unzip();
    let found = sessions.sessions_of_keys(&keys).await.unwrap();
    assert!(found.iter().flatten().map(|found| &found.key).eq(&keys));
    assert!(sessions.servers_of_keys(&keys).await.unwrap().iter().all(Option::is_some));
    let found = sessions.sessions_of_mids(&mids).await.unwrap();
    assert!(found.iter().flatten().map(|found| found.mid).eq(mids.iter().map(|mid| Some(*mid))));
}

#[tokio::test]
async fn a_user_of_very_many_devices_is_found_whole() {
    let setup = Setup::new().await;
    let sessions = setup.sessions().await;
    let all: Vec<SessionRef> =
        (0..5_000).map(|n| reference(0, &format!("k{n}"), "a:1", Some(n + 1))).collect();
    sessions.renew(&all).await.unwrap();
    let mut found = sessions.sessions_of_mids(&[Mid(0)]).await.unwrap().remove(0);
    found.sort_by_key(|session| session.generation.map(|generation| generation.0));
    assert!(found.iter().map(|session| &session.key).eq(all.iter().map(|session| &session.key)));
}

#[tokio::test]
async fn devices_that_died_leave_their_users_hash() {
    let setup = Setup::new().await;
    let sessions = setup.sessions().await;
    for n in 0..100 {
        setup.run(&["HSET", "golang_im:mid_0", &format!("dead{n}"), COMET]).await;
    }
    assert_eq!(sessions.sessions_of_mids(&[Mid(0)]).await, Ok(vec![vec![]]), "they are not found");
    for n in 0..2_000 {
        sessions.put(new(0, &format!("k{}", n % 20), COMET, n)).await.unwrap();
    }
    assert_eq!(setup.ask::<usize>(&["HLEN", "golang_im:mid_0"]).await, 20);
}

#[tokio::test]
async fn a_key_of_another_type_harms_its_own_session_only() {
    let setup = Setup::new().await;
    let sessions = setup.sessions().await;
    setup.run(&["LPUSH", "golang_im:key_x", "?"]).await;
    setup.run(&["SET", "golang_im:mid_9", "?"]).await;
    for session in [new(1, "x", COMET, 5), new(9, "y", COMET, 6)] {
        let error = sessions.put(session).await.unwrap_err();
        assert!(error.to_string().contains("type"), "{error}");
    }
    sessions.put(new(1, "k1", COMET, 7)).await.unwrap();
    let batch = [
        reference(1, "x", COMET, Some(5)),
        reference(1, "k1", COMET, Some(7)),
        reference(9, "y", COMET, Some(6)),
        reference(2, "k2", COMET, Some(8)),
    ];
    assert_eq!(sessions.renew(&batch).await.map(|all| all.len()), Ok(4));
    let keys = ["x", "k1", "y", "k2"].map(Key::new);
    let comet = || Some(ServerId::new(COMET));
    assert_eq!(sessions.servers_of_keys(&keys).await, Ok(vec![None, comet(), None, comet()]));
    let found = sessions.sessions_of_mids(&[1, 9, 2, 9].map(Mid)).await.unwrap();
    let found = found.iter().map(|of_mid| of_mid.iter().map(|found| found.key.as_str()).collect());
    assert_eq!(found.collect::<Vec<Vec<_>>>(), [vec!["k1"], vec![], vec!["k2"], vec![]]);
    setup.run(&["DEL", "golang_im:key_x", "golang_im:mid_9"]).await;
    sessions.renew(&batch).await.unwrap();
    assert!(sessions.servers_of_keys(&keys).await.unwrap().iter().all(Option::is_some), "repaired");
}

#[tokio::test]
async fn while_redis_is_full_sessions_live_on_and_logins_are_errors() {
    let setup = Setup::new().await;
    let sessions = setup.sessions().await;
    sessions.put(new(1, "k1", COMET, 5)).await.unwrap();
    sessions.put(new(2, "k2", COMET, 6)).await.unwrap();
    let stored = setup.dump().await;
    for key in stored.keys() {
        setup.run(&["EXPIRE", key, "100"]).await;
    }
    setup.run(&["DEL", "golang_im:key_k1", "golang_im:gen_k1", "golang_im:mid_1"]).await;
    setup.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = sessions.put(new(3, "k3", COMET, 7)).await.unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
    for session in [reference(1, "k1", COMET, Some(5)), reference(2, "k2", COMET, Some(6))] {
        assert_eq!(sessions.renew(&[session]).await, Ok(vec![Renewal::Current]));
    }
    assert_eq!(setup.dump().await, stored, "what was lost is put back, too");
    for key in stored.keys() {
        assert!(setup.is_fresh(key).await, "{key}");
    }
}

#[tokio::test]
async fn renewals_that_redis_refuses_are_errors() {
    let setup = Setup::new().await;
    let sessions = setup.sessions().await;
    sessions.put(new(1, "k1", COMET, 5)).await.unwrap();
    let batch = [reference(1, "k1", COMET, Some(5)), reference(2, "k2", COMET, Some(6))];
    setup.run(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    let error = sessions.renew(&batch).await.unwrap_err();
    assert!(error.to_string().contains("NOREPLICAS"), "{error}");
    setup.run(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    // Redis's answer ended the connection.
    let renewed = async {
        while sessions.renew(&batch).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, renewed).await.expect("in time");
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_given_again() {
    let setup = Setup::new().await;
    let sessions = setup.sessions().await;
    sessions.put(new(1, "k1", COMET, 1)).await.unwrap();
    setup.run(&["SCRIPT", "FLUSH"]).await;
    let previous = Some(Holder { server: ServerId::new(COMET), generation: Generation(1) });
    assert_eq!(
        sessions.put(new(1, "k1", COMET, 2)).await,
        Ok(Put::Stored { previous, generation: Generation(2) })
    );
}

async fn incarnation(sessions: &RedisSessions, not: Option<u64>) -> u64 {
    let found = async {
        loop {
            match sessions.incarnation() {
                Some(number) if Some(number) != not => return number,
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(PATIENCE, found).await.expect("another incarnation")
}

#[tokio::test]
async fn a_wiped_or_restarted_redis_is_another_incarnation_for_every_logic() {
    let mut setup = Setup::new().await;
    let (one, two) = (setup.sessions().await, setup.sessions().await);
    let first = incarnation(&one, None).await;
    assert_eq!(incarnation(&two, None).await, first, "logics agree");
    sleep(Duration::from_secs(3)).await;
    assert_eq!(one.incarnation(), Some(first), "it stays while nothing is lost");
    setup.run(&["FLUSHALL"]).await;
    let second = incarnation(&one, Some(first)).await;
    assert_eq!(incarnation(&two, Some(first)).await, second);
    setup.server.kill();
    assert!(one.put(new(1, "k1", COMET, 1)).await.is_err(), "away is an error");
    assert_eq!(one.incarnation(), Some(second), "away is not lost");
    setup.server.restart();
    let third = incarnation(&one, Some(second)).await;
    assert_eq!(incarnation(&two, Some(second)).await, third);
    assert_eq!(
        one.put(new(1, "k1", COMET, 1)).await,
        Ok(Put::Stored { previous: None, generation: Generation(1) })
    );
}

#[tokio::test]
async fn a_restart_that_kept_everything_is_another_incarnation_too() {
    let mut setup = Setup::at(Server::start_with(&["appendonly yes", "appendfsync always"])).await;
    let sessions = setup.sessions().await;
    let first = incarnation(&sessions, None).await;
    sessions.put(new(1, "k1", COMET, 1)).await.unwrap();
    let name = setup.redis.command::<String>(redis::cmd("GET").arg("golang_im:incarnation")).await;
    setup.server.restart();
    // What a file or a replica keeps may be the state of a moment ago.
    incarnation(&sessions, Some(first)).await;
    let now = setup.redis.command::<String>(redis::cmd("GET").arg("golang_im:incarnation")).await;
    assert_eq!(now, name, "nothing was lost this time");
    let kept = sessions.servers_of_keys(&[Key::new("k1")]).await;
    assert_eq!(kept, Ok(vec![Some(ServerId::new(COMET))]));
}

#[tokio::test]
async fn no_login_is_stored_before_the_servers_time_is_known() {
    let setup = Setup::new().await;
    let sessions = RedisSessions::new(setup.redis.clone(), &config(&setup.server));
    // The task that reads the clock has not had its turn.
    assert_eq!(sessions.now_us(), 0);
    assert!(sessions.put(new(1, "k1", COMET, 1)).await.is_err());
    let sessions = started(sessions).await;
    assert_eq!(
        sessions.put(new(1, "k1", COMET, 1)).await,
        Ok(Put::Stored { previous: None, generation: Generation(1) })
    );
}

#[tokio::test]
async fn a_first_look_at_the_clock_that_failed_is_soon_repeated() {
    let setup = Setup::new().await;
    setup.run(&["ACL", "SETUSER", "default", "-time"]).await;
    let sessions = RedisSessions::new(setup.redis.clone(), &config(&setup.server));
    sleep(Duration::from_millis(500)).await;
    assert_eq!(sessions.now_us(), 0);
    setup.run(&["ACL", "SETUSER", "default", "+time"]).await;
    timeout(COMPARE / 2, started(sessions)).await.expect("long before an ordinary comparison");
}

#[tokio::test]
async fn time_is_the_servers() {
    let setup = Setup::new().await;
    let sessions = setup.sessions().await;
    let before = sessions.now_us();
    let (seconds, micros): (u64, u64) = setup.ask(&["TIME"]).await;
    let (server, after) = (seconds * 1_000_000 + micros, sessions.now_us());
    let slack = 500_000;
    assert!((before - slack..=after + slack).contains(&server), "{before} {server} {after}");
}
