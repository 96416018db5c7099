//! With clients that do what they may not: records under a client's own keys, made by hand.

use rustls::{
    CipherSuite, ContentType,
    client::UnbufferedClientConnection,
    pki_types::ServerName,
    unbuffered::{ConnectionState, UnbufferedStatus},
};

use super::{SUITES, Site};
use crate::{
    Failure, Handshake, Memory, Opened, Tls, Version,
    record::{FRAGMENT_MAX, Half},
};

/// The server's end of a connection whose client we are.
struct Bare {
    tls: Tls,
    version: Version,
    /// Our key.
    write: Half,
    /// The server's key.
    read: Half,
}

impl Bare {
    fn new(suite: CipherSuite) -> Bare {
        Bare::with(suite, Memory::Small)
    }

    fn with(suite: CipherSuite, memory: Memory) -> Bare {
        let site = Site::new(memory);
        let mut config = site.client(suite);
        config.enable_secret_extraction = true;
        config.resumption = rustls::client::Resumption::disabled();
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client =
            UnbufferedClientConnection::new(std::sync::Arc::new(config), name).expect("a client");
        let (mut tls, mut input, mut text) = (site.tls(), Vec::new(), Vec::new());
        let mut version = None;
        loop {
            let mut output = Vec::new();
            loop {
                let UnbufferedStatus { discard, state } = client.process_tls_records(&mut input);
                let done = match state.expect("a handshake") {
                    ConnectionState::EncodeTlsData(mut data) => {
                        let mut room = vec![0; 20_000];
                        let len = data.encode(&mut room).expect("room");
                        output.extend_from_slice(&room[..len]);
                        false
                    }
                    ConnectionState::TransmitTlsData(data) => {
                        data.done();
                        false
                    }
                    _ => true,
                };
                input.drain(..discard);
                if done {
                    break;
                }
            }
            if tls.is_handshaking()
                && tls.take(&output).expect("a handshake")
                && let Handshake::Done(summary, _) = tls.handshake(&mut text).expect("a handshake")
            {
                version = Some(summary.version);
            }
            input.extend(tls.take_output());
            if input.is_empty() {
                break;
            }
        }
        let (secrets, _) = client.dangerous_into_kernel_connection().expect("secrets");
        let (write, read) = (Half::new(secrets.tx).expect("a key"), Half::new(secrets.rx).expect("a key"));
        Bare { tls, version: version.expect("a version"), write, read }
    }

    fn record(&mut self, kind: ContentType, text: &[u8]) -> Vec<u8> {
        let (mut record, key) = (Vec::new(), self.write.expanded());
        self.write.seal(&key, self.version, kind, text, &mut record).expect("a record");
        record
    }

    /// Sends a record. Returns what the server made of it, and the text.
    fn send(&mut self, kind: ContentType, text: &[u8]) -> Result<(Opened, Vec<u8>), Failure> {
        let record = self.record(kind, text);
        let mut got = Vec::new();
        self.tls.open(&record, &mut got).map(|opened| (opened, got))
    }

    /// The alert that the server has said last.
    fn alert(&mut self) -> Option<[u8; 2]> {
        let (output, mut last) = (self.tls.take_output(), None);
        let (mut rest, key) = (&output[..], self.read.expanded());
        while !rest.is_empty() {
            let len = crate::record::record_len(rest).expect("a record").expect("a whole one");
            let mut text = Vec::new();
            let kind = self.read.open(&key, self.version, &rest[..len], &mut text).expect("our key");
            last = (kind == ContentType::Alert).then(|| [text[0], text[1]]);
            rest = &rest[len..];
        }
        last
    }
}

const NOT_REQUESTED: [u8; 5] = [24, 0, 0, 1, 0];

#[test]
fn records_that_carry_nothing_are_counted_and_data_forgives_them() {
    for suite in SUITES {
        let mut bare = Bare::new(suite);
        for _ in 0..3 {
            for _ in 0..32 {
                assert_eq!(bare.send(ContentType::ApplicationData, b""), Ok((Opened::More, vec![])));
            }
            assert!(bare.send(ContentType::ApplicationData, b"x").is_ok());
        }
        for _ in 0..32 {
            assert!(bare.send(ContentType::ApplicationData, b"").is_ok());
        }
        assert_eq!(bare.send(ContentType::ApplicationData, b""), Err(Failure::Idle));
        assert_eq!(bare.alert(), Some([2, 10]));
    }
}

#[test]
fn a_flood_of_warnings_ends_the_connection() {
    for suite in SUITES {
        let mut bare = Bare::new(suite);
        let failure = (0..33).map(|_| bare.send(ContentType::Alert, &[1, 90]).err()).collect::<Vec<_>>();
        assert_eq!((&failure[..32], failure[32]), (&[None; 32][..], Some(Failure::Idle)), "{suite:?}");
    }
}

