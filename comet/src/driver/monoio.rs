//! The portable driver: one monoio runtime per shard, on io_uring or on epoll.
//!
//! Each connection has one task, which waits until its socket is readable without holding a buffer; all read into the
//! one buffer of the thread. A write is a task of its own for as long as it lasts, so that the writes of one turn are
//! submitted together.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    future::poll_fn,
    io,
    net::Shutdown,
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use contract::Transport;
use monoio::time::sleep;
use ring::{Listener, Socket, Turns, WakeReceiverSeed};
use rustix::time::{ClockId, clock_gettime};
use seam::Time;
use shard::{
    Action, Flow, FlushState, Outputs, Sent, Shard, ShardConfig,
    mail::{self, ConnectionId, Handover},
    queue::Run,
    wheel::TICK_MICROS,
};

use crate::{
    mail::{Attach, Descriptor, ToFront, ToShard},
    mailbox::{Receiver, Sender, ShardFlag, ShardSleeper, TaskWake},
};

/// Bytes read at once.
const READ_BUFFER: usize = 64 * 1024;

/// Writes handed to the kernel between two looks at everything else.
const SENDS_PER_TURN: usize = 1000;

/// Commands taken from the mailbox between two looks at everything else.
const MAIL_PER_TURN: usize = 1024;

/// Reads of one connection between two looks at everything else.
const READS_PER_TURN: u32 = 16;

/// Pause after an accept that failed for want of descriptors, and how far it grows.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A thread that did not come round for so long stood still (SIGSTOP, a virtual machine that moved). What its clients sent
/// meanwhile is read first, for this long, or they would be taken for silent.
const STOOD_STILL: Duration = Duration::from_secs(1);
const CATCH_UP: Duration = Duration::from_millis(500);

/// Free places in the queue to the front that are worth waking up for, once it was full.
const POST_AT_LEAST: usize = 256;

/// What a shard's thread is started with.
pub struct Plan {
    /// Number of the shard.
    pub index: u16,
    /// Its rules.
    pub config: ShardConfig,
    /// Its own listening sockets.
    pub listeners: Vec<(Transport, std::net::TcpListener)>,
    /// Commands of the front.
    pub inbox: Receiver<ToShard, ()>,
    /// Wakes the shard when it sleeps and there is something for it: a command, or room for its mail.
    pub flag: Arc<ShardFlag>,
    /// The flag's other end.
    pub wake: WakeReceiverSeed,
    /// Mail for the front.
    pub to_front: Sender<ToFront, TaskWake>,
}

/// Runs a shard in the monoio runtime of this thread, for ever.
///
/// # Errors
/// When the sockets cannot be registered with the runtime.
pub async fn run(plan: Plan) -> io::Result<()> {
    let now = Time::now();
    let turns = Turns::start()?;
    let bytes_per_turn = plan.config.queue_bytes_max as usize;
    let mut listeners = Vec::new();
    for (transport, listener) in plan.listeners {
        listeners.push((transport, Rc::new(Listener::from_std(listener, turns.clone())?)));
    }
    let reactor = Rc::new(Reactor {
        core: RefCell::new(Core {
            shard: Shard::new(plan.index, plan.config, now),
            out: Outputs::default(),
            mail: VecDeque::new(),
            to_front: plan.to_front,
            sockets: Vec::new(),
            held: HashMap::new(),
            cpu_micros: cpu_micros(),
            ticked: now,
            mailbox_depth: 0,
        }),
        read_buffer: RefCell::new(vec![0; READ_BUFFER]),
        turns,
        listeners: listeners.iter().map(|(_, listener)| Rc::clone(listener)).collect(),
        flush: Signal::default(),
        posted: Signal::default(),
    });
    for (transport, listener) in listeners {
        monoio::spawn(accept(Rc::clone(&reactor), transport, listener));
    }
    monoio::spawn(tick(Rc::clone(&reactor)));
    monoio::spawn(flush(Rc::clone(&reactor)));
    monoio::spawn(wake_front(Rc::clone(&reactor)));
    let sleeper = ShardSleeper::new(plan.flag, plan.wake)?;
    take_mail(reactor, plan.inbox, sleeper, bytes_per_turn).await
}

