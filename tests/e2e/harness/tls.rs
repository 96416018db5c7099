//! TLS in front of the harness's clients: each talks plain text to a relay of its own, which talks TLS to the server. So
//! every test can be run over TLS.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, poll};
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use testkit::trust::client_of;

/// A certificate for `localhost` and its key, in files.
pub(crate) struct Certificate {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Certificate {
    /// A new one in a directory.
    pub(crate) fn new(directory: &Path, name: &str) -> Certificate {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let file = |extension: &str, text: String| {
            let path = directory.join(format!("{name}.{extension}"));
            fs::write(&path, text).expect("a file");
            path.to_str().expect("UTF-8").to_owned()
        };
        Certificate {
            chain: file("crt", made.cert.pem()),
            key: file("key", made.signing_key.serialize_pem()),
        }
    }

    /// The configuration of a server with it on ports of TLS.
    pub(crate) fn sets(&self) -> Vec<String> {
        self.sets_in("comet.")
    }

    /// The same where comet's keys stand in another section.
    pub(crate) fn sets_in(&self, section: &str) -> Vec<String> {
        ["tcp", "websocket"]
            .iter()
            .flat_map(|port| {
                [
                    format!("{section}{port}.tlsOpen=true"),
                    format!("{section}{port}.tlsBind=127.0.0.1:0"),
                    format!("{section}{port}.certFile={}", self.chain),
                    format!("{section}{port}.privateFile={}", self.key),
                ]
            })
            .collect()
    }

    /// A client that trusts it.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        Arc::new(client_of(&fs::read(&self.chain).expect("a file")))
    }
}

/// Listens, and gives everybody who connects a connection with TLS to `target`.
pub(crate) fn relay(target: SocketAddr, config: Arc<ClientConfig>) -> SocketAddr {
    relay_over(move || TcpStream::connect(target), config)
}

/// The same over connections that `connect` makes, on which something may have been sent.
pub(crate) fn relay_over(
    connect: impl Fn() -> std::io::Result<TcpStream> + Send + 'static,
    config: Arc<ClientConfig>,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(client), Ok(server)) = (client, connect()) else { continue };
            let config = Arc::clone(&config);
            // It ends with either side; what it met, the client meets.
            thread::spawn(move || {
                if carry(&client, &server, config).is_err() {
                    // A reset is handed on as one.
                    let _ = rustix::net::sockopt::set_socket_linger(&server, Some(Duration::ZERO));
                    return;
                }
                let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
            });
        }
    });
    address
}

/// Most text that waits for either side.
const WAITING_MAX: usize = 64 * 1024;

fn carry(mut client: &TcpStream, mut server: &TcpStream, config: Arc<ClientConfig>) -> std::io::Result<()> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = ClientConnection::new(config, name).map_err(std::io::Error::other)?;
    client.set_nonblocking(true)?;
    server.set_nonblocking(true)?;
    let (mut buffer, mut waiting) = (vec![0; 16 * 1024], Vec::new());
    let (mut client_ended, mut server_ended) = (false, false);
    loop {
        let mut wanted = [PollFlags::empty(); 2];
        if !client_ended && !tls.wants_write() {
            wanted[0] |= PollFlags::IN;
        }
        if !waiting.is_empty() {
            wanted[0] |= PollFlags::OUT;
        }
        if !server_ended && waiting.len() < WAITING_MAX {
            wanted[1] |= PollFlags::IN;
        }
        if tls.wants_write() {
            wanted[1] |= PollFlags::OUT;
        }
        if wanted.iter().all(|flags| flags.is_empty()) {
            return Ok(());
        }
        let mut polled = [
            PollFd::from_borrowed_fd(std::os::fd::AsFd::as_fd(client), wanted[0]),
            PollFd::from_borrowed_fd(std::os::fd::AsFd::as_fd(server), wanted[1]),
        ];
        poll(&mut polled, None)?;
        let is = |at: usize, flag: PollFlags| {
            wanted[at].contains(flag)
                && polled[at].revents().intersects(flag | PollFlags::HUP | PollFlags::ERR)
        };
        if is(0, PollFlags::IN) {
            match again(client.read(&mut buffer))? {
                Some(0) => {
                    client_ended = true;
                    tls.send_close_notify();
                }
                Some(len) => tls.writer().write_all(&buffer[..len])?,
                None => {}
            }
        }
        if is(1, PollFlags::IN) {
            match again(tls.read_tls(&mut server))? {
                Some(0) => server_ended = true,
                Some(_) => {
                    tls.process_new_packets().map_err(std::io::Error::other)?;
                }
                None => {}
            }
            let mut text = vec![0; WAITING_MAX];
            match tls.reader().read(&mut text) {
                Ok(len) => waiting.extend_from_slice(&text[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => server_ended = true,
            }
        }
        if is(1, PollFlags::OUT) {
            again(tls.write_tls(&mut server))?;
        }
        if client_ended && !tls.wants_write() {
            let _ = server.shutdown(Shutdown::Write);
        }
        if !waiting.is_empty()
            && let Some(len) = again(client.write(&waiting))?
        {
            waiting.drain(..len);
        }
        if server_ended && waiting.is_empty() {
            return Ok(());
        }
    }
}

fn again(result: std::io::Result<usize>) -> std::io::Result<Option<usize>> {
    match result {
        Ok(len) => Ok(Some(len)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}
