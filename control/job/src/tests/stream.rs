//! The dispatch stream over a real connection, to comets that do as they are told.

use std::{net::SocketAddr, pin::Pin, sync::mpsc::sync_channel, thread};

use ::grpc::{
    halley,
    halley::{
        DispatchBatch, DispatchReply, KickReply, KickReq, Refused,
        comet_server::{Comet as HalleyService, CometServer},
        dispatch,
    },
};
use futures_util::{Stream, StreamExt as _, stream};
use host::dial::Dial;
use tokio::{net::TcpListener, sync::oneshot};
use tonic::{Request, Response, Status, Streaming, service::Routes, transport::Server};

use super::{grpc::Goim, *};

/// Halley's service, which keeps the batches of each stream.
#[derive(Clone)]
pub(super) struct Ours(pub(super) Arc<OursState>);

pub(super) struct OursState {
    streams: Mutex<Vec<Vec<DispatchBatch>>>,
    /// Streams that are over.
    pub(super) ended: AtomicUsize,
    /// Batches are acknowledged with a permit each.
    pub(super) permits: Semaphore,
    credit: u64,
    batch_max: u64,
    /// Streams that end after so many batches, the last of them not acknowledged.
    breaks: Mutex<VecDeque<usize>>,
    kicks: Mutex<Vec<KickReq>>,
}

impl Default for Ours {
    fn default() -> Self {
        Ours::new(Semaphore::MAX_PERMITS, 1 << 20)
    }
}

impl Ours {
    pub(super) fn new(permits: usize, credit: u64) -> Self {
        Ours(Arc::new(OursState {
            streams: Mutex::default(),
            ended: AtomicUsize::new(0),
            permits: Semaphore::new(permits),
            credit,
            batch_max: 1 << 20,
            breaks: Mutex::default(),
            kicks: Mutex::default(),
        }))
    }

    pub(super) fn routes(&self) -> Routes {
        Routes::new(CometServer::new(self.clone()))
    }

    /// Batches of each stream, by the number of their pushes.
    fn batches(&self) -> Vec<Vec<usize>> {
        let streams = self.0.streams.lock().unwrap();
        streams.iter().map(|batches| batches.iter().map(|batch| batch.dispatches.len()).collect()).collect()
    }

    /// Bodies of each stream.
    pub(super) fn bodies(&self) -> Vec<Vec<String>> {
        let body = |dispatch: &halley::Dispatch| String::from_utf8(dispatch.body.to_vec()).unwrap();
        let streams = self.0.streams.lock().unwrap();
        let bodies =
            |batches: &Vec<DispatchBatch>| batches.iter().flat_map(|it| &it.dispatches).map(body).collect();
        streams.iter().map(bodies).collect()
    }

    fn count(&self) -> usize {
        self.bodies().concat().len()
    }
}

/// Counts the end of a stream.
struct End(Arc<OursState>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Relaxed);
    }
}

#[async_trait]
impl HalleyService for Ours {
    type DispatchStream = Pin<Box<dyn Stream<Item = Result<DispatchReply, Status>> + Send>>;

    /// What says "bad" is refused.
    async fn dispatch(
        &self,
        request: Request<Streaming<DispatchBatch>>,
    ) -> Result<Response<Self::DispatchStream>, Status> {
        let state = Arc::clone(&self.0);
        let number = {
            let mut streams = state.streams.lock().unwrap();
            streams.push(Vec::new());
            streams.len() - 1
        };
        let breaks_after = state.breaks.lock().unwrap().pop_front().unwrap_or(usize::MAX);
        let (credit, batch_max) = (state.credit, state.batch_max);
        let first = DispatchReply { credit, batch_max, ..DispatchReply::default() };
        let end = End(state);
        let replies = request.into_inner().then(move |batch| {
            let state = Arc::clone(&end.0);
            async move {
                let batch = batch?;
                let taken = batch.serial;
                let refused = (0..).zip(&batch.dispatches).filter(|(_, it)| &*it.body == b"bad");
                let refused =
                    refused.map(|(index, _)| Refused { serial: taken, index, reason: "bad".into() });
                let refused = refused.collect();
                let seen = {
                    let mut streams = state.streams.lock().unwrap();
                    streams[number].push(batch);
                    streams[number].len()
                };
                if seen >= breaks_after {
                    return Err(Status::aborted("as told"));
                }
                state.permits.acquire().await.unwrap().forget();
                Ok(DispatchReply { taken, refused, credit: state.credit, batch_max: 0 })
            }
        });
        let replies = stream::once(async { Ok(first) }).chain(replies);
        Ok(Response::new(Box::pin(replies)))
    }

