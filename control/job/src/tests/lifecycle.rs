//! The start and the end of job on a broker that outlives it.

use registry::RegistryError;

use super::*;

/// A memory broker that outlives the process, and takes a while to store each acknowledgement.
struct Slow(MemoryBroker);

struct SlowConsumer(Box<dyn Consumer>);

#[async_trait]
impl Broker for Slow {
    async fn publish(&self, envelopes: Vec<Envelope>) -> Result<(), PublishError> {
        self.0.publish(envelopes).await
    }

    async fn consume(&self, group: &str) -> Result<Box<dyn Consumer>, ConsumeError> {
        Ok(Box::new(SlowConsumer(self.0.consume(group).await?)))
    }

    async fn dead_letter(&self, deliveries: Vec<Delivery>) {
        self.0.dead_letter(deliveries).await;
    }

    async fn close(&self) {
        self.0.close().await;
    }

    fn outlives_process(&self) -> bool {
        true
    }
}

#[async_trait]
impl Consumer for SlowConsumer {
    async fn next_batch(&mut self, max: usize) -> Result<Vec<Delivery>, ConsumeError> {
        self.0.next_batch(max).await
    }

    async fn ack(&mut self, position: &broker::Position) -> Result<(), ConsumeError> {
        sleep(Duration::from_millis(100)).await;
        self.0.ack(position).await
    }
}

/// What a comet took while the broker stored an earlier acknowledgement was done, and never acknowledged: the next job
/// sent it again.
#[tokio::test(start_paused = true)]
async fn what_is_taken_while_job_ends_is_acknowledged() {
    let comet = Arc::new(FakeComet::stuck());
    let broker = MemoryBroker::new(MemoryLimits { bytes: 1000, entries: 10 }, BrokerMetrics::default());
    let registry = Fixed::new([]);
    let _registration = register(&registry, "a:1").await;
    let drain = Drain::new();
    let job = start_job(&broker, &comet, Arc::new(registry), &drain);
    for body in ["first", "second"] {
        broker.publish(vec![to_room("live://1", body)]).await.unwrap();
        settle().await;
    }
    drain.begin();
    settle().await;
    comet.dispatch.admit(1);
    sleep(Duration::from_millis(10)).await;
    comet.dispatch.admit(1);
    job.stopped().await;
    assert_eq!(comet.bodies(), ["first", "second"]);
    assert_eq!(broker.depth(), 0, "nothing comes again");
}

/// A registry whose store has not answered yet.
struct Unread {
    registry: Fixed,
    read: watch::Sender<bool>,
}

#[async_trait]
impl Registry for Unread {
    async fn register(&self, node: Node) -> Result<Box<dyn Registration>, RegistryError> {
        self.registry.register(node).await
    }

    fn watch(&self) -> watch::Receiver<Arc<NodeSet>> {
        self.registry.watch()
    }

    async fn known(&self) {
        self.read.subscribe().wait_for(|read| *read).await.unwrap();
    }
}

/// A job that was quicker at the broker than at etcd took its comets for none, and dropped what waited for them.
#[tokio::test(start_paused = true)]
async fn nothing_is_read_before_the_comets_are_known() {
    let comet = Arc::new(FakeComet::default());
    let broker = MemoryBroker::new(MemoryLimits { bytes: 1000, entries: 10 }, BrokerMetrics::default());
    broker.publish(vec![to_room("live://1", "waits")]).await.unwrap();
    let registry = Fixed::new([]);
    let unread = Arc::new(Unread { registry: registry.clone(), read: watch::Sender::new(false) });
    let _job = start_job(&broker, &comet, Arc::clone(&unread) as _, &Drain::new());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(broker.depth(), 1);
    let _registration = register(&registry, "a:1").await;
    unread.read.send_replace(true);
    until("acknowledged", || broker.depth() == 0).await;
    assert_eq!(comet.bodies(), ["waits"]);
}

/// An etcd that was wiped, in a site where everything starts at once, has no comets for a moment.
#[tokio::test(start_paused = true)]
async fn what_waited_is_kept_for_the_first_comet_but_not_for_ever() {
    let comet = Arc::new(FakeComet::default());
    let broker = MemoryBroker::new(MemoryLimits { bytes: 1000, entries: 10 }, BrokerMetrics::default());
    broker.publish(vec![to_room("live://1", "waits")]).await.unwrap();
    let registry = Fixed::new([]);
    let _job = start_job(&broker, &comet, Arc::new(registry.clone()), &Drain::new());
    sleep(GIVE_UP - Duration::from_secs(1)).await;
    assert_eq!(broker.depth(), 1);
    let registration = register(&registry, "a:1").await;
    until("acknowledged", || broker.depth() == 0).await;
    assert_eq!(comet.bodies(), ["waits"]);

    // Only at the start: later, no comet is no comet.
    registration.deregister().await;
    settle().await;
    broker.publish(vec![to_room("live://1", "later")]).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(broker.depth(), 0);

    let broker = MemoryBroker::new(MemoryLimits { bytes: 1000, entries: 10 }, BrokerMetrics::default());
    broker.publish(vec![to_room("live://1", "to nobody")]).await.unwrap();
    let _job = start_job(&broker, &comet, Arc::new(Fixed::new([])), &Drain::new());
    sleep(GIVE_UP + Duration::from_secs(1)).await;
    assert_eq!(broker.depth(), 0);
    assert_eq!(comet.bodies(), ["waits"]);
}

fn start_job(
    broker: &MemoryBroker,
    comet: &Arc<FakeComet>,
    registry: Arc<dyn Registry>,
    drain: &Drain,
) -> Job {
    let api = Arc::clone(comet);
    let deps = JobDeps {
        group: GROUP.to_owned(),
        broker: Arc::new(Slow(broker.clone())),
        registry,
        connect: Box::new(move |node| {
            let (server, api) = (node.server.clone(), Arc::clone(&api) as Arc<dyn CometApi>);
            Some(Comet { server, api, calls: BATCHES, stream: None })
        }),
        metrics: JobMetrics::default(),
        drain: drain.clone(),
    };
    super::start(&JobConfig::default(), deps)
}
