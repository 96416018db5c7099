//! TLS of the connections that we make: whose certificates we trust, and which one is ours.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
    sign::SingleCertAndKey,
};

use crate::{
    identity::{Identity, IdentityError, begun},
    provider::provider,
};

/// The authorities in a PEM file.
///
/// # Errors
/// There is none in it, or one cannot be read.
pub fn authorities(pem: &[u8]) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for (number, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let bad = IdentityError::BadCertificate(number + 1);
        let Ok(certificate) = certificate else { return Err(bad) };
        if roots.add(certificate).is_err() {
            return Err(bad);
        }
    }
    match roots.len() {
        0 => Err(IdentityError::NoCertificate),
        read if read < begun(pem) => Err(IdentityError::BadCertificate(read + 1)),
        _ => Ok(roots),
    }
}

/// What rustls needs to connect: servers have to show a certificate of one of `roots`, and get `own` if they ask for one.
///
/// # Panics
/// Never: the provider has TLS 1.2 and 1.3.
pub fn client_config(roots: RootCertStore, own: Option<&Identity>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has both versions")
        .with_root_certificates(roots);
    match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.certified_key()))),
        None => builder.with_no_client_auth(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_of_authorities_is_told() {
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).expect("a certificate");
        let (one, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let read = |pem: &str| authorities(pem.as_bytes()).map(|roots| roots.len());
        assert_eq!(read(&one), Ok(1));
        assert_eq!(read(&format!("{one}\n{one}")), Ok(2));
        for text in ["", "no PEM", &key] {
            assert_eq!(read(text), Err(IdentityError::NoCertificate), "{text}");
        }
        assert_eq!(read(&format!("{}{one}", one.trim_end())), Err(IdentityError::BadCertificate(2)));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(read(&format!("{one}\n{broken}")), Err(IdentityError::BadCertificate(2)));
    }
}
