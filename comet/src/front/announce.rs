//! When the session store may have lost sessions, all of this comet's are renewed, within seconds.
//!
//! logic tells the store's incarnation with every answer to a renewal, and is asked for it where there is nothing to
//! renew. The shards then tell their open sessions chunk by chunk, each through the lanes like any renewal, so that the
//! end of a session never comes before it; the next chunk is asked for when logic has this one.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use contract::{Renewed, SessionRef};
use shard::mail::ToShard;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep},
};
use tracing::{debug, info};

use super::{Front, lock};

/// How often logic is asked for the incarnation when nothing else has told it meanwhile.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How long after a change a connection that opens may have been stored before it. With the default handshake deadline no
/// login takes longer.
const CHANGE_REMEMBERED: Duration = Duration::from_secs(10);

/// How long an incarnation that was replaced may still be told by a logic that has not noticed. A store that really goes
/// back to it within that time is noticed after it.
const OLD_REMEMBERED: Duration = Duration::from_secs(60);

/// Replaced incarnations remembered at most; beyond it the oldest is forgotten.
const OLD_MAX: usize = 8;

/// Pause before a chunk that found a lane full is asked for again.
const RETRY: Duration = Duration::from_secs(1);

/// What this comet knows of the session store.
pub(super) struct Announcer {
    store: Mutex<Store>,
    changed: Notify,
    chunks: mpsc::Sender<Chunk>,
}

#[derive(Default)]
struct Store {
    incarnation: Option<u64>,
    /// Those before it, and when each was replaced.
    old: VecDeque<(u64, Instant)>,
    heard: Option<Instant>,
    changed: Option<Instant>,
    /// It was another one before: not only the first that was heard.
    is_another: bool,
}

/// A part of a shard's sessions, on its way through the lanes.
pub(super) struct Chunk {
    /// Where the next one begins.
    next: Option<u32>,
    /// A lane was full.
    is_partial: bool,
    /// Ends when logic has all of them.
    done: mpsc::Receiver<()>,
    sessions: usize,
}

impl Announcer {
    pub(super) fn new() -> (Announcer, mpsc::Receiver<Chunk>) {
        // One is asked for at a time.
        let (chunks, coming) = mpsc::channel(1);
        (Announcer { store: Mutex::default(), changed: Notify::new(), chunks }, coming)
    }

    /// Takes note of what logic said. The first incarnation is a change too: sessions may be older than it.
    pub(super) fn heard(&self, renewed: &Renewed) {
        let mut store = lock(&self.store);
        let now = Instant::now();
        store.heard = Some(now);
        let Some(incarnation) = renewed.incarnation else { return };
        store.old.retain(|(_, at)| now.duration_since(*at) < OLD_REMEMBERED);
        // Not every logic notices at once.
        if store.incarnation == Some(incarnation) || store.old.iter().any(|(old, _)| *old == incarnation) {
            return;
        }
        if let Some(old) = store.incarnation.replace(incarnation) {
            store.old.push_back((old, now));
            if store.old.len() > OLD_MAX {
                store.old.pop_front();
            }
        }
        store.changed = Some(now);
        store.is_another = store.old.back().is_some();
        self.changed.notify_one();
    }

    /// Whether a connection that opens now may have been stored before the last change.
    pub(super) fn changed_lately(&self) -> bool {
        lock(&self.store).changed.is_some_and(|at| at.elapsed() < CHANGE_REMEMBERED)
    }

    fn heard_lately(&self) -> bool {
        lock(&self.store).heard.is_some_and(|at| at.elapsed() < ASK_EVERY)
    }

    /// Takes a shard's open sessions, in their place among its mails, and hands them to the lanes.
    pub(super) fn chunk(&self, front: &Front, sessions: Vec<SessionRef>, next: Option<u32>) {
        let count = sessions.len();
        let (done, is_partial) = front.lanes.announce(front, sessions);
        // There is room for the one that was asked for.
        let _ = self.chunks.try_send(Chunk { next, is_partial, done, sessions: count });
    }
}

/// Asks logic for the incarnation, for ever.
pub(super) async fn ask(front: Arc<Front>) {
    loop {
        sleep(ASK_EVERY).await;
        if front.announcer.heard_lately() {
            continue;
        }
        if let Err(error) = front.tell_alive(Vec::new()).await {
            front.metrics.logic_failed("incarnation");
            tracing::debug!(%error, "logic does not tell the incarnation of its store");
        }
    }
}

/// Renews every session after each change, for ever.
pub(super) async fn run(front: Arc<Front>, mut chunks: mpsc::Receiver<Chunk>) {
    loop {
        front.announcer.changed.notified().await;
        let is_another = lock(&front.announcer.store).is_another;
        let sessions = announce(&front, &mut chunks).await;
        if sessions > 0 && is_another {
            info!(sessions, "the session store may have lost sessions: all of this comet's were renewed");
        } else if sessions > 0 {
            debug!(
                sessions,
                "the session store's incarnation is known now: all of this comet's were renewed"
            );
        }
    }
}

async fn announce(front: &Front, chunks: &mut mpsc::Receiver<Chunk>) -> usize {
    let mut sessions = 0;
    for shard in 0..front.outboxes.shards() as u16 {
        let mut from = Some(0);
        while let Some(slot) = from {
            front.outboxes.send(shard, ToShard::Sessions { from: slot }).await;
            let Some(mut chunk) = chunks.recv().await else { return sessions };
            while chunk.done.recv().await.is_some() {}
            if chunk.is_partial {
                sleep(RETRY).await;
                continue;
            }
            sessions += chunk.sessions;
            from = chunk.next;
        }
    }
    sessions
}
