//! TLS of a simulated client: rustls, in memory.
//!
//! It is shown the server's records the moment the shard wants them written, because the oracle judges them then. What it
//! says to them waits here until the client has read them. So the client says what it would say otherwise, and when.
//!
//! Ciphertext differs from run to run, since rustls draws random numbers from the operating system. Its lengths do not, and
//! nothing else of it reaches the trace.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    sync::Arc,
};

use rustls::{ClientConfig, ClientConnection, Error, ProtocolVersion, client::Resumption, version};
use testkit::site::site;

/// Bytes of a record's header.
const HEADER_LEN: usize = 5;

/// The clients of one run: some know both versions, some one of them. Each kind keeps its tickets and comes back with them.
pub(crate) struct Kinds(Vec<Arc<ClientConfig>>);

impl Kinds {
    pub(crate) fn new() -> Kinds {
        let kinds = [&[&version::TLS13, &version::TLS12][..], &[&version::TLS13], &[&version::TLS12]];
        let client = |versions: &[_]| {
            let mut client = site().returning_client(versions);
            client.resumption = Resumption::in_memory_sessions(1);
            Arc::new(client)
        };
        Kinds(kinds.into_iter().map(client).collect())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The TLS of a new client of that kind.
    pub(crate) fn client(&self, kind: usize) -> Secure {
        Secure::new(Arc::clone(&self.0[kind]))
    }
}

/// The TLS of one client.
pub(crate) struct Secure {
    client: ClientConnection,
    /// Bytes of the server that it has been shown.
    shown: u64,
    /// What the client wants to say and may not before its handshake is done.
    early: Vec<Vec<u8>>,
    /// Ciphertext for the server, with how much the client must have read before it is there.
    waiting: VecDeque<(u64, Vec<u8>)>,
    /// Ciphertext and text so far.
    made: (u64, u64),
    /// Where each record of text ends, as ciphertext and as text, until its shard has it.
    ends: VecDeque<(u64, u64)>,
    /// Where the client's part of the handshake ends.
    handshake_end: Option<u64>,
    /// Ciphertext, and the text in it, that its shard has been handed.
    handed: (u64, u64),
    /// Its shard has done the handshake.
    pub(crate) is_done: bool,
    /// The client has written what no TLS is, or has ended its TLS: it may be told off.
    pub(crate) is_spoiled: bool,
    /// The server has said that it says no more.
    pub(crate) has_ended: bool,
}

impl Secure {
    fn new(config: Arc<ClientConfig>) -> Secure {
        let name = "localhost".try_into().expect("a name");
        let mut client = ClientConnection::new(config, name).expect("a client");
        client.set_buffer_limit(None);
        let mut secure = Secure {
            client,
            shown: 0,
            early: Vec::new(),
            waiting: VecDeque::new(),
            made: (0, 0),
            ends: VecDeque::new(),
            handshake_end: None,
            handed: (0, 0),
            is_done: false,
            is_spoiled: false,
            has_ended: false,
        };
        secure.collect();
        secure
    }

    /// The client says something, in one record.
    pub(crate) fn say(&mut self, text: &[u8]) {
        if self.handshake_end.is_none() {
            return self.early.push(text.to_vec());
        }
        self.client.writer().write_all(text).expect("there is room");
        self.collect();
        self.made.1 += text.len() as u64;
        self.ends.push_back(self.made);
    }

    /// The client changes its key, and wants the server to do so. Only TLS 1.3 has that; says whether it did.
    pub(crate) fn change_key(&mut self) -> bool {
        let can =
            self.handshake_end.is_some() && self.client.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        if can {
            self.client.refresh_traffic_keys().expect("the handshake is done");
            self.collect();
        }
        can
    }

    /// The client says that it will say no more.
    pub(crate) fn end(&mut self) {
        self.is_spoiled = true;
        self.client.send_close_notify();
        self.collect();
    }

    /// What the client can write, now that it has read so much.
    pub(crate) fn take_written(&mut self, read: u64) -> Vec<u8> {
        let mut written = Vec::new();
        while self.waiting.front().is_some_and(|(needed, _)| *needed <= read) {
            written.extend(self.waiting.pop_front().map(|(_, bytes)| bytes).unwrap_or_default());
        }
        written
    }

    fn collect(&mut self) {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).expect("a vector takes all");
        }
        if !bytes.is_empty() {
            self.made.0 += bytes.len() as u64;
            self.waiting.push_back((self.shown, bytes));
        }
    }

    /// Its shard has been handed so much more ciphertext: all text that it can know.
    pub(crate) fn handed(&mut self, bytes: usize) -> u64 {
        self.handed.0 += bytes as u64;
        while let Some((_, text)) = self.ends.pop_front_if(|(end, _)| *end <= self.handed.0) {
            self.handed.1 = text;
        }
        self.handed.1
    }

    /// Its shard has taken a step of the handshake, or wants something written. Says whether that ended the handshake.
    pub(crate) fn step(&mut self) -> bool {
        let is_done = self.handshake_end.is_some_and(|end| end <= self.handed.0);
        !std::mem::replace(&mut self.is_done, is_done) && is_done
    }

    /// Its shard wants these bytes written: whole records. Gives the text of each, and where it ends in all that the shard
    /// has sent.
    pub(crate) fn show(&mut self, mut bytes: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, String> {
        let mut texts = Vec::new();
        while !bytes.is_empty() {
            if self.has_ended {
                return Err("its shard sends something behind the end of TLS".into());
            }
            let len = bytes.get(3..HEADER_LEN).map(|len| usize::from(u16::from_be_bytes([len[0], len[1]])));
            let record = len.and_then(|len| bytes.split_at_checked(HEADER_LEN + len));
            let Some((record, rest)) = record else { return Err("a write ends within a record".into()) };
            bytes = rest;
            let text = self.open(record)?;
            texts.push((self.shown, text));
        }
        Ok(texts)
    }

    fn open(&mut self, mut record: &[u8]) -> Result<Vec<u8>, String> {
        self.shown += record.len() as u64;
        while !record.is_empty() {
            self.client.read_tls(&mut record).expect("a slice can be read");
        }
        match self.client.process_new_packets() {
            Ok(state) => self.has_ended = state.peer_has_closed(),
            Err(Error::AlertReceived(_)) if self.is_spoiled => self.has_ended = true,
            Err(Error::AlertReceived(alert)) => return Err(format!("its shard ends good TLS: {alert:?}")),
            Err(error) => return Err(format!("its client cannot read what its shard sent: {error}")),
        }
        if self.handshake_end.is_none() && !self.client.is_handshaking() {
            self.collect();
            self.handshake_end = Some(self.made.0);
            for text in std::mem::take(&mut self.early) {
                self.say(&text);
            }
        }
        self.collect();
        let (mut text, mut part) = (Vec::new(), [0; 4096]);
        loop {
            match self.client.reader().read(&mut part) {
                Ok(0) => return Ok(text),
                Ok(len) => text.extend_from_slice(&part[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(text),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}
