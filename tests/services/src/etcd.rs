//! etcd.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
};

use super::{
    authority::{Authority, TlsFiles},
    process::{self, Process},
};

/// A single etcd.
pub struct Etcd {
    process: Process,
    port: u16,
    /// Where it tells its health, without TLS.
    health: u16,
    /// Its certificate's files are there as long as this.
    _authority: Option<Authority>,
}

impl Etcd {
    /// Starts one.
    pub fn start() -> Etcd {
        Etcd::start_as(None)
    }

    /// Starts one that speaks TLS only and wants a certificate of its clients that this authority has signed.
    pub fn start_with_tls(authority: &Authority) -> Etcd {
        Etcd::start_as(Some(authority))
    }

    fn start_as(authority: Option<&Authority>) -> Etcd {
        let (mut scheme, mut more) = ("http", Vec::new());
        if let Some(authority) = authority {
            let TlsFiles { ca, cert, key, .. } = authority.sign("etcd");
            scheme = "https";
            more = [("--trusted-ca-file", ca), ("--cert-file", cert), ("--key-file", key)]
                .into_iter()
                .flat_map(|(name, file)| [name.to_owned(), file])
                .chain(["--client-cert-auth".to_owned()])
                .collect();
        }
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
            arguments.chain(more.clone()).collect()
        };
        let ([port, _, health], process) =
            process::start("etcd", arguments, |[_, _, health]| is_healthy(health));
        Etcd { process, port, health, _authority: authority.cloned() }
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
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
