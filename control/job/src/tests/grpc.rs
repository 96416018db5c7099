//! The unary link over a real connection, to a comet as goim has it.

use std::net::SocketAddr;

use ::grpc::comet::{
    BroadcastReply, BroadcastReq, BroadcastRoomReply, BroadcastRoomReq, PushMsgReply, PushMsgReq, RoomsReply,
    RoomsReq,
    comet_server::{Comet as CometService, CometServer},
};
use host::dial::Dial;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, service::Routes, transport::Server};

use super::*;

/// A call as it came.
#[derive(Clone, Debug, PartialEq)]
enum Call {
    Push(PushMsgReq),
    Broadcast(BroadcastReq),
    Room(BroadcastRoomReq),
}

/// goim's service, which keeps what it is told and refuses the operation 666.
#[derive(Clone, Default)]
pub(super) struct Goim(Arc<Mutex<Vec<Call>>>);

impl Goim {
    async fn serve(&self, listener: TcpListener) -> tokio::task::AbortHandle {
        let server = Server::builder().add_service(CometServer::new(self.clone()));
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() }).abort_handle()
    }

    pub(super) fn routes(&self) -> Routes {
        Routes::new(CometServer::new(self.clone()))
    }

    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn calls(&self) -> Vec<Call> {
        self.0.lock().unwrap().clone()
    }

    fn take(&self, call: Call) -> Result<(), Status> {
        self.0.lock().unwrap().push(call);
        Ok(())
    }
}

#[async_trait]
impl CometService for Goim {
    async fn push_msg(&self, request: Request<PushMsgReq>) -> Result<Response<PushMsgReply>, Status> {
        if request.get_ref().proto_op == 666 {
            return Err(Status::unknown("rpc pushmsg arg error"));
        }
        self.take(Call::Push(request.into_inner()))?;
        Ok(Response::new(PushMsgReply {}))
    }

    async fn broadcast(&self, request: Request<BroadcastReq>) -> Result<Response<BroadcastReply>, Status> {
        self.take(Call::Broadcast(request.into_inner()))?;
        Ok(Response::new(BroadcastReply {}))
    }

    async fn broadcast_room(
        &self,
        request: Request<BroadcastRoomReq>,
    ) -> Result<Response<BroadcastRoomReply>, Status> {
        self.take(Call::Room(request.into_inner()))?;
        Ok(Response::new(BroadcastRoomReply {}))
    }

    async fn rooms(&self, _: Request<RoomsReq>) -> Result<Response<RoomsReply>, Status> {
        Ok(Response::new(RoomsReply { rooms: HashMap::from([("live://1".to_owned(), true)]) }))
    }
}

struct GrpcSetup {
    goim: Goim,
    addr: SocketAddr,
    serving: tokio::task::AbortHandle,
    broker: MemoryBroker,
    metrics: JobMetrics,
    _job: Job,
    _registration: Box<dyn Registration>,
}

impl GrpcSetup {
    async fn start() -> Self {
        let goim = Goim::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = goim.serve(listener).await;
        let limits = MemoryLimits { bytes: 1 << 20, entries: 10_000 };
        let broker = MemoryBroker::new(limits, BrokerMetrics::default());
        let registry = Fixed::new([]);
        let registration = register(&registry, &addr.to_string()).await;
        let (metrics, config) = (JobMetrics::default(), JobConfig::default());
        let deps = JobDeps {
            group: GROUP.to_owned(),
            broker: Arc::new(broker.clone()),
            registry: Arc::new(registry),
            connect: connect_by_grpc(&config, None),
            metrics: metrics.clone(),
            drain: Drain::new(),
        };
        let job = super::start(&config, deps);
        GrpcSetup { goim, addr, serving, broker, metrics, _job: job, _registration: registration }
    }

    async fn publish(&self, envelopes: impl IntoIterator<Item = Envelope>) {
        self.broker.publish(envelopes.into_iter().collect()).await.unwrap();
    }
}

/// One frame: ver 1, seq 0.
fn frame(op: i32, body: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode(frame::Header { ver: 1, op: Op(op), seq: 0 }, body.as_bytes(), &mut out);
    out
}

