//! Logics of one cluster, with sessions and counts in a real Redis.

use registry::{NodeState, Registry as _};
use services::Redis as Server;
use session::{RedisSessions, counts::RedisCounts};
use store::{Redis, RedisConfig};
use tokio::time::{sleep, timeout};

use super::*;

/// Far above the two seconds that are promised, and well below the 15 s after which a report is too old in any case.
const SOON: Duration = Duration::from_secs(8);

/// Longest wait for anything that takes a moment.
const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    server: Server,
    registry: Fixed,
    one: Arc<Logic>,
    two: Arc<Logic>,
}

/// Comets of ours at `a:1` and `b:1`, a Go comet at `go:1`. The registry knows of four clients on each of ours.
fn nodes() -> [Node; 3] {
    let comet = |id: &str, version: &str, connections| Node {
        version: version.to_owned(),
        clients: ClientCount { connections, addresses: connections.min(1) },
        ..Node::new(Service::Comet, server(id))
    };
    [comet("a:1", "0.1.0", 4), comet("b:1", "0.1.0", 4), comet("go:1", "", 0)]
}

impl Cluster {
    async fn start() -> Self {
        let server = Server::start();
        let registry = Fixed::new(nodes());
        let (one, two) = (logic(&server, &registry).await, logic(&server, &registry).await);
        Cluster { server, registry, one, two }
    }

    async fn run(&self, command: &[&str]) {
        let client = ::redis::Client::open(format!("redis://{}", self.server.addr())).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut cmd = ::redis::cmd(command[0]);
        command[1..].iter().for_each(|argument| _ = cmd.arg(*argument));
        cmd.exec_async(&mut connection).await.unwrap();
    }

