//! The HTTP API, row by row: status, body to the byte, content type.

use std::thread;

use serde_json::{Value, json};

use crate::harness::{
    Answer, Client, Frame, Http, Login, PATIENCE, SUCCESS, Server, Stopwatch, Transport, eventually, http,
};

const JSON: &str = "application/json; charset=utf-8";

/// Three devices of two users, two of them in one room.
fn three_devices(server: &Server) -> [Client; 3] {
    [
        server.client(Transport::Tcp, &Login::key("a").mid(1).room("live://1000").accepts(&[1000])),
        server.client(Transport::WebSocket, &Login::key("b").mid(1).room("live://1000").accepts(&[1000])),
        server.client(Transport::Tcp, &Login::key("c").mid(2).accepts(&[1000])),
    ]
}

#[test]
fn pushes_answer_as_goim_does() {
    let server = Server::start(&[]);
    let _clients = three_devices(&server);
    for (target, body) in [
        ("keys?operation=1000&keys=a&keys=b", SUCCESS),
        ("keys?keys=a", SUCCESS),
        ("keys?operation=0&keys=a", SUCCESS),
        ("keys?operation=&keys=a", SUCCESS),
        ("keys?operation=-5&keys=a", SUCCESS),
        ("keys?operation=22&keys=a", SUCCESS),
        ("keys?operation=1999999999&keys=a", SUCCESS),
        ("keys?operation=1000&keys=%61", SUCCESS),
        ("keys?operation=1000&keys=a&nonsense=1", SUCCESS),
        // No comma is a separator: this is one key, and nobody has it.
        ("keys?operation=1000&keys=a,b", r#"{"code":0,"message":"","data":{"offline":["a,b"]}}"#),
        (
            "keys?operation=1000&keys=a&keys=x&keys=b&keys=y&keys=x",
            r#"{"code":0,"message":"","data":{"offline":["x","y"]}}"#,
        ),
        ("mids?operation=1000&mids=1&mids=2", SUCCESS),
        ("mids?mids=1", SUCCESS),
        ("mids?operation=1000&mids=1&mids=7", r#"{"code":0,"message":"","data":{"offline":["7"]}}"#),
        ("room?operation=1000&type=live&room=1000", SUCCESS),
        ("room?operation=1000&type=live&room=nobody-is-here", SUCCESS),
        ("room?operation=1000&type=live&room=1000&room=2000", SUCCESS),
        ("all?operation=1000&speed=0", SUCCESS),
        ("all?operation=1000&speed=1000", SUCCESS),
        ("all?operation=1000", SUCCESS),
    ] {
        let answer = server.post(&format!("/goim/push/{target}"), "hello");
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{target}");
        assert_eq!(answer.header("content-type"), Some(JSON), "{target}");
    }
}

#[test]
fn the_others_get_a_push_of_which_some_are_offline() {
    let server = Server::start(&[]);
    let mut clients = three_devices(&server);
    let answer = server.post("/goim/push/keys?operation=1000&keys=x&keys=a&keys=b&keys=c", "hello");
    assert_eq!(answer.json(), json!({"code": 0, "message": "", "data": {"offline": ["x"]}}));
    for client in &mut clients {
        client.expect_push(1000, "hello");
    }
    let answer = server.post("/goim/push/mids?operation=1000&mids=9&mids=1", "again");
    assert_eq!(answer.json(), json!({"code": 0, "message": "", "data": {"offline": ["9"]}}));
    clients[0].expect_push(1000, "again");
    clients[1].expect_push(1000, "again");
    clients[2].expect_silence();
}

#[test]
fn an_empty_body_and_the_longest_one_are_messages_too() {
    let server = Server::start(&[]);
    let mut clients = three_devices(&server);
    let longest = vec![b'x'; 1 << 20];
    for body in [&b""[..], &longest] {
        server.push("keys?operation=1000&keys=a&keys=b", body);
        for client in &mut clients[..2] {
            let frame = client.frame();
            assert_eq!((frame.op, frame.body.len()), (1000, body.len()));
            assert!(frame.body == body);
        }
    }
}

#[test]
fn online_and_nodes_answer_as_goim_does() {
    let server = Server::start(&[
        "logic.node.defaultDomain=conn.example.com",
        "logic.node.heartbeat=20s",
        "logic.node.heartbeatMax=3",
        "logic.node.tcpPort=4101",
        "logic.backoff.maxDelay=200",
    ]);
    let _clients = three_devices(&server);
    eventually("both counts", || {
        let counts = server.get("/goim/online/room?type=live&rooms=1000").json();
        let total = server.get("/goim/online/total").json();
        (counts["data"]["1000"] == 2 && total["data"]["conn_count"] == 3).then_some(())
    });
    let data = |data: &str| format!(r#"{{"code":0,"message":"","data":{data}}}"#);
    for (target, body) in [
        ("top?type=live&limit=5", data(r#"[{"room_id":"1000","count":2}]"#)),
        ("top?type=game&limit=5", data("[]")),
        ("room?type=live&rooms=1000&rooms=2", data(r#"{"1000":2,"2":0}"#)),
        ("room?type=game&rooms=1000", data(r#"{"1000":0}"#)),
        ("total", data(r#"{"conn_count":3,"ip_count":1}"#)),
    ] {
        let answer = server.get(&format!("/goim/online/{target}"));
        assert_eq!((answer.status, answer.body), (200, body), "{target}");
    }
    for platform in ["web", "ios", ""] {
        let answer = server.get(&format!("/goim/nodes/weighted?platform={platform}"));
        let domain_to_max = r#"{"code":0,"message":"","data":{"domain":"conn.example.com","tcp_port":4101,"ws_port":3102,"wss_port":3103,"heartbeat":20,"heartbeat_max":3,"nodes":["#;
        let backoff = r#"],"backoff":{"max_delay":200,"base_delay":3,"factor":1.8,"jitter":0.3}}}"#;
        assert_eq!(answer.status, 200);
        assert!(answer.body.starts_with(domain_to_max) && answer.body.ends_with(backoff), "{}", answer.body);
        assert_eq!(answer.json()["data"]["nodes"].as_array().map(Vec::len), Some(1), "{}", answer.body);
    }
    let answer = server.get("/goim/nodes/weighted");
    assert_eq!(answer.status, 200, "platform may be left out");

    let instances = server.get("/goim/nodes/instances").json();
    let [comet] = instances["data"].as_array().expect("a list").as_slice() else { panic!("{instances}") };
    assert_eq!(comet["appid"], "goim.comet");
    assert_eq!(comet["addrs"], json!([format!("grpc://{}", server.comet_rpc)]));
    for text in ["region", "zone", "env", "hostname", "version"] {
        assert!(comet[text].is_string(), "{text} in {comet}");
    }
    assert!(comet["latest_timestamp"].is_u64(), "{comet}");
    let metadata = &comet["metadata"];
    assert_eq!((&metadata["conn_count"], &metadata["ip_count"]), (&json!("3"), &json!("1")), "{comet}");
    assert_eq!((&metadata["offline"], &metadata["weight"]), (&json!("false"), &json!("10")), "{comet}");
}

#[test]
fn bad_parameters_are_answered_with_400() {
    let server = Server::start(&[]);
    let mut clients = three_devices(&server);
    let long = "x".repeat(200);
    let long_room = format!("room?operation=1000&type=live&room={long}");
    for target in [
        "keys",
        "keys?operation=1000",
        "keys?operation=1000&keys=",
        "keys?operation=1000&keys=a&keys=",
        "keys?operation=abc&keys=a",
        "keys?operation=1000.5&keys=a",
        "keys?operation=2147483648&keys=a",
        "keys?operation=-2147483649&keys=a",
        "keys?operation=99999999999999999999&keys=a",
        "keys?operation=1000&keys=%ff",
        "mids",
        "mids?operation=1000",
        "mids?operation=1000&mids=",
        "mids?operation=1000&mids=abc",
        "mids?operation=1000&mids=-1",
        "mids?operation=1000&mids=1,2",
        "mids?operation=1000&mids=9223372036854775808",
        "room",
        "room?type=live&room=1000",
        "room?operation=0&type=live&room=1000",
        "room?operation=1000&room=1000",
        "room?operation=1000&type=live",
        "room?operation=1000&type=&room=1000",
        "room?operation=1000&type=live&room=",
        "room?operation=1000&type=live&room=%00",
        "room?operation=1000&type=live&room=a%0ab",
        &long_room,
        "all",
        "all?speed=1",
        "all?operation=0",
        "all?operation=1000&speed=abc",
        "all?operation=1000&speed=-1",
        "all?operation=1000&speed=2147483648",
    ] {
        eprintln!("{target}");
        server.post(&format!("/goim/push/{target}"), "hello").expect_error(400, -400);
    }
    // The operations of the wire itself cannot be forged.
    for op in (1..=21).chain([2_000_000_000, 2_000_000_002, i32::MAX]) {
        for kind in ["keys?keys=a", "mids?mids=1", "room?type=live&room=1000", "all?speed=0"] {
            server.post(&format!("/goim/push/{kind}&operation={op}"), "hello").expect_error(400, -400);
        }
    }
    for target in [
        "top",
        "top?type=live",
        "top?limit=5",
        "top?type=live&limit=abc",
        "top?type=live&limit=0",
        "top?type=live&limit=-1",
        "top?type=live&limit=99999999999",
        "top?type=&limit=5",
        "room",
        "room?type=live",
        "room?rooms=1000",
        "room?type=&rooms=1000",
    ] {
        eprintln!("{target}");
        server.get(&format!("/goim/online/{target}")).expect_error(400, -400);
    }
    for client in &mut clients {
        client.expect_silence();
    }
    server.push("keys?operation=1000&keys=a", "well");
    clients[0].expect_push(1000, "well");
}

#[test]
fn wrong_paths_are_404_and_wrong_methods_405() {
    let server = Server::start(&[]);
    for path in
        ["/x", "/goim", "/goim/push", "/goim/push/room/x", "/goim/push//room", "/goim/pus", "/goim/online/1"]
    {
        for method in ["GET", "POST"] {
            http::request(server.http, method, path, &[], b"").expect_error(404, -404);
        }
    }
    for path in ["keys?keys=a", "mids?mids=1", "room?operation=1000&type=a&room=b", "all?operation=1000"] {
        for method in ["GET", "PUT", "DELETE"] {
            let answer = http::request(server.http, method, &format!("/goim/push/{path}"), &[], b"");
            answer.expect_error(405, -405);
            assert_eq!(answer.header("allow"), Some("POST"));
        }
    }
    for path in ["online/total", "online/top?type=live&limit=1", "nodes/weighted", "nodes/instances"] {
        http::request(server.http, "POST", &format!("/goim/{path}"), &[], b"").expect_error(405, -405);
    }
}

#[test]
fn slashes_at_the_end_and_bodies_of_gets_do_no_harm() {
    let server = Server::start(&[]);
    let _clients = three_devices(&server);
    for target in [
        "keys/?operation=1000&keys=a",
        "mids/?operation=1000&mids=1",
        "room/?operation=1000&type=live&room=1000",
        "all/?operation=1000&speed=0",
    ] {
        server.push(target, "hello");
    }
    // On one connection, so that an unread body would spoil the next request.
    let mut connection = Http::connect(server.http);
    for path in [
        "online/top?type=live&limit=5",
        "online/room?type=live&rooms=1000",
        "online/total",
        "nodes/weighted?platform=web",
        "nodes/instances",
    ] {
        connection.send("GET", &format!("/goim/{path}"), &[], b"a body that nobody asked for");
        assert_eq!(connection.answer().status, 200, "{path}");
        let slash =
            path.split_once('?').map_or(format!("{path}/"), |(path, query)| format!("{path}/?{query}"));
        connection.send("GET", &format!("/goim/{slash}"), &[], b"");
        assert_eq!(connection.answer().status, 200, "{slash}");
    }
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let server = Server::start(&[]);
    let mut clients = three_devices(&server);
    let huge = vec![b'x'; 20 << 20];
    let before = server.memory();
    let started = Stopwatch::start();
    for len in [huge.len(), (1 << 20) + 1] {
        server.post("/goim/push/keys?operation=1000&keys=a", &huge[..len]).expect_error(413, -413);
    }
    assert!(started.elapsed() < PATIENCE / 2);

    // Not announced: it is cut off where it becomes too long.
    let mut connection = Http::connect(server.http);
    let mut chunked = b"POST /goim/push/keys?operation=1000&keys=a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..40 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.extend_from_slice(&huge[..0x10000]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    connection.write(chunked);
    connection.answer().expect_error(413, -413);

    let grown = server.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more than before");
    server.push("keys?operation=1000&keys=a", "well");
    clients[0].expect_push(1000, "well");
}

#[test]
fn a_chunked_body_is_a_message() {
    let server = Server::start(&[]);
    let mut clients = three_devices(&server);
    let mut connection = Http::connect(server.http);
    connection.write(
        b"POST /goim/push/keys?operation=1000&keys=a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
          3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
            .to_vec(),
    );
    connection.answer().expect_success();
    clients[0].expect_push(1000, "hello");
}

#[test]
fn with_tokens_every_route_of_the_api_asks_for_one() {
    let server = Server::start(&["logic.push.tokens=first-token,second-token"]);
    let mut clients = three_devices(&server);
    let routes = [
        ("POST", "/goim/push/keys?operation=1000&keys=a"),
        ("POST", "/goim/push/mids?operation=1000&mids=2"),
        ("POST", "/goim/push/room?operation=1000&type=live&room=2000"),
        ("POST", "/goim/push/all?operation=1"),
        ("GET", "/goim/online/top?type=live&limit=5"),
        ("GET", "/goim/online/room?type=live&rooms=1"),
        ("GET", "/goim/online/total"),
        ("GET", "/goim/nodes/weighted"),
        ("GET", "/goim/nodes/instances"),
        ("GET", "/halley/online/keys?keys=a"),
        ("GET", "/halley/online/mids?mids=1"),
        ("POST", "/halley/kick/keys?keys=nobody"),
        ("POST", "/halley/kick/mids?mids=9"),
    ];
    let wrong: [&[&str]; 7] = [
        &[],
        &["Authorization: Bearer"],
        &["Authorization: Bearer wrong"],
        &["Authorization: Bearer first-toke"],
        &["Authorization: Bearer first-token2"],
        &["Authorization: Basic first-token"],
        &["Authorization: first-token"],
    ];
    for (method, target) in routes {
        for headers in wrong {
            let answer = http::request(server.http, method, target, headers, b"no");
            answer.expect_error(401, -401);
            assert!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")));
        }
        for token in ["first-token", "second-token"] {
            let header = format!("Authorization: Bearer {token}");
            let answer = http::request(server.http, method, target, &[&header], b"yes");
            // The one row with a wrong parameter: let in, and told so.
            let expected = if target == "/goim/push/all?operation=1" { 400 } else { 200 };
            assert_eq!(answer.status, expected, "{target}: {}", answer.body);
        }
    }
    for _ in 0..2 {
        clients[0].expect_push(1000, "yes");
        clients[2].expect_push(1000, "yes");
    }
    // A scraper and a balancer need none.
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    assert!(!server.log().contains("first-token"), "a token is in the log");
}

#[test]
fn pushes_above_the_rate_are_told_to_wait() {
    let server = Server::start(&["logic.limits.pushRate=5"]);
    let _clients = three_devices(&server);
    let mut connection = Http::connect(server.http);
    let answers: Vec<Answer> = (0..50)
        .map(|_| {
            connection.send("POST", "/goim/push/keys?operation=1000&keys=a", &[], b"x");
            connection.answer()
        })
        .collect();
    let (accepted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert!(accepted.len() >= 5 && refused.len() >= 5, "{} accepted", accepted.len());
    for answer in refused {
        answer.expect_error(429, -429);
        let wait: u32 =
            answer.header("retry-after").and_then(|wait| wait.parse().ok()).expect("Retry-After in seconds");
        assert!((1..=60).contains(&wait));
    }
    eventually("a push is accepted again", || {
        (server.post("/goim/push/keys?operation=1000&keys=a", "x").status == 200).then_some(())
    });
    // Reading is not limited.
    for _ in 0..20 {
        assert_eq!(server.get("/goim/online/total").status, 200);
    }
}

#[test]
fn a_full_broker_is_answered_with_503() {
    let server = Server::start(&["logic.limits.brokerEntries=100"]);
    let mut client = server.client(Transport::Tcp, &Login::key("a").accepts(&[1000]));
    let rooms: String = (0..90).map(|room| format!("&room={room}")).collect();
    let target = format!("/goim/push/room?operation=1000&type=live{rooms}");
    let started = Stopwatch::start();
    let refused = thread::scope(|scope| {
        let hammer = || {
            let mut connection = Http::connect(server.http);
            while started.elapsed() < PATIENCE {
                connection.send("POST", &target, &[], b"x");
                let answer = connection.answer();
                if answer.status != 200 {
                    return Some(answer);
                }
            }
            None
        };
        let hammers: Vec<_> = (0..8).map(|_| scope.spawn(hammer)).collect();
        hammers.into_iter().filter_map(|hammer| hammer.join().expect("no panic")).next()
    });
    let refused = refused.expect("eight at once overfill a broker for one");
    refused.expect_error(503, -500);
    assert!(refused.header("retry-after").is_some());
    // More than it can ever hold is another thing: waiting would not help.
    let more = (0..101).map(|room| format!("&room={room}")).collect::<String>();
    server.post(&format!("/goim/push/room?operation=1000&type=live{more}"), "x").expect_error(413, -413);
    eventually("a push is accepted again", || {
        (server.post("/goim/push/keys?operation=1000&keys=a", "well").status == 200).then_some(())
    });
    client.expect_push(1000, "well");
}

#[test]
fn broken_requests_harm_nobody_else() {
    let server = Server::start(&[]);
    let mut client = server.client(Transport::Tcp, &Login::key("a").accepts(&[1000]));
    for request in [
        &b"\r\n\r\n\r\n"[..],
        b"GARBAGE\r\n\r\n",
        b"GET /goim/online/total HTTP/9.9\r\n\r\n",
        b"POST /goim/push/keys?keys=a HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /goim/push/keys?keys=a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /goim/push/keys?keys=a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut connection = Http::connect(server.http);
        connection.write(request.to_vec());
    }
    let header = format!("X-Long: {}", "x".repeat(300 << 10));
    let answer = http::request(server.http, "GET", "/goim/online/total", &[&header], b"");
    assert_eq!(answer.status, 431);
    server.push("keys?operation=1000&keys=a", "well");
    assert_eq!(client.frame(), Frame::new(1000, 0, "well"));
    assert_eq!(server.get("/goim/online/total").json()["code"], Value::from(0));
}
