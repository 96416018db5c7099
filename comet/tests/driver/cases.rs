//! The cases.

use std::{
    io::Write,
    net::{IpAddr, Shutdown},
    time::{Duration, Instant},
};

use proto::{
    frame::{Header, encode},
    op::Op,
};

use crate::comet::config::ProxyNetwork;
use testkit::proxy::{v1, v2};

use crate::world::{PATIENCE, World, key, login, room};

pub(crate) fn a_login_is_answered_and_a_push_arrives(world: World) {
    // Enough of them that both shards get some, and some change shards at login.
    let mut clients: Vec<_> = (0..20).map(|n| world.login(&format!("k{n}"))).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        world.push(key(&format!("k{n}")), b"hello");
        assert_eq!(
            client.next().expect("a push"),
            (Header { ver: 1, op: Op(1000), seq: 0 }, b"hello".to_vec())
        );
    }
    let moved = world.comet.front.metrics();
    world.eventually("some of twenty connections changed shards", || moved.sum(|stats| stats.attached) > 0);
}

pub(crate) fn order_holds_over_many_pushes_to_a_slow_reader(world: World) {
    let mut client = world.login("slow");
    let pushes = 400;
    // 80 KB at a time: less than kernel and send queue take, so that nothing is dropped.
    for chunk in (0..pushes).collect::<Vec<u32>>().chunks(40) {
        world.push_all(
            chunk.iter().map(|n| (key("slow"), [&n.to_be_bytes()[..], &[0; 996]].concat())).collect(),
        );
        std::thread::sleep(Duration::from_millis(5));
        for n in chunk {
            let (_, body) = client.next().expect("a push");
            assert_eq!(&body[..4], n.to_be_bytes());
        }
    }
}

/// Every write that ended woke the front, mail or not: the front's thread was woken for nothing once for every few
/// deliveries, which was a third of the process's CPU in a large room.
pub(crate) fn deliveries_do_not_wake_the_front(world: World) {
    let mut clients: Vec<_> = (0..50).map(|n| world.login(&format!("k{n}"))).collect();
    let parks = || world.runtime.metrics().worker_park_count(0);
    let before = parks();
    for _ in 0..100 {
        world.push(room(), b"hello");
        clients.iter_mut().for_each(|client| assert_eq!(client.next().expect("a push").1, b"hello"));
    }
    let (parks, deliveries) = (parks() - before, 100 * clients.len() as u64);
    // What is left are the counters that each shard mails ten times a second.
    assert!(parks < deliveries / 20, "the front slept and woke {parks} times for {deliveries} deliveries");
}

/// A burst for one client that reads as fast as it can was dropped where the mailbox handed over more in one go than its
/// queue holds.
pub(crate) fn a_burst_for_a_fast_reader_is_not_dropped(world: World) {
    let mut client = world.login("fast");
    let reader = std::thread::spawn(move || {
        for n in 0..256u32 {
            let (_, body) = client.next().expect("a push");
            assert_eq!(&body[..4], n.to_be_bytes());
        }
    });
    let burst = (0..256u32).map(|n| (key("fast"), [&n.to_be_bytes()[..], &[0; 1020]].concat()));
    world.push_all(burst.collect());
    reader.join().expect("everything came in order");
}

pub(crate) fn a_short_write_is_continued(world: World) {
    let mut client = world.login("big");
    // Larger than the send buffer: the kernel takes it in parts while the client is not reading yet.
    let body: Vec<u8> = (0..900_000u32).map(|n| n as u8).collect();
    world.push(key("big"), &body);
    std::thread::sleep(Duration::from_millis(100));
    assert!(client.next().expect("a push").1 == body);
}

/// The kernel takes nothing more for the one, so the wait for it is the driver's: it must neither stand still for it nor
/// lose its place.
pub(crate) fn a_write_that_waits_for_room_holds_nobody_else_up(world: World) {
    let (mut stopped, mut other) = (world.login("stopped"), world.login("other"));
    // More than all buffers on the way, and behind it what waits for it.
    world.push(key("stopped"), &[0; 900_000]);
    for n in 0..40u32 {
        world.push(key("stopped"), &n.to_be_bytes());
    }
    for n in 0..100u32 {
        world.push(key("other"), &n.to_be_bytes());
        assert_eq!(other.next().expect("a push").1, n.to_be_bytes());
    }
    assert_eq!(stopped.next().expect("a push").1.len(), 900_000);
    for n in 0..40u32 {
        assert_eq!(stopped.next().expect("a push").1, n.to_be_bytes());
    }
}

