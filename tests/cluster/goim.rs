//! One service of goim's among ours: keys and values that goim's programs read and write, and services that speak
//! goim's gRPC and nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
};

use prost::Message as _;
use proto::rpc::{
    comet::{
        BroadcastReply, BroadcastReq, BroadcastRoomReply, BroadcastRoomReq, PushMsgReply, PushMsgReq,
        RoomsReply, RoomsReq, comet_server,
    },
    logic::{
        ConnectReply, ConnectReq, DisconnectReply, DisconnectReq, HeartbeatReply, HeartbeatReq, NodesReply,
        NodesReq, OnlineReply, OnlineReq, ReceiveReply, ReceiveReq, logic_client::LogicClient, logic_server,
    },
    protocol::Proto,
};
use tonic::{
    Request, Response, Status, async_trait,
    body::Body,
    codec::CompressionEncoding,
    codegen::{Service, http},
    server::NamedService,
    transport::Server as GrpcServer,
};

use crate::{
    harness::{
        BOTH, Frame, Login, eventually,
        go_comet::{CONNECT, CONNECT_AGAIN, GoComet as GoRaw, RENEW, REPORT},
        hex,
    },
    store::{etcdctl, redis, redis_bytes, sessions},
    world::{Cluster, Queue, expect_comets},
};

/// A service of goim's on a port of its own, for as long as the test runs.
fn serve<S>(service: S) -> SocketAddr
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = std::convert::Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket option");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let connections = cluster::accept::incoming(listener);
            GrpcServer::builder().add_service(service).serve_with_incoming(connections).await
        })
    });
    address
}

/// A comet as goim has it: it keeps what it is told.
#[derive(Clone, Debug, Default)]
struct GoComet(Arc<Mutex<Vec<Told>>>);

#[derive(Clone, Debug, PartialEq)]
enum Told {
    Keys(Vec<String>, i32, Proto),
    Room(String, Proto),
    All(i32, i32, Proto),
}

impl GoComet {
    fn tell(&self, told: Told) {
        self.0.lock().expect("a lock").push(told);
    }

    fn told(&self) -> Vec<Told> {
        self.0.lock().expect("a lock").clone()
    }
}

fn sent(proto: Option<Proto>) -> Result<Proto, Status> {
    proto.ok_or_else(|| Status::unknown("no proto"))
}

#[async_trait]
impl comet_server::Comet for GoComet {
    async fn push_msg(&self, request: Request<PushMsgReq>) -> Result<Response<PushMsgReply>, Status> {
        let PushMsgReq { keys, proto, proto_op, .. } = request.into_inner();
        self.tell(Told::Keys(keys, proto_op, sent(proto)?));
        Ok(Response::new(PushMsgReply {}))
    }

    async fn broadcast(&self, request: Request<BroadcastReq>) -> Result<Response<BroadcastReply>, Status> {
        let BroadcastReq { proto_op, proto, speed, .. } = request.into_inner();
        self.tell(Told::All(proto_op, speed, sent(proto)?));
        Ok(Response::new(BroadcastReply {}))
    }

    async fn broadcast_room(
        &self,
        request: Request<BroadcastRoomReq>,
    ) -> Result<Response<BroadcastRoomReply>, Status> {
        let BroadcastRoomReq { room_id, proto, .. } = request.into_inner();
        self.tell(Told::Room(room_id, sent(proto)?));
        Ok(Response::new(BroadcastRoomReply {}))
    }

    async fn rooms(&self, _: Request<RoomsReq>) -> Result<Response<RoomsReply>, Status> {
        Ok(Response::new(RoomsReply { rooms: HashMap::new() }))
    }
}

/// What Go's job sends for one message: operation 9, the body one complete frame.
fn raw(body: &str) -> Proto {
    Proto { ver: 1, op: 9, seq: 0, body: Frame::new(1000, 0, body).bytes().into() }
}

