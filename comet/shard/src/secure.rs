//! TLS of the connections that came to a port with it: before bytes are frames, and after frames are bytes.
//!
//! The stage itself is [`tls::Tls`]. Here it is decided what a handshake may cost, and what becomes of a connection whose
//! TLS ends or fails.

use std::rc::Rc;

use proto::close::CloseReason;
use seam::{Bug, Time};
use tls::{Failure, Handshake, Opened, Tls};

use super::{Flow, Outputs, Shard, mail::ConnectionId, queue::Run, stats::HandshakeKind, wheel::Tick};

/// A read holds so much at most, and a record that was incomplete before it. More is given back after the event.
const TEXT_KEPT: usize = 64 * 1024;

impl Shard {
    /// Takes input of a connection with TLS.
    pub(super) fn ciphertext(
        &mut self,
        now: Time,
        id: ConnectionId,
        bytes: &[u8],
        out: &mut Outputs,
    ) -> Flow {
        let Some(connection) = self.slots.get_mut(id) else { return Flow::Hold };
        let closing = connection.is_closing();
        let Some(tls) = connection.tls.as_mut().filter(|_| !closing) else { return Flow::Read };
        if !tls.is_handshaking() {
            let mut text = std::mem::take(&mut self.text);
            let opened = tls.open(bytes, &mut text);
            return self.opened(now, id, text, opened, out);
        }
        match tls.take(bytes) {
            Ok(true) if connection.handshaking => Flow::Handshake,
            // From its first whole record on it costs more than what it sends.
            Ok(true) if self.handshakes_now < self.config.tls_handshakes_max => {
                connection.handshaking = true;
                self.handshakes_now += 1;
                Flow::Handshake
            }
            Ok(true) => {
                self.stats.bad("tls", "handshake_limit");
                let reason = CloseReason::Overloaded;
                self.close(now, id, reason, reason.text(), out);
                self.shut(id, true, out);
                Flow::Read
            }
            Ok(false) => Flow::Read,
            Err(failure) => self.tls_failed(now, id, failure, out),
        }
    }

    /// One step of a handshake, and the input behind its end.
    pub(super) fn take_handshake(&mut self, now: Time, id: ConnectionId, out: &mut Outputs) -> Flow {
        let login = Tick::not_before(now.after(self.config.handshake));
        let Some(connection) = self.slots.get_mut(id) else { return Flow::Hold };
        let closing = connection.is_closing();
        let Some(tls) = connection.tls.as_mut().filter(|_| !closing) else { return Flow::Read };
        let mut text = std::mem::take(&mut self.text);
        let stepped = tls.handshake(&mut text);
        if seam::planted(Bug::LostEarlyText) {
            text.clear();
        }
        self.fanout.flush_soon(id.slot);
        let opened = match stepped {
            Ok(Handshake::More) => Ok(Opened::More),
            Ok(Handshake::Done(summary, opened)) => {
                connection.wait_for_login(login);
                self.handshakes_now -= usize::from(std::mem::take(&mut connection.handshaking));
                let kind = HandshakeKind { version: summary.version, resumed: summary.resumed };
                *self.stats.tls.handshakes.entry(kind).or_default() += 1;
                self.arm(id.slot);
                Ok(opened)
            }
            Err(failure) => Err(failure),
        };
        self.opened(now, id, text, opened, out)
    }

    /// Takes the text of a connection with TLS, then what ended it.
    fn opened(
        &mut self,
        now: Time,
        id: ConnectionId,
        mut text: Vec<u8>,
        opened: Result<Opened, Failure>,
        out: &mut Outputs,
    ) -> Flow {
        let mut flow = Flow::Read;
        if !text.is_empty() {
            flow = self.input(now, id, &mut text, out);
        }
        text.clear();
        text.shrink_to(TEXT_KEPT);
        self.text = text;
        match opened {
            Ok(Opened::More) => {
                if self.slots.get(id).is_some_and(|connection| connection.has_unsent()) {
                    self.fanout.flush_soon(id.slot);
                }
                self.watch_partial(now, id);
                flow
            }
            // As the end of a TCP stream, also behind a login: the client has given it up.
            Ok(Opened::Ended) => {
                let reason = CloseReason::ClientClosed;
                self.close(now, id, reason, reason.text(), out);
                Flow::Read
            }
            Err(failure) => self.tls_failed(now, id, failure, out),
        }
    }

    fn tls_failed(&mut self, now: Time, id: ConnectionId, failure: Failure, out: &mut Outputs) -> Flow {
        self.stats.bad("tls", failure.label());
        let reason = match failure {
            Failure::Alert => CloseReason::ConnectionLost,
            _ => CloseReason::ProtocolViolation,
        };
        self.close(now, id, reason, reason.text(), out);
        Flow::Read
    }
}

/// A run as it goes out: sealed, behind what TLS itself has to say. If it can be sealed no more, the number of its frames
/// comes back.
pub(super) fn sealed(tls: &mut Tls, run: Option<Run>) -> (Option<Run>, Option<u32>) {
    let (mut frames, mut accepted, mut lost) = (0, None, None);
    let late = if seam::planted(Bug::SealedOutOfOrder) { tls.take_output() } else { Vec::new() };
    if let Some(run) = run {
        match tls.seal(run.as_slice()) {
            Ok(()) => (frames, accepted) = (run.frames, run.accepted),
            Err(_) => lost = Some(run.frames),
        }
    }
    let mut output = tls.take_output();
    output.extend(late);
    let run = (!output.is_empty()).then(|| Run { bytes: Rc::new(output.into()), start: 0, frames, accepted });
    (run, lost)
}
