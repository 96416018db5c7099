//! Single calls of the two services, by clients that say what no process of ours does, and to goim's logic.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use axum::body::Bytes;
use comet::front::{logic_client::GrpcLogic, logics::Logics};
use contract::{Arrival, ClientCount, ConnectRequest, LogicApi, LogicError, SessionRef, Transport};
use grpc::{
    halley,
    halley::{DispatchBatch, DispatchReply, KickReq, comet_client::CometClient, dispatch::Receivers},
};
use host::dial::Dial;
use logic::{HalleyRpc, Logic, RpcLogic};
use proto::ids::{Generation, Key, Mid, RoomId, ServerId};
use registry::{Fixed, Node, Registry as _, Service};
use session::Sessions as _;
use tokio::{
    net::TcpListener,
    runtime::Builder,
    sync::{mpsc, watch},
    time::timeout,
};
use tonic::{Code, service::RoutesBuilder, transport::Server};

use crate::world::{LIMIT, LogicProcess, Shared, World, logic_config};

fn push(receivers: Receivers, body: &str) -> halley::Dispatch {
    let body = Bytes::copy_from_slice(body.as_bytes());
    halley::Dispatch { receivers: Some(receivers), op: 1000, body, ..halley::Dispatch::default() }
}

#[test]
fn comet_speaks_first_and_refuses_one_by_one() {
    let world = World::start(1);
    let _logic = LogicProcess::start(&world.shared, None);
    let mut client = world.login(0, r#"{"mid":1,"key":"k","room_id":"live://1","accepts":[1000]}"#);
    let keys = |keys: &[&str]| {
        Receivers::Keys(halley::Keys { keys: keys.iter().map(ToString::to_string).collect() })
    };
    let first = vec![
        push(keys(&["k"]), "one"),
        halley::Dispatch { receivers: None, ..push(keys(&[]), "to nobody") },
        push(keys(&[]), "to no key"),
        push(Receivers::Room("no\nroom".into()), "to no room"),
        push(Receivers::All(0), &"x".repeat((1 << 20) + 1)),
        push(Receivers::Room("live://1".into()), "two"),
        push(Receivers::All(0), "three"),
    ];
    let (batches, mut outgoing) = mpsc::channel(4);
    let replies = world.runtime.block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", world.comets[0].rpc));
        let mut comet = CometClient::new(channel.expect("a URL").connect().await.expect("it listens"));
        let code = comet.kick(KickReq { key: "k".into(), code: 1000, ..KickReq::default() }).await;
        assert_eq!(code.expect_err("no code of a kick").code(), Code::InvalidArgument);
        let outgoing = futures_util::stream::poll_fn(move |context| outgoing.poll_recv(context));
        let mut replies = comet.dispatch(outgoing).await.expect("a stream").into_inner();
        let credit = timeout(LIMIT, replies.message()).await.expect("it speaks first").expect("it is open");
        let mut all = vec![credit.expect("credit")];
        batches
            .send(DispatchBatch { serial: 1, dispatches: first, ..DispatchBatch::default() })
            .await
            .expect("it reads");
        let dispatches = vec![push(keys(&["k"]), "four")];
        batches
            .send(DispatchBatch { serial: 2, dispatches, ..DispatchBatch::default() })
            .await
            .expect("it reads");
        while all.last().is_none_or(|reply| reply.taken < 2) {
            let reply = timeout(LIMIT, replies.message()).await.expect("an answer").expect("it is open");
            all.push(reply.expect("an answer"));
        }
        all
    });
    let DispatchReply { taken, credit, refused, batch_max } = &replies[0];
    assert!((*taken, refused.len()) == (0, 0) && *credit > 0 && *batch_max > 1 << 20, "{replies:?}");
    let refused: Vec<_> = replies.iter().flat_map(|reply| &reply.refused).collect();
    assert!(refused.iter().all(|refused| refused.serial == 1 && !refused.reason.is_empty()), "{refused:?}");
    let places: HashSet<u32> = refused.iter().map(|refused| refused.index).collect();
    assert_eq!(places, HashSet::from([1, 2, 3, 4]));
    for body in ["one", "two", "three", "four"] {
        client.expect_push(1000, body);
    }
}

