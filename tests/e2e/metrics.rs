//! `/metrics`, `/healthz`, `/readyz`.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{BOTH, Client, Frame, Http, Login, PATIENCE, Server, Transport, eventually, hex, http};

#[test]
fn the_metrics_are_there_before_anything_happened() {
    let server = Server::start(&[]);
    let metrics = server.metrics();
    // What the issue names: connections by protocol, logins, pushes, deliveries, drops by reason, bytes, bad input by
    // reason, queue bytes, mailbox depth, the stages of a push.
    for (family, kind) in [
        ("halley_connections", "gauge"),
        ("halley_logins", "counter"),
        ("halley_pushes", "counter"),
        ("halley_deliveries", "counter"),
        ("halley_drops", "counter"),
        ("halley_written_bytes", "counter"),
        ("halley_read_bytes", "counter"),
        ("halley_bad_input", "counter"),
        ("halley_closes", "counter"),
        ("halley_queue_bytes", "gauge"),
        ("halley_mailbox_depth", "gauge"),
        ("halley_sessions", "gauge"),
        ("halley_broker_entries", "gauge"),
        ("halley_accept_to_broker_seconds", "histogram"),
        ("halley_accept_to_dispatch_seconds", "histogram"),
        ("halley_stage_dispatch_to_shard_seconds", "histogram"),
        ("halley_stage_shard_to_written_seconds", "histogram"),
        ("halley_accept_to_written_seconds", "histogram"),
        ("halley_insecure", "gauge"),
    ] {
        assert_eq!(metrics.family(family), Some(kind), "{family}");
    }
}

/// The last bucket of the gateway's own histograms was bounded by the largest number there is instead of by +Inf, without
/// which Prometheus computes no quantile.
#[test]
fn every_histogram_ends_with_infinity_and_counts_everything_there() {
    let server = Server::start(&[]);
    let mut client = server.client(Transport::Tcp, &Login::key("k").room("live://1").accepts(&[1000]));
    server.push("room?operation=1000&type=live&room=1", "hello");
    client.expect_push(1000, "hello");
    let text = || server.get("/metrics").body;
    eventually("the shard has told its figures", || {
        text().contains("halley_accept_to_written_seconds_count 1\n").then_some(())
    });
    let text = text();
    let histograms: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram")).collect();
    assert!(histograms.len() >= 5, "{histograms:?}");
    for name in histograms {
        let value = |start: String| {
            text.lines().find_map(|line| line.strip_prefix(start.as_str())).map(str::trim).map(str::to_owned)
        };
        let count = value(format!("{name}_count "));
        assert!(count.is_some(), "{name}");
        assert_eq!(value(format!("{name}_bucket{{le=\"+Inf\"}} ")), count, "{name}");
    }
}

/// A collector that reads the older text format, and asks for just that, failed at the second line and had no metric.
#[test]
fn who_does_not_accept_openmetrics_gets_the_older_text_format() {
    let server = Server::start(&[]);
    let ask = |accept: &[&str]| http::request(server.http, "GET", "/metrics", accept, b"");
    for accept in [&["Accept: text/plain;version=0.0.4"][..], &["Accept: */*"], &[]] {
        let answer = ask(accept);
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; version=0.0.4; charset=utf-8"),
            "{accept:?}"
        );
        let mut family = ("", "");
        for line in answer.body.lines() {
            if let Some(named) = line.strip_prefix("# TYPE ") {
                family = named.split_once(' ').expect("a name and a type");
                assert!(["counter", "gauge", "histogram"].contains(&family.1), "{line}");
            } else if !line.starts_with("# HELP ") {
                let name = line.split(['{', ' ']).next().expect("a word");
                let suffixes: &[&str] =
                    if family.1 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                let is_of_family = suffixes.iter().any(|suffix| name == format!("{}{suffix}", family.0));
                assert!(is_of_family, "{line:?} stands under {family:?}");
                assert_eq!(family.1 == "counter", name.ends_with("_total"), "{line}");
            }
        }
    }
    let prometheus =
        "Accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    let answer = ask(&[prometheus]);
    let kind = Some("application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert_eq!(answer.header("content-type"), kind);
    assert!(answer.body.ends_with("# EOF\n"));
}

/// `rate()` misses what comes together with the series: the first burst of each kind was not seen.
#[test]
fn every_family_has_its_series_from_the_start() {
    let server = Server::start(&[]);
    let metrics = server.metrics();
    let empty = metrics.families_without_samples();
    assert!(empty.is_empty(), "{empty:?}");
    for sample in [
        "halley_drops_total{reason=\"slow_consumer\"}",
        "halley_closes_total{reason=\"heartbeat_timeout\"}",
        "halley_bad_input_total{proto=\"websocket\",reason=\"utf8\"}",
        "halley_logins_total{result=\"unavailable\"}",
        "halley_logic_given_up_total{what=\"receive\"}",
        "halley_dispatches_total{kind=\"room\"}",
        "halley_dispatch_drops_total{reason=\"no_comet\"}",
        "halley_http_errors_total{code=\"503\"}",
        "halley_http_closed_total{reason=\"idle\"}",
    ] {
        assert_eq!(metrics.get(sample), Some(0.0), "{sample}");
    }
}