#[test]
fn a_key_change_in_parts_is_followed_and_data_between_them_is_not_allowed() {
    let mut bare = Bare::new(SUITES[2]);
    for part in NOT_REQUESTED.chunks(1) {
        assert!(bare.send(ContentType::Handshake, part).is_ok());
    }
    // Our key is the old one.
    assert_eq!(bare.send(ContentType::ApplicationData, b"x"), Err(Failure::BadRecord));
    let mut bare = Bare::new(SUITES[2]);
    assert!(bare.send(ContentType::Handshake, &NOT_REQUESTED[..3]).is_ok());
    assert_eq!(bare.send(ContentType::ApplicationData, b"x"), Err(Failure::BadMessage));
    assert_eq!(bare.alert(), Some([2, 10]));
}

#[test]
fn messages_that_may_not_come_end_the_connection() {
    let bad: [(&[u8], &str); 6] = [
        (&[24, 0, 0, 1, 2], "neither requested nor not"),
        (&[24, 0, 0, 2, 0, 0], "too long"),
        (&[1, 0, 0, 1, 0], "a hello"),
        (&[4, 0, 0, 1, 0], "a ticket of a client"),
        (&[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], "two in one record"),
        (&[], "nothing"),
    ];
    for (message, what) in bad {
        let mut bare = Bare::new(SUITES[0]);
        assert_eq!(bare.send(ContentType::Handshake, message), Err(Failure::BadMessage), "{what}");
        assert_eq!(bare.alert(), Some([2, 10]), "{what}");
    }
    for suite in SUITES {
        let mut bare = Bare::new(suite);
        assert_eq!(bare.send(ContentType::ChangeCipherSpec, &[1]), Err(Failure::BadMessage));
        let mut bare = Bare::new(suite);
        assert_eq!(bare.send(ContentType::Alert, &[1]), Err(Failure::BadMessage));
        let mut bare = Bare::new(suite);
        assert_eq!(bare.send(ContentType::Alert, &[2, 40]), Err(Failure::Alert));
        assert_eq!(bare.alert(), None, "who has ended needs no alert");
    }
}

#[test]
fn a_renegotiation_is_refused() {
    for suite in &SUITES[3..] {
        let mut bare = Bare::new(*suite);
        assert_eq!(bare.send(ContentType::Handshake, &[1, 0, 0, 1, 0]), Err(Failure::Renegotiation));
        assert_eq!(bare.alert(), Some([2, 100]));
    }
}

#[test]
fn a_record_that_was_changed_is_refused_whichever_byte_it_is() {
    for suite in [SUITES[0], SUITES[3], SUITES[5]] {
        let len = Bare::new(suite).record(ContentType::ApplicationData, b"text").len();
        // The length is left out: with it changed it is another record.
        for at in 5..len {
            let mut bare = Bare::new(suite);
            let mut record = bare.record(ContentType::ApplicationData, b"text");
            record[at] ^= 1;
            let mut text = b"before".to_vec();
            assert_eq!(bare.tls.open(&record, &mut text), Err(Failure::BadRecord), "{suite:?} byte {at}");
            assert_eq!(text, b"before");
        }
    }
}

#[test]
fn a_record_that_was_cut_repeated_or_left_out_is_refused() {
    for suite in SUITES {
        let mut bare = Bare::new(suite);
        let record = bare.record(ContentType::ApplicationData, b"text");
        assert!(bare.tls.open(&record, &mut Vec::new()).is_ok());
        assert_eq!(bare.tls.open(&record, &mut Vec::new()), Err(Failure::BadRecord), "repeated");
        assert_eq!(bare.alert(), Some([2, 20]));
        let mut bare = Bare::new(suite);
        bare.record(ContentType::ApplicationData, b"left out");
        assert_eq!(bare.send(ContentType::ApplicationData, b"x"), Err(Failure::BadRecord));
        for len in [0, 1, 7, 8, 15, 16, 17, 23, 24] {
            let mut bare = Bare::new(suite);
            let record = [&[23, 3, 3, 0, len][..], &vec![7; usize::from(len)]].concat();
            assert_eq!(bare.tls.open(&record, &mut Vec::new()), Err(Failure::BadRecord), "{len} bytes");
        }
    }
}

