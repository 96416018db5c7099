//! TLS of one site: its certificate, what its ports show, and clients that trust it.

use std::sync::{Arc, OnceLock};

use rustls::{
    ALL_VERSIONS, ClientConfig, SupportedCipherSuite, SupportedProtocolVersion, client::Resumption,
    crypto::ring,
};
use tls::{Acceptor, Identity, Memory, TicketKeys};

use crate::trust::{client_of, client_with};

/// A certificate for `localhost`, and the keys of its tickets.
pub struct Site {
    identity: Arc<Identity>,
    tickets: Arc<TicketKeys>,
    chain: String,
}

/// The one of this process. It and its signatures are of the same length in every process, so that runs can be repeated.
///
/// # Panics
/// The system has no random bytes.
pub fn site() -> &'static Site {
    static SITE: OnceLock<Site> = OnceLock::new();
    SITE.get_or_init(|| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        // One that is made of the key is sometimes a byte shorter.
        parameters.serial_number = Some(vec![1].into());
        let chain = parameters.self_signed(&key).expect("a certificate").pem();
        let identity =
            Identity::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes()).expect("an identity");
        let tickets = Arc::new(TicketKeys::random().expect("random bytes"));
        Site { identity: Arc::new(identity), tickets, chain }
    })
}

impl Site {
    /// What all connections of a port share.
    pub fn acceptor(&self, memory: Memory) -> Acceptor {
        Acceptor::new(vec![Arc::clone(&self.identity)], &[], Arc::clone(&self.tickets), memory)
    }

    /// A client that knows all versions, and never comes back with a ticket.
    pub fn client(&self) -> ClientConfig {
        let mut client = client_of(self.chain.as_bytes());
        client.resumption = Resumption::disabled();
        client
    }

    /// A client that knows only these versions. It keeps the tickets it gets, and comes back with them.
    pub fn returning_client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        client_with(self.chain.as_bytes(), ring::default_provider(), versions)
    }

    /// A client that knows only this suite, never comes back with a ticket, and gives its keys away.
    pub fn bare_client(&self, suite: SupportedCipherSuite) -> ClientConfig {
        let mut provider = ring::default_provider();
        provider.cipher_suites = vec![suite];
        let versions: Vec<_> =
            ALL_VERSIONS.iter().copied().filter(|known| known.version == suite.version().version).collect();
        let mut client = client_with(self.chain.as_bytes(), provider, &versions);
        client.resumption = Resumption::disabled();
        client.enable_secret_extraction = true;
        client
    }
}
