//! goim's gRPC service over a real connection.

use futures_util::{StreamExt as _, stream};
use grpc::{
    halley::{OnlineReport, logic_client::LogicClient as HalleyClient},
    logic::{
        ConnectReq, DisconnectReq, HeartbeatReq, NodesReq, OnlineReq, ReceiveReq, logic_client::LogicClient,
    },
    protocol::Proto,
};
use tonic::{
    Code,
    codec::CompressionEncoding,
    transport::{Channel, Endpoint},
};

use super::*;

async fn serve(sets: &[&str]) -> (Setup, LogicClient<Channel>) {
    let (setup, channel) = serve_all(sets).await;
    (setup, LogicClient::new(channel))
}

async fn serve_all(sets: &[&str]) -> (Setup, Channel) {
    let sets: Vec<&str> = ["httpServer.addr=127.0.0.1:0", "rpcServer.addr=127.0.0.1:0"]
        .into_iter()
        .chain(sets.iter().copied())
        .collect();
    let setup = Setup::new(&sets).await;
    let server = setup.start(Router::new(), Drain::new()).await.unwrap();
    let channel = Endpoint::from_shared(format!("http://{}", server.rpc_addrs()[0])).unwrap();
    (setup, channel.connect().await.unwrap())
}

fn connect_req(token: &str) -> ConnectReq {
    ConnectReq {
        server: "a:1".into(),
        token: Bytes::copy_from_slice(token.as_bytes()),
        ..ConnectReq::default()
    }
}

#[tokio::test]
async fn a_go_comet_connects_renews_and_disconnects() {
    let (setup, mut client) = serve(&[]).await;
    let token = r#"{"mid":123,"key":"k1","room_id":"live://1000","accepts":[1000],"rooms":["live://2"]}"#;
    let reply = client.connect(connect_req(token)).await.unwrap().into_inner();
    assert_eq!((reply.mid, reply.key.as_str(), reply.room_id.as_str()), (123, "k1", ROOM));
    assert_eq!((reply.accepts, reply.rooms), (vec![1000], vec!["live://2".to_owned()]));
    assert_eq!(reply.heartbeat, 480_000_000_000, "nanoseconds");
    assert!(reply.generation > 0);

    let (key, on) = ("k1".to_owned(), "a:1".to_owned());
    let heartbeat = HeartbeatReq { mid: 123, key: key.clone(), server: on.clone(), generation: 0 };
    client.heartbeat(heartbeat).await.unwrap();
    let old =
        DisconnectReq { mid: 123, key: key.clone(), server: on.clone(), generation: reply.generation - 1 };
    assert!(!client.disconnect(old).await.unwrap().into_inner().has, "fenced");
    let other = DisconnectReq { mid: 123, key: key.clone(), server: "b:1".into(), generation: 0 };
    assert!(!client.disconnect(other).await.unwrap().into_inner().has, "another comet's");
    let own = DisconnectReq { mid: 123, key, server: on, generation: 0 };
    assert!(client.disconnect(own).await.unwrap().into_inner().has);
    assert_eq!(setup.deps.sessions.servers_of_keys(&[Key::new("k1")]).await.unwrap(), [None]);
}

#[tokio::test]
async fn errors_have_the_codes_of_their_kind() {
    let (_setup, mut client) = serve(&[]).await;
    let refused = client.connect(connect_req("no json")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().starts_with("the login is not"), "{refused}");
    let nobody = ConnectReq { server: String::new(), ..connect_req("{}") };
    assert_eq!(client.connect(nobody).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(client.receive(ReceiveReq::default()).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn counts_are_exchanged_compressed_too() {
    let (_setup, client) = serve(&[]).await;
    let mut client = client.send_compressed(CompressionEncoding::Gzip);
    let room_count =
        HashMap::from([(ROOM.to_owned(), 2), ("bad\n".to_owned(), 1), ("live://2".to_owned(), -1)]);
    let elsewhere = HashMap::from([(ROOM.to_owned(), 5), ("live://3".to_owned(), 1)]);
    let report = OnlineReq { server: "b:1".into(), room_count: elsewhere, ..OnlineReq::default() };
    client.renew_online(report).await.unwrap();
    let report = OnlineReq { server: "a:1".into(), room_count, connections: 3, addresses: 2 };
    let all = client.renew_online(report).await.unwrap().into_inner().all_room_count;
    let everybody = HashMap::from([(ROOM.to_owned(), 7), ("live://3".to_owned(), 1)]);
    assert_eq!(all, everybody, "rooms it has not, too; what is no room or no count is left out");
}

#[tokio::test]
async fn a_report_that_does_not_end_is_an_error() {
    let (_setup, channel) = serve_all(&[]).await;
    let page = OnlineReport { server: "a:1".into(), ..OnlineReport::default() };
    let pages = stream::iter([page]).chain(stream::pending());
    let mut answer = HalleyClient::new(channel).online(pages).await.unwrap().into_inner();
    let error = tokio::time::timeout(Duration::from_secs(60), answer.message()).await.expect("an answer");
    assert_eq!(error.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn messages_go_to_the_room_a_halley_comet_names() {
    let (mut setup, mut client) = serve(&[]).await;
    let proto = Some(Proto { ver: 0, op: 4, seq: 7, body: Bytes::from_static(b"hi") });
    let from_go = ReceiveReq { mid: 1, proto: proto.clone(), ..ReceiveReq::default() };
    let reply = client.receive(from_go).await.unwrap().into_inner();
    assert_eq!((reply.room, reply.body.len()), (Some(false), 0));
    let from_halley = ReceiveReq { mid: 1, proto, key: "k1".into(), room: ROOM.into() };
    assert_eq!(client.receive(from_halley).await.unwrap().into_inner().room, Some(true));
    let published = setup.published().await;
    assert_eq!(published[0].origin, Some(Origin { key: Key::new("k1"), seq: 7, ver: 0 }));
}

#[tokio::test]
async fn nodes_are_those_of_the_http_api() {
    let (_setup, mut client) = serve(&["node.hostDomain=.goim.io"]).await;
    let ask = NodesReq { platform: "web".into(), client_ip: "10.0.0.1".into() };
    let reply = client.nodes(ask).await.unwrap().into_inner();
    let mut nodes = reply.nodes;
    nodes.sort();
    assert_eq!(nodes, ["host-a.goim.io", "host-b.goim.io"]);
    assert_eq!((reply.tcp_port, reply.ws_port, reply.wss_port), (3101, 3102, 3103));
    assert_eq!((reply.heartbeat, reply.heartbeat_max), (240, 2));
    let backoff = reply.backoff.unwrap();
    assert_eq!((backoff.max_delay, backoff.base_delay, backoff.factor, backoff.jitter), (300, 3, 1.8, 0.3));
}
