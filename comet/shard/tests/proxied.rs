//! Whose connection it is, behind proxies: the header of the PROXY protocol, and what an upgrade says.

use std::{net::IpAddr, time::Duration};

use contract::Transport;
use proto::{close::CloseReason, ids::Key};
use shard::{
    Port,
    mail::{ConnectionId, Outcome, ToShard},
};
use testkit::{
    proxy::{V2_SIGNATURE, v1, v2, v2_local, v2_of},
    wire::{self, BOTH, Got, frame, sent},
    world::{PEER, PROXY, Said, World, session, session_in},
};

fn address(text: &str) -> IpAddr {
    text.parse().expect(text)
}

/// All ports behind proxies.
fn ports() -> Vec<Port> {
    let port = |transport, tls| Port { transport, tls, proxied: true };
    BOTH.iter().flat_map(|transport| [port(*transport, false), port(*transport, true)]).collect()
}

/// All that a client says to be in the lobby.
fn login(transport: Transport) -> Vec<u8> {
    let login = sent(transport, &frame(7, 1, b"{}"));
    match transport {
        Transport::Tcp => login,
        Transport::WebSocket => [wire::upgrade("/sub", ""), login].concat(),
    }
}

/// Lets a client in and out again, and returns the addresses that the front was told meanwhile.
#[track_caller]
fn addresses(world: &mut World, id: ConnectionId) -> Vec<IpAddr> {
    world.verdict(id, Outcome::Open(session("k")));
    world.leave(id, false);
    world.addresses()
}

/// Each header is read in pieces of every size.
#[test]
fn the_headers_address_is_the_clients_on_every_port_however_it_is_cut() {
    for port in ports() {
        for (client, header) in [
            ("203.0.113.5", v1(address("203.0.113.5"))),
            ("2001:db8::5", v1(address("2001:db8::5"))),
            ("203.0.113.5", v2(address("203.0.113.5"), b"\x04\x00\x01!")),
            ("2001:db8::5", v2(address("2001:db8::5"), b"")),
            ("203.0.113.5", v2(address("::ffff:203.0.113.5"), b"")),
        ] {
            let says = login(port.transport);
            let sizes = (1..=header.len() + says.len()).chain([usize::MAX]);
            // The sizes that cut the header, and that behind it.
            let sizes = sizes.filter(|size| *size <= header.len() + 20 || *size == usize::MAX);
            for size in sizes.step_by(if port.tls { 7 } else { 1 }) {
                let mut world = World::new();
                world.read_size = size;
                let id = world.accept_from(port, PROXY, &header, &says).expect("room for it");
                assert!(world.shard.is_in_lobby(id), "{port:?}, {size} bytes at once");
                assert_eq!(addresses(&mut world, id), [address(client); 3]);
            }
        }
    }
}

#[test]
fn a_header_that_names_nobody_leaves_the_proxys_address() {
    for port in ports() {
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            v2_local(),
            v2_of(0x20, 0x11, &[7; 40]),
            v2_of(0x21, 0x00, b""),
            v2_of(0x21, 0x31, &[b'/'; 216]),
        ] {
            let mut world = World::new();
            let says = login(port.transport);
            let id = world.accept_from(port, PROXY, &header, &says).expect("room for it");
            assert_eq!(addresses(&mut world, id), [PROXY; 3]);
        }
    }
}

#[test]
fn strangers_are_served_without_a_header_under_their_own_address() {
    for port in ports() {
        let says = login(port.transport);
        for size in [1, 2, 3, 16, usize::MAX] {
            let mut world = World::new();
            world.read_size = size;
            let id = world.accept_from(port, PEER, b"", &says).expect("room for it");
            assert_eq!(addresses(&mut world, id), [PEER; 3]);
        }
    }
}

/// HTTP lets empty lines come before a request, and a header of version 2 begins with some.
#[test]
fn what_looks_like_the_begin_of_a_header_is_passed_on_whole() {
    let port = Port { proxied: true, ..Transport::WebSocket.into() };
    for (says, status) in [("\r\n", 101), ("P", 405), ("PROX", 405), ("PROXY", 405)] {
        let says = [says.as_bytes(), &wire::upgrade("/sub", "")].concat();
        for size in 1..20 {
            let mut world = World::new();
            world.read_size = size;
            let id = world.accept_from(port, PEER, b"", &says).expect("room for it");
            assert_eq!(world.got(id), [Got::Http(status)], "{size}");
            assert_eq!(world.bad("proxy", "untrusted"), 0);
        }
    }
}

