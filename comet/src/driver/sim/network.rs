//! The sockets of a simulation: two bounded buffers each, and everything that goes wrong between them.

use std::{collections::VecDeque, io, net::IpAddr};

use seam::{Random, Time};
use shard::Port;

/// Names one socket of a [`Network`]. It is what [`Descriptor::Simulated`](crate::mail::Descriptor) holds.
pub type SocketId = u64;

/// How often, in a thousand, the network does what a program may not rely on it not to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A read of fewer bytes than have arrived.
    pub short_read: u32,
    /// A write of fewer bytes than there is room for.
    pub short_write: u32,
    /// A read or a write that finds nothing to do, although it was said that there was.
    pub again: u32,
}

/// What went wrong so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// Short reads.
    pub short_reads: u64,
    /// Short writes.
    pub short_writes: u64,
    /// Reads and writes that were answered with EAGAIN.
    pub again: u64,
    /// Writes for which there was no room left, or not enough: the client does not read.
    pub full: u64,
    /// Connections that were reset by the client.
    pub resets: u64,
    /// Writes that failed.
    pub failed_writes: u64,
    /// Bytes written after the client had closed its socket, which the kernel takes and nobody gets.
    pub into_the_void: u64,
}

/// What a client finds when it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientRead {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The server has ended its side.
    End,
    /// The connection is broken.
    Reset,
}

/// All sockets of a simulation.
pub struct Network {
    sockets: Vec<Socket>,
    /// Connections that nobody has accepted, per shard.
    backlog: Vec<VecDeque<SocketId>>,
    /// Shards that have closed their listeners.
    deaf: Vec<bool>,
    /// Sockets a shard should look at, per shard.
    changed: Vec<Vec<SocketId>>,
    /// Sockets their client should look at.
    arrived: Vec<SocketId>,
    faults: Faults,
    random: Random,
    /// What went wrong so far.
    pub injected: Injected,
}

struct Socket {
    port: Port,
    /// Where it comes from.
    peer: IpAddr,
    /// Client to server.
    up: VecDeque<u8>,
    /// Server to client.
    down: VecDeque<u8>,
    /// When the client last sent something.
    newest: Time,
    /// Bytes that `down` takes.
    room: u32,
    /// The shard that has it, or whose backlog it stands in.
    shard: u16,
    /// Its slot there.
    slot: u32,
    /// The client will send nothing more.
    client_ended: bool,
    /// The client has closed its socket: what comes now is answered with a reset.
    client_gone: bool,
    reset: bool,
    /// The server will send nothing more.
    server_ended: bool,
    /// The server has shut both ways.
    server_shut: bool,
    /// The server has closed its descriptor.
    closed: bool,
    is_changed: bool,
    is_arrived: bool,
}

impl Network {
    /// Nobody is connected to any of `shards` shards.
    pub fn new(shards: usize, faults: Faults, random: Random) -> Network {
        Network {
            sockets: Vec::new(),
            backlog: vec![VecDeque::new(); shards],
            deaf: vec![false; shards],
            changed: vec![Vec::new(); shards],
            arrived: Vec::new(),
            faults,
            random,
            injected: Injected::default(),
        }
    }

    /// From now on this goes wrong.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Sockets so far.
    pub fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// Makes room for so many more; and the bytes that a socket takes here.
    pub fn reserve(&mut self, sockets: usize) -> usize {
        self.sockets.reserve_exact(sockets);
        size_of::<Socket>()
    }

    /// Sockets whose descriptor the server has not closed, those in a backlog included.
    pub fn open(&self) -> usize {
        self.sockets.iter().filter(|socket| !socket.closed).count()
    }

    // The client's side.

