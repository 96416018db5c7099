//! What listening sockets are for.

use std::sync::Arc;

use contract::Transport;
use tls::{Acceptor, TicketKeys, Tls};

/// What a listening socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// What its clients speak.
    pub transport: Transport,
    /// Inside TLS.
    pub tls: bool,
    /// Proxies tell here whose connection they pass on, by the PROXY protocol, before TLS and everything else.
    pub proxied: bool,
}

impl From<Transport> for Port {
    fn from(transport: Transport) -> Port {
        Port { transport, tls: false, proxied: false }
    }
}

/// The TLS of each transport's port; none: it has no such port.
#[derive(Clone, Debug, Default)]
pub struct Acceptors {
    /// For bare frames.
    pub tcp: Option<Arc<Acceptor>>,
    /// For WebSocket.
    pub websocket: Option<Arc<Acceptor>>,
}

impl Acceptors {
    /// The same with other keys of tickets.
    #[must_use]
    pub fn with_tickets(&self, tickets: &Arc<TicketKeys>) -> Acceptors {
        let with = |acceptor: &Option<Arc<Acceptor>>| {
            acceptor.as_ref().map(|acceptor| Arc::new(acceptor.with_tickets(Arc::clone(tickets))))
        };
        Acceptors { tcp: with(&self.tcp), websocket: with(&self.websocket) }
    }

    /// The TLS of a new connection.
    pub(super) fn stage(&self, transport: Transport) -> Option<Tls> {
        let acceptor = match transport {
            Transport::Tcp => &self.tcp,
            Transport::WebSocket => &self.websocket,
        };
        acceptor.clone().map(Tls::new)
    }
}
