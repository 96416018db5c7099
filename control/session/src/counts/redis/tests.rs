use std::time::Duration;

use services::Redis as Server;

use super::*;

const COMET: &str = "127.0.0.1:3109";
const KEY: &str = "golang_im:ol_127.0.0.1:3109";
const NOW_S: u64 = 1_795_416_741;

struct Setup {
    _server: Server,
    redis: Redis,
    counts: RedisCounts,
}

impl Setup {
    async fn new() -> Self {
        let server = Server::start();
        let config = RedisConfig::at(server.addr().parse().unwrap());
        let redis = Redis::connect(&config).unwrap();
        redis.ready().wait_for(|ready| *ready).await.map(|_| ()).unwrap();
        let counts = RedisCounts::new(redis.clone(), &config);
        Setup { _server: server, redis, counts }
    }

    async fn write(&self, rooms: &[(&str, u32)], now_s: u64) {
        let rooms = rooms.iter().map(|(room, people)| (RoomId::parse(room).unwrap(), *people)).collect();
        self.counts.write(&ServerId::new(COMET), &rooms, now_s).await.unwrap();
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut cmd = redis::cmd(command[0]);
        command[1..].iter().for_each(|argument| _ = cmd.arg(*argument));
        self.redis.command(&cmd).await.unwrap()
    }

    async fn fields(&self) -> BTreeMap<u8, String> {
        self.ask(&["HGETALL", KEY]).await
    }
}

fn json(room: &str, people: u32, updated: u64) -> String {
    format!(r#"{{"server":"{COMET}","room_count":{{"{room}":{people}}},"updated":{updated}}}"#)
}

#[tokio::test]
async fn counts_are_kept_as_goim_keeps_them_and_go_away() {
    let setup = Setup::new().await;
    setup.write(&[("live://1000", 2), ("live://2000", 1), ("live://solo", 0)], NOW_S).await;
    let both = BTreeMap::from([(43, json("live://1000", 2, NOW_S)), (54, json("live://2000", 1, NOW_S))]);
    assert_eq!(setup.fields().await, both);
    assert!((1740..=1800).contains(&setup.ask::<i64>(&["TTL", KEY]).await));
    setup.write(&[("live://1000", 3), ("live://2000", 1)], NOW_S + 1).await;
    let changed =
        BTreeMap::from([(43, json("live://1000", 3, NOW_S + 1)), (54, json("live://2000", 1, NOW_S))]);
    assert_eq!(setup.fields().await, changed, "only what changed is written");
    setup.write(&[("live://1000", 3), ("live://2000", 1)], NOW_S + 3).await;
    let refreshed =
        BTreeMap::from([(43, json("live://1000", 3, NOW_S + 1)), (54, json("live://2000", 1, NOW_S + 3))]);
    assert_eq!(setup.fields().await, refreshed, "and what gets old");
    setup.write(&[("live://2000", 1)], NOW_S + 4).await;
    assert_eq!(setup.fields().await, BTreeMap::from([(54, json("live://2000", 1, NOW_S + 3))]), "ended");
    setup.write(&[], NOW_S + 5).await;
    assert_eq!(setup.ask::<i64>(&["EXISTS", KEY]).await, 0, "nothing is left");
}

#[tokio::test]
async fn what_another_logic_left_is_put_right() {
    let setup = Setup::new().await;
    setup.write(&[("live://1000", 2)], NOW_S).await;
    setup.ask::<i64>(&["HSET", KEY, "13", "x", "54", &json("live://2000", 9, NOW_S)]).await;
    setup.write(&[("live://1000", 2)], NOW_S + 1).await;
    assert_eq!(setup.fields().await, BTreeMap::from([(43, json("live://1000", 2, NOW_S))]));
    setup.ask::<i64>(&["DEL", KEY]).await;
    setup.write(&[("live://1000", 2)], NOW_S + 4).await;
    assert_eq!(setup.fields().await, BTreeMap::from([(43, json("live://1000", 2, NOW_S + 4))]));
}

#[tokio::test]
async fn comets_are_read_in_order_and_a_bad_key_is_that_comets_only() {
    let setup = Setup::new().await;
    setup.write(&[("live://1000", 2), ("live://2000", 1)], NOW_S).await;
    setup.ask::<()>(&["SET", "golang_im:ol_x:1", "?"]).await;
    let servers = ["x:1", "none:1", COMET].map(ServerId::new);
    let mut found = setup.counts.read(&servers).await.unwrap();
    let fields = found.remove(2).unwrap();
    assert_eq!(found, [None, Some(vec![])]);
    let rooms: HashMap<RoomId, u32> = fields.into_iter().flat_map(|field| field.rooms).collect();
    let room = |id| RoomId::parse(id).unwrap();
    assert_eq!(rooms, HashMap::from([(room("live://1000"), 2), (room("live://2000"), 1)]));
    let rooms = HashMap::from([(room("a"), 1)]);
    assert!(setup.counts.write(&servers[0], &rooms, NOW_S).await.is_err());
    setup.write(&[("live://1000", 5)], NOW_S + 1).await;
    setup.ask::<i64>(&["DEL", "golang_im:ol_x:1"]).await;
    setup.counts.write(&servers[0], &rooms, NOW_S + 1).await.unwrap();
    assert_eq!(setup.ask::<i64>(&["HLEN", "golang_im:ol_x:1"]).await, 1, "repaired");
}

#[tokio::test]
async fn very_many_rooms_are_written_and_read_whole() {
    let setup = Setup::new().await;
    let rooms: HashMap<RoomId, u32> =
        (1..=20_000).map(|n| (RoomId::parse(&format!("live://{n}")).unwrap(), n)).collect();
    let server = ServerId::new(COMET);
    tokio::time::timeout(Duration::from_secs(30), setup.counts.write(&server, &rooms, NOW_S))
        .await
        .expect("in time")
        .unwrap();
    let found = setup.counts.read(&[server]).await.unwrap().remove(0).unwrap();
    assert_eq!(found.len(), FIELDS);
    let read: HashMap<RoomId, u32> = found.into_iter().flat_map(|field| field.rooms).collect();
    assert_eq!(read, rooms);
}
