//! What stands in Redis and etcd, byte for byte, when the real programs have put it there.

use std::collections::BTreeMap;

use crate::{
    harness::{BOTH, Frame, Login, Transport, epoch_s, eventually, hex, within},
    store::{etcdctl, redis, redis_bytes, sessions},
    world::{Cluster, Queue},
};

const TOPIC: &str = "goim-push-topic";
const SESSION: [&str; 3] = ["golang_im:key_k1", "golang_im:mid_123", "golang_im:gen_k1"];

fn ttl(cluster: &Cluster, key: &str) -> i64 {
    redis(&cluster.redis, &["TTL", key]).parse().expect("a number")
}

/// goim's half hour, but for what the test took since.
fn is_fresh(cluster: &Cluster, key: &str) -> bool {
    (1790..=1800).contains(&ttl(cluster, key))
}

#[test]
fn etcd_holds_goim_s_keys_and_ours_apart_from_them() {
    let mut cluster = Cluster::start();
    let comets = cluster.comets.iter().map(|comet| ("goim.comet", comet.comet_rpc));
    let logics = cluster.logics.iter().map(|logic| ("goim.logic", logic.logic_rpc));
    let (mut goims, mut ours) = (Vec::new(), Vec::new());
    for (service, address) in comets.chain(logics) {
        let path = format!("/{service}/prod/sh/sh001/{address}");
        ours.push(format!("/halley.meta{path}"));
        goims.extend([path, address.to_string()]);
    }
    let mut found = etcdctl(&cluster.etcd, &["get", "--prefix", "/goim."]);
    found.sort();
    goims.sort();
    assert_eq!(found, goims, "keys and values");
    // What Go's job and logic read are the prefixes of the services: ours are under another one.
    let mut all = etcdctl(&cluster.etcd, &["get", "--prefix", "/", "--keys-only"]);
    all.retain(|line| !line.is_empty() && !line.starts_with("/goim."));
    all.sort();
    ours.sort();
    assert_eq!(all, ours);

    // goim's lease, of each process its own.
    let leases = etcdctl(&cluster.etcd, &["lease", "list"]);
    let granted = leases.iter().filter(|line| !line.contains("found")).map(|lease| {
        let told = etcdctl(&cluster.etcd, &["lease", "timetolive", "--keys", lease]).concat();
        assert!(told.contains("granted with TTL(15s)"), "{told}");
        told
    });
    let granted: Vec<String> = granted.filter(|told| told.contains("/goim.")).collect();
    assert_eq!(granted.len(), 4, "{granted:?}");

    // An orderly end takes both along at once, long before the lease is over.
    let gone = cluster.comets.remove(0);
    let path = format!("/goim.comet/prod/sh/sh001/{}", gone.comet_rpc);
    drop(gone);
    assert_eq!(etcdctl(&cluster.etcd, &["get", "--prefix", &path]), [""; 0]);
    assert_eq!(etcdctl(&cluster.etcd, &["get", "--prefix", &format!("/halley.meta{path}")]), [""; 0]);
}

#[test]
fn redis_holds_goim_s_session_from_login_to_end() {
    let cluster = Cluster::start_with(Queue::Stream, &["protocol.renewInterval=1s"]);
    let comet = cluster.comets[0].comet_rpc.to_string();
    let login = Login::key("k1").mid(123).room("live://1000");
    for transport in BOTH {
        let mut client = cluster.comets[0].client(transport, &login);
        let stored = sessions(&cluster.redis);
        let generation = stored["golang_im:gen_k1"].split(' ').next().expect("a word").to_owned();
        let since: u64 = generation.parse().expect("microseconds since 1970");
        assert!((epoch_s() - 20..=epoch_s() + 1).contains(&(since / 1_000_000)), "{generation}");
        let expected = BTreeMap::from([
            ("golang_im:key_k1".to_owned(), comet.clone()),
            ("golang_im:mid_123 k1".to_owned(), comet.clone()),
            ("golang_im:gen_k1".to_owned(), format!("{generation} 123 {comet}")),
        ]);
        assert_eq!(stored, expected);
        for key in SESSION {
            assert!(is_fresh(&cluster, key), "{key}: {}", ttl(&cluster, key));
            assert_eq!(redis(&cluster.redis, &["EXPIRE", key, "100"]), "1");
        }
        // A heartbeat renews, the first a second after the login.
        within(std::time::Duration::from_secs(15), "all three live as long as new ones", || {
            client.send(2, 1, "");
            assert_eq!(client.frame().op, 3);
            std::thread::sleep(std::time::Duration::from_millis(200));
            SESSION.iter().all(|key| is_fresh(&cluster, key)).then_some(())
        });
        assert_eq!(sessions(&cluster.redis), expected, "a renewal writes no other bytes");
        client.leave();
        eventually("nothing is left", || sessions(&cluster.redis).is_empty().then_some(()));
    }
}

