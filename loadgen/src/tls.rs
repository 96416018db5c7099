//! TLS of a client, between its socket and what is spoken on it.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

/// What all clients of a run share.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    config: Arc<ClientConfig>,
    /// The host that the server's certificate is for; none: the one of the address.
    name: Option<ServerName<'static>>,
}

impl Trust {
    /// Trusts the certificates in a file: an authority's, or the server's own. Each client makes a full handshake, as
    /// devices do that were never here.
    pub(crate) fn new(file: &Path, name: Option<&str>) -> Result<Trust> {
        let pem = fs::read(file).with_context(|| format!("--tls {}", file.display()))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate?).with_context(|| format!("--tls {}", file.display()))?;
        }
        ensure!(!roots.is_empty(), "--tls {}: there is no certificate in it", file.display());
        let mut config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        let name =
            name.map(|name| ServerName::try_from(name.to_owned())).transpose().context("--tls-name")?;
        Ok(Trust { config: Arc::new(config), name })
    }

    /// One client's part; `target` is `host:port`.
    pub(crate) fn start(&self, target: &str) -> Result<Tls> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => {
                let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                ServerName::try_from(host.to_owned())
                    .with_context(|| format!("{host} is no name of a host"))?
            }
        };
        Ok(Tls(Box::new(ClientConnection::new(Arc::clone(&self.config), name)?)))
    }
}

/// One connection's.
pub(crate) struct Tls(Box<ClientConnection>);

impl Tls {
    /// Takes plain text, and appends to `out` what is to be sent: nothing before the handshake is done.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.0.writer().write_all(plain)?;
        while self.0.wants_write() {
            self.0.write_tls(out)?;
        }
        Ok(())
    }

    /// Takes what was read, and appends the plain text in it. True if something is to be sent. An error says why the
    /// connection is of no more use.
    pub(crate) fn open(&mut self, mut read: &[u8], plain: &mut Vec<u8>) -> Result<bool, String> {
        while !read.is_empty() {
            self.0.read_tls(&mut read).map_err(|error| error.to_string())?;
            let state = self.0.process_new_packets().map_err(|error| format!("TLS: {error}"))?;
            let from = plain.len();
            plain.resize(from + state.plaintext_bytes_to_read(), 0);
            self.0.reader().read_exact(&mut plain[from..]).map_err(|error| error.to_string())?;
        }
        Ok(self.0.wants_write())
    }
}
