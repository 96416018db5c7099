//! An event as a number and as a line.

use std::hash::{Hash, Hasher};

use comet::driver::sim::event::Event;
use shard::{
    Action, Flow,
    mail::{PushTo, ToFront, ToShard},
};

use crate::trace::{Trace, short};

/// What tells two runs apart.
pub(super) fn hash(trace: &mut Trace, shard: u16, event: &Event<'_>, is_secure: bool) {
    trace.write_u16(shard);
    match event {
        Event::Accepted(id, socket) => (1, id, socket).hash(trace),
        Event::Refused(socket) => (2, socket).hash(trace),
        // Ciphertext is another one each time.
        Event::Received(id, socket, bytes) if is_secure => (3, id, socket, bytes.len()).hash(trace),
        Event::Received(id, socket, bytes) => (3, id, socket, bytes).hash(trace),
        Event::Handshake(socket) => (19, socket).hash(trace),
        Event::Read(socket) => (4, socket).hash(trace),
        Event::Heard(socket) => (17, socket).hash(trace),
        Event::Flow(socket, flow) => (13, socket, *flow == Flow::Read).hash(trace),
        Event::InputEnded(id, _, lost) => (5, id, lost).hash(trace),
        Event::HungUp(id, _) => (6, id).hash(trace),
        Event::TooLate(socket) => (17, socket).hash(trace),
        Event::Sent(id, _, complete, frames) => (7, id, complete, frames).hash(trace),
        Event::Mail(mail, socket) => {
            (8, socket).hash(trace);
            match mail {
                ToShard::Push(push) => {
                    push.encoded.bytes().hash(trace);
                    match &push.to {
                        PushTo::Keys(keys) => keys.hash(trace),
                        PushTo::Room(room) => room.hash(trace),
                        PushTo::All { speed } => speed.hash(trace),
                    }
                }
                ToShard::Verdict(verdict) => verdict.id.hash(trace),
                ToShard::Look(id) => id.hash(trace),
                ToShard::Abandoned(session) => (&session.key, session.generation).hash(trace),
                ToShard::Kick { key, below, .. } => (key, below).hash(trace),
                ToShard::Reply { id, body, .. } => (id, body).hash(trace),
                ToShard::Elsewhere(rooms) => rooms.hash(trace),
                ToShard::Sessions { from } => from.hash(trace),
                ToShard::Drain { over } => over.hash(trace),
                // Not mailed here: nothing reads certificates.
                ToShard::Acceptors(_) => {}
            }
        }
        Event::MailDone => trace.write_u8(9),
        Event::Attaching(socket, state) => (10, socket, &state.session.key).hash(trace),
        Event::Attached(id, _) => (11, id).hash(trace),
        Event::LeftOnTheWay(socket, _) => (12, socket).hash(trace),
        Event::Moved(socket, to) => (18, socket, to).hash(trace),
        Event::Ticked => trace.write_u8(14),
        Event::Said(said) => {
            trace.write_u8(15);
            match said {
                ToFront::Login(login) => (login.id, &login.token).hash(trace),
                ToFront::LoginGone(id) | ToFront::LoginThere(id) => id.hash(trace),
                ToFront::Abandoned(session) => (&session.key, session.generation).hash(trace),
                ToFront::Opened { key, generation, .. } => (key, generation).hash(trace),
                ToFront::Ended { key, generation, reason, .. } => (key, generation, reason).hash(trace),
                ToFront::Renew { key, generation, .. } => (key, generation).hash(trace),
                ToFront::Sessions { sessions, next } => (sessions.len(), next).hash(trace),
                ToFront::Message { id, message } => (id, &message.body).hash(trace),
                ToFront::Rooms(rooms) => rooms.hash(trace),
                ToFront::Stats(stats) => (stats.deliveries, stats.bytes_read, stats.open).hash(trace),
                ToFront::Drained { arrivals } => arrivals.hash(trace),
            }
        }
        Event::Act(action, socket) => {
            (16, socket).hash(trace);
            match action {
                Action::Send { id, run } if is_secure => (1, id, run.as_slice().len()).hash(trace),
                Action::Send { id, run } => (1, id, run.as_slice()).hash(trace),
                Action::Resume { id } => (2, id).hash(trace),
                Action::Finish { id } => (3, id).hash(trace),
                Action::Shut { id, reset } => (4, id, reset).hash(trace),
                Action::Release { id } => (5, id).hash(trace),
                Action::Detach { id, to, .. } => (6, id, to).hash(trace),
                Action::StopAccepting => trace.write_u8(7),
            }
        }
    }
}

/// The same for people.
pub(super) fn line(shard: u16, event: &Event<'_>, is_secure: bool) -> String {
    let short = |bytes: &[u8]| if is_secure { format!("{} B of TLS", bytes.len()) } else { short(bytes) };
    let what = match event {
        Event::Accepted(id, socket) => format!("accepts {socket} into slot {}.{}", id.slot, id.generation),
        Event::Refused(socket) => format!("refuses {socket}"),
        Event::Received(_, socket, bytes) => format!("receives from {socket}: {}", short(bytes)),
        Event::Handshake(socket) => format!("takes a step of the handshake of {socket}"),
        Event::Read(socket) => format!("read a frame of {socket}"),
        Event::Heard(socket) => format!("knows that {socket} lives"),
        Event::Flow(socket, Flow::Read) => format!("wants more of {socket}"),
        Event::Flow(socket, Flow::Hold | Flow::Login | Flow::Handshake) => {
            format!("wants no more of {socket} for now")
        }
        Event::InputEnded(_, socket, lost) => format!("sees the end of {socket}, lost: {lost}"),
        Event::HungUp(_, socket) => format!("sees that {socket} hung up"),
        Event::TooLate(socket) => format!("finds the login of {socket} too old"),
        Event::Sent(_, socket, complete, frames) => {
            format!("wrote {frames} frames to {socket}, complete: {complete}")
        }
        Event::Mail(ToShard::Push(push), _) => {
            format!("is mailed a push to {:?}: {}", push.to, short(push.encoded.tcp()))
        }
        Event::Mail(mail, _) => format!("is mailed {mail:?}"),
        Event::MailDone => "has done so".to_owned(),
        Event::Attaching(socket, state) => format!("is handed {socket} with key {}", state.session.key),
        Event::Attached(id, socket) => format!("has {socket} in slot {}.{}", id.slot, id.generation),
        Event::Moved(socket, to) => format!("hands {socket} to shard {to}"),
        Event::LeftOnTheWay(socket, _) => format!("is handed {socket}, which has left"),
        Event::Ticked => "ticks".to_owned(),
        Event::Said(ToFront::Stats(stats)) => format!("says it has {} open", stats.open),
        Event::Said(said) => format!("says {said:?}"),
        Event::Act(Action::Send { run, .. }, socket) => {
            format!("sends {} frames to {socket:?}: {}", run.frames, short(run.as_slice()))
        }
        Event::Act(action, socket) => format!("wants {action:?} of {socket:?}"),
    };
    format!("shard {shard} {what}")
}
