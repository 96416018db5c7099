//! What the shard must make of everything, and the settling of accounts.

use std::time::Duration;

use contract::{Session, Transport};
use proto::{close::CloseReason, ids::RoomId};
use shard::{
    inspect::Stage,
    mail::{ConnectionId, ToShard},
    stats::DropReason,
};
use testkit::{wire::Got, world::Said};

use super::{Model, ROOMS_PER_CLIENT};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Before its login, after so many other operations.
    Before(u8),
    Lobby,
    /// Its verdict is to move; a write may hold it up.
    Leaving,
    Open,
    Gone,
}

/// What a client says.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Op(i32, i32, Vec<u8>),
    Ping(Vec<u8>),
    Close,
    Garbage,
}

pub(super) struct Client {
    pub(super) id: ConnectionId,
    /// Order of its accept.
    pub(super) born: i32,
    pub(super) transport: Transport,
    pub(super) place: Place,
    /// The client ended its side.
    pub(super) left: bool,
    /// What it said while logic decided.
    pub(super) pending: Vec<Request>,
    pub(super) session: Option<Session>,
    pub(super) first: Option<RoomId>,
    pub(super) others: Vec<RoomId>,
    pub(super) accepts: bool,
    /// Everything that was queued for it, in order.
    pub(super) expected: Vec<Got>,
}

impl Model {
    /// What the shard must make of one request.
    pub(super) fn take(&mut self, n: usize, request: Request) {
        match (self.clients[n].place, request) {
            (Place::Gone, _) => {}
            (_, Request::Garbage) => self.gone(n, CloseReason::ProtocolViolation),
            (_, Request::Close) => {
                self.clients[n].expected.push(Got::BareClose);
                self.gone(n, CloseReason::ClientClosed);
            }
            (Place::Open, Request::Ping(payload)) => self.clients[n].expected.push(Got::Pong(payload)),
            (Place::Open, Request::Op(op, seq, body)) => self.operate(n, op, seq, body),
            (Place::Before(_), Request::Op(7, ..)) => self.clients[n].place = Place::Lobby,
            (Place::Before(8), _) => self.gone(n, CloseReason::ProtocolViolation),
            (Place::Before(ignored), _) => self.clients[n].place = Place::Before(ignored + 1),
            (Place::Lobby | Place::Leaving, request) => self.clients[n].pending.push(request),
        }
    }

    fn operate(&mut self, n: usize, op: i32, seq: i32, body: Vec<u8>) {
        let people = |clients: &[Client], room: &RoomId| {
            let inside =
                |client: &&Client| client.first.as_ref() == Some(room) || client.others.contains(room);
            clients.iter().filter(|client| client.place == Place::Open).filter(inside).count() as i32
        };
        let named = std::str::from_utf8(&body).ok().and_then(|name| RoomId::parse(name).ok());
        let total = self.clients[n].others.len() + usize::from(self.clients[n].first.is_some());
        let client = &mut self.clients[n];
        let answer = match (op, named) {
            (2, _) => {
                let room = client.first.clone();
                room.map_or(0, |room| people(&self.clients, &room)).to_be_bytes().to_vec()
            }
            (12, None) => {
                client.first = None;
                body
            }
            (12, Some(room)) => {
                let others = client.others.iter().filter(|other| **other != room).count();
                if others < ROOMS_PER_CLIENT {
                    client.others.retain(|other| *other != room);
                    client.first = Some(room);
                    body
                } else {
                    client.first.as_ref().map_or(Vec::new(), |room| room.as_str().as_bytes().to_vec())
                }
            }
            (2_000_000_000, Some(room)) => {
                let inside = client.first.as_ref() == Some(&room) || client.others.contains(&room);
                if !inside && total >= ROOMS_PER_CLIENT {
                    Vec::new()
                } else {
                    if !inside {
                        client.others.push(room);
                    }
                    body
                }
            }
            (2_000_000_002, Some(room)) => {
                let first = client.first.as_ref() == Some(&room);
                if first || client.others.contains(&room) {
                    client.others.retain(|other| *other != room);
                    client.first = client.first.take().filter(|_| !first);
                    body
                } else {
                    Vec::new()
                }
            }
            (14 | 16, _) => {
                client.accepts = op == 14;
                body
            }
            (4, _) if client.first.is_none() => Vec::new(),
            (4 | 1000, _) => return self.asked.push((client.id, op, seq)),
            _ => return self.gone(n, CloseReason::ProtocolViolation),
        };
        self.clients[n].expected.push(Got::Reply { op: op + 1, seq, body: answer });
    }