    /// A client connects to the listener of a shard; `room` bytes fit into the buffers on its way.
    pub fn connect(&mut self, shard: u16, port: impl Into<Port>, peer: IpAddr, room: u32) -> SocketId {
        let socket = self.sockets.len() as SocketId;
        self.sockets.push(Socket {
            port: port.into(),
            peer,
            up: VecDeque::new(),
            down: VecDeque::new(),
            newest: Time::now(),
            room,
            shard,
            slot: 0,
            client_ended: false,
            client_gone: false,
            reset: false,
            server_ended: false,
            server_shut: false,
            closed: false,
            is_changed: false,
            is_arrived: false,
        });
        self.backlog[usize::from(shard)].push_back(socket);
        if self.deaf[usize::from(shard)] {
            self.stop_listening(shard);
        }
        socket
    }

    /// The client sends; what a server that has gone away does not read is lost.
    pub fn client_write(&mut self, socket: SocketId, bytes: &[u8]) {
        let own = self.at(socket);
        if !own.closed && !own.reset && !own.client_ended {
            own.up.extend(bytes);
            own.newest = Time::now();
            self.tell_server(socket);
        }
    }

    /// The client takes up to `max` bytes of what has arrived.
    pub fn client_read(&mut self, socket: SocketId, max: usize, into: &mut Vec<u8>) -> ClientRead {
        let own = self.at(socket);
        if own.reset {
            return ClientRead::Reset;
        }
        let count = max.min(own.down.len());
        if count == 0 {
            return if own.server_ended || own.server_shut { ClientRead::End } else { ClientRead::Nothing };
        }
        into.extend(own.down.drain(..count));
        if own.down.is_empty() {
            own.down = VecDeque::new();
        }
        self.tell_server(socket);
        ClientRead::Bytes(count)
    }

    /// The client ends its side and reads on.
    pub fn client_end(&mut self, socket: SocketId) {
        self.at(socket).client_ended = true;
        self.tell_server(socket);
    }

    /// The client closes its socket.
    pub fn client_close(&mut self, socket: SocketId) {
        let own = self.at(socket);
        (own.client_ended, own.client_gone) = (true, true);
        own.down = VecDeque::new();
        self.tell_server(socket);
    }

    /// The connection is reset by the client or on its way.
    pub fn client_reset(&mut self, socket: SocketId) {
        self.injected.resets += 1;
        self.break_off(socket);
    }

    /// Sockets with something new for their clients, each once.
    pub fn take_arrived(&mut self) -> Vec<SocketId> {
        let arrived = std::mem::take(&mut self.arrived);
        for socket in &arrived {
            self.at(*socket).is_arrived = false;
        }
        arrived
    }

    // The driver's side.

    pub(super) fn accept(&mut self, shard: u16) -> Option<SocketId> {
        self.backlog[usize::from(shard)].pop_front()
    }

    pub(super) fn has_backlog(&self, shard: u16) -> bool {
        !self.backlog[usize::from(shard)].is_empty()
    }

    /// The listener is gone: who waits, or comes later, is reset.
    pub(super) fn stop_listening(&mut self, shard: u16) {
        self.deaf[usize::from(shard)] = true;
        while let Some(socket) = self.accept(shard) {
            self.close(socket);
        }
    }

    pub(super) fn client(&self, socket: SocketId) -> (Port, IpAddr) {
        let own = &self.sockets[socket as usize];
        (own.port, own.peer)
    }

    /// From now on this shard is told of what happens to it.
    pub(super) fn adopt(&mut self, shard: u16, slot: u32, socket: SocketId) {
        let own = self.at(socket);
        (own.shard, own.slot, own.is_changed) = (shard, slot, false);
        self.tell_server(socket);
    }

    pub(super) fn slot(&self, socket: SocketId) -> u32 {
        self.sockets[socket as usize].slot
    }

    /// Sockets that a shard should look at, each once.
    pub(super) fn take_changed(&mut self, shard: u16) -> Vec<SocketId> {
        let changed = std::mem::take(&mut self.changed[usize::from(shard)]);
        for socket in &changed {
            self.at(*socket).is_changed = false;
        }
        changed
    }

    /// A read would not wait.
    pub(super) fn is_readable(&self, socket: SocketId) -> bool {
        let own = &self.sockets[socket as usize];
        !own.up.is_empty() || own.client_ended || own.reset || own.server_shut
    }

