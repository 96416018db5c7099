//! logic over a memory broker, memory sessions and a registry with two comets.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use broker::{Consumer, MemoryBroker, MemoryLimitsConfig, metrics::BrokerMetrics};
use bytes::Bytes;
use contract::{
    Arrival, ClientCount, ClientMessage, ConnectRequest, DispatchError, LogicApi, MessageReply, SessionRef,
    Transport,
};
use grpc::envelope::{Envelope, Target};
use host::shutdown::Drain;
use proto::{
    frame::Header,
    ids::{Generation, Key, Mid, RoomId, ServerId},
    op::Op,
    origin::Origin,
};
use registry::{Fixed, Node, Service};
use seam::wall_micros;
use serde::de::DeserializeOwned;
use session::{MemorySessions, Renewal, SessionsUnavailable, StoredSession, metrics::SessionMetrics};
use testkit::fakes::{FakeComet, Kick};
use tokio::time::Instant;

use super::*;
use crate::{
    config::{Expire, LimitsConfig, LogicConfig},
    tls::Started,
};

mod devices;
mod http;
mod replaced;
mod rpc;
mod server;
mod service;
mod several;

const ROOM: &str = "live://1000";

fn config<C: DeserializeOwned>(sets: &[&str]) -> C {
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    ::config::load(None, &sets, &[]).expect("a readable configuration").config
}

fn room(id: &str) -> RoomId {
    RoomId::parse(id).unwrap()
}

fn server(id: &str) -> ServerId {
    ServerId::new(id)
}

/// A login that came so long ago.
fn ago(waited: Duration) -> Arrival {
    Arrival::ago(waited, Instant::now().into_std())
}

/// A login as comet passes it on.
fn login(on: &str, token: &str) -> ConnectRequest {
    ConnectRequest {
        server: server(on),
        cookie: String::new(),
        token: Bytes::copy_from_slice(token.as_bytes()),
        client_ip: None,
        transport: Transport::Tcp,
        arrival: ago(Duration::ZERO),
        wanted_until_us: None,
    }
}

/// logic with everything behind it.
struct Setup {
    config: LogicConfig,
    limits: LimitsConfig,
    deps: LogicDeps,
    logic: Arc<Logic>,
    broker: MemoryBroker,
    published: Box<dyn Consumer>,
    /// The comet behind every server but `away:1`.
    comet: Arc<FakeComet>,
}

impl Setup {
    /// Binds and serves, without TLS.
    async fn start(&self, extra: Router, drain: Drain) -> Result<LogicServer, StartError> {
        start(&self.config, &self.limits, self.deps.clone(), extra, drain, Started::default()).await
    }

    async fn new(sets: &[&str]) -> Self {
        Self::with_sessions(
            sets,
            Arc::new(MemorySessions::new(Duration::from_secs(1800), SessionMetrics::default())),
        )
        .await
    }

    async fn with_sessions(sets: &[&str], sessions: Arc<dyn Sessions>) -> Self {
        // As in the file of `halley`, where the broker's limits stand beside logic's.
        let limits: Vec<&str> = sets.iter().filter_map(|set| set.strip_prefix("limits.")).collect();
        let (broker, limits): (Vec<&str>, Vec<&str>) =
            limits.iter().partition(|set| set.starts_with("broker"));
        let sets: Vec<&str> = sets.iter().copied().filter(|set| !set.starts_with("limits.")).collect();
        let (config, limits) = (config::<LogicConfig>(&sets), config::<LimitsConfig>(&limits));
        assert!(config.check("", Expire::secs::<1800>()).is_empty());
        let broker = self::config::<MemoryLimitsConfig>(&broker);
        let broker = MemoryBroker::new(broker.limits(), BrokerMetrics::default());
        let comet = |id: &str, hostname: &str| Node {
            region: "sh".to_owned(),
            zone: "sh001".to_owned(),
            env: "prod".to_owned(),
            hostname: hostname.to_owned(),
            addrs: vec![format!("{hostname}.addr")],
            ..Node::new(Service::Comet, server(id))
        };
        let registry = Fixed::new([comet("a:1", "host-a"), comet("b:1", "host-b")]);
        let comet_behind = Arc::<FakeComet>::default();
        let deps = LogicDeps {
            broker: Arc::new(broker.clone()),
            sessions,
            counts: None,
            registry: Arc::new(registry),
            reach: {
                let comet = Arc::clone(&comet_behind);
                Arc::new(move |server| (server.as_str() != "away:1").then(|| Arc::clone(&comet) as _))
            },
            metrics: LogicMetrics::default(),
        };
        let published = broker.consume("test").await.unwrap();
        let logic = Arc::new(Logic::new(&config, deps.clone()));
        Setup { config, limits, deps, logic, broker, published, comet: comet_behind }
    }

