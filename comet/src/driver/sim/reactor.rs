//! One simulated shard: what [`super::super::reactor`] does with tasks, one step at a time.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    sync::Arc,
};

use ring::WakeReceiverSeed;
use seam::{Random, Time};
use shard::{
    Action, Flow, FlushState, Outputs, Run, Sent, Shard, ShardConfig,
    mail::{self, ConnectionId, Handover},
    wheel::TICK_MICROS,
};

use super::{
    event::{Event, Watch},
    network::{Network, SocketId},
};
use crate::{
    mail::{Attach, Descriptor, ToFront, ToShard},
    mailbox::{Receiver, Sender, ShardFlag, TaskWake},
};

/// Bytes read at once.
const READ_BUFFER: usize = 64 * 1024;

/// Commands taken from the mailbox in one step at most.
const MAIL_PER_TURN: usize = 1024;

/// Free places in the queue to the front that are worth waking up for, once it was full; fewer in a small queue.
const POST_AT_LEAST: usize = 256;

/// What a simulated shard is made of.
pub struct Plan {
    /// Number of the shard.
    pub index: u16,
    /// Its rules.
    pub config: ShardConfig,
    /// Commands of the front.
    pub inbox: Receiver<ToShard, ()>,
    /// Wakes the shard when it sleeps and there is something for it.
    pub flag: Arc<ShardFlag>,
    /// The flag's other end.
    pub wake: WakeReceiverSeed,
    /// Mail for the front.
    pub to_front: Sender<ToFront, TaskWake>,
    /// Writes between two looks at everything else.
    pub sends_per_turn: usize,
}

/// What a step may use.
pub struct Turn<'a> {
    /// The time.
    pub now: Time,
    /// The sockets.
    pub network: &'a mut Network,
    /// Decides what is next.
    pub schedule: &'a mut Random,
    /// Sees it.
    pub watch: &'a mut dyn Watch,
}

/// One simulated shard.
pub struct Reactor {
    index: u16,
    shard: Shard,
    out: Outputs,
    /// What the mailbox has had no place for yet.
    outgoing: VecDeque<ToFront>,
    inbox: Receiver<ToShard, ()>,
    flag: Arc<ShardFlag>,
    wake: WakeReceiverSeed,
    to_front: Sender<ToFront, TaskWake>,
    sends_per_turn: usize,
    bytes_per_turn: usize,
    /// By slot.
    places: Vec<Option<Place>>,
    /// Slots of the connections that are not read.
    held: BTreeSet<u32>,
    /// The connection that arrives from another shard just now, or did last.
    attaching: SocketId,
    /// What could be done now.
    tasks: Vec<Task>,
    mail: MailTask,
    /// There is mail in the queue of which the front has not been told.
    posted: bool,
    mailbox_depth: u64,
    flush_at: Option<Time>,
    next_tick: Time,
    listening: bool,
    read_buffer: Vec<u8>,
    full: u64,
}

/// A connection as the driver has it.
struct Place {
    id: ConnectionId,
    socket: SocketId,
    /// Its reading has not ended.
    reading: bool,
    /// It is not read for now.
    held: bool,
    write: Option<Write>,
    read_waits: bool,
    write_waits: bool,
}

struct Write {
    run: Run,
    done: usize,
    since: Time,
}

enum Task {
    Read(ConnectionId),
    Write(ConnectionId),
    Handshake(ConnectionId),
    Detach(SocketId, u16, Box<Handover>),
}

/// Where the task that takes the front's mail stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MailTask {
    Awake,
    /// It found nothing to do and is about to announce its sleep: others may get in between.
    Drowsy,
    Asleep,
}