pub(crate) fn a_held_client_is_not_read_and_loses_nothing(world: World) {
    let metrics = world.comet.front.metrics();
    let read = || metrics.sum(|stats| stats.bytes_read);
    let door = world.runtime.block_on(world.logic.closed.lock());
    let mut client = world.connect();
    client.send(Op::AUTH, login("k").as_bytes());
    world.eventually("logic is asked about the client", || read() > 0);
    let before = read();
    for _ in 0..50 {
        client.send(Op::HEARTBEAT, &[]);
    }
    // Some ticks, each of which looks whether the client is still there.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(read(), before, "it was read while it was held");
    drop(door);
    assert_eq!(client.next().expect("a reply").0.op, Op::AUTH_REPLY);
    for _ in 0..50 {
        assert_eq!(client.next().expect("a reply").0.op, Op::HEARTBEAT_REPLY);
    }
}

pub(crate) fn bytes_sent_behind_the_login_survive_the_hand_over(world: World) {
    for n in 0..20 {
        let mut client = world.connect();
        let mut bytes = Vec::new();
        encode(Header { ver: 1, op: Op::AUTH, seq: 7 }, login(&format!("k{n}")).as_bytes(), &mut bytes);
        encode(Header { ver: 1, op: Op::HEARTBEAT, seq: 8 }, &[], &mut bytes);
        encode(Header { ver: 1, op: Op::SUBSCRIBE, seq: 9 }, b"1002", &mut bytes);
        let half = bytes.len() - 3;
        client.stream.write_all(&bytes[..half]).expect("a write");
        assert_eq!(client.next().expect("a reply").0.op, Op::AUTH_REPLY);
        client.stream.write_all(&bytes[half..]).expect("a write");
        assert_eq!(client.next().expect("a reply").0, Header { ver: 1, op: Op::HEARTBEAT_REPLY, seq: 8 });
        assert_eq!(
            client.next().expect("a reply"),
            (Header { ver: 1, op: Op::SUBSCRIBE_REPLY, seq: 9 }, b"1002".to_vec())
        );
    }
}

/// A verdict that moved a connection away and the arrival of another one often come in one drain of the mailbox. The
/// second got the slot of the first before its descriptor was taken out of there, and one login in sixty was never
/// answered.
pub(crate) fn logins_at_once_that_swap_shards_are_all_answered(world: World) {
    let mut clients: Vec<_> = (0..600)
        .map(|n| {
            let mut client = world.connect();
            client.send(Op::AUTH, login(&format!("k{n}")).as_bytes());
            client
        })
        .collect();
    for client in &mut clients {
        assert_eq!(client.next().expect("a reply").0.op, Op::AUTH_REPLY);
    }
    world.push(room(), b"all");
    for client in &mut clients {
        assert_eq!(client.next().expect("a push").1, b"all");
    }
    drop(clients);
    let metrics = world.comet.front.metrics();
    world.eventually("no socket is left", || metrics.sum(|stats| stats.connections.tcp) == 0);
}

pub(crate) fn a_hang_up_in_the_lobby_is_seen(world: World) {
    let metrics = world.comet.front.metrics();
    let sockets = || metrics.sum(|stats| stats.connections.tcp);
    let door = world.runtime.block_on(world.logic.closed.lock());
    let mut client = world.connect();
    client.send(Op::AUTH, login("k").as_bytes());
    world.eventually("the client is in the lobby", || sockets() == 1);
    drop(client);
    world.eventually("the client is gone though logic has not answered", || sockets() == 0);
    drop(door);
    world.eventually("the session logic made all the same is ended", || world.ended() == 1);
}

/// The end of the stream stands behind bytes that nobody reads for now.
pub(crate) fn a_hang_up_behind_unread_bytes_is_seen(world: World) {
    let metrics = world.comet.front.metrics();
    let door = world.runtime.block_on(world.logic.closed.lock());
    let mut client = world.connect();
    client.send(Op::AUTH, login("k").as_bytes());
    world.eventually("logic is asked about the client", || metrics.sum(|stats| stats.bytes_read) > 0);
    client.send(Op::HEARTBEAT, &[]);
    drop(client);
    world.eventually("the client is gone", || metrics.sum(|stats| stats.connections.tcp) == 0);
    drop(door);
    world.eventually("the session logic made all the same is ended", || world.ended() == 1);
}

/// Before logic is asked, meanwhile, on the way to the other shard, and behind it: by an end or by a reset.
pub(crate) fn clients_that_leave_while_they_log_in_leave_nothing_behind(world: World) {
    for n in 0..300 {
        let mut client = world.connect();
        client.send(Op::AUTH, login(&format!("k{n}")).as_bytes());
        std::thread::sleep(Duration::from_micros(n * 7 % 1000));
        let stream = socket2::Socket::from(client.stream);
        if n % 2 == 0 {
            stream.set_linger(Some(Duration::ZERO)).expect("linger");
        }
    }
    // Both shards accept in order: who of the others is to be accepted has been by then.
    drop((0..20).map(|n| world.login(&format!("last{n}"))).collect::<Vec<_>>());
    let metrics = world.comet.front.metrics();
    world.eventually("no socket is left", || metrics.sum(|stats| stats.connections.tcp) == 0);
    world.eventually("every session ended", || world.ended() == world.begun());
}

