//! A logic as comet sees it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use contract::{
    ClientCount, ClientMessage, ConnectRequest, LogicApi, LogicError, MessageReply, Renewed, Session,
    SessionRef,
};
use proto::{
    ids::{Generation, RoomId, ServerId},
    login::Login,
};

use super::{Gate, lock};

/// A logic that lets everybody in who names a key, and keeps what it is told.
#[derive(Default)]
pub struct FakeLogic {
    /// How it answers logins.
    pub connect: Gate<LogicError>,
    /// While it is held, logins are not answered.
    pub closed: tokio::sync::Mutex<()>,
    /// How it answers ends.
    pub disconnect: Gate<LogicError>,
    /// How it answers renewals.
    pub renew: Gate<LogicError>,
    /// How it answers reports of who is online.
    pub report: Gate<LogicError>,
    granted: Option<Session>,
    last_generation: AtomicI64,
    renewed: Mutex<Renewed>,
    told: Mutex<Vec<Told>>,
    addresses: Mutex<Vec<IpAddr>>,
    reports: Mutex<Vec<Report>>,
}

/// What it was told of sessions and took, by their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// They are alive; in the order of the keys.
    Renew(Vec<String>),
    /// It is over.
    Disconnect(String),
}

/// Who is online on a comet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// People in each room.
    pub rooms: HashMap<RoomId, u32>,
    /// People in all.
    pub clients: ClientCount,
}

impl FakeLogic {
    /// One that gives everybody this session.
    pub fn granting(session: Session) -> FakeLogic {
        FakeLogic { granted: Some(session), ..FakeLogic::default() }
    }

    /// Changes what it answers renewals.
    pub fn set_renewed(&self, change: impl FnOnce(&mut Renewed)) {
        change(&mut lock(&self.renewed));
    }

    /// Logins it has let in.
    pub fn granted(&self) -> usize {
        self.last_generation.load(Ordering::Relaxed) as usize
    }

    /// The addresses of the clients whose logins it was asked about, in that order.
    pub fn addresses(&self) -> Vec<IpAddr> {
        lock(&self.addresses).clone()
    }

    /// What it was told of sessions.
    pub fn told(&self) -> Vec<Told> {
        lock(&self.told).clone()
    }

    /// Keys of the sessions that ended.
    pub fn ended(&self) -> Vec<String> {
        let ended = |told| match told {
            Told::Disconnect(key) => Some(key),
            Told::Renew(_) => None,
        };
        self.told().into_iter().filter_map(ended).collect()
    }

    /// The reports that it took.
    pub fn reports(&self) -> Vec<Report> {
        lock(&self.reports).clone()
    }

    /// The session that a token asks for.
    fn session_of(&self, token: &[u8]) -> Result<Session, LogicError> {
        let login = Login::parse(token).map_err(|error| LogicError::Unavailable(error.to_string()))?;
        let key = login.key.ok_or_else(|| LogicError::Unavailable("the login names no key".into()))?;
        Ok(Session {
            mid: login.mid,
            key,
            room: login.room,
            rooms: login.rooms,
            accepts: login.accepts,
            heartbeat: Duration::from_secs(60),
            generation: Some(Generation(self.last_generation.fetch_add(1, Ordering::Relaxed) + 1)),
        })
    }
}

#[async_trait]
impl LogicApi for FakeLogic {
    async fn connect(&self, request: ConnectRequest) -> Result<Session, LogicError> {
        drop(self.closed.lock().await);
        self.connect.pass().await?;
        lock(&self.addresses).extend(request.client_ip);
        self.granted.clone().map_or_else(|| self.session_of(&request.token), Ok)
    }

    async fn disconnect(&self, session: SessionRef) -> Result<bool, LogicError> {
        self.disconnect.pass().await?;
        lock(&self.told).push(Told::Disconnect(session.key.as_str().to_owned()));
        Ok(true)
    }

    async fn renew(&self, sessions: Vec<SessionRef>) -> Result<Renewed, LogicError> {
        self.renew.pass().await?;
        let mut keys: Vec<String> = sessions.iter().map(|session| session.key.as_str().to_owned()).collect();
        keys.sort();
        if !keys.is_empty() {
            lock(&self.told).push(Told::Renew(keys));
        }
        Ok(lock(&self.renewed).clone())
    }

    async fn renew_online(
        &self,
        _: ServerId,
        rooms: HashMap<RoomId, u32>,
        clients: ClientCount,
    ) -> Result<HashMap<RoomId, u32>, LogicError> {
        self.report.pass().await?;
        lock(&self.reports).push(Report { rooms: rooms.clone(), clients });
        Ok(rooms)
    }

    async fn receive(&self, _: ClientMessage) -> Result<MessageReply, LogicError> {
        Ok(MessageReply::Body(Default::default()))
    }
}
