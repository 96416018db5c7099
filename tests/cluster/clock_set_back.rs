//! Redis's clock was ahead at a login, and was set right: the device that comes back gets in.

use crate::{
    harness::{BOTH, Client, Login, Server, epoch_s},
    store::redis,
    world::{Cluster, Queue},
};

/// A generation of so many seconds from now.
fn generation(ahead_s: u64) -> String {
    ((epoch_s() + ahead_s) * 1_000_000).to_string()
}

/// What Redis holds of a login.
fn store(cluster: &Cluster, mid: i64, generation: &str, fenced_for: &str, server: &str) {
    let fence = format!("{generation} {mid} {fenced_for}");
    redis(&cluster.redis, &["SET", &format!("golang_im:key_k{mid}"), server, "EX", "1800"]);
    redis(&cluster.redis, &["SET", &format!("golang_im:gen_k{mid}"), &fence, "EX", "1800"]);
    redis(&cluster.redis, &["HSET", &format!("golang_im:mid_{mid}"), &format!("k{mid}"), server]);
}

fn login(mid: i64) -> Login {
    Login::key(&format!("k{mid}")).mid(mid).accepts(&[1000]).reasons()
}

/// The device is in, and stays it, on whichever comet it comes back to.
#[track_caller]
fn expect_gets_in(comets: &[Server], logic: &Server, mid: i64) {
    let mut last: Option<Client> = None;
    for (n, comet) in comets.iter().chain(comets).enumerate() {
        let mut device = comet.client(BOTH[n % 2], &login(mid));
        logic.push(&format!("keys?operation=1000&keys=k{mid}"), format!("round {n}"));
        device.expect_push(1000, format!("round {n}"));
        device.expect_silence();
        if let Some(mut before) = last.replace(device) {
            assert_eq!(before.end().reason().expect("operation 6")["code"], 4409);
        }
    }
}

#[test]
fn a_device_gets_in_whose_session_began_when_the_clock_was_ahead() {
    let cluster = Cluster::start_with(Queue::Stream, &["protocol.renewInterval=1s"]);
    const GONE: &str = "127.0.0.1:3999";
    // The comet of that login is gone; the clock was ahead by an hour, or by less than a minute.
    for ahead in [3600, 55] {
        store(&cluster, 9, &generation(ahead), GONE, GONE);
        expect_gets_in(&cluster.comets, &cluster.logics[0], 9);
    }
    // A Go logic has stored a later login, on another comet, beside that fence.
    store(&cluster, 9, &generation(3600), GONE, "127.0.0.1:3998");
    expect_gets_in(&cluster.comets, &cluster.logics[0], 9);
    let why = "ahead of the session store's clock";
    assert!(cluster.logics.iter().any(|logic| logic.log().contains(why)), "no log says why");

    // The comet lives and has the connection, which may be half dead: another device, of which nothing was renewed yet.
    let mut half_dead = cluster.comets[0].client(BOTH[0], &login(10));
    let server = cluster.comets[0].comet_rpc.to_string();
    store(&cluster, 10, &generation(55), &server, &server);
    expect_gets_in(&cluster.comets[1..], &cluster.logics[1], 10);
    assert_eq!(half_dead.end().reason().expect("operation 6")["code"], 4409);
}
