//! One's own key, kept in etcd whatever happens to it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use async_trait::async_trait;
use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    super::{Node, NodeState, Registration},
    connect::{Members, Trouble, backoff},
    contact::{Contact, Talker},
    layout::{Layout, META, PlaceError},
    meta::Meta,
    metrics::RegistryMetrics,
};
use crate::backoff::Backoff;

/// Pause between two updates of the counts.
const UPDATE_EVERY: Duration = Duration::from_secs(1);

/// What a registration shares with its registry.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) layout: Layout,
    pub(super) lease_ttl: Duration,
    pub(super) contact: Arc<Contact>,
    pub(super) metrics: RegistryMetrics,
}

/// The key of one node. Both its keys are attached to one lease: with the lease they go, and what another process has
/// put in their place is attached to another and stays.
pub(super) struct Own {
    terms: Terms,
    members: Members,
    talker: Talker,
    client: Option<Client>,
    key: String,
    node: Node,
    /// Set as soon as it is granted, so that it can be revoked whatever became of the keys.
    lease: Option<i64>,
    /// What is written of the node, and when it was.
    told: NodeState,
    told_at: Instant,
    /// Another process has our key.
    replaced: bool,
}

impl Own {
    pub(super) fn new(terms: Terms, members: Members, node: Node) -> Result<Self, PlaceError> {
        let key = terms.layout.key(&node)?;
        let talker = terms.contact.talker();
        let (told, told_at) = (node.state(), Instant::now());
        Ok(Self {
            terms,
            members,
            talker,
            client: None,
            key,
            node,
            lease: None,
            told,
            told_at,
            replaced: false,
        })
    }

    /// Writes the key the first time, in place of whatever is there.
    pub(super) async fn claim(&mut self) -> Result<(), Trouble> {
        let done = self.claim_once().await;
        if done.is_err() {
            self.client = None;
        }
        done
    }

    async fn claim_once(&mut self) -> Result<(), Trouble> {
        let mut client = self.client().await?;
        let lease = self.lease(&mut client).await?;
        let txn = Txn::new().and_then(self.puts(lease));
        self.members.ask(client.txn(txn)).await?;
        self.has_written();
        Ok(())
    }

    /// Keeps the key from now on, in a task that ends with what is returned.
    pub(super) fn keep(self) -> Kept {
        let (state, states) = watch::channel(self.node.state());
        Kept { state, task: tokio::spawn(self.run(states)) }
    }

    async fn run(mut self, mut states: watch::Receiver<NodeState>) {
        let mut handle = states.clone();
        tokio::select! {
            () = async { while handle.changed().await.is_ok() {} } => {}
            never = self.hold(&mut states) => match never {},
        }
        self.terms.contact.ended(self.talker);
        self.revoke().await;
    }

    async fn hold(&mut self, states: &mut watch::Receiver<NodeState>) -> Infallible {
        let mut backoff = backoff(self.terms.lease_ttl);
        loop {
            let Err(trouble) = self.serve(states, &mut backoff).await;
            self.client = None;
            // A lease that ended between two requests: the next attempt takes a new one.
            if !matches!(trouble, Trouble::LeaseGone) {
                self.terms.contact.failed(self.talker, self.members.current(), &trouble);
            }
            backoff.pause().await;
        }
    }

    /// Renews the lease three times in its life and writes what changed, until etcd fails.
    async fn serve(
        &mut self,
        states: &mut watch::Receiver<NodeState>,
        backoff: &mut Backoff,
    ) -> Result<Infallible, Trouble> {
        let mut renew_at = Instant::now();
        let mut changed = *states.borrow() != self.told;
        loop {
            let told_until = self.told_until(*states.borrow());
            tokio::select! {
                () = sleep_until(renew_at) => {
                    self.renew().await?;
                    self.terms.contact.worked(self.talker);
                    backoff.reset();
                    renew_at = Instant::now() + self.terms.lease_ttl / 3;
                }
                Ok(()) = states.changed() => changed = true,
                () = sleep_until(told_until), if changed => {
                    let state = *states.borrow_and_update();
                    if state != self.told {
                        self.update(state).await?;
                    }
                    changed = false;
                }
            }
        }
    }

    /// Makes sure that the lease lives and has the key.
    async fn renew(&mut self) -> Result<(), Trouble> {
        let mut client = self.client().await?;
        if let Some(lease) = self.lease {
            match self.members.ask(client.lease_keep_alive(lease)).await {
                Ok(_) => {}
                Err(Trouble::LeaseGone) => self.lease = None,
                Err(trouble) => return Err(trouble),
            }
        }
        let lease = self.lease(&mut client).await?;
        self.write(&mut client, lease, Vec::new()).await
    }