    async fn kick(&self, request: Request<KickReq>) -> Result<Response<KickReply>, Status> {
        self.0.kicks.lock().unwrap().push(request.into_inner());
        Ok(Response::new(KickReply {}))
    }
}

/// A comet's port, on a thread of its own.
pub(super) struct Served {
    pub(super) address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Served {
    pub(super) fn start(routes: Routes) -> Served {
        Served::at(([127, 0, 0, 1], 0).into(), routes)
    }

    fn at(address: SocketAddr, routes: Routes) -> Served {
        let (stop, stopped) = oneshot::channel();
        let (bound, address_of) = sync_channel(1);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind(address).await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                let server = Server::builder().add_routes(routes);
                tokio::spawn(server.serve_with_incoming(host::accept::incoming(listener, None)));
                let _ = stopped.await;
            });
        });
        Served { address: address_of.recv().unwrap(), stop, thread }
    }

    /// Its connections are gone when this returns.
    pub(super) fn stop(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

/// job over these comets.
pub(super) struct StreamSetup {
    pub(super) broker: MemoryBroker,
    metrics: JobMetrics,
    job: Job,
    drain: Drain,
    pub(super) registrations: Vec<Box<dyn Registration>>,
}

impl StreamSetup {
    pub(super) async fn start(comets: &[SocketAddr]) -> Self {
        Self::start_with(&[], comets).await
    }

    pub(super) async fn start_with(sets: &[&str], comets: &[SocketAddr]) -> Self {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        let config: JobConfig = ::config::load(None, &sets, &[]).unwrap().config;
        let broker =
            MemoryBroker::new(MemoryLimits { bytes: 64 << 20, entries: 100_000 }, BrokerMetrics::default());
        let registry = Fixed::new([]);
        let mut registrations = Vec::new();
        for comet in comets {
            registrations.push(register(&registry, &comet.to_string()).await);
        }
        let (metrics, drain) = (JobMetrics::default(), Drain::new());
        let deps = JobDeps {
            group: GROUP.to_owned(),
            broker: Arc::new(broker.clone()),
            registry: Arc::new(registry),
            connect: connect_by_grpc(&config, None),
            metrics: metrics.clone(),
            drain: drain.clone(),
        };
        let job = super::start(&config, deps);
        StreamSetup { broker, metrics, job, drain, registrations }
    }

    pub(super) async fn publish(&self, envelopes: impl IntoIterator<Item = Envelope>) {
        self.broker.publish(envelopes.into_iter().collect()).await.unwrap();
    }

    async fn publish_numbers(&self, numbers: std::ops::Range<u32>) {
        // Different rooms: what unary calls would reorder.
        self.publish(numbers.map(|n| to_room(&format!("live://{}", n % 3), &n.to_string()))).await;
    }

    pub(super) fn drops(&self, reason: DropReason) -> u64 {
        self.metrics.drops.of(reason).get()
    }
}

fn numbers(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn pushes_go_as_they_are_with_receivers_and_origin() {
    let ours = Ours::default();
    let served = Served::start(ours.routes());
    let setup = StreamSetup::start(&[served.address]).await;
    let server = served.address.to_string();
    setup
        .publish([
            to_keys(&server, &["k2", "k1", "k2"], "keys"),
            envelope(Target::All { speed: 64 }, "all"),
            from_client("live://1", "said"),
        ])
        .await;
    until("acknowledged", || setup.broker.depth() == 0).await;
    let push = |receivers, body: &'static str| halley::Dispatch {
        receivers: Some(receivers),
        op: 1000,
        body: body.into(),
        accepted_at_us: 1,
        ..halley::Dispatch::default()
    };
    let keys = ["k2", "k1", "k2"].map(String::from).to_vec();
    let said = push(dispatch::Receivers::Room("live://1".into()), "said");
    let expected = [
        push(dispatch::Receivers::Keys(halley::Keys { keys }), "keys"),
        push(dispatch::Receivers::All(64), "all"),
        halley::Dispatch { origin_key: "sender".into(), origin_seq: 7, ..said },
    ];
    let streams = ours.0.streams.lock().unwrap().clone();
    assert_eq!(streams.len(), 1);
    let got: Vec<_> = streams[0].iter().flat_map(|batch| batch.dispatches.clone()).collect();
    assert_eq!(got, expected);
    assert_eq!(setup.metrics.dispatches.get(), 3);
}

#[tokio::test]
async fn what_waits_goes_in_few_batches_in_order_and_without_waiting_for_answers() {
    let ours = Ours::new(0, 1 << 20);
    let served = Served::start(ours.routes());
    let setup = StreamSetup::start(&[served.address]).await;
    setup.publish_numbers(0..1).await;
    until("the first batch", || ours.batches() == [[1]]).await;
    setup.publish_numbers(1..3000).await;
    // The service reads the next batch when it has answered the last.
    ours.0.permits.add_permits(1000);
    until("all", || setup.broker.depth() == 0).await;
    assert_eq!(ours.bodies(), [numbers(0..3000)], "neither joined nor reordered");
    let batches = ours.batches()[0].len();
    assert!(batches < 100, "{batches} batches");
}

#[tokio::test]
async fn no_more_is_under_way_than_comet_gave_credit_for() {
    let ours = Ours::new(0, 100_000);
    let served = Served::start(ours.routes());
    let setup = StreamSetup::start(&[served.address]).await;
    let body = "x".repeat(30_000);
    setup.publish((0..20).map(|_| to_room("live://1", &body))).await;
    until("the first batch", || ours.count() >= 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let sent = setup.metrics.queue_bytes.get();
    assert!(sent > 20 * 30_000, "nothing is acknowledged");
    // Three of them fit, in one batch or in three, of which the service has read one.
    assert!(ours.count() <= 3, "{:?}", ours.batches());
    ours.0.permits.add_permits(1000);
    until("all", || setup.broker.depth() == 0).await;
    assert_eq!(ours.count(), 20);
    assert!(ours.batches()[0].iter().all(|pushes| *pushes <= 3), "{:?}", ours.batches());
    // What is larger than all of the credit goes alone.
    setup.publish([to_room("live://1", &"y".repeat(200_000))]).await;
    until("the large one", || setup.broker.depth() == 0).await;
    assert_eq!(setup.drops(DropReason::CometUnreachable), 0);
}

#[tokio::test]
async fn what_a_broken_stream_did_not_acknowledge_goes_again_in_order() {
    let ours = Ours::default();
    ours.0.breaks.lock().unwrap().extend([3, 1, 2]);
    let served = Served::start(ours.routes());
    let setup = StreamSetup::start(&[served.address]).await;
    for n in 0..40 {
        setup.publish_numbers(n * 10..(n + 1) * 10).await;
        settle().await;
    }
    until("acknowledged", || setup.broker.depth() == 0).await;
    let streams = ours.bodies();
    assert_eq!(streams.len(), 4);
    for stream in &streams {
        let first: u32 = stream[0].parse().unwrap();
        assert_eq!(*stream, numbers(first..first + stream.len() as u32), "in order, without a gap");
    }
    let ends = |stream: &[String]| stream.last().unwrap().parse::<u32>().unwrap();
    let begins = |stream: &[String]| stream[0].parse::<u32>().unwrap();
    for pair in streams.windows(2) {
        assert!(begins(&pair[1]) <= ends(&pair[0]), "the last batch was not acknowledged");
    }
    assert_eq!(ends(&streams[3]), 399);
    assert_eq!(setup.metrics.dispatches.get(), 400, "each is taken once");
    assert_eq!(setup.drops(DropReason::CometUnreachable), 0);
}

#[tokio::test]
async fn what_a_comet_refuses_is_dropped_and_the_rest_goes_on() {
    let ours = Ours::default();
    let served = Served::start(ours.routes());
    let setup = StreamSetup::start(&[served.address]).await;
    let bodies = ["a", "bad", "b", "bad"];
    setup.publish(bodies.map(|body| to_room("live://1", body))).await;
    // Longer than it reads.
    setup.publish([to_room("live://1", &"x".repeat(2 << 20)), to_room("live://1", "c")]).await;
    until("acknowledged", || setup.broker.depth() == 0).await;
    assert_eq!(setup.drops(DropReason::Invalid), 3);
    assert_eq!(setup.metrics.dispatches.get(), 3);
    assert_eq!(ours.bodies(), [["a", "bad", "b", "bad", "c"]]);
}

#[tokio::test]
async fn a_comet_that_acknowledges_nothing_is_given_up_for_and_delays_no_other() {
    let (stuck, well) = (Ours::new(0, 1 << 20), Ours::default());
    let served = [Served::start(stuck.routes()), Served::start(well.routes())];
    let addresses = [served[0].address, served[1].address];
    let setup = StreamSetup::start_with(&["dispatch.giveUp=1s"], &addresses).await;
    let published = Instant::now();
    setup.publish_numbers(0..50).await;
    until("the other", || well.count() == 50).await;
    assert!(published.elapsed() < Duration::from_secs(1), "it waited for the stuck one");
    until("given up", || setup.broker.depth() == 0).await;
    assert!(published.elapsed() >= Duration::from_secs(1));
    assert_eq!(setup.drops(DropReason::CometUnreachable), 50, "sent or not");
    // The late answer changes nothing, and what comes then is taken.
    stuck.0.permits.add_permits(1000);
    setup.publish_numbers(50..60).await;
    until("taken", || setup.broker.depth() == 0).await;
    assert_eq!(setup.drops(DropReason::CometUnreachable), 50);
    assert_eq!(setup.metrics.dispatches.get(), 70);
    assert!(stuck.bodies().concat().ends_with(&numbers(50..60)));
    assert_eq!(setup.metrics.queue_bytes.get(), 0);
}

/// A port that takes connections and says nothing, ever.
#[tokio::test]
async fn a_comet_that_never_answers_is_given_up_for_and_delays_no_other() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let well = Ours::default();
    let served = Served::start(well.routes());
    let addresses = [silent.local_addr().unwrap(), served.address];
    let setup = StreamSetup::start_with(&["dispatch.giveUp=1s", "dispatch.timeout=300ms"], &addresses).await;
    let published = Instant::now();
    setup.publish_numbers(0..50).await;
    until("the other", || well.count() == 50).await;
    assert!(published.elapsed() < Duration::from_secs(1), "it waited for the silent one");
    until("given up", || setup.broker.depth() == 0).await;
    assert_eq!(setup.drops(DropReason::CometUnreachable), 50);
    // job does not wait for it either.
    setup.broker.close().await;
    setup.drain.begin();
    tokio::time::timeout(Duration::from_secs(20), setup.job.stopped()).await.expect("job ends");
}

#[tokio::test]
async fn goims_comet_gets_goims_calls_and_ours_at_its_address_the_stream() {
    let (goim, ours) = (Goim::default(), Ours::default());
    let served = Served::start(goim.routes());
    let address = served.address;
    let setup = StreamSetup::start(&[address]).await;
    setup.publish([to_room("live://1", "goim's")]).await;
    until("a call", || goim.count() == 1).await;
    served.stop();
    let served = Served::at(address, ours.routes());
    // The connection is found lost by a call of goim's, after which the stream is tried.
    for n in 0..200 {
        setup.publish([to_room("live://1", &format!("ours {n}"))]).await;
        until("acknowledged", || setup.broker.depth() == 0).await;
        if ours.count() > 0 {
            break;
        }
    }
    assert!(ours.count() > 0);
    assert_eq!(setup.drops(DropReason::CometUnreachable), 0);
    let before = goim.count();
    served.stop();
    let _served = Served::at(address, goim.routes());
    setup.publish([to_room("live://1", "goim's again")]).await;
    until("acknowledged", || setup.broker.depth() == 0).await;
    assert_eq!(goim.count(), before + 1);
}

#[tokio::test]
async fn a_comet_that_restarts_gets_what_it_missed_in_order() {
    let ours = Ours::default();
    let served = Served::start(ours.routes());
    let address = served.address;
    let setup = StreamSetup::start(&[address]).await;
    setup.publish_numbers(0..1).await;
    until("connected", || setup.broker.depth() == 0).await;
    served.stop();
    setup.publish_numbers(1..50).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let _served = Served::at(address, ours.routes());
    until("acknowledged", || setup.broker.depth() == 0).await;
    assert_eq!(ours.bodies().concat(), numbers(0..50));
    assert_eq!(setup.drops(DropReason::CometUnreachable), 0);
}

#[tokio::test]
async fn a_kick_arrives_fenced_and_goims_comet_says_that_it_has_none() {
    let ours = Ours::default();
    let served = [Served::start(ours.routes()), Served::start(Goim::default().routes())];
    let comet = |served: &Served| {
        GrpcComet::new(&ServerId::new(served.address.to_string()), &Dial::clear(Duration::from_secs(5)))
            .unwrap()
    };
    let (here, goims) = (comet(&served[0]), comet(&served[1]));
    let replaced = CloseReason::Replaced;
    here.kick(Key::new("k"), Some(Generation(9)), replaced, None).await.unwrap();
    here.kick(Key::new("k"), None, CloseReason::Kicked, Some("out".into())).await.unwrap();
    let kick = |below, code, text: &str| KickReq { key: "k".into(), below, code, text: text.into() };
    assert_eq!(*ours.0.kicks.lock().unwrap(), [kick(9, 4409, ""), kick(0, 4420, "out")]);
    for _ in 0..3 {
        let refused = goims.kick(Key::new("k"), None, replaced, None).await;
        assert!(
            matches!(&refused, Err(DispatchError::Invalid(why)) if why.contains("no kick")),
            "{refused:?}"
        );
    }
}
