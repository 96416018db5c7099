//! The real servers of a cluster for tests: [`Redis`], [`Sentinel`], [`Etcd`], [`Kafka`], each on loopback, on ports of its
//! own, with a directory of its own, and with TLS where an [`Authority`] is given; [`GoPeer`], goim's side of a cluster; and [`Link`], a way to any of them that can be
//! cut. Each ends with its value, by its pid.
//!
//! `make deps` installs them. Where one is not installed the test that wants it fails and says so: nothing is skipped.
#![forbid(unsafe_code)]

mod authority;
mod etcd;
mod go_peer;
mod kafka;
mod link;
mod ports;
mod process;

use std::{fmt::Write as _, fs, path::Path};

use self::process::{Process, listens};
pub use self::{
    authority::{Authority, TlsFiles},
    etcd::Etcd,
    go_peer::GoPeer,
    kafka::{Kafka, Login},
    link::Link,
    ports::free_ports,
};

/// A Redis without persistence.
pub struct Redis {
    process: Process,
    port: u16,
    /// Its certificate's files are there as long as this.
    _authority: Option<Authority>,
}

impl Redis {
    /// Starts one.
    pub fn start() -> Redis {
        Redis::start_with(&[])
    }

    /// Starts one with more lines of `redis.conf`, such as `requirepass sesame`.
    pub fn start_with(lines: &[&str]) -> Redis {
        Redis::start_as(None, lines)
    }

    /// Starts one that speaks TLS only, wants a certificate of its clients that this authority has signed, and has more
    /// lines of `redis.conf`.
    pub fn start_with_tls(authority: &Authority, lines: &[&str]) -> Redis {
        Redis::start_as(Some(authority), lines)
    }

    fn start_as(authority: Option<&Authority>, lines: &[&str]) -> Redis {
        let arguments = |[port]: [u16; 1], directory: &Path| {
            let mut conf = redis_ports(port, authority);
            write!(conf, "save \"\"\ndir {}\n", directory.display()).expect("text");
            lines.iter().for_each(|line| writeln!(conf, "{line}").expect("text"));
            vec![write(directory, "redis.conf", &conf)]
        };
        let ([port], process) = process::start("redis-server", arguments, |[port]| listens(port));
        Redis { process, port, _authority: authority.cloned() }
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on its port; it is empty then.
    pub fn restart(&mut self) {
        self.process.restart(|| listens(self.port));
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

/// A Sentinel that watches one master, named `mymaster`, and replaces it by its replica after a second of silence.
pub struct Sentinel {
    _process: Process,
    port: u16,
    _authority: Option<Authority>,
}

impl Sentinel {
    /// Starts one for the master at this address.
    pub fn start(master: &str) -> Sentinel {
        Sentinel::start_as(None, master, &[])
    }

    /// Starts one that speaks TLS only, with its master too, and has more lines of `sentinel.conf`.
    pub fn start_with_tls(authority: &Authority, master: &str, lines: &[&str]) -> Sentinel {
        Sentinel::start_as(Some(authority), master, lines)
    }

    fn start_as(authority: Option<&Authority>, master: &str, lines: &[&str]) -> Sentinel {
        let (host, master_port) = master.rsplit_once(':').expect("host:port");
        let arguments = |[port]: [u16; 1], directory: &Path| {
            let mut conf = redis_ports(port, authority);
            write!(
                conf,
                "dir {}\nsentinel monitor mymaster {host} {master_port} 1\n\
                 sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 3000\n",
                directory.display()
            )
            .expect("text");
            lines.iter().for_each(|line| writeln!(conf, "{line}").expect("text"));
            vec![write(directory, "sentinel.conf", &conf)]
        };
        let ([port], process) = process::start("redis-sentinel", arguments, |[port]| listens(port));
        Sentinel { _process: process, port, _authority: authority.cloned() }
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// The lines about the port of a server of Redis, and about those whom it connects to.
fn redis_ports(port: u16, authority: Option<&Authority>) -> String {
    let Some(authority) = authority else { return format!("port {port}\nbind 127.0.0.1\n") };
    let TlsFiles { ca, cert, key, .. } = authority.sign("redis");
    format!(
        "port 0\ntls-port {port}\nbind 127.0.0.1\ntls-cert-file {cert}\ntls-key-file {key}\n\
         tls-ca-cert-file {ca}\ntls-auth-clients yes\ntls-replication yes\n"
    )
}

/// Writes a file into the directory and gives its path.
fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, text).expect("a file in a temporary directory");
    path.display().to_string()
}
