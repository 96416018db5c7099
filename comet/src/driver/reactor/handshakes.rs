//! TLS handshakes, some in each turn: a storm of them must not hold up those who are logged in.

use std::{rc::Rc, time::Duration};

use ring::Runtime;
use seam::Time;
use shard::{Flow, mail::ConnectionId};

use super::{Core, Reactor, clients::Released};

/// How long handshakes may take between two looks at everything else. One more than fits begins at most: with a
/// certificate of RSA it takes 0.7 ms.
const HANDSHAKES_PER_TURN: Duration = Duration::from_millis(1);

/// The task of the handshakes. Their readers wait meanwhile.
pub(super) async fn take<R: Runtime>(reactor: Rc<Reactor<R>>) {
    loop {
        reactor.handshake.wait().await;
        let mut begun = Time::now();
        while let Some(id) = reactor.next_handshake() {
            reactor.tell(|core, now| reactor.take_further(core, now, id));
            if Time::now().since(begun) >= HANDSHAKES_PER_TURN {
                reactor.turns.next().await;
                begun = Time::now();
            }
        }
    }
}

impl<R: Runtime> Reactor<R> {
    fn next_handshake(&self) -> Option<ConnectionId> {
        self.core.borrow_mut().handshakes.pop_front()
    }

    fn take_further(&self, core: &mut Core<R>, now: Time, id: ConnectionId) {
        // It may have been let go to see that its client has left.
        let Some(socket) = core.socket(id).cloned().filter(|_| core.is_held(id)) else { return };
        match core.shard.handshake(now, id, &mut core.out) {
            Flow::Read => core.release(id, Released::Read),
            flow => self.hold(core, now, id, &socket, flow),
        }
    }
}
