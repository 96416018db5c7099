//! What the front does.

use bytes::Bytes;
use proto::{
    close::CloseReason,
    encoded::Encoded,
    frame::Header,
    ids::{Generation, Key},
    op::Op,
};
use seam::Time;
use shard::mail::{ConnectionId, Outcome, Push, PushTo, ToFront, ToShard, Verdict};

use super::{World, room};

/// A push of one message that everybody gets who accepts operation 1000.
pub fn push_of(to: PushTo, encoded: Encoded, now: Time) -> Push {
    Push { to, filter: Op(1000), encoded, origin: None, accepted: None, dispatched: now }
}

impl World {
    /// One command.
    pub fn mail(&mut self, mail: ToShard) {
        self.mails([mail]);
    }

    /// Several commands that wait in the mailbox when the shard comes to look: they are taken before anything is
    /// flushed.
    pub fn mails(&mut self, mails: impl IntoIterator<Item = ToShard>) {
        for mail in mails {
            self.hand(mail);
        }
        self.settle();
    }

    /// One command of several; the driver does nothing before it has handed over all of them ([`World::mails`]).
    pub fn hand(&mut self, mail: ToShard) {
        match &mail {
            ToShard::Verdict(verdict) => {
                let lets_in = !matches!(verdict.outcome, Outcome::Refuse { .. });
                self.sessions.granted += u64::from(lets_in);
            }
            ToShard::Abandoned(_) => self.sessions.granted += 1,
            ToShard::Drain { .. } => self.draining = true,
            _ => {}
        }
        self.shard.mail(self.now, mail, &mut self.out);
    }

    /// Logic's word. The driver looks first whether the client is still there.
    pub fn verdict(&mut self, id: ConnectionId, outcome: Outcome) {
        if self.shard.is_in_lobby(id) && self.socket(id).ending.is_some() {
            self.shard.hung_up(self.now, id, &mut self.out);
        }
        self.mail(ToShard::Verdict(Box::new(Verdict { id, outcome })));
    }

    /// Logic refuses a login.
    pub fn refuse(&mut self, id: ConnectionId, reason: CloseReason, text: &str) {
        self.verdict(id, Outcome::Refuse { reason, text: text.to_owned() });
    }

    /// Logic has a key closed, or only generations below one.
    pub fn kick(&mut self, key: &str, below: Option<i64>, reason: CloseReason) {
        self.mail(ToShard::Kick { key: Key::new(key), below: below.map(Generation), reason, text: None });
    }

    /// Logic answers a client message.
    pub fn reply(&mut self, id: ConnectionId, op: i32, seq: i32, body: &[u8]) {
        let header = Header { ver: 1, op: Op(op), seq };
        self.mail(ToShard::Reply { id, header, body: Bytes::copy_from_slice(body) });
    }

    /// A push of one message, operation 1000.
    pub fn push_of(&self, to: PushTo, body: &str) -> Push {
        push_of(to, Encoded::push(Op(1000), body.as_bytes()), self.now)
    }

    /// Pushes one message.
    pub fn push(&mut self, to: PushTo, body: &str) {
        let push = self.push_of(to, body);
        self.mail(ToShard::Push(Box::new(push)));
    }

    /// The same to a room.
    pub fn push_room(&mut self, name: &str, body: &str) {
        self.push(PushTo::Room(room(name)), body);
    }

    /// The same to keys.
    pub fn push_keys(&mut self, keys: &[&str], body: &str) {
        self.push(PushTo::Keys(keys.iter().map(|key| Key::new(*key)).collect()), body);
    }

    /// Mails that wait for room in the ring.
    pub fn mail_waiting(&self) -> usize {
        self.out.mail.len()
    }

    /// Others fill what waits for room in the ring up to so many mails.
    pub fn fill_mail(&mut self, mails: usize) {
        let nobody = ConnectionId { shard: u16::MAX, slot: 0, generation: 0 };
        let missing = mails.saturating_sub(self.out.mail.len());
        self.out.mail.extend((0..missing).map(|_| ToFront::LoginGone(nobody)));
    }

    /// The front takes so many mails more from the ring.
    pub fn take_mail(&mut self, mails: usize) {
        self.ring = self.ring.saturating_add(mails);
        self.settle();
    }
}