/// job's side broke, and comet has not noticed: what was in the connection came behind what job sent anew.
#[test]
fn what_an_older_stream_still_brings_is_refused() {
    let world = World::start(1);
    let _logic = LogicProcess::start(&world.shared, None);
    let mut client = world.login(0, r#"{"mid":1,"key":"k","accepts":[1000]}"#);
    let batch = |serial, link: &str, body| {
        let dispatches = vec![push(Receivers::All(0), body)];
        DispatchBatch { serial, dispatches, link: link.to_owned() }
    };
    world.runtime.block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", world.comets[0].rpc));
        let comet = CometClient::new(channel.expect("a URL").connect().await.expect("it listens"));
        let open = async || {
            let (batches, mut outgoing) = mpsc::channel(4);
            let outgoing = futures_util::stream::poll_fn(move |context| outgoing.poll_recv(context));
            let mut replies = comet.clone().dispatch(outgoing).await.expect("a stream").into_inner();
            replies.message().await.expect("it is open").expect("credit");
            (batches, replies)
        };
        let (old, mut old_replies) = open().await;
        let (other, mut other_replies) = open().await;
        old.send(batch(1, "link", "one")).await.expect("it reads");
        assert_eq!(old_replies.message().await.expect("taken").expect("taken").taken, 1);
        other.send(batch(1, "another", "two")).await.expect("it reads");
        assert_eq!(other_replies.message().await.expect("taken").expect("taken").taken, 1);
        let (new, mut new_replies) = open().await;
        new.send(batch(1, "link", "three")).await.expect("it reads");
        assert_eq!(new_replies.message().await.expect("taken").expect("taken").taken, 1);
        old.send(batch(2, "", "stale")).await.expect("it reads");
        assert_eq!(old_replies.message().await.expect_err("it is over").code(), Code::Aborted);
        for (stream, replies, body) in [(new, &mut new_replies, "four"), (other, &mut other_replies, "five")]
        {
            stream.send(batch(2, "", body)).await.expect("it reads");
            assert_eq!(replies.message().await.expect("taken").expect("taken").taken, 2);
        }
    });
    for body in ["one", "two", "three", "four", "five"] {
        client.expect_push(1000, body);
    }
}

/// A logic with only these services. The runtime keeps it alive.
fn serve(ours: bool) -> (tokio::runtime::Runtime, Shared, String) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let shared = Shared::new();
    let logic = Arc::new(Logic::new(&logic_config(), shared.deps(Arc::new(|_| None))));
    let address = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let mut routes = RoutesBuilder::default();
        routes.add_service(RpcLogic::service(Arc::clone(&logic)));
        if ours {
            routes.add_service(HalleyRpc::service(Arc::clone(&logic)));
        }
        let server = Server::builder().add_routes(routes.routes());
        tokio::spawn(server.serve_with_incoming(host::accept::incoming(listener, None)));
        address
    });
    (runtime, shared, address)
}

/// The same, and a comet's client of it.
fn served(ours: bool) -> (tokio::runtime::Runtime, Shared, GrpcLogic) {
    let (runtime, shared, address) = serve(ours);
    let client =
        runtime.block_on(async { GrpcLogic::new(&address, &Dial::clear(LIMIT)).expect("an address") });
    (runtime, shared, client)
}

fn session(key: &str, server: &str, generation: Option<i64>) -> SessionRef {
    let generation = generation.map(Generation);
    SessionRef { mid: Mid(1), key: Key::new(key), server: ServerId::new(server), generation }
}