/// One shard's thread.
struct Reactor {
    core: RefCell<Core>,
    read_buffer: RefCell<Vec<u8>>,
    turns: Turns,
    listeners: Vec<Rc<Listener>>,
    /// There is something to flush.
    flush: Signal,
    /// There is mail in the queue to the front.
    posted: Signal,
}

struct Core {
    shard: Shard,
    out: Outputs,
    /// What the mailbox has had no place for yet: mail of the rules, and connections that leave, in their order.
    mail: VecDeque<ToFront>,
    to_front: Sender<ToFront, TaskWake>,
    /// By slot.
    sockets: Vec<Option<Rc<Socket>>>,
    /// Connections that are not read.
    held: HashMap<ConnectionId, Held>,
    cpu_micros: u64,
    ticked: Time,
    mailbox_depth: u64,
}

/// A reader that waits.
#[derive(Default)]
struct Held {
    released: Option<Released>,
    waker: Option<Waker>,
}

/// Why it waits no more.
enum Released {
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

impl Reactor {
    /// Tells the shard of something and carries out what it wants done.
    fn tell<T>(self: &Rc<Self>, event: impl FnOnce(&mut Core, Time) -> T) -> T {
        let mut core = self.core.borrow_mut();
        let now = Time::now();
        let result = event(&mut core, now);
        self.settle(&mut core, now);
        result
    }

