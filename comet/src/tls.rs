//! TLS of client connections: certificates and keys from their files, at the start and when they have changed.

use std::{sync::Arc, time::Duration};

use config::ConfigError;
use host::tls::{
    Mutual,
    certificates::{self, Keys},
};
use shard::Acceptors;
use tls::{Acceptor, Identity, Memory, TicketKeys, ticket::LIFETIME_SECS};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    config::{CometConfig, TlsMemory},
    front::Front,
};

/// How long a key of tickets of this process seals. The one before it opens as long again.
const TICKETS_EVERY: Duration = Duration::from_secs(LIFETIME_SECS as u64);

/// All of a comet's.
#[derive(Debug, Default)]
pub struct CometTls {
    /// Of clients.
    pub clients: ClientTls,
    /// Of gRPC; none: without TLS.
    pub services: Option<Mutual>,
}

/// What clients connect to: acceptors, and when the certificates are over.
#[derive(Debug, Default)]
pub struct ClientTls {
    /// For the shards.
    pub acceptors: Acceptors,
    /// The keys of tickets, if they are of this process.
    pub own_tickets: Option<Arc<TicketKeys>>,
    /// The certificates in use, by file.
    pub certificates: Vec<(String, Arc<Identity>)>,
}

impl ClientTls {
    /// Reads all files. The keys of the configuration stand in `section`, by which an error names them.
    ///
    /// # Errors
    /// All that is wrong with the configuration or with a file of it.
    pub fn load(config: &CometConfig, section: &str) -> Result<ClientTls, Vec<ConfigError>> {
        ClientTls::with_tickets(config, section, None)
    }

    /// Tells the metrics when the certificates are over, and warns where that is soon.
    pub(crate) fn note(&self) {
        self.certificates.iter().for_each(|(file, identity)| certificates::note(file, identity));
    }

    /// As [`ClientTls::load`], with tickets that are there already, if no file has them.
    fn with_tickets(
        config: &CometConfig,
        section: &str,
        own: Option<Arc<TicketKeys>>,
    ) -> Result<ClientTls, Vec<ConfigError>> {
        let (tcp, websocket) = (&config.tcp, &config.websocket);
        let mut loaded = ClientTls::default();
        if !tcp.tls_open && !websocket.tls_open {
            return Ok(loaded);
        }
        let mut wrong = Vec::new();
        let tickets = match tickets(config, section, own) {
            Ok((tickets, own)) => {
                loaded.own_tickets = own.then(|| Arc::clone(&tickets));
                Some(tickets)
            }
            Err(error) => {
                wrong.push(error);
                None
            }
        };
        let memory = match config.tls.clients.memory {
            TlsMemory::Small => Memory::Small,
            TlsMemory::Plain => Memory::Plain,
        };
        let mut port =
            |open: bool, name: &str, certificates: &[String], keys: &[String], protocols: &[&str]| {
                if !open {
                    return None;
                }
                let (certificate, key) =
                    (format!("{section}{name}.certFile"), format!("{section}{name}.privateFile"));
                let named = Keys { certificate: &certificate, key: &key };
                let identities = match named.identities(certificates, keys) {
                    Ok(identities) => identities,
                    Err(errors) => {
                        wrong.extend(errors);
                        return None;
                    }
                };
                // Both ports may have the same.
                for (file, identity) in certificates.iter().zip(&identities) {
                    if loaded.certificates.iter().all(|(known, _)| known != file) {
                        loaded.certificates.push((file.clone(), Arc::clone(identity)));
                    }
                }
                Some(Arc::new(Acceptor::new(identities, protocols, tickets.clone()?, memory)))
            };
        let bare = port(tcp.tls_open, "tcp", &tcp.cert_file, &tcp.private_file, &[]);
        let protocols = ["http/1.1"];
        let (certificates, keys) = (&websocket.cert_file, &websocket.private_file);
        let web = port(websocket.tls_open, "websocket", certificates, keys, &protocols);
        loaded.acceptors = Acceptors { tcp: bare, websocket: web };
        if wrong.is_empty() { Ok(loaded) } else { Err(wrong) }
    }
}

/// Reads certificates and keys anew when that is asked for, and renews the tickets of this process. What cannot be read
/// changes nothing.
pub(crate) async fn follow(
    front: Arc<Front>,
    config: CometConfig,
    section: &'static str,
    used: (Acceptors, Option<Arc<TicketKeys>>),
    mut asked: watch::Receiver<u64>,
) {
    let (mut acceptors, mut own) = used;
    // Not anew with each reading, or a key would live for ever where certificates are read often.
    let mut rotation = tokio::time::interval(TICKETS_EVERY);
    rotation.tick().await;
    loop {
        tokio::select! {
            Ok(()) = asked.changed() => {
                let (read, keys) = (config.clone(), own.clone());
                // Files, and the check of a key, on a thread that nobody waits for.
                let loaded = move || ClientTls::with_tickets(&read, section, keys);
                match tokio::task::spawn_blocking(loaded).await {
                    Ok(Ok(loaded)) => {
                        loaded.note();
                        info!(certificates = loaded.certificates.len(), "the certificates were read anew");
                        acceptors = loaded.acceptors;
                    }
                    Ok(Err(errors)) => {
                        errors.iter().for_each(|error| warn!("the old certificates stay: {error}"));
                        continue;
                    }
                    Err(error) => {
                        warn!("the old certificates stay: {error}");
                        continue;
                    }
                }
            }
            // No file is read: one that is wrong by now must not keep an old key of tickets in use.
            _ = rotation.tick() => {
                let Some(keys) = &own else { continue };
                let rotated = match keys.rotated() {
                    Ok(rotated) => Arc::new(rotated),
                    Err(error) => {
                        warn!("the key of tickets stays for another while: {error}");
                        continue;
                    }
                };
                acceptors = acceptors.with_tickets(&rotated);
                own = Some(rotated);
            }
        }
        front.set_acceptors(&acceptors).await;
    }
}

/// The keys of tickets, and whether they are of this process.
fn tickets(
    config: &CometConfig,
    section: &str,
    own: Option<Arc<TicketKeys>>,
) -> Result<(Arc<TicketKeys>, bool), ConfigError> {
    let file = &config.tls.clients.ticket_key_file;
    let wrong = |reason: String| {
        ConfigError::value(format!("{section}tls.ticketKeyFile"), format!("{file:?}"), reason)
    };
    if file.is_empty() {
        let own = own.map_or_else(|| TicketKeys::random().map(Arc::new), Ok);
        return own.map(|own| (own, true)).map_err(|error| wrong(error.to_string()));
    }
    let text = certificates::read(file).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let keys =
        TicketKeys::parse(&String::from_utf8_lossy(&text)).map_err(|error| wrong(error.to_string()))?;
    Ok((Arc::new(keys), false))
}
