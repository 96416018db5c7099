//! What goim's programs read and write, byte for byte: keys and values in Redis, and the gRPC of its comet.

use std::collections::{BTreeMap, HashMap};

use grpc::logic::{ConnectReply, ConnectReq, DisconnectReply, DisconnectReq, HeartbeatReq, OnlineReply};
use prost::Message as _;

use crate::{
    harness::{
        BOTH, Login,
        go_comet::{CONNECT, CONNECT_AGAIN, GoComet, RENEW, REPORT},
        hex,
    },
    store::{redis, redis_bytes, sessions},
    world::{Cluster, Queue},
};

/// Header blocks of calls behind [`RENEW`], the paths kept out of the table so that they may come in any order.
const HEARTBEAT: &str = r#"8386 04 1b "/goim.logic.Logic/Heartbeat" c5c4c3c2c1"#;
/// The same of an end.
const DISCONNECT: &str = r#"8386 04 1c "/goim.logic.Logic/Disconnect" c5c4c3c2c1"#;

/// Header blocks of grpc-go, `:authority` with its slashes, a report through gzip; sessions and counts of it are in Redis
/// as those of ours are.
#[test]
fn our_logic_keeps_the_sessions_and_counts_of_a_go_comet() {
    const GO: &str = "127.0.0.1:9999";
    let mut cluster = Cluster::servers_only(Queue::Stream);
    cluster.logics.push(cluster.logic(&[]));
    cluster.comets.push(cluster.comet(&[]));
    cluster.logics[0].expect_ready();
    cluster.comets[0].expect_ready();
    let rows = |generation: &str, server: &str| {
        BTreeMap::from([
            ("golang_im:key_k1".to_owned(), server.to_owned()),
            ("golang_im:mid_123 k1".to_owned(), server.to_owned()),
            ("golang_im:gen_k1".to_owned(), format!("{generation} 123 {server}")),
        ])
    };
    let generation = || {
        let ours = redis(&cluster.redis, &["GET", "golang_im:gen_k1"]);
        ours.split(' ').next().expect("a word").to_owned()
    };
    let keys = ["golang_im:key_k1", "golang_im:mid_123", "golang_im:gen_k1"];
    let live = |of: std::ops::RangeInclusive<u64>| {
        keys.iter().all(|key| of.contains(&redis(&cluster.redis, &["TTL", key]).parse().expect("a number")))
    };
    let token = r#"{"mid":123,"key":"k1","room_id":"live://1000","accepts":[1000]}"#;
    let connect = ConnectReq { server: GO.into(), token: token.into(), ..Default::default() };
    let end = |server: &str| {
        let (key, server) = ("k1".to_owned(), server.to_owned());
        DisconnectReq { mid: 123, key, server, generation: 0 }.encode_to_vec()
    };
    let has = |(status, body): (String, Vec<u8>)| {
        assert_eq!(status, "0");
        DisconnectReply::decode(&body[..]).expect("a reply").has
    };
    let mut comet = GoComet::connect(cluster.logics[0].logic_rpc);

    let (status, body) = comet.call(1, CONNECT, false, &connect.encode_to_vec());
    assert_eq!(status, "0");
    let reply = ConnectReply::decode(&body[..]).expect("a reply");
    assert_eq!((reply.mid, reply.key.as_str(), reply.room_id.as_str()), (123, "k1", "live://1000"));
    assert_eq!((reply.accepts, reply.heartbeat), (vec![1000], 480_000_000_000));
    let first = generation();
    assert_eq!(sessions(&cluster.redis), rows(&first, GO));
    assert!(live(1790..=1800));

    let (status, body) = comet.call(3, RENEW, true, &hex(REPORT));
    assert_eq!(status, "0");
    let reply = OnlineReply::decode(&body[..]).expect("a reply");
    assert_eq!(reply.all_room_count, HashMap::from([("live://1000".to_owned(), 5)]));
    let counts = redis(&cluster.redis, &["HGET", &format!("golang_im:ol_{GO}"), "43"]);
    let start = format!(r#"{{"server":"{GO}","room_count":{{"live://1000":5}},"updated":"#);
    assert!(counts.starts_with(&start), "{counts}");

    // goim's heartbeat has no generation, and renews all three.
    for key in keys {
        redis(&cluster.redis, &["EXPIRE", key, "100"]);
    }
    let beat = HeartbeatReq { mid: 123, key: "k1".to_owned(), server: GO.to_owned(), generation: 0 };
    assert_eq!(comet.call(5, HEARTBEAT, false, &beat.encode_to_vec()).0, "0");
    assert!(live(1790..=1800));
    assert_eq!(sessions(&cluster.redis), rows(&first, GO));

    // An end without a generation counts from the comet that holds the session, and from no other.
    assert!(!has(comet.call(7, DISCONNECT, false, &end("127.0.0.1:8888"))));
    assert_eq!(sessions(&cluster.redis), rows(&first, GO));
    let mut ours =
        cluster.comets[0].client(BOTH[0], &Login::key("k1").mid(123).room("live://1000").reasons());
    let held = cluster.comets[0].comet_rpc.to_string();
    let second = generation();
    assert!(second > first, "{first} {second}");
    assert!(!has(comet.call(9, DISCONNECT, false, &end(GO))), "it is on our comet now");
    assert_eq!(sessions(&cluster.redis), rows(&second, &held));
    assert_eq!(comet.call(11, CONNECT_AGAIN, false, &connect.encode_to_vec()).0, "0");
    let reason = ours.end().reason().expect("operation 6");
    assert_eq!(reason["code"], 4409, "{reason}");
    let third = generation();
    assert_eq!(sessions(&cluster.redis), rows(&third, GO));
    assert!(has(comet.call(13, DISCONNECT, false, &end(GO))));
    assert_eq!(sessions(&cluster.redis), BTreeMap::new());
}

/// Elements as a Go logic puts them on the list, byte for byte.
#[test]
fn what_a_go_logic_puts_on_the_list_our_job_and_comet_deliver() {
    let cluster = Cluster::start_on(Queue::List);
    let login = Login::key("k1").mid(1).room("live://1000").accepts(&[1000]);
    let mut client = cluster.comets[1].client(BOTH[0], &login);
    let server = cluster.comets[1].comet_rpc.to_string();
    let keys = [
        hex("10 e8 07 22"),
        vec![u8::try_from(server.len()).expect("a short name")],
        server.into_bytes(),
        hex(r#"32 02 "k1" 3a 05 "hello""#),
    ]
    .concat();
    for element in [
        keys,
        hex(r#"08 01 10 e8 07 2a 0b "live://1000" 3a 05 "hello""#),
        hex(r#"08 02 10 e8 07 18 40 3a 05 "hello""#),
    ] {
        redis_bytes(&cluster.redis, &[b"LPUSH", b"goim-push-topic", &element]);
        client.expect_push(1000, "hello");
    }
    client.expect_silence();
}
