//! How the parts of a cluster know each other: each shows a certificate of one authority, and takes nobody who shows none.

use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    pki_types::UnixTime,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};

use crate::{
    client::{authorities, client_config},
    identity::{Identities, Identity, IdentityError},
    provider,
};

/// What gRPC speaks inside TLS (RFC 9113, section 3.2).
const HTTP_2: &[u8] = b"h2";

/// An authority, and a certificate of it with its key.
pub struct Mutual {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    identity: Arc<Identity>,
}

impl Mutual {
    /// A part that shows `identity` and takes whoever shows a certificate of `authority`, which is PEM and may hold
    /// several: the old one and the new one, while certificates are exchanged.
    ///
    /// # Errors
    /// What is wrong with the authority.
    pub fn new(authority: &[u8], identity: Arc<Identity>) -> Result<Mutual, IdentityError> {
        let roots = authorities(authority)?;
        let mut client = client_config(roots.clone(), Some(&identity));
        client.alpn_protocols = vec![HTTP_2.to_vec()];
        client.resumption = Resumption::disabled();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider::provider())
            .build()
            .map_err(|_| IdentityError::NoCertificate)?;
        // Or nobody would let us in, and nothing here would say why.
        let chain = &identity.certified_key().cert;
        verifier
            .verify_client_cert(&chain[0], &chain[1..], UnixTime::now())
            .map_err(|_| IdentityError::NotCertified)?;
        let mut server = provider::server()
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Identities::new(vec![Arc::clone(&identity)])));
        server.alpn_protocols = vec![HTTP_2.to_vec()];
        // Whoever comes back shows its certificate again, so that one that is over by then is not taken.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Mutual { server: Arc::new(server), client: Arc::new(client), identity })
    }

    /// For those who call us.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For those whom we call. The name in the other one's certificate must be the host of its address.
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    /// Our certificate.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl fmt::Debug for Mutual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutual").field("identity", &self.identity).finish_non_exhaustive()
    }
}
