#![no_main]
//! Records after the handshake: sealed by a client under its own keys, then cut, altered, reordered, repeated, left out.
//!
//! What the server makes of them is a beginning of what the client sealed. Who does nothing wrong is read to the end. The
//! server's own records are opened by a second implementation ([`peer`]), nothing comes behind its last word, and what it
//! has to say does not pile up.

mod peer;

use std::sync::{Arc, OnceLock};

use arbitrary::Unstructured;
use fuzz::bounded;
use libfuzzer_sys::fuzz_target;
use rustls::{ClientConfig, crypto::ring::ALL_CIPHER_SUITES};
use testkit::site::site;
use tls::{Acceptor, Memory, Opened, Tls, Version};

use self::peer::{ALERT, DATA, HANDSHAKE, Peer};

/// Most text of a record.
const FRAGMENT_MAX: usize = 16_384;
/// Text that a script says, and has said to it.
const TEXT_MAX: usize = 256 * 1024;
/// Records in a row without data, and changes of the key, that are allowed.
const IDLE_MAX: usize = 32;
/// What a record is longer than its text, at most.
const EXPANSION: usize = 29;

fuzz_target!(|input: &[u8]| {
    let clients = clients();
    bounded(|| {
        let mut script = Unstructured::new(input);
        let mut play = Play::new(&mut script, clients);
        while !script.is_empty() {
            play.step(&mut script);
        }
        play.end();
    });
});

/// A client for each suite. TLS 1.2 with a certificate of Ed25519 has those of ECDSA.
fn clients() -> &'static [Arc<ClientConfig>] {
    static CLIENTS: OnceLock<Vec<Arc<ClientConfig>>> = OnceLock::new();
    CLIENTS.get_or_init(|| {
        let suites = ALL_CIPHER_SUITES.iter().filter(|suite| !format!("{:?}", suite.suite()).contains("RSA"));
        suites.map(|suite| Arc::new(site().bare_client(*suite))).collect()
    })
}

fn byte(script: &mut Unstructured<'_>) -> u8 {
    script.arbitrary().unwrap_or_default()
}

struct Play {
    tls: Tls,
    peer: Peer,
    is_small: bool,
    /// Records on the way to the server.
    way: Vec<Vec<u8>>,
    /// Text that the client sealed, and where it said that it says no more.
    sealed: Vec<u8>,
    sealed_end: Option<usize>,
    got: Vec<u8>,
    /// Text of the server.
    said: Vec<u8>,
    heard: Vec<u8>,
    /// The client has done nothing that its connection is ended for.
    is_good: bool,
    idle: usize,
    changes: usize,
    has_failed: bool,
    has_closed: bool,
}

impl Play {
    fn new(script: &mut Unstructured<'_>, clients: &[Arc<ClientConfig>]) -> Play {
        let kind = usize::from(byte(script));
        let is_small = kind & 0x40 == 0;
        let memory = if is_small { Memory::Small } else { Memory::Plain };
        let mut acceptor: Acceptor = site().acceptor(memory);
        if kind & 0x80 != 0 {
            acceptor = acceptor.with_records_max(3);
        }
        let mut tls = Tls::new(Arc::new(acceptor));
        let peer = Peer::new(Arc::clone(&clients[(kind & 0x3f) % clients.len()]), &mut tls);
        Play {
            tls,
            peer,
            is_small,
            way: Vec::new(),
            sealed: Vec::new(),
            sealed_end: None,
            got: Vec::new(),
            said: Vec::new(),
            heard: Vec::new(),
            is_good: true,
            idle: 0,
            changes: 0,
            has_failed: false,
            has_closed: false,
        }
    }

    fn step(&mut self, script: &mut Unstructured<'_>) {
        match byte(script) % 16 {
            0..4 => self.say(byte(script), byte(script)),
            4 => self.change_key(byte(script)),
            5 => self.alert(byte(script), byte(script)),
            6 => self.any(script),
            7 => self.alter(script),
            8..12 => self.deliver(usize::from(byte(script)) << (byte(script) % 8)),
            12 => self.deliver(usize::MAX),
            13 | 14 => self.seal(byte(script), byte(script)),
            _ => {
                self.tls.close();
                self.has_closed = true;
                self.hear(0);
            }
        }
    }

    /// A record of text, which may be empty.
    fn say(&mut self, len: u8, kind: u8) {
        let len = match kind % 8 {
            0 => usize::from(len) << 6,
            1 => FRAGMENT_MAX,
            _ => usize::from(len),
        };
        let padding = usize::from(kind >> 5) * 7;
        if self.sealed.len() + len > TEXT_MAX {
            return;
        }
        let text: Vec<u8> = (0..len).map(|n| (n + self.sealed.len()) as u8).collect();
        // Padding is as long as it likes, but for the record's own bound.
        let padding = if len + padding < FRAGMENT_MAX { padding } else { 0 };
        self.send(DATA, &text, padding);
        if text.is_empty() {
            return self.idles();
        }
        self.idle = 0;
        self.sealed.extend(text);
    }

    fn send(&mut self, kind: u8, text: &[u8], padding: usize) {
        let record = self.peer.seal(kind, text, padding);
        self.way.push(record);
    }

    /// Something that carries nothing. rustls has bounds of its own for these.
    fn idles(&mut self) {
        self.idle += 1;
        self.is_good &= self.idle <= IDLE_MAX && self.is_small;
    }

