//! A client that speaks goim's frames, for the tests over real connections.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
};

use proto::{
    frame::{Decoded, Header, decode, encode},
    op::Op,
};

/// A client on a plain socket.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn new(stream: TcpStream) -> Client {
        Client { stream, buffer: Vec::new() }
    }

    pub(crate) fn send(&mut self, op: Op, body: &[u8]) {
        let mut bytes = Vec::new();
        encode(Header { ver: 1, op, seq: 7 }, body, &mut bytes);
        self.stream.write_all(&bytes).expect("a write");
    }

    /// The next frame; none at the end of the stream.
    pub(crate) fn next(&mut self) -> Option<(Header, Vec<u8>)> {
        loop {
            if let Decoded::Frame { frame, used } = decode(&self.buffer, 1 << 24).expect("a valid frame") {
                let result = (frame.header, frame.body.to_vec());
                self.buffer.drain(..used);
                return Some(result);
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(bytes) => self.buffer.extend_from_slice(&chunk[..bytes]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                // The thread that probed io_uring is interrupted once by the end of its ring.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }
}