    /// When what was told last may be replaced by this.
    fn told_until(&self, state: NodeState) -> Instant {
        match state.offline == self.told.offline {
            true => self.told_at + UPDATE_EVERY,
            false => self.told_at,
        }
    }

    async fn update(&mut self, state: NodeState) -> Result<(), Trouble> {
        let mut client = self.client().await?;
        let lease = self.lease(&mut client).await?;
        self.node.set_state(state);
        let meta = self.put_meta(lease);
        self.write(&mut client, lease, vec![meta]).await?;
        self.has_told();
        Ok(())
    }

    /// Does `operations` if the key is ours, and writes it anew if nobody has it.
    async fn write(
        &mut self,
        client: &mut Client,
        lease: i64,
        operations: Vec<TxnOp>,
    ) -> Result<(), Trouble> {
        let key = self.key.as_str();
        let ours = Txn::new()
            .when([Compare::lease(key, CompareOp::Equal, lease)])
            .and_then(operations)
            .or_else([TxnOp::get(key, None)]);
        let answer = self.members.ask(client.txn(ours)).await?;
        if answer.succeeded() {
            self.replaced = false;
            return Ok(());
        }
        let there =
            matches!(answer.op_responses().first(), Some(TxnOpResponse::Get(got)) if !got.kvs().is_empty());
        if !there {
            let free = Compare::version(key, CompareOp::Equal, 0);
            let put = Txn::new().when([free]).and_then(self.puts(lease));
            let answer = self.members.ask(client.txn(put)).await?;
            if answer.succeeded() {
                self.has_written();
                tracing::info!(key = self.key, "registered again: etcd had lost the key");
                return Ok(());
            }
        }
        if !std::mem::replace(&mut self.replaced, true) {
            tracing::warn!(
                key = self.key,
                "another process has registered under this name and counts instead of this one; \
                 two that run for long need different -host or ports"
            );
        }
        Ok(())
    }

    fn has_told(&mut self) {
        (self.told, self.told_at) = (self.node.state(), Instant::now());
    }

    fn has_written(&mut self) {
        self.has_told();
        self.replaced = false;
        self.terms.metrics.puts.inc();
    }

    /// Both keys.
    fn puts(&mut self, lease: i64) -> [TxnOp; 2] {
        let options = PutOptions::new().with_lease(lease);
        let key = TxnOp::put(self.key.as_str(), self.node.server.as_str(), Some(options));
        [key, self.put_meta(lease)]
    }

    fn put_meta(&mut self, lease: i64) -> TxnOp {
        self.node.updated = crate::clock::wall();
        let json = Meta::of(&self.node, &self.terms.layout).to_json();
        TxnOp::put(format!("{META}{}", self.key), json, Some(PutOptions::new().with_lease(lease)))
    }

    /// The client in use, or one of the next member.
    async fn client(&mut self) -> Result<Client, Trouble> {
        if self.client.is_none() {
            self.client = Some(self.members.connect().await?);
        }
        Ok(self.client.clone().expect("it was put there"))
    }

    /// The lease, or a new one.
    async fn lease(&mut self, client: &mut Client) -> Result<i64, Trouble> {
        if let Some(lease) = self.lease {
            return Ok(lease);
        }
        // Whole seconds, at least those asked for.
        let seconds = self.terms.lease_ttl.as_millis().div_ceil(1000);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let granted = self.members.ask(client.lease_grant(seconds, None)).await?;
        self.lease = Some(granted.id());
        Ok(granted.id())
    }

    /// Takes the lease back, and the keys with it. Every member is asked once: then the lease ends by itself.
    async fn revoke(&mut self) {
        let Some(lease) = self.lease else { return };
        for _ in 0..self.members.len() {
            match self.revoke_once(lease).await {
                Ok(()) | Err(Trouble::LeaseGone) => return,
                Err(_) => self.client = None,
            }
        }
        let ttl = self.terms.lease_ttl;
        tracing::warn!(key = self.key, "etcd did not take the key back: it ends with its lease in {ttl:?}");
    }

    async fn revoke_once(&mut self, lease: i64) -> Result<(), Trouble> {
        let mut client = self.client().await?;
        self.members.ask(client.lease_revoke(lease)).await?;
        Ok(())
    }
}

/// A registration that stands. Its end is the end of the channel.
pub(super) struct Kept {
    state: watch::Sender<NodeState>,
    task: JoinHandle<()>,
}

#[async_trait]
impl Registration for Kept {
    fn update(&self, state: NodeState) {
        self.state.send_replace(state);
    }

    async fn deregister(self: Box<Self>) {
        let Self { state, task } = *self;
        drop(state);
        // It cannot be cancelled, and a panic has been reported where it happened.
        let _ = task.await;
    }
}
