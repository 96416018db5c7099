//! Certificates for servers and their clients, of an authority that a test makes.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

/// An authority. Its files are there as long as one of its clones.
#[derive(Clone)]
pub struct Authority(Arc<Shared>);

struct Shared {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// PEM files of one side of a connection.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The authority's certificate.
    pub ca: String,
    /// The certificate of this side.
    pub cert: String,
    /// The key to it.
    pub key: String,
    /// Certificate and key in one file, as Kafka wants them.
    pub both: String,
}

impl Authority {
    /// A new one.
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Authority {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let name = format!("authority {} of a test", MADE.fetch_add(1, Relaxed));
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        write(directory.path(), "ca.pem", &certificate.pem());
        Authority(Arc::new(Shared { directory, issuer: Issuer::new(parameters, key) }))
    }

    /// A certificate of `localhost` and 127.0.0.1, good for a server as for a client, in files of its own.
    pub fn sign(&self, name: &str) -> TlsFiles {
        static SIGNED: AtomicU32 = AtomicU32::new(0);
        let number = SIGNED.fetch_add(1, Relaxed);
        let hosts = ["localhost", "127.0.0.1"].map(str::to_owned);
        let mut parameters = CertificateParams::new(hosts).expect("names");
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.0.issuer).expect("a certificate").pem();
        let key = key.serialize_pem();
        let file = |extension: &str, text: &str| {
            write(self.0.directory.path(), &format!("{name}-{number}.{extension}"), text)
        };
        TlsFiles {
            ca: self.ca(),
            cert: file("crt", &certificate),
            key: file("key", &key),
            both: file("pem", &format!("{key}{certificate}")),
        }
    }

    /// The file of its own certificate.
    pub fn ca(&self) -> String {
        self.0.directory.path().join("ca.pem").display().to_string()
    }
}

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, text).expect("a file in a temporary directory");
    path.display().to_string()
}
