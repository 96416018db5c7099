#![no_main]
//! A whole connection of TLS, from the hello to the end: a client of rustls and the server's stage, with the network between
//! them, which cuts, holds back, alters, adds and leaves out.
//!
//! Text that comes out is a beginning of the text that went in, on both sides. Where the network changes nothing and nobody
//! ends, all arrives.

use std::{
    io::{Read, Write},
    sync::{Arc, OnceLock},
};

use arbitrary::Unstructured;
use fuzz::bounded;
use libfuzzer_sys::fuzz_target;
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, client::Resumption, version};
use testkit::site::site;
use tls::{Failure, Handshake, Memory, Opened, Tls};

/// Text of each side.
const TEXT_MAX: usize = 256 * 1024;
/// Text that a client may send with the end of its handshake: all that comes before that is done is one record's length.
const EARLY_MAX: usize = 12_000;
/// Changes of the key that a client may make.
const CHANGES_MAX: usize = 32;
/// What the server may have to say in answer to whatever comes.
const ANSWER_MAX: usize = 8192;

fuzz_target!(|input: &[u8]| {
    let clients = clients();
    bounded(|| {
        let mut script = Unstructured::new(input);
        let kind = usize::from(byte(&mut script));
        let mut config = ClientConfig::clone(&clients[kind % clients.len()]);
        config.resumption = Resumption::in_memory_sessions(1);
        let config = Arc::new(config);
        let memory = if kind & 0x40 == 0 { Memory::Small } else { Memory::Plain };
        if kind & 0x20 != 0 {
            // It has been there before, and has a ticket.
            let mut before = Play::new(Arc::clone(&config), memory);
            before.end();
            assert!(before.resumed == Some(false));
        }
        let mut play = Play::new(config, memory);
        while !script.is_empty() {
            play.step(&mut script);
        }
        play.end();
        assert!(play.is_foul || play.resumed == Some(kind & 0x20 != 0), "whether it came back");
    });
});

/// A client for each choice of versions.
fn clients() -> &'static [ClientConfig] {
    static CLIENTS: OnceLock<Vec<ClientConfig>> = OnceLock::new();
    CLIENTS.get_or_init(|| {
        let choices = [&[&version::TLS13, &version::TLS12][..], &[&version::TLS13], &[&version::TLS12]];
        choices.iter().map(|versions| site().returning_client(versions)).collect()
    })
}

fn byte(script: &mut Unstructured<'_>) -> u8 {
    script.arbitrary().unwrap_or_default()
}

struct Play {
    client: ClientConnection,
    tls: Tls,
    /// Bytes under way to the server, and to the client.
    up: Vec<u8>,
    down: Vec<u8>,
    /// Text of the client, and what the server has got of it.
    said: Vec<u8>,
    got: Vec<u8>,
    /// Text of the server, and what the client has got of it.
    sealed: Vec<u8>,
    heard: Vec<u8>,
    /// The server has a step of the handshake to take.
    has_work: bool,
    resumed: Option<bool>,
    changes: usize,
    /// The client has ended its side; the server has.
    client_ended: bool,
    server_ended: bool,
    /// Something happened that the connection may be ended for.
    is_foul: bool,
    has_failed: bool,
    /// The client has given up.
    is_lost: bool,
}

impl Play {
    fn new(config: Arc<ClientConfig>, memory: Memory) -> Play {
        let mut client =
            ClientConnection::new(config, "localhost".try_into().expect("a name")).expect("a client");
        client.set_buffer_limit(None);
        Play {
            client,
            tls: Tls::new(Arc::new(site().acceptor(memory))),
            up: Vec::new(),
            down: Vec::new(),
            said: Vec::new(),
            got: Vec::new(),
            sealed: Vec::new(),
            heard: Vec::new(),
            has_work: false,
            resumed: None,
            changes: 0,
            client_ended: false,
            server_ended: false,
            is_foul: false,
            has_failed: false,
            is_lost: false,
        }
    }

    fn step(&mut self, script: &mut Unstructured<'_>) {
        match byte(script) % 16 {
            0 | 1 => self.say(usize::from(byte(script)) << (byte(script) % 8)),
            2..5 => self.move_up(usize::from(byte(script)) << (byte(script) % 4)),
            5 => self.move_up(usize::MAX),
            6 | 7 => self.move_down(usize::from(byte(script)) << (byte(script) % 4)),
            8 => self.move_down(usize::MAX),
            9 => self.change_key(),
            10 | 11 => self.seal(usize::from(byte(script)) << (byte(script) % 8)),
            12 => self.work(),
            13 => {
                self.client_ended = true;
                // Within a handshake what it has said is lost.
                self.is_foul |= self.client.is_handshaking();
                self.client.send_close_notify();
            }
            14 => {
                self.server_ended = true;
                // Within a handshake it only gives up.
                self.is_foul |= self.tls.is_handshaking();
                self.has_failed |= self.tls.is_handshaking();
                self.tls.close();
            }
            _ => self.spoil(script),
        }
    }

    /// The client says something, once it may.
    fn say(&mut self, len: usize) {
        let most = if self.tls.is_handshaking() { EARLY_MAX } else { TEXT_MAX };
        if self.client_ended || self.is_lost || self.said.len() + len > most {
            return;
        }
        let text: Vec<u8> = (0..len).map(|n| (n + self.said.len()) as u8).collect();
        self.client.writer().write_all(&text).expect("there is room");
        self.said.extend(text);
    }

