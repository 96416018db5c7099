//! Behind proxies: the client's address is the one that a trusted proxy tells, for the log, the counts and everything else.
//! What trusted proxies send comes from 127.0.0.1 here, and strangers come from 127.0.0.2.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, SocketAddrV4, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use testkit::proxy::{V2_SIGNATURE, v1, v2, v2_local, v2_of};

use crate::harness::{
    BOTH, Client, Login, PATIENCE, Server, Transport, drivers, eventually,
    tls::{Certificate, relay_over},
    wire,
};

const PROXY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

struct Site {
    server: Server,
    certificate: Certificate,
    _directory: tempfile::TempDir,
}

/// A port, and inside TLS where true.
type Port = (Transport, bool);

const PORTS: [Port; 4] = [
    (Transport::Tcp, false),
    (Transport::Tcp, true),
    (Transport::WebSocket, false),
    (Transport::WebSocket, true),
];

impl Site {
    /// Who is trusted is 127.0.0.1, and the log names user 42.
    fn new(sets: &[&str]) -> Site {
        let directory = tempfile::tempdir().expect("a directory");
        let certificate = Certificate::new(directory.path(), "site");
        let own = certificate.sets();
        let ours = ["comet.proxies.trusted=127.0.0.1", "comet.whitelist.Whitelist=42"];
        let all: Vec<&str> = own.iter().map(String::as_str).chain(ours).chain(sets.iter().copied()).collect();
        Site { server: Server::start(&all), certificate, _directory: directory }
    }

    /// All of its ports are for the PROXY protocol.
    fn behind_proxies(sets: &[&str]) -> Site {
        let ours = ["comet.tcp.proxyProtocol=true", "comet.websocket.proxyProtocol=true"];
        Site::new(&ours.into_iter().chain(sets.iter().copied()).collect::<Vec<_>>())
    }

    fn address(&self, (transport, tls): Port) -> SocketAddr {
        if tls { self.server.secure(transport) } else { self.server.address(transport) }
    }

    /// A client whose connection comes from `source` and begins with `header`. It has said nothing itself.
    fn raw(&self, port: Port, source: IpAddr, header: Vec<u8>) -> Client {
        let (target, (transport, tls)) = (self.address(port), port);
        let open = move || {
            let mut stream = connection(source, target)?;
            stream.write_all(&header)?;
            Ok(stream)
        };
        if tls {
            Client::raw(transport, relay_over(open, self.certificate.client()))
        } else {
            Client::on(transport, open().expect("a connection"))
        }
    }

    /// Logged in as user 42, with further lines in the head of its upgrade.
    #[track_caller]
    fn client(&self, port: Port, source: IpAddr, header: Vec<u8>, headers: &str, key: &str) -> Client {
        let mut client = self.raw(port, source, header);
        if port.0 == Transport::WebSocket {
            client.upgrade("/sub", headers);
        }
        client.login(&Login::key(key).mid(42).room("live://1000").accepts(&[1000]));
        client
    }

    /// Logs a client in and out, and looks whether the log has told both with this address. It tells ten lines a second, so
    /// who comes too early comes again.
    #[track_caller]
    fn expect(&self, port: Port, source: IpAddr, header: &[u8], headers: &str, address: &str) {
        static LOGINS: AtomicUsize = AtomicUsize::new(0);
        eventually(&format!("{port:?} from {address}"), || {
            let key = format!("k{}", LOGINS.fetch_add(1, Ordering::Relaxed));
            self.client(port, source, header.to_vec(), headers, &key).leave();
            thread::sleep(Duration::from_millis(220));
            let (log, key) = (self.server.log(), format!("key=\"{key}\" "));
            let lines = log.lines().filter(|line| line.contains(&key)).map(|line| format!("{line} "));
            let told: Vec<String> = lines.collect();
            let is_right = told.iter().all(|line| line.contains(&format!("address={address} ")));
            assert!(is_right, "{told:?}, not {address}");
            let both = ["logged in", "closed"].map(|word| told.iter().any(|line| line.contains(word)));
            (both == [true, true]).then_some(())
        });
    }

