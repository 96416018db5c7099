//! The task of a link. It brings to its comet what waits: over a stream ([`super::stream`]) or by calls.
//!
//! One call carries everything that waits, and the next one starts after it. goim's calls carry one push each, so
//! several are under way at once, but never two for one device, for one room, or for everybody: pushes to the same
//! receiver stay in order.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use comet_client::GrpcComet;
use contract::{CometApi, DispatchError};
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{AbortHandle, Abortable, BoxFuture},
    stream::FuturesUnordered,
};
use host::{backoff::Backoff, telemetry::OUTSIDERS};
use seam::wall_micros;
use tokio::time::{Instant, sleep_until};
use tracing::{Level, info, warn};
use uuid::Uuid;

use super::{
    batch::{Busy, Calls},
    queue::{Common, Item, Shared},
};
use crate::{Comet, awake::Moment, metrics::DropReason};

/// First pause after a failed call. It doubles with each failure up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// Longest pause between two calls of a comet that fails.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The task of a link.
pub(super) struct Sender {
    pub(super) shared: Arc<Shared>,
    api: Arc<dyn CometApi>,
    calls: Calls,
    stream: Option<GrpcComet>,
    /// A name that no other link has. By it comet notices that a new stream replaces an older one of the same link.
    pub(super) name: String,
    pub(super) backoff: Backoff,
    is_away: bool,
}

/// The calls that comet has not answered yet.
#[derive(Default)]
struct Round {
    calls: Vec<Call>,
    under_way: FuturesUnordered<Abortable<BoxFuture<'static, Answer>>>,
    last_serial: u64,
    busy: Busy,
    /// After a failed call, the round makes no new one before this time.
    resume: Option<Instant>,
}

/// Serial of a call, and what became of it.
type Answer = (u64, Result<(), DispatchError>);

struct Call {
    /// The task sends these one after the other. There are several after comet refused them all in one call.
    parts: VecDeque<Vec<Item>>,
    /// Serial of the call that carries the first part, and a handle to abandon it; none while that call waits to be
    /// made again.
    under_way: Option<(u64, AbortHandle)>,
}

impl Sender {
    pub(super) fn new(comet: Comet, shared: Arc<Shared>) -> Sender {
        let Comet { api, calls, stream, .. } = comet;
        let (name, backoff) = (Uuid::new_v4().to_string(), Backoff::new(PAUSE_MIN, PAUSE_MAX));
        Sender { shared, api, calls, stream, name, backoff, is_away: false }
    }

    pub(super) async fn run(mut self) {
        while self.has_work().await {
            if self.may_stream()
                && let Some(comet) = self.stream.clone()
                && self.stream(&comet).await
            {
                continue;
            }
            self.call().await;
        }
    }

    /// Waits until something is in the queue; false when the link has to end.
    async fn has_work(&self) -> bool {
        loop {
            {
                let queue = self.shared.queue();
                if !queue.items.is_empty() {
                    return true;
                }
                if queue.closed {
                    return false;
                }
            }
            self.shared.changed.notified().await;
        }
    }

    /// Whether comet may know streams. goim's comets do not.
    fn may_stream(&self) -> bool {
        self.stream.as_ref().is_some_and(|comet| !comet.is_goims())
    }

    /// Makes calls until nothing waits, or until comet may know streams again.
    async fn call(&mut self) {
        let mut round = Round::default();
        loop {
            round.give_up_overdue(self);
            round.resume = round.resume.filter(|at| *at > Instant::now());
            if round.resume.is_none() {
                round.start(self);
            }
            if round.calls.is_empty() && (self.shared.queue().items.is_empty() || self.may_stream()) {
                return;
            }
            let sent = round.calls.iter().filter_map(|call| call.parts.front()?.first());
            let wake = self.deadline(sent).into_iter().chain(round.resume).min();
            tokio::select! {
                biased;
                Some(done) = round.under_way.next() => {
                    // An abandoned call has no answer, and its items are given up already.
                    if let Ok(answer) = done {
                        round.answered(self, answer);
                    }
                }
                () = self.shared.changed.notified() => {}
                () = until(wake) => {}
            }
        }
    }

    /// Drops these items: comet refuses them and would refuse them again.
    pub(super) fn refused(&self, items: &[Item], why: &str) {
        let comet = &self.shared.server;
        OUTSIDERS.log(Level::WARN, || warn!(%comet, why, "comet refuses a push, it is dropped"));
        self.shared.drop_items(items, DropReason::Invalid);
    }

    pub(super) fn taken(&mut self, items: &[Item]) {
        let Common { metrics, .. } = &self.shared.common;
        if std::mem::take(&mut self.is_away) {
            info!(comet = %self.shared.server, "comet is back");
        }
        self.backoff.reset();
        let now_us = wall_micros();
        for item in items {
            metrics.accept_to_dispatch.observe_since(item.dispatch.accepted_at_us, now_us);
        }
        metrics.dispatches.inc_by(items.len() as u64);
        self.shared.release(items, true);
    }

