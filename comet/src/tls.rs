//! TLS of client connections: certificates and keys from their files, at the start and when they have changed.

use std::{fs, io, sync::Arc, time::Duration};

use config::ConfigError;
use host::shutdown::Reload;
use shard::Acceptors;
use tls::{Acceptor, Identity, Memory, TicketKeys, ticket::LIFETIME_SECS};
use tracing::{info, warn};

use crate::{
    config::{CometConfig, TlsMemory},
    front::{Front, Metrics},
};

/// A certificate that has no more days than these is warned of.
const DAYS_WARNED: i64 = 14;

/// How long a key of tickets of this process seals. The one before it opens as long again.
const TICKETS_EVERY: Duration = Duration::from_secs(LIFETIME_SECS as u64);

/// Most bytes of a file.
const FILE_MAX: u64 = 1 << 20;

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
    /// What is wrong with the files, before a port is bound.
    pub fn mistakes(config: &CometConfig, section: &str) -> Vec<ConfigError> {
        ClientTls::load(config, section).err().unwrap_or_default()
    }

    /// Reads all files. The keys of the configuration stand in `section`, by which an error names them.
    ///
    /// # Errors
    /// All that is wrong with the configuration or with a file of it.
    pub fn load(config: &CometConfig, section: &str) -> Result<ClientTls, Vec<ConfigError>> {
        ClientTls::with_tickets(config, section, None)
    }

    /// Tells the metrics when the certificates are over, and warns where that is soon.
    pub(crate) fn note(&self, metrics: &Metrics) {
        for (file, identity) in &self.certificates {
            let days = identity.days_left();
            if days <= DAYS_WARNED {
                warn!(%file, days, "a certificate is over soon");
            }
        }
        let ends = self.certificates.iter().map(|(file, identity)| (file.clone(), identity.not_after()));
        metrics.certificates(ends.collect());
    }

    /// As [`ClientTls::load`], with tickets that are there already, if no file has them.
    ///
    /// # Errors
    /// As there.
    pub fn with_tickets(
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
        let memory = match config.tls.memory {
            TlsMemory::Small => Memory::Small,
            TlsMemory::Plain => Memory::Plain,
        };
        let mut port =
            |open: bool, name: &str, certificates: &[String], keys: &[String], protocols: &[&str]| {
                if !open {
                    return None;
                }
                let identities = match identities(&format!("{section}{name}"), certificates, keys) {
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
    mut own: Option<Arc<TicketKeys>>,
    reload: Reload,
) {
    let mut asked = reload.listen();
    // Not anew with each reading, or a key would live for ever where certificates are read often.
    let mut rotation = tokio::time::interval(TICKETS_EVERY);
    rotation.tick().await;
    loop {
        let is_asked = tokio::select! {
            changed = asked.changed() => changed.is_ok(),
            _ = rotation.tick() => false,
        };
        let next = match &own {
            Some(keys) if !is_asked => Some(keys.rotated().map_or_else(|_| Arc::clone(keys), Arc::new)),
            own => own.clone(),
        };
        let (read, keys) = (config.clone(), next.clone());
        // Files, and the check of a key, on a thread that nobody waits for.
        let loaded = tokio::task::spawn_blocking(move || ClientTls::with_tickets(&read, section, keys)).await;
        match loaded {
            Ok(Ok(loaded)) => {
                front.set_acceptors(&loaded.acceptors).await;
                own = next;
                loaded.note(front.metrics());
                if is_asked {
                    info!(certificates = loaded.certificates.len(), "the certificates were read anew");
                }
            }
            Ok(Err(errors)) => {
                for error in errors {
                    warn!("the old certificates stay: {error}");
                }
            }
            Err(error) => warn!("the old certificates stay: {error}"),
        }
    }
}

/// The keys of tickets, and whether they are of this process.
fn tickets(
    config: &CometConfig,
    section: &str,
    own: Option<Arc<TicketKeys>>,
) -> Result<(Arc<TicketKeys>, bool), ConfigError> {
    let file = &config.tls.ticket_key_file;
    let wrong = |reason: String| {
        ConfigError::value(format!("{section}tls.ticketKeyFile"), format!("{file:?}"), reason)
    };
    if file.is_empty() {
        let own = own.map_or_else(|| TicketKeys::random().map(Arc::new), Ok);
        return own.map(|own| (own, true)).map_err(|error| wrong(error.to_string()));
    }
    let text = read(file).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let keys =
        TicketKeys::parse(&String::from_utf8_lossy(&text)).map_err(|error| wrong(error.to_string()))?;
    Ok((Arc::new(keys), false))
}

fn identities(
    port: &str,
    certificates: &[String],
    keys: &[String],
) -> Result<Vec<Arc<Identity>>, Vec<ConfigError>> {
    let wrong =
        |key: &str, value: String, reason: String| ConfigError::value(format!("{port}.{key}"), value, reason);
    if certificates.is_empty() {
        let reason =
            format!("{port}.tlsOpen needs a certificate: name its file, and that of its key as privateFile");
        return Err(vec![wrong("certFile", "[]".to_owned(), reason)]);
    }
    if certificates.len() != keys.len() {
        let reason = format!(
            "must have as many files as {port}.certFile, which has {}, in the same order",
            certificates.len()
        );
        return Err(vec![wrong("privateFile", format!("{keys:?}"), reason)]);
    }
    let mut errors = Vec::new();
    let mut identities = Vec::new();
    for (certificate, key) in certificates.iter().zip(keys) {
        let unread = |name, file: &String| {
            read(file).map_err(|error| wrong(name, format!("{file:?}"), format!("cannot be read: {error}")))
        };
        let read = unread("certFile", certificate).and_then(|chain| {
            let secret = unread("privateFile", key)?;
            Identity::from_pem(&chain, &secret).map_err(|error| {
                let (name, file) =
                    if error.is_of_the_key() { ("privateFile", key) } else { ("certFile", certificate) };
                wrong(name, format!("{file:?}"), error.to_string())
            })
        });
        match read {
            Ok(identity) => identities.push(Arc::new(identity)),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(identities) } else { Err(errors) }
}

fn read(file: &str) -> io::Result<Vec<u8>> {
    let len = fs::metadata(file)?.len();
    if len > FILE_MAX {
        return Err(io::Error::other(format!("it is longer than {FILE_MAX} bytes")));
    }
    fs::read(file)
}