#[test]
fn a_strangers_header_is_not_believed_and_ends_the_connection() {
    for port in ports() {
        for header in [v1(address("203.0.113.5")), v2(address("203.0.113.5"), b""), v2_local()] {
            for size in (1..=header.len()).chain([usize::MAX]) {
                let mut world = World::new();
                world.read_size = size;
                let bystander = world.open(Transport::Tcp, session("bystander"));
                let id = world.accept_from(port, PEER, &header, &login(port.transport)).expect("room for it");
                assert_eq!(world.socket(id).shut, Some(true), "a reset");
                assert_eq!((world.bad("proxy", "untrusted"), world.bytes(id)), (1, vec![]));
                assert_eq!(world.closes(CloseReason::ProtocolViolation), 1);
                world.say(bystander, 2, 5, b"");
                assert_eq!(world.got(bystander).len(), 1);
            }
        }
    }
}

#[test]
fn a_port_that_is_not_for_proxies_takes_no_header() {
    for transport in BOTH {
        for header in [v1(address("203.0.113.5")), v2(address("203.0.113.5"), b"")] {
            let mut world = World::new();
            world.over_tls = false;
            world.accept_from(transport, PROXY, &header, &login(transport)).expect("room for it");
            let counted = match transport {
                Transport::Tcp => world.bad("frame", "len"),
                Transport::WebSocket => world.bad("http", "bad_request"),
            };
            assert_eq!(counted, 1, "as for any other garbage");
        }
    }
}

#[test]
fn what_a_trusted_proxy_sends_instead_of_a_header_ends_the_connection_and_is_counted() {
    let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat();
    let absurd = [V2_SIGNATURE, b"\x21\x11\xff\xff"].concat();
    for port in ports() {
        for (header, reason) in [
            (&b"GET /sub HTTP/1.1\r\n"[..], "missing"),
            (&frame(7, 1, b"{}"), "missing"),
            (b"\x16\x03\x01\x02\x00", "missing"),
            (b"PROXX", "missing"),
            (b"PROXY TCP4 nonsense\r\n", "malformed"),
            (&v2_of(0x21, 0x11, b"short"), "malformed"),
            (&v2_of(0x31, 0x11, &[7; 12]), "malformed"),
            (&long, "too_long"),
            (&absurd, "too_long"),
        ] {
            for size in 1..=header.len() {
                let mut world = World::new();
                world.read_size = size;
                let id = world.accept_raw(port, PROXY, header).expect("room for it");
                assert_eq!(world.bad("proxy", reason), 1, "{reason}: {:?}", world.shard.stats().bad_input);
                assert_eq!(world.shard.stats().bad_input.len(), 1);
                assert_eq!((world.socket(id).shut, world.bytes(id)), (Some(true), vec![]));
            }
        }
    }
}

#[test]
fn a_header_that_does_not_come_in_time_ends_the_connection_and_is_counted() {
    let header = v2(address("203.0.113.5"), b"");
    for port in ports() {
        for len in [0, 1, 15, header.len() - 1] {
            let mut world = World::new();
            let id = world.accept_raw(port, PROXY, &header[..len]).expect("room for it");
            world.advance(Duration::from_millis(4800));
            assert!(world.socket(id).shut.is_none() && !world.socket(id).finished);
            world.advance(Duration::from_millis(400));
            assert_eq!((world.bad("proxy", "timeout"), world.bytes(id)), (1, vec![]), "{port:?} {len}");
            assert_eq!(world.shard.stats().bad_input.len(), 1);
            assert_eq!(world.closes(CloseReason::LoginTimeout), 1);
            world.advance(Duration::from_secs(2));
            assert!(world.is_over(id));
        }
    }
}

/// A look whether the port is open, or a client that has left before its proxy said a word.
#[test]
fn who_leaves_before_its_header_is_no_bad_input() {
    let header = v1(address("203.0.113.5"));
    for port in ports() {
        for (peer, len) in [(PROXY, 0), (PROXY, 9), (PEER, 0), (PEER, 3)] {
            for lost in [false, true] {
                let mut world = World::new();
                let id = world.accept_raw(port, peer, &header[..len]).expect("room for it");
                world.leave(id, lost);
                assert!(world.is_over(id) && world.shard.stats().bad_input.is_empty());
                assert!(world.addresses().is_empty());
            }
        }
    }
}

