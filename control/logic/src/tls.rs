//! TLS of logic: HTTPS, and gRPC with the other parts of the cluster.

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

use crate::config::{HttpServerConfig, LogicConfig};

/// What the files say, read before a port is bound.
#[derive(Debug, Default)]
pub struct LogicTls {
    /// Of HTTPS; none: there is no such port.
    https: Option<ServerConfig>,
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
        let https = self.https.map(|read| {
            let (current, config) = (Https::new(read), config.http_server.clone());
            current.follow(reload, "certificate of HTTPS", move || {
                https(&config, section).map(|read| read.expect("the section has not changed"))
            });
            current
        });
        Started { https, services }
    }
}

fn https(config: &HttpServerConfig, section: &str) -> Result<Option<ServerConfig>, Vec<ConfigError>> {
    if !config.tls_open {
        return Ok(None);
    }
    let (certificate, key) =
        (format!("{section}httpServer.certFile"), format!("{section}httpServer.privateFile"));
    let named = Keys { certificate: &certificate, key: &key };
    let identities = named.identities(&config.cert_file, &config.private_file)?;
    for (file, identity) in config.cert_file.iter().zip(&identities) {
        certificates::note(file, identity);
    }
    let made = tls::https(identities);
    made.map(Some).map_err(|error| {
        vec![ConfigError::value(certificate, format!("{:?}", config.cert_file), error.to_string())]
    })
}
