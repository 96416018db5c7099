//! logic as comet sees it.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use proto::{
    close::CloseReason,
    frame::Header,
    ids::{Generation, Key, Mid, RoomId, ServerId},
    op::Op,
    origin::Origin,
};

/// logic as comet sees it.
#[async_trait]
pub trait LogicApi: Send + Sync + 'static {
    /// Decides a login and stores its session.
    async fn connect(&self, request: ConnectRequest) -> Result<Session, LogicError>;
    /// Ends a session. True if there was one and it was this one.
    async fn disconnect(&self, session: SessionRef) -> Result<bool, LogicError>;
    /// Says that sessions of one comet live, well before their time to live is over, and puts back those that the store
    /// has lost. Without sessions, comet only asks for the incarnation of the store.
    async fn renew(&self, sessions: Vec<SessionRef>) -> Result<Renewed, LogicError>;
    /// Reports this comet's people per room. Returns the people of all comets in these rooms; goim's logic returns all
    /// rooms that there are.
    async fn renew_online(
        &self,
        server: ServerId,
        rooms: HashMap<RoomId, u32>,
        clients: ClientCount,
    ) -> Result<HashMap<RoomId, u32>, LogicError>;
    /// Takes one client message.
    async fn receive(&self, message: ClientMessage) -> Result<MessageReply, LogicError>;
}

/// How a client reached comet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Bare goim frames on TCP.
    Tcp,
    /// goim frames in WebSocket messages.
    WebSocket,
}

impl Transport {
    /// The word used in metrics, logs and `ConnectReq.transport`.
    pub const fn label(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::WebSocket => "websocket",
        }
    }
}

/// A client's login as comet passes it on. comet has not read the client's bytes.
#[derive(Clone, Debug)]
pub struct ConnectRequest {
    /// The comet that holds the connection.
    pub server: ServerId,
    /// `Cookie` header of the upgrade, empty on TCP.
    pub cookie: String,
    /// Body of the login operation, verbatim.
    pub token: Bytes,
    /// Address of the client, when known.
    pub client_ip: Option<IpAddr>,
    /// How the client reached comet.
    pub transport: Transport,
    /// When the login came to the comet.
    pub arrival: Arrival,
    /// The latest time at which comet stops waiting for the answer, by the session store's clock, in µs since the
    /// epoch. logic does not begin a login that it finds after this, since comet has asked another logic meanwhile or
    /// given the login up. None if comet does not know that clock.
    pub wanted_until_us: Option<u64>,
}

/// When a login came to its comet, as far as this process knows. It may have been under way for longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When this process first saw it.
    seen: Instant,
    /// How long it had waited by then.
    waited: Duration,
    /// comet has asked logic before, and logic may have stored the login under a generation. Only `by_us`, which is set
    /// then, is certainly not below that generation.
    pub is_repeated: bool,
    /// The latest time at which it came, by the session store's clock, in µs since the epoch. None if comet does not
    /// know that clock.
    pub by_us: Option<u64>,
}

impl Arrival {
    /// A login that came to this process at `now`, had waited for `waited` by then, and about which logic was not asked
    /// yet.
    pub const fn ago(waited: Duration, now: Instant) -> Arrival {
        Arrival { seen: now, waited, is_repeated: false, by_us: None }
    }

    /// The same login, with the time by the session store's clock.
    pub const fn by(self, by_us: Option<u64>) -> Arrival {
        Arrival { by_us, ..self }
    }

    /// How long it has waited by `now`.
    pub fn age(&self, now: Instant) -> Duration {
        self.waited + now.saturating_duration_since(self.seen)
    }
}

/// What logic says about a login that it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The user.
    pub mid: Mid,
    /// The device key. logic invents one if the client gave none.
    pub key: Key,
    /// The first room, which operation 12 changes.
    pub room: Option<RoomId>,
    /// Further rooms (docs/PROTOCOL.md section 4); empty under a Go logic.
    pub rooms: Vec<RoomId>,
    /// Operations of keyed and broadcast pushes the client wants.
    pub accepts: Vec<Op>,
    /// Silence after which comet closes the connection.
    pub heartbeat: Duration,
    /// Generation of the session. A Go logic gives none.
    pub generation: Option<Generation>,
}

/// Names one login of a key, to end or renew it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRef {
    /// The user.
    pub mid: Mid,
    /// The device key.
    pub key: Key,
    /// The comet that holds the connection.
    pub server: ServerId,
    /// Its generation. Without one the call applies if the stored session is on this comet.
    pub generation: Option<Generation>,
}

/// What became of a renewal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Incarnation of the session store. When it changes, the store may have lost sessions, and comet renews all of its
    /// own. None if logic does not say.
    pub incarnation: Option<u64>,
    /// Sessions whose key was taken by a newer login on another comet, each with the generation of that login. comet
    /// closes what is older.
    pub superseded: Vec<(Key, Generation)>,
    /// What the session store's clock shows, µs since the epoch; none if logic does not say.
    pub now_us: Option<u64>,
}

/// One message of a client for logic.
#[derive(Clone, Debug)]
pub struct ClientMessage {
    /// The sender.
    pub mid: Mid,
    /// The sender's device.
    pub key: Key,
    /// The sender's first room.
    pub room: Option<RoomId>,
    /// Header of the frame as it came.
    pub header: Header,
    /// Body of the frame.
    pub body: Bytes,
}

impl ClientMessage {
    /// What remains of its header when the message goes into a room.
    pub fn origin(&self) -> Origin {
        Origin { key: self.key.clone(), seq: self.header.seq, ver: self.header.ver }
    }
}

/// What comet does for the sender of a [`ClientMessage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageReply {
    /// The message went to the sender's room through the broker. Every member gets it as operation 5, and the sender's
    /// own copy carries the sender's sequence number.
    Room,
    /// comet answers the sender alone, with this body.
    Body(Bytes),
    /// goim's logic says nothing. comet hands a message for a room to the members on this comet, as goim's comet does,
    /// and answers anything else with an empty body.
    Unsaid,
}

/// Connections and distinct client addresses of one comet, for `/goim/online/total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCount {
    /// Logged-in connections.
    pub connections: u64,
    /// Distinct client addresses among them.
    pub addresses: u64,
}

/// Why logic did not do what comet asked.
#[derive(Debug, thiserror::Error)]
pub enum LogicError {
    /// The login is refused for good. comet closes the client with this reason and text.
    #[error("refused: {text}")]
    Refused {
        /// Close reason for the client.
        reason: CloseReason,
        /// Words for the client; never a secret.
        text: String,
    },
    /// logic, or something behind it, is away. comet tries again within the handshake deadline.
    #[error("logic is unavailable: {0}")]
    Unavailable(String),
    /// Too many requests. comet tries again within the handshake deadline.
    #[error("logic is overloaded")]
    Overloaded,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn a_login_gets_older_where_it_waits() {
        let now = Instant::now();
        let arrival = Arrival::ago(Duration::from_secs(3), now);
        assert_eq!(arrival.age(now + Duration::from_secs(1)), Duration::from_secs(4));
    }
}
