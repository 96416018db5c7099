//! TLS of other people against every driver: Go's and curl's clients, and a scan for what must not be taken.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
};

use serde_json::{Value, json};
use services::GoPeer;

use crate::harness::{Login, PATIENCE, Server, Transport, drivers, eventually, tls::Certificate, wire::BOTH};

/// A server with a certificate of ECDSA and one of RSA, so that every suite it knows can be had.
struct Site {
    server: Server,
    ecdsa: Certificate,
    _directory: tempfile::TempDir,
}

impl Site {
    fn new(driver: &str) -> Site {
        let directory = tempfile::tempdir().expect("a directory");
        let ecdsa = Certificate::new(directory.path(), "ecdsa");
        let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
        let (chain, key) = (path("rsa.crt"), path("rsa.key"));
        let mut command = Command::new("openssl");
        command.args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=localhost",
            "-days",
            "30",
        ]);
        command.args(["-addext", "subjectAltName=DNS:localhost", "-keyout", &key, "-out", &chain]);
        let output = command.output().expect("openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let both = [
            format!("comet.websocket.certFile={},{chain}", ecdsa.chain),
            format!("comet.websocket.privateFile={},{key}", ecdsa.key),
            format!("comet.reactor.driver={driver}"),
        ];
        let sets = ecdsa.sets();
        let sets: Vec<&str> = sets.iter().chain(&both).map(String::as_str).collect();
        Site { server: Server::start(&sets), ecdsa, _directory: directory }
    }

    fn wss(&self) -> SocketAddr {
        self.server.secure(Transport::WebSocket)
    }

    /// What the server has counted as bad TLS for this reason.
    fn bad(&self, reason: &str) -> f64 {
        let sample = format!("halley_bad_input_total{{proto=\"tls\",reason=\"{reason}\"}}");
        self.server.metrics().count(&sample)
    }

    /// openssl's client, which gets this input and then its end.
    fn openssl(&self, args: &[&str], input: &str) -> String {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "20", "openssl", "s_client", "-connect", &self.wss().to_string()]);
        command.args(["-servername", "localhost"]).args(args);
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(input.as_bytes()).expect("a file");
        std::io::Seek::rewind(&mut file).expect("a file");
        said_by(&mut command, file)
    }
}

