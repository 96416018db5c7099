//! What clients do.

use std::net::IpAddr;

use contract::{Session, Transport};
use shard::{
    Port,
    mail::{ConnectionId, Outcome},
};

use super::{PEER, Socket, World};
use crate::wire::{self, Got};

impl World {
    /// A socket is accepted; `None` when the shard has no room for it.
    pub fn accept(&mut self, port: impl Into<Port>) -> Option<ConnectionId> {
        self.accept_from(port, PEER, b"", b"")
    }

    /// The same from another address. Before anything is read, `header` has come, before TLS too, and then what the client
    /// says.
    pub fn accept_from(
        &mut self,
        port: impl Into<Port>,
        peer: IpAddr,
        header: &[u8],
        says: &[u8],
    ) -> Option<ConnectionId> {
        self.accept_as(port.into(), peer, |socket| {
            socket.unread.extend(header);
            socket.say(says);
        })
    }

    /// The same, and nothing but these bytes comes, on a port with TLS either.
    pub fn accept_raw(&mut self, port: impl Into<Port>, peer: IpAddr, bytes: &[u8]) -> Option<ConnectionId> {
        self.accept_as(port.into(), peer, |socket| {
            socket.secure = None;
            socket.say(bytes);
        })
    }

    fn accept_as(
        &mut self,
        mut port: Port,
        peer: IpAddr,
        begin: impl FnOnce(&mut Socket),
    ) -> Option<ConnectionId> {
        port.tls |= self.over_tls;
        let id = self.shard.accepted(self.now, port, peer, &mut self.out);
        if let Some(id) = id {
            let mut socket = Socket::new(id, port);
            begin(&mut socket);
            self.sockets.insert(socket);
            self.readers.push_back(id);
        }
        self.settle();
        id
    }

    /// A client that may log in: on WebSocket the upgrade is done.
    ///
    /// # Panics
    /// It is refused.
    pub fn connect(&mut self, transport: Transport) -> ConnectionId {
        let id = self.accept(transport).expect("room for one more");
        if transport == Transport::WebSocket {
            self.send(id, &wire::upgrade("/sub", ""));
            assert_eq!(self.got(id), [Got::Http(101)]);
        }
        id
    }

    /// A client in the lobby.
    pub fn ask_login(&mut self, transport: Transport) -> ConnectionId {
        let id = self.connect(transport);
        self.say(id, 7, 1, b"{}");
        id
    }

    /// A client that is logged in, in place; the answer to its login is read already.
    ///
    /// # Panics
    /// The answer is not right.
    pub fn open(&mut self, transport: Transport, session: Session) -> ConnectionId {
        let id = self.ask_login(transport);
        self.verdict(id, Outcome::Open(session));
        assert_eq!(self.bytes(id), wire::reply(transport, &wire::frame(8, 1, b"")));
        self.said();
        id
    }

    /// The client sends bytes.
    ///
    /// # Panics
    /// It has ended its side.
    pub fn send(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        assert!(socket.ending.is_none(), "a client that ended its side sends nothing");
        socket.say(bytes);
        self.readers.push_back(id);
        self.settle();
    }

    /// The client sends bytes and ends its side, or breaks the connection, before any of it is read.
    pub fn send_and_leave(&mut self, id: ConnectionId, bytes: &[u8], lost: bool) {
        let socket = self.socket_mut(id);
        socket.say(bytes);
        socket.ending = Some(lost);
        self.readers.push_back(id);
        self.settle();
    }

    /// The client sends one frame, in a message of its own.
    pub fn say(&mut self, id: ConnectionId, op: i32, seq: i32, body: &[u8]) {
        let transport = self.socket(id).transport;
        self.send(id, &wire::sent(transport, &wire::frame(op, seq, body)));
    }

    /// The client ends its side, or breaks the connection.
    pub fn leave(&mut self, id: ConnectionId, lost: bool) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        socket.ending = socket.ending.or(Some(lost));
        self.readers.push_back(id);
        self.settle();
    }

    /// What the client got since the last look, byte for byte.
    pub fn bytes(&mut self, id: ConnectionId) -> Vec<u8> {
        std::mem::take(&mut self.socket_mut(id).inbox)
    }

    /// What the client got since the last look, read.
    pub fn got(&mut self, id: ConnectionId) -> Vec<Got> {
        let transport = self.socket(id).transport;
        wire::read(transport, &self.bytes(id))
    }

    /// What the client of a connection that is over got, for the last time.
    pub fn last_got(&mut self, id: ConnectionId) -> Option<Vec<Got>> {
        let at = self.over.iter().position(|socket| socket.id == id)?;
        let socket = self.over.remove(at);
        Some(wire::read(socket.transport, &socket.inbox))
    }

    /// The client takes the write under way, or, where not `complete`, only some of it and no more ever.
    pub fn take_write(&mut self, id: ConnectionId, complete: bool) {
        self.end_write(id, complete);
        self.settle();
    }

    /// The client stops reading, or reads again.
    pub fn stall(&mut self, id: ConnectionId, stalled: bool) {
        let socket = self.socket_mut(id);
        socket.stalled = stalled;
        if !stalled && socket.write.is_some() {
            self.writes.push_back(id);
            self.settle();
        }
    }
}
