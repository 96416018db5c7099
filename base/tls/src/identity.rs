//! A certificate and its key; which one a client gets.

use std::{fmt, sync::Arc};

use rustls::{
    Error,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use crate::provider::provider;

/// A chain of certificates with the key of the first.
pub struct Identity {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    not_after: i64,
}

/// Why a certificate and a key cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The file of the certificate has none in PEM.
    #[error("there is no certificate in it: it must begin with -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// A certificate cannot be read.
    #[error("certificate {0} in it cannot be read")]
    BadCertificate(usize),
    /// The file of the key has none in PEM, or one under a password.
    #[error("there is no private key in it, in PEM and without a password")]
    NoKey,
    /// The key is of a kind that is not used.
    #[error("its key is of no kind that is used: RSA from 2048 bits, ECDSA P-256 or P-384, Ed25519")]
    UnknownKey,
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    OtherKey,
    /// No authority that is trusted has signed it, or it is not for clients.
    #[error(
        "the authority in ca has not signed it for clients too (openssl: extendedKeyUsage=serverAuth,clientAuth)"
    )]
    NotCertified,
    /// The certificate cannot be used, for another reason.
    #[error("it is no certificate of version 3, or malformed")]
    Unusable,
    /// The time of the certificate is over.
    #[error("the certificate expired {0} ago")]
    Expired(Days),
    /// The time of the certificate has not begun.
    #[error("the certificate is not valid before {0} from now")]
    NotYet(Days),
}

/// A time in whole days, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days(pub i64);

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ..=0 => f.write_str("less than a day"),
            1 => f.write_str("1 day"),
            days => write!(f, "{days} days"),
        }
    }
}

const DAY: i64 = 24 * 3600;

impl IdentityError {
    /// Whether the file of the key is at fault, not that of the certificate.
    pub fn is_of_the_key(&self) -> bool {
        matches!(self, IdentityError::NoKey | IdentityError::UnknownKey | IdentityError::OtherKey)
    }
}

impl Identity {
    /// Reads both from PEM. The first certificate is the server's, those behind it lead to its authority.
    ///
    /// # Errors
    /// Why they cannot be used, now.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Identity, IdentityError> {
        let mut certificates = Vec::new();
        for (number, certificate) in CertificateDer::pem_slice_iter(chain).enumerate() {
            certificates.push(certificate.map_err(|_| IdentityError::BadCertificate(number + 1))?);
        }
        let first = certificates.first().ok_or(IdentityError::NoCertificate)?;
        if begun(chain) != certificates.len() {
            return Err(IdentityError::BadCertificate(certificates.len() + 1));
        }
        let (_, parsed) = parse_x509_certificate(first).map_err(|_| IdentityError::BadCertificate(1))?;
        let validity = parsed.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let names = match parsed.subject_alternative_name() {
            Ok(Some(names)) => names.value.general_names.iter().filter_map(dns_name).collect(),
            _ => Vec::new(),
        };
        let now = UnixTime::now().as_secs() as i64;
        if now > not_after {
            return Err(IdentityError::Expired(Days((now - not_after) / DAY)));
        }
        if now < not_before {
            return Err(IdentityError::NotYet(Days((not_before - now) / DAY)));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| IdentityError::NoKey)?;
        let key = CertifiedKey::from_der(certificates, key, &provider()).map_err(|error| match error {
            Error::InconsistentKeys(_) => IdentityError::OtherKey,
            Error::InvalidCertificate(_) => IdentityError::Unusable,
            _ => IdentityError::UnknownKey,
        })?;
        Ok(Identity { key: Arc::new(key), names, not_after })
    }

    /// When its time is over, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Whole days until then; negative after it.
    pub fn days_left(&self) -> i64 {
        (self.not_after - UnixTime::now().as_secs() as i64).div_euclid(DAY)
    }

    /// The hosts that it is for.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What rustls takes.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }

    /// RFC 6125, section 6.4: `*` stands for one whole label, the first.
    fn is_for(&self, host: &str) -> bool {
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(domain) => {
                host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == domain)
            }
            None => name == host,
        })
    }
}

/// How many certificates begin in a PEM file. Fewer are read where two were put together without an end of line between:
/// the reader takes the beginning of the second for the end of the first.
pub(crate) fn begun(pem: &[u8]) -> usize {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    pem.windows(BEGIN.len()).filter(|window| *window == BEGIN).count()
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("names", &self.names).finish_non_exhaustive()
    }
}