    fn change_key(&mut self) {
        let can = !self.client.is_handshaking()
            && self.client.protocol_version() == Some(ProtocolVersion::TLSv1_3)
            && self.changes < CHANGES_MAX
            && !self.client_ended
            && !self.is_lost;
        if can {
            self.changes += 1;
            self.client.refresh_traffic_keys().expect("a handshake that is done");
        }
    }

    /// The network does what it should not.
    fn spoil(&mut self, script: &mut Unstructured<'_>) {
        self.collect();
        let (what, place, len) = (byte(script), byte(script), byte(script));
        let way = if what & 0x10 == 0 { &mut self.up } else { &mut self.down };
        let at = (usize::from(place) << (what >> 6)).min(way.len());
        self.is_foul = true;
        match what % 4 {
            0 => {
                let garbage = script.bytes(script.len().min(usize::from(len))).unwrap_or_default();
                way.splice(at..at, garbage.iter().copied());
            }
            1 => way.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= len),
            2 => drop(way.drain(at..(at + usize::from(len)).min(way.len()))),
            _ => way.rotate_left(at),
        }
    }

    /// What the client has written is under way.
    fn collect(&mut self) {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.up).expect("a vector takes all");
        }
    }

    fn move_up(&mut self, bytes: usize) {
        self.collect();
        // A reader waits while a step of its handshake does.
        self.work();
        let bytes: Vec<u8> = self.up.drain(..bytes.min(self.up.len())).collect();
        if !self.tls.is_handshaking() {
            return self.open(&bytes);
        }
        match self.tls.take(&bytes) {
            Ok(has_work) => self.has_work = has_work,
            Err(failure) => self.failed(failure),
        }
        self.collect_answer(0);
    }

    fn open(&mut self, bytes: &[u8]) {
        let known = self.got.len();
        let opened = self.tls.open(bytes, &mut self.got);
        assert!(!self.has_failed || self.got.len() == known, "text behind a failure");
        self.opened(opened);
    }

    /// A step of the handshake that waits is taken.
    fn work(&mut self) {
        if !std::mem::take(&mut self.has_work) {
            return;
        }
        match self.tls.handshake(&mut self.got) {
            Ok(Handshake::More) => self.collect_answer(0),
            Ok(Handshake::Done(summary, opened)) => {
                assert!(self.resumed.replace(summary.resumed).is_none(), "it is done twice");
                self.opened(Ok(opened));
            }
            Err(failure) => self.opened(Err(failure)),
        }
    }

    fn opened(&mut self, opened: Result<Opened, Failure>) {
        assert!(self.said.starts_with(&self.got), "text that nobody said");
        match opened {
            Ok(Opened::Ended) => {
                let is_told = self.client_ended || self.server_ended || self.has_failed || self.is_foul;
                assert!(is_told, "an end that nobody said");
            }
            Ok(Opened::More) => {}
            Err(failure) => self.failed(failure),
        }
        self.collect_answer(0);
    }

    fn failed(&mut self, failure: Failure) {
        assert!(self.is_foul, "{failure}, and nothing was wrong");
        self.has_failed = true;
    }

    /// What the server has to say is under way.
    fn collect_answer(&mut self, text: usize) {
        let output = self.tls.take_output();
        let most = text + text / 16 + ANSWER_MAX;
        assert!(output.len() <= most, "{} bytes to say for {text} of text", output.len());
        self.down.extend(output);
    }

    fn move_down(&mut self, bytes: usize) {
        let bytes: Vec<u8> = self.down.drain(..bytes.min(self.down.len())).collect();
        let mut rest = &bytes[..];
        // rustls asserts that it has not ended, before it says what is wrong.
        self.is_lost |= self.client_ended && self.is_foul;
        while !rest.is_empty() && !self.is_lost {
            match self.client.read_tls(&mut rest) {
                // It reads nothing behind the end.
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            if let Err(error) = self.client.process_new_packets() {
                assert!(self.is_foul, "the client gives up: {error}");
                self.is_lost = true;
            }
            let mut part = vec![0; 64 * 1024];
            while let Ok(len @ 1..) = self.client.reader().read(&mut part) {
                self.heard.extend_from_slice(&part[..len]);
            }
        }
        assert!(self.sealed.starts_with(&self.heard), "the client hears what was not said");
    }

    fn seal(&mut self, len: usize) {
        if !self.tls.is_established() || self.sealed.len() + len > TEXT_MAX {
            return;
        }
        let text: Vec<u8> = (0..len).map(|n| (n + self.sealed.len()) as u8).collect();
        match self.tls.seal(&text) {
            Ok(()) => self.sealed.extend(text),
            Err(failure) => {
                assert!(self.server_ended || self.has_failed, "{failure}, and nothing has ended");
                self.has_failed = true;
            }
        }
        self.collect_answer(len);
    }

    /// All arrives.
    fn end(&mut self) {
        loop {
            self.collect();
            let moved = self.up.len() + self.down.len() + usize::from(self.has_work);
            if moved == 0 {
                break;
            }
            self.move_up(usize::MAX);
            self.work();
            self.move_down(usize::MAX);
        }
        if !self.is_foul && !self.has_failed {
            // With plain memory nothing is read behind its own end.
            assert!(self.got.len() == self.said.len() || self.server_ended, "something is not read");
            assert_eq!(self.heard.len(), self.sealed.len(), "something is not heard");
        }
    }
}