    /// Carries out actions and hands mail to the front, until the shard wants no more.
    fn settle(self: &Rc<Self>, core: &mut Core, now: Time) {
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

    fn act(self: &Rc<Self>, core: &mut Core, now: Time, action: Action) {
        match action {
            Action::Send { id, run } => {
                if let Some(socket) = core.socket(id) {
                    monoio::spawn(send(Rc::clone(self), id, Rc::clone(socket), run, now));
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
                    core.out.mail.push_back(mail::ToFront::Abandoned(state.session));
                    let _ = socket.map(|socket| socket.shutdown(Shutdown::Both));
                }
            }
            Action::StopAccepting => self.listeners.iter().for_each(|listener| listener.stop()),
        }
    }

    /// A new socket, accepted or handed over, gets its task.
    fn serve(self: &Rc<Self>, core: &mut Core, id: ConnectionId, socket: Socket, held: bool) {
        let socket = Rc::new(socket);
        let slot = id.slot as usize;
        if core.sockets.len() <= slot {
            core.sockets.resize(slot + 1, None);
        }
        core.sockets[slot] = Some(Rc::clone(&socket));
        if held {
            core.held.insert(id, Held::default());
        }
        monoio::spawn(read(Rc::clone(self), id, socket, held));
    }

    fn attach(self: &Rc<Self>, attach: Attach) {
        let Attach { descriptor, state } = attach;
        let fd = match descriptor {
            Descriptor::Os(fd) => fd,
            #[cfg(feature = "sim")]
            Descriptor::Simulated(_) => return,
        };
        match Socket::adopt(fd) {
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

    /// Takes what has arrived on a socket.
    fn receive(self: &Rc<Self>, id: ConnectionId, socket: &Rc<Socket>) -> Step {
        let is_ours = |own: &Rc<Socket>| Rc::ptr_eq(own, socket);
        if !self.core.borrow().socket(id).is_some_and(is_ours) {
            return Step::End; // it was taken from here while this task was on its way
        }
        let mut buffer = self.read_buffer.borrow_mut();
        let received = socket.try_receive(&mut buffer);
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
                    match flow {
                        Flow::Login if socket.has_hung_up() => core.shard.hung_up(now, id, &mut core.out),
                        Flow::Login => core.shard.ask(now, id, socket.newest_bytes_age(), &mut core.out),
                        Flow::Read | Flow::Hold => {}
                    }
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

impl Core {
    fn socket(&self, id: ConnectionId) -> Option<&Rc<Socket>> {
        self.sockets.get(id.slot as usize)?.as_ref()
    }

    fn release(&mut self, id: ConnectionId, released: Released) {
        if let Some(held) = self.held.get_mut(&id) {
            held.released = Some(released);
            if let Some(waker) = held.waker.take() {
                waker.wake();
            }
        }
    }

    /// Mail waits and the queue has room for some of it. While it has none, the shard is woken when it has.
    fn may_post(&self) -> bool {
        !self.mail.is_empty() && self.to_front.has_space(POST_AT_LEAST)
    }

    /// Takes the mail of the rules, to send it or to put something behind it.
    fn take_mail(&mut self) {
        self.mail.extend(self.out.mail.drain(..).map(ToFront::Rules));
    }

    /// Moves mail into the queue to the front, as far as it goes. True: there was some, and the front is to be told.
    fn post(&mut self) -> bool {
        self.take_mail();
        let mut posted = false;
        while let Some(mail) = self.mail.pop_front() {
            match self.to_front.push(mail) {
                Ok(()) => posted = true,
                Err(mail) => {
                    self.mail.push_front(mail);
                    // Who sleeps with an empty hand has left no wish for room.
                    if !self.may_post() {
                        break;
                    }
                }
            }
        }
        self.out.waiting = self.mail.len();
        posted
    }
}

/// The task of one connection.
async fn read(reactor: Rc<Reactor>, id: ConnectionId, socket: Rc<Socket>, held: bool) {
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
                // What fails here fails in the read too, which tells why.
                let _ = socket.readable().await;
                step = reactor.receive(id, &socket);
            }
        }
    }
}

/// The task of one write, handed out at `since`.
async fn send(reactor: Rc<Reactor>, id: ConnectionId, socket: Rc<Socket>, run: Run, since: Time) {
    let Run { bytes, start, frames, accepted } = run;
    let (result, written) = socket.send(bytes, start).await;
    drop(socket);
    let sent = Sent { complete: result.is_ok(), written: written as u64, frames, accepted, since };
    reactor.tell(|core, now| core.shard.sent(now, id, sent, &mut core.out));
}

/// Hands a connection to the shard that owns its key.
fn detach(reactor: &Rc<Reactor>, socket: Rc<Socket>, to: u16, state: Handover) {
    let mail = match Socket::detach(socket) {
        Ok(fd) => ToFront::Moved { to, attach: Box::new(Attach { descriptor: Descriptor::Os(fd), state }) },
        // Cannot be: the shard detaches with nothing in flight. If it were, the session must not outlive the connection.
        Err(_) => mail::ToFront::Abandoned(state.session).into(),
    };
    reactor.tell(|core, _| {
        core.take_mail();
        core.mail.push_back(mail);
    });
}

async fn accept(reactor: Rc<Reactor>, transport: Transport, listener: Rc<Listener>) {
    let mut pause = ACCEPT_PAUSE;
    while let Some(accepted) = listener.accept().await {
        match accepted {
            Ok((socket, peer)) => {
                pause = ACCEPT_PAUSE;
                reactor.tell(|core, now| {
                    let peer = peer.ip().to_canonical();
                    if let Some(id) = core.shard.accepted(now, transport, peer, &mut core.out) {
                        reactor.serve(core, id, socket, false);
                    }
                });
            }
            Err(_) => {
                reactor.tell(|core, _| core.shard.accept_failed());
                sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

/// Takes the front's commands: all that wait, then the writes they led to, then sleep. A turn takes no more bytes of
/// pushes than may wait for one connection: more for a single client would be dropped before its first write was made,
/// however fast it reads.
async fn take_mail(
    reactor: Rc<Reactor>,
    mut inbox: Receiver<ToShard, ()>,
    mut sleeper: ShardSleeper,
    bytes_per_turn: usize,
) -> io::Result<()> {
    loop {
        let depth = inbox.depth();
        let mut bytes = 0;
        for mail in inbox.drain().take(MAIL_PER_TURN) {
            match mail {
                ToShard::Attach(attach) => reactor.attach(*attach),
                ToShard::Rules(mail) => {
                    let mut core = reactor.core.borrow_mut();
                    match &mail {
                        mail::ToShard::Verdict(verdict) => core.look_for_hang_up(verdict.id),
                        mail::ToShard::Look(id) => core.look_for_hang_up(*id),
                        mail::ToShard::Push(push) => bytes += push.encoded.bytes().len(),
                        _ => {}
                    }
                    let core = &mut *core;
                    core.shard.mail(Time::now(), mail, &mut core.out);
                }
            }
            if bytes >= bytes_per_turn {
                break;
            }
        }
        reactor.tell(|core, _| core.mailbox_depth = core.mailbox_depth.max(depth as u64));
        if inbox.is_empty() {
            sleeper.sleep_until(|| !inbox.is_empty() || reactor.core.borrow().may_post()).await?;
        } else {
            reactor.turns.next().await;
        }
    }
}

/// Writes what pushes left in the queues, so much a turn.
async fn flush(reactor: Rc<Reactor>) {
    loop {
        let state = reactor.tell(|core, now| core.shard.flush(now, SENDS_PER_TURN, &mut core.out));
        match state {
            FlushState::More => reactor.turns.next().await,
            FlushState::Wait(until) => sleep(until.since(Time::now())).await,
            FlushState::Idle => reactor.flush.wait().await,
        }
    }
}

/// Tells the front of its mail: once for all that the tasks of a turn posted, since waking it can cost more than an event.
async fn wake_front(reactor: Rc<Reactor>) {
    loop {
        reactor.posted.wait().await;
        reactor.core.borrow().to_front.notify();
    }
}

async fn tick(reactor: Rc<Reactor>) {
    loop {
        sleep(Duration::from_micros(TICK_MICROS)).await;
        if Time::now().since(reactor.core.borrow().ticked) >= STOOD_STILL {
            sleep(CATCH_UP).await;
        }
        reactor.tell(|core, now| {
            let cpu = cpu_micros();
            let elapsed = now.since(core.ticked).as_micros().max(1) as u64;
            let load = ((cpu - core.cpu_micros) * 1000 / elapsed).min(1000);
            (core.cpu_micros, core.ticked) = (cpu, now);
            core.shard.tick(now, load, core.mailbox_depth, &mut core.out);
            core.mailbox_depth = 0;
            core.watch_held();
        });
    }
}

impl Core {
    /// A client that hung up while its login was decided must not take its key from the connection it has made since.
    fn look_for_hang_up(&mut self, id: ConnectionId) {
        if self.shard.is_in_lobby(id) && self.socket(id).is_some_and(|socket| socket.has_hung_up()) {
            self.shard.hung_up(Time::now(), id, &mut self.out);
        }
    }

    /// A held connection that its client left is read on, to its end.
    fn watch_held(&mut self) {
        let gone: Vec<ConnectionId> = self
            .held
            .keys()
            .filter(|id| self.socket(**id).is_some_and(|socket| socket.has_hung_up()))
            .copied()
            .collect();
        for id in gone {
            self.release(id, Released::Read);
        }
    }
}

/// CPU time of this thread in microseconds.
fn cpu_micros() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

/// Wakes one task of the same thread; a signal set while nobody waits is kept.
#[derive(Default)]
struct Signal {
    set: Cell<bool>,
    waiting: Cell<Option<Waker>>,
}

impl Signal {
    fn set(&self) {
        self.set.set(true);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    async fn wait(&self) {
        poll_fn(|context| {
            if self.set.take() {
                return Poll::Ready(());
            }
            self.waiting.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await
    }
}
