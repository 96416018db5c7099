//! Logins whose clients gave them up, found by a process that had stood still: they close nothing that was made since.

use std::{thread, time::Duration};

use rustix::net::sockopt::set_socket_linger;
use testkit::rounds::rounds;

use crate::{
    harness::{BOTH, Client, Frozen, Login, Next, Server, eventually},
    store::sessions,
    world::{Cluster, Queue},
};

/// How long a program stands still.
const FROZEN: Duration = Duration::from_secs(3);

fn login(n: usize) -> Login {
    Login::key(&format!("k{n}")).mid(1).accepts(&[1000]).reasons()
}

/// Sends the login, and does not wait.
fn begin(mut client: Client, n: usize) -> Client {
    client.send(7, 1, login(n).body());
    client
}

/// Each third leaves in order, each third as one that crashed; the rest is left open and kept.
fn give_up(n: usize, client: Client) -> Option<Client> {
    match n % 3 {
        0 => drop(client),
        1 => {
            set_socket_linger(&client.stream, Some(Duration::ZERO)).expect("a socket option");
            drop(client);
        }
        _ => return Some(client),
    }
    None
}

/// What is left open is told that it was overtaken, or that nobody answered in time, and never let in.
#[track_caller]
fn expect_refused(mut left: Client) {
    let closed = left.end();
    let reason = closed.reason().expect("operation 6");
    assert!([4409, 4408, 1011].map(Some).contains(&reason["code"].as_i64()), "{reason}");
}

/// Every one of these is there, and logic and Redis know it where it is.
#[track_caller]
fn expect_all_live(cluster: &Cluster, comet: &Server, live: &mut [Client]) {
    // Renewals, kicks and late answers have had their time.
    thread::sleep(Duration::from_millis(1500));
    for (n, client) in live.iter_mut().enumerate() {
        assert!(matches!(client.next(Duration::from_millis(1)), Next::Silence), "k{n} was closed");
    }
    let rows = sessions(&cluster.redis);
    let server = comet.comet_rpc.to_string();
    for n in 0..live.len() {
        assert_eq!(rows.get(&format!("golang_im:key_k{n}")), Some(&server), "k{n}");
    }
    let keys: String = (0..live.len()).map(|n| format!("&keys=k{n}")).collect();
    for (n, logic) in cluster.logics.iter().enumerate() {
        logic.push(&format!("keys?operation=1000{keys}"), format!("through logic {n}"));
        live.iter_mut().for_each(|client| client.expect_push(1000, format!("through logic {n}")));
    }
}

/// On both drivers, both transports, in the queue of accepts and behind it. Ten of ten live connections were closed.
fn given_up_at_frozen_comets(count: usize) {
    let mut cluster = Cluster::start_with(Queue::Stream, &["limits.unauthenticated=5000"]);
    cluster.comets.push(cluster.comet(&["limits.unauthenticated=5000", "reactor.driver=epoll"]));
    cluster.comets[2].expect_ready();
    let [first, other, second] = &cluster.comets[..] else { panic!("three comets") };
    let late = [first, second];
    let early: Vec<Option<Client>> = (0..count)
        .map(|n| match n / 2 % 3 {
            0 => Some(late[n % 2].connect(BOTH[0])),
            1 => Some(late[n % 2].connect(BOTH[1])),
            _ => None,
        })
        .collect();
    let frozen = Frozen::new(late);
    let begun: Vec<Client> = early
        .into_iter()
        .enumerate()
        .map(|(n, client)| begin(client.unwrap_or_else(|| late[n % 2].connect(BOTH[0])), n))
        .collect();
    thread::sleep(Duration::from_millis(200));
    let left: Vec<Client> =
        begun.into_iter().enumerate().filter_map(|(n, client)| give_up(n, client)).collect();
    let mut live: Vec<Client> = (0..count).map(|n| other.client(BOTH[n % 2], &login(n))).collect();
    frozen.thaw_after(FROZEN);
    left.into_iter().for_each(expect_refused);
    expect_all_live(&cluster, other, &mut live);
    println!("{count} logins given up, {} live connections, none closed", live.len());
}

/// `ROUNDS=17` makes them a thousand, at once.
#[test]
fn logins_that_were_given_up_at_a_frozen_comet_close_nothing() {
    given_up_at_frozen_comets(60 * rounds());
}

/// Logic stands still with logins in its hands: one of two, which are asked in turn, then both.
#[test]
fn logins_that_were_given_up_while_logic_stood_still_close_nothing() {
    let cluster = Cluster::start();
    let [first, other] = &cluster.comets[..] else { panic!("two comets") };
    // The comets have heard what Redis's clock shows.
    thread::sleep(Duration::from_millis(2500));
    for which in [&cluster.logics[..1], &cluster.logics[..]] {
        let frozen = Frozen::new(which);
        let begun: Vec<Client> = (0..30).map(|n| begin(first.connect(BOTH[n % 2]), n)).collect();
        thread::sleep(Duration::from_millis(400));
        let left: Vec<Client> =
            begun.into_iter().enumerate().filter_map(|(n, client)| give_up(n, client)).collect();
        let mut live: Vec<Client> = (0..30).map(|n| begin(other.connect(BOTH[n % 2]), n)).collect();
        frozen.thaw_after(FROZEN);
        for (n, client) in live.iter_mut().enumerate() {
            let answer = client.frame();
            let (count, rows) = (which.len(), sessions(&cluster.redis));
            let fence = rows.get(&format!("golang_im:gen_k{n}"));
            assert_eq!(answer.op, 8, "k{n}, {count} frozen: {}, Redis says {fence:?}", answer.text());
        }
        // Those that were let in before their clients gave up are replaced; the others are refused.
        for mut client in left {
            let answer = client.frame();
            if answer.op == 8 {
                let reason = client.end().reason().expect("operation 6");
                assert_eq!(reason["code"], 4409, "{reason}");
            } else {
                assert_eq!(answer.op, 6, "{}", answer.text());
            }
        }
        expect_all_live(&cluster, other, &mut live);
        live.into_iter().for_each(drop);
        eventually("everybody has left", || sessions(&cluster.redis).is_empty().then_some(()));
    }
}

/// A comet that runs for a tenth of the time, as on an overloaded machine.
#[test]
fn logins_that_were_given_up_at_an_overloaded_comet_close_nothing() {
    let cluster = Cluster::start();
    let [busy, other] = &cluster.comets[..] else { panic!("two comets") };
    let mut live: Vec<Client> = Vec::new();
    for round in 0..10 {
        let frozen = Frozen::new([busy]);
        let begun: Vec<Client> = (0..6).map(|n| begin(busy.connect(BOTH[0]), 6 * round + n)).collect();
        thread::sleep(Duration::from_millis(150));
        begun.into_iter().enumerate().for_each(|(n, client)| drop(give_up(n % 2, client)));
        live.extend((0..6).map(|n| other.client(BOTH[n % 2], &login(6 * round + n))));
        drop(frozen);
        thread::sleep(Duration::from_millis(15));
    }
    expect_all_live(&cluster, other, &mut live);
}
