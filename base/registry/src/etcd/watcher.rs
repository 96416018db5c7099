//! The watch: lists the keys, takes every change since, and lists again when that breaks.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use etcd_client::{
    Client, Event, EventType, GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse, WatchOptions, WatchResponse,
};
use host::backoff::Backoff;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

use super::{
    super::NodeSet,
    connect::{Members, Question, Trouble, backoff, pause},
    contact::{Contact, Talker},
    metrics::RegistryMetrics,
    view::{Record, View},
};

/// A task that wakes up later than this has probably stood still.
const LATE: Duration = Duration::from_secs(1);

/// Follows the keys of some scopes.
///
/// **A node vanishes at once only if etcd was there all the time.** After an outage, nodes that are gone may be alive
/// and about to register again. They stay until etcd has been back for one lease. No outage that is long enough to end
/// a lease is missed: leases are renewed when a third of them is gone, and the watch ends after a silence of a fifth of
/// a lease and `dialTimeout` (a third at most).
pub(super) struct Watcher {
    pub(super) members: Members,
    pub(super) view: View,
    /// The prefixes of all watched keys.
    pub(super) prefixes: BTreeSet<String>,
    pub(super) nodes: watch::Sender<Arc<NodeSet>>,
    pub(super) contact: Arc<Contact>,
    pub(super) metrics: RegistryMetrics,
    pub(super) lease_ttl: Duration,
    /// True after the first list.
    pub(super) listed: watch::Sender<bool>,
    /// Until this time a node that is gone is kept as missing.
    pub(super) grace_until: Instant,
}

impl Watcher {
    pub(super) async fn run(mut self) -> Infallible {
        let mut backoff = backoff();
        loop {
            let mut client = self.reach().await;
            let trouble = match self.list(&mut client).await {
                Ok(revision) => {
                    self.contact.worked(Talker::WATCH);
                    let Err(broken) = self.follow(&mut client, revision + 1, &mut backoff).await;
                    // The next list tells whether etcd is away.
                    tracing::debug!("the watch of etcd begins anew: {broken}");
                    broken
                }
                Err(trouble) => {
                    self.contact.failed(Talker::WATCH, self.members.current(), &trouble);
                    trouble
                }
            };
            pause(&mut backoff, &trouble).await;
        }
    }

    /// Returns a client of a member that answers.
    async fn reach(&mut self) -> Client {
        let (question, contact) = (self.question(), &self.contact);
        let failed = |member: &str, trouble: &Trouble| contact.failed(Talker::WATCH, member, trouble);
        self.members.reach(question, failed).await
    }

    fn question(&self) -> Question {
        Question::prefix(self.prefixes.first().expect("a registry watches something"))
    }

    /// Reads everything at one revision. Returns that revision.
    async fn list(&mut self, client: &mut Client) -> Result<i64, Trouble> {
        let get = |prefix: &String| TxnOp::get(prefix.as_str(), Some(GetOptions::new().with_prefix()));
        let gets: Vec<_> = self.prefixes.iter().map(get).collect();
        let answer = self.members.ask(client.txn(Txn::new().and_then(gets))).await?;
        self.metrics.lists.inc();
        if *self.listed.borrow() {
            self.grace_until = Instant::now() + self.lease_ttl;
        }
        let answers = answer.op_responses();
        let records = answers.iter().flat_map(|answer| match answer {
            TxnOpResponse::Get(got) => got.kvs(),
            _ => &[],
        });
        self.view.replace(records.filter_map(record), host::clock::wall());
        self.publish();
        self.listed.send_replace(true);
        Ok(answer.header().map_or(0, |header| header.revision()))
    }

    /// Takes every change from `revision` on, until that breaks.
    pub(super) async fn follow(
        &mut self,
        client: &mut Client,
        revision: i64,
        backoff: &mut Backoff,
    ) -> Result<Infallible, Trouble> {
        let options = || Some(WatchOptions::new().with_prefix().with_start_revision(revision));
        let mut prefixes = self.prefixes.iter();
        let first = prefixes.next().expect("a registry watches something").as_str();
        let mut changes = self.members.ask(client.watch(first, options())).await?;
        for prefix in prefixes {
            self.members.ask(changes.watch(prefix.as_str(), options())).await?;
        }
        let every = self.lease_ttl / 5;
        let mut probe = interval_at(Instant::now() + every, every);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (missing, turn) = (self.view.missing() > 0, Instant::now());
            tokio::select! {
                change = changes.message() => {
                    let change = change?.ok_or_else(|| Trouble::Away("the watch has ended".to_owned()))?;
                    self.take(client, &change).await?;
                }
                // A watch is silent while nothing changes, but also when etcd is dead. So ask.
                _ = probe.tick() => {
                    self.members.question(client, self.question()).await?;
                    backoff.reset();
                }
                () = sleep_until(self.grace_until), if missing => {
                    // This process may have stood still. Nodes that came back meanwhile are still unread in the socket.
                    if turn.elapsed() > every + LATE || self.grace_until.elapsed() > LATE {
                        self.grace_until = Instant::now() + LATE;
                        continue;
                    }
                    self.view.forget_missing();
                    self.publish();
                }
            }
        }
    }

    async fn take(&mut self, client: &mut Client, change: &WatchResponse) -> Result<(), Trouble> {
        if change.compact_revision() > 0 {
            return Err(Trouble::Away("its history was compacted".to_owned()));
        }
        if change.canceled() {
            return Err(Trouble::Away(format!("the watch was cancelled: {}", change.cancel_reason())));
        }
        let kept = Instant::now() < self.grace_until;
        for event in change.events() {
            if let Some(meta) = self.event(event, kept) {
                // etcd reports a key and its meta separately, and nobody should see a node half described. So fetch the
                // meta.
                let got = self.members.ask(client.get(meta, None)).await?;
                for record in got.kvs().iter().filter_map(record) {
                    self.view.put(record, host::clock::wall());
                }
            }
        }
        if !change.events().is_empty() {
            self.publish();
        }
        Ok(())
    }

    fn event(&mut self, event: &Event, kept: bool) -> Option<String> {
        let record = event.kv().and_then(record)?;
        match event.event_type() {
            EventType::Put => self.view.put(record, host::clock::wall()),
            EventType::Delete => {
                self.view.delete(record.key, kept);
                None
            }
        }
    }

    fn publish(&self) {
        let set = self.view.nodes();
        self.metrics.nodes.set(gauge(set.len()));
        self.metrics.missing.set(gauge(self.view.missing()));
        self.metrics.ignored.set(gauge(self.view.ignored()));
        self.nodes.send_if_modified(|nodes| {
            let changed = **nodes != set;
            if changed {
                *nodes = Arc::new(set);
            }
            changed
        });
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A key that is text. Other keys cannot belong to this layout.
fn record(kv: &KeyValue) -> Option<Record<'_>> {
    let key = std::str::from_utf8(kv.key()).ok()?;
    Some(Record { key, value: kv.value(), lease: kv.lease(), revision: kv.mod_revision() })
}
