//! The gRPC ports, called as goim's job and goim's comet call them.

use std::{collections::HashMap, future::Future, net::SocketAddr};

use grpc::{
    comet::{BroadcastReq, BroadcastRoomReq, PushMsgReq, RoomsReq, comet_client::CometClient},
    logic::{
        ConnectReq, DisconnectReq, HeartbeatReq, NodesReq, OnlineReq, ReceiveReq, logic_client::LogicClient,
    },
    protocol::Proto,
};
use serde_json::json;
use tonic::{Code, codec::CompressionEncoding, transport::Channel};

use crate::harness::{BOTH, Client, Frame, Login, Server, Transport, eventually, hex};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

async fn channel(address: SocketAddr) -> Channel {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("a URL");
    endpoint.connect().await.expect("the port answers")
}

/// As Go's job wraps what it sends: operation 9, the body one or several complete frames.
fn raw(frames: &[Frame]) -> Option<Proto> {
    let body: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
    Some(Proto { ver: 1, op: 9, seq: 0, body: body.into() })
}

fn three() -> [Frame; 3] {
    [Frame::new(1000, 0, "abc"), Frame::new(1000, 0, "def"), Frame::new(1001, 0, "ghijk")]
}

/// The bytes of docs/PROTOCOL.md section 6 for three joined messages.
#[track_caller]
fn expect_three(client: &mut Client) {
    let frames: Vec<u8> = three().iter().flat_map(Frame::bytes).collect();
    match client.transport {
        Transport::Tcp => client.expect_bytes(&frames),
        Transport::WebSocket => {
            client.expect_bytes(&hex("82 4b | 0000004b 0010 0001 00000009 00000000"));
            client.expect_bytes(&frames);
        }
    }
}

fn two_clients(server: &Server) -> [Client; 2] {
    BOTH.map(|transport| {
        let login = Login::key(&format!("{transport:?}")).room("live://1000").accepts(&[1000]);
        server.client(transport, &login)
    })
}

