//! With clients of rustls that do nothing wrong.

use std::sync::Arc;

use rustls::{CipherSuite, client::Resumption};

use super::{Pair, SUITES, Site};
use crate::{Failure, Memory, Opened, TicketKeys, Version};

const MEMORIES: [Memory; 2] = [Memory::Small, Memory::Plain];
const SUITE: CipherSuite = CipherSuite::TLS13_AES_256_GCM_SHA384;

fn is_13(suite: CipherSuite) -> bool {
    SUITES[..3].contains(&suite)
}

#[test]
fn every_suite_carries_text_both_ways_however_the_bytes_are_cut() {
    for memory in MEMORIES {
        let site = Site::new(memory);
        for suite in SUITES {
            for step in [1, 7, 100, usize::MAX] {
                let mut pair = Pair::new(&site, site.client(suite));
                pair.step = step;
                let mut expected = Vec::new();
                for round in 0..20_usize {
                    let text = vec![round as u8; round * round * 40];
                    pair.say(&text);
                    expected.extend_from_slice(&text);
                    pair.run().unwrap_or_else(|failure| panic!("{suite:?} {step}: {failure}"));
                    pair.tls.seal(&text).expect("room");
                    pair.run().expect("it goes on");
                    assert_eq!(pair.heard(), text, "{suite:?} {step}");
                }
                assert_eq!(pair.got, expected);
                let version = if is_13(suite) { Version::Tls13 } else { Version::Tls12 };
                assert_eq!(pair.summary.map(|summary| summary.version), Some(version));
            }
        }
    }
}

#[test]
fn many_records_in_one_segment_are_all_read() {
    for suite in SUITES {
        let site = Site::new(Memory::Small);
        let mut pair = Pair::new(&site, site.client(suite));
        pair.run().expect("a handshake");
        for n in 0..1000_u32 {
            pair.say(&n.to_be_bytes());
        }
        pair.run().expect("records");
        assert_eq!(pair.got, (0..1000_u32).flat_map(u32::to_be_bytes).collect::<Vec<_>>());
    }
}

#[test]
fn text_that_comes_with_the_end_of_the_handshake_is_read() {
    for memory in MEMORIES {
        for suite in SUITES {
            let site = Site::new(memory);
            let mut pair = Pair::new(&site, site.client(suite));
            pair.say(b"login");
            pair.run().expect("a handshake");
            assert_eq!(pair.got, b"login");
        }
    }
}

#[test]
fn a_change_of_the_key_that_comes_with_the_end_of_the_handshake_is_followed() {
    for memory in MEMORIES {
        let site = Site::new(memory);
        let mut pair = Pair::new(&site, site.client(SUITE));
        // The client's turn: its end of the handshake is written, and not sent yet.
        let mut hello = Vec::new();
        pair.client.write_tls(&mut hello).expect("a vector takes all");
        pair.receive(&hello).expect("a hello");
        let flight = pair.tls.take_output();
        pair.show(&flight);
        pair.client.refresh_traffic_keys().expect("the client is done");
        pair.say(b"under the new key");
        pair.run().expect("it goes on");
        pair.tls.seal(b"answer").expect("room");
        pair.run().expect("it goes on");
        assert_eq!(pair.heard(), b"answer");
        assert_eq!(pair.got, b"under the new key");
    }
}

#[test]
fn both_sides_change_their_keys_again_and_again() {
    for memory in MEMORIES {
        // Ours changes after every third record.
        let site = Site::with(memory, |acceptor| acceptor.with_records_max(3));
        for suite in &SUITES[..3] {
            let mut pair = Pair::new(&site, site.client(*suite));
            pair.run().expect("a handshake");
            for n in 0..100_u32 {
                if n % 7 == 0 {
                    pair.client.refresh_traffic_keys().expect("a change");
                }
                pair.say(&n.to_be_bytes());
                pair.tls.seal(&n.to_be_bytes()).expect("room");
                pair.run().expect("it goes on");
                assert_eq!(pair.heard(), n.to_be_bytes());
            }
            assert_eq!(pair.got.len(), 400);
        }
    }
}

#[test]
fn a_flood_of_key_changes_ends_the_connection() {
    for memory in MEMORIES {
        let site = Site::new(memory);
        let mut pair = Pair::new(&site, site.client(SUITE));
        pair.run().expect("a handshake");
        let failure = (0..40).find_map(|_| {
            pair.client.refresh_traffic_keys().expect("a change");
            pair.run().err()
        });
        assert!(matches!(failure, Some(Failure::Idle | Failure::BadMessage)), "{memory:?}: {failure:?}");
    }
}

#[test]
fn tls_1_2_ends_before_its_key_has_sealed_too_much() {
    let site = Site::with(Memory::Small, |acceptor| acceptor.with_records_max(3));
    let mut pair = Pair::new(&site, site.client(SUITES[3]));
    pair.run().expect("a handshake");
    // The end of the handshake was the first record under this key.
    for _ in 0..2 {
        pair.tls.seal(b"text").expect("room");
    }
    assert_eq!(pair.tls.seal(b"text"), Err(Failure::UsedUp));
    let output = pair.tls.take_output();
    pair.show(&output);
    assert_eq!(pair.heard(), b"texttext");
}

