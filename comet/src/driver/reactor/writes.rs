//! Runs on their way to the kernel.

use std::rc::Rc;

use ring::{Runtime, Socket};
use seam::Time;
use shard::{FlushState, Sent, mail::ConnectionId, queue::Run};

use super::Reactor;

/// Writes handed to the kernel between two looks at everything else.
const SENDS_PER_TURN: usize = 1000;

/// The task of one write, handed out at `since`.
pub(super) async fn send<R: Runtime>(
    reactor: Rc<Reactor<R>>,
    id: ConnectionId,
    socket: Rc<R::Socket>,
    run: Run,
    since: Time,
) {
    let Run { bytes, start, frames, accepted } = run;
    let (result, written) = socket.send(bytes, start).await;
    drop(socket);
    let sent = Sent { complete: result.is_ok(), written: written as u64, frames, accepted, since };
    reactor.tell(|core, now| core.shard.sent(now, id, sent, &mut core.out));
}

/// Writes what pushes left in the queues, so much a turn.
pub(super) async fn flush<R: Runtime>(reactor: Rc<Reactor<R>>) {
    loop {
        let state = reactor.tell(|core, now| core.shard.flush(now, SENDS_PER_TURN, &mut core.out));
        match state {
            FlushState::More => reactor.turns.next().await,
            FlushState::Wait(until) => R::sleep(until.since(Time::now())).await,
            FlushState::Idle => reactor.flush.wait().await,
        }
    }
}