    /// Devices k1 and k2 of user 1 on comets a and b, device k3 of user 2 on comet a.
    async fn with_clients(sets: &[&str]) -> Self {
        let setup = Self::new(sets).await;
        for (on, token) in [
            ("a:1", r#"{"mid":1,"key":"k1"}"#),
            ("b:1", r#"{"mid":1,"key":"k2"}"#),
            ("a:1", r#"{"mid":2,"key":"k3"}"#),
        ] {
            setup.logic.connect(login(on, token)).await.unwrap();
        }
        setup
    }

    fn router(&self) -> Router {
        router(Arc::clone(&self.logic), &self.config, &self.limits)
    }

    /// What was published since the last call, acknowledged.
    async fn published(&mut self) -> Vec<Envelope> {
        let entries = self.broker.depth();
        let mut envelopes = Vec::new();
        while envelopes.len() < entries {
            let batch = self.published.next_batch(entries).await.unwrap();
            self.published.ack(&batch[batch.len() - 1].position).await.unwrap();
            envelopes.extend(batch.into_iter().map(|delivery| Envelope::parse(delivery.bytes).unwrap()));
        }
        envelopes
    }
}

/// It knows no kick: one of goim's.
fn knows_no_kick(comet: &FakeComet) {
    comet.kick.fail(usize::MAX, || DispatchError::Invalid("as told".into()));
}

fn is_unreachable(comet: &FakeComet) {
    comet.kick.fail(usize::MAX, || DispatchError::Unreachable("gone".into()));
}

fn is_stuck(comet: &FakeComet) {
    comet.kick.stop();
}

/// A store that is away.
struct NoSessions;

#[async_trait]
impl Sessions for NoSessions {
    fn now_us(&self) -> u64 {
        wall_micros()
    }

    async fn put(&self, _: NewSession) -> Result<Put, SessionsUnavailable> {
        Err(SessionsUnavailable::Away("gone".into()))
    }

    async fn end(&self, _: &SessionRef) -> Result<bool, SessionsUnavailable> {
        Err(SessionsUnavailable::Away("gone".into()))
    }

    fn incarnation(&self) -> Option<u64> {
        None
    }

    async fn renew(&self, _: &[SessionRef]) -> Result<Vec<Renewal>, SessionsUnavailable> {
        Err(SessionsUnavailable::Away("gone".into()))
    }

    async fn sessions_of_keys(&self, _: &[Key]) -> Result<Vec<Option<StoredSession>>, SessionsUnavailable> {
        Err(SessionsUnavailable::Away("gone".into()))
    }

    async fn servers_of_keys(&self, _: &[Key]) -> Result<Vec<Option<ServerId>>, SessionsUnavailable> {
        Err(SessionsUnavailable::Away("gone".into()))
    }

    async fn sessions_of_mids(&self, _: &[Mid]) -> Result<Vec<Vec<StoredSession>>, SessionsUnavailable> {
        Err(SessionsUnavailable::Away("gone".into()))
    }
}