    fn change_key(&mut self, kind: u8) {
        let message = [24, 0, 0, 1, kind & 1];
        // In one record, or in two.
        let cut = if kind & 2 == 0 { 0 } else { usize::from(kind >> 2) % 4 + 1 };
        for part in [&message[..cut], &message[cut..]] {
            if !part.is_empty() {
                self.send(HANDSHAKE, part, 0);
                self.idles();
            }
        }
        self.changes += 1;
        self.is_good &= self.peer.version == Version::Tls13 && self.changes <= IDLE_MAX;
        if self.peer.version == Version::Tls13 {
            self.peer.change_key();
        }
    }

    fn alert(&mut self, level: u8, kind: u8) {
        let description = [0, 90, 40, kind][usize::from(kind) % 4];
        self.send(ALERT, &[level % 3, description], 0);
        match description {
            // rustls wants a level that there is.
            0 => {
                self.sealed_end = self.sealed_end.or(Some(self.sealed.len()));
                self.is_good &= self.is_small || level % 3 > 0;
            }
            90 if level % 3 == 1 => self.idles(),
            _ => self.is_good = false,
        }
    }

    /// A record of any kind, or no record.
    fn any(&mut self, script: &mut Unstructured<'_>) {
        let (kind, len) = (byte(script), byte(script));
        let text = script.bytes(script.len().min(usize::from(len))).unwrap_or_default();
        self.is_good = false;
        match kind % 4 {
            0 => self.way.push(text.to_vec()),
            // This may be text.
            1 => {
                self.send(DATA, text, 0);
                self.sealed.extend(text);
            }
            _ => self.send([20, 21, 22, 24][usize::from(kind >> 2) % 4], text, 0),
        }
    }

    /// Something happens to what is on its way.
    fn alter(&mut self, script: &mut Unstructured<'_>) {
        let (what, which, place) = (byte(script), byte(script), byte(script));
        let Some(at) = usize::from(which).checked_rem(self.way.len()) else { return };
        self.is_good = false;
        let place = usize::from(place).checked_rem(self.way[at].len()).unwrap_or(0);
        match what % 6 {
            0 if !self.way[at].is_empty() => self.way[at][place] ^= 1 << (what >> 5),
            1 => self.way[at].truncate(place),
            2 => drop(self.way.remove(at)),
            3 if self.way.iter().map(Vec::len).sum::<usize>() < TEXT_MAX => {
                self.way.insert(at, self.way[at].clone());
            }
            4 => {
                let last = self.way.len() - 1;
                self.way.swap(at, last);
            }
            _ => drop(self.way[at].drain(..place)),
        }
    }

    /// So many bytes come to the server.
    fn deliver(&mut self, bytes: usize) {
        let mut all = std::mem::take(&mut self.way).concat();
        let rest = all.split_off(bytes.min(all.len()));
        if !rest.is_empty() {
            self.way.push(rest);
        }
        let known = self.got.len();
        let opened = self.tls.open(&all, &mut self.got);
        assert!(self.sealed.starts_with(&self.got), "text that was not sealed so");
        assert!(!self.has_failed || self.got.len() == known, "text behind a failure");
        match opened {
            Ok(Opened::Ended) => {
                let is_told = self.sealed_end.is_some() || self.has_failed || !self.is_good;
                let is_told = is_told || self.has_closed && !self.is_small;
                assert!(is_told, "an end that nobody said");
            }
            Ok(Opened::More) => {}
            Err(failure) => {
                assert!(!self.is_good, "{failure}, and nothing was wrong");
                self.has_failed = true;
            }
        }
        self.hear(0);
    }

    fn seal(&mut self, len: u8, kind: u8) {
        let len = usize::from(len) << (kind % 8);
        if self.said.len() + len > TEXT_MAX {
            return;
        }
        let text = vec![len as u8; len];
        let sealed = self.tls.seal(&text);
        assert!(
            sealed.is_err() || !self.has_failed && !self.has_closed,
            "something is sealed behind the end"
        );
        if sealed.is_ok() {
            self.said.extend(text);
        } else {
            // With TLS 1.2 the keys may be used up, and a part of the text may be out.
            self.has_failed = true;
            self.said.resize(self.said.len() + len, len as u8);
        }
        self.hear(len);
    }

    /// The client hears what the server has to say, of which so much is text.
    fn hear(&mut self, text: usize) {
        assert!(self.tls.has_output() || text == 0 || self.has_failed);
        let output = self.tls.take_output();
        // A key that changes after three records is one record more for each.
        let records = 4 + 2 * text.div_ceil(FRAGMENT_MAX);
        let most = text + records * EXPANSION;
        assert!(!self.is_small || output.len() <= most, "{} bytes to say for {text} of text", output.len());
        self.peer.hear(&output, &mut self.heard);
        assert!(self.said.starts_with(&self.heard), "the client hears what was not said");
    }

    /// All arrives.
    fn end(&mut self) {
        self.deliver(usize::MAX);
        self.tls.close();
        self.hear(0);
        assert!(self.heard == self.said || self.has_failed, "something that was said is not heard");
        // With plain memory nothing is read behind its own end.
        if self.is_good && !self.has_failed && (self.is_small || !self.has_closed) {
            assert_eq!(self.got.len(), self.sealed_end.unwrap_or(self.sealed.len()), "something is not read");
            assert!(self.peer.has_ended, "the end is not told");
        }
    }
}
