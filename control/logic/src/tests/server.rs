//! The HTTP server over real connections: bad peers, the end, addresses.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;

const SOON: Duration = Duration::from_secs(5);

/// logic serving on ports of its own.
async fn serve(sets: &[&str]) -> (Setup, LogicServer, Drain) {
    let sets: Vec<&str> = ["httpServer.addr=127.0.0.1:0", "rpcServer.addr=127.0.0.1:0"]
        .into_iter()
        .chain(sets.iter().copied())
        .collect();
    let setup = Setup::with_clients(&sets).await;
    let drain = Drain::new();
    let extra = Router::new().route("/healthz", axum::routing::get(async || "ok\n"));
    let server = setup.start(extra, drain.clone()).await.unwrap();
    (setup, server, drain)
}

async fn connect(server: &LogicServer) -> TcpStream {
    TcpStream::connect(server.http_addrs()[0]).await.unwrap()
}

/// Sends a request and reads until the other side ends.
async fn talk(server: &LogicServer, request: &str) -> String {
    let mut stream = connect(server).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    read_to_end(&mut stream).await
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the server ends").expect("no reset");
    String::from_utf8(answer).unwrap()
}

/// Reads one answer of a connection that stays.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(br#""message":""}"#) {
        let read = timeout(SOON, stream.read_buf(&mut answer)).await.expect("an answer").unwrap();
        assert!(read > 0, "the server ended: {answer:?}");
    }
    String::from_utf8(answer).unwrap()
}

const PUSH: &str = "POST /goim/push/keys?operation=1000&keys=k1 HTTP/1.1\r\nHost: x\r\n";

#[tokio::test]
async fn a_push_over_a_connection_that_stays() {
    let (mut setup, server, _drain) = serve(&[]).await;
    let mut stream = connect(&server).await;
    for n in 0..3 {
        stream.write_all(format!("{PUSH}Content-Length: 1\r\n\r\n{n}").as_bytes()).await.unwrap();
        let answer = read_answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.to_lowercase().contains("content-type: application/json; charset=utf-8\r\n"),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\n{\"code\":0,\"message\":\"\"}"), "{answer}");
    }
    assert_eq!(setup.published().await.len(), 3);
}

#[tokio::test]
async fn routes_of_others_are_served_beside_the_api() {
    let (_setup, server, _drain) = serve(&[]).await;
    let answer = talk(&server, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
}

#[tokio::test]
async fn a_huge_body_is_refused_before_it_is_sent() {
    let (_setup, server, _drain) = serve(&[]).await;
    let mut stream = connect(&server).await;
    stream.write_all(format!("{PUSH}Content-Length: 20000000\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    timeout(SOON, stream.read_exact(&mut answer)).await.expect("at once").unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn a_client_that_sends_too_much_still_gets_its_answer() {
    let (_setup, server, _drain) = serve(&["push.maxBody=1KiB"]).await;
    for head in ["Content-Length: 20000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n1312d00\r\n"] {
        let mut stream = connect(&server).await;
        stream.write_all(format!("{PUSH}{head}").as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; 20_000_000]).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains(r#"{"code":-413,"#), "{answer}");
    }
}

#[tokio::test]
async fn an_endless_body_is_cut_off() {
    let (_setup, server, _drain) = serve(&["push.maxBody=1KiB"]).await;
    let mut stream = connect(&server).await;
    stream.write_all(format!("{PUSH}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).await.unwrap();
    let chunk = [b"8000\r\n", &vec![b'x'; 0x8000][..], b"\r\n"].concat();
    let endless = async {
        let mut sent = 0;
        while stream.write_all(&chunk).await.is_ok() {
            sent += chunk.len();
        }
        sent
    };
    let sent = timeout(SOON, endless).await.expect("the server lets the client know");
    assert!(sent < 64 << 20, "{sent} bytes were taken");
}

#[tokio::test]
async fn slow_and_broken_heads_end() {
    let (_setup, server, _drain) = serve(&["httpServer.readTimeout=200ms"]).await;
    let mut slow = connect(&server).await;
    slow.write_all(b"POST /goim/push/all?operation=1000 HT").await.unwrap();
    read_to_end(&mut slow).await;
    let answer = talk(&server, "\u{1}\u{2}nonsense\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let endless = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(200_000));
    let mut stream = connect(&server).await;
    // It may be refused before all of it is sent.
    let _ = stream.write_all(endless.as_bytes()).await;
    let mut answer = [0; 9];
    if timeout(SOON, stream.read_exact(&mut answer)).await.expect("an end").is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 ");
    }
    assert!(
        talk(&server, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.contains("200")
    );
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_their_turn() {
    let (_setup, server, _drain) = serve(&["limits.httpConnections=1"]).await;
    let mut first = connect(&server).await;
    first.write_all(format!("{PUSH}Content-Length: 1\r\n\r\n1").as_bytes()).await.unwrap();
    read_answer(&mut first).await;
    let mut second = connect(&server).await;
    second.write_all(format!("{PUSH}Content-Length: 1\r\n\r\n2").as_bytes()).await.unwrap();
    let mut byte = [0];
    assert!(timeout(Duration::from_millis(100), second.read(&mut byte)).await.is_err());
    drop(first);
    read_answer(&mut second).await;
}

#[tokio::test]
async fn the_drain_answers_what_is_under_way_and_takes_nothing_more() {
    let (mut setup, server, drain) = serve(&[]).await;
    let (addr, logic) = (server.http_addrs()[0], server.logic());
    let mut under_way = connect(&server).await;
    let head = format!("{PUSH}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    under_way.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    timeout(SOON, under_way.read_exact(&mut go_on)).await.expect("the handler waits for the body").unwrap();
    under_way.write_all(b"he").await.unwrap();
    let mut idle = connect(&server).await;
    idle.write_all(format!("{PUSH}Content-Length: 1\r\n\r\n1").as_bytes()).await.unwrap();
    read_answer(&mut idle).await;
    drain.begin();
    let stopped = tokio::spawn(server.stopped());
    assert_eq!(read_to_end(&mut idle).await, "", "an idle connection ends");
    until_refused(addr).await;
    assert!(!stopped.is_finished(), "a push is under way");
    under_way.write_all(b"llo").await.unwrap();
    let answer = read_to_end(&mut under_way).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    timeout(SOON, stopped).await.expect("it ends").unwrap();
    assert_eq!(setup.published().await.len(), 2);
    let late =
        logic.push(Push { target: PushTarget::All { speed: 0 }, op: Op(1000), body: Bytes::new() }).await;
    assert!(matches!(late, Err(PushFailure::Unavailable(_))), "the broker is closed");
    let session =
        SessionRef { mid: Mid(1), key: Key::new("k1"), server: super::server("a:1"), generation: None };
    assert!(logic.disconnect(session).await.unwrap(), "sessions still end");
}

async fn until_refused(addr: std::net::SocketAddr) {
    for _ in 0..500 {
        if TcpStream::connect(addr).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it still listens");
}

#[tokio::test]
async fn an_address_in_use_is_refused_at_the_start_by_name() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap();
    for key in ["httpServer.addr", "rpcServer.addr"] {
        let other = if key == "httpServer.addr" { "rpcServer.addr" } else { "httpServer.addr" };
        let setup = Setup::new(&[&format!("{key}={addr}"), &format!("{other}=127.0.0.1:0")]).await;
        let started = setup.start(Router::new(), Drain::new()).await;
        let error = started.err().expect("refused").to_string();
        assert!(error.starts_with(&format!("{key} = {addr} cannot be listened on")), "{error}");
    }
}
