//! The driver over a runtime: one thread per shard, compiled for each [`Runtime`] that it is used with.
//!
//! Each connection has one task, which waits until its socket is readable without holding a buffer; all read into the
//! one buffer of the thread. A write is a task of its own for as long as it lasts, so that a runtime that submits writes
//! can submit those of one turn together.
//!
//! - `clients`: accepting, reading, holding, handing over.
//! - `handshakes`: those of TLS, some in each turn.
//! - `mail`: commands of the front in, mail for it out.
//! - `writes`: runs out to the kernel.
//! - `clock`: what passes with time.
//! - `signal`: one task of the thread wakes another.

mod clients;
mod clock;
mod handshakes;
mod mail;
mod signal;
mod writes;

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    io,
    net::Shutdown,
    rc::Rc,
    sync::Arc,
};

use ring::{Listener, Runtime, Socket, Turns, WakeReceiverSeed};
use seam::{RandomState, Time};
use shard::{Action, Outputs, Port, Shard, ShardConfig, mail::ConnectionId};

use self::{
    clients::{Held, Released},
    signal::Signal,
};
use crate::{
    mail::{ToFront, ToShard},
    mailbox::{Receiver, Sender, ShardFlag, ShardSleeper, TaskWake},
};

/// Bytes read at once.
const READ_BUFFER: usize = 64 * 1024;

/// What a shard's thread is started with.
pub struct Plan {
    /// Number of the shard.
    pub index: u16,
    /// Its rules.
    pub config: ShardConfig,
    /// Its own listening sockets.
    pub listeners: Vec<(Port, std::net::TcpListener)>,
    /// Commands of the front.
    pub inbox: Receiver<ToShard, ()>,
    /// Wakes the shard when it sleeps and there is something for it: a command, or room for its mail.
    pub flag: Arc<ShardFlag>,
    /// The flag's other end.
    pub wake: WakeReceiverSeed,
    /// Mail for the front.
    pub to_front: Sender<ToFront, TaskWake>,
}

/// Runs a shard in the runtime of this thread, for ever.
///
/// # Errors
/// When the sockets cannot be registered with the runtime.
pub async fn run<R: Runtime>(plan: Plan) -> io::Result<()> {
    let now = Time::now();
    let turns = Turns::start::<R>()?;
    let bytes_per_turn = plan.config.queue_bytes_max as usize;
    let mut listeners = Vec::new();
    for (port, listener) in plan.listeners {
        listeners.push((port, Rc::new(Listener::<R>::from_std(listener, turns.clone())?)));
    }
    let reactor = Rc::new(Reactor {
        core: RefCell::new(Core {
            shard: Shard::new(plan.index, plan.config, now),
            out: Outputs::default(),
            mail: VecDeque::new(),
            to_front: plan.to_front,
            sockets: Vec::new(),
            held: HashMap::default(),
            handshakes: VecDeque::new(),
            cpu_micros: clock::cpu_micros(),
            ticked: now,
            mailbox_depth: 0,
        }),
        read_buffer: RefCell::new(vec![0; READ_BUFFER]),
        turns,
        listeners: listeners.iter().map(|(_, listener)| Rc::clone(listener)).collect(),
        flush: Signal::default(),
        handshake: Signal::default(),
        posted: Signal::default(),
    });
    for (port, listener) in listeners {
        R::spawn(clients::accept(Rc::clone(&reactor), port, listener));
    }
    R::spawn(handshakes::take(Rc::clone(&reactor)));
    R::spawn(clock::tick(Rc::clone(&reactor)));
    R::spawn(writes::flush(Rc::clone(&reactor)));
    R::spawn(mail::wake_front(Rc::clone(&reactor)));
    let sleeper = ShardSleeper::new(plan.flag, plan.wake)?;
    mail::take(reactor, plan.inbox, sleeper, bytes_per_turn).await
}

/// One shard's thread.
struct Reactor<R: Runtime> {
    core: RefCell<Core<R>>,
    read_buffer: RefCell<Vec<u8>>,
    turns: Turns,
    listeners: Vec<Rc<Listener<R>>>,
    /// There is something to flush.
    flush: Signal,
    /// There is a TLS handshake to take further.
    handshake: Signal,
    /// There is mail in the queue to the front.
    posted: Signal,
}

struct Core<R: Runtime> {
    shard: Shard,
    out: Outputs,
    /// What the mailbox has had no place for yet: mail of the rules, and connections that leave, in their order.
    mail: VecDeque<ToFront>,
    to_front: Sender<ToFront, TaskWake>,
    /// By slot.
    sockets: Vec<Option<Rc<R::Socket>>>,
    /// Connections that are not read.
    held: HashMap<ConnectionId, Held, RandomState>,
    /// Held connections whose TLS handshake is to be taken further, in the order in which they came.
    handshakes: VecDeque<ConnectionId>,
    cpu_micros: u64,
    ticked: Time,
    mailbox_depth: u64,
}

impl<R: Runtime> Reactor<R> {
    /// Tells the shard of something and carries out what it wants done.
    fn tell<T>(self: &Rc<Self>, event: impl FnOnce(&mut Core<R>, Time) -> T) -> T {
        let mut core = self.core.borrow_mut();
        let now = Time::now();
        let result = event(&mut core, now);
        self.settle(&mut core, now);
        result
    }

    /// Carries out actions and hands mail to the front, until the shard wants no more.
    fn settle(self: &Rc<Self>, core: &mut Core<R>, now: Time) {
        loop {
            let mut actions = std::mem::take(&mut core.out.actions);
            for action in actions.drain(..) {
                self.act(core, now, action);
            }
            core.out.actions = actions;
            if core.post() {
                self.posted.set();
            }
            if !core.mail.is_empty() || !core.shard.is_congested() {
                break;
            }
            core.shard.mail_taken(now, &mut core.out);
        }
        if core.shard.wants_flush() {
            self.flush.set();
        }
    }

    fn act(self: &Rc<Self>, core: &mut Core<R>, now: Time, action: Action) {
        match action {
            Action::Send { id, run } => {
                if let Some(socket) = core.socket(id) {
                    R::spawn(writes::send(Rc::clone(self), id, Rc::clone(socket), run, now));
                }
            }
            Action::Resume { id } => core.release(id, Released::Read),
            // Both fail only when the peer has reset the connection, which its reader sees. It reads on in any case.
            Action::Finish { id } => {
                let _ = core.socket(id).map(|socket| socket.shutdown(Shutdown::Write));
                core.release(id, Released::Read);
            }
            Action::Shut { id, reset } => {
                if let Some(socket) = core.socket(id) {
                    if reset {
                        let _ = socket.set_reset_on_close();
                    }
                    let _ = socket.shutdown(Shutdown::Both);
                }
                core.release(id, Released::Read);
            }
            Action::Release { id } => {
                core.sockets[id.slot as usize] = None;
                core.held.remove(&id);
            }
            Action::Detach { id, to, state } => {
                let socket = core.sockets[id.slot as usize].take();
                if core.held.contains_key(&id) {
                    core.release(id, Released::Detach { to, state });
                } else {
                    // Its reader was let go to see a hang-up: the client has left.
                    core.out.mail.push_back(shard::mail::ToFront::Abandoned(state.session));
                    let _ = socket.map(|socket| socket.shutdown(Shutdown::Both));
                }
            }
            Action::StopAccepting => self.listeners.iter().for_each(|listener| listener.stop()),
        }
    }
}
