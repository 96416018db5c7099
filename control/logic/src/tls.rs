//! TLS of logic: HTTPS, and gRPC with the other parts of the cluster.

use std::sync::Arc;

use config::ConfigError;
use host::{
    http::Https,
    shutdown::Reload,
    tls::{
        Mutual, MutualRead,
        certificates::{self, Keys},
    },
};
use rustls::ServerConfig;
use tls::Identity;

use crate::config::{HttpServerConfig, LogicConfig};

/// What the files say, read before a port is bound.
#[derive(Debug, Default)]
pub struct LogicTls {
    /// Of HTTPS; none: there is no such port.
    https: Option<HttpsRead>,
    /// Of gRPC; none: without TLS.
    services: Option<MutualRead>,
}

/// The same at work: read anew whenever that is asked for.
#[derive(Clone, Debug, Default)]
pub struct Started {
    pub(crate) https: Option<Https>,
    /// For calls of comets, too.
    pub services: Option<Mutual>,
}

impl LogicTls {
    /// Reads all files. The keys of the configuration stand in `section`, by which an error names them.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn load(config: &LogicConfig, section: &str) -> Result<LogicTls, Vec<ConfigError>> {
        let (https, services) = (https(&config.http_server, section), config.tls.read(section));
        match (https, services) {
            (Ok(https), Ok(services)) => Ok(LogicTls { https, services }),
            (https, services) => Err([https.err(), services.err()].into_iter().flatten().flatten().collect()),
        }
    }

    /// Uses what was read. Needs a tokio runtime.
    pub fn start(self, config: &LogicConfig, section: &'static str, reload: &Reload) -> Started {
        let services = self.services.map(|read| config.tls.start(read, section, reload));
        let https = self.https.map(|(read, identities)| {
            let (current, config) = (Https::new(read), config.http_server.clone());
            note(&config, &identities);
            current.follow(reload, "certificate of HTTPS", move || {
                let (read, identities) = https(&config, section)?.expect("the section has not changed");
                note(&config, &identities);
                Ok(read)
            });
            current
        });
        Started { https, services }
    }
}

/// The logs are not started yet where files are read first, so who uses them says when they are over.
fn note(config: &HttpServerConfig, identities: &[Arc<Identity>]) {
    for (file, identity) in config.cert_file.iter().zip(identities) {
        certificates::note(file, identity);
    }
}

type HttpsRead = (ServerConfig, Vec<Arc<Identity>>);

fn https(config: &HttpServerConfig, section: &str) -> Result<Option<HttpsRead>, Vec<ConfigError>> {
    if !config.tls_open {
        return Ok(None);
    }
    let (certificate, key) =
        (format!("{section}httpServer.certFile"), format!("{section}httpServer.privateFile"));
    let named = Keys { certificate: &certificate, key: &key };
    let identities = named.identities(&config.cert_file, &config.private_file)?;
    let made = tls::https(identities.clone());
    made.map(|made| Some((made, identities))).map_err(|error| {
        vec![ConfigError::value(certificate, format!("{:?}", config.cert_file), error.to_string())]
    })
}
