//! The floor: what delivering costs when a program does nothing else.
//!
//! Accepts N clients, then takes messages of a fixed size from one publisher and sends each to all of them: no protocol,
//! no rooms, no queue. `uring` sends in batches on a raw ring, `epoll` by one send(2) per client. `make compare` takes the
//! faster one of the run as the floor that gateways are measured against.
#![forbid(unsafe_code)]

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    rc::Rc,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use mio::{Events, Interest, Poll, Token};
use ring::SendRing;

/// Sends begun between two waits: the queue of the ring.
const BATCH: usize = 1024;

/// Sends what one publisher says to every client, and nothing else.
#[derive(Parser)]
#[command(
    after_help = "Example: floor uring 7000 2000 76\n  2,000 clients connect to 127.0.0.1:7000, then the publisher to 7001;\n  each 76 bytes it writes go to every client. Ends with the publisher."
)]
struct Cli {
    /// How to send
    how: How,
    /// Clients connect here; the publisher to the next port
    port: u16,
    /// Number of clients to wait for
    clients: usize,
    /// Bytes of one message
    size: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum How {
    /// Batches on a raw io_uring
    Uring,
    /// send(2), and epoll for those whose buffer is full
    Epoll,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let (clients, publisher) = (listen(cli.port)?, listen(cli.port + 1)?);
    let clients = (0..cli.clients)
        .map(|_| clients.accept().map(|(client, _)| client))
        .collect::<io::Result<Vec<_>>>()?;
    clients.iter().try_for_each(|client| client.set_nodelay(true))?;
    let mut publisher = publisher.accept()?.0;
    match cli.how {
        How::Uring => uring(clients, &mut publisher, cli.size),
        How::Epoll => epoll(clients, &mut publisher, cli.size),
    }
}

fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("cannot listen on port {port}"))
}

/// The next message; none at the publisher's end.
fn next(publisher: &mut TcpStream, size: usize) -> Option<Bytes> {
    let mut message = vec![0; size];
    publisher.read_exact(&mut message).ok().map(|()| message.into())
}

fn uring(clients: Vec<TcpStream>, publisher: &mut TcpStream, size: usize) -> Result<()> {
    let mut ring = SendRing::new(BATCH as u32).context("no io_uring here")?;
    let clients: Vec<_> = clients.into_iter().map(|client| Rc::new(OwnedFd::from(client))).collect();
    while let Some(message) = next(publisher, size) {
        for (batch, clients) in clients.chunks(BATCH).enumerate() {
            for (n, client) in clients.iter().enumerate() {
                ring.send((batch * BATCH + n) as u64, client, &message);
            }
            ring.submit_and_wait(clients.len())?;
            while let Some(done) = ring.completed() {
                let sent = done.result?;
                anyhow::ensure!(sent == size, "{sent} of {size} bytes: a message that no buffer takes whole");
            }
        }
    }
    Ok(())
}

fn epoll(clients: Vec<TcpStream>, publisher: &mut TcpStream, size: usize) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(clients.len());
    clients.iter().try_for_each(|client| client.set_nonblocking(true))?;
    let mut clients: Vec<_> = clients.into_iter().map(mio::net::TcpStream::from_std).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        poll.registry().register(client, Token(n), Interest::WRITABLE)?;
    }
    while let Some(message) = next(publisher, size) {
        let mut full: Vec<usize> = Vec::new();
        for (n, client) in clients.iter_mut().enumerate() {
            if !send(client, &message)? {
                full.push(n);
            }
        }
        while !full.is_empty() {
            poll.poll(&mut events, None)?;
            let mut left = Vec::new();
            for n in full {
                if !send(&mut clients[n], &message)? {
                    left.push(n);
                }
            }
            full = left;
        }
    }
    Ok(())
}

/// False when the socket's buffer is full.
fn send(client: &mut mio::net::TcpStream, message: &[u8]) -> Result<bool> {
    match client.write(message) {
        Ok(sent) => {
            anyhow::ensure!(sent == message.len(), "{sent} bytes: a message that no buffer takes whole");
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}