pub(crate) fn every_descriptor_is_closed_once(world: World) {
    let open = || std::fs::read_dir("/proc/self/fd").expect("proc").count();
    let metrics = world.comet.front.metrics();
    let sockets = || metrics.sum(|stats| stats.connections.tcp);
    let gone =
        || world.eventually("all are gone", || sockets() == 0 && metrics.sum(|stats| stats.accepted.tcp) > 0);
    drop(world.login("first"));
    gone();
    let before = open();
    for round in 0..10 {
        let mut clients: Vec<_> = (0..30).map(|n| world.login(&format!("r{round}k{n}"))).collect();
        for client in clients.iter_mut().step_by(3) {
            client.send(Op::AUTH, b"a second login is a violation");
            assert!(client.next().is_none());
        }
    }
    gone();
    // Other tests of this process open descriptors too: a leak of these 300 would stand out all the same.
    world.eventually("the descriptors are closed", || open() < before + 200);
    world.eventually("every session ended", || world.ended() == 301);
}

pub(crate) fn a_push_to_a_sleeping_shard_is_seen_at_once(world: World) {
    let mut client = world.login("k");
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(30));
        let began = Instant::now();
        world.push(key("k"), b"wake up");
        client.next().expect("a push");
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}

pub(crate) fn one_huge_room_does_not_starve_a_heartbeat(world: World) {
    let mut members: Vec<_> = (0..500).map(|n| world.login(&format!("m{n}"))).collect();
    let mut alone = world.login("alone");
    for n in 0..40u32 {
        world.push(room(), &n.to_be_bytes());
    }
    alone.send(Op::HEARTBEAT, &[]);
    let began = Instant::now();
    loop {
        let (header, body) = alone.next().expect("a frame");
        if header.op == Op::HEARTBEAT_REPLY {
            assert_eq!(body.len(), 4);
            break;
        }
    }
    assert!(began.elapsed() < PATIENCE / 2);
    for member in &mut members {
        for n in 0..40u32 {
            assert_eq!(member.next().expect("a push").1, n.to_be_bytes());
        }
    }
}

pub(crate) fn a_reset_ends_the_session(world: World) {
    let client = world.login("k");
    let stream = socket2::Socket::from(client.stream);
    stream.set_linger(Some(Duration::ZERO)).expect("linger");
    drop(stream);
    world.eventually("the session ended", || world.ended() == 1);
    let half = world.login("half");
    half.stream.shutdown(Shutdown::Write).expect("a shutdown");
    world.eventually("a client that ends its side is gone", || world.ended() == 2);
}

pub(crate) fn a_drain_closes_everybody(world: World) {
    let mut clients: Vec<_> = (0..50).map(|n| world.login(&format!("k{n}"))).collect();
    assert!(world.runtime.block_on(world.comet.drain()));
    assert!(clients.iter_mut().all(|client| client.next().is_none()));
    assert_eq!(world.ended(), 50);
    assert!(std::net::TcpStream::connect(world.comet.tcp[0]).is_err());
}

pub(crate) fn logic_is_told_the_address_that_a_proxy_tells(world: World) {
    let world = world.another(|config| {
        config.tcp.proxy_protocol = true;
        config.proxies.trusted =
            ["127.0.0.1".parse::<ProxyNetwork>().expect("a network")].into_iter().collect();
    });
    // Some of them change shards.
    let clients = (1..=20)
        .map(|n: u8| [203, 0, 113, n].into())
        .chain([IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])]);
    let expected: Vec<IpAddr> = clients.collect();
    let _clients: Vec<_> = expected
        .iter()
        .map(|address| {
            let mut client = world.connect();
            let header = if address.is_ipv6() { v1(*address) } else { v2(*address, b"\x04\x00\x02ab") };
            let (begin, end) = header.split_at(7);
            client.stream.write_all(begin).expect("a write");
            std::thread::sleep(Duration::from_millis(2));
            client.stream.write_all(end).expect("a write");
            client.send(Op::AUTH, login(&address.to_string()).as_bytes());
            assert_eq!(client.next().expect("a reply").0.op, Op::AUTH_REPLY);
            client
        })
        .collect();
    assert_eq!(world.logic.addresses(), expected);
    let metrics = world.comet.front.metrics();
    world.eventually("some of them changed shards", || metrics.sum(|stats| stats.attached) > 0);
    let addresses = || world.logic.reports().last().map(|report| report.clients.addresses);
    world.eventually("each address is counted", || addresses() == Some(expected.len() as u64));
}
