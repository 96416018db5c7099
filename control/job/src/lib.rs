//! job: carries every accepted push to the comets it concerns.
//!
//! job reads the broker in order and hands each entry to the links of the comets it concerns. A link is a bounded queue
//! and a task, so a comet that is slow or gone delays no other. What a comet does not take in time, job gives up for
//! this comet, and counts. When all comets of an entry have taken it or were given up, job acknowledges the entry to
//! the broker, in order. An entry that no comet took, and an entry that is no push, becomes a dead letter of the
//! broker.
//!
//! While every comet's queue is full, job stops reading. Then the broker fills up, and logic refuses pushes instead of
//! losing them.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

mod awake;
pub mod config;
mod link;
pub mod metrics;
mod route;
mod tracker;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use contract::CometApi;
use grpc::envelope::Envelope;
use host::{dial::Dial, shutdown::Drain, telemetry::OUTSIDERS, tls::Mutual};
use proto::ids::ServerId;
use registry::{Node, NodeSet, Registry, Service};
use tokio::{
    sync::watch,
    task::{JoinHandle, yield_now},
    time::sleep,
};
use tracing::{Level, info, warn};

pub use self::link::batch::Calls;
use broker::{Broker, ConsumeError, Consumer, Delivery};
use comet_client::GrpcComet;

use self::{
    link::{Common, Link, LinkLimits},
    route::{To, route},
    tracker::Settled,
};
use crate::{
    config::JobConfig,
    metrics::{DropReason, JobMetrics},
};

/// The group of the broker that all jobs share. goim's jobs use the same name.
pub const GROUP: &str = "goim-push-group-job";

/// Most entries that job reads at once. Between two reads other tasks of the thread run.
const READ_MAX: usize = 256;

/// Pause before job asks a broker again that is away.
const BROKER_PAUSE: Duration = Duration::from_millis(200);

/// One comet, and how to call it.
#[derive(Clone)]
pub struct Comet {
    /// Its id.
    pub server: ServerId,
    /// What answers for it.
    pub api: Arc<dyn CometApi>,
    /// What one call carries.
    pub calls: Calls,
    /// Its dispatch stream, which job tries before calls. None inside one process, where there are only calls.
    pub stream: Option<GrpcComet>,
}

/// Tells how to reach a comet that appeared; none if that is impossible. Then the function itself logs why.
pub type Connect = Box<dyn Fn(&Node) -> Option<Comet> + Send + Sync>;

/// What job works with.
pub struct JobDeps {
    /// Where pushes come from.
    pub broker: Arc<dyn Broker>,
    /// The group of jobs that this one shares the pushes with.
    pub group: String,
    /// Which comets there are.
    pub registry: Arc<dyn Registry>,
    /// How to reach them.
    pub connect: Connect,
    /// What job measures.
    pub metrics: JobMetrics,
    /// Tells job to end. If the broker does not outlive the process, job first dispatches what is on it, so whoever
    /// publishes has to close the broker.
    pub drain: Drain,
}

/// job at work.
pub struct Job {
    task: JoinHandle<()>,
}

/// Starts job. Never fails: if the broker is away, job waits until it comes.
pub fn start(config: &JobConfig, deps: JobDeps) -> Job {
    let JobDeps { broker, group, registry, connect, metrics, drain } = deps;
    let limits = LinkLimits {
        bytes: config.dispatch.queue_bytes.usize(),
        entries: config.dispatch.queue_entries.usize(),
        give_up: config.dispatch.give_up.get(),
    };
    let (tracker, room) = (Arc::default(), Arc::default());
    let run = Run {
        broker,
        group,
        nodes: registry.watch(),
        registry,
        connect,
        drain,
        common: Common { limits, metrics, tracker, room },
        links: BTreeMap::new(),
        pending: VecDeque::new(),
        no_comet_told: false,
    };
    Job { task: tokio::spawn(run.run()) }
}

impl Job {
    /// Waits until job has ended. That is when the drain has begun and everything that job read was dispatched or given
    /// up.
    pub async fn stopped(self) {
        // Nobody cancels the task, and a panic in it ends the process.
        let _ = self.task.await;
    }
}