    /// What a Go logic writes into one field.
    async fn go_writes(&self, comet: &str, field: &str, in_room: &str, people: u32, age_s: u64) {
        let updated = wall_micros() / 1_000_000 - age_s;
        let json =
            format!(r#"{{"server":"{comet}","room_count":{{"{in_room}":{people}}},"updated":{updated}}}"#);
        self.run(&["HSET", &format!("golang_im:ol_{comet}"), field, &json]).await;
    }
}

async fn redis(at: &Server) -> (Redis, RedisConfig) {
    let config = RedisConfig::at(at.addr().parse().unwrap());
    let redis = Redis::connect(&config).unwrap();
    redis.ready().wait_for(|ready| *ready).await.map(|_| ()).unwrap();
    (redis, config)
}

async fn logic(at: &Server, registry: &Fixed) -> Arc<Logic> {
    let (redis, config) = redis(at).await;
    let setup = Setup::new(&[]).await;
    let sessions = Arc::new(RedisSessions::new(redis.clone(), &config));
    let clock_is_known = async {
        while sessions.now_us() == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, clock_is_known).await.expect("in time");
    let deps = LogicDeps {
        sessions,
        counts: Some(Arc::new(RedisCounts::new(redis, &config))),
        registry: Arc::new(registry.clone()),
        ..setup.deps.clone()
    };
    let logic = Arc::new(Logic::new(&setup.config, deps));
    logic.follow_counts();
    logic
}

async fn report(logic: &Logic, comet: &str, people: u32) -> u32 {
    let rooms = if people > 0 { HashMap::from([(room(ROOM), people)]) } else { HashMap::new() };
    let clients = ClientCount { connections: people.into(), addresses: 1 };
    let everybody = logic.renew_online(server(comet), rooms, clients).await.unwrap();
    everybody.get(&room(ROOM)).copied().unwrap_or(0)
}

async fn within(limit: Duration, what: &str, is_so: impl Fn() -> bool) {
    let waits = async {
        while !is_so() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(limit, waits).await.unwrap_or_else(|_| panic!("not within {limit:?}: {what}"));
}

async fn until(logic: &Logic, people: u64) {
    let counted = async {
        while logic.room_counts().room(&room(ROOM)) != people {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = timeout(PATIENCE, counted).await;
    assert!(in_time.is_ok(), "{} people instead of {people}", logic.room_counts().room(&room(ROOM)));
}

#[tokio::test]
async fn a_key_that_logs_in_through_two_logics_is_the_newest_logins() {
    let cluster = Cluster::start().await;
    let Cluster { one, two, .. } = &cluster;
    let mut logins = Vec::new();
    for (logic, comet) in [(one, "a:1"), (two, "b:1"), (one, "a:1"), (two, "b:1")] {
        let session = logic.connect(login(comet, r#"{"mid":1,"key":"k"}"#)).await.unwrap();
        let Session { mid, key, generation, .. } = session;
        logins.push(SessionRef { mid, key, server: server(comet), generation });
    }
    assert!(logins.is_sorted_by(|a, b| a.generation < b.generation), "whoever decided it: {logins:?}");
    let newest = logins.pop().unwrap();
    for old in logins {
        let renewed = two.renew(vec![old.clone()]).await.unwrap();
        // The comet of the newest has closed its older ones itself.
        let is_elsewhere = old.server != newest.server;
        let by = is_elsewhere.then(|| (Key::new("k"), newest.generation.unwrap()));
        assert_eq!(renewed.superseded, Vec::from_iter(by));
        assert!(!one.disconnect(old).await.unwrap());
    }
    let found = one.sessions_of_mids(&[Mid(1)]).await.unwrap().remove(0);
    let [session] = &found[..] else { panic!("one device, not {found:?}") };
    assert_eq!((&session.server, session.generation), (&newest.server, newest.generation));
    assert!(one.disconnect(newest).await.unwrap());
    assert_eq!(two.sessions_of_keys(&[Key::new("k")]).await, Ok(vec![None]));
}

#[tokio::test]
async fn every_logic_knows_the_people_of_every_comet() {
    let cluster = Cluster::start().await;
    let Cluster { one, two, .. } = &cluster;
    assert_eq!(report(one, "a:1", 2).await, 2);
    report(two, "b:1", 3).await;
    until(one, 5).await;
    until(two, 5).await;
    assert_eq!(report(one, "a:1", 1).await, 4, "comets are told everybody");
    until(two, 4).await;
    for logic in [one, two] {
        assert_eq!(logic.room_counts().top("live", 5), [(room(ROOM), 4)]);
        assert_eq!(logic.room_counts().rooms(), HashMap::from([(room(ROOM), 4)]));
    }
    // The comet that reports elsewhere as the registry knows it.
    let total = |connections| ClientCount { connections, addresses: 2 };
    assert_eq!((one.total(), two.total()), (total(1 + 4), total(3 + 4)));
    report(two, "a:1", 7).await;
    until(one, 10).await;
    report(two, "a:1", 0).await;
    until(one, 3).await;
}

/// What it had said to one logic stood there for 15 s, whatever the registry knew since.
#[tokio::test]
async fn every_logic_counts_the_clients_of_a_comet_that_reports_to_another_now() {
    let cluster = Cluster::start().await;
    let Cluster { one, two, .. } = &cluster;
    let [a, ..] = nodes();
    let own = cluster.registry.register(a).await.unwrap();
    report(one, "a:1", 2).await;
    report(two, "a:1", 2).await;
    // The registry knows of four clients of b. They come, and go.
    for people in [7, 0, 3] {
        report(two, "a:1", people).await;
        let clients = ClientCount { connections: people.into(), addresses: 1 };
        own.update(NodeState { clients, offline: false });
        for logic in [one, two] {
            let total = || logic.total().connections == u64::from(people) + 4;
            within(SOON, "the total is the true one", total).await;
        }
    }
    // etcd is away, and knows less than who heard of it.
    report(one, "a:1", 9).await;
    assert_eq!(one.total().connections, 9 + 4);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(one.total().connections, 9 + 4);
}

/// They were counted until the comet was missed by each logic that it had reported to.
#[tokio::test]
async fn people_of_a_comet_that_has_ended_are_gone_at_once_for_every_logic() {
    let cluster = Cluster::start().await;
    let Cluster { one, two, .. } = &cluster;
    // One has left the registry, one is in it, one lives in another zone.
    for (comet, people) in [("ended:1", 5), ("a:1", 2), ("far:1", 1)] {
        report(one, comet, people).await;
    }
    assert_eq!(one.room_counts().room(&room(ROOM)), 8);
    report(two, "ended:1", 0).await;
    report(two, "a:1", 0).await;
    within(SOON, "two comets have ended", || one.room_counts().room(&room(ROOM)) == 1).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(one.room_counts().room(&room(ROOM)), 1, "the other one lives");
    let stored = ["golang_im:ol_ended:1", "golang_im:ol_a:1"];
    let (redis, _) = redis(&cluster.server).await;
    assert_eq!(redis.command::<u32>(::redis::cmd("EXISTS").arg(&stored)).await, Ok(0));
}

#[tokio::test]
async fn a_comet_that_died_is_gone_long_before_its_lease() {
    let cluster = Cluster::start().await;
    let Cluster { one, two, .. } = &cluster;
    report(two, "a:1", 2).await;
    report(two, "b:1", 3).await;
    until(one, 5).await;
    let b_lives = async {
        loop {
            report(two, "b:1", 3).await;
            sleep(Duration::from_secs(4)).await;
        }
    };
    let a_is_gone = async {
        until(one, 3).await;
        until(two, 3).await;
    };
    tokio::select! {
        () = a_is_gone => {}
        () = b_lives => {}
    }
    assert_eq!(one.total().connections, 4, "that of b, as the registry knows it");
}

#[tokio::test]
async fn what_a_go_logic_keeps_is_counted_as_long_as_go_comets_may_take() {
    let cluster = Cluster::start().await;
    let Cluster { one, two, .. } = &cluster;
    cluster.go_writes("go:1", "43", ROOM, 5, 20).await;
    cluster.go_writes("go:1", "19", "live://1", 9, 60).await;
    report(one, "a:1", 2).await;
    until(one, 7).await;
    until(two, 7).await;
    assert_eq!(one.room_counts().room(&room("live://1")), 0, "of a room that ended, or of the dead");
    // A comet of ours that a Go logic serves for a while.
    cluster.go_writes("b:1", "43", ROOM, 1, 5).await;
    until(two, 8).await;
}

/// A Go logic, too, would take a report without a time for one of long ago.
#[tokio::test]
async fn counts_are_not_written_before_the_time_is_known() {
    let cluster = Cluster::start().await;
    cluster.run(&["ACL", "SETUSER", "default", "-time"]).await;
    let (redis, config) = redis(&cluster.server).await;
    let deps = LogicDeps {
        sessions: Arc::new(RedisSessions::new(redis.clone(), &config)),
        counts: Some(Arc::new(RedisCounts::new(redis.clone(), &config))),
        ..Setup::new(&[]).await.deps
    };
    let logic = Logic::new(&LogicConfig::default(), deps);
    let written = async || redis.command::<bool>(::redis::cmd("EXISTS").arg("golang_im:ol_a:1")).await;
    assert_eq!(report(&logic, "a:1", 2).await, 2);
    assert_eq!(written().await, Ok(false));
    cluster.run(&["ACL", "SETUSER", "default", "+time"]).await;
    let in_time = async {
        while written().await == Ok(false) {
            sleep(Duration::from_millis(20)).await;
            report(&logic, "a:1", 2).await;
        }
    };
    timeout(PATIENCE, in_time).await.expect("when it is");
}

#[tokio::test]
async fn a_bad_key_or_no_redis_at_all_leaves_the_other_counts() {
    let mut cluster = Cluster::start().await;
    cluster.run(&["SET", "golang_im:ol_b:1", "?"]).await;
    report(&cluster.one, "a:1", 2).await;
    until(&cluster.two, 2).await;
    assert_eq!(report(&cluster.one, "b:1", 3).await, 5, "this logic knows it all the same");
    cluster.server.kill();
    assert_eq!(report(&cluster.one, "a:1", 4).await, 7);
    assert_eq!(cluster.two.room_counts().room(&room(ROOM)), 2, "the last that was known");
    cluster.server.restart();
    let back = async {
        while cluster.two.room_counts().room(&room(ROOM)) != 7 {
            report(&cluster.one, "a:1", 4).await;
            report(&cluster.one, "b:1", 3).await;
            sleep(Duration::from_millis(500)).await;
        }
    };
    timeout(PATIENCE, back).await.expect("everything is told again");
}