#[test]
fn comet_takes_the_calls_of_goims_job() {
    let server = Server::start(&[]);
    let mut clients = two_clients(&server);
    block_on(async {
        let mut comet = CometClient::new(channel(server.comet_rpc).await);
        let one = || raw(&[Frame::new(1000, 0, r#"{"a":1}"#)]);
        let keys = vec!["Tcp".to_owned(), "WebSocket".to_owned(), "absent".to_owned()];
        comet
            .push_msg(PushMsgReq { keys, proto: one(), proto_op: 1000, ..Default::default() })
            .await
            .expect("an absent key is no error");
        comet
            .broadcast_room(BroadcastRoomReq {
                room_id: "live://1000".into(),
                proto: one(),
                ..Default::default()
            })
            .await
            .expect("accepted");
        comet
            .broadcast(BroadcastReq { proto_op: 1000, proto: one(), speed: 0, ..Default::default() })
            .await
            .expect("accepted");
        comet
            .broadcast(BroadcastReq { proto_op: 1000, proto: one(), speed: 64, ..Default::default() })
            .await
            .expect("accepted");
        // Nobody accepts 1001, and nobody is in that room.
        comet
            .broadcast(BroadcastReq { proto_op: 1001, proto: one(), speed: 0, ..Default::default() })
            .await
            .expect("accepted");
        comet
            .broadcast_room(BroadcastRoomReq {
                room_id: "live://none".into(),
                proto: one(),
                ..Default::default()
            })
            .await
            .expect("accepted");
    });
    for client in &mut clients {
        for _ in 0..4 {
            client.expect_push(1000, r#"{"a":1}"#);
        }
        client.expect_silence();
    }
}

#[test]
fn joined_messages_stay_joined() {
    let server = Server::start(&[]);
    let mut clients = two_clients(&server);
    block_on(async {
        let mut comet = CometClient::new(channel(server.comet_rpc).await);
        let request =
            BroadcastRoomReq { room_id: "live://1000".into(), proto: raw(&three()), ..Default::default() };
        comet.broadcast_room(request).await.expect("accepted");
        let keys = vec!["Tcp".to_owned(), "WebSocket".to_owned()];
        let request = PushMsgReq { keys, proto: raw(&three()), proto_op: 1000, ..Default::default() };
        comet.push_msg(request).await.expect("accepted");
    });
    for client in &mut clients {
        expect_three(client);
        expect_three(client);
    }
}

#[test]
fn a_proto_that_is_not_raw_is_one_message() {
    let server = Server::start(&[]);
    let mut clients = two_clients(&server);
    block_on(async {
        let mut comet = CometClient::new(channel(server.comet_rpc).await);
        let proto = Some(Proto { ver: 1, op: 1000, seq: 0, body: "plain".into() });
        let request = BroadcastRoomReq { room_id: "live://1000".into(), proto, ..Default::default() };
        comet.broadcast_room(request).await.expect("accepted");
        // What it says of itself is kept, as in goim.
        let proto = Some(Proto { ver: 0, op: 1000, seq: 5, body: "as it is".into() });
        let request =
            BroadcastRoomReq { room_id: "live://1000".into(), proto: proto.clone(), ..Default::default() };
        comet.broadcast_room(request).await.expect("accepted");
        let keys = vec!["Tcp".to_owned(), "WebSocket".to_owned()];
        let request = PushMsgReq { keys, proto: proto.clone(), proto_op: 1000, ..Default::default() };
        comet.push_msg(request).await.expect("accepted");
        let request = BroadcastReq { proto_op: 1000, proto, ..Default::default() };
        comet.broadcast(request).await.expect("accepted");
    });
    for client in &mut clients {
        client.expect_push(1000, "plain");
        for _ in 0..3 {
            assert_eq!(client.frame(), Frame { ver: 0, ..Frame::new(1000, 5, "as it is") });
        }
    }
}

#[test]
fn comet_tells_its_rooms() {
    let server = Server::start(&[]);
    let clients = two_clients(&server);
    let third = server.client(Transport::Tcp, &Login::key("third").rooms(&["live://2000", "game://1"]));
    let rooms = || {
        block_on(async {
            let mut comet = CometClient::new(channel(server.comet_rpc).await);
            comet.rooms(RoomsReq {}).await.expect("an answer").into_inner().rooms
        })
    };
    let expected =
        |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), true)).collect::<HashMap<_, _>>();
    eventually("three rooms", || {
        (rooms() == expected(&["live://1000", "live://2000", "game://1"])).then_some(())
    });
    drop((clients, third));
    eventually("no room", || rooms().is_empty().then_some(()));
}

#[test]
fn comet_refuses_what_is_no_push() {
    let server = Server::start(&[]);
    let mut clients = two_clients(&server);
    block_on(async {
        let mut comet = CometClient::new(channel(server.comet_rpc).await);
        let keys = || vec!["Tcp".to_owned()];
        let lying = |bytes: &[u8]| Some(Proto { ver: 1, op: 9, seq: 0, body: bytes.to_vec().into() });
        let mut lie = Frame::new(1000, 0, "x").bytes();
        lie[3] = 200;
        for proto in [None, lying(b""), lying(b"short"), lying(&lie), lying(&[&lie[..], &lie].concat())] {
            let request = PushMsgReq { keys: keys(), proto, proto_op: 1000, ..Default::default() };
            assert_eq!(comet.push_msg(request).await.expect_err("refused").code(), Code::InvalidArgument);
        }
        let none = PushMsgReq { keys: vec![], proto: raw(&three()), proto_op: 1000, ..Default::default() };
        assert_eq!(comet.push_msg(none).await.expect_err("refused").code(), Code::InvalidArgument);
        for room_id in ["", "\u{0}", &"x".repeat(129)] {
            let request =
                BroadcastRoomReq { room_id: room_id.into(), proto: raw(&three()), ..Default::default() };
            assert_eq!(
                comet.broadcast_room(request).await.expect_err("refused").code(),
                Code::InvalidArgument
            );
        }
        let request = BroadcastReq { proto_op: 1000, proto: raw(&three()), speed: -1, ..Default::default() };
        assert_eq!(comet.broadcast(request).await.expect_err("refused").code(), Code::InvalidArgument);
        // Longer than a push may be, and longer than a call may be.
        for len in [(1 << 20) + 100, 8 << 20] {
            let proto = Some(Proto { ver: 1, op: 1000, seq: 0, body: vec![0; len].into() });
            let request = PushMsgReq { keys: keys(), proto, proto_op: 1000, ..Default::default() };
            assert!(comet.push_msg(request).await.is_err(), "{len}");
        }
        let request = PushMsgReq { keys: keys(), proto: raw(&three()), proto_op: 1000, ..Default::default() };
        comet.push_msg(request).await.expect("accepted");
    });
    expect_three(&mut clients[0]);
    clients[1].expect_silence();
}

fn connect_request(token: &str) -> ConnectReq {
    ConnectReq { server: "127.0.0.1:9999".into(), token: token.to_owned().into(), ..Default::default() }
}

#[test]
fn logic_takes_the_calls_of_goims_comet() {
    let server = Server::start(&["logic.node.heartbeat=20s", "logic.node.heartbeatMax=3"]);
    block_on(async {
        let mut logic = LogicClient::new(channel(server.logic_rpc).await);
        let token =
            r#"{"mid":123,"key":"k1","room_id":"live://1000","platform":"web","accepts":[1000,1001]}"#;
        let reply = logic.connect(connect_request(token)).await.expect("let in").into_inner();
        assert_eq!((reply.mid, reply.key.as_str(), reply.room_id.as_str()), (123, "k1", "live://1000"));
        assert_eq!(reply.accepts, [1000, 1001]);
        assert_eq!(reply.heartbeat, 60_000_000_000, "nanoseconds");
        assert!(reply.generation > 0);

        let reply = logic.connect(connect_request("{}")).await.expect("let in").into_inner();
        assert_eq!((reply.mid, reply.room_id.as_str(), reply.accepts.len()), (0, "", 0));
        assert_eq!((reply.key.len(), reply.key.matches('-').count()), (36, 4), "a UUID: {}", reply.key);

        assert!(logic.connect(connect_request("nonsense")).await.is_err());
        assert!(
            logic.connect(ConnectReq { token: "{}".into(), ..Default::default() }).await.is_err(),
            "no server"
        );

        let heartbeat =
            HeartbeatReq { mid: 123, key: "k1".into(), server: "127.0.0.1:9999".into(), generation: 0 };
        logic.heartbeat(heartbeat).await.expect("renewed");

        // A Go comet has no generation; then only the comet that holds the session may end it.
        let disconnect = |server: &str, generation| DisconnectReq {
            mid: 123,
            key: "k1".into(),
            server: server.into(),
            generation,
        };
        assert!(!logic.disconnect(disconnect("127.0.0.1:1", 0)).await.expect("an answer").into_inner().has);
        assert!(
            !logic.disconnect(disconnect("127.0.0.1:9999", 1)).await.expect("an answer").into_inner().has
        );
        assert!(logic.disconnect(disconnect("127.0.0.1:9999", 0)).await.expect("an answer").into_inner().has);
        assert!(
            !logic.disconnect(disconnect("127.0.0.1:9999", 0)).await.expect("an answer").into_inner().has
        );

        let nodes = NodesReq { platform: "web".into(), client_ip: "127.0.0.1".into() };
        let reply = logic.nodes(nodes).await.expect("an answer").into_inner();
        assert_eq!((reply.tcp_port, reply.ws_port, reply.wss_port), (3101, 3102, 3103));
        assert_eq!((reply.heartbeat, reply.heartbeat_max), (20, 3));
        assert_eq!(reply.backoff.map(|backoff| (backoff.max_delay, backoff.base_delay)), Some((300, 3)));
    });
}

#[test]
fn a_compressed_report_of_rooms_is_understood_and_summed_up() {
    let server = Server::start(&[]);
    let mut client = server.client(Transport::Tcp, &Login::key("k").room("live://1000"));
    let reply = block_on(async {
        let logic = LogicClient::new(channel(server.logic_rpc).await);
        let mut logic = logic.send_compressed(CompressionEncoding::Gzip);
        let rooms =
            |count| HashMap::from([("live://1000".to_owned(), count), ("live://theirs".to_owned(), 3)]);
        let report = |count| OnlineReq {
            server: "127.0.0.1:9999".into(),
            room_count: rooms(count),
            ..Default::default()
        };
        logic.renew_online(report(5)).await.expect("an answer");
        logic.renew_online(report(2)).await.expect("an answer").into_inner().all_room_count
    });
    assert_eq!(reply.get("live://theirs"), Some(&3));
    eventually("people of both comets", || {
        let counts = server.get("/goim/online/room?type=live&rooms=1000&rooms=theirs").json();
        (counts["data"] == json!({"1000": 3, "theirs": 3})).then_some(())
    });
    eventually("the heartbeat says so too", || {
        client.send(2, 1, "");
        (client.frame().body == [0, 0, 0, 3]).then_some(())
    });
}

#[test]
fn messages_from_another_comet_go_where_they_should() {
    let server = Server::start(&[]);
    let mut client = server.client(Transport::Tcp, &Login::key("k").room("live://1000"));
    block_on(async {
        let mut logic = LogicClient::new(channel(server.logic_rpc).await);
        let message = |op, room: &str| ReceiveReq {
            mid: 1,
            proto: Some(Proto { ver: 1, op, seq: 9, body: "from afar".into() }),
            key: "elsewhere".into(),
            room: room.into(),
        };
        // A Go comet says neither key nor room: nothing to deliver, no error either.
        logic.receive(message(4, "")).await.expect("taken");
        logic.receive(message(1000, "live://1000")).await.expect("taken");
        logic.receive(message(4, "live://1000")).await.expect("taken");
        let missing = ReceiveReq { mid: 1, ..Default::default() };
        assert_eq!(logic.receive(missing).await.expect_err("refused").code(), Code::InvalidArgument);
    });
    client.expect_push(5, "from afar");
    client.expect_silence();
}
