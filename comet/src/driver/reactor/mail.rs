//! Commands of the front in, mail for the front out.

use std::{io, rc::Rc};

use ring::Runtime;
use seam::Time;
use shard::mail;

use super::{Core, Reactor};
use crate::{
    mail::{ToFront, ToShard},
    mailbox::{Receiver, ShardSleeper},
};

/// Commands taken from the mailbox between two looks at everything else.
const MAIL_PER_TURN: usize = 1024;

/// Free places in the queue to the front that are worth waking up for, once it was full.
const POST_AT_LEAST: usize = 256;

/// Takes the front's commands: all that wait, then the writes they led to, then sleep. A turn takes no more bytes of
/// pushes than may wait for one connection: more for a single client would be dropped before its first write was made,
/// however fast it reads. It takes none while TLS has still to seal what the last ones brought.
pub(super) async fn take<R: Runtime>(
    reactor: Rc<Reactor<R>>,
    mut inbox: Receiver<ToShard, ()>,
    mut sleeper: ShardSleeper<R>,
    bytes_per_turn: usize,
) -> io::Result<()> {
    loop {
        while reactor.core.borrow().shard.is_sealing() {
            reactor.turns.next().await;
        }
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

/// Tells the front of its mail: once for all that the tasks of a turn posted, since waking it can cost more than an event.
pub(super) async fn wake_front<R: Runtime>(reactor: Rc<Reactor<R>>) {
    loop {
        reactor.posted.wait().await;
        reactor.core.borrow().to_front.notify();
    }
}

impl<R: Runtime> Core<R> {
    /// Mail waits and the queue has room for some of it. While it has none, the shard is woken when it has.
    fn may_post(&self) -> bool {
        !self.mail.is_empty() && self.to_front.has_space(POST_AT_LEAST)
    }

    /// Takes the mail of the rules, to send it or to put something behind it.
    pub(super) fn take_mail(&mut self) {
        self.mail.extend(self.out.mail.drain(..).map(ToFront::Rules));
    }

    /// Moves mail into the queue to the front, as far as it goes. True: there was some, and the front is to be told.
    pub(super) fn post(&mut self) -> bool {
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
