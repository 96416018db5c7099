//! Comets lose their place in etcd while clients come and go and backends push: nothing is lost, and they have it again.
//!
//! `ROUNDS=20` makes the tests long.

use std::time::Duration;

use services::Link;
use testkit::rounds::rounds;

use crate::{
    harness::{BOTH, Client, Login, Server, Stopwatch, within},
    world::{Cluster, Queue},
};

/// Longer than the comets' leases of two seconds.
const OUTAGE: Duration = Duration::from_secs(4);

/// A second is the promise; a busy machine gets more.
const AGAIN: Duration = Duration::from_secs(8);

/// Rooms, and at least as many clients in them.
const ROOMS: usize = 8;

/// A cluster whose comets, and nobody else, reach etcd by the link, on leases of two seconds. The link goes last.
fn start() -> (Link, Cluster) {
    let mut cluster = Cluster::servers_only(Queue::Stream);
    let link = Link::to(&cluster.etcd.addr());
    let nodes = format!("discovery.nodes={}", link.addr());
    cluster.fill(&[&nodes, "discovery.leaseTtl=2s", "discovery.dialTimeout=600ms"]);
    (link, cluster)
}

/// Clients that come and go on both comets.
#[derive(Default)]
struct Crowd {
    clients: Vec<(Client, usize)>,
    last: usize,
}

impl Crowd {
    fn come(&mut self, cluster: &Cluster) {
        self.last += 1;
        let n = self.last;
        let login = Login::key(&format!("k{n}"))
            .mid(n as i64)
            .room(&format!("live://{}", n % ROOMS))
            .accepts(&[1000]);
        self.clients.push((cluster.comets[n % 2].client(BOTH[n / 2 % 2], &login), n));
    }

    fn go(&mut self) {
        let (client, _) = self.clients.remove(0);
        client.leave();
    }

    /// Everybody gets what is pushed to the room and to the device.
    fn expect_pushes(&mut self, cluster: &Cluster, body: &str) {
        for room in 0..ROOMS {
            cluster.logics[room % 2].push(&format!("room?operation=1000&type=live&room={room}"), body);
        }
        self.clients.iter_mut().for_each(|(client, _)| client.expect_push(1000, body));
        let keys: String = self.clients.iter().map(|(_, n)| format!("&keys=k{n}")).collect();
        cluster.logics[0].push(&format!("keys?operation=1000{keys}"), body);
        self.clients.iter_mut().for_each(|(client, _)| client.expect_push(1000, body));
    }
}

fn ready(comet: &Server) -> (u16, String) {
    let answer = comet.get("/readyz");
    (answer.status, answer.body)
}

/// Their clients are there, and so are the streams over which the jobs bring pushes: a comet that etcd does not know
/// any more was dropped by all of them.
#[test]
fn a_comet_that_lost_its_lease_gets_every_push_and_is_registered_again() {
    let (link, cluster) = start();
    let mut crowd = Crowd::default();
    (0..2 * ROOMS).for_each(|_| crowd.come(&cluster));
    crowd.expect_pushes(&cluster, "before");
    // Every job has a stream to every comet.
    for room in 0..32 {
        cluster.logics[0].push(&format!("room?operation=1000&type=empty&room={room}"), "nobody");
    }
    for round in 0..rounds() {
        if round % 2 == 0 {
            link.silence()
        } else {
            link.cut()
        }
        let since = Stopwatch::start();
        let mut pushed = 0;
        while since.elapsed() < OUTAGE || pushed < 4 {
            crowd.come(&cluster);
            crowd.go();
            crowd.expect_pushes(&cluster, &format!("meanwhile {round} {pushed}"));
            pushed += 1;
        }
        for comet in &cluster.comets {
            within(AGAIN, "it says that it is not registered", || {
                let (status, why) = ready(comet);
                (status == 503 && why.contains("registration: this process is not in the registry"))
                    .then_some(())
            });
        }
        link.restore();
        let since = Stopwatch::start();
        for comet in &cluster.comets {
            within(AGAIN, "it is ready again", || (ready(comet).0 == 200).then_some(()));
        }
        eprintln!("round {round}: {pushed} times pushed to all, ready again after {:?}", since.elapsed());
        crowd.expect_pushes(&cluster, "after");
    }
    for job in &cluster.jobs {
        assert_eq!(job.metrics().sum("halley_dispatch_drops_total"), 0.0);
    }
    for comet in &cluster.comets {
        assert!(!comet.log().contains("lost sessions"), "Redis was there all the time");
    }
}

/// And by a wipe, the jobs and logics with them.
#[test]
fn everybody_is_registered_again_after_etcd_was_wiped() {
    let (_link, mut cluster) = start();
    let mut crowd = Crowd::default();
    (0..2 * ROOMS).for_each(|_| crowd.come(&cluster));
    crowd.expect_pushes(&cluster, "before");
    for round in 0..rounds() {
        cluster.etcd.restart_empty();
        let since = Stopwatch::start();
        for server in cluster.comets.iter().chain(&cluster.logics) {
            within(AGAIN, "it is registered again", || {
                (server.metrics().count("halley_registry_registered") == 1.0 && ready(server).0 == 200)
                    .then_some(())
            });
        }
        eprintln!("round {round}: all are ready again after {:?}", since.elapsed());
        crowd.come(&cluster);
        crowd.go();
        crowd.expect_pushes(&cluster, &format!("after {round}"));
    }
}
