//! The fake driver: it carries out what the shard wants done, and lets time pass.

use std::time::Duration;

use shard::{Action, Flow, FlushState, Sent, mail::ConnectionId, wheel::TICK_MICROS};

use super::{Detached, Socket, World, socket::Sockets};

impl World {
    /// A connection that left another shard arrives.
    pub fn attach(&mut self, detached: Detached) -> ConnectionId {
        let Detached { state, mut socket, .. } = detached;
        self.sessions.granted += 1;
        let id = self.shard.attached(self.now, *state, &mut self.out);
        (socket.id, socket.held) = (id, true);
        self.sockets.insert(socket);
        self.settle();
        id
    }

    /// The client of a connection on its way to this shard has left.
    ///
    /// # Panics
    /// It has not.
    pub fn left_on_the_way(&mut self, detached: Detached) {
        assert!(detached.socket.ending.is_some());
        self.sessions.granted += 1;
        self.shard.left_on_the_way(*detached.state, &mut self.out);
        self.over.push(detached.socket);
        self.settle();
    }

    /// Flushes by hand.
    pub fn flush(&mut self, budget: usize) -> FlushState {
        let state = self.shard.flush(self.now, budget, &mut self.out);
        self.settle();
        state
    }

    /// Time passes, with its ticks and with the flushes that were waiting for it.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now.after(time);
        loop {
            let flush_at = self.flush_at.filter(|at| *at > self.now).unwrap_or(end);
            self.now = self.next_tick.min(flush_at).min(end);
            if self.now == self.next_tick {
                self.next_tick = self.next_tick.after(Duration::from_micros(TICK_MICROS));
                self.shard.tick(self.now, self.load, 0, &mut self.out);
                self.watch_held();
            }
            self.settle();
            if self.now == end {
                return;
            }
        }
    }

    /// A held connection whose client ended its side is read on.
    fn watch_held(&mut self) {
        for socket in self.sockets.iter_mut().filter(|socket| socket.held && socket.ending.is_some()) {
            socket.held = false;
            self.readers.push_back(socket.id);
        }
    }

    /// Carries out everything that is to be done, until nothing more happens by itself.
    ///
    /// # Panics
    /// The shard wants what it must not want.
    pub fn settle(&mut self) {
        loop {
            for action in std::mem::take(&mut self.out.actions) {
                self.act(action);
            }
            self.post();
            if self.out.mail.is_empty() && self.shard.is_congested() {
                self.shard.mail_taken(self.now, &mut self.out);
            } else if let Some(id) = self.writes.pop_front() {
                self.end_write(id, true);
            } else if let Some(id) = self.readers.pop_front() {
                self.read_once(id);
            } else if !self.flush_if_wanted() {
                break;
            }
        }
        if self.checks {
            self.check();
        }
    }

    /// True when there may be more to do.
    fn flush_if_wanted(&mut self) -> bool {
        self.flush_at = None;
        let Some(budget) = self.auto_flush.filter(|_| self.shard.wants_flush()) else { return false };
        match self.shard.flush(self.now, budget, &mut self.out) {
            FlushState::Wait(until) => {
                assert!(until > self.now && self.out.actions.is_empty());
                self.flush_at = Some(until);
                false
            }
            FlushState::Idle | FlushState::More => true,
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { id, run } => {
                let socket = live(&mut self.sockets, id);
                assert!(socket.write.is_none(), "one write at a time");
                assert!(
                    !socket.finished && socket.shut.is_none(),
                    "nothing is written to a socket that is shut"
                );
                assert!(!run.as_slice().is_empty(), "a write has something to write");
                socket.write = Some((run, self.now));
                if !socket.stalled {
                    self.writes.push_back(id);
                }
            }
            Action::Resume { id } => {
                live(&mut self.sockets, id);
                self.let_go(id);
            }
            Action::Finish { id } => {
                let socket = live(&mut self.sockets, id);
                assert!(!socket.finished && socket.shut.is_none(), "our side is shut once");
                assert!(socket.write.is_none(), "everything is written before our side is shut");
                socket.finished = true;
                if !socket.stubborn && socket.ending.is_none() {
                    socket.ending = Some(false);
                }
                self.let_go(id);
                self.readers.push_back(id);
            }
            Action::Shut { id, reset } => {
                let socket = live(&mut self.sockets, id);
                assert!(socket.shut.is_none(), "a socket is shut once");
                socket.shut = Some(reset);
                socket.ending = socket.ending.or(Some(false));
                self.let_go(id);
                self.readers.push_back(id);
                self.writes.push_back(id);
            }
            Action::Release { id } => {
                let socket = self.sockets.remove(id).expect("a connection is released once");
                assert!(socket.write.is_none(), "the driver writes no more");
                assert!(
                    !socket.reading && socket.ends_told == 1,
                    "the driver reads no more and has said so once"
                );
                assert!(socket.shut.is_some(), "a connection is shut before it is released");
                self.over.push(socket);
            }
            Action::Detach { id, to, state } => {
                let socket = self.sockets.remove(id).expect("a connection leaves once");
                assert!(socket.held && socket.reading, "it is not read while it moves");
                assert!(socket.write.is_none(), "no operation is in flight");
                assert!(!socket.finished && socket.shut.is_none());
                self.sessions.moved += 1;
                self.detached.push(Detached { id, to, state, socket });
            }
            Action::StopAccepting => {
                assert!(!std::mem::replace(&mut self.stopped_accepting, true), "told once");
            }
        }
    }

    /// A held connection is read again.
    fn let_go(&mut self, id: ConnectionId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        if std::mem::take(&mut socket.held) {
            self.readers.push_back(id);
        }
    }

    fn post(&mut self) {
        while self.ring > 0
            && let Some(mail) = self.out.mail.pop_front()
        {
            self.ring = self.ring.saturating_sub(usize::from(self.ring != usize::MAX));
            self.note(mail);
        }
    }

    pub(super) fn end_write(&mut self, id: ConnectionId, complete: bool) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let Some((run, since)) = socket.write.take() else { return };
        let complete = complete && socket.shut.is_none();
        let bytes = run.as_slice();
        let written = if complete { bytes.len() } else { bytes.len() / 2 };
        self.taken.1 += written as u64;
        self.taken.2 += 1;
        if complete {
            socket.take(bytes);
            self.taken.0 += u64::from(run.frames);
        }
        let sent = Sent { complete, written: written as u64, ..super::written(&run, since) };
        if complete {
            socket.runs.push(run);
        }
        // TLS has something to say to what it has heard.
        if let Some(sent) = socket.secure.as_mut().map(|secure| secure.sent())
            && !sent.is_empty()
            && socket.ending.is_none()
        {
            socket.unread.extend(sent);
            self.readers.push_back(id);
        }
        self.shard.sent(self.now, id, sent, &mut self.out);
    }

    fn read_once(&mut self, id: ConnectionId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        if socket.held || !socket.reading {
            return;
        }
        if !socket.unread.is_empty() {
            let len = socket.unread.len().min(self.read_size);
            let mut bytes: Vec<u8> = socket.unread.drain(..len).collect();
            self.read += len as u64;
            let mut flow = self.shard.received(self.now, id, &mut bytes, &mut self.out);
            while flow == Flow::Handshake {
                flow = self.shard.handshake(self.now, id, &mut self.out);
            }
            socket.held = flow != Flow::Read;
            let (left, age) = (socket.ending.is_some(), socket.age);
            match flow {
                Flow::Login if left => self.shard.hung_up(self.now, id, &mut self.out),
                Flow::Login => self.shard.ask(self.now, id, age, &mut self.out),
                Flow::Read | Flow::Hold | Flow::Handshake => {}
            }
            self.readers.push_back(id);
        } else if let Some(lost) = socket.ending {
            socket.reading = false;
            socket.ends_told += 1;
            self.shard.input_ended(self.now, id, lost, &mut self.out);
        }
    }
}

fn live(sockets: &mut Sockets, id: ConnectionId) -> &mut Socket {
    sockets.get_mut(id).expect("no action for a connection that was released")
}
