//! Every row of the HTTP API.

use axum::{
    http::{HeaderMap, Method, Request, header},
    response::Response,
};
use tower::ServiceExt as _;

use super::*;

const OK: &str = r#"{"code":0,"message":""}"#;

/// Status and body; every answer has goim's content type.
pub(super) async fn ask(router: &Router, method: &str, url: &str, body: &str) -> (u16, String) {
    let (status, _, body) = send(router, method, url, Body::from(body.to_owned()), &[]).await;
    (status, body)
}

pub(super) async fn send(
    router: &Router,
    method: &str,
    url: &str,
    body: Body,
    headers: &[(&str, &str)],
) -> (u16, HeaderMap, String) {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response: Response = router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    assert_eq!(parts.headers[header::CONTENT_TYPE], "application/json; charset=utf-8", "{method} {url}");
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
}

/// An envelope less its time, which is only checked to be there.
fn plain(envelope: Envelope) -> (Target, Op, String) {
    assert!(envelope.accepted_at_us > 0 && envelope.origin.is_none());
    (envelope.target, envelope.op, String::from_utf8(envelope.body.to_vec()).unwrap())
}

fn to_keys(on: &str, keys: &[&str]) -> Target {
    Target::Keys { server: server(on), keys: keys.iter().map(|key| Key::new(*key)).collect() }
}

