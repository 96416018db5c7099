//! The two keys of a node and their lease: tells what is known about them, and repairs them.

use std::{convert::Infallible, future, mem::replace};

use etcd_client::{Client, Compare, CompareOp, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    super::{Node, NodeState, Standing},
    connect::{Members, Trouble},
    layout::{META, PlaceError},
    meta::Meta,
    terms::{Terms, UPDATE_EVERY},
};

/// The keys of one node. Both are attached to one lease and go with it. If another process has written the keys anew,
/// they are attached to its lease, and stay.
pub(super) struct Keys {
    terms: Terms,
    path: String,
    node: Node,
    lease: Option<Lease>,
    /// The keys were written at least once. The first write replaces whatever is there.
    is_claimed: bool,
    /// The state of the node that was last written, and when.
    told: NodeState,
    told_at: Instant,
    /// The key beside the node's own is not as we wrote it.
    is_meta_lost: bool,
    /// The revision of the last look at the keys.
    seen: i64,
    standing: watch::Sender<Standing>,
}

/// A lease that was granted.
#[derive(Clone, Copy)]
struct Lease {
    id: i64,
    /// When it was last renewed. It lives for at least its time to live from then.
    renewed: Instant,
}

impl Keys {
    pub(super) fn new(terms: &Terms, node: Node) -> Result<Self, PlaceError> {
        Ok(Self {
            path: terms.layout.key(&node)?,
            terms: terms.clone(),
            lease: None,
            is_claimed: false,
            told: node.state(),
            told_at: Instant::now(),
            is_meta_lost: false,
            seen: 0,
            standing: watch::Sender::new(Standing::Pending),
            node,
        })
    }

    /// The path of the node's own key.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The paths of the node's own key and of the one beside it.
    pub(super) fn paths(&self) -> [String; 2] {
        [self.path.clone(), format!("{META}{}", self.path)]
    }

    pub(super) fn state(&self) -> NodeState {
        self.told
    }

    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// The revision of the last look at the keys.
    pub(super) fn seen(&self) -> i64 {
        self.seen
    }

    pub(super) fn lease(&self) -> Option<i64> {
        self.lease.map(|lease| lease.id)
    }

    /// When the lease has to be renewed, which happens three times in its life.
    pub(super) fn renew_at(&self) -> Instant {
        self.lease.map_or_else(Instant::now, |lease| lease.renewed + self.terms.lease_ttl / 3)
    }

    /// When this state has to be written; none if it is written already, or if another process has the key. Counts wait
    /// for a second; a change of `offline` does not.
    pub(super) fn update_at(&self, state: NodeState) -> Option<Instant> {
        match state {
            _ if *self.standing.borrow() == Standing::Replaced => None,
            state if state == self.told => None,
            state if state.offline == self.told.offline => Some(self.told_at + UPDATE_EVERY),
            _ => Some(self.told_at),
        }
    }

    /// Waits for ever. If the lease runs out meanwhile, the node counts as no longer registered.
    pub(super) async fn lapses(&self) -> Infallible {
        if let Some(lease) = self.lease {
            sleep_until(lease.renewed + self.terms.lease_ttl).await;
            self.lost("its lease has run out while etcd was away");
        }
        future::pending().await
    }

    /// etcd reports that one of the keys was written or deleted. False if it is not as we left it.
    pub(super) fn changed(&mut self, kv: &KeyValue, is_there: bool) -> bool {
        if kv.mod_revision() <= self.seen || is_there && Some(kv.lease()) == self.lease() {
            return true;
        }
        match kv.key() == self.path.as_bytes() {
            true if !is_there => self.lost("its key was deleted from etcd"),
            // The next look shows whether another process has taken the key.
            true => {}
            false => self.is_meta_lost = true,
        }
        false
    }

    /// Looks at everything and repairs what is wrong. Afterwards the lease lives, the key is there and is ours, and the
    /// one beside it holds the present state. May be cancelled at any point and called again.
    pub(super) async fn settle(
        &mut self,
        client: &mut Client,
        members: &Members,
        state: NodeState,
    ) -> Result<(), Trouble> {
        let settled = self.settle_once(client, members, state).await;
        // Whichever of the requests reported it.
        if matches!(settled, Err(Trouble::LeaseGone)) {
            self.lease = None;
            self.lost("its lease has ended");
        }
        settled
    }

    async fn settle_once(
        &mut self,
        client: &mut Client,
        members: &Members,
        state: NodeState,
    ) -> Result<(), Trouble> {
        let lease = self.renewed(client, members).await?;
        if !self.is_claimed {
            let puts = Txn::new().and_then(self.puts(lease, state));
            let answer = members.ask(client.txn(puts)).await?;
            self.is_claimed = true;
            self.has_written(state, answer.header().map_or(0, |header| header.revision()));
            return Ok(());
        }
        let is_due = self.update_at(state).is_some_and(|at| at <= Instant::now());
        let meta = (is_due || self.is_meta_lost).then(|| self.put_meta(lease, state));
        let is_told = meta.is_some();
        let ours = Txn::new()
            .when([Compare::lease(self.path.as_str(), CompareOp::Equal, lease)])
            .and_then(meta.into_iter().collect::<Vec<_>>())
            .or_else([TxnOp::get(self.path.as_str(), None)]);
        let answer = members.ask(client.txn(ours)).await?;
        let revision = answer.header().map_or(0, |header| header.revision());
        if answer.succeeded() {
            if is_told {
                self.has_told(state);
            }
            self.stands(revision);
            return Ok(());
        }
        let is_there =
            matches!(answer.op_responses().first(), Some(TxnOpResponse::Get(got)) if !got.kvs().is_empty());
        if !is_there {
            self.lost("its key has gone from etcd");
            let free = Compare::version(self.path.as_str(), CompareOp::Equal, 0);
            let puts = Txn::new().when([free]).and_then(self.puts(lease, state));
            let answer = members.ask(client.txn(puts)).await?;
            if answer.succeeded() {
                self.has_written(state, answer.header().map_or(0, |header| header.revision()));
                return Ok(());
            }
        }
        self.seen = revision;
        self.is_replaced();
        Ok(())
    }

