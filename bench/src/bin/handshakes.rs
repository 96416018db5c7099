//! TLS handshakes, one after the other or held, for comparing what they cost a server.
//!
//! One thread, blocking sockets. Each connection makes a handshake, asks for `/` in HTTP/1.1 if it is told to, and waits until
//! it has a ticket of resumption, so that servers which send tickets later do the same work. The server's CPU time is
//! measured by whoever calls this.
#![forbid(unsafe_code)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedProtocolVersion,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

/// Makes TLS handshakes with a server on this machine
#[derive(Parser)]
#[command(
    after_help = "Example: handshakes 127.0.0.1:3103 2000 --ca localhost.crt --resumed\n  one full handshake, then 2,000 that come back with a ticket"
)]
struct Cli {
    /// Where
    address: SocketAddr,
    /// How many
    count: usize,
    /// Certificate to trust
    #[arg(long)]
    ca: PathBuf,
    /// Host that the certificate is for
    #[arg(long, default_value = "localhost")]
    name: String,
    /// Only TLS 1.2
    #[arg(long)]
    tls12: bool,
    /// Come back with a ticket
    #[arg(long)]
    resumed: bool,
    /// Ask for `/` after the handshake, and read the answer's head
    #[arg(long)]
    request: bool,
    /// Keep all connections until the input ends
    #[arg(long)]
    hold: bool,
}

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&cli.ca).context("--ca")?)?;
    let versions: &[&SupportedProtocolVersion] =
        if cli.tls12 { &[&rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
    let mut config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    if !cli.resumed {
        config.resumption = Resumption::disabled();
    }
    let config = Arc::new(config);
    if cli.resumed {
        connect(&cli, &config)?;
    }
    let mut held = Vec::new();
    let wanted = if cli.resumed { HandshakeKind::Resumed } else { HandshakeKind::Full };
    for n in 0..cli.count {
        let (kind, connection) = connect(&cli, &config).with_context(|| format!("connection {n}"))?;
        ensure!(same(kind, wanted), "connection {n}: {kind:?} instead of {wanted:?}");
        if cli.hold {
            held.push(connection);
        }
    }
    println!("{} handshakes", cli.count);
    if cli.hold {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    }
    Ok(())
}

fn same(kind: HandshakeKind, wanted: HandshakeKind) -> bool {
    kind == wanted || (kind == HandshakeKind::FullWithHelloRetryRequest && wanted == HandshakeKind::Full)
}

fn connect(cli: &Cli, config: &Arc<ClientConfig>) -> Result<(HandshakeKind, TcpStream)> {
    let name = ServerName::try_from(cli.name.clone())?;
    let mut tls = ClientConnection::new(Arc::clone(config), name)?;
    let mut socket = TcpStream::connect(cli.address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    if cli.request {
        tls.writer().write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    }
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        while tls.wants_write() {
            tls.write_tls(&mut socket)?;
        }
        let has_answer = !cli.request || text.windows(4).any(|end| end == b"\r\n\r\n");
        // TLS 1.2 has its ticket within the handshake.
        let has_ticket = !cli.resumed || cli.tls12 || tls.tls13_tickets_received() > 0;
        if !tls.is_handshaking() && has_answer && has_ticket {
            break;
        }
        ensure!(tls.read_tls(&mut socket)? > 0, "the server ended the connection");
        let state = tls.process_new_packets()?;
        let mut left = state.plaintext_bytes_to_read();
        while left > 0 {
            let read = tls.reader().read(&mut buffer)?;
            text.extend_from_slice(&buffer[..read]);
            left -= read;
        }
    }
    let kind = tls.handshake_kind().context("the handshake is done")?;
    Ok((kind, socket))
}
