//! Backends that push, clients that listen and come back when they are told to go, and the story of both for the ledger of
//! `tests/pairs`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle, sleep},
    time::Duration,
};

use pairs::ledger::{self, Allowed, Answer, Connection, End, Push, Receipt, Rules, Stay, Target, Verdict};

use crate::harness::{BOTH, Client, Http, Login, Next, PATIENCE, Stopwatch, Transport, within};

/// The room that everybody is in.
const ROOM: &str = "live://1";

/// One push in so many is for the room, the others are for one key each.
const ROOM_EVERY: usize = 10;

/// Pause of who found nobody to serve it.
const PAUSE: Duration = Duration::from_millis(20);

/// Pushers and clients at work.
pub(crate) struct Crowd {
    shared: Shared,
    keys: usize,
    clients: Vec<JoinHandle<Vec<Connection>>>,
    pushers: Vec<JoinHandle<Vec<Push>>>,
}

#[derive(Clone)]
struct Shared {
    clock: Stopwatch,
    /// Pushers stop.
    enough: Arc<AtomicBool>,
    /// Clients leave.
    over: Arc<AtomicBool>,
    /// Logins that were answered.
    logins: Arc<AtomicUsize>,
    /// Number of the last push.
    last: Arc<AtomicU64>,
    /// Where comets serve, by transport.
    comets: Arc<[[SocketAddr; 2]]>,
}

impl Crowd {
    /// Connects `keys` clients, all in one room, each with a key of its own, in turn to these comets.
    #[track_caller]
    pub(crate) fn connect(keys: usize, comets: impl Iterator<Item = [SocketAddr; 2]>) -> Crowd {
        let shared = Shared {
            clock: Stopwatch::start(),
            enough: Arc::default(),
            over: Arc::default(),
            logins: Arc::default(),
            last: Arc::default(),
            comets: comets.collect(),
        };
        let clients = (0..keys).map(|key| shared.client(key)).collect();
        let crowd = Crowd { shared, keys, clients, pushers: Vec::new() };
        within(PATIENCE * 3, "everybody is connected", || (crowd.logins() >= keys).then_some(()));
        crowd
    }

    /// Time on the crowd's clock.
    pub(crate) fn now(&self) -> Duration {
        self.shared.clock.elapsed()
    }

    /// Logins that were answered so far.
    pub(crate) fn logins(&self) -> usize {
        self.shared.logins.load(Relaxed)
    }

    /// Starts to push through these logics, with so many pushers, each of which begins a push every `every` at most.
    pub(crate) fn push(&mut self, logics: &[SocketAddr], pushers: usize, every: Duration) {
        for pusher in 0..pushers {
            let mut logics = logics.to_vec();
            let turn = pusher % logics.len();
            logics.rotate_left(turn);
            self.pushers.push(self.shared.pusher(pusher, self.keys, logics, every));
        }
    }

    /// Ends the pushes, waits until `delivered`, and tells what happened.
    #[track_caller]
    pub(crate) fn finish(self, delivered: impl FnOnce()) -> Story {
        self.shared.enough.store(true, Relaxed);
        let pushes = self.pushers.into_iter().flat_map(|pusher| pusher.join().expect("a pusher")).collect();
        delivered();
        self.shared.over.store(true, Relaxed);
        let connections =
            self.clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
        let until = self.shared.clock.elapsed();
        Story(ledger::Story { pushes, connections, until, ..ledger::Story::default() })
    }
}

impl Shared {
    /// Pushes on one connection, until it is enough; to the next logic where one ends the connection.
    fn pusher(
        &self,
        pusher: usize,
        keys: usize,
        logics: Vec<SocketAddr>,
        every: Duration,
    ) -> JoinHandle<Vec<Push>> {
        let shared = self.clone();
        thread::spawn(move || {
            let (mut all, mut logics) = (Vec::new(), logics.into_iter().cycle());
            let mut http = None;
            for number in 0.. {
                if shared.enough.load(Relaxed) {
                    break;
                }
                let connection = http.get_or_insert_with(|| {
                    let found = logics.find_map(|logic| Http::try_connect(logic).or_else(|| pause(None)));
                    found.expect("logics go round for ever")
                });
                let key = (number % ROOM_EVERY > 0).then_some((number * 7 + pusher * 13) % keys);
                let to = match key {
                    Some(key) => format!("/goim/push/keys?operation=1000&keys=k{key}"),
                    None => "/goim/push/room?operation=1000&type=live&room=1".to_owned(),
                };
                let target = match key {
                    Some(key) => Target::Keys(vec![format!("k{key}").into()]),
                    None => Target::Room(ROOM.into()),
                };
                let (id, sent) = (shared.last.fetch_add(1, Relaxed) + 1, shared.clock.elapsed());
                connection.send("POST", &to, &[], id.to_string().as_bytes());
                // Whatever is no plain yes leaves it open.
                let mut answer = Answer::Unknown;
                match connection.try_answer() {
                    None => http = None,
                    Some(answer) if answer.status != 200 => http = pause(None),
                    Some(said) if said.json()["data"]["offline"].is_null() => {
                        answer = Answer::Accepted { at: shared.clock.elapsed(), offline: Vec::new() };
                    }
                    Some(_) => {}
                }
                all.push(Push { id, target, sent, answer });
                sleep(every.saturating_sub(shared.clock.elapsed() - sent));
            }
            all
        })
    }

