//! A comet with two shards and a logic that lets everybody in.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use comet::{
    Comet,
    config::{CometConfig, DriverChoice},
    tls::{ClientTls, CometTls},
};
use contract::{CometApi, Dispatch, Payload, Receivers};
use proto::{
    ids::{Key, RoomId, ServerId},
    op::Op,
};
use testkit::{clock::within, fakes::FakeLogic};
use tokio::runtime::Runtime;

pub(crate) use crate::client::Client;

/// How long anything may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A comet under test.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) comet: Comet,
    pub(crate) logic: Arc<FakeLogic>,
    driver: DriverChoice,
}

impl World {
    pub(crate) fn start(driver: DriverChoice) -> World {
        World::start_with(driver, |_| ())
    }

    /// Another one on the same driver, configured otherwise.
    pub(crate) fn another(&self, change: impl FnOnce(&mut CometConfig)) -> World {
        World::start_with(self.driver, change)
    }

    fn start_with(driver: DriverChoice, change: impl FnOnce(&mut CometConfig)) -> World {
        let mut config = CometConfig::default();
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        config.tcp.bind = config::Addrs::new(vec![any]).expect("an address");
        config.websocket.bind = config.tcp.bind.clone();
        config.rpc_server.addr = config::Addr::loopback(0);
        config.reactor.driver = driver;
        config.reactor.shards = config::Bounded::of::<2>();
        config.drain.spread = config::BoundedDuration::millis::<100>();
        change(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let logic = Arc::<FakeLogic>::default();
        let metrics = Comet::metrics(&config);
        let tls = CometTls { clients: ClientTls::load(&config, "").expect("certificates"), services: None };
        let name = |rpc: SocketAddr| ServerId::new(rpc.to_string());
        let comet = runtime
            .block_on(Comet::start(&config, name, 50_000, Arc::clone(&logic) as _, metrics, tls))
            .expect("a comet");
        World { runtime, comet, logic, driver }
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
        let batch: Vec<Dispatch> = pushes
            .into_iter()
            .map(|(receivers, body)| Dispatch {
                receivers,
                filter: Op(1000),
                payload: Payload::Message { op: Op(1000), body: body.into() },
                origin: None,
                accepted_at_us: 0,
            })
            .collect();
        self.runtime.block_on(self.comet.front.dispatch(&batch)).expect("a dispatch");
    }

    /// Waits for something that takes a moment to come true.
    pub(crate) fn eventually(&self, what: &str, mut check: impl FnMut() -> bool) {
        within(PATIENCE, what, || check().then_some(()));
    }

    pub(crate) fn begun(&self) -> usize {
        self.logic.granted()
    }

    pub(crate) fn ended(&self) -> usize {
        self.logic.ended().len()
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
