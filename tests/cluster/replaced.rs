//! One key, logged in on one comet after the other.

use serde_json::json;

use crate::{
    harness::{BOTH, Client, Login, Server, Transport},
    world::Cluster,
};

fn login() -> Login {
    Login::key("k").mid(1).accepts(&[1000]).reasons()
}

#[track_caller]
fn expect_replaced(client: &mut Client) {
    let reason = client.end().reason().expect("operation 6");
    assert_eq!((&reason["code"], &reason["reconnect"]), (&json!(4409), &json!(false)), "{reason}");
}

#[track_caller]
fn expect_held(logic: &Server, comet: &Server) {
    let device = logic.get("/halley/online/keys?keys=k").json()["data"]["k"].clone();
    assert_eq!(device["server"], json!(comet.comet_rpc.to_string()), "{device}");
}

#[test]
fn a_login_on_the_other_comet_closes_the_old_one_and_stays_reachable() {
    let cluster = Cluster::start();
    let mut old = cluster.comets[0].client(Transport::Tcp, &login());
    for round in 0..6 {
        let comet = &cluster.comets[(round + 1) % 2];
        let mut new = comet.client(BOTH[round % 2], &login());
        expect_replaced(&mut old);
        for logic in &cluster.logics {
            expect_held(logic, comet);
            logic.push("keys?operation=1000&keys=k", format!("round {round}"));
            new.expect_push(1000, format!("round {round}"));
        }
        new.expect_silence();
        old = new;
    }
}

/// goim loses one of a hundred quick reconnects: the end of the old connection takes the session of the new one away.
#[test]
fn quick_reconnects_over_two_comets_leave_the_last_one_reachable() {
    let cluster = Cluster::start();
    for round in 0..40 {
        let [first, second] = [&cluster.comets[round % 2], &cluster.comets[(round + 1) % 2]];
        let old = first.client(BOTH[round % 2], &login());
        // The end of the old one and the login of the new one, on different comets, meet in logic.
        drop(old);
        let mut new = second.client(BOTH[round / 2 % 2], &login());
        new.expect_silence();
        cluster.logics[round % 2].push("keys?operation=1000&keys=k", format!("round {round}"));
        new.expect_push(1000, format!("round {round}"));
        expect_held(&cluster.logics[0], second);
        new.leave();
    }
}
