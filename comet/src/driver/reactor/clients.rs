//! One task for each client: it waits, reads, is held, leaves for another shard. And one for each listener.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::{Poll, Waker},
    time::Duration,
};

use ring::{Listener, Runtime, Socket};
use seam::Time;
use shard::{
    Flow, Port,
    mail::{self, ConnectionId, Handover},
};

use super::{Core, Reactor};
use crate::mail::{Attach, Descriptor, ToFront};

/// Reads of one connection between two looks at everything else.
const READS_PER_TURN: u32 = 16;

/// Pause after an accept that failed for want of descriptors, and how far it grows.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A reader that waits.
#[derive(Default)]
pub(super) struct Held {
    released: Option<Released>,
    waker: Option<Waker>,
}

/// Why it waits no more.
pub(super) enum Released {
    /// Read on.
    Read,
    /// Hand the connection over.
    Detach { to: u16, state: Box<Handover> },
}

/// What a reader does next.
enum Step {
    Wait,
    Read,
    End,
}

impl<R: Runtime> Reactor<R> {
    /// A new socket, accepted or handed over, gets its task.
    fn serve(self: &Rc<Self>, core: &mut Core<R>, id: ConnectionId, socket: R::Socket, held: bool) {
        let socket = Rc::new(socket);
        let slot = id.slot as usize;
        if core.sockets.len() <= slot {
            core.sockets.resize(slot + 1, None);
        }
        core.sockets[slot] = Some(Rc::clone(&socket));
        if held {
            core.held.insert(id, Held::default());
        }
        R::spawn(read(Rc::clone(self), id, socket, held));
    }

    pub(super) fn attach(self: &Rc<Self>, attach: Attach) {
        let Attach { descriptor, state } = attach;
        let Some(fd) = descriptor.os() else { return };
        match R::Socket::adopt(fd) {
            // Whoever hung up meanwhile must not take the key from the connection it has made since.
            Ok(socket) if socket.has_hung_up() => {
                self.tell(|core, _| core.shard.left_on_the_way(state, &mut core.out))
            }
            Ok(socket) => self.tell(|core, now| {
                // What the commands before asked for comes first: the new connection may get the slot that one of them
                // freed.
                self.settle(core, now);
                let id = core.shard.attached(now, state, &mut core.out);
                self.serve(core, id, socket, true);
            }),
            // The kernel has no room for it: the session ends with the connection.
            Err(_) => self.tell(|core, _| core.shard.left_on_the_way(state, &mut core.out)),
        }
    }

    /// Tells the shard what a socket received, which is in the buffer still.
    fn received(
        self: &Rc<Self>,
        id: ConnectionId,
        socket: &Rc<R::Socket>,
        received: io::Result<usize>,
    ) -> Step {
        let is_ours = |own: &Rc<R::Socket>| Rc::ptr_eq(own, socket);
        if !self.core.borrow().socket(id).is_some_and(is_ours) {
            return Step::End; // it was taken from here while this task was on its way
        }
        let mut buffer = self.read_buffer.borrow_mut();
        self.tell(|core, now| match received {
            Ok(0) => {
                core.shard.input_ended(now, id, false, &mut core.out);
                Step::End
            }
            Ok(bytes) => match core.shard.received(now, id, &mut buffer[..bytes], &mut core.out) {
                Flow::Read => Step::Read,
                flow => {
                    // Before the actions are carried out: one of them may release it already.
                    core.held.insert(id, Held::default());
                    self.hold(core, now, id, socket, flow);
                    Step::Wait
                }
            },
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Step::Read
            }
            Err(_) => {
                core.shard.input_ended(now, id, true, &mut core.out);
                Step::End
            }
        })
    }

    /// What a held connection is held for.
    pub(super) fn hold(
        &self,
        core: &mut Core<R>,
        now: Time,
        id: ConnectionId,
        socket: &R::Socket,
        flow: Flow,
    ) {
        match flow {
            Flow::Login if socket.has_hung_up() => core.shard.hung_up(now, id, &mut core.out),
            Flow::Login => core.shard.ask(now, id, socket.newest_bytes_age(), &mut core.out),
            Flow::Handshake => {
                core.handshakes.push_back(id);
                self.handshake.set();
            }
            Flow::Read | Flow::Hold => {}
        }
    }

    /// Waits until a held connection is released.
    async fn released(&self, id: ConnectionId) -> Released {
        poll_fn(|context| {
            let mut core = self.core.borrow_mut();
            let Some(held) = core.held.get_mut(&id) else { return Poll::Ready(Released::Read) };
            match held.released.take() {
                Some(released) => {
                    core.held.remove(&id);
                    Poll::Ready(released)
                }
                None => {
                    held.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// The task of one connection.
async fn read<R: Runtime>(reactor: Rc<Reactor<R>>, id: ConnectionId, socket: Rc<R::Socket>, held: bool) {
    let mut step = if held { Step::Wait } else { Step::Read };
    let mut reads = 0;
    loop {
        match step {
            Step::End => return,
            Step::Wait => match reactor.released(id).await {
                Released::Read => step = Step::Read,
                Released::Detach { to, state } => return detach(&reactor, socket, to, *state),
            },
            Step::Read => {
                reads += 1;
                if reads % READS_PER_TURN == 0 {
                    reactor.turns.next().await;
                }
                let received = socket.receive(&reactor.read_buffer).await;
                step = reactor.received(id, &socket, received);
            }
        }
    }
}

/// Hands a connection to the shard that owns its key.
fn detach<R: Runtime>(reactor: &Rc<Reactor<R>>, socket: Rc<R::Socket>, to: u16, state: Handover) {
    let mail = match R::Socket::detach(socket) {
        Ok(fd) => ToFront::Moved { to, attach: Box::new(Attach { descriptor: Descriptor::Os(fd), state }) },
        // No descriptor is left where the runtime needs one; nothing is in flight here. The session must not outlive the
        // connection.
        Err(_) => mail::ToFront::Abandoned(state.session).into(),
    };
    reactor.tell(|core, _| {
        core.take_mail();
        core.mail.push_back(mail);
    });
}

/// The task of one listener.
pub(super) async fn accept<R: Runtime>(reactor: Rc<Reactor<R>>, port: Port, listener: Rc<Listener<R>>) {
    let mut pause = ACCEPT_PAUSE;
    while let Some(accepted) = listener.accept().await {
        match accepted {
            Ok((socket, peer)) => {
                pause = ACCEPT_PAUSE;
                reactor.tell(|core, now| {
                    let peer = peer.ip().to_canonical();
                    if let Some(id) = core.shard.accepted(now, port, peer, &mut core.out) {
                        reactor.serve(core, id, socket, false);
                    }
                });
            }
            Err(_) => {
                reactor.tell(|core, _| core.shard.accept_failed());
                R::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

impl<R: Runtime> Core<R> {
    pub(super) fn socket(&self, id: ConnectionId) -> Option<&Rc<R::Socket>> {
        self.sockets.get(id.slot as usize)?.as_ref()
    }

    /// Whether its reader waits.
    pub(super) fn is_held(&self, id: ConnectionId) -> bool {
        self.held.get(&id).is_some_and(|held| held.released.is_none())
    }

    pub(super) fn release(&mut self, id: ConnectionId, released: Released) {
        if let Some(held) = self.held.get_mut(&id) {
            held.released = Some(released);
            if let Some(waker) = held.waker.take() {
                waker.wake();
            }
        }
    }
}
