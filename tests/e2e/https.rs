//! The push API and the page over HTTPS.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use rustix::process::Signal;

use crate::harness::{
    Login, PATIENCE, Server, Transport, eventually,
    http::{SUCCESS, request},
    server::HALLEY,
    tls::{Certificate, relay},
};

struct Site {
    server: Server,
    certificate: Certificate,
    directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        let directory = tempfile::tempdir().expect("a directory");
        let certificate = Certificate::new(directory.path(), "site");
        let sets = [
            "logic.httpServer.tlsOpen=true".to_owned(),
            "logic.httpServer.tlsBind=127.0.0.1:0".to_owned(),
            format!("logic.httpServer.certFile={}", certificate.chain),
            format!("logic.httpServer.privateFile={}", certificate.key),
        ];
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        Site { server: Server::start(&sets), certificate, directory }
    }

    fn curl(&self, args: &[&str], path: &str) -> (bool, String) {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "10", "--cacert", &self.certificate.chain]);
        let url = format!("https://localhost:{}{path}", self.server.https.port());
        let output = command.args(args).arg(url).output().expect("curl");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

#[test]
fn curl_pushes_over_https_with_both_versions_and_gets_the_page() {
    let site = Site::new();
    let mut client = site.server.client(Transport::Tcp, &Login::key("k").accepts(&[1000]));
    for version in ["1.2", "1.3"] {
        let args = [&format!("--tlsv{version}"), "--tls-max", version, "--data", version];
        assert_eq!(site.curl(&args, "/goim/push/keys?operation=1000&keys=k"), (true, SUCCESS.to_owned()));
        client.expect_push(1000, version);
        let (came, page) = site.curl(&args[..3], "/_/");
        assert!(came && page.contains("<html"), "{page}");
    }
    // A page of our own, and one of somebody else's.
    let own = format!("Origin: https://localhost:{}", site.server.https.port());
    let target = "/goim/push/keys?operation=1000&keys=k";
    assert!(site.curl(&["--header", &own, "--data", "x"], target).1.contains(SUCCESS));
    let (_, refused) = site.curl(&["--header", "Origin: https://evil.example", "--data", "x"], target);
    assert!(refused.contains("-403"), "{refused}");
    // Old versions, and who does not trust the certificate, do not come in.
    assert!(!site.curl(&["--tls-max", "1.1", "--ciphers", "ALL:@SECLEVEL=0"], "/healthz").0);
    let other = Certificate::new(site.directory.path(), "other");
    let (came, said) = site.curl(&["--cacert", &other.chain], "/healthz");
    assert!(!came && said.contains("self-signed certificate"), "{said}");
    eventually("the failed handshakes are counted", || {
        (site.server.metrics().sum("halley_tls_failed_total") >= 2.0).then_some(())
    });
    assert_eq!(site.server.get("/healthz").status, 200, "the port without TLS is there as before");
}

#[test]
fn the_page_of_https_names_the_port_of_wss() {
    let directory = tempfile::tempdir().expect("a directory");
    let certificate = Certificate::new(directory.path(), "site");
    let sets = certificate.sets();
    let server = Server::start(&sets.iter().map(String::as_str).collect::<Vec<_>>());
    let config = server.get("/_/config.json").json();
    assert_eq!(config["wss_port"], server.secure(Transport::WebSocket).port());
}

#[test]
fn certificates_of_https_are_exchanged_while_a_connection_stays() {
    let mut site = Site::new();
    let https = site.server.https;
    let mut stays = crate::harness::http::Http::connect(relay(https, site.certificate.client()));
    stays.send("GET", "/healthz", &[], b"");
    assert_eq!(stays.answer().status, 200);
    let next = Certificate::new(site.directory.path(), "site");
    site.server.signal(Signal::HUP);
    eventually("the new certificate is shown", || site.curl(&[], "/healthz").0.then_some(()));
    stays.send("GET", "/healthz", &[], b"");
    assert_eq!(stays.answer().status, 200, "the connection has the old one");
    // A bad file changes nothing.
    fs::write(&next.chain, "nothing").expect("a file");
    site.server.signal(Signal::HUP);
    let told = "the old certificate of HTTPS stays: logic.httpServer.certFile";
    eventually("the reason", || site.server.log().contains(told).then_some(()));
    assert_eq!(request(relay(https, next_client(&site)), "GET", "/healthz", &[], b"").status, 200);
}

/// Trusts the certificate that the server still shows: its file holds something else by now.
fn next_client(site: &Site) -> std::sync::Arc<rustls::ClientConfig> {
    let address = site.server.https.to_string();
    let command = format!("openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509");
    let output = Command::new("sh").args(["-c", &command]).output().expect("openssl");
    std::sync::Arc::new(testkit::trust::client_of(&output.stdout))
}

#[test]
fn what_is_no_https_ends_and_harms_nobody() {
    let site = Site::new();
    // Silence beside it: more connections than are ever served at once would be another test.
    let _silent: Vec<TcpStream> =
        (0..50).map(|_| TcpStream::connect(site.server.https).expect("a connection")).collect();
    for bytes in [&b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], b"\x16\x03\x01\xff\xff", b"\0"] {
        let mut stream = TcpStream::connect(site.server.https).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    assert!(site.curl(&[], "/healthz").0);
}

#[test]
fn a_start_is_refused_where_https_has_no_certificate() {
    let output = Command::new(HALLEY)
        .args(["--check-config", "--set", "logic.httpServer.tlsOpen=true"])
        .args(["--set", "logic.tls.ca=/nowhere"])
        .output()
        .expect("halley");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    for told in ["logic.httpServer.certFile = []", "logic.tls.cert", "logic.tls.key"] {
        assert!(said.contains(told), "{told}: {said}");
    }
}
