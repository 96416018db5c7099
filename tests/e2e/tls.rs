//! TLS of client connections: other people's TLS, certificates that change, input that is no TLS.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use rustls::{ClientConfig, ClientConnection};
use testkit::rounds::rounds;

use crate::harness::{
    Client, Login, PATIENCE, Server, Transport, drivers, eventually,
    server::HALLEY,
    tls::{Certificate, relay},
};

struct Site {
    server: Server,
    certificate: Certificate,
    directory: tempfile::TempDir,
}

impl Site {
    fn new(sets: &[&str]) -> Site {
        let directory = tempfile::tempdir().expect("a directory");
        let certificate = Certificate::new(directory.path(), "site");
        let own = certificate.sets();
        let all: Vec<&str> = own.iter().map(String::as_str).chain(sets.iter().copied()).collect();
        Site { server: Server::start(&all), certificate, directory }
    }

    fn on(driver: &str) -> Site {
        Site::new(&[&format!("comet.reactor.driver={driver}")])
    }

    fn address(&self, transport: Transport) -> SocketAddr {
        self.server.secure(transport)
    }

    /// Logged in over TLS.
    fn client(&self, transport: Transport, login: &Login) -> Client {
        let mut client = Client::raw(transport, relay(self.address(transport), self.certificate.client()));
        if transport == Transport::WebSocket {
            client.upgrade("/sub", "");
        }
        client.login(login);
        client
    }

    fn hang_up(&self) {
        let pid = Pid::from_raw(self.server.pid() as i32).expect("a pid");
        kill_process(pid, Signal::HUP).expect("a signal");
    }
}

const BOTH: [Transport; 2] = [Transport::Tcp, Transport::WebSocket];

fn login(key: &str) -> Login {
    Login::key(key).room("live://1000").accepts(&[1000])
}

#[test]
fn clients_with_and_without_tls_get_the_same_on_every_driver_and_in_both_memories() {
    for driver in drivers() {
        for memory in ["small", "plain"] {
            let driver = format!("comet.reactor.driver={driver}");
            let site = Site::new(&[&driver, &format!("comet.tls.memory={memory}")]);
            let mut clients = Vec::new();
            for n in 0..4 {
                for transport in BOTH {
                    clients.push(site.client(transport, &login(&format!("tls-{transport:?}-{n}"))));
                    clients.push(site.server.client(transport, &login(&format!("{transport:?}-{n}"))));
                }
            }
            for len in [0, 1, 100, 20_000, 200_000] {
                let body = vec![b'x'; len];
                site.server.push("room?operation=1000&type=live&room=1000", &body);
                for client in &mut clients {
                    client.expect_push(1000, body.clone());
                }
            }
            let metrics = site.server.metrics();
            assert_eq!(metrics.sum("halley_tls_connections"), 8.0);
            assert_eq!(metrics.sum("halley_tls_handshakes_total"), 8.0);
        }
    }
}

/// Runs a command with input, and returns what it printed.
fn says(command: &mut Command, input: &[u8]) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // It stays open for a moment: some end with their input, before the answer has come.
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input).expect("it reads");
    std::thread::sleep(Duration::from_millis(500));
    drop(stdin);
    let output = child.wait_with_output().expect("an end");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

const UPGRADE: &[u8] =
    b"GET /sub HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn openssl(site: &Site, args: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "10", "openssl", "s_client", "-connect"]);
    command.arg(site.address(Transport::WebSocket).to_string());
    command.args(["-servername", "localhost", "-CAfile", &site.certificate.chain]).args(args);
    says(&mut command, UPGRADE)
}

#[test]
fn openssl_upgrades_with_both_versions_and_no_weak_one_is_taken() {
    for driver in drivers() {
        upgrades_with_strong_versions(&Site::on(&driver));
    }
}