impl Reactor {
    /// An empty shard.
    pub fn new(plan: Plan, now: Time) -> Reactor {
        let Plan { index, config, inbox, flag, wake, to_front, sends_per_turn } = plan;
        Reactor {
            index,
            bytes_per_turn: config.queue_bytes_max as usize,
            shard: Shard::new(index, config, now),
            out: Outputs::default(),
            outgoing: VecDeque::new(),
            inbox,
            flag,
            wake,
            to_front,
            sends_per_turn,
            places: Vec::new(),
            held: BTreeSet::new(),
            attaching: 0,
            tasks: Vec::new(),
            mail: MailTask::Awake,
            posted: false,
            mailbox_depth: 0,
            flush_at: None,
            next_tick: now.after(std::time::Duration::from_micros(TICK_MICROS)),
            listening: true,
            read_buffer: vec![0; READ_BUFFER],
            full: 0,
        }
    }

    /// The rules.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Bytes that a connection takes in this driver.
    pub const fn own_bytes() -> usize {
        size_of::<Option<Place>>()
    }

    /// How often a queue was found full: that to the front for any mail, that from it for pushes.
    pub fn full(&self) -> u64 {
        self.full
    }

    /// Commands that wait, and mail that waits: in the queue and before it.
    pub fn waiting(&self) -> (usize, usize, usize) {
        (self.inbox.depth(), self.to_front.depth(), self.outgoing.len())
    }

    /// Mail of which the front was told waits in the queue.
    pub fn front_is_told(&self) -> bool {
        !self.posted && self.to_front.depth() > 0
    }

    /// The task that takes the mail sleeps, nobody has woken it, and there is something for it: a wake was lost.
    pub fn sleeps_on_work(&mut self) -> bool {
        self.wake_up();
        self.mail == MailTask::Asleep && self.has_work()
    }

    /// The task that takes the mail is woken, if somebody woke it. Without work for it the look costs a system call and
    /// finds nothing.
    fn wake_up(&mut self) {
        if self.mail == MailTask::Asleep && self.has_work() && self.wake.try_take() {
            self.flag.awake();
            self.mail = MailTask::Awake;
        }
    }

    /// Does one of the things that can be done now; false when there is none.
    pub fn step(&mut self, turn: &mut Turn<'_>) -> bool {
        self.notice(turn);
        let accepts = self.listening && turn.network.has_backlog(self.index);
        self.wake_up();
        let mails = self.mail != MailTask::Asleep;
        let flushes = self.shard.wants_flush() && self.flush_at.is_none_or(|at| at <= turn.now);
        let ticks = self.next_tick <= turn.now;
        let always = [accepts, mails, flushes, ticks, self.posted];
        let others = always.iter().filter(|possible| **possible).count();
        if others + self.tasks.len() == 0 {
            return false;
        }
        let chosen = turn.schedule.below(others + self.tasks.len());
        match always.iter().enumerate().filter(|(_, possible)| **possible).nth(chosen).map(|(which, _)| which)
        {
            Some(0) => self.accept(turn),
            Some(1) => self.take_mail(turn),
            Some(2) => self.flush(turn),
            Some(3) => self.tick(turn),
            Some(_) => self.wake_front(),
            None => match self.tasks.swap_remove(chosen - others) {
                Task::Read(id) => self.read(turn, id),
                Task::Write(id) => self.write(turn, id),
                Task::Handshake(id) => self.handshake(turn, id),
                Task::Detach(socket, to, state) => self.detach(turn, socket, to, *state),
            },
        }
        true
    }

    /// Tells the shard of something.
    fn tell<T>(&mut self, turn: &mut Turn<'_>, event: impl FnOnce(&mut Shard, &mut Outputs) -> T) -> T {
        let before = self.out.mail.len();
        let result = event(&mut self.shard, &mut self.out);
        for mail in self.out.mail.range(before..) {
            turn.watch.event(turn.now, self.index, Event::Said(mail));
        }
        for id in self.shard.take_read() {
            // One that is just being attached has no place yet.
            let socket = self.place(id).map_or(self.attaching, |place| place.socket);
            self.say(turn, Event::Read(socket));
        }
        for id in self.shard.take_heard() {
            let socket = self.place(id).map_or(self.attaching, |place| place.socket);
            self.say(turn, Event::Heard(socket));
        }
        result
    }

    fn say(&mut self, turn: &mut Turn<'_>, event: Event<'_>) {
        turn.watch.event(turn.now, self.index, event);
    }