    pub(super) fn away(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_away, true) {
            warn!(comet = %self.shared.server, why, "comet is unreachable");
        }
    }

    /// When to look again for what is overdue: at the deadline of the first item in the queue or of the first of
    /// `sent`, or earlier so that the link's clock goes on. None if there is no item.
    pub(super) fn deadline<'a>(&self, sent: impl Iterator<Item = &'a Item>) -> Option<Instant> {
        let mut queue = self.shared.queue();
        let waiting = queue.items.front().map(|item| item.queued);
        let first = sent.map(|item| item.queued).chain(waiting).min()?;
        let left = (first + self.shared.common.limits.give_up).since(queue.clock.now());
        Some(Instant::now() + left.min(queue.clock.look_every()))
    }

    /// The time by this link's clock.
    pub(super) fn now(&self) -> Moment {
        self.shared.queue().clock.now()
    }

    /// Whether the time of this item is over. Among items in the order of the queue, the overdue ones come first.
    pub(super) fn is_overdue(&self, item: &Item, now: Moment) -> bool {
        item.queued + self.shared.common.limits.give_up <= now
    }

    /// Gives up what is overdue in the queue.
    pub(super) fn give_up_waiting(&self) {
        let overdue: Vec<Item> = {
            let mut queue = self.shared.queue();
            let now = queue.clock.now();
            let overdue = queue.items.iter().take_while(|item| self.is_overdue(item, now)).count();
            queue.items.drain(..overdue).collect()
        };
        self.unreachable(&overdue);
    }

    /// Gives these up.
    pub(super) fn unreachable(&self, items: &[Item]) {
        if !items.is_empty() {
            self.shared.drop_items(items, DropReason::CometUnreachable);
        }
    }
}

/// Sleeps until that time; for ever if there is none.
pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Round {
    /// Repeats the calls that failed, and makes new ones as long as more may be under way.
    fn start(&mut self, link: &Sender) {
        let Round { calls, under_way, last_serial, busy, .. } = self;
        let mut make = |items: &[Item]| {
            *last_serial += 1;
            let serial = *last_serial;
            let (api, dispatches) = (Arc::clone(&link.api), link.calls.dispatches(items));
            let call = async move { (serial, api.dispatch(&dispatches).await) };
            let (abandon, registration) = AbortHandle::new_pair();
            under_way.push(Abortable::new(call.boxed(), registration));
            (serial, abandon)
        };
        for call in calls.iter_mut().filter(|call| call.under_way.is_none()) {
            call.under_way = call.parts.front().map(|items| make(items));
        }
        while calls.len() < link.calls.at_once() && !link.may_stream() {
            let items = link.calls.take(&mut link.shared.queue().items, busy);
            if items.is_empty() {
                return;
            }
            calls.push(Call { under_way: Some(make(&items)), parts: VecDeque::from([items]) });
        }
    }

    fn answered(&mut self, link: &mut Sender, (serial, result): Answer) {
        let is_it = |call: &Call| call.under_way.as_ref().is_some_and(|(its, _)| *its == serial);
        let Some(place) = self.calls.iter().position(is_it) else { return };
        let call = &mut self.calls[place];
        call.under_way = None;
        let Some(items) = call.parts.pop_front() else { return };
        match result {
            Ok(()) => {
                self.busy.remove(&items);
                link.taken(&items);
            }
            // comet took nothing of a batch that it refused. Sending each item alone finds the malformed one.
            Err(DispatchError::Invalid(_)) if items.len() > 1 => {
                items.into_iter().rev().for_each(|item| call.parts.push_front(vec![item]));
            }
            Err(DispatchError::Invalid(why)) => {
                self.busy.remove(&items);
                link.refused(&items, &why);
            }
            Err(DispatchError::Unreachable(why)) => {
                call.parts.push_front(items);
                link.away(&why);
                self.resume.get_or_insert_with(|| Instant::now() + link.backoff.step());
            }
        }
        if call.parts.is_empty() {
            self.calls.swap_remove(place);
        }
    }

    /// Gives up what is overdue, and abandons a call that has nothing left.
    fn give_up_overdue(&mut self, link: &Sender) {
        let (busy, now) = (&mut self.busy, link.now());
        self.calls.retain_mut(|call| {
            while let Some(part) = call.parts.front_mut() {
                let overdue = part.iter().take_while(|item| link.is_overdue(item, now)).count();
                let overdue: Vec<Item> = part.drain(..overdue).collect();
                busy.remove(&overdue);
                link.unreachable(&overdue);
                if !part.is_empty() {
                    return true;
                }
                call.parts.pop_front();
                if let Some((_, abandon)) = call.under_way.take() {
                    abandon.abort();
                }
            }
            false
        });
        link.give_up_waiting();
    }
}
