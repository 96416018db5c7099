//! Renews all sessions of this comet within seconds when the session store may have lost them.
//!
//! logic tells the store's incarnation with every answer to a renewal. If there is nothing to renew, the front asks for
//! it. When the incarnation changes, each shard lists its open sessions chunk by chunk. The front sends them through
//! the lanes like any renewal, so the end of a session never overtakes its renewal. It asks for the next chunk when
//! logic has this one.

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

/// How often the front asks logic for the incarnation, unless an answer has told it meanwhile.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A connection that opens within this time after a change may have been stored before the change. With the default
/// handshake deadline no login takes longer.
const CHANGE_REMEMBERED: Duration = Duration::from_secs(10);

/// How long the front ignores an incarnation that was replaced. A logic that has not noticed the change may still tell
/// it. If the store really goes back to it, the front notices after this time.
const OLD_REMEMBERED: Duration = Duration::from_secs(60);

/// Most replaced incarnations that the front remembers. If more come, it forgets the oldest.
const OLD_MAX: usize = 8;

/// Pause before the front asks again for a chunk for which a lane was full.
const RETRY: Duration = Duration::from_secs(1);

/// What this comet knows about the session store.
pub(super) struct Announcer {
    store: Mutex<Store>,
    changed: Notify,
    chunks: mpsc::Sender<Chunk>,
}

#[derive(Default)]
struct Store {
    incarnation: Option<u64>,
    /// Earlier incarnations, and when each was replaced.
    old: VecDeque<(u64, Instant)>,
    heard: Option<Instant>,
    changed: Option<Instant>,
    /// Another incarnation was known before, so the store may really have lost something.
    is_another: bool,
}

/// A part of a shard's sessions, which is on its way through the lanes.
pub(super) struct Chunk {
    /// The slot at which the next chunk begins; none after the last one.
    next: Option<u32>,
    /// A lane was full, so the front has to ask for this chunk again.
    is_partial: bool,
    /// Closes when logic has all sessions of the chunk.
    done: mpsc::Receiver<()>,
    sessions: usize,
}

impl Announcer {
    pub(super) fn new() -> (Announcer, mpsc::Receiver<Chunk>) {
        // The front asks for one chunk at a time.
        let (chunks, coming) = mpsc::channel(1);
        (Announcer { store: Mutex::default(), changed: Notify::new(), chunks }, coming)
    }

    /// Notes what logic said. The first incarnation counts as a change too, since sessions may be older than it.
    pub(super) fn heard(&self, renewed: &Renewed) {
        let mut store = lock(&self.store);
        let now = Instant::now();
        store.heard = Some(now);
        let Some(incarnation) = renewed.incarnation else { return };
        store.old.retain(|(_, at)| now.duration_since(*at) < OLD_REMEMBERED);
        // Some logics notice a change later than others and still tell an old incarnation.
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

    /// Takes a chunk of a shard's open sessions and hands it to the lanes. It comes in order with the shard's other
    /// mail.
    pub(super) fn chunk(&self, front: &Front, sessions: Vec<SessionRef>, next: Option<u32>) {
        let count = sessions.len();
        let (done, is_partial) = front.lanes.announce(front, sessions);
        // The channel has room for the one chunk that the front asked for.
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