    /// Carries out actions and hands mail to the front, until the shard wants no more.
    fn settle(&mut self, turn: &mut Turn<'_>) {
        loop {
            for action in std::mem::take(&mut self.out.actions) {
                self.act(turn, action);
            }
            self.post();
            if !self.outgoing.is_empty() || !self.shard.is_congested() {
                break;
            }
            let now = turn.now;
            self.tell(turn, |shard, out| shard.mail_taken(now, out));
        }
        if !self.shard.wants_flush() {
            self.flush_at = None;
        }
    }

    fn act(&mut self, turn: &mut Turn<'_>, action: Action) {
        let named = match &action {
            Action::Send { id, .. }
            | Action::Resume { id }
            | Action::Finish { id }
            | Action::Shut { id, .. }
            | Action::Release { id }
            | Action::Detach { id, .. } => Some(*id),
            Action::StopAccepting => None,
        };
        let socket = named.and_then(|id| self.place(id)).map(|place| place.socket);
        self.say(turn, Event::Act(&action, socket));
        let (Some(id), Some(socket)) = (named, socket) else {
            if let Action::StopAccepting = action {
                self.listening = false;
                turn.network.stop_listening(self.index);
            }
            return;
        };
        match action {
            Action::Send { run, .. } => {
                let since = turn.now;
                let Some(place) = self.place_mut(id) else { return };
                assert!(place.write.is_none(), "two writes of {id:?} at once");
                place.write = Some(Write { run, done: 0, since });
                self.look(turn.network, id);
            }
            Action::Resume { .. } => self.release(turn.network, id),
            Action::Finish { .. } => {
                turn.network.end(socket);
                self.release(turn.network, id);
            }
            Action::Shut { reset, .. } => {
                if reset {
                    turn.network.break_off(socket);
                }
                turn.network.shut(socket);
                self.release(turn.network, id);
            }
            Action::Release { .. } => {
                let Some(place) = self.places[id.slot as usize].take() else { return };
                assert!(place.write.is_none(), "the slot of {id:?} is free while a write of it is in flight");
                assert!(!place.reading, "the slot of {id:?} is free while it is read");
                self.held.remove(&id.slot);
                turn.network.close(place.socket);
            }
            Action::Detach { to, state, .. } => {
                let Some(place) = self.places[id.slot as usize].take() else { return };
                assert!(place.write.is_none(), "{id:?} moves with a write in flight");
                if self.held.remove(&id.slot) {
                    self.tasks.push(Task::Detach(socket, to, state));
                } else {
                    // It was let go to see a hang-up: the client has left.
                    self.say(turn, Event::LeftOnTheWay(socket, &state));
                    self.tell(turn, |_, out| out.mail.push_back(mail::ToFront::Abandoned(state.session)));
                    turn.network.close(socket);
                }
            }
            Action::StopAccepting => {}
        }
    }

    /// A held connection is read again.
    fn release(&mut self, network: &Network, id: ConnectionId) {
        if let Some(place) = self.place_mut(id) {
            place.held = false;
            self.held.remove(&id.slot);
            self.look(network, id);
        }
    }

    fn serve(&mut self, network: &mut Network, id: ConnectionId, socket: SocketId, held: bool) {
        let slot = id.slot as usize;
        if self.places.len() <= slot {
            self.places.resize_with(slot + 1, || None);
        }
        let place =
            Place { id, socket, reading: true, held, write: None, read_waits: false, write_waits: false };
        assert!(self.places[slot].replace(place).is_none(), "the slot of {id:?} is in use");
        if held {
            self.held.insert(id.slot);
        }
        network.adopt(self.index, id.slot, socket);
    }

    /// Looks at the sockets with which something has happened.
    fn notice(&mut self, turn: &mut Turn<'_>) {
        for socket in turn.network.take_changed(self.index) {
            let place = self.places.get(turn.network.slot(socket) as usize).and_then(Option::as_ref);
            if let Some(id) = place.filter(|place| place.socket == socket).map(|place| place.id) {
                self.look(turn.network, id);
            }
        }
    }