#[test]
fn a_stranger_that_stops_in_what_may_be_a_header_is_timed_out_as_on_any_port() {
    for (port, counted) in ports().into_iter().zip([None, Some("tls"), Some("http"), Some("tls")]) {
        let mut world = World::new();
        let over_tls = world.over_tls;
        let id = world.accept_raw(port, PEER, b"PRO").expect("room for it");
        world.advance(Duration::from_secs(8));
        assert!(world.is_over(id));
        let bad: Vec<_> = world.shard.stats().bad_input.keys().map(|(proto, _)| *proto).collect();
        assert_eq!(bad, Vec::from_iter(if over_tls { Some("tls") } else { counted }));
    }
}

#[test]
fn an_upgrade_through_a_trusted_proxy_has_the_address_that_it_says() {
    let (client, other) = (address("203.0.113.5"), address("198.51.100.9"));
    let says = |headers: &str| {
        [wire::upgrade("/sub", headers), sent(Transport::WebSocket, &frame(7, 1, b"{}"))].concat()
    };
    let plain: Port = Transport::WebSocket.into();
    for tls in [false, true] {
        let behind = Port { tls, proxied: true, ..plain };
        let plain = Port { tls, ..plain };
        for (port, peer, header, headers, expected) in [
            (plain, PROXY, vec![], "X-Forwarded-For: 9.9.9.9, 203.0.113.5, 198.51.100.9\r\n", client),
            (plain, PROXY, vec![], "X-Real-IP: 203.0.113.5\r\n", PROXY),
            (plain, PROXY, vec![], "", PROXY),
            (plain, PEER, vec![], "X-Forwarded-For: 203.0.113.5\r\nX-Real-IP: 203.0.113.5\r\n", PEER),
            // Two proxies, one behind the other.
            (behind, PROXY, v1(other), "X-Forwarded-For: 203.0.113.5\r\n", client),
            (behind, PROXY, v2_local(), "X-Forwarded-For: 203.0.113.5\r\n", client),
            // The client's own words, passed on by a proxy that has said who it is, or that it does not know it.
            (behind, PROXY, b"PROXY UNKNOWN\r\n".to_vec(), "X-Forwarded-For: 203.0.113.5\r\n", PROXY),
            (behind, PROXY, v1(PEER), "X-Forwarded-For: 203.0.113.5\r\n", PEER),
            (behind, PEER, vec![], "X-Forwarded-For: 203.0.113.5\r\n", PEER),
        ] {
            let mut world = World::new();
            let id = world.accept_from(port, peer, &header, &says(headers)).expect("room for it");
            assert_eq!(addresses(&mut world, id), [expected; 3], "{port:?} {headers:?}");
        }
    }
}

#[test]
fn the_address_moves_with_the_connection_to_another_shard() {
    let client = address("203.0.113.5");
    for port in ports() {
        let mut world = World::new();
        let id = world.accept_from(port, PROXY, &v2(client, b""), &login(port.transport));
        let id = id.expect("room for it");
        world.bytes(id);
        world.verdict(id, Outcome::Move { to: 1, session: session_in("k", "live://1") });
        let detached = world.detached.remove(0);
        assert_eq!(detached.state.peer, client);
        let id = world.attach(detached);
        world.leave(id, true);
        assert_eq!(world.addresses(), [client; 3]);
        let ended = Said::Ended { key: Key::new("k"), fenced: false, replaced: false, known: true };
        assert_eq!(world.said().last(), Some(&ended));
    }
}

#[test]
fn who_owes_a_header_counts_as_not_logged_in() {
    let port = Port { proxied: true, ..Transport::Tcp.into() };
    let mut world = World::with(|config| config.unauthenticated_max = 2);
    let ids: Vec<_> =
        (0..3).map(|_| world.accept_raw(port, PROXY, b"PROXY ").expect("room for it")).collect();
    assert_eq!(world.bad("connection", "unauthenticated_limit"), 1, "the oldest is closed for the newest");
    world.advance(Duration::from_secs(2));
    assert!(world.is_over(ids[0]) && !world.is_over(ids[2]));
    assert_eq!(world.shard.census().unauthenticated, 2);
    world.mail(ToShard::Drain { over: Duration::from_secs(1) });
    assert!(ids.iter().all(|id| world.bytes(*id).is_empty()), "nobody there understands a word");
    world.advance(Duration::from_secs(3));
    assert!(world.is_over(ids[2]));
}