#[tokio::test]
async fn pushes_become_envelopes() {
    let mut setup = Setup::with_clients(&[]).await;
    let router = setup.router();
    let to_room = |id: &str| Target::Room(room(id));
    let rows: Vec<(&str, &str, Vec<Target>, i32)> = vec![
        ("/goim/push/keys?operation=1000&keys=k1&keys=k3", OK, vec![to_keys("a:1", &["k1", "k3"])], 1000),
        // One envelope a comet, keys in their order and as often as asked.
        (
            "/goim/push/keys?operation=1000&keys=k3&keys=k2&keys=k1&keys=k3",
            OK,
            vec![to_keys("a:1", &["k3", "k1", "k3"]), to_keys("b:1", &["k2"])],
            1000,
        ),
        ("/goim/push/keys?keys=k1", OK, vec![to_keys("a:1", &["k1"])], 0),
        ("/goim/push/keys?operation=&keys=k1", OK, vec![to_keys("a:1", &["k1"])], 0),
        ("/goim/push/keys?operation=0&keys=k1", OK, vec![to_keys("a:1", &["k1"])], 0),
        ("/goim/push/keys?operation=-7&keys=%6b1", OK, vec![to_keys("a:1", &["k1"])], -7),
        ("/goim/push/keys/?operation=22&keys=k1", OK, vec![to_keys("a:1", &["k1"])], 22),
        ("/goim/push/keys?operation=1999999999&keys=k1", OK, vec![to_keys("a:1", &["k1"])], 1_999_999_999),
        // A comma is part of a key.
        (
            "/goim/push/keys?operation=1000&keys=k1,k3&keys=b&keys=k1&keys=b",
            r#"{"code":0,"message":"","data":{"offline":["k1,k3","b"]}}"#,
            vec![to_keys("a:1", &["k1"])],
            1000,
        ),
        (
            "/goim/push/keys?operation=1000&keys=b",
            r#"{"code":0,"message":"","data":{"offline":["b"]}}"#,
            vec![],
            1000,
        ),
        ("/goim/push/mids?operation=1000&mids=2", OK, vec![to_keys("a:1", &["k3"])], 1000),
        (
            "/goim/push/mids?mids=1&mids=2&mids=2",
            OK,
            vec![to_keys("a:1", &["k1", "k3", "k3"]), to_keys("b:1", &["k2"])],
            0,
        ),
        (
            "/goim/push/mids/?operation=1000&mids=2&mids=9223372036854775807&mids=0",
            r#"{"code":0,"message":"","data":{"offline":["9223372036854775807","0"]}}"#,
            vec![to_keys("a:1", &["k3"])],
            1000,
        ),
        ("/goim/push/room?operation=1000&type=live&room=1000", OK, vec![to_room("live://1000")], 1000),
        (
            "/goim/push/room/?operation=1000&type=live&room=1000&room=2",
            OK,
            vec![to_room("live://1000"), to_room("live://2")],
            1000,
        ),
        ("/goim/push/room?operation=1000&type=live&room=%E4%B8%8A+1", OK, vec![to_room("live://上 1")], 1000),
        ("/goim/push/all?operation=1000", OK, vec![Target::All { speed: 0 }], 1000),
        ("/goim/push/all?operation=1000&speed=0", OK, vec![Target::All { speed: 0 }], 1000),
        ("/goim/push/all/?operation=1000&speed=64", OK, vec![Target::All { speed: 64 }], 1000),
        // The first of a parameter that is to be there once counts; unknown ones do not.
        ("/goim/push/all?operation=1000&operation=x&y=z", OK, vec![Target::All { speed: 0 }], 1000),
    ];
    for (url, answer, targets, op) in rows {
        let (status, body) = ask(&router, "POST", url, "hello").await;
        assert_eq!((status, body.as_str()), (200, answer), "{url}");
        let expected: Vec<_> =
            targets.into_iter().map(|target| (target, Op(op), "hello".to_owned())).collect();
        let mut published: Vec<_> = setup.published().await.into_iter().map(plain).collect();
        // A user's devices have no order among themselves.
        published.sort_by_key(
            |(target, ..)| !matches!(target, Target::Keys { server, .. } if server.as_str() == "a:1"),
        );
        assert_eq!(published, expected, "{url}");
    }
    let (status, body) = ask(&router, "POST", "/goim/push/all?operation=1000", "").await;
    assert_eq!((status, body.as_str()), (200, OK), "an empty message is a message");
    let metrics = &setup.deps.metrics;
    assert_eq!(metrics.pushes.of(crate::metrics::PushKind::Keys).get(), 10);
    assert_eq!(metrics.push_offline.get(), 5);
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_a_400_and_pushes_nothing() {
    let mut setup = Setup::with_clients(&[]).await;
    let router = setup.router();
    let long_room = format!("/goim/push/room?operation=1000&type=live&room={}", "r".repeat(122));
    for (method, url, words) in [
        ("POST", "/goim/push/keys?operation=1000", "keys is required"),
        ("POST", "/goim/push/keys?operation=1000&keys=", "keys is empty"),
        ("POST", "/goim/push/keys?operation=1000&keys=k1&keys=", "keys is empty"),
        ("POST", "/goim/push/keys?operation=x&keys=k1", "operation is not an integer of 32 bits"),
        ("POST", "/goim/push/keys?operation=1.5&keys=k1", "operation is not"),
        ("POST", "/goim/push/keys?operation=2147483648&keys=k1", "operation is not"),
        ("POST", "/goim/push/keys?operation=1&keys=k1", "operation 1 is the protocol's own"),
        ("POST", "/goim/push/keys?operation=21&keys=k1", "operation 21 is"),
        ("POST", "/goim/push/keys?operation=2000000000&keys=k1", "operation 2000000000 is"),
        ("POST", "/goim/push/keys?operation=2147483647&keys=k1", "operation 2147483647 is"),
        ("POST", "/goim/push/keys?keys=%ff", "the URL is not UTF-8"),
        ("POST", "/goim/push/keys?keys=%f", "percent"),
        ("POST", "/goim/push/mids?operation=1000", "mids is required"),
        ("POST", "/goim/push/mids?operation=1000&mids=", "mids is empty"),
        ("POST", "/goim/push/mids?operation=1000&mids=1,2", "mids is not an integer of 64 bits"),
        ("POST", "/goim/push/mids?operation=1000&mids=1&mids=x", "mids is not"),
        ("POST", "/goim/push/mids?operation=1000&mids=-1", "mids is negative"),
        ("POST", "/goim/push/mids?operation=1000&mids=9223372036854775808", "mids is not"),
        ("POST", "/goim/push/mids?operation=7&mids=1", "operation 7 is"),
        ("POST", "/goim/push/room?type=live&room=1000", "operation is required"),
        ("POST", "/goim/push/room?operation=0&type=live&room=1000", "operation is required"),
        ("POST", "/goim/push/room?operation=9&type=live&room=1000", "operation 9 is"),
        ("POST", "/goim/push/room?operation=1000&room=1000", "type is required"),
        ("POST", "/goim/push/room?operation=1000&type=&room=1000", "type is required"),
        ("POST", "/goim/push/room?operation=1000&type=live", "room is required"),
        ("POST", "/goim/push/room?operation=1000&type=live&room=", "room is empty"),
        ("POST", "/goim/push/room?operation=1000&type=live&room=a%0Ab", "room: a room id may not contain"),
        ("POST", &long_room, "room: a room id has at most 128 bytes"),
        ("POST", "/goim/push/all", "operation is required"),
        ("POST", "/goim/push/all?operation=0", "operation is required"),
        ("POST", "/goim/push/all?operation=8", "operation 8 is"),
        ("POST", "/goim/push/all?operation=1000&speed=x", "speed is not an integer of 32 bits"),
        ("POST", "/goim/push/all?operation=1000&speed=-1", "speed is negative"),
        ("POST", "/goim/push/all?operation=1000&speed=2147483648", "speed is not"),
        ("GET", "/goim/online/top?limit=5", "type is required"),
        ("GET", "/goim/online/top?type=live", "limit is required"),
        ("GET", "/goim/online/top?type=live&limit=", "limit is required"),
        ("GET", "/goim/online/top?type=live&limit=0", "limit is below 1"),
        ("GET", "/goim/online/top?type=live&limit=-1", "limit is below 1"),
        ("GET", "/goim/online/top?type=live&limit=x", "limit is not an integer of 32 bits"),
        ("GET", "/goim/online/room?rooms=1000", "type is required"),
        ("GET", "/goim/online/room?type=live", "rooms is required"),
        ("GET", "/goim/online/room?type=live&rooms=", "rooms is empty"),
        ("GET", "/goim/online/total?x=%ff", "the URL is not UTF-8"),
    ] {
        let (status, body) = ask(&router, method, url, "hello").await;
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, answer["code"].as_i64()), (400, Some(-400)), "{url}: {body}");
        assert!(answer["message"].as_str().unwrap().contains(words), "{url}: {body}");
        assert_eq!(answer.as_object().unwrap().len(), 2, "{body}");
    }
    assert_eq!(setup.published().await, []);
}