/// A Go comet among ours: it is called as Go's job calls it, in the same order for each.
#[test]
fn a_go_comet_gets_goim_s_calls_from_our_job_and_its_users_from_our_logic() {
    let mut cluster = Cluster::start();
    cluster.jobs.truncate(1);
    let go = GoComet::default();
    let address = serve(comet_server::CometServer::new(go.clone())).to_string();
    etcdctl(&cluster.etcd, &["put", &format!("/goim.comet/prod/sh/sh001/{address}"), &address]);
    expect_comets(&cluster.logics[0], 3);
    eventually("job knows it", || (cluster.jobs[0].log().contains(&address)).then_some(()));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (logic, server) = (cluster.logics[0].logic_rpc, address);
    let call = async |mid: i64, key: &str| {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{logic}")).expect("a URL");
        let mut logic = LogicClient::new(endpoint.connect().await.expect("the port answers"));
        let token = format!(r#"{{"mid":{mid},"key":"{key}","room_id":"live://1","accepts":[1000]}}"#);
        let request = ConnectReq { server: server.clone(), token: token.into(), ..Default::default() };
        logic.connect(request).await.expect("accepted").into_inner()
    };
    let reply = runtime.block_on(call(5, "go"));
    assert_eq!((reply.mid, reply.key.as_str(), reply.room_id.as_str()), (5, "go", "live://1"));
    let mut ours =
        cluster.comets[0].client(BOTH[1], &Login::key("ours").mid(5).room("live://1").accepts(&[1000]));

    cluster.logics[1].push("mids?operation=1000&mids=5", "mids");
    ours.expect_push(1000, "mids");
    cluster.logics[1].push("room?operation=1000&type=live&room=1", "room");
    ours.expect_push(1000, "room");
    cluster.logics[1].push("all?operation=1000&speed=300", "all");
    ours.expect_push(1000, "all");
    let expected = [
        Told::Keys(vec!["go".to_owned()], 1000, raw("mids")),
        Told::Room("live://1".to_owned(), raw("room")),
        Told::All(1000, 100, raw("all")),
    ];
    let told =
        eventually("the Go comet was told all three", || Some(go.told()).filter(|told| told.len() >= 3));
    // Unary calls of different kinds may pass each other.
    for one in &expected {
        assert_eq!(told.iter().filter(|other| *other == one).count(), 1, "{one:?} in {told:?}");
    }
    assert_eq!(told.len(), 3, "{told:?}");

    // It has no kick: that is said, and who can be kicked is.
    let answer = cluster.logics[0].post("/halley/kick/mids?mids=5", "");
    answer.expect_error(503, -500);
    let words = answer.json()["message"].as_str().expect("a text").to_owned();
    assert!(words.contains(&server) && words.contains("no kick"), "{words}");
    ours.end();
    assert_eq!(go.told().len(), 3, "{:?}", go.told());
    // Its user goes to a comet of ours: nothing tells the Go comet, whose end of the old connection changes nothing.
    let mut moved = cluster.comets[1].client(BOTH[0], &Login::key("go").mid(5).accepts(&[1001]));
    let end = DisconnectReq { mid: 5, key: "go".to_owned(), server, generation: 0 };
    assert!(!runtime.block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{logic}")).expect("a URL");
        let mut logic = LogicClient::new(endpoint.connect().await.expect("the port answers"));
        logic.disconnect(end).await.expect("an answer").into_inner().has
    }));
    cluster.logics[1].push("keys?operation=1001&keys=go", "moved");
    moved.expect_push(1001, "moved");
}

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
    let mut comet = GoRaw::connect(cluster.logics[0].logic_rpc);

    let (status, body) = comet.call(1, CONNECT, false, &connect.encode_to_vec());
    assert_eq!(status, "0");
    let reply = ConnectReply::decode(&body[..]).expect("a reply");
    assert_eq!((reply.mid, reply.key.as_str(), reply.room_id.as_str()), (123, "k1", "live://1000"));
    assert_eq!((reply.accepts, reply.heartbeat), (vec![1000], 90_000_000_000));
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

/// A logic as goim has it: it knows no `halley.v1`, no generations and no rooms of ours.
#[derive(Clone, Debug, Default)]
struct GoLogic(Arc<Mutex<Asked>>);

#[derive(Clone, Debug, Default)]
struct Asked {
    connects: Vec<ConnectReq>,
    disconnects: Vec<DisconnectReq>,
    messages: Vec<ReceiveReq>,
    heartbeats: Vec<HeartbeatReq>,
    reports: Vec<OnlineReq>,
    /// How the reports were encoded.
    encodings: Vec<String>,
}

impl GoLogic {
    fn asked(&self) -> Asked {
        self.0.lock().expect("a lock").clone()
    }
}

#[async_trait]
impl logic_server::Logic for GoLogic {
    async fn connect(&self, request: Request<ConnectReq>) -> Result<Response<ConnectReply>, Status> {
        let request = request.into_inner();
        if request.token.starts_with(b"no JSON") {
            return Err(Status::unknown("invalid character 'o' in literal null"));
        }
        self.0.lock().expect("a lock").connects.push(request);
        let reply = ConnectReply {
            mid: 9,
            key: "go-key".to_owned(),
            room_id: "live://go".to_owned(),
            accepts: vec![1000],
            heartbeat: 240_000_000_000,
            ..Default::default()
        };
        Ok(Response::new(reply))
    }

