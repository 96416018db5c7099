//! Backends that push, clients that listen and come back when they are told to go, and a ledger of both.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle, sleep},
    time::Duration,
};

use crate::harness::{BOTH, Client, Http, Login, Next, PATIENCE, Stopwatch, Transport, within};

/// One push in so many is for the room, the others are for one key each.
const ROOM_EVERY: usize = 10;

/// Pause of who found nobody to serve it.
const PAUSE: Duration = Duration::from_millis(20);

/// An accepted push. Its number grows with each push of its pusher.
struct Pushed {
    number: usize,
    /// None: the room.
    key: Option<usize>,
    begun: Duration,
    accepted: Duration,
}

/// What one connection saw.
struct Seen {
    key: usize,
    /// When its login was answered.
    began: Duration,
    /// What came, in order: pusher, number and when.
    got: Vec<(usize, usize, Duration)>,
    /// When it was told to go; none for who stayed until all was over.
    told: Option<Duration>,
}

/// Pushers and clients at work.
pub(crate) struct Crowd {
    shared: Shared,
    keys: usize,
    clients: Vec<JoinHandle<Vec<Seen>>>,
    pushers: Vec<JoinHandle<Vec<Pushed>>>,
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

    /// Ends the pushes, waits until `delivered`, and gives the ledger.
    #[track_caller]
    pub(crate) fn finish(self, delivered: impl FnOnce()) -> Ledger {
        self.shared.enough.store(true, Relaxed);
        let pushed = self.pushers.into_iter().map(|pusher| pusher.join().expect("a pusher")).collect();
        delivered();
        self.shared.over.store(true, Relaxed);
        let seen = self.clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
        Ledger { pushed, seen }
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
    ) -> JoinHandle<Vec<Pushed>> {
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
                let begun = shared.clock.elapsed();
                connection.send("POST", &to, &[], format!("{pusher} {number}").as_bytes());
                match connection.try_answer() {
                    // Nobody knows.
                    None => http = None,
                    Some(answer) if answer.status != 200 => http = pause(None),
                    Some(answer) if answer.json()["data"]["offline"].is_null() => {
                        all.push(Pushed { number, key, begun, accepted: shared.clock.elapsed() });
                    }
                    Some(_) => {}
                }
                sleep(every.saturating_sub(shared.clock.elapsed() - begun));
            }
            all
        })
    }

    /// Stays connected until all is over, and goes to the next comet whenever it is told to go.
    fn client(&self, key: usize) -> JoinHandle<Vec<Seen>> {
        let shared = self.clone();
        thread::spawn(move || {
            let (mut all, mut place) = (Vec::new(), key);
            loop {
                let address = shared.comets[place % shared.comets.len()][key / shared.comets.len() % 2];
                place += 1;
                let transport = BOTH[key / shared.comets.len() % 2];
                match shared.login(key, transport, address) {
                    Some(client) => all.push(shared.listen(key, client)),
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
        let login = Login::key(&format!("k{key}")).mid(key as i64 + 1).room("live://1").accepts(&[1000]);
        client.send(7, 1, login.reasons().body());
        matches!(client.next(PATIENCE), Next::Frame(frame) if frame.op == 8).then_some(client)
    }

    /// Listens to the end of a connection, or of all.
    fn listen(&self, key: usize, mut client: Client) -> Seen {
        let mut seen = Seen { key, began: self.clock.elapsed(), got: Vec::new(), told: None };
        self.logins.fetch_add(1, Relaxed);
        loop {
            match client.next(Duration::from_millis(100)) {
                Next::Frame(frame) if frame.op == 6 => seen.told = Some(self.clock.elapsed()),
                Next::Frame(frame) => {
                    assert_eq!(seen.told, None, "k{key}: a push behind the word that the connection ends");
                    let text = frame.text();
                    let (pusher, number) = text.split_once(' ').expect("two numbers");
                    let [pusher, number] = [pusher, number].map(|word| word.parse().expect("a number"));
                    seen.got.push((pusher, number, self.clock.elapsed()));
                }
                Next::Silence if self.over.load(Relaxed) => return seen,
                Next::Silence => {}
                Next::End(end) => {
                    assert!(!end.reset && seen.told.is_some(), "k{key} ended without a word: {end:?}");
                    return seen;
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

/// Every accepted push, and every connection.
pub(crate) struct Ledger {
    /// Of each pusher.
    pushed: Vec<Vec<Pushed>>,
    seen: Vec<Seen>,
}

/// What the ledger says.
#[derive(Default)]
pub(crate) struct Verdict {
    pub(crate) pushes: usize,
    pub(crate) deliveries: usize,
    pub(crate) connections: usize,
    /// Deliveries that had to be, to connections that were told to go after `since` ([`Ledger::judge`]).
    pub(crate) due_to_leavers: usize,
    pub(crate) lost: usize,
    pub(crate) doubled: usize,
    pub(crate) reordered: usize,
    /// The longest that a push took from its acceptance to somebody who stayed.
    pub(crate) slowest: Duration,
    /// Some of what was lost, in words.
    pub(crate) examples: Vec<String>,
}

impl Ledger {
    /// Who was connected when a push was begun, and not told to go until it was accepted and had the time that the
    /// slowest took to anybody, must have got it, once, and in the order of its pusher.
    pub(crate) fn judge(&self, since: Duration) -> Verdict {
        let accepted: Vec<HashMap<usize, &Pushed>> = self
            .pushed
            .iter()
            .map(|pushed| pushed.iter().map(|pushed| (pushed.number, pushed)).collect())
            .collect();
        let stayed = self.seen.iter().filter(|seen| seen.told.is_none());
        let took = stayed.flat_map(|seen| &seen.got).filter_map(|(pusher, number, at)| {
            Some(at.saturating_sub(accepted[*pusher].get(number)?.accepted))
        });
        let slowest = took.max().unwrap_or_default();
        let mut verdict = Verdict {
            pushes: self.pushed.iter().map(Vec::len).sum(),
            deliveries: self.seen.iter().map(|seen| seen.got.len()).sum(),
            connections: self.seen.len(),
            slowest,
            ..Verdict::default()
        };
        let margin = slowest + Duration::from_millis(50);
        for seen in &self.seen {
            for (pusher, pushed) in self.pushed.iter().enumerate() {
                verdict.compare(seen, pusher, pushed, since, margin);
            }
        }
        verdict
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { pushes, deliveries, connections, due_to_leavers, slowest, .. } = self;
        let Verdict { lost, doubled, reordered, examples, .. } = self;
        write!(
            f,
            "{pushes} pushes, {deliveries} deliveries to {connections} connections, {due_to_leavers} of them due to who \
             was told to go; lost {lost}, doubled {doubled}, reordered {reordered}; slowest {slowest:?}"
        )?;
        examples.iter().try_for_each(|example| write!(f, "\n{example}"))
    }
}

impl Verdict {
    fn compare(&mut self, seen: &Seen, pusher: usize, pushed: &[Pushed], since: Duration, margin: Duration) {
        let mut got = HashMap::<usize, usize>::new();
        let mut last = [None; 2];
        for (_, number, _) in seen.got.iter().filter(|(of, ..)| *of == pusher) {
            let times = got.entry(*number).or_default();
            *times += 1;
            let last = &mut last[usize::from(number % ROOM_EVERY == 0)];
            if *times > 1 {
                self.doubled += 1;
            } else {
                self.reordered += usize::from(*last > Some(*number));
                *last = Some(*number);
            }
        }
        for push in pushed.iter().filter(|push| push.key.is_none_or(|key| key == seen.key)) {
            let had_time = seen.told.is_none_or(|told| push.accepted + margin < told);
            if push.begun <= seen.began || !had_time {
                continue;
            }
            self.due_to_leavers +=
                usize::from(seen.told.is_some_and(|told| told > since) && push.begun > since);
            if !got.contains_key(&push.number) {
                self.lost += 1;
                if self.examples.len() < 8 {
                    let (kind, key) = (if push.key.is_some() { "key" } else { "room" }, seen.key);
                    let (accepted, began, told) = (push.accepted, seen.began, seen.told);
                    self.examples.push(format!(
                        "{kind} push {pusher}/{} accepted at {accepted:?}, k{key} there from {began:?} to {told:?}",
                        push.number
                    ));
                }
            }
        }
    }
}