    /// A write would not wait.
    pub(super) fn is_writable(&self, socket: SocketId) -> bool {
        let own = &self.sockets[socket as usize];
        own.down.len() < own.room as usize || own.client_gone || own.reset || own.server_shut
    }

    pub(super) fn has_hung_up(&self, socket: SocketId) -> bool {
        let own = &self.sockets[socket as usize];
        own.client_ended || own.reset
    }

    /// When the newest of the client's bytes came.
    pub(super) fn newest_bytes(&self, socket: SocketId) -> Time {
        self.sockets[socket as usize].newest
    }

    pub(super) fn receive(&mut self, socket: SocketId, buffer: &mut [u8]) -> io::Result<usize> {
        let again = self.random.per_mille(self.faults.again);
        let own = &mut self.sockets[socket as usize];
        if own.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if again {
            self.injected.again += 1;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut count = own.up.len().min(buffer.len());
        if count == 0 {
            let ended = own.client_ended || own.server_shut;
            return if ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        if count > 1 && self.random.per_mille(self.faults.short_read) {
            count = 1 + self.random.below(count - 1);
            self.injected.short_reads += 1;
        }
        buffer.iter_mut().zip(own.up.drain(..count)).for_each(|(to, from)| *to = from);
        if own.up.is_empty() {
            own.up = VecDeque::new();
        }
        Ok(count)
    }

    pub(super) fn send(&mut self, socket: SocketId, bytes: &[u8]) -> io::Result<usize> {
        let again = self.random.per_mille(self.faults.again);
        let own = &mut self.sockets[socket as usize];
        if own.reset || own.server_ended || own.server_shut {
            self.injected.failed_writes += 1;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if own.client_gone {
            // The kernel takes it; the answer is a reset.
            self.injected.into_the_void += bytes.len() as u64;
            self.break_off(socket);
            return Ok(bytes.len());
        }
        if again {
            self.injected.again += 1;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut count = bytes.len().min(own.room as usize - own.down.len());
        self.injected.full += u64::from(count < bytes.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if count > 1 && self.random.per_mille(self.faults.short_write) {
            count = 1 + self.random.below(count - 1);
            self.injected.short_writes += 1;
        }
        own.down.extend(&bytes[..count]);
        self.tell_client(socket);
        Ok(count)
    }

    pub(super) fn end(&mut self, socket: SocketId) {
        self.at(socket).server_ended = true;
        self.tell_client(socket);
    }

    pub(super) fn shut(&mut self, socket: SocketId) {
        self.at(socket).server_shut = true;
        self.tell_client(socket);
        self.tell_server(socket);
    }

    /// The descriptor is closed, with a reset when asked for or when the client said things nobody has read.
    ///
    /// # Panics
    /// When it is closed twice: by then the number may be another connection's.
    pub(super) fn close(&mut self, socket: SocketId) {
        let own = self.at(socket);
        assert!(
            !std::mem::replace(&mut own.closed, true),
            "the descriptor of socket {socket} is closed twice"
        );
        own.server_shut = true;
        if !own.up.is_empty() {
            self.break_off(socket);
        }
        self.tell_client(socket);
    }

    /// The server gives the connection up without a word.
    pub(super) fn break_off(&mut self, socket: SocketId) {
        let own = self.at(socket);
        own.reset = true;
        (own.up, own.down) = (VecDeque::new(), VecDeque::new());
        self.tell_server(socket);
        self.tell_client(socket);
    }

    fn tell_server(&mut self, socket: SocketId) {
        let own = self.at(socket);
        if !own.closed && !std::mem::replace(&mut own.is_changed, true) {
            let shard = usize::from(own.shard);
            self.changed[shard].push(socket);
        }
    }

    fn tell_client(&mut self, socket: SocketId) {
        if !std::mem::replace(&mut self.at(socket).is_arrived, true) {
            self.arrived.push(socket);
        }
    }

    fn at(&mut self, socket: SocketId) -> &mut Socket {
        &mut self.sockets[socket as usize]
    }
}
