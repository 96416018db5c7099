//! One person with one device: where it wants to be, and how it gets there.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use contract::Transport;
use serde_json::json;
use tokio::{
    sync::{Mutex, mpsc},
    time::{sleep, timeout},
};

use super::{
    Gate,
    line::{self, Ended, Line, Order},
    record::Record,
};
use crate::{
    clock::{At, ms, now, secs},
    ledger::{Connection, End, Stay},
};

/// A client gives a login up after this time and tries another comet.
const PATIENCE: Duration = secs(3);

/// Between attempts, and at most at last.
const PAUSES: [Duration; 4] = [ms(100), ms(300), ms(700), ms(1500)];

/// A delay that the server asks for is obeyed up to this.
const DELAY_MAX: Duration = secs(5);

/// How somebody goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// FIN, or a WebSocket close, and reading to the end.
    InOrder,
    /// RST.
    BreakOff,
    /// Nothing is said or read any more; the server has to find out.
    Silently,
}

/// What a person is told to do.
#[derive(Clone, Debug)]
pub(super) enum Do {
    Come(usize),
    Go(Leave),
    /// Log in again, there, while the old connection is open.
    LogIn(usize),
    Room(String),
}

/// What does not change of a person.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) key: Arc<str>,
    pub(super) mid: i64,
    pub(super) transport: Transport,
    /// Beside the first room.
    pub(super) second_room: Arc<str>,
    pub(super) gates: Arc<[Gate]>,
    /// Logins that may be under way in the whole crowd.
    pub(super) door: Arc<Mutex<At>>,
}

/// The person's task.
pub(super) struct Person {
    pub(super) who: Who,
    pub(super) room: String,
    pub(super) record: Record,
    /// Where it wants to be; nowhere.
    home: Option<usize>,
    line: Option<Line>,
}

impl Person {
    pub(super) fn new(who: Who, room: String, record: Record) -> Person {
        Person { who, room, record, home: None, line: None }
    }

    /// Does what it is told, and comes again when the server sends it away for a while, until the crowd is gone.
    pub(super) async fn live(mut self, mut todo: mpsc::Receiver<Do>) {
        loop {
            if self.line.is_none() && self.home.is_some() {
                self.come_in(&mut todo).await;
            }
            let ended = async {
                match &mut self.line {
                    Some(line) => (&mut line.task).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                next = todo.recv() => match next {
                    Some(next) => self.obey(next).await,
                    None => return,
                },
                ended = ended => {
                    self.line = None;
                    // A task that broke is an end without a word.
                    let lost = |_| Ended { end: End::Lost, delay: Duration::ZERO };
                    self.was_sent_away(ended.unwrap_or_else(lost)).await;
                }
            }
        }
    }

    async fn was_sent_away(&mut self, Ended { end, delay }: Ended) {
        if end.is_final() {
            self.home = None;
            let mut notes = self.record.lock();
            notes.is_coming = false;
            notes.sent_away = Some(format!("{end:?} at {:.1?}", now()));
            return;
        }
        sleep(delay.min(DELAY_MAX)).await;
        // Whoever sent it away is going, or dead: the next one.
        self.home = self.home.map(|home| (home + 1) % self.who.gates.len());
    }

    async fn obey(&mut self, todo: Do) {
        match todo {
            Do::Come(comet) => {
                self.wants(Some(comet));
            }
            Do::LogIn(comet) => {
                self.wants(Some(comet));
                if let Some(line) = self.line.take() {
                    // It goes on by itself; dropping its orders tells it so.
                    self.record.lock().leaving(line.number);
                }
            }
            Do::Go(how) => {
                self.wants(None);
                if let Some(line) = self.line.take() {
                    let order = match how {
                        Leave::InOrder => Order::Leave,
                        Leave::BreakOff => Order::BreakOff,
                        Leave::Silently => Order::FallSilent,
                    };
                    // One that ended meanwhile has left.
                    let _ = line.orders.send(order).await;
                    let _ = timeout(secs(10), line.task).await;
                }
            }
            Do::Room(room) => {
                self.room.clone_from(&room);
                if let Some(line) = &self.line {
                    let _ = line.orders.send(Order::Room(room)).await;
                }
            }
        }
    }

    fn wants(&mut self, home: Option<usize>) {
        self.home = home;
        let mut notes = self.record.lock();
        notes.is_coming = home.is_some();
        notes.sent_away = None;
    }

    /// Tries one comet after the other until it is in, or is told something else.
    async fn come_in(&mut self, todo: &mut mpsc::Receiver<Do>) {
        let mut attempt = 0;
        while let (Some(home), None) = (self.home, &self.line) {
            if let Ok(next) = todo.try_recv() {
                self.obey(next).await;
                continue;
            }
            match self.log_in(home).await {
                Ok(line) => self.line = Some(line),
                Err(why) => {
                    self.record.lock().last_failure = Some(format!("comet {home}: {why}"));
                    sleep(PAUSES[attempt.min(PAUSES.len() - 1)]).await;
                    attempt += 1;
                    self.home = self.home.map(|home| (home + 1) % self.who.gates.len());
                }
            }
        }
    }

    async fn log_in(&self, comet: usize) -> Result<Line, String> {
        self.step_up().await;
        let Who { key, mid, transport, second_room, gates, .. } = &self.who;
        let address: SocketAddr = match transport {
            Transport::Tcp => gates[comet].tcp,
            Transport::WebSocket => gates[comet].ws,
        };
        let login = json!({
            "mid": mid, "key": &**key, "room_id": self.room, "rooms": [&**second_room],
            "accepts": [crate::backend::OP.0], "features": ["reasons"],
        });
        let stay = |room: &str| Stay { room: Arc::from(room), from: At::ZERO, until: None };
        let connection = Connection {
            key: Arc::clone(key),
            mid: *mid,
            comet,
            dialled: now(),
            opened: At::ZERO,
            until: None,
            end: None,
            stays: vec![stay(&self.room), stay(second_room)],
            received: Vec::new(),
        };
        line::open(address, *transport, &login.to_string(), PATIENCE, &self.record, connection).await
    }

    /// A crowd that comes back at once is spread: a login every two milliseconds at most.
    async fn step_up(&self) {
        let mut next = self.who.door.lock().await;
        let now = now();
        *next = (*next + ms(2)).max(now);
        let wait = *next - now;
        drop(next);
        sleep(wait).await;
    }
}
