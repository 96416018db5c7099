//! What must hold when everything has come to rest.

use std::{collections::BTreeSet, net::IpAddr};

use axum::{body::Body, http::Request};
use logic::PushTarget;
use proto::{
    ids::{Key, RoomId},
    op::Op,
};
use session::Sessions as _;
use tower::ServiceExt as _;

use crate::{client::Doing, oracle::connection::Phase, world::World};

/// What the front counts when a client's question stays without an answer.
const ANSWERS_LOST: [&str; 2] =
    [r#"halley_logic_given_up_total{what="receive""#, r#"halley_logic_given_up_total{what="reply""#];

/// What it counts when a session stays until it expires: an end that logic was not told of, a late answer that nobody
/// heard, or a heartbeat that failed where it had to put a newer login's session over an older one's.
const ENDS_LOST: [&str; 4] = [
    r#"halley_logic_failures_total{call="heartbeat""#,
    r#"halley_logic_failures_total{call="disconnect""#,
    r#"halley_logic_given_up_total{what="disconnect""#,
    r#"halley_logic_given_up_total{what="connect""#,
];

impl World {
    /// Nobody waits for anything, everybody is where he should be, and counts and sessions say so.
    pub(crate) async fn check_settled(&mut self) -> Result<(), String> {
        self.nobody_waits()?;
        // Everybody asks once more how many are in his room, and everybody is pushed to.
        for n in 0..self.clients.len() {
            if self.clients[n].doing == Doing::Open {
                self.clients[n].people = None;
                self.request(n, Op::HEARTBEAT, b"");
            }
        }
        self.clients.iter_mut().for_each(|client| client.next_beat = self.now);
        self.clients_beat();
        let keys: Vec<Key> = self.oracle.open().filter_map(|(_, conn)| conn.key().cloned()).collect();
        self.push(PushTarget::Keys(keys), 10).await;
        for room in self.all_rooms() {
            self.push(PushTarget::Rooms(vec![room]), 10).await;
        }
        self.settle(std::time::Duration::from_secs(1)).await?;
        self.nobody_waits()?;
        self.sessions_are_true().await?;
        self.counts_are_true().await
    }

    fn all_rooms(&self) -> Vec<RoomId> {
        (0..self.plan.rooms).filter_map(|n| RoomId::parse(&format!("live://{n}")).ok()).collect()
    }

    /// Nothing blocks for ever.
    fn nobody_waits(&self) -> Result<(), String> {
        for (socket, conn) in self.oracle.conns.iter().enumerate() {
            if conn.is_open() {
                if let Some(due) = conn.due() {
                    return Err(format!("connection {socket} waits for {due}"));
                }
                if conn.asked > 0 && !self.front_counted(&ANSWERS_LOST) {
                    return Err(format!("connection {socket} waits for {} answers of logic", conn.asked));
                }
                if conn.carrying {
                    return Err(format!("connection {socket} waits to be read again"));
                }
            } else if conn.phase != Phase::Over {
                let client = self.clients.iter().find(|client| client.socket == socket as u64);
                let doing = client.map(|client| client.doing);
                return Err(format!("connection {socket} is stuck: {:?}, its client {doing:?}", conn.phase));
            }
        }
        let (refused, too_long) = (self.refused(), self.oracle.too_long() as u64);
        if self.given_up() == 0 && refused != too_long {
            return Err(format!("{too_long} pushes were longer than comet takes, and {refused} are counted"));
        }
        self.everything_arrived()
    }

    /// What logic accepted has come to every shard it is for, unless job counts it as given up.
    pub(crate) fn everything_arrived(&self) -> Result<(), String> {
        let (short, first) = self.oracle.undelivered(self.plan.shards);
        let given_up = self.given_up();
        if short > given_up {
            return Err(format!("{short} accepted pushes did not arrive, {given_up} were given up: {first}"));
        }
        Ok(())
    }

    /// Every open connection has its session, and nobody else has one.
    async fn sessions_are_true(&mut self) -> Result<(), String> {
        let keys: Vec<Key> = self.oracle.keys.iter().cloned().collect();
        let found = self.control.sessions.servers_of_keys(&keys).await.map_err(|error| error.to_string())?;
        let live: Vec<&Key> = self.oracle.open().filter_map(|(_, conn)| conn.key()).collect();
        for (key, server) in keys.iter().zip(found) {
            match (live.contains(&key), server.is_some()) {
                (true, false) => {
                    return Err(format!("key {key} has a live connection, and logic says it is offline"));
                }
                (false, true) if !self.front_counted(&ENDS_LOST) => {
                    return Err(format!("key {key} has no connection, and logic says it is online"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The online API says what is.
    async fn counts_are_true(&mut self) -> Result<(), String> {
        for room in self.all_rooms() {
            let people = self.oracle.people(&room);
            let counts = self.api(&format!("/goim/online/room?type=live&rooms={}", room.name())).await?;
            let said = counts[room.name()].as_u64();
            if said != Some(people as u64) {
                return Err(format!("{people} people are in {room}, and logic says {said:?}"));
            }
            for client in self.clients.iter().filter(|client| client.doing == Doing::Open) {
                let conn = self.oracle.conn(client.socket);
                if conn.is_open()
                    && conn.first.as_ref() == Some(&room)
                    && client.people != Some(people as u32)
                {
                    return Err(format!(
                        "{people} people are in {room}, and connection {} was told {:?}",
                        client.socket, client.people
                    ));
                }
            }
        }
        let peers: Vec<IpAddr> = self.oracle.open().map(|(_, conn)| conn.peer).collect();
        let (open, addresses) = (peers.len() as u64, BTreeSet::from_iter(peers).len() as u64);
        let total = self.api("/goim/online/total").await?;
        if (total["conn_count"].as_u64(), total["ip_count"].as_u64()) != (Some(open), Some(addresses)) {
            return Err(format!(
                "{open} connections are open from {addresses} addresses, and logic says {total}"
            ));
        }
        Ok(())
    }

    /// Nobody is there, for logic either.
    pub(crate) async fn check_nobody_online(&mut self) {
        if let Err(what) = self.sessions_are_true().await {
            return self.oracle.fail(what);
        }
        if let Err(what) = self.counts_are_true().await {
            self.oracle.fail(what);
        }
    }

    async fn api(&self, path: &str) -> Result<serde_json::Value, String> {
        let request = Request::get(path).body(Body::empty()).map_err(|error| error.to_string())?;
        let response = match self.control.api.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let body =
            axum::body::to_bytes(response.into_body(), 1 << 20).await.map_err(|error| error.to_string())?;
        let answer: serde_json::Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        Ok(answer["data"].clone())
    }

    /// Whether the front has counted one of these lines: a metric with a label.
    fn front_counted(&self, lines: &[&str]) -> bool {
        let mut registry = prometheus_client::registry::Registry::default();
        self.control.comet_metrics.register(&mut registry);
        let mut text = String::new();
        let written = prometheus_client::encoding::text::encode(&mut text, &registry);
        written.is_err() || text.lines().any(|line| lines.iter().any(|counted| line.starts_with(counted)))
    }
}