#[tokio::test]
async fn goims_calls_carry_complete_frames_in_operation_9() {
    let setup = GrpcSetup::start().await;
    let server = setup.addr.to_string();
    setup.publish([to_keys(&server, &["k1", "k2"], "keys")]).await;
    until("keys", || setup.goim.calls().len() == 1).await;
    setup.publish([to_room("live://1", "room")]).await;
    until("room", || setup.goim.calls().len() == 2).await;
    setup.publish([envelope(Target::All { speed: 64 }, "all")]).await;
    until("all", || setup.goim.calls().len() == 3).await;
    setup.publish([from_client("live://1", "said")]).await;
    until("said", || setup.goim.calls().len() == 4).await;
    let raw = |body: &str| {
        let body = Bytes::from(frame(1000, body));
        Some(::grpc::protocol::Proto { ver: 1, op: 9, seq: 0, body })
    };
    let room_id = "live://1".to_owned();
    let said = ::grpc::protocol::Proto { ver: 1, op: 1000, seq: 0, body: Bytes::from_static(b"said") };
    assert_eq!(
        setup.goim.calls(),
        [
            Call::Push(PushMsgReq {
                keys: vec!["k1".into(), "k2".into()],
                proto: raw("keys"),
                proto_op: 1000,
                accepted_at_us: 1,
            }),
            Call::Room(BroadcastRoomReq {
                room_id: room_id.clone(),
                proto: raw("room"),
                accepted_at_us: 1,
                ..Default::default()
            }),
            Call::Broadcast(BroadcastReq { proto_op: 1000, proto: raw("all"), speed: 64, accepted_at_us: 1 }),
            Call::Room(BroadcastRoomReq {
                room_id,
                proto: Some(said),
                accepted_at_us: 1,
                origin_key: "sender".into(),
                origin_seq: 7,
            }),
        ]
    );
}

#[tokio::test]
async fn a_comet_that_restarts_gets_what_it_missed_in_order() {
    let setup = GrpcSetup::start().await;
    setup.publish([to_room("live://1", "0")]).await;
    until("connected", || setup.goim.calls().len() == 1).await;
    setup.serving.abort();
    settle().await;
    setup.publish((1..50).map(|n| to_room("live://1", &n.to_string()))).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let listener = TcpListener::bind(setup.addr).await.unwrap();
    let _serving = setup.goim.serve(listener).await;
    until("acknowledged", || setup.broker.depth() == 0).await;
    let mut bodies = Vec::new();
    for call in setup.goim.calls() {
        let Call::Room(request) = call else { panic!("{call:?}") };
        for frame in frame::frames_of_message(&request.proto.unwrap().body, 4096) {
            bodies.push(String::from_utf8(frame.unwrap().body.to_vec()).unwrap());
        }
    }
    assert_eq!(bodies, (0..50).map(|n: u32| n.to_string()).collect::<Vec<_>>());
    assert_eq!(setup.metrics.drops.of(DropReason::CometUnreachable).get(), 0);
}

#[tokio::test]
async fn what_a_go_comet_refuses_is_dropped_and_the_rest_goes_on() {
    let setup = GrpcSetup::start().await;
    let server = setup.addr.to_string();
    let refused = Envelope { op: Op(666), ..to_keys(&server, &["k"], "bad") };
    setup.publish([refused, to_keys(&server, &["k"], "good")]).await;
    until("acknowledged", || setup.broker.depth() == 0).await;
    assert_eq!(setup.goim.calls().len(), 1);
    assert_eq!(setup.metrics.drops.of(DropReason::Invalid).get(), 1);
}

#[tokio::test]
async fn rooms_are_listed_and_an_address_that_is_none_is_refused() {
    let setup = GrpcSetup::start().await;
    let comet =
        GrpcComet::new(&ServerId::new(setup.addr.to_string()), &Dial::clear(Duration::from_secs(5))).unwrap();
    assert_eq!(comet.rooms().await.unwrap(), [RoomId::parse("live://1").unwrap()]);
    assert!(GrpcComet::new(&ServerId::new("no address"), &Dial::clear(Duration::from_secs(5))).is_err());
}

/// A connection that breaks under a call is told as UNKNOWN by the transport, too; taken for a refusal, the push was lost.
#[tokio::test]
async fn a_connection_that_breaks_under_a_call_is_no_refusal() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let comet = ServerId::new(listener.local_addr().unwrap().to_string());
    let comet = GrpcComet::new(&comet, &Dial::clear(Duration::from_secs(5))).unwrap();
    for is_reset in [false, true] {
        let breaks = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            // An empty SETTINGS frame.
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let mut heard = Vec::new();
            while !heard.windows(8).any(|window| window == b"live://1") {
                assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0, "the call comes first");
            }
            if is_reset {
                stream.set_zero_linger().unwrap();
            }
        };
        let dispatch = crate::route::route(to_room("live://1", "x"), 1).1;
        let (called, ()) = tokio::join!(comet.dispatch(std::slice::from_ref(&dispatch)), breaks);
        assert!(matches!(called, Err(DispatchError::Unreachable(_))), "reset {is_reset}: {called:?}");
    }
}
