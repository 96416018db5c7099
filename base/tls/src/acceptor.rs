//! What all connections of a port share.

use std::{fmt, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::ring::Ticketer,
    server::{NoServerSessionStorage, ProducesTickets},
};

use crate::{
    identity::{Identities, Identity},
    provider,
    ticket::TicketKeys,
};

/// What is kept of a connection after its handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// The record layer only.
    #[default]
    Small,
    /// All of rustls.
    Plain,
}

/// Records that one key of AES-GCM may seal before it is changed. The bound of RFC 8446, section 5.5, is 2^24.5.
const RECORDS_MAX: u64 = 1 << 24;

/// The certificates, tickets and limits of one port. Shared by all shards, and never changed: other certificates are
/// another acceptor.
pub struct Acceptor {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) memory: Memory,
    pub(crate) records_max: u64,
}

impl Acceptor {
    /// An acceptor for clients. The first of the identities is for those who name no host or an unknown one; `protocols`
    /// are those of ALPN, none: whatever the client asks for is ignored.
    ///
    /// # Panics
    /// Without an identity.
    pub fn new(
        identities: Vec<Arc<Identity>>,
        protocols: &[&str],
        tickets: Arc<TicketKeys>,
        memory: Memory,
    ) -> Acceptor {
        let mut config = server(identities, protocols, tickets);
        config.enable_secret_extraction = memory == Memory::Small;
        Acceptor { config: Arc::new(config), memory, records_max: RECORDS_MAX }
    }

    /// The same with other keys of tickets.
    #[must_use]
    pub fn with_tickets(&self, tickets: Arc<TicketKeys>) -> Acceptor {
        let mut config = (*self.config).clone();
        config.ticketer = tickets;
        Acceptor { config: Arc::new(config), ..*self }
    }

    /// As [`Acceptor::new`], but a key is changed after so many records: for tests.
    #[must_use]
    pub fn with_records_max(mut self, records_max: u64) -> Acceptor {
        self.records_max = records_max;
        self
    }
}

/// For a server that lets rustls do all of it: HTTPS. Its keys of tickets are its own, and change every 6 hours.
///
/// # Errors
/// The system has no random numbers.
///
/// # Panics
/// Without an identity.
pub fn https(identities: Vec<Arc<Identity>>) -> Result<ServerConfig, rustls::Error> {
    Ok(server(identities, &["http/1.1"], Ticketer::new()?))
}

fn server(
    identities: Vec<Arc<Identity>>,
    protocols: &[&str],
    tickets: Arc<dyn ProducesTickets>,
) -> ServerConfig {
    let mut config =
        provider::server().with_no_client_auth().with_cert_resolver(Arc::new(Identities::new(identities)));
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = tickets;
    // A client that comes back needs one.
    config.send_tls13_tickets = 1;
    config
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("memory", &self.memory).finish_non_exhaustive()
    }
}