#[test]
fn a_record_longer_than_any_may_be_is_refused_by_its_header() {
    let mut bare = Bare::new(SUITES[0]);
    let mut text = Vec::new();
    assert_eq!(bare.tls.open(&[23, 3, 3, 0x41, 0x01], &mut text), Err(Failure::TooLong));
    assert_eq!(bare.alert(), Some([2, 22]));
    for suite in SUITES {
        let mut bare = Bare::new(suite);
        let longest = vec![1; FRAGMENT_MAX];
        assert_eq!(bare.send(ContentType::ApplicationData, &longest), Ok((Opened::More, longest)));
        let longer = vec![1; FRAGMENT_MAX + 1];
        assert_eq!(bare.send(ContentType::ApplicationData, &longer), Err(Failure::TooLong));
    }
}

#[test]
fn plain_text_is_known_by_its_first_byte_and_costs_nothing() {
    let site = Site::new(Memory::Small);
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\0\0\0\x10\0\x10", b"\x80\x2e\x01", b"\x16\x02"] {
        let mut tls = site.tls();
        assert_eq!(tls.take(bytes), Err(Failure::NotTls), "{bytes:?}");
        assert!(!tls.has_output());
    }
}

#[test]
fn a_hello_that_never_ends_is_bounded() {
    let site = Site::new(Memory::Small);
    let mut tls = site.tls();
    let header = [22, 3, 1, 0x40, 0x00];
    assert_eq!(tls.take(&header), Ok(false));
    let failure = (0..100).find_map(|_| tls.take(&[0; 1000]).err());
    assert_eq!(failure, Some(Failure::TooLong));
    let mut tls = site.tls();
    assert_eq!(tls.take(&[22, 3, 1, 0xff, 0xff]), Err(Failure::TooLong));
}

#[test]
fn a_hello_in_small_records_is_read_and_empty_ones_are_not_endless() {
    let site = Site::new(Memory::Small);
    let mut tls = site.tls();
    let mut failure = None;
    for _ in 0..10_000 {
        let taken = tls.take(&[22, 3, 1, 0, 0]);
        if taken == Ok(true) {
            failure = tls.handshake(&mut Vec::new()).err();
        } else {
            failure = taken.err();
        }
        if failure.is_some() {
            break;
        }
    }
    assert!(failure.is_some(), "empty records of a handshake go on for ever");
}

/// rustls keeps places in what it was shown. Asked for its last words with nothing before it, it panicked, and the process
/// with it.
#[test]
fn what_is_wrong_behind_a_part_of_a_hello_ends_the_connection_and_nothing_else() {
    let part = [22, 3, 1, 0, 5, 1, 0, 3, 232, 0];
    let empty = [22, 3, 1, 0, 0];
    let hellos: [&[&[u8]]; 6] = [
        &[&[22, 3, 1, 0, 4, 1, 1, 0, 0]],
        &[&part, &[23, 3, 3, 0, 1, 0]],
        &[&part, &[20, 3, 3, 0, 1, 1]],
        &[&part, &[21, 3, 3, 0, 2, 2, 40]],
        &[&[22, 3, 1, 0, 10, 1, 0, 0, 1, 0, 1, 0, 0, 1, 0]],
        &[&part, &empty.repeat(100)],
    ];
    for memory in [Memory::Small, Memory::Plain] {
        let site = Site::new(memory);
        for records in hellos {
            let mut tls = site.tls();
            let mut failed = false;
            for bytes in records {
                failed |= match tls.take(bytes) {
                    Ok(true) => tls.handshake(&mut Vec::new()).is_err(),
                    Ok(false) => false,
                    Err(_) => true,
                };
            }
            assert!(failed, "{records:?}");
            tls.close();
            tls.take_output();
        }
    }
}

#[test]
fn a_part_of_a_key_change_is_no_fault_of_what_is_sent_meanwhile() {
    for memory in [Memory::Small, Memory::Plain] {
        let mut bare = Bare::with(SUITES[1], memory);
        assert!(bare.send(ContentType::Handshake, &NOT_REQUESTED[..3]).is_ok());
        assert_eq!(bare.tls.seal(b"text"), Ok(()));
        assert!(bare.send(ContentType::ApplicationData, b"x").is_err());
        bare.tls.close();
        assert!(bare.tls.seal(b"text").is_err(), "nothing is sealed behind the end");
    }
}

/// rustls asserts in a debug build that it has not ended, before it says what is wrong.
#[test]
fn what_is_wrong_behind_our_end_is_not_answered() {
    for memory in [Memory::Small, Memory::Plain] {
        for suite in SUITES {
            let mut bare = Bare::with(suite, memory);
            bare.tls.close();
            assert_eq!(bare.alert(), Some([1, 0]));
            let _ = bare.send(ContentType::Handshake, &[1, 0, 0, 1, 0]);
            let _ = bare.tls.open(&[23, 3, 3, 0, 20, 0, 0], &mut Vec::new());
            assert!(!bare.tls.has_output(), "{memory:?} {suite:?}");
        }
    }
}
