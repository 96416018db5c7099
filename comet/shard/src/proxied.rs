//! Whose connection it is, on a port behind proxies: the header of the PROXY protocol, before the first byte of TLS, of an
//! upgrade or of a frame.
//!
//! Who is trusted has to send a header, or the clients behind would all count as one. Nobody else may: a header is not
//! believed, and its sender is cut off. From the header on the client's address is that of the connection, for everything.

use proto::{
    close::CloseReason,
    proxy::{Fault, Source},
};
use seam::Time;

use super::{Flow, Outputs, Shard, connection::State, mail::ConnectionId};

impl Shard {
    /// Takes input of a connection whose header is not complete, and passes on what comes behind it.
    pub(super) fn header_input(
        &mut self,
        now: Time,
        id: ConnectionId,
        bytes: &mut [u8],
        out: &mut Outputs,
    ) -> Flow {
        let Some(connection) = self.slots.get_mut(id) else { return Flow::Hold };
        let State::AwaitHeader { is_due, reader, .. } = &mut connection.state else { return Flow::Read };
        let mut rest: &[u8] = bytes;
        let before = reader.taken().len();
        let pushed = reader.push(&mut rest);
        let used = bytes.len() - rest.len();
        match (pushed, *is_due) {
            (Err(fault), true) => self.bad_header(now, id, fault.label(), out),
            (_, false) if reader.is_header() => self.bad_header(now, id, "untrusted", out),
            // What looked like the begin of a header is the client's.
            (Err(Fault::Missing), false) if before > 0 => {
                let mut all = [&reader.taken()[..before], bytes].concat();
                connection.header_done(Source::Proxy);
                self.clients_input(now, id, &mut all, out)
            }
            (Err(_), false) => {
                connection.header_done(Source::Proxy);
                self.clients_input(now, id, bytes, out)
            }
            (Ok(None), _) => Flow::Read,
            (Ok(Some(source)), _) => {
                connection.header_done(source);
                match &mut bytes[used..] {
                    [] => Flow::Read,
                    clients => self.clients_input(now, id, clients, out),
                }
            }
        }
    }

    fn bad_header(&mut self, now: Time, id: ConnectionId, label: &'static str, out: &mut Outputs) -> Flow {
        self.stats.bad("proxy", label);
        let reason = CloseReason::ProtocolViolation;
        self.close(now, id, reason, reason.text(), out);
        self.shut(id, true, out);
        Flow::Read
    }
}