/// Reaches comets in other processes, for [`JobDeps::connect`]: by the dispatch stream of `halley.v1`, or by goim's
/// unary calls if a comet knows no stream; with the certificates of `tls`, if there are any. Call this on a tokio runtime.
pub fn connect_by_grpc(config: &JobConfig, tls: Option<Mutual>) -> Connect {
    let dial = Dial { limit: config.dispatch.timeout.get(), tls };
    let calls = Calls::Unary { join_max: config.room.batch.usize(), join_within: config.room.signal.get() };
    Box::new(move |node| match GrpcComet::new(&node.server, &dial) {
        Ok(comet) => {
            let (server, stream) = (node.server.clone(), Some(comet.clone()));
            Some(Comet { server, api: Arc::new(comet), calls, stream })
        }
        Err(error) => {
            warn!("{error}: nothing is dispatched to it");
            None
        }
    })
}

struct Run {
    broker: Arc<dyn Broker>,
    group: String,
    registry: Arc<dyn Registry>,
    nodes: watch::Receiver<Arc<NodeSet>>,
    connect: Connect,
    drain: Drain,
    common: Common,
    links: BTreeMap<ServerId, Link>,
    /// What job has read and not yet handed to a link.
    pending: VecDeque<Delivery>,
    /// "No comet" was logged. It is logged once, and again only after the comets have changed.
    no_comet_told: bool,
}

impl Run {
    async fn run(mut self) {
        // Before the first comet is known, job would find no receiver for what it reads and drop it.
        let drain = self.drain.clone();
        tokio::select! {
            () = self.first_comet() => {}
            () = drain.draining() => return,
        }
        let Some(mut consumer) = self.join_group().await else { return };
        self.update_links();
        let ends_at_drain = self.broker.outlives_process();
        let mut is_watching = true;
        let (tracker, room) = (Arc::clone(&self.common.tracker), Arc::clone(&self.common.room));
        loop {
            self.route_pending();
            tokio::select! {
                // First what frees memory, last what takes more.
                biased;
                () = tracker.moved() => self.settle(&mut *consumer).await,
                changed = self.nodes.changed(), if is_watching => {
                    is_watching = changed.is_ok();
                    if is_watching {
                        self.update_links();
                    }
                }
                () = self.drain.draining(), if ends_at_drain => break,
                () = room.notified(), if !self.pending.is_empty() || self.is_parting() => self.part(),
                read = consumer.next_batch(READ_MAX), if self.pending.is_empty() => match read {
                    Ok(deliveries) => {
                        self.pending.extend(deliveries);
                        yield_now().await;
                    }
                    Err(ConsumeError::Ended) => break,
                    Err(ConsumeError::Unavailable(why)) => self.broker_away(&why).await,
                },
            }
        }
        self.finish(&mut *consumer).await;
        consumer.leave().await;
    }

    /// Waits until the registry knows the comets. If there is none, waits for the first one, at most as long as a push
    /// waits for a comet: where everything starts at once, job may be up before the comets.
    async fn first_comet(&mut self) {
        self.registry.known().await;
        let first = self.nodes.wait_for(|nodes| nodes.of(Service::Comet).next().is_some());
        let _ = host::awake::timeout(self.common.limits.give_up, first).await;
    }

    /// Tries until the broker lets job in; none if the drain begins first.
    async fn join_group(&self) -> Option<Box<dyn Consumer>> {
        loop {
            match self.broker.consume(&self.group).await {
                Ok(consumer) => return Some(consumer),
                Err(_) if self.drain.is_draining() => return None,
                Err(error) => self.broker_away(&error).await,
            }
        }
    }

    async fn broker_away(&self, why: &(dyn std::fmt::Display + Sync)) {
        OUTSIDERS.log(Level::WARN, || warn!("the broker is unavailable, trying again: {why}"));
        sleep(BROKER_PAUSE).await;
    }

