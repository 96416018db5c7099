//! A comet with two shards and a logic that lets everybody in.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use comet::{
    Comet,
    config::{CometConfig, DriverChoice},
};
use contract::{
    ClientCount, ClientMessage, CometApi, ConnectRequest, Dispatch, LogicApi, LogicError, MessageReply,
    Payload, Receivers, Renewed, Session, SessionRef,
};
use proto::{
    ids::{Generation, Key, RoomId, ServerId},
    login::Login,
    op::Op,
};
use tokio::runtime::Runtime;

pub(crate) use crate::client::Client;

/// How long anything may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Lets everybody in and remembers who left.
#[derive(Default)]
pub(crate) struct OpenDoor {
    generation: AtomicI64,
    /// Keys whose session ended, in order.
    pub(crate) ended: Mutex<Vec<Key>>,
    /// While set, logins are not answered.
    pub(crate) closed: tokio::sync::Mutex<()>,
}

#[async_trait]
impl LogicApi for OpenDoor {
    async fn connect(&self, request: ConnectRequest) -> Result<Session, LogicError> {
        let _open = self.closed.lock().await;
        let login =
            Login::parse(&request.token).map_err(|error| LogicError::Unavailable(error.to_string()))?;
        Ok(Session {
            mid: login.mid,
            key: login.key.expect("the tests name their keys"),
            room: login.room,
            rooms: login.rooms,
            accepts: login.accepts,
            heartbeat: Duration::from_secs(60),
            generation: Some(Generation(self.generation.fetch_add(1, Ordering::Relaxed) + 1)),
        })
    }

    async fn disconnect(&self, session: SessionRef) -> Result<bool, LogicError> {
        self.ended.lock().expect("no panic before").push(session.key);
        Ok(true)
    }

    async fn renew(&self, _: Vec<SessionRef>) -> Result<Renewed, LogicError> {
        Ok(Renewed::default())
    }

    async fn renew_online(
        &self,
        _: ServerId,
        rooms: HashMap<RoomId, u32>,
        _: ClientCount,
    ) -> Result<HashMap<RoomId, u32>, LogicError> {
        Ok(rooms)
    }

    async fn receive(&self, _: ClientMessage) -> Result<MessageReply, LogicError> {
        Ok(MessageReply::Body(Default::default()))
    }
}

/// A comet under test.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) comet: Comet,
    pub(crate) logic: Arc<OpenDoor>,
}

impl World {
    pub(crate) fn start(driver: DriverChoice) -> World {
        let mut config = CometConfig::default();
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        config.tcp.bind = config::Addrs::new(vec![any]).expect("an address");
        config.websocket.bind = config.tcp.bind.clone();
        config.rpc_server.addr = config::Addr::loopback(0);
        config.reactor.driver = driver;
        config.reactor.shards = config::Bounded::of::<2>();
        config.drain.spread = config::BoundedDuration::millis::<100>();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let logic = Arc::new(OpenDoor::default());
        let metrics = Comet::metrics(&config);
        let name = |rpc: SocketAddr| ServerId::new(rpc.to_string());
        let comet = runtime
            .block_on(Comet::start(&config, name, 50_000, Arc::clone(&logic) as _, metrics))
            .expect("a comet");
        World { runtime, comet, logic }
    }

    pub(crate) fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.comet.tcp[0]).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Client::new(stream)
    }

    pub(crate) fn login(&self, key: &str) -> Client {
        let mut client = self.connect();
        client.send(Op::AUTH, login(key).as_bytes());
        let (header, body) = client.next().expect("a reply");
        assert_eq!((header.op, header.seq, body.len()), (Op::AUTH_REPLY, 7, 0));
        client
    }

    pub(crate) fn push(&self, receivers: Receivers, body: &[u8]) {
        self.push_all(vec![(receivers, body.to_vec())]);
    }

    pub(crate) fn push_all(&self, pushes: Vec<(Receivers, Vec<u8>)>) {
        let batch = pushes
            .into_iter()
            .map(|(receivers, body)| Dispatch {
                receivers,
                filter: Op(1000),
                payload: Payload::Message { op: Op(1000), body: body.into() },
                origin: None,
                accepted_at_us: 0,
            })
            .collect();
        self.runtime.block_on(self.comet.front.dispatch(batch)).expect("a dispatch");
    }

    /// Waits for something that takes a moment to come true.
    pub(crate) fn eventually(&self, what: &str, mut check: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !check() {
            assert!(Instant::now() < end, "never came true: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn ended(&self) -> usize {
        self.logic.ended.lock().expect("no panic before").len()
    }
}

pub(crate) fn login(key: &str) -> String {
    format!(r#"{{"mid":1,"key":"{key}","room_id":"live://1","accepts":[1000]}}"#)
}

pub(crate) fn key(name: &str) -> Receivers {
    Receivers::Keys(vec![Key::new(name)])
}

pub(crate) fn room() -> Receivers {
    Receivers::Room(RoomId::parse("live://1").expect("a room"))
}
