//! A room over two comets, users on both, who is where, and kicks.

use serde_json::json;

use crate::{
    harness::{BOTH, Client, Frame, Login, Server, Transport, epoch_s, eventually},
    world::{Cluster, Queue},
};

fn login(key: &str, mid: i64) -> Login {
    Login::key(key).mid(mid).room("live://1000").accepts(&[1000])
}

/// One client on each comet and transport, all in one room: `k0` and `k1` on the first comet.
fn four(comets: &[Server]) -> Vec<Client> {
    let places = comets.iter().flat_map(|comet| BOTH.map(|transport| (comet, transport)));
    places
        .enumerate()
        .map(|(n, (comet, transport))| comet.client(transport, &login(&format!("k{n}"), n as i64 + 1)))
        .collect()
}

#[test]
fn what_is_pushed_to_a_room_reaches_its_members_on_every_comet_once() {
    let cluster = Cluster::start();
    let mut clients = four(&cluster.comets);
    // Whichever logic takes it.
    for (n, logic) in cluster.logics.iter().enumerate() {
        logic.push("room?operation=1000&type=live&room=1000", format!("through logic {n}"));
        for client in &mut clients {
            client.expect_push(1000, format!("through logic {n}"));
        }
    }
    for client in &mut clients {
        client.expect_silence();
    }
}

#[test]
fn users_on_different_comets_see_each_others_messages() {
    // A message that logic is slow to take is answered empty; here the machine may be busy.
    let cluster = Cluster::start_with(Queue::Stream, &["rpcClient.timeout=10s"]);
    let mut clients = four(&cluster.comets);
    // Clients of version 0 ignore any other: what they say stays theirs.
    for (sender, ver) in [(0, 1), (3, 1), (0, 0), (3, 2)] {
        let said = Frame { ver, ..Frame::new(4, 77, format!("from {sender}")) };
        clients[sender].send_bytes(&said.bytes());
        for (n, client) in clients.iter_mut().enumerate() {
            let seq = if n == sender { 77 } else { 0 };
            assert_eq!(client.frame(), Frame { op: 5, seq, ..said.clone() });
        }
    }
    for client in &mut clients {
        client.expect_silence();
    }
}

#[test]
fn a_user_with_devices_on_both_comets_gets_one_copy_on_each() {
    let cluster = Cluster::start();
    let [first, second] = [&cluster.comets[0], &cluster.comets[1]];
    let mut devices = [
        first.client(Transport::Tcp, &login("phone", 7)),
        second.client(Transport::WebSocket, &login("desk", 7)),
    ];
    let mut other = first.client(Transport::WebSocket, &login("other", 8));
    cluster.logics[0].push("mids?operation=1000&mids=7", "to the user");
    for device in &mut devices {
        device.expect_push(1000, "to the user");
    }
    cluster.logics[1].push("keys?operation=1000&keys=desk&keys=phone", "to both keys");
    for device in &mut devices {
        device.expect_push(1000, "to both keys");
        device.expect_silence();
    }
    cluster.logics[0].push("all?operation=1000", "to everybody");
    for client in devices.iter_mut().chain([&mut other]) {
        client.expect_push(1000, "to everybody");
        client.expect_silence();
    }
}

#[test]
fn a_device_in_several_rooms_is_reached_through_each_over_comets() {
    let cluster = Cluster::start();
    let [first, second] = [&cluster.comets[0], &cluster.comets[1]];
    let mut several = first.client(
        Transport::WebSocket,
        &Login::key("several").rooms(&["live://1", "game://2"]).accepts(&[1000]),
    );
    let mut one = second.client(Transport::Tcp, &Login::key("one").room("game://2").accepts(&[1000]));
    let logic = &cluster.logics[0];
    logic.push("room?operation=1000&type=live&room=1", "live");
    several.expect_push(1000, "live");
    logic.push("room?operation=1000&type=game&room=2", "game");
    several.expect_push(1000, "game");
    one.expect_push(1000, "game");
    // A further room, joined now, and left again.
    one.send(2_000_000_000, 5, "live://1");
    one.expect_reply(Frame::new(2_000_000_001, 5, "live://1"));
    logic.push("room?operation=1000&type=live&room=1", "live again");
    several.expect_push(1000, "live again");
    one.expect_push(1000, "live again");
    several.send(2_000_000_002, 6, "game://2");
    several.expect_reply(Frame::new(2_000_000_003, 6, "game://2"));
    logic.push("room?operation=1000&type=game&room=2", "game again");
    one.expect_push(1000, "game again");
    several.expect_silence();
}

#[test]
fn every_logic_tells_which_comet_holds_which_device() {
    let before = epoch_s();
    let cluster = Cluster::start();
    let [first, second] = [&cluster.comets[0], &cluster.comets[1]];
    let _phone = first.client(Transport::Tcp, &login("phone", 7));
    let _desk = second.client(Transport::WebSocket, &login("desk", 7));
    for logic in &cluster.logics {
        let devices = logic.get("/halley/online/mids?mids=7").json()["data"]["7"].clone();
        let on: Vec<_> = devices
            .as_array()
            .expect("a list")
            .iter()
            .map(|device| (&device["key"], &device["server"]))
            .collect();
        let [first, second] = [json!(first.comet_rpc.to_string()), json!(second.comet_rpc.to_string())];
        assert_eq!(on, [(&json!("desk"), &second), (&json!("phone"), &first)]);
        let since = logic.get("/halley/online/keys?keys=desk").json()["data"]["desk"]["since"].as_u64();
        assert!(since.is_some_and(|since| (before..=epoch_s()).contains(&since)), "{since:?}");
    }
}

#[test]
fn a_kick_reaches_every_comet_with_its_words() {
    let cluster = Cluster::start();
    let [first, second] = [&cluster.comets[0], &cluster.comets[1]];
    let mut devices = [
        first.client(Transport::Tcp, &login("phone", 7).reasons()),
        second.client(Transport::WebSocket, &login("desk", 7).reasons()),
    ];
    let mut other = second.client(Transport::WebSocket, &login("other", 8));
    cluster.logics[1].post("/halley/kick/mids?mids=7&reason=enough", "").expect_success();
    for device in &mut devices {
        let end = device.end();
        let reason = end.reason().expect("operation 6");
        assert_eq!((&reason["code"], &reason["reason"]), (&json!(4420), &json!("enough")), "{reason}");
    }
    other.expect_silence();
    eventually("nobody is online any more", || {
        let devices = cluster.logics[0].get("/halley/online/mids?mids=7").json();
        (devices["data"]["7"] == json!([])).then_some(())
    });
}