    /// Queues what can be done with a connection now.
    fn look(&mut self, network: &Network, id: ConnectionId) {
        let Some(place) = self.places.get_mut(id.slot as usize).and_then(Option::as_mut) else { return };
        let reads = place.reading && !place.held && network.is_readable(place.socket);
        if reads && !std::mem::replace(&mut place.read_waits, true) {
            self.tasks.push(Task::Read(id));
        }
        let writes = place.write.is_some() && network.is_writable(place.socket);
        if writes && !std::mem::replace(&mut place.write_waits, true) {
            self.tasks.push(Task::Write(id));
        }
    }

    fn place(&self, id: ConnectionId) -> Option<&Place> {
        self.places.get(id.slot as usize)?.as_ref().filter(|place| place.id == id)
    }

    fn place_mut(&mut self, id: ConnectionId) -> Option<&mut Place> {
        self.places.get_mut(id.slot as usize)?.as_mut().filter(|place| place.id == id)
    }

    fn accept(&mut self, turn: &mut Turn<'_>) {
        let Some(socket) = turn.network.accept(self.index) else { return };
        let (port, peer) = turn.network.client(socket);
        let now = turn.now;
        match self.tell(turn, |shard, out| shard.accepted(now, port, peer, out)) {
            Some(id) => {
                self.say(turn, Event::Accepted(id, socket));
                self.serve(turn.network, id, socket, false);
            }
            None => {
                self.say(turn, Event::Refused(socket));
                turn.network.close(socket);
            }
        }
        self.settle(turn);
    }

    fn read(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let now = turn.now;
        let Some(place) = self.place_mut(id) else { return };
        place.read_waits = false;
        if place.held || !place.reading {
            return;
        }
        let socket = place.socket;
        let mut buffer = std::mem::take(&mut self.read_buffer);
        match turn.network.receive(socket, &mut buffer) {
            Ok(bytes) if bytes > 0 => {
                self.say(turn, Event::Received(id, socket, &buffer[..bytes]));
                let flow = self.tell(turn, |shard, out| shard.received(now, id, &mut buffer[..bytes], out));
                self.go_by(turn, id, socket, flow);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => {
                let lost = result.is_err();
                if let Some(place) = self.place_mut(id) {
                    place.reading = false;
                }
                self.say(turn, Event::InputEnded(id, socket, lost));
                self.tell(turn, |shard, out| shard.input_ended(now, id, lost, out));
            }
        }
        self.read_buffer = buffer;
        self.settle(turn);
        if self.place(id).is_some() {
            self.look(turn.network, id);
        }
    }

    /// A TLS handshake is taken further.
    fn handshake(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let now = turn.now;
        // It may have been let go to see that its client has left.
        let Some(place) = self.place_mut(id).filter(|place| place.held) else { return };
        place.held = false;
        let socket = place.socket;
        self.held.remove(&id.slot);
        self.say(turn, Event::Handshake(socket));
        let flow = self.tell(turn, |shard, out| shard.handshake(now, id, out));
        self.go_by(turn, id, socket, flow);
        self.settle(turn);
        if self.place(id).is_some() {
            self.look(turn.network, id);
        }
    }

    /// Does what the shard wants after input. Where it wants no more, the connection is held before the actions are carried
    /// out: one of them may release it already.
    fn go_by(&mut self, turn: &mut Turn<'_>, id: ConnectionId, socket: SocketId, flow: Flow) {
        match flow {
            Flow::Read | Flow::Hold => {}
            Flow::Login => self.login(turn, id, socket),
            Flow::Handshake => self.tasks.push(Task::Handshake(id)),
        }
        self.say(turn, Event::Flow(socket, flow));
        if flow != Flow::Read
            && let Some(place) = self.place_mut(id)
        {
            place.held = true;
            self.held.insert(id.slot);
        }
    }

    /// A login came, and its client may have left long ago.
    fn login(&mut self, turn: &mut Turn<'_>, id: ConnectionId, socket: SocketId) {
        let now = turn.now;
        if turn.network.has_hung_up(socket) {
            self.say(turn, Event::HungUp(id, socket));
            self.tell(turn, |shard, out| shard.hung_up(now, id, out));
        } else {
            let age = now.since(turn.network.newest_bytes(socket));
            self.tell(turn, |shard, out| shard.ask(now, id, age, out));
            if !self.shard.is_in_lobby(id) {
                self.say(turn, Event::TooLate(socket));
            }
        }
    }

    fn write(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let now = turn.now;
        let Some(place) = self.place_mut(id) else { return };
        place.write_waits = false;
        let socket = place.socket;
        let Some(write) = &mut place.write else { return };
        let result = turn.network.send(socket, &write.run.as_slice()[write.done..]);
        if let Ok(bytes) = result {
            write.done += bytes;
        }
        let complete = write.done == write.run.as_slice().len();
        let failed = result.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock);
        if !complete && !failed {
            return self.look(turn.network, id);
        }
        let (frames, accepted) = (write.run.frames, write.run.accepted);
        let sent = Sent { complete, written: write.done as u64, frames, accepted, since: write.since };
        place.write = None;
        self.say(turn, Event::Sent(id, socket, complete, frames));
        self.tell(turn, |shard, out| shard.sent(now, id, sent, out));
        self.settle(turn);
    }