    async fn disconnect(&self, request: Request<DisconnectReq>) -> Result<Response<DisconnectReply>, Status> {
        self.0.lock().expect("a lock").disconnects.push(request.into_inner());
        Ok(Response::new(DisconnectReply { has: true }))
    }

    async fn heartbeat(&self, request: Request<HeartbeatReq>) -> Result<Response<HeartbeatReply>, Status> {
        self.0.lock().expect("a lock").heartbeats.push(request.into_inner());
        Ok(Response::new(HeartbeatReply {}))
    }

    async fn renew_online(&self, request: Request<OnlineReq>) -> Result<Response<OnlineReply>, Status> {
        let encoding = request.metadata().get("grpc-encoding").and_then(|encoding| encoding.to_str().ok());
        let mut asked = self.0.lock().expect("a lock");
        asked.encodings.push(encoding.unwrap_or_default().to_owned());
        asked.reports.push(request.into_inner());
        drop(asked);
        // Seven in the room, over all comets.
        Ok(Response::new(OnlineReply { all_room_count: HashMap::from([("live://go".to_owned(), 7)]) }))
    }

    async fn receive(&self, request: Request<ReceiveReq>) -> Result<Response<ReceiveReply>, Status> {
        self.0.lock().expect("a lock").messages.push(request.into_inner());
        Ok(Response::new(ReceiveReply::default()))
    }

    async fn nodes(&self, _: Request<NodesReq>) -> Result<Response<NodesReply>, Status> {
        Err(Status::unknown("not asked by a comet"))
    }
}

#[test]
fn our_comet_works_under_a_go_logic() {
    let mut cluster = Cluster::servers_only(Queue::List);
    let go = GoLogic::default();
    let service = logic_server::LogicServer::new(go.clone()).accept_compressed(CompressionEncoding::Gzip);
    let address = serve(service).to_string();
    etcdctl(&cluster.etcd, &["put", &format!("/goim.logic/prod/sh/sh001/{address}"), &address]);
    cluster.comets.push(cluster.comet(&["protocol.renewInterval=1s"]));
    let comet = &cluster.comets[0];
    comet.expect_ready();

    let mut refused = comet.connect(BOTH[1]);
    refused.send(7, 1, "no JSON");
    assert_eq!(refused.end().code(), Some(4401), "what goim's logic answers with an error is no outage");

    let login = Login::key("asked-for").mid(1);
    let mut client = comet.client(BOTH[1], &login);
    let asked = go.asked();
    assert_eq!(asked.connects.len(), 1);
    assert_eq!(asked.connects[0].server, comet.comet_rpc.to_string());
    assert_eq!(asked.connects[0].token, login.body());
    // The comet in the room pushes to what logic said.
    eventually("the report came", || {
        let reports = go.asked().reports;
        reports.iter().any(|report| report.room_count.get("live://go") == Some(&1)).then_some(())
    });
    assert!(go.asked().reports.iter().all(|report| report.server == comet.comet_rpc.to_string()));
    assert!(go.asked().encodings.iter().all(|encoding| encoding == "gzip"), "{:?}", go.asked().encodings);
    eventually("the heartbeat says what logic said", || {
        client.send(2, 1, "");
        (client.frame().body == 7_i32.to_be_bytes()).then_some(())
    });
    // goim's renewal: one call for each session.
    let beat = eventually("the session was renewed", || {
        client.send(2, 1, "");
        assert_eq!(client.frame().op, 3);
        go.asked().heartbeats.first().cloned()
    });
    assert_eq!((beat.mid, beat.key.as_str(), beat.generation), (9, "go-key", 0));
    assert_eq!(beat.server, comet.comet_rpc.to_string());
    client.send(1234, 8, "ask");
    client.expect_reply(Frame::new(1235, 8, ""));
    let messages = go.asked().messages;
    let proto = messages[0].proto.as_ref().expect("a frame");
    assert_eq!((messages[0].mid, proto.op, proto.seq, &proto.body[..]), (9, 1234, 8, &b"ask"[..]));
    client.leave();
    let ended = eventually("the end was told", || go.asked().disconnects.first().cloned());
    assert_eq!((ended.mid, ended.key.as_str(), ended.generation), (9, "go-key", 0));
    assert_eq!(ended.server, comet.comet_rpc.to_string());
}
