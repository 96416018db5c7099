//! A client of rustls that trusts one certificate.

use rustls::{
    ALL_VERSIONS, ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, pem::PemObject},
};

/// Its configuration; the certificate is in PEM.
///
/// # Panics
/// It is no certificate.
pub fn client_of(certificate: &[u8]) -> ClientConfig {
    client_with(certificate, ring::default_provider(), ALL_VERSIONS)
}

/// The same of a client that knows only these suites and versions.
///
/// # Panics
/// As [`client_of`], or no suite is of any of the versions.
pub fn client_with(
    certificate: &[u8],
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate).expect("PEM")).expect("a root");
    ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