    /// Starts links to the comets that came, and marks those of the comets that went.
    fn update_links(&mut self) {
        let nodes = Arc::clone(&self.nodes.borrow_and_update());
        for (server, link) in &mut self.links {
            let node = nodes.get(Service::Comet, server);
            self.no_comet_told &= node.is_some() == link.is_listed();
            link.set_listed(node.map(|node| node.offline));
        }
        self.part();
        for node in nodes.of(Service::Comet) {
            if !self.links.contains_key(&node.server)
                && let Some(comet) = (self.connect)(node)
            {
                info!(comet = %node.server, "dispatching to it");
                let mut link = Link::start(comet, self.common.clone());
                link.set_listed(Some(node.offline));
                self.links.insert(node.server.clone(), link);
                self.no_comet_told = false;
            }
        }
    }

    /// Whether there is a link whose comet has left the registry.
    fn is_parting(&self) -> bool {
        self.links.values().any(|link| !link.is_listed())
    }

    /// Ends the idle links of comets that have left. A draining comet waits for its link to end, because then it has
    /// all pushes that were meant for it.
    fn part(&mut self) {
        self.links.retain(|_, link| link.is_open() || !link.is_idle());
    }

    /// Hands to the links what job has read, until all of them are full.
    fn route_pending(&mut self) {
        while self.has_room()
            && let Some(delivery) = self.pending.pop_front()
        {
            self.route(delivery);
        }
    }

    /// Whether job can hand out another entry. If there is no comet it can, since the entry becomes a dead letter.
    fn has_room(&self) -> bool {
        let mut open = self.links.values().filter(|link| link.is_open()).peekable();
        open.peek().is_none() || open.any(|link| link.has_room())
    }

    fn route(&mut self, delivery: Delivery) {
        let Common { metrics, tracker, .. } = &self.common;
        let envelope = match Envelope::parse(delivery.bytes.clone()) {
            Ok(envelope) => envelope,
            Err(error) => {
                metrics.drops.of(DropReason::Poison).inc();
                let size = delivery.bytes.len();
                OUTSIDERS.log(Level::WARN, || {
                    warn!("an entry of {size} bytes on the broker is no push, it is put aside: {error}");
                });
                tracker.start(delivery, 0);
                return;
            }
        };
        let open = || self.links.values().filter(|link| link.is_open());
        let (to, dispatch) = route(envelope, open().count());
        let links: Vec<&Link> = match &to {
            To::One(server) => self.links.get(server).filter(|link| link.is_open()).into_iter().collect(),
            To::Every => open().collect(),
        };
        let ticket = tracker.start(delivery, links.len());
        let Some((last, others)) = links.split_last() else {
            metrics.drops.of(DropReason::NoComet).inc();
            if !std::mem::replace(&mut self.no_comet_told, true) {
                match to {
                    To::One(server) => {
                        warn!(comet = %server, "pushes to a comet that is not there are put aside as dead letters");
                    }
                    To::Every => warn!("there is no comet, pushes are put aside as dead letters"),
                }
            }
            return;
        };
        for link in others {
            link.offer(dispatch.clone(), ticket);
        }
        last.offer(dispatch, ticket);
    }

    /// Writes what no comet took to the dead letters, then acknowledges what is done.
    async fn settle(&self, consumer: &mut dyn Consumer) {
        let Settled { dead, watermarks } = self.common.tracker.settled();
        if !dead.is_empty() {
            self.broker.dead_letter(dead).await;
        }
        for position in watermarks {
            // If this fails, a later acknowledgement covers the entry. Until then the broker may deliver it again.
            if let Err(error) = consumer.ack(&position).await {
                OUTSIDERS.log(Level::WARN, || warn!("cannot acknowledge to the broker: {error}"));
            }
        }
    }

    /// Waits until everything that job read was dispatched or given up.
    async fn finish(mut self, consumer: &mut dyn Consumer) {
        let (tracker, room) = (Arc::clone(&self.common.tracker), Arc::clone(&self.common.room));
        loop {
            self.route_pending();
            // Look before settling. Entries that are done while `settle` waits for the broker need another round.
            let is_done = self.pending.is_empty() && tracker.is_idle();
            self.settle(consumer).await;
            if is_done {
                break;
            }
            tokio::select! {
                () = tracker.moved() => {}
                () = room.notified() => {}
            }
        }
        for (_, link) in std::mem::take(&mut self.links) {
            link.finish().await;
        }
    }
}
