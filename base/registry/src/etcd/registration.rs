//! Keeps one's own keys in etcd, whatever happens to them.

use std::convert::Infallible;

use async_trait::async_trait;
use etcd_client::{Client, EventType, WatchOptions, WatchStream};
use host::backoff::Backoff;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    super::{Node, NodeState, Registration, RegistryError, Standing},
    connect::{Members, Question, Trouble, backoff, pause},
    contact::Talker,
    keys::Keys,
    layout::PlaceError,
    terms::Terms,
};

/// The registration of one node.
///
/// **One loop looks after it.** The loop wakes up when the lease has to be renewed, when the node has changed, when
/// etcd reports a change of a key, or after a failed attempt. Each time it [repairs everything](Keys::settle), and does
/// not ask what was wrong. It waits for something only if all is well.
pub(super) struct Own {
    terms: Terms,
    members: Members,
    talker: Talker,
    client: Option<Client>,
    keys: Keys,
    /// Who waits to hear that the first registration failed, and after how many more failures it hears so.
    first: Option<(oneshot::Sender<RegistryError>, usize)>,
}

impl Own {
    pub(super) fn new(terms: Terms, members: Members, node: Node) -> Result<Self, PlaceError> {
        let talker = terms.contact.talker();
        let keys = Keys::new(&terms, node)?;
        Ok(Self { terms, members, talker, client: None, keys, first: None })
    }

    /// Keeps the keys from now on, in a task that ends when the returned value is dropped. The receiver hears of it if
    /// there were as many failures as etcd has members before the node was registered.
    pub(super) fn keep(mut self) -> (Kept, oneshot::Receiver<RegistryError>) {
        let (state, states) = watch::channel(self.keys.state());
        let (failed, has_failed) = oneshot::channel();
        self.first = Some((failed, self.members.len()));
        let standing = self.keys.standing();
        (Kept { state, standing, task: tokio::spawn(self.run(states)) }, has_failed)
    }

    async fn run(mut self, states: watch::Receiver<NodeState>) {
        let mut handle = states.clone();
        tokio::select! {
            () = async { while handle.changed().await.is_ok() {} } => {}
            never = self.hold(states) => match never {},
        }
        self.terms.contact.ended(self.talker);
        self.revoke().await;
        self.keys.ended();
    }

    async fn hold(&mut self, mut states: watch::Receiver<NodeState>) -> Infallible {
        let mut backoff = backoff();
        loop {
            let mut client = self.reach().await;
            self.client = Some(client.clone());
            let Err(trouble) = self.serve(&mut client, &mut states, &mut backoff).await;
            self.client = None;
            self.failed(&trouble);
            pause(&mut backoff, &trouble).await;
        }
    }

    /// Returns a client of a member that answers. The lease may run out meanwhile.
    async fn reach(&mut self) -> Client {
        let Self { terms, members, talker, keys, first, .. } = self;
        let question = Question::key(keys.path());
        let failed = |member: &str, trouble: &Trouble| {
            terms.contact.failed(*talker, member, trouble);
            tell_first(first, trouble);
        };
        tokio::select! {
            biased;
            client = members.reach(question, failed) => client,
            never = keys.lapses() => match never {},
        }
    }

    fn failed(&mut self, trouble: &Trouble) {
        self.terms.contact.failed(self.talker, self.members.current(), trouble);
        tell_first(&mut self.first, trouble);
    }

    /// Keeps everything right until etcd fails.
    async fn serve(
        &mut self,
        client: &mut Client,
        states: &mut watch::Receiver<NodeState>,
        backoff: &mut Backoff,
    ) -> Result<Infallible, Trouble> {
        let mut changes: Option<WatchStream> = None;
        loop {
            let state = *states.borrow_and_update();
            match self.keys.settle(client, &self.members, state).await {
                Ok(()) => {}
                // etcd answers, so the next attempt gets a new lease.
                Err(Trouble::LeaseGone) => {
                    backoff.pause().await;
                    continue;
                }
                Err(trouble) => return Err(trouble),
            }
            self.first = None;
            self.terms.contact.worked(self.talker);
            backoff.reset();
            let changes = match &mut changes {
                Some(changes) => changes,
                None => changes.insert(self.watch(client).await?),
            };
            self.idle(changes, states).await?;
        }
    }

    /// Watches every change of the two keys since the last look.
    async fn watch(&self, client: &mut Client) -> Result<WatchStream, Trouble> {
        let [key, meta] = self.keys.paths();
        let options = || Some(WatchOptions::new().with_start_revision(self.keys.seen() + 1));
        let mut changes = self.members.ask(client.watch(key, options())).await?;
        self.members.ask(changes.watch(meta, options())).await?;
        Ok(changes)
    }

    /// Waits for a reason to look at everything again.
    async fn idle(
        &mut self,
        changes: &mut WatchStream,
        states: &mut watch::Receiver<NodeState>,
    ) -> Result<(), Trouble> {
        loop {
            let state = *states.borrow_and_update();
            let update_at = self.keys.update_at(state);
            tokio::select! {
                () = sleep_until(self.keys.renew_at()) => return Ok(()),
                () = sleep_until(update_at.unwrap_or_else(Instant::now)), if update_at.is_some() => return Ok(()),
                Ok(()) = states.changed() => {}
                change = changes.message() => {
                    let change = change?.ok_or_else(|| Trouble::Away("the watch has ended".to_owned()))?;
                    if change.canceled() {
                        return Err(Trouble::Away(format!("the watch was cancelled: {}", change.cancel_reason())));
                    }
                    let mut is_ours = true;
                    for event in change.events() {
                        let is_there = event.event_type() == EventType::Put;
                        is_ours &= event.kv().is_none_or(|kv| self.keys.changed(kv, is_there));
                    }
                    if !is_ours {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Revokes the lease, and thereby removes the keys. Tries as often as there are members. If all attempts fail, the
    /// lease ends by itself.
    async fn revoke(&mut self) {
        let Some(lease) = self.keys.lease() else { return };
        for _ in 0..self.members.len() {
            match self.revoke_once(lease).await {
                Ok(()) | Err(Trouble::LeaseGone) => return,
                Err(_) => self.client = None,
            }
        }
        let ttl = self.terms.lease_ttl;
        let key = self.keys.path();
        tracing::warn!(key, "etcd did not take the key back: it ends with its lease in {ttl:?}");
    }

    async fn revoke_once(&mut self, lease: i64) -> Result<(), Trouble> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => self.members.connect().await?,
        };
        self.members.ask(client.lease_revoke(lease)).await?;
        Ok(())
    }
}

/// Tells whoever waits, once every member has had its chance.
fn tell_first(first: &mut Option<(oneshot::Sender<RegistryError>, usize)>, trouble: &Trouble) {
    let Some((failed, chances)) = first.take() else { return };
    if chances > 1 {
        *first = Some((failed, chances - 1));
        return;
    }
    // Whoever asked may no longer wait.
    let _ = failed.send(match trouble {
        Trouble::Refused(why) => RegistryError::Refused(why.clone()),
        trouble => RegistryError::Unavailable(trouble.to_string()),
    });
}

/// A registration that is kept. Dropping the sender ends it.
pub(super) struct Kept {
    state: watch::Sender<NodeState>,
    standing: watch::Receiver<Standing>,
    task: JoinHandle<()>,
}

#[async_trait]
impl Registration for Kept {
    fn update(&self, state: NodeState) {
        self.state.send_replace(state);
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    async fn deregister(self: Box<Self>) {
        let Self { state, task, .. } = *self;
        drop(state);
        // Nobody cancels the task, and a panic was reported where it happened.
        let _ = task.await;
    }
}
