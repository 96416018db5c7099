//! Which HTTP heads become a WebSocket, and what the others are answered (reliability bar 1.3).

mod common;

use common::{PEER, every_cut, upgrade};
use proto::websocket::{
    ClientUpgrade, ClientUpgradeError, HEAD_LEN_MAX, HEADERS_MAX, LINE_LEN_MAX, Refusal, ToldIn, UpgradeRules,
};

/// The request of RFC 6455 section 1.3, at goim's path, as lines.
const LINES: [&str; 6] = [
    "GET /sub HTTP/1.1",
    "Host: push.example.com:3102",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

/// [`LINES`] with the line that starts like `name` replaced, then `more`.
fn head_with(name: &str, line: Option<&str>, more: &[&str]) -> String {
    assert!(name.is_empty() || LINES.iter().any(|line| line.starts_with(name)), "no line {name}");
    let lines = LINES.iter().filter_map(|&old| match old.starts_with(name) && !name.is_empty() {
        true => line,
        false => Some(old),
    });
    lines.chain(more.iter().copied()).map(|line| format!("{line}\r\n")).chain(["\r\n".to_owned()]).collect()
}

/// The usual request with further lines.
fn head(more: &[&str]) -> String {
    head_with("", None, more)
}

fn rules(origins: &[&str]) -> UpgradeRules {
    let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
    UpgradeRules { origins, ..UpgradeRules::default() }
}

#[track_caller]
fn assert_accepted(head: &str) {
    assert!(matches!(upgrade(&[head.as_bytes()], &rules(&[])), Ok(Some(_))), "{head:?}");
}

/// Refused the same way in one piece and byte by byte.
#[track_caller]
fn assert_status(head: &[u8], rules: &UpgradeRules, status: u16) {
    let bytes: Vec<&[u8]> = head.chunks(1).collect();
    for pieces in [&[head][..], &bytes] {
        let refusal = upgrade(pieces, rules).expect_err(&String::from_utf8_lossy(head));
        assert_eq!(refusal.status(), status, "{refusal}: {:?}", String::from_utf8_lossy(head));
    }
}

#[test]
fn the_rfcs_example_is_answered_with_its_accept_value() {
    let (request, rest) = upgrade(&[head(&[]).as_bytes()], &rules(&[])).unwrap().unwrap();
    assert_eq!(&request.accept, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!((&*request.path, request.query, request.cookie), ("/sub", None, None));
    assert_eq!(rest, b"");
}

#[test]
fn the_response_is_a_101() {
    let (request, _) = upgrade(&[head(&[]).as_bytes()], &rules(&[])).unwrap().unwrap();
    assert_eq!(
        String::from_utf8(request.response()).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
}

#[test]
fn however_the_head_is_cut_the_request_is_the_same_and_what_follows_is_left() {
    let head = head_with("GET", Some("GET /sub?token=a?b HTTP/1.1"), &["Cookie: a=1"]);
    let stream = [head.as_bytes(), b"\x82\x80after"].concat();
    let (wanted, rest) = upgrade(&[&stream], &rules(&[])).unwrap().unwrap();
    assert_eq!(wanted.query.as_deref(), Some("token=a?b"));
    assert_eq!(rest, b"\x82\x80after");
    for pieces in every_cut(&stream) {
        assert_eq!(upgrade(&pieces, &rules(&[])), Ok(Some((wanted.clone(), rest.clone()))));
    }
}

#[test]
fn an_incomplete_head_is_waited_for() {
    let head = head(&[]);
    for len in 0..head.len() {
        assert_eq!(upgrade(&[&head.as_bytes()[..len]], &rules(&[])), Ok(None), "{len}");
    }
}

#[test]
fn cookies_are_passed_on_verbatim() {
    for (lines, cookie) in [
        (&["Cookie: a=1; b=\"x y\""][..], &b"a=1; b=\"x y\""[..]),
        (&["COOKIE:a=1", "Cookie: b=2 "], b"a=1; b=2"),
        (&["Cookie: \u{e9}"], "\u{e9}".as_bytes()),
        (&["Cookie:"], b""),
    ] {
        let (request, _) = upgrade(&[head(lines).as_bytes()], &rules(&[])).unwrap().unwrap();
        assert_eq!(request.cookie.as_deref(), Some(cookie));
    }
}

#[test]
fn what_browsers_and_libraries_send_is_accepted() {
    for head in [
        head_with("Connection", Some("Connection: keep-alive, Upgrade"), &[]),
        head_with("Connection", Some("connection:upgrade"), &[]),
        head_with("Connection", Some("Connection: keep-alive"), &["Connection: Upgrade"]),
        head_with("Upgrade", Some("Upgrade: WebSocket"), &[]),
        head_with("GET", Some("GET /sub?a=%20&b HTTP/1.1"), &[]),
        head_with("GET", Some("GET /sub? HTTP/1.1"), &[]),
        head(&["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"]),
        head(&["Sec-WebSocket-Protocol: chat, superchat"]),
        head(&["User-Agent: Mozilla/5.0 (X11; Linux x86_64)", "X-Empty:"]),
        // Lists may have empty elements, values blanks around them, lines their order.
        head_with("Connection", Some("Connection: , Upgrade ,"), &[]),
        head_with("Connection", Some("Connection:\t upgrade \t"), &[]),
        head_with("Upgrade", Some("upgrade: WEBSOCKET, h2c"), &[]),
        head_with("Sec-WebSocket-Version", Some("Sec-WebSocket-Version:   13  "), &[]),
        head_with("Sec-WebSocket-Key", Some("sec-websocket-key:dGhlIHNhbXBsZSBub25jZQ== "), &[]),
        head_with("Host", Some("Host:"), &[]),
        head(&["Expect: 100-continue", "TE: trailers", "Upgrade-Insecure-Requests: 1"]),
        head(&["X-Tab: a\tb", "X-Latin-1: \u{e9}"]),
        // What browsers leave as it is in a query.
        head_with("GET", Some("GET /sub?a={1}|^`[]'&b=\\ HTTP/1.1"), &[]),
        // An empty line before the request.
        format!("\r\n{}", head(&[])),
        // 22 digits whose last bits are not zero: the nonce is never decoded.
        head_with("Sec-WebSocket-Key", Some("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAB=="), &[]),
    ] {
        assert_accepted(&head);
    }
}

#[test]
fn no_extension_and_no_subprotocol_is_ever_chosen() {
    let head = head(&["Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Protocol: chat"]);
    let (request, _) = upgrade(&[head.as_bytes()], &rules(&[])).unwrap().unwrap();
    let response = String::from_utf8(request.response()).unwrap();
    assert!(!response.contains("Extensions") && !response.contains("Protocol:"), "{response}");
}

#[test]
fn a_head_that_parsers_may_disagree_about_is_refused() {
    let raw = |name: &str, line: &str| head_with(name, Some(line), &[]).into_bytes();
    for head in [
        head(&[]).replace("\r\n", "\n").into_bytes(),
        head(&[]).replacen("\r\n", "\n", 1).into_bytes(),
        head(&[]).replacen("Upgrade: websocket\r\n", "Upgrade: websocket\n", 1).into_bytes(),
        format!("\n{}", head(&[])).into_bytes(),
        head(&["X: a", " folded"]).into_bytes(),
        head(&["X: a", "\tfolded"]).into_bytes(),
        head(&["X: a\0b"]).into_bytes(),
        head(&["X: a\u{1}b"]).into_bytes(),
        head(&["X: a\u{7f}b"]).into_bytes(),
        head(&["X: a\rb"]).into_bytes(),
        head(&["X : a"]).into_bytes(),
        head(&["X\t: a"]).into_bytes(),
        head(&[": a"]).into_bytes(),
        head(&["no colon"]).into_bytes(),
        head(&["X(): a"]).into_bytes(),
        raw("Host", "Host : a"),
        raw("GET", "GET /sub HTTP/1.0"),
        raw("GET", "GET /sub HTTP/2.0"),
        raw("GET", "GET /sub HTTP/1.1 "),
        raw("GET", "GET  /sub HTTP/1.1"),
        raw("GET", "GET /sub"),
        raw("GET", "GET"),
        raw("GET", "G@T\t/sub HTTP/1.1"),
        raw("GET", "GET /sub http/1.1"),
        raw("GET", " GET /sub HTTP/1.1"),
        raw("GET", "GET http://push.example.com/sub HTTP/1.1"),
        raw("GET", "GET ws://push.example.com/sub HTTP/1.1"),
        raw("GET", "GET * HTTP/1.1"),
        raw("GET", "CONNECT push.example.com:443 HTTP/1.1"),
        raw("GET", "GET sub HTTP/1.1"),
        raw("GET", "GET /sub#part HTTP/1.1"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), // TLS
        b"\x00\x00\x00\x10\x00\x10\x00\x01".to_vec(),             // a goim frame
    ] {
        assert_status(&head, &rules(&[]), 400);
    }
}

#[test]
fn what_no_head_may_contain_is_refused_as_soon_as_it_comes() {
    for (start, why) in [
        ("GET /sub HTTP/1.1\n", "a line feed without carriage return"),
        ("GET /sub HTTP/1.1\r\nX: a\rb", "a carriage return without line feed"),
        ("GET /sub HTTP/1.1\r\nX: a\r\n ", "a folded line"),
        ("GET /sub HTTP/1.1\r\nX: a\0", "a control character"),
        ("\x16\x03\x01", "a control character"), // TLS
    ] {
        assert_eq!(upgrade(&[start.as_bytes()], &rules(&[])), Err(Refusal::BadRequest(why)), "{start:?}");
    }
}

/// Envoy and others put the length of no body into an upgrade.
#[test]
fn an_upgrade_may_say_that_it_has_no_body() {
    for lines in [
        &["Content-Length: 0"][..],
        &["content-length:0"],
        &["Content-Length: \t0 "],
        &["Content-Length: 0", "Content-Length: 0"],
        &["Content-Length: 0, 0"],
    ] {
        assert_accepted(&head(lines));
    }
}

#[test]
fn an_upgrade_has_no_body() {
    for lines in [
        &["Content-Length: 5"][..],
        &["Content-Length: 0", "Content-Length: 5"],
        &["Content-Length: 5", "Content-Length: 5"],
        &["Content-Length: 0, 5"],
        &["Content-Length: 0,"],
        &["Content-Length:"],
        &["Content-Length: 00"],
        &["Content-Length: +0"],
        &["Content-Length: -0"],
        &["Content-Length: 0x0"],
        &["Content-Length: 0.0"],
        &["Transfer-Encoding: chunked"],
        &["Transfer-Encoding: identity"],
        &["transfer-encoding:"],
        &["Content-Length: 0", "Transfer-Encoding: chunked"],
    ] {
        assert_status(head(lines).as_bytes(), &rules(&[]), 400);
    }
}

/// A proxy may send the whole URL (RFC 9112 section 3.2.2). Of two hosts in one request nobody can know which is meant.
#[test]
fn a_target_may_be_the_whole_url_of_its_host() {
    for (target, query) in [
        ("http://push.example.com:3102/sub", None),
        ("https://push.example.com:3102/sub?token=a?b", Some("token=a?b")),
        ("HTTP://PUSH.example.com:3102/sub", None),
    ] {
        let head = head_with("GET", Some(&format!("GET {target} HTTP/1.1")), &[]);
        let (request, _) = upgrade(&[head.as_bytes()], &rules(&[])).unwrap().unwrap();
        assert_eq!((&*request.path, request.query.as_deref()), ("/sub", query), "{target}");
    }
    for (target, status) in [
        ("http://push.example.com/sub", 400),
        ("http://evil.example:3102/sub", 400),
        ("http://push.example.com:3102@evil.example/sub", 400),
        ("http:///sub", 400),
        ("http://push.example.com:3102", 400),
        ("http://push.example.com:3102?/sub", 400),
        ("http://push.example.com:3102/other", 404),
        ("ws://push.example.com:3102/sub", 400),
    ] {
        let head = head_with("GET", Some(&format!("GET {target} HTTP/1.1")), &[]);
        assert_status(head.as_bytes(), &rules(&[]), status);
    }
}

#[test]
fn what_is_no_upgrade_is_refused() {
    for (name, line, status) in [
        ("Upgrade", None, 400),
        ("Upgrade", Some("Upgrade: h2c"), 400),
        ("Upgrade", Some("Upgrade: websocket2"), 400),
        ("Connection", None, 400),
        ("Connection", Some("Connection: close"), 400),
        ("Connection", Some("Connection: not-upgrade"), 400),
        ("Host", None, 400),
        ("Sec-WebSocket-Key", None, 400),
        ("Sec-WebSocket-Key", Some("Sec-WebSocket-Key:"), 400),
        ("Sec-WebSocket-Key", Some("Sec-WebSocket-Key: c2hvcnQ="), 400),
        ("Sec-WebSocket-Key", Some("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"), 400),
        ("Sec-WebSocket-Key", Some("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQA="), 400),
        ("Sec-WebSocket-Key", Some("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQAA=="), 400),
        ("Sec-WebSocket-Key", Some("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!Q=="), 400),
        (
            "Sec-WebSocket-Key",
            Some("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="),
            400,
        ),
        ("Sec-WebSocket-Version", None, 426),
        ("Sec-WebSocket-Version", Some("Sec-WebSocket-Version: 12"), 426),
        ("Sec-WebSocket-Version", Some("Sec-WebSocket-Version: 13, 8"), 426),
        ("Sec-WebSocket-Version", Some("Sec-WebSocket-Version: 013"), 426),
        ("GET", Some("GET / HTTP/1.1"), 404),
        ("GET", Some("GET /sub/ HTTP/1.1"), 404),
        ("GET", Some("GET /SUB HTTP/1.1"), 404),
        ("GET", Some("GET /sub/../sub HTTP/1.1"), 404),
        ("GET", Some("GET /%73ub HTTP/1.1"), 404),
        ("GET", Some("POST /sub HTTP/1.1"), 405),
        ("GET", Some("get /sub HTTP/1.1"), 405),
        ("GET", Some("HEAD /sub HTTP/1.1"), 405),
    ] {
        assert_status(head_with(name, line, &[]).as_bytes(), &rules(&[]), status);
    }
}

#[test]
fn what_may_be_there_once_is_refused_twice() {
    for line in [LINES[1], LINES[4], LINES[5]] {
        assert_status(head(&[line]).as_bytes(), &rules(&[]), 400);
    }
    let origin = "Origin: http://push.example.com";
    assert_status(head(&[origin, origin]).as_bytes(), &rules(&["*"]), 400);
}

#[test]
fn pages_of_other_origins_are_refused_unless_listed() {
    for (origins, origin, allowed) in [
        (&[][..], "http://push.example.com", true),
        (&[], "https://push.example.com:8443", true),
        (&[], "http://PUSH.example.COM:80", true),
        (&[], "http://example.com", false),
        (&[], "http://evil-push.example.com", false),
        (&[], "http://push.example.com.evil.com", false),
        (&[], "http://evil.com/push.example.com", false),
        (&[], "null", false),
        (&[], "", false),
        (&[], "http://", false),
        (&[], "push.example.com", false),
        (&["https://app.example.com"], "https://app.example.com", true),
        (&["https://app.example.com"], "https://APP.example.com", true),
        (&["https://app.example.com"], "http://app.example.com", false),
        (&["https://app.example.com"], "https://app.example.com:444", false),
        (&["https://app.example.com"], "https://push.example.com", false),
        (&["http://a", "http://b"], "http://b", true),
        (&["null"], "null", true),
        (&["*"], "http://evil.com", true),
        (&["*"], "null", true),
    ] {
        let head = head(&[&format!("Origin: {origin}")]);
        let result = upgrade(&[head.as_bytes()], &rules(origins));
        match allowed {
            true => assert!(result.is_ok(), "{origin} with {origins:?}"),
            false => assert_eq!(result, Err(Refusal::Forbidden), "{origin} with {origins:?}"),
        }
    }
    for origins in [&[][..], &["https://app.example.com"]] {
        assert!(upgrade(&[head(&[]).as_bytes()], &rules(origins)).is_ok(), "no browser");
    }
}

#[test]
fn a_page_without_a_host_is_not_of_the_same_host() {
    for origin in ["null", "", "file://"] {
        let head = head_with("Host", Some("Host:"), &[&format!("Origin: {origin}")]);
        assert_eq!(upgrade(&[head.as_bytes()], &rules(&[])), Err(Refusal::Forbidden), "{origin}");
    }
}

#[test]
fn an_ipv6_host_is_the_same_host_on_another_port() {
    let check = |host: &str, origin: &str| {
        let head = head_with("Host", Some(&format!("Host: {host}")), &[&format!("Origin: {origin}")]);
        upgrade(&[head.as_bytes()], &rules(&[])).map(|_| ())
    };
    assert_eq!(check("[::1]:3102", "http://[::1]:3111"), Ok(()));
    assert_eq!(check("[::1]", "http://[::1]:3111"), Ok(()));
    assert_eq!(check("[::1]:3102", "http://[::2]:3102"), Err(Refusal::Forbidden));
    assert_eq!(check("[::1]:3102", "http://[::1"), Err(Refusal::Forbidden));
}

/// A line was bounded by 4 KiB: who had a cookie of the size browsers allow, or a token in the URL, got 431.
#[test]
fn cookies_and_tokens_of_the_sizes_browsers_allow_are_taken() {
    let cookie = |sizes: &[usize]| {
        let pairs = sizes.iter().enumerate().map(|(n, size)| format!("c{n}={}", "x".repeat(size - 3)));
        pairs.collect::<Vec<_>>().join("; ")
    };
    for (target, cookies) in [
        ("/sub".to_owned(), vec![cookie(&[4096])]),
        ("/sub".to_owned(), vec![cookie(&[2300, 2300, 2400])]),
        ("/sub".to_owned(), vec![cookie(&[4096]), cookie(&[4096]), cookie(&[4096])]),
        (format!("/sub?token={}", "t".repeat(7000)), vec![cookie(&[4096])]),
    ] {
        let lines: Vec<String> = cookies.iter().map(|cookie| format!("Cookie: {cookie}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let head = head_with("GET", Some(&format!("GET {target} HTTP/1.1")), &lines);
        let (request, _) = upgrade(&[head.as_bytes()], &rules(&[])).unwrap().unwrap();
        assert_eq!(request.cookie, Some(cookies.join("; ").into_bytes()));
    }
}

#[test]
fn lines_are_bounded() {
    let line = |len: usize| format!("X: {}", "a".repeat(len - 3));
    assert_accepted(&head(&[&line(LINE_LEN_MAX)]));
    assert_status(head(&[&line(LINE_LEN_MAX + 1)]).as_bytes(), &rules(&[]), 431);
    let target = format!("GET /sub?{} HTTP/1.1", "a".repeat(LINE_LEN_MAX));
    assert_status(head_with("GET", Some(&target), &[]).as_bytes(), &rules(&[]), 431);
    // Without any line end.
    assert_status(&[b'a'; LINE_LEN_MAX + 1], &rules(&[]), 431);
}

#[test]
fn headers_are_bounded_in_number() {
    let more = |count: usize| vec!["X: a"; count];
    assert_accepted(&head(&more(HEADERS_MAX - 5)));
    assert_status(head(&more(HEADERS_MAX - 4)).as_bytes(), &rules(&[]), 431);
    assert_status(head(&more(1000)).as_bytes(), &rules(&[]), 431);
}

#[test]
fn the_whole_head_is_bounded() {
    let with_len = |len: usize| {
        let missing = len - head(&["X: ", "Y: ", "Z: "]).len();
        let (x, y) = (missing / 3, missing / 3);
        let line = |name, len| format!("{name}: {}", "a".repeat(len));
        head(&[&line("X", x), &line("Y", y), &line("Z", missing - x - y)])
    };
    assert_accepted(&with_len(HEAD_LEN_MAX));
    assert_status(with_len(HEAD_LEN_MAX + 1).as_bytes(), &rules(&[]), 431);
}

#[test]
fn a_refusal_comes_before_the_end_of_an_endless_head() {
    let endless = "X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(100_000);
    let stream = format!("GET /sub HTTP/1.1\r\n{endless}");
    assert_status(&stream.as_bytes()[..64 * 1024], &rules(&[]), 431);
}

#[test]
fn subprotocols_are_a_short_list_of_tokens() {
    let offer = |list: &str| head(&[&format!("Sec-WebSocket-Protocol: {list}")]);
    for list in [&*vec!["p"; 32].join(","), "", "a,,b", " , a"] {
        assert_accepted(&offer(list));
    }
    for list in [&*vec!["p"; 33].join(","), &vec!["p"; 1500].join(","), &",".repeat(3000), "a b", "a/b", "é"]
    {
        assert_status(offer(list).as_bytes(), &rules(&[]), 400);
    }
}

#[test]
fn a_reader_stays_failed() {
    let mut reader = proto::websocket::Upgrade::new();
    let refusal = reader.push(&mut &b"\0"[..], PEER, &rules(&[])).unwrap_err();
    assert_eq!(reader.push(&mut head(&[]).as_bytes(), PEER, &rules(&[])), Err(refusal));
}

#[test]
fn every_refusal_is_a_whole_http_response_that_closes() {
    for (refusal, status_line) in [
        (Refusal::BadRequest("why"), "HTTP/1.1 400 Bad Request"),
        (Refusal::Forbidden, "HTTP/1.1 403 Forbidden"),
        (Refusal::NotFound, "HTTP/1.1 404 Not Found"),
        (Refusal::MethodNotAllowed, "HTTP/1.1 405 Method Not Allowed"),
        (Refusal::Timeout, "HTTP/1.1 408 Request Timeout"),
        (Refusal::UpgradeRequired, "HTTP/1.1 426 Upgrade Required"),
        (Refusal::HeadTooLarge, "HTTP/1.1 431 Request Header Fields Too Large"),
    ] {
        let response = String::from_utf8(refusal.response()).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert_eq!(head.lines().next(), Some(status_line));
        assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
        assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{head}");
    }
    let response = String::from_utf8(Refusal::UpgradeRequired.response()).unwrap();
    assert!(response.contains("\r\nSec-WebSocket-Version: 13\r\n"));
    let response = String::from_utf8(Refusal::MethodNotAllowed.response()).unwrap();
    assert!(response.contains("\r\nAllow: GET\r\n"));
}

#[test]
fn a_clients_upgrade_meets_the_servers_however_it_is_cut() {
    let client = || ClientUpgrade::new(*b"0123456789abcdef");
    let request = client().request("127.0.0.1:3102", "/sub?x=1", &[("Cookie", "a=1")]);
    let (request, rest) = upgrade(&[&request], &rules(&[])).unwrap().unwrap();
    assert_eq!(
        (request.query.as_deref(), request.cookie.as_deref(), &*rest),
        (Some("x=1"), Some(&b"a=1"[..]), &b""[..])
    );

    let stream = [&request.response()[..], b"first frame"].concat();
    for pieces in every_cut(&stream) {
        let mut client = client();
        let mut rest = Vec::new();
        let mut open = false;
        for mut piece in pieces {
            open = open || client.push(&mut piece).unwrap();
            if open {
                rest.extend_from_slice(piece);
            }
        }
        assert!(open);
        assert_eq!(rest, b"first frame");
    }
}

#[test]
fn a_client_refuses_what_is_no_upgrade() {
    let push = |response: &[u8]| ClientUpgrade::new([0; 16]).push(&mut &*response);
    assert_eq!(push(&Refusal::Forbidden.response()), Err(ClientUpgradeError::Status(403)));
    let (request, _) = upgrade(&[head(&[]).as_bytes()], &rules(&[])).unwrap().unwrap();
    for response in [
        &request.response()[..], // the accept value of another key
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"nonsense\r\n\r\n",
        &[b'a'; HEAD_LEN_MAX],
    ] {
        assert!(matches!(push(response), Err(ClientUpgradeError::BadResponse(_))));
    }
}

/// The client of a request from `PEER`, where `proxies` are believed.
fn client(proxies: &[&str], told_in: ToldIn, more: &[&str]) -> Option<String> {
    let proxies = proxies.iter().map(|network| network.parse().unwrap()).collect();
    let rules = UpgradeRules { proxies, told_in, ..UpgradeRules::default() };
    let (request, _) = upgrade(&[head(more).as_bytes()], &rules).unwrap().unwrap();
    request.client.map(|client| client.to_string())
}

#[test]
fn a_trusted_proxy_says_whose_request_it_is() {
    let trusted = &["192.0.2.0/24", "10.0.0.0/8"];
    for (more, expected) in [
        (&["X-Forwarded-For: 203.0.113.5"][..], Some("203.0.113.5")),
        (&["x-forwarded-for: 198.51.100.1, 203.0.113.5,10.0.0.1"], Some("203.0.113.5")),
        // All lines are one list.
        (&["X-Forwarded-For: 203.0.113.5", "Cookie: a=b", "X-Forwarded-For: 10.0.0.1"], Some("203.0.113.5")),
        (&["X-Forwarded-For: 198.51.100.1", "X-Forwarded-For: \"[2001:db8::1]:5\""], Some("2001:db8::1")),
        // What the proxy has written counts, not what it may have passed on.
        (&["X-Real-IP: 198.51.100.1", "X-Forwarded-For: 203.0.113.5"], Some("203.0.113.5")),
        (&["X-Real-IP: 198.51.100.1", "X-Forwarded-For: nonsense"], None),
        (&["X-Real-IP: 198.51.100.1"], None),
        (&["X-Forwarded-For:"], None),
        (&["Forwarded: for=203.0.113.5"], None),
        (&[], None),
    ] {
        assert_eq!(client(trusted, ToldIn::ForwardedFor, more).as_deref(), expected, "{more:?}");
    }
    for (more, expected) in [
        (&["X-Real-IP: 203.0.113.5"][..], Some("203.0.113.5")),
        (&["X-Real-IP: [2001:db8::1]:5"], Some("2001:db8::1")),
        (&["X-Forwarded-For: 198.51.100.1", "X-Real-IP: 203.0.113.5"], Some("203.0.113.5")),
        (&["X-Real-IP: 198.51.100.1", "X-Real-IP: 203.0.113.5"], None),
        (&["X-Real-IP: nonsense"], None),
        (&["X-Forwarded-For: 198.51.100.1"], None),
    ] {
        assert_eq!(client(trusted, ToldIn::RealIp, more).as_deref(), expected, "{more:?}");
    }
}

#[test]
fn of_nobody_else_an_address_is_believed() {
    for proxies in [&[][..], &["10.0.0.0/8", "192.0.2.2"]] {
        for more in ["X-Forwarded-For: 203.0.113.5", "X-Real-IP: 203.0.113.5"] {
            for told_in in [ToldIn::ForwardedFor, ToldIn::RealIp] {
                assert_eq!(client(proxies, told_in, &[more]), None, "{more} {PEER}");
            }
        }
    }
}
