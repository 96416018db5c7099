//! The fake sockets.

use std::{collections::VecDeque, time::Duration};

use contract::Transport;
use seam::Time;
use shard::{
    Port,
    mail::{ConnectionId, Handover},
    queue::Run,
};

use super::secure::Secure;
use crate::wire::{Heard, ServerStream};

/// What a fake socket and its client are at.
#[derive(Debug)]
pub struct Socket {
    /// Its name in the shard.
    pub id: ConnectionId,
    /// How its client came.
    pub transport: Transport,
    /// What the client got and nobody has looked at.
    pub(super) inbox: Vec<u8>,
    /// Every write that was taken, as it was handed out.
    pub runs: Vec<Run>,
    /// Its TLS, if it came to a port with it.
    pub(super) secure: Option<Box<Secure>>,
    /// What the client makes of it.
    stream: ServerStream,
    /// Its upgrade was refused.
    refused: bool,
    /// The write under way, and since when.
    pub(super) write: Option<(Run, Time)>,
    /// The client does not read: writes stay under way until [`World::take_write`](super::World::take_write).
    pub stalled: bool,
    /// What the client sent and the driver has not read.
    pub(super) unread: VecDeque<u8>,
    /// How the client's side ended, true when it broke.
    pub ending: Option<bool>,
    /// How long what the client sends lies in the kernel before it is read.
    pub age: Duration,
    pub(super) held: bool,
    pub(super) reading: bool,
    pub(super) ends_told: u32,
    /// Our side is shut.
    pub finished: bool,
    /// Both sides are shut, with a reset where true.
    pub shut: Option<bool>,
    /// The client keeps its side open although ours is shut.
    pub stubborn: bool,
}

impl Socket {
    pub(super) fn new(id: ConnectionId, Port { transport, tls, .. }: Port) -> Socket {
        Socket {
            id,
            transport,
            inbox: Vec::new(),
            runs: Vec::new(),
            secure: tls.then(|| Box::new(Secure::new())),
            stream: ServerStream::new(transport),
            refused: false,
            write: None,
            stalled: false,
            unread: VecDeque::new(),
            ending: None,
            age: Duration::ZERO,
            held: false,
            reading: true,
            ends_told: 0,
            finished: false,
            shut: None,
            stubborn: false,
        }
    }

    /// The client sends bytes, or what TLS makes of them.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        match &mut self.secure {
            Some(secure) => {
                secure.say(bytes);
                self.unread.extend(secure.sent());
            }
            None => self.unread.extend(bytes),
        }
    }

    /// The client takes a write, which has to consist of whole frames, and of whole messages.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let text = self.secure.as_mut().map(|secure| secure.take(bytes));
        let bytes = text.as_deref().unwrap_or(bytes);
        assert!(!self.refused || bytes.is_empty(), "{bytes:?} behind a refusal");
        let mut heard = Vec::new();
        self.stream.push(bytes, &mut heard).expect("what a server writes makes sense");
        assert!(!self.stream.has_partial(), "a write ends with something whole");
        self.refused = heard.iter().any(|(_, heard)| matches!(heard, Heard::Http(status) if *status != 101));
        self.inbox.extend_from_slice(bytes);
    }
}

/// A connection on its way to another shard.
#[derive(Debug)]
pub struct Detached {
    /// What it was named here.
    pub id: ConnectionId,
    /// The shard that owns its key.
    pub to: u16,
    /// What it is there.
    pub state: Box<Handover>,
    /// Its socket, which moves with it.
    pub socket: Socket,
}

/// The sockets of a world, each in the slot that the shard gave its connection: the same order in every run.
#[derive(Debug, Default)]
pub(super) struct Sockets(Vec<Option<Socket>>);

impl Sockets {
    pub(super) fn get(&self, id: ConnectionId) -> Option<&Socket> {
        self.0.get(id.slot as usize)?.as_ref().filter(|socket| socket.id == id)
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Socket> {
        self.0.get_mut(id.slot as usize)?.as_mut().filter(|socket| socket.id == id)
    }

    pub(super) fn insert(&mut self, socket: Socket) {
        let slot = socket.id.slot as usize;
        if self.0.len() <= slot {
            self.0.resize_with(slot + 1, || None);
        }
        let before = self.0[slot].replace(socket);
        assert!(before.is_none(), "{before:?} still has its slot");
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Socket> {
        self.0.get_mut(id.slot as usize)?.take_if(|socket| socket.id == id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Socket> {
        self.0.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Socket> {
        self.0.iter_mut().flatten()
    }

    pub(super) fn len(&self) -> usize {
        self.iter().count()
    }
}
