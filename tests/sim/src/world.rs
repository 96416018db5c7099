//! One run: a comet with its shards, logic, job, clients and backends on this thread, and who is next.

use std::{collections::BTreeMap, future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use comet::{
    driver::sim::{
        network::{Faults, Injected, Network},
        reactor,
        reactor::{Reactor, Turn},
    },
    front::{Inbox, Outboxes},
    mailbox::{ShardFlag, TaskFlag, WakeFlag, channel},
};
use seam::{Random, Time};
use tokio::task::yield_now;

use crate::{
    client::Client,
    control::Control,
    oracle::{Oracle, Rules},
    plan::{End, Plan, ServiceFaults},
    secure::Kinds,
    trace::{Lines, Trace},
};

/// How long everything gets to come to rest once nothing more goes wrong.
const SETTLE: Duration = Duration::from_secs(5);

/// How long a drain may take.
const DRAIN_MAX: Duration = Duration::from_secs(25);

/// How long a wake may take: none does, but a thread may be held up in between.
const WAKE_MAX: Duration = Duration::from_millis(20);

/// Steps of the tokio side in which what was put into a queue has to be taken.
const TOKIO_STEPS_MAX: u64 = 200;

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Number of the trace.
    pub hash: u64,
    /// Events on shards and at clients.
    pub events: u64,
    /// Virtual time, microseconds.
    pub micros: u64,
    /// Frames that clients read.
    pub frames: u64,
    /// Pushes that logic accepted.
    pub pushes: u64,
    /// Connections.
    pub connections: u64,
    /// How often each thing happened: faults, closes, drops.
    pub seen: BTreeMap<&'static str, u64>,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Time,
    pub(crate) schedule: Random,
    pub(crate) workload: Random,
    pub(crate) network: Network,
    pub(crate) shards: Vec<Reactor>,
    /// Shards whose thread is held up, and until when.
    pub(crate) frozen: Vec<Time>,
    /// The tokio thread likewise.
    pub(crate) tokio_frozen: Time,
    pub(crate) control: Control,
    pub(crate) clients: Vec<Client>,
    /// How clients with TLS are made.
    pub(crate) kinds: Option<Kinds>,
    pub(crate) oracle: Oracle,
    pub(crate) next_push: u32,
    pub(crate) seen: BTreeMap<&'static str, u64>,
    tokio_steps: u64,
    /// Since when, and since which step of the tokio side, each queue has been left alone with something in it.
    unwoken: Vec<Option<(Time, u64)>>,
    unread: Vec<Option<(Time, u64)>>,
}

impl World {
    pub(crate) async fn new(seed: u64, plan: Plan, lines: Lines) -> World {
        let stream = |name| Random::stream(seed, name);
        let now = Time::from_micros(0);
        let (shards, outboxes, inboxes) = reactors(&plan, now);
        let control = Control::start(&plan, outboxes, inboxes, stream("services")).await;
        let rules = Rules {
            rooms_max: plan.shard.rooms_max,
            accepts_max: plan.shard.accepts_max,
            ignored_max: plan.shard.ignored_max,
            handshake: plan.shard.handshake,
            tls_handshake: plan.shard.tls_handshake,
            unknown_reply_same: plan.shard.unknown_reply_same,
        };
        World {
            now,
            schedule: stream("schedule"),
            workload: stream("workload"),
            network: Network::new(plan.shards, plan.network, stream("network")),
            frozen: vec![now; plan.shards],
            tokio_frozen: now,
            control,
            clients: Vec::new(),
            kinds: (plan.over_tls > 0).then(Kinds::new),
            oracle: Oracle::new(rules, plan.shards, Trace::new(lines)),
            next_push: 0,
            seen: BTreeMap::new(),
            tokio_steps: 0,
            unwoken: vec![None; plan.shards],
            unread: vec![None; plan.shards],
            shards,
            plan,
        }
    }