fn upgrades_with_strong_versions(site: &Site) {
    for version in ["-tls1_2", "-tls1_3"] {
        let said = openssl(site, &[version]);
        assert!(said.contains("101 Switching Protocols") && said.contains("Verify return code: 0"), "{said}");
    }
    for weak in [
        &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"][..],
        &["-tls1", "-cipher", "ALL:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "AES128-GCM-SHA256:AES256-SHA:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384:@SECLEVEL=0"],
    ] {
        let said = openssl(site, weak);
        assert!(
            !said.contains("101 Switching Protocols") && said.contains("Cipher is (NONE)"),
            "{weak:?}: {said}"
        );
    }
}

#[test]
fn openssl_and_python_come_back_with_a_ticket() {
    for driver in drivers() {
        come_back_with_a_ticket(&Site::on(&driver));
    }
}

fn come_back_with_a_ticket(site: &Site) {
    let session = site.directory.path().join("session");
    let session = session.to_str().expect("UTF-8");
    for version in ["-tls1_2", "-tls1_3"] {
        assert!(openssl(site, &[version, "-sess_out", session]).contains("New, TLSv1"));
        let said = openssl(site, &[version, "-sess_in", session]);
        assert!(said.contains("Reused, TLSv1") && said.contains("101 Switching"), "{said}");
    }
    let script = "
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
session = None
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    context.minimum_version = context.maximum_version = version
    session = None
    for turn in range(2):
        plain = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
        with context.wrap_socket(plain, server_hostname='localhost', session=session) as tls:
            tls.sendall(sys.argv[3].encode())
            assert b'101 Switching' in tls.recv(4096)
            session = tls.session
            print(tls.version(), tls.session_reused)
";
    let port = site.address(Transport::WebSocket).port().to_string();
    let upgrade = String::from_utf8_lossy(UPGRADE).into_owned();
    let said =
        says(Command::new("python3").args(["-c", script, &port, &site.certificate.chain, &upgrade]), b"");
    assert_eq!(said, "TLSv1.2 False\nTLSv1.2 True\nTLSv1.3 False\nTLSv1.3 True\n");
}

/// Whether a client with this configuration trusts who is there.
fn shakes_hands(address: SocketAddr, config: &Arc<ClientConfig>) -> bool {
    let name = "localhost".try_into().expect("a name");
    let mut client = ClientConnection::new(Arc::clone(config), name).expect("a client");
    let mut stream = TcpStream::connect(address).expect("a connection");
    while client.is_handshaking() {
        if client.complete_io(&mut stream).is_err() {
            return false;
        }
    }
    true
}

#[test]
fn certificates_are_exchanged_under_load_and_nobody_is_dropped() {
    let site = Site::new(&[]);
    let mut clients: Vec<Client> =
        (0..6).map(|n| site.client(BOTH[n % 2], &login(&format!("k{n}")))).collect();
    let read = || site.server.log().matches("the certificates were read anew").count();
    for n in 0..20 * rounds() {
        // The new one is written over the files of the old one.
        let next = Certificate::new(site.directory.path(), "site");
        assert_eq!(next.chain, site.certificate.chain);
        site.hang_up();
        site.server.push("room?operation=1000&type=live&room=1000", n.to_string());
        eventually("the certificates are read", || (read() > n).then_some(()));
        let newest = next.client();
        let address = site.address(BOTH[n % 2]);
        // By every shard: the system chooses which one a client comes to.
        let is_shown = || (0..12).all(|_| shakes_hands(address, &newest));
        eventually("the new certificate is shown", || is_shown().then_some(()));
        let mut newcomer = site.client(BOTH[n % 2], &login("newcomer"));
        site.server.push("keys?operation=1000&keys=newcomer", "welcome");
        newcomer.expect_push(1000, "welcome");
        for client in &mut clients {
            client.expect_push(1000, n.to_string());
        }
    }
}

#[test]
fn a_bad_certificate_changes_nothing_and_says_why() {
    let site = Site::new(&[]);
    let other = Certificate::new(site.directory.path(), "other");
    for (file, told) in [
        (&site.certificate.chain, "there is no certificate in it"),
        (&site.certificate.key, "there is no private key in it"),
    ] {
        let before = fs::read(file).expect("a file");
        fs::write(file, "nothing").expect("a file");
        site.hang_up();
        eventually("the reason", || site.server.log().contains(told).then_some(()));
        fs::write(file, before).expect("a file");
    }
    fs::copy(&other.key, &site.certificate.key).expect("a file");
    site.hang_up();
    let told = "the private key does not belong to the certificate";
    eventually("the reason", || site.server.log().contains(told).then_some(()));
    assert!(site.server.log().contains("the old certificates stay: comet."));
    site.client(Transport::Tcp, &login("still")).leave();
}

#[test]
fn a_start_is_refused_without_a_certificate_that_can_be_used() {
    let directory = tempfile::tempdir().expect("a directory");
    let one = Certificate::new(directory.path(), "one");
    let other = Certificate::new(directory.path(), "other");
    let refused = |sets: &[String]| {
        let mut command = Command::new(HALLEY);
        command.args(["--check-config", "--set", "comet.websocket.tlsOpen=true"]);
        for set in sets {
            command.args(["--set", set]);
        }
        let output = command.output().expect("halley");
        assert_eq!(output.status.code(), Some(64), "{sets:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let files = |chain: &str, key: &str| {
        [format!("comet.websocket.certFile={chain}"), format!("comet.websocket.privateFile={key}")]
    };
    for (sets, told) in [
        (vec![], "comet.websocket.certFile = []"),
        (vec![format!("comet.websocket.certFile={}", one.chain)], "comet.websocket.privateFile = []"),
        (files("/nowhere", &one.key).to_vec(), "cannot be read"),
        (files(&one.key, &one.key).to_vec(), "there is no certificate in it"),
        (files(&one.chain, &other.key).to_vec(), "the private key does not belong to the certificate"),
    ] {
        let said = refused(&sets);
        assert!(said.contains(told), "{said}");
    }
}

#[test]
fn what_is_no_tls_is_cut_off_counted_and_harms_nobody() {
    let site = Site::new(&["comet.tls.handshakeTimeout=3s"]);
    let mut bystander = site.client(Transport::WebSocket, &login("bystander"));
    let cut_off = |address: SocketAddr, bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // It may be cut off while it still sends.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    };
    for transport in BOTH {
        let address = site.address(transport);
        for bytes in [UPGRADE, b"\0\0\0\x12\0\x10\0\x01\0\0\0\x07\0\0\0\x01{}", b"\x80\x2e\x01\x03\x01"] {
            assert_eq!(cut_off(address, bytes), b"");
        }
        // Silence, half of a hello, and one that is no hello.
        assert_eq!(cut_off(address, b""), b"");
        assert_eq!(cut_off(address, b"\x16\x03\x01\x02\x00\x01"), b"");
        let answer = cut_off(address, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00");
        assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
        assert_eq!(cut_off(address, b"\x16\x03\x01\xff\xff"), b"");
    }
    // A hello on the ports without TLS.
    for address in [site.server.tcp, site.server.ws] {
        assert_eq!(cut_off(address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaa"), b"");
    }
    site.server.push("keys?operation=1000&keys=bystander", "still here");
    bystander.expect_push(1000, "still here");
    eventually("the counters", || {
        let metrics = site.server.metrics();
        let bad = |reason: &str| {
            metrics.count(&format!("halley_bad_input_total{{proto=\"tls\",reason=\"{reason}\"}}"))
        };
        let counted =
            [bad("plain_text"), bad("timeout"), bad("bad_message"), bad("too_long"), bad("clear_port")];
        (counted == [6.0, 4.0, 2.0, 2.0, 2.0]).then_some(()).or_else(|| {
            println!("{counted:?}");
            None
        })
    });
    for told in ["a client without TLS came to a port with it", "a client with TLS came to a port without it"]
    {
        assert_eq!(site.server.log().matches(told).count(), 1, "{told}");
    }
}
