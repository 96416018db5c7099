//! logic's gRPC port, spoken to in the very bytes of a Go comet.

use grpc::logic::{ConnectReply, ConnectReq, OnlineReply};
use prost::Message;

use crate::harness::{
    Server,
    go_comet::{CONNECT, CONNECT_AGAIN, GoComet, RENEW, REPORT},
    hex,
};

fn login(key: &str) -> Vec<u8> {
    let token = format!(r#"{{"mid":123,"key":"{key}","room_id":"live://1000","accepts":[1000]}}"#);
    ConnectReq { server: "127.0.0.1:9999".into(), token: token.into(), ..Default::default() }.encode_to_vec()
}

#[test]
fn logic_takes_the_bytes_of_a_go_comet() {
    let server = Server::start(&[]);
    let mut comet = GoComet::connect(server.logic_rpc);

    let (status, body) = comet.call(1, CONNECT, false, &login("k1"));
    assert_eq!(status, "0");
    let reply = ConnectReply::decode(&body[..]).expect("a reply");
    assert_eq!((reply.mid, reply.key.as_str(), reply.room_id.as_str()), (123, "k1", "live://1000"));

    let (status, body) = comet.call(3, RENEW, true, &hex(REPORT));
    assert_eq!(status, "0");
    let reply = OnlineReply::decode(&body[..]).expect("a reply");
    assert_eq!(reply.all_room_count.get("live://1000"), Some(&5));

    // goim's keepalive pings without a call under way; a server may take that for abuse.
    for count in 0_u64..50 {
        comet.ping(count);
    }

    let (status, body) = comet.call(5, CONNECT_AGAIN, false, &login("k2"));
    assert_eq!(status, "0");
    assert_eq!(ConnectReply::decode(&body[..]).expect("a reply").key, "k2");
}