    /// Stays connected until all is over, and goes to the next comet whenever it is told to go.
    fn client(&self, key: usize) -> JoinHandle<Vec<Connection>> {
        let shared = self.clone();
        thread::spawn(move || {
            let (mut all, mut place) = (Vec::new(), key);
            loop {
                let (comet, way) = (place % shared.comets.len(), key / shared.comets.len() % 2);
                place += 1;
                let dialled = shared.clock.elapsed();
                match shared.login(key, BOTH[way], shared.comets[comet][way]) {
                    Some(client) => all.push(shared.listen(key, comet, dialled, client)),
                    None => sleep(PAUSE),
                }
                if shared.over.load(Relaxed) {
                    return all;
                }
            }
        })
    }

    /// None when the comet is not there, or about to go.
    fn login(&self, key: usize, transport: Transport, address: SocketAddr) -> Option<Client> {
        let mut client = Client::try_raw(transport, address)?;
        if transport == Transport::WebSocket {
            client.try_upgrade("/sub", "").filter(|head| head.starts_with("HTTP/1.1 101 "))?;
        }
        let login = Login::key(&format!("k{key}")).mid(key as i64 + 1).room(ROOM).accepts(&[1000]);
        client.send(7, 1, login.reasons().body());
        matches!(client.next(PATIENCE), Next::Frame(frame) if frame.op == 8).then_some(client)
    }

    /// Listens to the end of a connection, or of all.
    fn listen(&self, key: usize, comet: usize, dialled: Duration, mut client: Client) -> Connection {
        let opened = self.clock.elapsed();
        let mut connection = Connection {
            key: format!("k{key}").into(),
            mid: key as i64 + 1,
            comet,
            dialled,
            opened,
            until: None,
            end: None,
            stays: vec![Stay { room: ROOM.into(), from: opened, until: None }],
            received: Vec::new(),
        };
        self.logins.fetch_add(1, Relaxed);
        loop {
            match client.next(Duration::from_millis(100)) {
                Next::Frame(frame) if frame.op == 6 => connection.until = Some(self.clock.elapsed()),
                Next::Frame(frame) => {
                    let until = connection.until;
                    assert_eq!(until, None, "k{key}: a push behind the word that the connection ends");
                    let id = frame.text().parse().expect("the number of a push");
                    connection.received.push(Receipt { id, at: self.clock.elapsed() });
                }
                Next::Silence if self.over.load(Relaxed) => return connection,
                Next::Silence => {}
                Next::End(end) => {
                    assert!(!end.reset && connection.until.is_some(), "k{key} ended without a word: {end:?}");
                    connection.end = Some((self.clock.elapsed(), End::Closed(end.code().unwrap_or(0))));
                    return connection;
                }
            }
        }
    }
}

/// Waits a little, and gives what it got.
fn pause<T>(what: T) -> T {
    sleep(PAUSE);
    what
}

/// Every push, and every connection.
pub(crate) struct Story(ledger::Story);

impl Story {
    /// Who was connected when a push was sent, and not told to go until it was accepted and had the time that pushes took, must
    /// have got it, once, and in order.
    #[track_caller]
    pub(crate) fn expect_all_delivered(&self) {
        let rules = Rules { reach: Duration::from_millis(50), ..Rules::default() };
        // Of a device that is about to move to another comet no counter is read here.
        let allowed = Allowed::nothing().and(Verdict::InNoCounter, u64::MAX);
        ledger::judge(&self.0, &rules).expect(&allowed);
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.0.connections.len()
    }

    /// How many of the pushes sent after `since` came to connections that were told to go after it.
    pub(crate) fn delivered_to_leavers(&self, since: Duration) -> usize {
        let leavers = self.0.connections.iter().filter(|one| one.until.is_some_and(|until| until > since));
        let received = leavers.flat_map(|one| &one.received);
        let sent: HashMap<u64, Duration> = self.0.pushes.iter().map(|push| (push.id, push.sent)).collect();
        received.filter(|receipt| sent.get(&receipt.id).is_some_and(|sent| *sent > since)).count()
    }
}