#[tokio::test]
async fn counts_are_told_as_goim_tells_them() {
    let setup = Setup::new(&[]).await;
    let router = setup.router();
    let empty = r#"{"code":0,"message":"","data":[]}"#;
    let (status, body) = ask(&router, "GET", "/goim/online/top?type=live&limit=5", "").await;
    assert_eq!((status, body.as_str()), (200, empty));
    let report = [("live://1000", 2), ("live://7", 9), ("game://1", 99)];
    let rooms = report.map(|(id, people)| (room(id), people)).into();
    setup
        .logic
        .renew_online(server("a:1"), rooms, ClientCount { connections: 4, addresses: 1 })
        .await
        .unwrap();
    let rooms = HashMap::from([(room("live://1000"), 1)]);
    setup
        .logic
        .renew_online(server("b:1"), rooms, ClientCount { connections: 1, addresses: 1 })
        .await
        .unwrap();
    for (url, data) in [
        ("/goim/online/top?type=live&limit=5", r#"[{"room_id":"7","count":9},{"room_id":"1000","count":3}]"#),
        ("/goim/online/top/?type=live&limit=1", r#"[{"room_id":"7","count":9}]"#),
        ("/goim/online/top?type=none&limit=2147483647", "[]"),
        ("/goim/online/room?type=live&rooms=1000&rooms=2", r#"{"1000":3,"2":0}"#),
        ("/goim/online/room/?type=live&rooms=7&rooms=1000&rooms=7", r#"{"1000":3,"7":9}"#),
        ("/goim/online/total", r#"{"conn_count":5,"ip_count":2}"#),
        ("/goim/online/total/?x=y", r#"{"conn_count":5,"ip_count":2}"#),
    ] {
        let (status, body) = ask(&router, "GET", url, "a body is no reason to refuse").await;
        let expected = format!(r#"{{"code":0,"message":"","data":{data}}}"#);
        assert_eq!((status, body), (200, expected), "{url}");
    }
}

#[tokio::test]
async fn nodes_are_told_as_goim_tells_them() {
    let setup = Setup::new(&["node.defaultDomain=conn.goim.io", "node.hostDomain=.goim.io"]).await;
    let router = setup.router();
    let (status, body) = ask(&router, "GET", "/goim/nodes/weighted?platform=web", "").await;
    assert_eq!(status, 200);
    let head = r#"{"code":0,"message":"","data":{"domain":"conn.goim.io","tcp_port":3101,"ws_port":3102,"wss_port":3103,"heartbeat":240,"heartbeat_max":2,"nodes":["host-"#;
    let tail = r#".goim.io"],"backoff":{"max_delay":300,"base_delay":3,"factor":1.8,"jitter":0.3}}}"#;
    assert!(body.starts_with(head) && body.ends_with(tail), "{body}");
    let (_, body) = ask(&router, "GET", "/goim/nodes/weighted/", "").await;
    assert!(body.contains("host-a.addr") && body.contains("host-b.addr"), "{body}");

    let clients = ClientCount { connections: 3, addresses: 2 };
    setup.logic.renew_online(server("a:1"), HashMap::new(), clients).await.unwrap();
    for url in ["/goim/nodes/instances", "/goim/nodes/instances/"] {
        let (status, body) = ask(&router, "GET", url, "").await;
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        let first = &answer["data"][0];
        assert_eq!((status, answer["data"].as_array().unwrap().len()), (200, 2));
        assert_eq!(first["appid"], "goim.comet");
        assert_eq!(first["addrs"], serde_json::json!(["grpc://a:1"]));
        assert_eq!(
            (&first["region"], &first["zone"], &first["hostname"]),
            (&"sh".into(), &"sh001".into(), &"host-a".into())
        );
        assert_eq!(
            (&first["metadata"]["conn_count"], &first["metadata"]["ip_count"]),
            (&"3".into(), &"2".into())
        );
        assert!(body.contains(r#""offline":"false","weight":"10""#), "{body}");
    }
}

#[tokio::test]
async fn the_region_comes_from_the_proxy_or_the_peer() {
    let setup = Setup::new(&["regions.sh=10.1.0.0/16", "node.regionWeight=1000.0"]).await;
    let (near, far) = ("10.1.2.3", "10.2.2.3");
    for (headers, expected) in [
        (&[("x-forwarded-for", "10.1.2.3, 9.9.9.9"), ("x-real-ip", far)][..], Some(near)),
        (&[("x-real-ip", near)], Some(near)),
        (&[("x-forwarded-for", "nonsense")], Some("192.0.2.1")),
        (&[], Some("192.0.2.1")),
    ] {
        let mut request = Request::builder().uri("/goim/nodes/weighted");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let peer = host::http::Peer("192.0.2.1:7".parse().unwrap());
        let request = request.extension(peer).body(()).unwrap();
        let ip = super::super::http::client_ip(request.headers(), request.extensions());
        assert_eq!(ip, expected.map(|ip| ip.parse().unwrap()), "{headers:?}");
    }
    drop(setup);
}

#[tokio::test]
async fn wrong_paths_and_methods_are_told_apart() {
    let setup = Setup::new(&[]).await;
    let router = setup.router();
    for path in ["keys", "mids", "room", "all"] {
        let (status, body) = ask(&router, "GET", &format!("/goim/push/{path}"), "").await;
        assert_eq!(status, 405, "{path}");
        assert!(body.starts_with(r#"{"code":-405,"message":""#), "{body}");
    }
    for path in ["online/top", "online/room", "online/total", "nodes/weighted", "nodes/instances"] {
        let (status, headers, _) = send(&router, "POST", &format!("/goim/{path}/"), Body::empty(), &[]).await;
        assert_eq!(status, 405, "{path}");
        assert!(headers[header::ALLOW].to_str().unwrap().contains(Method::GET.as_str()), "{headers:?}");
    }
    for path in ["/", "/goim", "/goim/push", "/goim/push/keys//", "/goim/push/KEYS", "/push/keys"] {
        let (status, body) = ask(&router, "POST", path, "").await;
        assert_eq!(status, 404, "{path}");
        assert!(body.starts_with(r#"{"code":-404,"message":""#), "{body}");
    }
}

#[tokio::test]
async fn without_the_token_no_route_answers() {
    let mut setup = Setup::with_clients(&["push.tokens=sesame,other"]).await;
    let router = setup.router();
    let urls = [
        ("POST", "/goim/push/keys?operation=1000&keys=k1"),
        ("POST", "/goim/push/mids?operation=1000&mids=1"),
        ("POST", "/goim/push/room/?operation=1000&type=live&room=1000"),
        ("POST", "/goim/push/all?operation=1000"),
        ("POST", "/goim/push/all?operation=nonsense"),
        ("GET", "/goim/online/top?type=live&limit=5"),
        ("GET", "/goim/online/room?type=live&rooms=1000"),
        ("GET", "/goim/online/total"),
        ("GET", "/goim/nodes/weighted"),
        ("GET", "/goim/nodes/instances"),
        ("GET", "/halley/online/keys?keys=k1"),
        ("GET", "/halley/online/mids?mids=1"),
        ("POST", "/halley/kick/keys?keys=k1"),
        ("POST", "/halley/kick/mids?mids=x"),
    ];
    for (method, url) in urls {
        for headers in [&[][..], &[("authorization", "Bearer wrong")], &[("authorization", "sesame")]] {
            let (status, answered, body) = send(&router, method, url, Body::from("hello"), headers).await;
            assert_eq!(status, 401, "{url}");
            assert_eq!(body, r#"{"code":-401,"message":"no or wrong bearer token"}"#);
            assert_eq!(answered[header::WWW_AUTHENTICATE], "Bearer");
        }
    }
    assert_eq!(setup.published().await, []);
    assert_eq!(setup.comet.kicks(), []);
    for token in ["Bearer sesame", "Bearer other"] {
        let headers = [("authorization", token)];
        let (status, _, body) = send(&router, "POST", urls[0].1, Body::from("hello"), &headers).await;
        assert_eq!((status, body.as_str()), (200, OK));
    }
    assert_eq!(setup.published().await.len(), 2);
}

#[tokio::test]
async fn a_body_over_the_limit_is_a_413_announced_or_not() {
    let mut setup = Setup::with_clients(&["push.maxBody=1KiB"]).await;
    let router = setup.router();
    let url = "/goim/push/keys?operation=1000&keys=k1";
    let in_chunks = |sizes: &'static [usize]| {
        let chunks = sizes.iter().map(|size| Ok::<_, std::io::Error>(vec![b'x'; *size]));
        Body::from_stream(tokio_stream::iter(chunks))
    };
    for (body, status, len) in [
        (Body::from(vec![b'x'; 1024]), 200, 1024),
        (Body::from(vec![b'x'; 1025]), 413, 0),
        (in_chunks(&[1, 1000, 23]), 200, 1024),
        (in_chunks(&[1, 1000, 24]), 413, 0),
        (in_chunks(&[]), 200, 0),
    ] {
        let (answered, headers, answer) = send(&router, "POST", url, body, &[]).await;
        assert_eq!(answered, status, "{answer}");
        if status == 413 {
            let words = "the body is longer than the maximum of 1024 bytes";
            assert_eq!(answer, format!(r#"{{"code":-413,"message":"{words}"}}"#));
            assert_eq!(headers[header::CONNECTION], "close");
            assert_eq!(setup.published().await, []);
        } else {
            assert_eq!(setup.published().await[0].body.len(), len);
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_pushes_nothing() {
    let mut setup = Setup::with_clients(&[]).await;
    let broken = [Ok(vec![b'x'; 10]), Err(std::io::Error::other("reset"))];
    let body = Body::from_stream(tokio_stream::iter(broken));
    let (status, ..) = send(&setup.router(), "POST", "/goim/push/keys?keys=k1", body, &[]).await;
    assert_eq!(status, 400);
    assert_eq!(setup.published().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_a_408() {
    let mut setup = Setup::with_clients(&["httpServer.readTimeout=2s"]).await;
    let body = Body::from_stream(tokio_stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let started = tokio::time::Instant::now();
    let (status, _, answer) = send(&setup.router(), "POST", "/goim/push/keys?keys=k1", body, &[]).await;
    assert_eq!((status, started.elapsed()), (408, Duration::from_secs(2)));
    assert!(answer.starts_with(r#"{"code":-408,"#));
    assert_eq!(setup.published().await, []);
}

#[tokio::test(start_paused = true)]
async fn pushes_beyond_the_rate_are_a_429() {
    let setup = Setup::with_clients(&["limits.pushRate=3"]).await;
    let router = setup.router();
    let url = "/goim/push/keys?operation=1000&keys=k1";
    for expected in [200, 200, 200, 429] {
        let (status, headers, body) = send(&router, "POST", url, Body::from("x"), &[]).await;
        assert_eq!(status, expected);
        if status == 429 {
            assert_eq!(body, r#"{"code":-429,"message":"too many pushes, the maximum is 3 a second"}"#);
            assert_eq!(headers[header::RETRY_AFTER], "1");
        }
    }
    assert_eq!(ask(&router, "GET", "/goim/online/total", "").await.0, 200, "only pushes are counted");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(ask(&router, "POST", url, "x").await.0, 200);
}

#[tokio::test]
async fn what_is_away_or_full_is_a_503_and_pushes_nothing() {
    let url = "/goim/push/keys?operation=1000&keys=k1";
    let no_sessions = Setup::with_sessions(&[], Arc::new(NoSessions)).await;
    let closed = Setup::with_clients(&[]).await;
    closed.deps.broker.close().await;
    let full = Setup::with_clients(&["limits.brokerEntries=100"]).await;
    for _ in 0..100 {
        assert_eq!(ask(&full.router(), "POST", url, "x").await.0, 200);
    }
    for (setup, words) in [(&no_sessions, "gone"), (&closed, "closed"), (&full, "full")] {
        let (status, headers, body) = send(&setup.router(), "POST", url, Body::from("x"), &[]).await;
        assert_eq!(status, 503, "{body}");
        assert!(body.starts_with(r#"{"code":-500,"message":""#) && body.contains(words), "{body}");
        assert_eq!(headers[header::RETRY_AFTER], "1");
        assert_eq!(setup.deps.metrics.http_errors.get_or_create(&[("code", 503)]).get(), 1);
    }
    // Rooms need no sessions.
    let url = "/goim/push/room?operation=1000&type=live&room=1";
    assert_eq!(ask(&no_sessions.router(), "POST", url, "x").await.0, 200);
}

#[tokio::test]
async fn a_push_larger_than_the_broker_is_a_413() {
    let mut setup = Setup::with_clients(&["push.maxBody=16KiB", "limits.brokerBytes=64KiB"]).await;
    let rooms: String = (0..10).map(|n| format!("&room={n}")).collect();
    let url = format!("/goim/push/room?operation=1000&type=live{rooms}");
    let (status, _) = ask(&setup.router(), "POST", &url, &"x".repeat(16 << 10)).await;
    assert_eq!(status, 413);
    assert_eq!(setup.published().await, []);
}