    fn detach(&mut self, turn: &mut Turn<'_>, socket: SocketId, to: u16, state: Handover) {
        let attach = Box::new(Attach { descriptor: Descriptor::Simulated(socket), state });
        self.say(turn, Event::Moved(socket, to));
        self.take_rules_mail();
        self.outgoing.push_back(ToFront::Moved { to, attach });
        self.settle(turn);
    }

    fn attach(&mut self, turn: &mut Turn<'_>, attach: Attach) {
        let now = turn.now;
        let Attach { descriptor, state } = attach;
        let Descriptor::Simulated(socket) = descriptor else {
            unreachable!("the simulator opens no sockets")
        };
        // Whoever hung up meanwhile must not take the key from the connection it has made since.
        if turn.network.has_hung_up(socket) {
            self.say(turn, Event::LeftOnTheWay(socket, &state));
            self.tell(turn, |shard, out| shard.left_on_the_way(state, out));
            turn.network.close(socket);
            return self.settle(turn);
        }
        // What the commands before asked for comes first: the new connection may get the slot that one of them freed.
        self.settle(turn);
        self.say(turn, Event::Attaching(socket, &state));
        self.attaching = socket;
        let id = self.tell(turn, |shard, out| shard.attached(now, state, out));
        self.say(turn, Event::Attached(id, socket));
        self.serve(turn.network, id, socket, true);
        self.settle(turn);
    }

    /// Takes the front's commands as far as this turn goes; then it goes on, or to sleep.
    fn take_mail(&mut self, turn: &mut Turn<'_>) {
        match self.mail {
            MailTask::Asleep => return,
            MailTask::Drowsy => {
                let flag = Arc::clone(&self.flag);
                let asleep = flag.try_sleep(|| self.is_ready());
                self.mail = if asleep { MailTask::Asleep } else { MailTask::Awake };
                return;
            }
            MailTask::Awake => {}
        }
        let now = turn.now;
        let depth = self.inbox.depth();
        // Both queues are as long; the last quarter is not for pushes.
        self.full += u64::from(depth >= self.to_front.capacity() * 3 / 4);
        let most = 1 + turn.schedule.below(MAIL_PER_TURN);
        // Taken out of the queue before the first is handed on: the drain borrows the queue.
        let (mut commands, mut bytes) = (Vec::new(), 0);
        for mail in self.inbox.drain().take(most) {
            if let ToShard::Rules(mail::ToShard::Push(push)) = &mail {
                bytes += push.encoded.bytes().len();
            }
            commands.push(mail);
            if bytes >= self.bytes_per_turn {
                break;
            }
        }
        for mail in commands {
            match mail {
                ToShard::Attach(attach) => self.attach(turn, *attach),
                ToShard::Rules(mail) => {
                    let mut socket = None;
                    if let mail::ToShard::Verdict(verdict) = &mail {
                        socket = self.place(verdict.id).map(|place| place.socket);
                        self.look_for_hang_up(turn, verdict.id);
                    }
                    if let mail::ToShard::Look(id) = &mail {
                        socket = self.place(*id).map(|place| place.socket);
                        self.look_for_hang_up(turn, *id);
                    }
                    if let mail::ToShard::Reply { id, .. } = &mail {
                        socket = self.place(*id).map(|place| place.socket);
                    }
                    self.say(turn, Event::Mail(&mail, socket));
                    self.tell(turn, |shard, out| shard.mail(now, mail, out));
                    self.say(turn, Event::MailDone);
                }
            }
        }
        self.mailbox_depth = self.mailbox_depth.max(depth as u64);
        self.settle(turn);
        if self.inbox.is_empty() && !self.is_ready() {
            self.mail = MailTask::Drowsy;
        }
    }