#[test]
fn the_counters_add_up() {
    let server = Server::start(&[]);
    let mut clients: Vec<_> = (0..6)
        .map(|n| {
            server.client(BOTH[n % 2], &Login::key(&format!("k{n}")).room("live://1000").accepts(&[1000]))
        })
        .collect();
    for _ in 0..10 {
        server.push("room?operation=1000&type=live&room=1000", "0123456789");
    }
    server.push("keys?operation=1000&keys=k0&keys=k1", "0123456789");
    for (n, client) in clients.iter_mut().enumerate() {
        for _ in 0..if n < 2 { 11 } else { 10 } {
            client.expect_push(1000, "0123456789");
        }
    }
    // The answers to the logins are deliveries too.
    server.expect_metric("halley_deliveries_total", 6.0 + 62.0);
    server.expect_metric("halley_connections{transport=\"tcp\"}", 3.0);
    server.expect_metric("halley_connections{transport=\"websocket\"}", 3.0);
    server.expect_metric("halley_connections_open", 6.0);
    server.expect_metric("halley_pushes_total{kind=\"room\"}", 10.0);
    server.expect_metric("halley_pushes_total{kind=\"keys\"}", 1.0);
    server.expect_metric("halley_sessions", 6.0);
    server.expect_metric("halley_broker_entries", 0.0);
    server.expect_metric("halley_queue_bytes", 0.0);
    for shard in 0..2 {
        server.expect_metric(&format!("halley_mailbox_depth{{shard=\"{shard}\"}}"), 0.0);
    }
    let metrics = server.metrics();
    assert_eq!(metrics.sum("halley_drops_total"), 0.0);
    // 62 frames of 26 bytes, three of six inside a WebSocket message and operation 9, and what the logins took.
    assert!(metrics.sum("halley_written_bytes_total") > 62.0 * 26.0, "{metrics:?}");
    assert!(metrics.sum("halley_read_bytes_total") > 6.0 * 40.0, "{metrics:?}");
    assert_eq!(metrics.get("halley_accept_to_broker_seconds_count"), Some(11.0));
    for stage in ["dispatch_to_shard", "shard_to_written"] {
        let count = metrics.get(&format!("halley_stage_{stage}_seconds_count"));
        assert!(count.is_some_and(|count| count >= 11.0), "{stage}: {count:?}");
    }
    // The logins' answers have no way to measure; 62 frames left in at least eleven writes.
    let written = metrics.get("halley_accept_to_written_seconds_count");
    assert!(written.is_some_and(|count| (11.0..=62.0).contains(&count)), "{written:?}");
    // Bad input has its proto and its reason.
    let mut bad = server.connect(Transport::Tcp);
    bad.send_bytes(&hex("ffffffff 0010 0001 00000002 00000000"));
    bad.end();
    server.expect_metric("halley_bad_input_total{proto=\"frame\",reason=\"len\"}", 1.0);
    server.post("/goim/push/keys?operation=5&keys=k0", "x").expect_error(400, -400);
    server.expect_metric("halley_http_errors_total{code=\"400\"}", 1.0);
    clients.into_iter().for_each(Client::leave);
    server.expect_metric("halley_connections_open", 0.0);
    server.expect_metric("halley_connections{transport=\"tcp\"}", 0.0);
    server.expect_metric("halley_sessions", 0.0);
}

#[test]
fn health_is_told() {
    let mut server = Server::start(&[]);
    for path in ["/healthz", "/readyz"] {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.body.trim()), (200, "ok"), "{path}");
    }
    assert_eq!(http::request(server.http, "POST", "/healthz", &[], b"").status, 405);
    // A request that is not finished keeps the HTTP port alive while everything else goes away.
    let mut connection = Http::connect(server.http);
    connection.write(
        b"POST /goim/push/keys?keys=a&operation=1000 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1"
            .to_vec(),
    );
    let mut client = server.client(Transport::Tcp, &Login::key("a"));
    client.send(2, 1, "");
    assert_eq!(client.frame(), Frame::new(3, 1, [0; 4]));
    std::thread::sleep(Duration::from_millis(50));
    server.signal(Signal::TERM);
    connection.write(b"2".to_vec());
    assert_eq!(connection.answer().status, 200);
    eventually("the end", || (!server.is_running()).then_some(()));
    assert_eq!(server.exit_status(PATIENCE), Some(0));
}
