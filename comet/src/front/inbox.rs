//! Takes the mail of the shards. It waits for nothing but the next mail, so that no shard ever waits for it.

use std::sync::Arc;

use contract::SessionRef;
use proto::close::CloseReason;
use ring::WakeSender;
use shard::mail::{OpenSession, ToFront};

use super::{Front, lanes::Work, lock};
use crate::{
    mail::{self, ToShard},
    mailbox::{Receiver, TaskFlag},
};

/// The queue of one shard to the front.
pub struct Inbox {
    /// The front's end of the queue.
    pub receiver: Receiver<mail::ToFront, WakeSender>,
    /// Set while the front's task for this shard sleeps.
    pub flag: Arc<TaskFlag>,
}

/// After so much mail other tasks of the thread get a turn.
const PER_TURN: usize = 256;

/// Takes the mail of one shard, for ever.
pub(super) async fn drain(front: Arc<Front>, shard: u16, inbox: Inbox) {
    let Inbox { mut receiver, flag } = inbox;
    loop {
        flag.until(|| !receiver.is_empty()).await;
        receiver.drain().take(PER_TURN).for_each(|mail| take(&front, shard, mail));
        tokio::task::yield_now().await;
    }
}

pub(super) fn take(front: &Arc<Front>, shard: u16, mail: impl Into<mail::ToFront>) {
    match mail.into() {
        // The number of these is bounded by the connections on their way. Each of them waits only here.
        mail::ToFront::Moved { to, attach } => {
            lock(&front.moves)[usize::from(to)].sent += 1;
            front.send_soon(to, ToShard::Attach(attach));
        }
        mail::ToFront::Rules(mail) => heed(front, shard, mail),
    }
}

/// Does what the rules of a shard ask for.
fn heed(front: &Arc<Front>, shard: u16, mail: ToFront) {
    match mail {
        ToFront::Login(login) => front.logins.begin(front, *login),
        ToFront::LoginGone(id) => front.logins.gone(id),
        ToFront::LoginThere(id) => front.logins.there(id),
        ToFront::Abandoned(session) => front.abandoned(session),
        ToFront::Opened { mid, key, generation, peer } => {
            front.counts().opened(peer);
            front.client_log.opened(mid, &key, peer);
            front.lanes.opened(front, SessionRef { mid, key, server: front.server.clone(), generation });
        }
        ToFront::Ended { mid, key, generation, peer, reason } => {
            if let Some(peer) = peer {
                front.counts().ended(peer);
                front.client_log.ended(mid, &key, peer, reason);
            }
            let session = SessionRef { mid, key, server: front.server.clone(), generation };
            match reason {
                CloseReason::Replaced => front.lanes.replaced(front, session),
                _ => front.lanes.ended(front, session),
            }
        }
        ToFront::Renew { mid, key, generation } => {
            let session = SessionRef { mid, key, server: front.server.clone(), generation };
            front.lanes.renew(front, session);
        }
        ToFront::Sessions { sessions, next } => {
            let server = &front.server;
            let sessions = sessions.into_iter().map(|OpenSession { mid, key, generation }| SessionRef {
                mid,
                key,
                server: server.clone(),
                generation,
            });
            front.announcer.chunk(front, sessions.collect(), next);
        }
        ToFront::Message { id, message } => front.lanes.push(front, Work::Message { id, message }),
        ToFront::Rooms(counts) => {
            let news = front.counts().report(shard, counts);
            front.tell_elsewhere(news);
        }
        ToFront::Stats(stats) => front.metrics.shard(shard, *stats),
        ToFront::Drained { arrivals } => {
            lock(&front.moves)[usize::from(shard)].arrived = Some(arrivals);
            front.drained_changed.notify_waiters();
        }
    }
}