    /// Returns a lease that lives: renews the present one if it is time, or gets a new one.
    async fn renewed(&mut self, client: &mut Client, members: &Members) -> Result<i64, Trouble> {
        let now = Instant::now();
        match self.lease {
            Some(lease) if now < self.renew_at() => return Ok(lease.id),
            Some(lease) => {
                members.ask(client.lease_keep_alive(lease.id)).await?;
                self.lease = Some(Lease { renewed: now, ..lease });
                return Ok(lease.id);
            }
            None => {}
        }
        // Whole seconds, not fewer than configured.
        let seconds = self.terms.lease_ttl.as_millis().div_ceil(1000);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let granted = members.ask(client.lease_grant(seconds, None)).await?;
        // Keep it as soon as it is granted, so that it can be revoked whatever becomes of the keys.
        self.lease = Some(Lease { id: granted.id(), renewed: now });
        Ok(granted.id())
    }

    fn puts(&mut self, lease: i64, state: NodeState) -> [TxnOp; 2] {
        let options = PutOptions::new().with_lease(lease);
        let key = TxnOp::put(self.path.as_str(), self.node.server.as_str(), Some(options));
        [key, self.put_meta(lease, state)]
    }

    fn put_meta(&mut self, lease: i64, state: NodeState) -> TxnOp {
        self.node.set_state(state);
        self.node.updated = host::clock::wall();
        let json = Meta::of(&self.node, &self.terms.layout).to_json();
        TxnOp::put(format!("{META}{}", self.path), json, Some(PutOptions::new().with_lease(lease)))
    }

    fn has_told(&mut self, state: NodeState) {
        (self.told, self.told_at) = (state, Instant::now());
        self.is_meta_lost = false;
    }

    fn has_written(&mut self, state: NodeState, revision: i64) {
        self.has_told(state);
        self.terms.metrics.puts.inc();
        if !matches!(*self.standing.borrow(), Standing::Pending) {
            tracing::info!(key = self.path, "registered again");
        }
        self.stands(revision);
    }

    fn stands(&mut self, revision: i64) {
        self.seen = revision;
        self.stand(Standing::Registered);
    }

    fn lost(&self, why: &'static str) {
        if matches!(*self.standing.borrow(), Standing::Registered) {
            tracing::warn!(key = self.path, "not registered any more: {why}");
            self.terms.metrics.lost.inc();
            self.stand(Standing::Lost(why));
        }
    }

    fn is_replaced(&self) {
        if self.stand(Standing::Replaced) {
            self.terms.metrics.lost.inc();
            tracing::warn!(
                key = self.path,
                "another process has registered under this name and counts instead of this one; \
                 two that run for long need different -host or ports"
            );
        }
    }

    /// Notes that the registration has ended.
    pub(super) fn ended(&self) {
        self.terms.metrics.registered.set(0);
    }

    /// Whether this standing is new.
    fn stand(&self, standing: Standing) -> bool {
        self.terms.metrics.registered.set(i64::from(standing == Standing::Registered));
        self.standing.send_if_modified(|known| replace(known, standing) != standing)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use contract::ClientCount;
    use proto::ids::ServerId;

    use super::{
        super::{super::Service, contact::Contact, layout::Layout, metrics::RegistryMetrics},
        *,
    };

    /// etcd is not asked again and again for what cannot be written.
    #[test]
    fn what_is_to_be_written_waits_for_its_time_and_for_the_key() {
        let metrics = RegistryMetrics::default();
        let terms = Terms {
            layout: Layout::default(),
            lease_ttl: Duration::from_secs(15),
            contact: Arc::new(Contact::new(metrics.clone())),
            metrics: metrics.clone(),
        };
        let [region, zone, env] = ["sh", "sh001", "prod"].map(str::to_owned);
        let node = Node { region, zone, env, ..Node::new(Service::Comet, ServerId::new("127.0.0.1:3109")) };
        let mut keys = Keys::new(&terms, node).unwrap();
        let five = NodeState { clients: ClientCount { connections: 5, addresses: 1 }, offline: false };
        keys.has_written(NodeState::default(), 1);
        assert_eq!(keys.update_at(NodeState::default()), None);
        assert_eq!(keys.update_at(five), Some(keys.told_at + UPDATE_EVERY));
        assert_eq!(keys.update_at(NodeState { offline: true, ..five }), Some(keys.told_at));
        keys.is_replaced();
        assert_eq!(keys.update_at(five), None);
        keys.has_written(five, 2);
        assert_eq!((keys.update_at(five), metrics.lost.get(), metrics.puts.get()), (None, 1, 2));
    }
}
