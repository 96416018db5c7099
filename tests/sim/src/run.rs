//! One seed, and many: on as many threads as there are cores, with figures at the end.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use cluster::sim::{self, Begin, Bug};
use comet::shard::stats::DropReason;
use proto::close::CloseReason;

use crate::{
    plan::Plan,
    trace::Lines,
    world::{Figures, World},
};

/// Runs one seed.
///
/// # Errors
/// What was wrong, in words.
pub fn run(seed: u64, bug: Option<Bug>, lines: Lines) -> Result<Figures, String> {
    let plan = Plan::new(seed);
    let _simulation = sim::begin(Begin { seed, bug, shrink: plan.shrink });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .event_interval(plan.tokio_interval)
        .build()
        .expect("a runtime without IO needs nothing");
    let run = || runtime.block_on(async { World::new(seed, plan, lines).await.run().await });
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(format!("panic: {}", words(&*panic))))
}

fn words(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (_, Some(text)) => (*text).to_owned(),
        _ => "without words".to_owned(),
    }
}

pub(crate) const fn close_label(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::GoingAway => "closed: going away",
        CloseReason::ProtocolViolation => "closed: protocol violation",
        CloseReason::LimitBroken => "closed: limit broken",
        CloseReason::ServerError => "closed: server error",
        CloseReason::Overloaded => "closed: overloaded",
        CloseReason::LoginRefused => "closed: login refused",
        CloseReason::LoginTimeout => "closed: login timeout",
        CloseReason::HeartbeatTimeout => "closed: heartbeat timeout",
        CloseReason::Replaced => "closed: replaced",
        CloseReason::SlowConsumer => "closed: slow consumer",
        CloseReason::Kicked => "closed: kicked",
        CloseReason::ClientClosed => "closed: by the client",
        CloseReason::ConnectionLost => "closed: connection lost",
        _ => "closed: for another reason",
    }
}

pub(crate) const fn drop_label(reason: DropReason) -> &'static str {
    match reason {
        DropReason::SlowConsumer => "dropped: slow consumer",
        DropReason::Closed => "dropped: closed",
        DropReason::Absent => "dropped: absent",
    }
}
