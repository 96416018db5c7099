//! A client of rustls beside a [`Tls`], both in memory.

mod clients;
mod records;

use std::{
    io::{Read, Write},
    sync::Arc,
};

use rustls::{
    CipherSuite, ClientConfig, ClientConnection, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use crate::{
    Acceptor, Failure, Handshake, Identity, Memory, Summary, TicketKeys, Tls, provider::provider,
    summary::Opened,
};

/// A server for `localhost`, and what its clients trust.
pub(crate) struct Site {
    pub(crate) acceptor: Arc<Acceptor>,
    pub(crate) roots: Arc<RootCertStore>,
}

impl Site {
    pub(crate) fn new(memory: Memory) -> Site {
        Site::with(memory, |acceptor| acceptor)
    }

    pub(crate) fn with(memory: Memory, change: impl FnOnce(Acceptor) -> Acceptor) -> Site {
        Site::of(memory, Arc::new(TicketKeys::random().expect("random bytes")), &[], change)
    }

    pub(crate) fn of(
        memory: Memory,
        tickets: Arc<TicketKeys>,
        protocols: &[&str],
        change: impl FnOnce(Acceptor) -> Acceptor,
    ) -> Site {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let identity = Identity::from_pem(chain.as_bytes(), key.as_bytes()).expect("an identity");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(chain.as_bytes()).expect("a certificate")).expect("a root");
        let acceptor = Acceptor::new(vec![Arc::new(identity)], protocols, tickets, memory);
        Site { acceptor: Arc::new(change(acceptor)), roots: Arc::new(roots) }
    }

    /// A client's configuration with one suite only.
    pub(crate) fn client(&self, suite: CipherSuite) -> ClientConfig {
        let mut provider = CryptoProvider::clone(&provider());
        provider.cipher_suites.retain(|known| known.suite() == suite);
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("a version of the suite")
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth()
    }

    pub(crate) fn tls(&self) -> Tls {
        Tls::new(Arc::clone(&self.acceptor))
    }
}

/// Every suite that is offered.
pub(crate) const SUITES: [CipherSuite; 6] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// A client and the server's end of its connection.
pub(crate) struct Pair {
    pub(crate) client: ClientConnection,
    pub(crate) tls: Tls,
    /// Text that the server has got.
    pub(crate) got: Vec<u8>,
    pub(crate) summary: Option<Summary>,
    pub(crate) ended: bool,
    /// Bytes that are handed to the server at once.
    pub(crate) step: usize,
}

impl Pair {
    pub(crate) fn new(site: &Site, config: ClientConfig) -> Pair {
        let name = ServerName::try_from("localhost").expect("a name");
        let client = ClientConnection::new(Arc::new(config), name).expect("a client");
        Pair { client, tls: site.tls(), got: Vec::new(), summary: None, ended: false, step: usize::MAX }
    }

    /// Moves bytes both ways until nobody has any.
    pub(crate) fn run(&mut self) -> Result<(), Failure> {
        loop {
            let mut sent = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut sent).expect("a vector takes all");
            }
            for bytes in sent.chunks(self.step.min(sent.len()).max(1)) {
                self.receive(bytes)?;
            }
            let output = self.tls.take_output();
            self.show(&output);
            if sent.is_empty() && output.is_empty() {
                return Ok(());
            }
        }
    }

    /// What a shard does with bytes of a client.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let opened = if self.tls.is_handshaking() {
            let mut work = self.tls.take(bytes)?;
            let mut opened = Opened::More;
            while std::mem::take(&mut work) {
                if let Handshake::Done(summary, rest) = self.tls.handshake(&mut self.got)? {
                    assert!(self.summary.replace(summary).is_none());
                    opened = rest;
                }
            }
            opened
        } else {
            self.tls.open(bytes, &mut self.got)?
        };
        self.ended |= opened == Opened::Ended;
        Ok(())
    }

    /// Hands bytes to the client.
    pub(crate) fn show(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).expect("there is something");
            self.client.process_new_packets().expect("a client that understands its server");
        }
    }

    /// Text that the client has got.
    pub(crate) fn heard(&mut self) -> Vec<u8> {
        let mut heard = vec![0; 100_000];
        let len = self.client.reader().read(&mut heard).unwrap_or(0);
        heard.truncate(len);
        heard
    }

    pub(crate) fn say(&mut self, text: &[u8]) {
        self.client.writer().write_all(text).expect("the client has room");
    }
}