    fn flush(&mut self, turn: &mut Turn<'_>) {
        let (now, budget) = (turn.now, self.sends_per_turn);
        let state = self.tell(turn, |shard, out| shard.flush(now, budget, out));
        self.settle(turn);
        self.flush_at = match state {
            FlushState::Wait(until) => Some(until),
            FlushState::Idle | FlushState::More => None,
        };
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        let (now, depth) = (turn.now, self.mailbox_depth);
        let load = turn.schedule.below(1001) as u64;
        self.tell(turn, |shard, out| shard.tick(now, load, depth, out));
        self.say(turn, Event::Ticked);
        self.mailbox_depth = 0;
        self.next_tick = now.after(std::time::Duration::from_micros(TICK_MICROS));
        self.settle(turn);
        self.watch_held(turn.network);
    }

    /// A client that hung up while its login was decided must not take its key from the connection it has made since.
    fn look_for_hang_up(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some(socket) = self.place(id).map(|place| place.socket) else { return };
        if self.shard.is_in_lobby(id) && turn.network.has_hung_up(socket) {
            let now = turn.now;
            self.say(turn, Event::HungUp(id, socket));
            self.tell(turn, |shard, out| shard.hung_up(now, id, out));
        }
    }

    /// A held connection that its client left is read on, to its end.
    fn watch_held(&mut self, network: &Network) {
        let gone: Vec<ConnectionId> = self
            .held
            .iter()
            .filter_map(|slot| self.places[*slot as usize].as_ref())
            .filter(|place| network.has_hung_up(place.socket))
            .map(|place| place.id)
            .collect();
        for id in gone {
            self.release(network, id);
        }
    }

    /// What others wake the task for: a command, or room for the mail that waits, for which a wish is left.
    fn is_ready(&mut self) -> bool {
        let places = self.post_at_least();
        !self.inbox.is_empty() || (!self.outgoing.is_empty() && self.to_front.has_space(places))
    }

    /// The same without a wish: a look that changes nothing.
    fn has_work(&mut self) -> bool {
        let places = self.post_at_least();
        !self.inbox.is_empty() || (!self.outgoing.is_empty() && self.to_front.free() >= places)
    }

    fn post_at_least(&self) -> usize {
        POST_AT_LEAST.min(self.to_front.capacity() / 4)
    }

    /// Moves mail into the queue to the front, as far as it goes. The front is told by a task of its own.
    fn post(&mut self) {
        self.take_rules_mail();
        while let Some(mail) = self.outgoing.pop_front() {
            match self.to_front.push(mail) {
                Ok(()) => self.posted = true,
                Err(mail) => {
                    self.full += 1;
                    self.outgoing.push_front(mail);
                    // Who sleeps with an empty hand has left no wish for room.
                    if !self.to_front.has_space(self.post_at_least()) {
                        break;
                    }
                }
            }
        }
        self.out.waiting = self.outgoing.len();
    }

    fn take_rules_mail(&mut self) {
        self.outgoing.extend(self.out.mail.drain(..).map(ToFront::Rules));
    }

    fn wake_front(&mut self) {
        self.posted = false;
        self.to_front.notify();
    }
}
