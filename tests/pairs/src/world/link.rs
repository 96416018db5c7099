//! The way from one program to one server: a TCP proxy that passes, delays, holds or cuts.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

/// What a link does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It hands them on.
    Open,
    /// Each comes so much later, in both directions.
    Slow(Duration),
    /// They wait in it, connections stay.
    Frozen,
    /// Connections end, and new ones end at once.
    Cut,
}

/// Pieces on their way through one direction of a connection, 64 KiB each at most.
const PIECES: usize = 64;

/// One link. It ends with this value.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    passage: watch::Sender<Passage>,
}

impl Link {
    /// A link to a server, open.
    ///
    /// # Panics
    /// No port is free.
    pub async fn to(server: SocketAddr) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (passage, is) = watch::channel(Passage::Open);
        tokio::spawn(serve(listener, server, is));
        Link { address, passage }
    }

    /// Where its program connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says what it does from now on.
    pub fn set(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }
}

async fn serve(listener: TcpListener, server: SocketAddr, mut passage: watch::Receiver<Passage>) {
    loop {
        tokio::select! {
            changed = passage.changed() => if changed.is_err() { return },
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if *passage.borrow() != Passage::Cut {
                    tokio::spawn(carry(client, server, passage.clone()));
                }
            }
        }
    }
}

/// One connection, until either side ends it or the link is cut.
async fn carry(client: TcpStream, server: SocketAddr, mut passage: watch::Receiver<Passage>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    for stream in [&client, &server] {
        // Only a matter of speed.
        let _ = stream.set_nodelay(true);
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let cut = passage.clone();
    tokio::select! {
        () = one_way(from_client, to_server, passage.clone()) => {}
        () = one_way(from_server, to_client, cut) => {}
        // The world is gone, or nothing passes any more.
        _ = passage.wait_for(|passage| *passage == Passage::Cut) => {}
    }
}

async fn one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut passage: watch::Receiver<Passage>) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let read = async move {
        let mut piece = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            if sender.send((Instant::now(), piece[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((read, piece)) = receiver.recv().await {
            let Ok(now) = passage.wait_for(|passage| *passage != Passage::Frozen).await.map(|now| *now)
            else {
                return;
            };
            if let Passage::Slow(delay) = now {
                sleep_until(read + delay).await;
            }
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::clock::{ms, now, secs};

    /// A server that sends back what it reads.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn ping(stream: &mut TcpStream) -> bool {
        let mut answer = [0; 4];
        stream.write_all(b"ping").await.is_ok() && stream.read_exact(&mut answer).await.is_ok()
    }

    #[tokio::test]
    async fn a_link_passes_delays_holds_and_cuts() {
        let link = Link::to(echo().await).await;
        let mut stream = TcpStream::connect(link.address()).await.expect("it accepts");
        assert!(ping(&mut stream).await);
        link.set(Passage::Slow(ms(100)));
        let started = now();
        assert!(ping(&mut stream).await);
        assert!(now() - started >= ms(200), "both directions are slow");
        link.set(Passage::Frozen);
        assert!(timeout(ms(200), ping(&mut stream)).await.is_err(), "nothing passes");
        link.set(Passage::Open);
        let mut answer = [0; 4];
        let held = timeout(secs(5), stream.read_exact(&mut answer)).await.expect("in time");
        assert_eq!((held.ok(), &answer), (Some(4), b"ping"), "what was held comes");
        link.set(Passage::Cut);
        assert!(!timeout(secs(5), ping(&mut stream)).await.expect("it ends at once"));
        let mut late = TcpStream::connect(link.address()).await.expect("the kernel accepts");
        assert!(!timeout(secs(5), ping(&mut late)).await.expect("it ends at once"));
        link.set(Passage::Open);
        let mut back = TcpStream::connect(link.address()).await.expect("it accepts");
        assert!(timeout(secs(5), ping(&mut back)).await.expect("in time"));
    }
}