    fn bad(&self, reason: &str) -> f64 {
        self.server.metrics().count(&format!("halley_bad_input_total{{proto=\"proxy\",reason=\"{reason}\"}}"))
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A connection from that address of this machine.
fn connection(source: IpAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let IpAddr::V4(source) = source else { panic!("this machine has many addresses of IPv4 only") };
    bind(&socket, &SocketAddrV4::new(source, 0))?;
    connect(&socket, &target)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

#[test]
fn log_and_counts_have_the_address_of_the_header_on_every_port_and_driver() {
    for driver in drivers() {
        let site = Site::behind_proxies(&[&format!("comet.reactor.driver={driver}")]);
        for port in PORTS {
            let (near, far) = ("203.0.113.5", "2001:db8::5");
            site.expect(port, PROXY, &v1(ip(near)), "", near);
            site.expect(port, PROXY, &v2(ip(far), &[0xee; 500]), "", far);
            site.expect(port, PROXY, &v2_local(), "", "127.0.0.1");
            site.expect(port, STRANGER, b"", "", "127.0.0.2");
        }
        assert_eq!(site.server.metrics().sum("halley_bad_input_total"), 0.0);
    }
}

/// All of them come from one proxy. Half of them log in on the shard that does not own their key.
#[test]
fn clients_behind_one_proxy_count_as_many_also_after_a_hand_over() {
    let site = Site::behind_proxies(&[]);
    let address = |n: usize| format!("203.0.113.{}", n + 1);
    let mut clients: Vec<Client> = (0..24)
        .map(|n| {
            let header = if n % 3 == 0 { v1(ip(&address(n))) } else { v2(ip(&address(n)), b"") };
            site.client(PORTS[n % 4], PROXY, header, "", &format!("k{n}"))
        })
        .collect();
    // One more from an address that is there.
    clients.push(site.client(PORTS[0], PROXY, v1(ip(&address(0))), "", "twin"));
    eventually("counts by address", || {
        let total = &site.server.get("/goim/online/total").json()["data"];
        (total["conn_count"] == 25 && total["ip_count"] == 24).then_some(())
    });
    assert!(site.server.metrics().sum("halley_attached_total") > 0.0, "some of them changed shards");
    site.server.push("room?operation=1000&type=live&room=1000", "all");
    for client in &mut clients {
        client.expect_push(1000, "all");
    }
    // Of so many at once the log tells only some.
    let (log, mut told) = (site.server.log(), 0);
    for n in 0..24 {
        let (key, address) = (format!("key=\"k{n}\""), format!("address={} ", address(n)));
        let line = log.lines().find(|line| line.contains("logged in") && line.contains(&key));
        assert!(line.is_none_or(|line| format!("{line} ").contains(&address)), "{line:?}, not {address}");
        told += usize::from(line.is_some());
    }
    assert!(told > 0, "{log}");
    drop(clients);
    eventually("nobody is counted", || {
        let total = &site.server.get("/goim/online/total").json()["data"];
        (total["conn_count"] == 0 && total["ip_count"] == 0).then_some(())
    });
}

/// What comes back until the connection ends.
fn cut_off(source: IpAddr, address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connection(source, address).expect("a connection");
    // It may be cut off while it still sends.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn a_bad_header_is_cut_off_counted_and_harms_nobody() {
    let timeouts = ["comet.protocol.handshakeTimeout=3s", "comet.tls.handshakeTimeout=3s"];
    let site = Site::behind_proxies(&timeouts);
    let mut bystanders: Vec<Client> = PORTS
        .iter()
        .map(|port| site.client(*port, PROXY, v2(ip("203.0.113.5"), b""), "", &format!("{port:?}")))
        .collect();
    let login = wire::frame(7, 1, b"{}");
    let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 4000]].concat();
    let rows: [(IpAddr, Vec<u8>, &str); 12] = [
        (STRANGER, v1(ip("203.0.113.5")), "untrusted"),
        (STRANGER, v2(ip("203.0.113.5"), b""), "untrusted"),
        (STRANGER, [v2_local(), login.clone()].concat(), "untrusted"),
        (PROXY, login, "missing"),
        (PROXY, wire::upgrade("/sub", "X-Forwarded-For: 203.0.113.5\r\n"), "missing"),
        (PROXY, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), "missing"),
        (PROXY, b"PROXY TCP4 203.0.113.5 nonsense 1 2\r\n".to_vec(), "malformed"),
        (PROXY, v2_of(0x21, 0x11, b"short"), "malformed"),
        (PROXY, endless, "too_long"),
        (PROXY, [V2_SIGNATURE, b"\x21\x11\xff\xff"].concat(), "too_long"),
        (PROXY, v2(ip("203.0.113.5"), b"")[..20].to_vec(), "timeout"),
        (PROXY, vec![], "timeout"),
    ];
    for port in PORTS {
        for (source, bytes, reason) in &rows {
            assert_eq!(cut_off(*source, site.address(port), bytes), b"", "{port:?} {reason}");
        }
    }
    site.server.push("room?operation=1000&type=live&room=1000", "still here");
    for bystander in &mut bystanders {
        bystander.expect_push(1000, "still here");
    }
    let ports = PORTS.len() as f64;
    for reason in ["untrusted", "missing", "malformed", "too_long", "timeout"] {
        let expected = rows.iter().filter(|row| row.2 == reason).count() as f64 * ports;
        eventually(reason, || (site.bad(reason) == expected).then_some(()));
    }
    let log = site.server.log();
    assert!(!log.contains("PROXY TCP4"), "what strangers send is not logged: {log}");
}