    /// The whole run. The error is the first thing that was wrong, in words.
    pub(crate) async fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.plan.steps {
            self.slice().await?;
        }
        if self.plan.end != End::DrainInTheMidst {
            self.end_faults();
            self.settle(SETTLE).await?;
            self.check_settled().await?;
        }
        match self.plan.end {
            End::AllLeave => {
                for n in 0..self.clients.len() {
                    self.leave(n);
                }
                self.settle(SETTLE).await?;
            }
            End::Drain | End::DrainInTheMidst => self.drain().await?,
        }
        self.check_empty().await
    }

    /// Somebody or something is next.
    async fn slice(&mut self) -> Result<(), String> {
        match self.schedule.below(100) {
            0..30 => self.tokio_side().await,
            30..62 => {
                let shard = self.schedule.below(self.shards.len());
                let steps = 1 + self.schedule.below(12);
                self.shard_side(shard, steps);
            }
            62..78 => self.somebody_acts().await,
            78..88 => drop(self.clients_read()),
            _ => {
                let millis = if self.schedule.one_in(8) { 300 } else { 15 };
                let micros = self.schedule.below(millis * 1000) as u64;
                self.pass(Duration::from_micros(micros)).await;
            }
        }
        self.verdict()
    }

    /// The gateway goes away, in the order of `halley`.
    async fn drain(&mut self) -> Result<(), String> {
        let draining = tokio::spawn(self.control.drain(Duration::from_secs(1), DRAIN_MAX));
        if self.plan.end == End::DrainInTheMidst {
            for _ in 0..200 {
                self.slice().await?;
            }
            self.end_faults();
        }
        let latest = self.now.after(DRAIN_MAX);
        while !draining.is_finished() && self.now < latest {
            self.settle(SETTLE / 5).await?;
        }
        match draining.is_finished() {
            false => Err("the drain does not end".to_owned()),
            // The counts go around once more; a report may have begun while logic was slow.
            true if draining.await.is_ok_and(|all_gone| all_gone) => self.settle(SETTLE * 2).await,
            true => Err("the drain ended with connections left".to_owned()),
        }
    }

    /// What broke, if something did.
    fn verdict(&mut self) -> Result<(), String> {
        if let Some(what) = self.control.between.take_broken() {
            self.oracle.fail(what);
        }
        match self.oracle.broken.take() {
            Some(what) => Err(what),
            None => Ok(()),
        }
    }

    /// Some tasks of the tokio side run.
    pub(crate) async fn tokio_side(&mut self) {
        if self.tokio_frozen > self.now {
            return;
        }
        for _ in 0..1 + self.schedule.below(4) {
            yield_now().await;
            self.tokio_steps += 1;
        }
        self.note_published();
    }

    /// Clients' messages that logic has put on the broker meanwhile.
    fn note_published(&mut self) {
        for body in self.control.between.take_published() {
            self.oracle.accepted_message(&body, self.plan.push_max);
        }
    }

    /// A shard does some of what it can do; false when it could do nothing.
    pub(crate) fn shard_side(&mut self, shard: usize, steps: usize) -> bool {
        if self.frozen[shard] > self.now {
            return false;
        }
        let mut turn = Turn {
            now: self.now,
            network: &mut self.network,
            schedule: &mut self.schedule,
            watch: &mut self.oracle,
        };
        (0..steps).take_while(|_| self.shards[shard].step(&mut turn)).count() > 0
    }

    /// Time passes.
    pub(crate) async fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        seam::set_micros(self.now.as_micros());
        let mut advance = pin!(tokio::time::advance(time));
        if self.tokio_frozen > self.now {
            // The clock is set before it yields to the tasks, which is where this leaves it.
            poll_fn(|context| {
                let _ = advance.as_mut().poll(context);
                Poll::Ready(())
            })
            .await;
        } else {
            advance.await;
            self.tokio_steps += 1;
            self.note_published();
        }
        self.look_for_lost_wakes();
        self.clients_beat();
    }

    /// Nobody sleeps while there is something for him to do.
    fn look_for_lost_wakes(&mut self) {
        for (index, shard) in self.shards.iter_mut().enumerate() {
            let moment = (self.now, self.tokio_steps);
            let long = |since: &mut Option<(Time, u64)>, is: bool, steps: u64| {
                if !is {
                    *since = None;
                    return false;
                }
                let (began, step) = *since.get_or_insert(moment);
                moment.0.since(began) > WAKE_MAX && moment.1 - step > steps
            };
            let (inbox, in_queue, outside) = shard.waiting();
            if self.frozen[index] <= self.now && long(&mut self.unwoken[index], shard.sleeps_on_work(), 3) {
                self.oracle.fail(format!(
                    "shard {index} sleeps, nobody has woken it, and {inbox} commands wait for it ({outside} of its own mails wait for room)"
                ));
            }
            if self.tokio_frozen <= self.now
                && long(&mut self.unread[index], shard.front_is_told(), TOKIO_STEPS_MAX)
            {
                self.oracle.fail(format!("{in_queue} mails of shard {index} wait, and the front sleeps"));
            }
        }
    }

    /// From now on nothing more goes wrong, and everybody reads.
    fn end_faults(&mut self) {
        self.network.set_faults(Faults::default());
        self.control.between.set_faults(ServiceFaults::default());
        self.frozen.iter_mut().for_each(|until| *until = Time::default());
        self.tokio_frozen = Time::default();
        self.clients.iter_mut().for_each(Client::behave);
    }

    /// Everything that can be done is done, for so long.
    pub(crate) async fn settle(&mut self, time: Duration) -> Result<(), String> {
        let end = self.now.after(time);
        while self.now < end {
            self.rest().await;
            self.verdict()?;
            let step = 5_000 + self.schedule.below(45_000) as u64;
            self.pass(Duration::from_micros(step)).await;
        }
        self.rest().await;
        self.verdict()
    }

    /// Everything that can be done at this moment is done.
    pub(crate) async fn rest(&mut self) {
        let mut idle = 0;
        for _ in 0..10_000 {
            for _ in 0..4 {
                self.tokio_side().await;
            }
            let mut busy = false;
            for shard in 0..self.shards.len() {
                busy |= self.shard_side(shard, 100);
            }
            busy |= self.clients_read();
            idle = if busy { 0 } else { idle + 1 };
            if idle == 3 || self.oracle.broken.is_some() {
                return;
            }
        }
        self.oracle.fail("shards and clients are busy for ever, and no time passes");
    }

    /// What it came to so far.
    pub(crate) fn figures(&mut self) -> Figures {
        let Injected { short_reads, short_writes, again, full, resets, failed_writes, into_the_void } =
            self.network.injected;
        let (slowed, failed) = self.control.between.injected();
        for (what, count) in [
            ("fault: short read", short_reads),
            ("fault: short write", short_writes),
            ("fault: EAGAIN", again),
            ("fault: full socket buffer", full),
            ("fault: reset", resets),
            ("fault: failed write", failed_writes),
            ("fault: bytes to a closed client", into_the_void),
            ("fault: slow call between services", slowed),
            ("fault: failed call between services", failed),
            ("fault: dispatch given up", self.given_up()),
            ("push longer than comet takes", self.refused()),
        ] {
            *self.seen.entry(what).or_default() += count;
        }
        for (what, count) in [
            ("connection held for want of room", self.oracle.held),
            ("hand-over to nobody", self.oracle.left_on_the_way),
            ("hand-over with TLS", self.oracle.secure_moves.0),
            ("hand-over within a record of TLS", self.oracle.secure_moves.1),
            ("fault: full mailbox", self.shards.iter().map(Reactor::full).sum()),
        ] {
            *self.seen.entry(what).or_default() += count;
        }
        for shard in &self.shards {
            let stats = shard.shard().stats();
            for (reason, count) in &stats.closes {
                *self.seen.entry(crate::run::close_label(*reason)).or_default() += count;
            }
            for (reason, count) in &stats.drops {
                *self.seen.entry(crate::run::drop_label(*reason)).or_default() += count;
            }
            for (kind, count) in &stats.tls.handshakes {
                *self.seen.entry(crate::run::handshake_label(*kind)).or_default() += count;
            }
            for ((proto, reason), count) in &stats.bad_input {
                if let Some(label) = crate::run::tls_label(proto, reason) {
                    *self.seen.entry(label).or_default() += count;
                }
            }
            *self.seen.entry("hand-over to another shard").or_default() += stats.attached;
            *self.seen.entry("connection refused").or_default() += stats.refused;
        }
        Figures {
            hash: self.oracle.trace.hash(),
            events: self.oracle.trace.events(),
            micros: self.now.as_micros(),
            frames: self.oracle.read_frames,
            pushes: self.next_push.into(),
            connections: self.network.sockets() as u64,
            seen: std::mem::take(&mut self.seen),
        }
    }

    /// Dispatches that comet refused.
    pub(crate) fn refused(&self) -> u64 {
        self.control.job_metrics.drops.of(job::metrics::DropReason::Invalid).get()
    }

    /// Dispatches that job gave up for this comet.
    pub(crate) fn given_up(&self) -> u64 {
        self.control.job_metrics.drops.of(job::metrics::DropReason::CometUnreachable).get()
    }

    /// Nothing of anybody is left.
    async fn check_empty(&mut self) -> Result<(), String> {
        for (index, shard) in self.shards.iter().enumerate() {
            let (inbox, in_queue, outside) = shard.waiting();
            let census = shard.shard().census();
            if census != Default::default() {
                self.oracle.fail(format!("everybody has left, and shard {index} still has {census:?}"));
            } else if inbox + in_queue + outside > 0 {
                self.oracle.fail(format!(
                    "everybody has left, and {inbox} commands, {in_queue} + {outside} mails of shard {index} wait"
                ));
            }
        }
        if self.network.open() > 0 {
            self.oracle.fail(format!("everybody has left, and {} descriptors are open", self.network.open()));
        }
        if self.control.broker.depth() > 0 {
            self.oracle.fail(format!("{} entries stay on the broker", self.control.broker.depth()));
        }
        self.everything_arrived()?;
        for index in 0..self.shards.len() {
            self.oracle.settle_accounts(index, self.shards[index].shard());
        }
        self.check_nobody_online().await;
        self.verdict()
    }
}

/// The shards of a comet, and the front's ends of their queues.
pub(crate) fn reactors(plan: &Plan, now: Time) -> (Vec<Reactor>, Outboxes, Vec<Inbox>) {
    let (mut senders, mut inboxes, mut shards) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..plan.shards {
        let (wake, seed) = ring::wake_pair().expect("a descriptor or two");
        let flag = Arc::new(ShardFlag::new(wake));
        let task = Arc::new(TaskFlag::default());
        let (sender, inbox) = channel(plan.queue, Arc::clone(&flag), Arc::<WakeFlag<()>>::default());
        let (to_front, receiver) = channel(plan.queue, Arc::clone(&task), Arc::clone(&flag));
        senders.push(sender);
        inboxes.push(Inbox { receiver, flag: task });
        let plan = reactor::Plan {
            index: index as u16,
            config: plan.shard.clone(),
            inbox,
            flag,
            wake: seed,
            to_front,
            sends_per_turn: plan.sends_per_turn,
        };
        shards.push(Reactor::new(plan, now));
    }
    (shards, Outboxes::new(senders), inboxes)
}