/// What a command prints, both ways.
fn said_by(command: &mut Command, input: File) -> String {
    let output =
        command.stdin(Stdio::from(input)).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn nothing() -> File {
    File::open("/dev/null").expect("a Linux")
}

#[test]
fn a_go_client_logs_in_and_is_pushed_to_with_both_versions_and_comes_back_with_a_ticket() {
    for driver in drivers() {
        let site = Site::new(&driver);
        let mut peer = GoPeer::start(&["visit", &site.ecdsa.chain]);
        for transport in BOTH {
            for version in [0x0303, 0x0304] {
                for turn in 0..3 {
                    let key = format!("{transport:?}-{version}-{turn}");
                    let login = Login::key(&key).accepts(&[1000]).body();
                    let login = String::from_utf8(login).expect("JSON");
                    let said = peer.ask(&json!({
                        "Address": site.server.secure(transport).to_string(),
                        "Version": version,
                        "WebSocket": transport == Transport::WebSocket,
                        "Login": login,
                    }));
                    let came = (&said["Version"], &said["Op"]);
                    assert_eq!(came, (&Value::from(version), &Value::from(8)), "{driver}: {said}");
                    site.server.push(&format!("keys?operation=1000&keys={key}"), &key);
                    let said = peer.ask(&json!({"Read": true}));
                    assert_eq!(
                        (&said["Op"], &said["Body"]),
                        (&Value::from(1000), &Value::from(key.as_str()))
                    );
                    // Both ports have the tickets' keys in common.
                    let is_first = turn == 0 && transport == BOTH[0];
                    assert_eq!(said["Resumed"], !is_first, "{driver}: {said}");
                }
            }
        }
        peer.leave();
        eventually("the handshakes are counted", || {
            let metrics = site.server.metrics();
            let handshakes = |version: &str, kind: &str| {
                let labels = format!("{{version=\"{version}\",kind=\"{kind}\"}}");
                metrics.count(&format!("halley_tls_handshakes_total{labels}"))
            };
            let counted =
                ["1.2", "1.3"].map(|version| ["full", "resumed"].map(|kind| handshakes(version, kind)));
            (counted == [[1.0, 5.0]; 2]).then_some(())
        });
    }
}

#[test]
fn curl_upgrades_with_both_versions_and_is_told_what_is_wrong_with_a_plain_request() {
    for driver in drivers() {
        let site = Site::new(&driver);
        let port = site.wss().port();
        let curl = |args: &[&str]| {
            let mut command = Command::new("curl");
            command.args([
                "--silent",
                "--show-error",
                "--include",
                "--http1.1",
                "--max-time",
                "2",
                "--noproxy",
                "*",
            ]);
            command.args([
                "--cacert",
                &site.ecdsa.chain,
                "--resolve",
                &format!("localhost:{port}:127.0.0.1"),
            ]);
            said_by(command.args(args), nothing())
        };
        let address = |path: &str| format!("https://localhost:{port}{path}");
        for version in [["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3", "--tls-max", "1.3"]] {
            let mut upgrade = version.to_vec();
            for header in [
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            ] {
                upgrade.extend(["--header", header]);
            }
            let (right, wrong) = (address("/sub"), address("/elsewhere"));
            let said = curl(&[&upgrade[..], &[&right]].concat());
            assert!(said.starts_with("HTTP/1.1 101 "), "{driver}: {said}");
            let said = curl(&[&upgrade[..], &[&wrong]].concat());
            assert!(said.starts_with("HTTP/1.1 404 "), "{driver}: {said}");
            // Whole, and ended as TLS wants it: curl would complain of an end that is not told.
            let said = curl(&[&version[..], &[&right]].concat());
            assert!(said.starts_with("HTTP/1.1 4") && !said.contains("curl:"), "{driver}: {said}");
        }
        let said = curl(&["--tlsv1.0", "--tls-max", "1.1", "--ciphers", "ALL:@SECLEVEL=0", &address("/sub")]);
        assert!(said.contains("curl: (35)"), "{driver}: {said}");
    }
}

/// Those of TLS 1.2 that are taken, and no other.
const TAKEN: [&str; 6] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// Suites that are offered at once.
const SCANS: usize = 4;

#[test]
fn of_all_suites_that_openssl_knows_six_are_taken_and_every_other_one_offered_alone_is_refused() {
    let mut command = Command::new("openssl");
    command.args(["ciphers", "-s", "-psk", "-srp", "-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"]);
    let listed = command.output().expect("openssl");
    let listed = String::from_utf8(listed.stdout).expect("text");
    let suites: Vec<&str> = listed.trim().split(':').collect();
    assert!(suites.len() > 60, "{suites:?}");
    for driver in drivers() {
        let site = Site::new(&driver);
        let next = Mutex::new(suites.iter());
        let said = Mutex::new(BTreeMap::new());
        thread::scope(|scope| {
            for _ in 0..SCANS {
                scope.spawn(|| {
                    while let Some(suite) = { next.lock().expect("no panic").next() } {
                        let alone = format!("{suite}:@SECLEVEL=0");
                        let mut args = vec!["-tls1_2", "-cipher", &alone];
                        if suite.contains("PSK") {
                            args.extend(["-psk", "1a2b3c4d"]);
                        }
                        if suite.contains("SRP") {
                            args.extend(["-srpuser", "user", "-srppass", "pass:pass"]);
                        }
                        let answer = site.openssl(&args, "");
                        said.lock().expect("no panic").insert(*suite, answer);
                    }
                });
            }
        });
        let said = said.into_inner().expect("no panic");
        for (suite, said) in &said {
            let is_taken = said.contains(&format!("Cipher is {suite}\n"));
            assert_eq!(is_taken, TAKEN.contains(suite), "{driver}, {suite}: {said}");
            assert!(is_taken || said.contains("Cipher is (NONE)"), "{driver}, {suite}: {said}");
            assert!(!is_taken || said.contains("Compression: NONE"), "{driver}, {suite}: {said}");
            assert!(
                !is_taken || said.contains("Secure Renegotiation IS supported"),
                "{driver}, {suite}: {said}"
            );
        }
        // They were offered: the server has refused each of them.
        let refused = said.values().filter(|said| said.contains("alert handshake failure")).count();
        assert_eq!(refused + TAKEN.len(), suites.len(), "{said:#?}");
        eventually("the refusals are counted", || (site.bad("incompatible") == refused as f64).then_some(()));
    }
}

#[test]
fn no_version_before_1_2_is_taken() {
    for driver in drivers() {
        let site = Site::new(&driver);
        for (count, version) in ["-tls1", "-tls1_1"].into_iter().enumerate() {
            let said = site.openssl(&[version, "-cipher", "ALL:@SECLEVEL=0"], "");
            assert!(said.contains("SSL alert number") && said.contains("Cipher is (NONE)"), "{said}");
            eventually("it is counted", || (site.bad("incompatible") == count as f64 + 1.0).then_some(()));
        }
        // openssl is built without it.
        let answer = answer(site.wss(), &hello([3, 0], &[0]));
        assert_eq!(answer[..1], [21], "SSL 3 gets an alert: {answer:?}");
    }
}

#[test]
fn a_renegotiation_ends_its_connection_and_compression_is_never_chosen() {
    for driver in drivers() {
        let site = Site::new(&driver);
        let mut bystander = TcpStream::connect(site.server.ws).expect("a connection");
        // The client's word for a new handshake.
        let said = site.openssl(&["-tls1_2"], "R\n");
        assert!(
            said.contains("RENEGOTIATING") && said.contains("alert no renegotiation"),
            "{driver}: {said}"
        );
        eventually("it is counted", || (site.bad("renegotiation") == 1.0).then_some(()));
        bystander.write_all(b"x").expect("it is not concerned");

        // The answer: a record, a message with its version, 32 random bytes, a session, the suite, the compression.
        let chosen = answer(site.wss(), &hello([3, 3], &[1, 64, 0]));
        assert_eq!(chosen[..1], [22], "{driver}: a handshake: {chosen:?}");
        let session = 5 + 4 + 2 + 32;
        let suite = session + 1 + usize::from(chosen[session]);
        assert_eq!(chosen[suite..suite + 3], [0xc0, 0x2b, 0], "{driver}: no compression: {chosen:?}");
        let refused = answer(site.wss(), &hello([3, 3], &[1]));
        assert_eq!(refused[..1], [21], "{driver}: nothing but compression: {refused:?}");
    }
}

/// A hello of that version for `localhost`, with ECDHE-ECDSA-AES128-GCM-SHA256, and with these compressions.
fn hello(version: [u8; 2], compressions: &[u8]) -> Vec<u8> {
    let extension = |kind: u8, body: &[u8]| [&[0, kind, 0, body.len() as u8][..], body].concat();
    let extensions = [
        extension(10, &[0, 4, 0, 29, 0, 23]), // groups: X25519, P-256
        extension(11, &[1, 0]),               // points, not compressed
        extension(13, &[0, 2, 4, 3]),         // signatures: ECDSA with SHA-256
        extension(23, &[]),                   // the master secret covers the handshake
        extension(0, b"\0\x0c\0\0\x09localhost"),
    ];
    let extensions = extensions.concat();
    let body = [
        &version[..],
        &[7; 32],
        &[0, 0, 2, 0xc0, 0x2b, compressions.len() as u8],
        compressions,
        &[0, extensions.len() as u8],
        &extensions,
    ];
    let body = body.concat();
    [&[22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8][..], &body].concat()
}

/// The first bytes of the answer.
fn answer(address: SocketAddr, hello: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(hello).expect("it is taken");
    let mut answer = vec![0; 5];
    stream.read_exact(&mut answer).expect("a record");
    let mut rest = vec![0; usize::from(u16::from_be_bytes([answer[3], answer[4]]))];
    stream.read_exact(&mut rest).expect("all of it");
    answer.extend(rest);
    answer
}