    /// A login is granted on this shard: of two connections with one key the newer one stays.
    pub(super) fn open(&mut self, n: usize) {
        if self.clients[n].left {
            self.clients[n].place = Place::Gone;
            return;
        }
        self.opened += 1;
        let client = &mut self.clients[n];
        let session = client.session.clone().expect("a session was granted");
        client.place = Place::Open;
        let same_key =
            |client: &Client| client.session.as_ref().is_some_and(|other| other.key == session.key);
        let other = (0..self.clients.len())
            .find(|m| *m != n && self.clients[*m].place == Place::Open && same_key(&self.clients[*m]));
        if let Some(m) = other {
            let theirs = self.clients[m].session.as_ref().and_then(|session| session.generation);
            let newer = match (session.generation, theirs) {
                (Some(ours), Some(theirs)) => ours > theirs,
                _ => self.clients[n].born > self.clients[m].born,
            };
            self.gone(if newer { m } else { n }, CloseReason::Replaced);
            if !newer {
                return;
            }
        }
        let client = &mut self.clients[n];
        client.expected.push(Got::Reply { op: 8, seq: 1, body: Vec::new() });
        client.accepts = !session.accepts.is_empty();
        client.first = session.room;
        for room in session.rooms {
            let total = client.others.len() + usize::from(client.first.is_some());
            let inside = client.first.as_ref() == Some(&room) || client.others.contains(&room);
            if !inside && total < ROOMS_PER_CLIENT {
                client.others.push(room);
            }
        }
        for request in std::mem::take(&mut self.clients[n].pending) {
            self.take(n, request);
        }
    }

    pub(super) fn gone(&mut self, n: usize, reason: CloseReason) {
        *self.closes.entry(reason).or_default() += 1;
        self.opened -= u64::from(self.clients[n].place == Place::Open);
        self.clients[n].place = Place::Gone;
    }

    /// Deadlines, slow consumers and clients that left are found when the shard finds them.
    pub(super) fn follow(&mut self) {
        for n in 0..self.clients.len() {
            let client = &self.clients[n];
            let found = match self.world.shard.view(client.id).map(|view| view.stage) {
                Some(Stage::BeforeLogin) => Place::Before(0),
                Some(Stage::Lobby) => Place::Lobby,
                Some(Stage::Open) => Place::Open,
                Some(Stage::Closing) => Place::Gone,
                None if self.world.detached.iter().any(|detached| detached.id == client.id) => Place::Leaving,
                None => Place::Gone,
            };
            match (client.place, found) {
                (Place::Before(_), Place::Before(_)) | (Place::Leaving, Place::Lobby) => {}
                (place, found) if place == found => {}
                (_, Place::Gone) => {
                    self.opened -= u64::from(client.place == Place::Open);
                    self.clients[n].place = Place::Gone;
                }
                (place, found) => panic!("client {n} should be {place:?} and is {found:?}"),
            }
        }
        assert_eq!(self.opened, self.world.shard.stats().open);
        let Model { world, clients, missing, last_over, .. } = self;
        clients.retain(|client| {
            let got = world.last_got(client.id);
            if let Some(got) = &got {
                *missing += compare(&client.expected, got);
                *last_over = Some(client.id);
            }
            got.is_none()
        });
    }

    /// Ends everything and settles the accounts.
    pub(super) fn end(mut self) {
        self.world.checks = true;
        if self.random.one_in(2) {
            self.world.mail(ToShard::Drain { over: Duration::from_secs(1) });
            self.world.advance(Duration::from_secs(4));
            let drained = self.world.said().into_iter().filter(|said| *said == Said::Drained);
            assert_eq!(drained.count(), 1);
        } else {
            self.world.end();
        }
        self.opened = 0;
        for client in &mut self.clients {
            client.place = if client.place == Place::Leaving { Place::Leaving } else { Place::Gone };
        }
        self.follow();
        for reason in [
            CloseReason::Replaced,
            CloseReason::Kicked,
            CloseReason::LoginRefused,
            CloseReason::ProtocolViolation,
        ] {
            assert_eq!(
                self.world.closes(reason),
                self.closes.get(&reason).copied().unwrap_or(0),
                "{reason:?}"
            );
        }
        assert_eq!(self.clients.len(), self.world.detached.len());
        let dropped = self.world.drops(DropReason::SlowConsumer) + self.world.drops(DropReason::Closed);
        assert_eq!(self.missing, dropped, "every frame is delivered or counted");
        assert_eq!(self.world.drops(DropReason::Absent), self.absent);
    }
}

/// Frames of `expected` that are not in `got`, which must be the same things in the same order.
fn compare(expected: &[Got], got: &[Got]) -> u64 {
    let got = match got {
        [rest @ .., Got::Close { .. }] => rest,
        all => all,
    };
    let mut got = got.iter().peekable();
    let (mut missing, mut cut) = (0, false);
    for wanted in expected {
        if got.next_if(|got| *got == wanted).is_some() {
            assert!(!cut, "{wanted:?} came although a reply before it did not");
        } else {
            missing += u64::from(matches!(wanted, Got::Push { .. } | Got::Reply { .. }));
            cut |= !matches!(wanted, Got::Push { .. });
        }
    }
    assert_eq!(got.next(), None, "out of order, twice or out of nowhere");
    missing
}
