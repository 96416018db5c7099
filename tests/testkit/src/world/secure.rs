//! TLS of the fake clients: a client of rustls in each socket that came to a port with TLS. Its user neither sees nor does
//! anything else.

use std::{
    io::{ErrorKind, Read, Write},
    sync::{Arc, OnceLock},
};

use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use shard::Acceptors;
use tls::Memory;

use crate::site::site;

/// The TLS of a shard's ports.
pub(super) fn acceptors() -> Acceptors {
    let acceptor = Arc::new(site().acceptor(Memory::Small));
    Acceptors { tcp: Some(Arc::clone(&acceptor)), websocket: Some(acceptor) }
}

fn client() -> Arc<ClientConfig> {
    static CLIENT: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    Arc::clone(CLIENT.get_or_init(|| Arc::new(site().client())))
}

/// The TLS of one client.
#[derive(Debug)]
pub(super) struct Secure {
    client: ClientConnection,
    /// The server has ended it by an alert.
    pub(super) alerted: bool,
}

impl Secure {
    pub(super) fn new() -> Secure {
        let name = ServerName::try_from("localhost").expect("a name");
        let client = ClientConnection::new(client(), name).expect("a client");
        Secure { client, alerted: false }
    }

    /// Says something. It goes out when the handshake is done.
    pub(super) fn say(&mut self, text: &[u8]) {
        self.client.set_buffer_limit(None);
        self.client.writer().write_all(text).expect("there is room");
    }

    /// What is to be sent.
    pub(super) fn sent(&mut self) -> Vec<u8> {
        let mut sent = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut sent).expect("a vector takes all");
        }
        sent
    }

    /// Takes a write. Returns its text.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        while !bytes.is_empty() && !self.alerted {
            self.client.read_tls(&mut bytes).expect("there is something");
            self.alerted = self.client.process_new_packets().is_err();
            let mut part = vec![0; 64 * 1024];
            loop {
                match self.client.reader().read(&mut part) {
                    Ok(0) => break,
                    Ok(len) => text.extend_from_slice(&part[..len]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        text
    }
}