#[test]
fn each_side_can_end_and_the_other_goes_on() {
    for memory in MEMORIES {
        for suite in SUITES {
            let site = Site::new(memory);
            let mut pair = Pair::new(&site, site.client(suite));
            pair.run().expect("a handshake");
            pair.say(b"last");
            pair.client.send_close_notify();
            pair.run().expect("an end");
            assert!(pair.ended, "{suite:?}");
            assert_eq!(pair.got, b"last");
            pair.tls.seal(b"answer").expect("our side goes on");
            pair.tls.close();
            pair.tls.close();
            let output = pair.tls.take_output();
            pair.show(&output);
            assert_eq!(pair.heard(), b"answer");
        }
    }
}

#[test]
fn what_comes_behind_the_end_is_nothing() {
    let site = Site::new(Memory::Small);
    let mut pair = Pair::new(&site, site.client(SUITE));
    pair.run().expect("a handshake");
    pair.client.send_close_notify();
    pair.run().expect("an end");
    assert_eq!(pair.tls.open(b"\x17\x03\x03\xff\xff", &mut Vec::new()), Ok(Opened::Ended));
}

#[test]
fn a_client_comes_back_with_a_ticket_also_to_another_process_with_the_key() {
    for suite in [SUITE, SUITES[4]] {
        for memory in MEMORIES {
            let keys = |byte: u8| {
                let line = format!("{byte:02x}").repeat(32);
                Arc::new(TicketKeys::parse(&line).expect("a key"))
            };
            let site = Site::of(memory, keys(1), &[], |acceptor| acceptor);
            let mut config = site.client(suite);
            config.resumption = Resumption::in_memory_sessions(8);
            let resumed = |site: &Site| {
                let mut pair = Pair::new(site, config.clone());
                pair.say(b"hello");
                pair.run().expect("a handshake");
                assert_eq!(pair.got, b"hello");
                pair.tls.seal(b"back").expect("room");
                pair.run().expect("it goes on");
                assert_eq!(pair.heard(), b"back");
                pair.summary.expect("a handshake").resumed
            };
            assert!(!resumed(&site), "{suite:?}");
            assert!(resumed(&site), "{suite:?}");
            // The same key and another certificate: another process of the same site.
            let roots = Arc::clone(&site.roots);
            let of =
                |keys| Site { roots: Arc::clone(&roots), ..Site::of(memory, keys, &[], |acceptor| acceptor) };
            assert!(resumed(&of(keys(1))), "{suite:?}");
            // A foreign key: a whole handshake, which this client refuses, since it does not know the certificate.
            let mut pair = Pair::new(&of(keys(2)), config.clone());
            let mut hello = Vec::new();
            pair.client.write_tls(&mut hello).expect("a vector takes all");
            pair.receive(&hello).expect("a hello");
            let flight = pair.tls.take_output();
            pair.client.read_tls(&mut &flight[..]).expect("there is something");
            assert!(pair.client.process_new_packets().is_err(), "{suite:?}");
        }
    }
}

#[test]
fn fifty_handshakes_interleaved_on_one_thread_keep_their_keys_apart() {
    let site = Site::new(Memory::Small);
    let mut pairs: Vec<Pair> =
        (0..50).map(|n| Pair::new(&site, site.client(SUITES[n % SUITES.len()]))).collect();
    // A byte of each in turn, for as long as any has some.
    loop {
        let mut moved = false;
        let mut sent: Vec<Vec<u8>> = Vec::new();
        for pair in &mut pairs {
            let mut bytes = Vec::new();
            while pair.client.wants_write() {
                pair.client.write_tls(&mut bytes).expect("a vector takes all");
            }
            sent.push(bytes);
        }
        for at in 0..sent.iter().map(Vec::len).max().unwrap_or(0) {
            for (pair, bytes) in pairs.iter_mut().zip(&sent) {
                if let Some(byte) = bytes.get(at..=at) {
                    pair.receive(byte).expect("it goes on");
                    moved = true;
                }
            }
        }
        for pair in &mut pairs {
            let output = pair.tls.take_output();
            moved |= !output.is_empty();
            pair.show(&output);
        }
        if !moved {
            break;
        }
    }
    for (n, pair) in pairs.iter_mut().enumerate() {
        pair.say(&n.to_be_bytes());
        pair.run().expect("records");
        assert_eq!(pair.got, n.to_be_bytes());
    }
}

#[test]
fn a_client_gets_the_protocol_that_both_know_or_an_alert() {
    let keys = Arc::new(TicketKeys::random().expect("random bytes"));
    let site = Site::of(Memory::Small, keys, &["http/1.1"], |acceptor| acceptor);
    let run = |protocols: &[&str]| {
        let mut config = site.client(SUITE);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut pair = Pair::new(&site, config);
        pair.run().map(|()| pair.client.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(run(&["h2", "http/1.1"]), Ok(Some(b"http/1.1".to_vec())));
    assert_eq!(run(&[]), Ok(None));
    assert_eq!(run(&["h2"]), Err(Failure::NoProtocol));
}

/// Each request was answered, and the answers piled up before a client that did not read.
#[test]
fn changes_of_the_key_that_nobody_reads_the_answers_of_are_bounded() {
    let site = Site::new(Memory::Small);
    let mut pair = Pair::new(&site, site.client(SUITE));
    pair.run().expect("a handshake");
    let mut failure = None;
    for _ in 0..1000 {
        pair.client.refresh_traffic_keys().expect("a change");
        pair.say(b"x");
        let mut sent = Vec::new();
        while pair.client.wants_write() {
            pair.client.write_tls(&mut sent).expect("a vector takes all");
        }
        failure = failure.or(pair.receive(&sent).err());
        if failure.is_some() {
            break;
        }
    }
    assert_eq!(failure, Some(Failure::Idle));
    assert!(pair.tls.take_output().len() < 100, "one answer and the alert");
}
