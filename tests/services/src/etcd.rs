//! etcd.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    process::{self, Process},
    write,
};

/// A single etcd.
pub struct Etcd {
    process: Process,
    port: u16,
    /// Where it tells its health, without TLS.
    health: u16,
}

/// PEM files that an [`Etcd`] with TLS takes, of a certificate authority of its own.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The certificate of 127.0.0.1, of the server as of its clients.
    pub cert: PathBuf,
    /// The key to it.
    pub key: PathBuf,
}

impl TlsFiles {
    fn of(directory: &Path) -> TlsFiles {
        let [ca, cert, key] = ["ca.pem", "own.pem", "own.key"].map(|name| directory.join(name));
        TlsFiles { ca, cert, key }
    }
}

impl Etcd {
    /// Starts one.
    pub fn start() -> Etcd {
        Etcd::start_as("http", |_| Vec::new())
    }

    /// Starts one that speaks TLS only and wants a certificate of its clients: see [`Etcd::tls_files`].
    pub fn start_with_tls() -> Etcd {
        Etcd::start_as("https", |directory| {
            make_certificates(directory);
            let TlsFiles { ca, cert, key } = TlsFiles::of(directory);
            let files = [("--trusted-ca-file", ca), ("--cert-file", cert), ("--key-file", key)];
            let files =
                files.into_iter().flat_map(|(name, path)| [name.to_owned(), path.display().to_string()]);
            files.chain(["--client-cert-auth".to_owned()]).collect()
        })
    }

    fn start_as(scheme: &str, more: impl Fn(&Path) -> Vec<String>) -> Etcd {
        let arguments = |[port, peer, health]: [u16; 3], directory: &Path| {
            let (client, peer) = (format!("{scheme}://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
            let arguments = [
                ("--data-dir", data(directory).display().to_string()),
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-peer-urls", peer.clone()),
                ("--initial-advertise-peer-urls", peer.clone()),
                ("--initial-cluster", format!("default={peer}")),
                ("--listen-metrics-urls", format!("http://127.0.0.1:{health}")),
                ("--log-level", "warn".to_owned()),
            ];
            let arguments = arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
            arguments.chain(more(directory)).collect()
        };
        let ([port, _, health], process) =
            process::start("etcd", arguments, |[_, _, health]| is_healthy(health));
        Etcd { process, port, health }
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What a client of an etcd with TLS needs.
    pub fn tls_files(&self) -> TlsFiles {
        TlsFiles::of(self.process.directory())
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on its port, with what it had stored.
    pub fn restart(&mut self) {
        self.process.restart(|| is_healthy(self.health));
    }

    /// Starts it again on its port, with nothing.
    pub fn restart_empty(&mut self) {
        self.process.kill();
        fs::remove_dir_all(data(self.process.directory())).expect("its data");
        self.restart();
    }

    /// Stops it from answering, its connections stay: SIGSTOP.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.resume();
    }
}

/// Whether it answers. It listens before it has a leader.
fn is_healthy(port: u16) -> bool {
    let mut answer = String::new();
    let asked = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        stream.read_to_string(&mut answer)
    });
    asked.is_ok() && answer.contains(r#""health":"true""#)
}

fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// An authority, and a certificate of 127.0.0.1 that it signed.
fn make_certificates(directory: &Path) {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(directory).output();
        let output = output.unwrap_or_else(|error| panic!("openssl: {error}"));
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    };
    let authority =
        ["req", "-x509", "-days", "2", "-subj", "/CN=tests", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&authority[..], &key[..]].concat());
    let request = ["req", "-subj", "/CN=127.0.0.1", "-keyout", "own.key", "-out", "own.csr"];
    openssl(&[&request[..], &key[..]].concat());
    write(directory, "own.ext", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n");
    let sign = ["x509", "-req", "-days", "2", "-in", "own.csr", "-out", "own.pem", "-extfile", "own.ext"];
    openssl(&[&sign[..], &["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]].concat());
}