fn dns_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    }
}

/// Several identities of one port.
#[derive(Debug)]
pub(crate) struct Identities(Vec<Arc<Identity>>);

impl Identities {
    pub(crate) fn new(identities: Vec<Arc<Identity>>) -> Identities {
        assert!(!identities.is_empty(), "a port of TLS has an identity");
        Identities(identities)
    }

    /// The first that is for the host; for an unknown host, or none, the very first. Of those for one host the first
    /// with a key that the client can check.
    fn of(&self, host: Option<&str>, fits: impl Fn(&Identity) -> bool) -> &Identity {
        let host = host.map(str::to_ascii_lowercase);
        let named = |identity: &&Arc<Identity>| host.as_deref().is_some_and(|host| identity.is_for(host));
        let for_host = || self.0.iter().filter(named);
        for_host()
            .find(|identity| fits(identity))
            .or_else(|| for_host().next())
            .or_else(|| self.0.iter().find(|identity| fits(identity)))
            .unwrap_or_else(|| &self.0[0])
    }
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = |identity: &Identity| identity.key.key.choose_scheme(hello.signature_schemes()).is_some();
        Some(self.of(hello.server_name(), fits).certified_key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(names: &[&str]) -> (String, String) {
        let made =
            rcgen::generate_simple_self_signed(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        let made = made.expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn identity(names: &[&str]) -> Arc<Identity> {
        let (chain, key) = pem(names);
        Arc::new(Identity::from_pem(chain.as_bytes(), key.as_bytes()).expect("an identity"))
    }

    #[test]
    fn a_client_gets_the_certificate_of_the_host_it_names_and_else_the_first() {
        let identities =
            Identities::new(vec![identity(&["a.example"]), identity(&["*.b.example", "B.example"])]);
        let names = |host: Option<&str>| identities.of(host, |_| true).names()[0].clone();
        assert_eq!(names(Some("a.example")), "a.example");
        assert_eq!(names(Some("x.b.example")), "*.b.example");
        assert_eq!(names(Some("X.B.Example")), "*.b.example");
        assert_eq!(names(Some("b.example")), "*.b.example");
        for other in [Some("x.y.b.example"), Some(".b.example"), Some("c.example"), None] {
            assert_eq!(names(other), "a.example", "{other:?}");
        }
    }

    #[test]
    fn of_two_certificates_for_a_host_a_client_gets_the_one_it_can_check() {
        let identities = Identities::new(vec![identity(&["a.example"]), identity(&["a.example"])]);
        let second = &identities.0[1];
        assert!(std::ptr::eq(
            identities.of(Some("a.example"), |one| std::ptr::eq(one, &**second)),
            &**second
        ));
    }

    #[test]
    fn what_is_wrong_with_a_certificate_or_its_key_is_told() {
        let (chain, key) = pem(&["a.example"]);
        let (_, other) = pem(&["a.example"]);
        let error = |chain: &str, key: &str| {
            Identity::from_pem(chain.as_bytes(), key.as_bytes()).expect_err("no identity")
        };
        assert_eq!(error("", &key), IdentityError::NoCertificate);
        assert_eq!(error(&key, &key), IdentityError::NoCertificate);
        assert_eq!(error(&chain, ""), IdentityError::NoKey);
        assert_eq!(error(&chain, &chain), IdentityError::NoKey);
        assert_eq!(error(&chain, &other), IdentityError::OtherKey);
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(error(broken, &key), IdentityError::BadCertificate(1));
        assert_eq!(error(&chain.replace("-----END", "!"), &key), IdentityError::BadCertificate(1));
    }

    #[test]
    fn a_certificate_is_refused_before_and_after_its_time() {
        let made = |from: i64, to: i64| {
            let mut parameters = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
            let day = |days: i64| {
                let now = UnixTime::now().as_secs() as i64;
                time::OffsetDateTime::from_unix_timestamp(now + days * DAY + 60).expect("a time")
            };
            (parameters.not_before, parameters.not_after) = (day(from), day(to));
            let key = rcgen::KeyPair::generate().expect("a key");
            let chain = parameters.self_signed(&key).expect("a certificate").pem();
            Identity::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes())
        };
        assert_eq!(made(-9, -4).expect_err("expired"), IdentityError::Expired(Days(3)));
        assert_eq!(made(3, 9).expect_err("not yet valid"), IdentityError::NotYet(Days(3)));
        assert_eq!(made(-3, 9).expect("an identity").days_left(), 9);
    }
}