#[test]
fn a_header_may_come_in_pieces_and_in_one_segment_with_what_follows() {
    let site = Site::behind_proxies(&[]);
    let header = v2(ip("203.0.113.5"), b"\x04\x00\x02ab");
    for transport in BOTH {
        let address = site.address((transport, false));
        let says = match transport {
            Transport::Tcp => wire::frame(7, 1, br#"{"key":"k"}"#),
            Transport::WebSocket => wire::upgrade("/sub", ""),
        };
        let stream = [&header[..], &says].concat();
        for pieces in [vec![&stream[..]], stream.chunks(9).collect()] {
            let mut connection = connection(PROXY, address).expect("a connection");
            for piece in pieces {
                connection.write_all(piece).expect("it reads");
                thread::sleep(Duration::from_millis(2));
            }
            let mut answer = [0; 12];
            connection.read_exact(&mut answer).expect("an answer");
            match transport {
                Transport::Tcp => assert_eq!(answer[8..12], [0, 0, 0, 8]),
                Transport::WebSocket => assert_eq!(&answer, b"HTTP/1.1 101"),
            }
        }
    }
}

#[test]
fn an_upgrade_has_the_address_that_a_trusted_proxy_writes_into_it() {
    let trusted = "comet.proxies.trusted=127.0.0.1,10.0.0.0/8";
    let plain = Site::new(&[trusted]);
    let behind = Site::behind_proxies(&[trusted]);
    let real = Site::new(&[trusted, "comet.proxies.header=x-real-ip"]);
    for tls in [false, true] {
        let port = (Transport::WebSocket, tls);
        for (headers, address) in [
            ("X-Forwarded-For: 203.0.113.5\r\n", "203.0.113.5"),
            ("X-Forwarded-For: 9.9.9.9, 203.0.113.6:81,10.1.1.1\r\n", "203.0.113.6"),
            ("X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: \"[2001:db8::7]:5\"\r\n", "2001:db8::7"),
            ("X-Forwarded-For: 9.9.9.9, nonsense, 10.1.1.2\r\n", "10.1.1.2"),
            ("X-Real-IP: 203.0.113.8\r\n", "127.0.0.1"),
        ] {
            plain.expect(port, PROXY, b"", headers, address);
        }
        // nginx with X-Real-IP alone passes on what a client has written into the other one.
        let forged = "X-Forwarded-For: 9.9.9.9\r\nX-Real-IP: 203.0.113.8\r\n";
        real.expect(port, PROXY, b"", forged, "203.0.113.8");
        real.expect(port, PROXY, b"", "X-Real-IP: nonsense\r\n", "127.0.0.1");
        let told = "X-Forwarded-For: 203.0.113.5\r\nX-Real-IP: 203.0.113.5\r\n";
        plain.expect(port, STRANGER, b"", told, "127.0.0.2");
        // A proxy of TCP in front of one of HTTP, and in front of clients that write the header themselves.
        behind.expect(port, PROXY, &v2(ip("10.1.1.1"), b""), told, "203.0.113.5");
        behind.expect(port, PROXY, &v2(ip("198.51.100.1"), b""), told, "198.51.100.1");
        behind.expect(port, STRANGER, b"", told, "127.0.0.2");
    }
}