#[test]
fn redis_holds_goim_s_counts_of_each_comet() {
    let cluster = Cluster::start();
    let comet = cluster.comets[0].comet_rpc.to_string();
    let counts = format!("golang_im:ol_{comet}");
    let began = epoch_s();
    let login = |n: usize, room: &str| Login::key(&format!("k{n}")).mid(n as i64).room(room);
    let rooms = ["live://1000", "live://1000", "live://2000"];
    let clients: Vec<_> =
        (0..3).map(|n| cluster.comets[0].client(BOTH[n % 2], &login(n, rooms[n]))).collect();
    let _elsewhere = cluster.comets[1].client(Transport::Tcp, &login(3, rooms[0]));
    let field = |number: &str, room: &str, people: u32| {
        eventually("the count is there", || {
            let value = redis(&cluster.redis, &["HGET", &counts, number]);
            let start = format!(r#"{{"server":"{comet}","room_count":{{"{room}":{people}}},"updated":"#);
            let updated: u64 = value.strip_prefix(&start)?.strip_suffix('}')?.parse().ok()?;
            assert!((began..=epoch_s()).contains(&updated), "{value}");
            Some(())
        });
    };
    field("43", "live://1000", 2);
    field("54", "live://2000", 1);
    assert_eq!(redis(&cluster.redis, &["HLEN", &counts]), "2");
    assert!(is_fresh(&cluster, &counts), "{}", ttl(&cluster, &counts));
    clients.into_iter().for_each(crate::harness::Client::leave);
    eventually("the comet's counts are gone", || {
        (redis(&cluster.redis, &["EXISTS", &counts]) == "0").then_some(())
    });
}

/// Takes field 100 off the end of an element, the time at which logic accepted the push in microseconds: the key of the
/// field, `a0 06`, and a varint of eight bytes, as long as that number has more than 49 and not more than 56 bits (1987
/// to 4253). goim does not know the field and skips it.
#[track_caller]
fn without_time(element: &[u8]) -> &[u8] {
    let at = element.len().checked_sub(10).expect("longer than the field");
    let (rest, time) = element.split_at(at);
    assert_eq!(time[..2], [0xa0, 0x06], "{element:02x?}");
    let micros = time[2..].iter().rev().fold(0, |micros, byte| micros << 7 | u64::from(byte & 0x7f));
    let seconds = micros / 1_000_000;
    assert!((epoch_s() - 60..=epoch_s() + 60).contains(&seconds), "{seconds}");
    rest
}

/// Nobody takes them off: there is no job.
#[test]
fn the_list_holds_goim_s_elements() {
    let mut cluster = Cluster::servers_only(Queue::List);
    cluster.logics.push(cluster.logic(&[]));
    cluster.comets = (0..2).map(|_| cluster.comet(&[])).collect();
    let logic = &cluster.logics[0];
    logic.expect_ready();
    for comet in &cluster.comets {
        comet.expect_ready();
    }
    let login = |key: &str| Login::key(key).mid(7).room("live://1000").accepts(&[1000]);
    let mut clients = [(0, "k1"), (0, "k2"), (1, "k3")]
        .map(|(comet, key)| cluster.comets[comet].client(Transport::Tcp, &login(key)));
    let servers = [0, 1].map(|n| {
        let name = cluster.comets[n].comet_rpc.to_string();
        [vec![0x22, u8::try_from(name.len()).expect("a short name")], name.into_bytes()].concat()
    });
    let to_keys = |server: usize, keys: &str| {
        [hex("10 e8 07"), servers[server].clone(), hex(keys), hex(r#"3a 05 "hello""#)].concat()
    };
    // What is pushed, and the elements of it; those of one push in any order.
    let pushes = [
        (
            "keys?operation=1000&keys=k1&keys=k3&keys=k2",
            vec![to_keys(0, r#"32 02 "k1" 32 02 "k2""#), to_keys(1, r#"32 02 "k3""#)],
        ),
        (
            "mids?operation=1000&mids=7",
            vec![to_keys(0, r#"32 02 "k1" 32 02 "k2""#), to_keys(1, r#"32 02 "k3""#)],
        ),
        (
            "room?operation=1000&type=live&room=1000",
            vec![hex(r#"08 01 10 e8 07 2a 0b "live://1000" 3a 05 "hello""#)],
        ),
        ("all?operation=1000&speed=64", vec![hex(r#"08 02 10 e8 07 18 40 3a 05 "hello""#)]),
        // What is nought is left out.
        ("all?operation=1000&speed=0", vec![hex(r#"08 02 10 e8 07 3a 05 "hello""#)]),
        ("keys?keys=k3", vec![[servers[1].clone(), hex(r#"32 02 "k3" 3a 05 "hello""#)].concat()]),
    ];
    let take = || redis_bytes(&cluster.redis, &[b"RPOP", TOPIC.as_bytes()]);
    let expect_count = |count: usize| {
        assert_eq!(redis(&cluster.redis, &["LLEN", TOPIC]), count.to_string());
    };
    for (push, mut expected) in pushes {
        logic.push(push, "hello");
        expect_count(expected.len());
        let mut found: Vec<Vec<u8>> = expected.iter().map(|_| without_time(&take()).to_vec()).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{push}");
    }
    // What a client says to its room is a push to the room, of operation 5; behind the time stand the sender's key and
    // the number of its request.
    clients[0].send_bytes(&Frame::new(4, 77, "hello").bytes());
    eventually("it is there", || (redis(&cluster.redis, &["LLEN", TOPIC]) == "1").then_some(()));
    let element = take();
    let origin = hex(r#"aa 06 02 "k1" b0 06 4d"#);
    let rest = element.strip_suffix(&origin[..]).unwrap_or_else(|| panic!("{element:02x?}"));
    assert_eq!(without_time(rest), hex(r#"08 01 10 05 2a 0b "live://1000" 3a 05 "hello""#));
}