fn login(key: &str) -> ConnectRequest {
    ConnectRequest {
        server: ServerId::new("a:1"),
        cookie: String::new(),
        token: format!(r#"{{"mid":1,"key":"{key}"}}"#).into(),
        client_ip: None,
        transport: Transport::Tcp,
        arrival: Arrival::ago(Duration::ZERO, tokio::time::Instant::now().into_std()),
        wanted_until_us: None,
    }
}

#[test]
fn renewals_go_in_one_call_and_tell_who_was_superseded() {
    let (runtime, shared, logic) = served(true);
    runtime.block_on(async {
        let known = logic.renew(Vec::new()).await.expect("an answer");
        assert_eq!((known.incarnation, known.superseded), (Some(1), Vec::new()));
        let mut all: Vec<_> = (0..1000).map(|n| session(&format!("k{n}"), "a:1", Some(5))).collect();
        all.push(session("moved", "a:1", Some(5)));
        // Its newer login is on the same comet, which sees to that itself.
        all.push(session("same", "a:1", Some(5)));
        shared.sessions.lose_all();
        for newer in [session("moved", "b:1", Some(9)), session("same", "a:1", Some(9))] {
            logic.renew(vec![newer]).await.expect("put back");
        }
        let renewed = logic.renew(all).await.expect("an answer");
        assert_eq!(renewed.incarnation, Some(2));
        assert_eq!(renewed.superseded, [(Key::new("moved"), Generation(9))]);
        let found = shared.sessions.servers_of_keys(&[Key::new("k999"), Key::new("moved")]).await;
        assert_eq!(found, Ok(vec![Some(ServerId::new("a:1")), Some(ServerId::new("b:1"))]));
    });
}

#[test]
fn goims_logic_gets_goims_calls() {
    let (runtime, shared, logic) = served(false);
    runtime.block_on(async {
        for _ in 0..3 {
            let renewed = logic.renew(Vec::new()).await.expect("nothing to say");
            assert_eq!((renewed.incarnation, renewed.superseded.len()), (None, 0));
        }
        let renewed = logic.renew(vec![session("k1", "a:1", None), session("k2", "a:1", None)]).await;
        assert_eq!(renewed.expect("two heartbeats").incarnation, None);
        let found = shared.sessions.servers_of_keys(&[Key::new("k1"), Key::new("k2")]).await;
        assert_eq!(found, Ok(vec![Some(ServerId::new("a:1")); 2]));
        // One that it refuses keeps nobody behind it from being renewed.
        let bad = session("bad", "", None);
        logic.renew(vec![bad.clone(), session("k3", "a:1", None)]).await.expect("one is taken");
        let found = shared.sessions.servers_of_keys(&[Key::new("k3")]).await;
        assert_eq!(found, Ok(vec![Some(ServerId::new("a:1"))]));
        assert!(logic.renew(vec![bad]).await.is_err(), "nothing is taken");
        let rooms = HashMap::from([(RoomId::parse("live://1").expect("a room"), 3)]);
        let all = logic.renew_online(ServerId::new("a:1"), rooms.clone(), ClientCount::default()).await;
        assert_eq!(all.expect("counts"), rooms);
    });
}

/// A site that replaces its logics one by one has both kinds. What goim's is told of a session's end it does to whoever has
/// the key by now: the end of a replaced connection made the newer one unreachable.
#[test]
fn where_some_logics_are_goims_ours_hear_of_renewals_and_ends() {
    let (_runs, goims, goims_address) = serve(false);
    let (runtime, ours, address) = serve(true);
    runtime.block_on(async {
        let node = |address| Node::new(Service::Logic, ServerId::new(address));
        let registry = Fixed::new([node(goims_address), node(address)]);
        let logics = Logics::new(registry.watch(), Dial::clear(LIMIT), watch::channel(true).1);
        // By its answers to these it is known for what it is.
        for _ in 0..4 {
            let report = logics.renew_online(ServerId::new("a:1"), HashMap::new(), ClientCount::default());
            report.await.expect("counts");
        }
        let keys: Vec<Key> = (0..6).map(|n| Key::new(format!("k{n}"))).collect();
        let held = async |shared: &Shared| {
            let servers = shared.sessions.servers_of_keys(&keys).await.expect("it is in memory");
            servers.into_iter().flatten().count()
        };
        for key in &keys {
            logics.renew(vec![session(key.as_str(), "a:1", Some(5))]).await.expect("put back");
        }
        assert_eq!((held(&goims).await, held(&ours).await), (0, 6));
        for key in &keys {
            let had = logics.disconnect(session(key.as_str(), "a:1", Some(5))).await;
            assert!(had.expect("an answer"), "{}", key.as_str());
        }
        assert_eq!(held(&ours).await, 0);
    });
}

/// A login that a slow logic may yet store was asked of the next one too: without a key that made a second session, for
/// nobody.
#[test]
fn a_login_goes_to_another_logic_only_if_it_never_left() {
    let (runtime, shared, address) = serve(true);
    runtime.block_on(async {
        let stalled = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let [stalls, closed] = [&stalled, &free].map(|it| it.local_addr().expect("an address").to_string());
        drop(free);
        let logics = async |other: String| {
            let nodes = [other, address.clone()];
            let nodes = nodes.map(|address| Node::new(Service::Logic, ServerId::new(address)));
            let registry = Fixed::new(nodes);
            let logics =
                Logics::new(registry.watch(), Dial::clear(Duration::from_secs(2)), watch::channel(true).1);
            let mut stored = Vec::new();
            // Whoever is asked first, the other one is next.
            for n in 0..2 {
                let key = format!("k{n}");
                let result = logics.connect(login(&key)).await;
                let found = shared.sessions.servers_of_keys(&[Key::new(key.as_str())]).await;
                let is_stored = found.expect("it is in memory")[0].is_some();
                assert_eq!(result.is_ok(), is_stored, "{result:?}");
                assert!(matches!(result, Ok(_) | Err(LogicError::Unavailable(_))), "{result:?}");
                stored.push(is_stored);
                shared.sessions.lose_all();
            }
            stored.sort_unstable();
            stored
        };
        assert_eq!(logics(stalls).await, [false, true]);
        assert_eq!(logics(closed).await, [true, true]);
    });
}

/// More than one message holds, both ways; goim's comet fails here.
#[test]
fn counts_of_very_many_rooms_go_in_pages() {
    let (runtime, _shared, logic) = served(true);
    runtime.block_on(async {
        let name = |n: u32| RoomId::parse(&format!("live://{:0>110}", n)).expect("a room");
        let rooms: HashMap<RoomId, u32> = (0..45_000).map(|n| (name(n), n % 7 + 1)).collect();
        let clients = ClientCount { connections: 9, addresses: 4 };
        let other = HashMap::from([(name(5), 10), (name(99_999_999), 1)]);
        logic.renew_online(ServerId::new("b:1"), other, clients).await.expect("counts");
        let all = logic.renew_online(ServerId::new("a:1"), rooms.clone(), clients).await.expect("counts");
        let mut expected = rooms;
        expected.insert(name(5), 6 + 10);
        assert!(all == expected, "{} of {} rooms", all.len(), expected.len());
        // Without a room, too: it lives.
        let none = logic.renew_online(ServerId::new("c:1"), HashMap::new(), clients).await.expect("counts");
        assert!(none.is_empty());
    });
}
