//! The truth: what every connection must get, who holds every key, how many are where; and what breaks it.
//!
//! It sees everything that a shard is told, says and wants done ([`Watch`]), and knows what the clients wrote and which
//! pushes logic accepted. From these alone it makes a model of each connection ([`connection`]), and compares: each frame
//! the moment its shard sends it, each byte the moment its client reads it, the shards' counters at the end.

pub(crate) mod connection;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
    net::IpAddr,
    time::Duration,
};

use comet::driver::sim::{
    event::{Event, Watch},
    network::SocketId,
};
use contract::Transport;
use proto::{
    close::CloseReason,
    ids::{Generation, Key, RoomId},
    op::Op,
};
use seam::Time;
use shard::{
    Action, Flow, Shard,
    mail::{Outcome, PushTo, ToFront, ToShard},
    stats::DropReason,
};
use testkit::wire::{Frame, Heard};

use self::connection::{Conn, Phase, Request, push_id};
use crate::{
    secure::Secure,
    trace::{Trace, short},
};

/// What a deadline may be late by: a tick for its rounding, and a tick for being looked at.
const LATE: Duration = Duration::from_millis(200);

/// Logins that came so close behind each other may be told in either order: one that logic is asked about again is dated
/// as late as it can have come by what the comet knows of the store's clock.
const ONE_MOMENT: Duration = Duration::from_millis(25);

/// The limits that the model has to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) rooms_max: usize,
    pub(crate) accepts_max: usize,
    pub(crate) ignored_max: u8,
    pub(crate) handshake: Duration,
    pub(crate) tls_handshake: Duration,
    pub(crate) unknown_reply_same: bool,
}

/// To whom an accepted push goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Every shard gets it once.
    Shards,
    /// So many keys get it.
    Keys(usize),
    /// It is longer than comet takes.
    Nobody,
}

struct Accepted {
    id: u32,
    reach: Reach,
    /// Shards, or keys, that have it.
    handed: usize,
}

#[derive(Default)]
struct OfShard {
    /// Place among the accepted of the last push that was handed to it.
    last: Option<usize>,
    /// Broadcasts with a speed.
    paced: Vec<u32>,
    absent: u64,
    delivered: u64,
    failed: u64,
    missing: u64,
    doubtful: u64,
}

/// The truth of one run.
pub(crate) struct Oracle {
    pub(crate) trace: Trace,
    rules: Rules,
    pub(crate) conns: Vec<Conn>,
    shards: Vec<OfShard>,
    accepted: Vec<Accepted>,
    /// Place among the accepted, by number.
    places: BTreeMap<u32, usize>,
    /// Who wrote which message.
    messages: BTreeMap<u32, SocketId>,
    /// Open connections by key: one at the end of each event.
    live: BTreeMap<Key, Vec<SocketId>>,
    /// Keys whose connections may have changed in this event.
    touched: Option<Key>,
    /// The connection that this event is about.
    current: Option<SocketId>,
    /// The connection that this event must close.
    kicked: Option<SocketId>,
    /// What was handed to it has to be read when this event is over.
    unchecked: Option<SocketId>,
    /// Nobody of this shard may be over a deadline when this event is over.
    unticked: Option<(Time, u16)>,
    /// What it was promised before this event.
    promised: usize,
    /// Every key there ever was a session for.
    pub(crate) keys: BTreeSet<Key>,
    /// The first thing that is wrong.
    pub(crate) broken: Option<String>,
    /// Connections that were held because the way to the front was full, and those that left between two shards.
    pub(crate) held: u64,
    pub(crate) left_on_the_way: u64,
    /// Connections with TLS that were handed over, and those of them of whose next record a part had come.
    pub(crate) secure_moves: (u64, u64),
    /// Frames that clients read.
    pub(crate) read_frames: u64,
}

impl Oracle {
    pub(crate) fn new(rules: Rules, shards: usize, trace: Trace) -> Oracle {
        Oracle {
            trace,
            rules,
            conns: Vec::new(),
            shards: (0..shards).map(|_| OfShard::default()).collect(),
            accepted: Vec::new(),
            places: BTreeMap::new(),
            messages: BTreeMap::new(),
            live: BTreeMap::new(),
            touched: None,
            current: None,
            kicked: None,
            unchecked: None,
            unticked: None,
            promised: 0,
            keys: BTreeSet::new(),
            broken: None,
            held: 0,
            left_on_the_way: 0,
            secure_moves: (0, 0),
            read_frames: 0,
        }
    }

    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        if self.broken.is_none() {
            self.broken = Some(what.into());
        }
    }

    fn check(&mut self, socket: SocketId, result: Result<(), String>) {
        if let Err(what) = result {
            self.fail(format!("connection {socket}: {what}"));
        }
    }

    pub(crate) fn conn(&self, socket: SocketId) -> &Conn {
        &self.conns[socket as usize]
    }

    pub(crate) fn conn_mut(&mut self, socket: SocketId) -> &mut Conn {
        &mut self.conns[socket as usize]
    }

    // What clients and backends do.

    pub(crate) fn connected(
        &mut self,
        transport: Transport,
        secure: Option<Secure>,
        peer: IpAddr,
        shard: u16,
        now: Time,
    ) {
        self.conns.push(Conn::new(transport, secure, peer, shard, now));
    }

    /// A client writes bytes that are no frame, or only part of one.
    pub(crate) fn wrote(&mut self, socket: SocketId, bytes: usize) {
        self.conn_mut(socket).written += bytes as u64;
    }

    /// A client writes one frame.
    pub(crate) fn requested(&mut self, socket: SocketId, op: Op, seq: i32, body: &[u8], bytes: usize) {
        let conn = self.conn_mut(socket);
        conn.written += bytes as u64;
        let end = conn.written;
        if let Some(id) = push_id(body).filter(|_| op == Op::SEND_MESSAGE) {
            self.messages.insert(id, socket);
        }
        let conn = self.conn_mut(socket);
        conn.requests.push_back(Request { op, seq, body: body.to_vec(), end });
    }

    /// logic has accepted a client's message: those of one client in the order in which it wrote them.
    pub(crate) fn accepted_message(&mut self, body: &[u8], push_max: usize) {
        let Some((id, socket)) = push_id(body).and_then(|id| Some((id, *self.messages.get(&id)?))) else {
            return self.fail("logic published what nobody said");
        };
        let last = self.conn_mut(socket).last_message.replace(id);
        if last >= Some(id) {
            self.fail(format!("connection {socket}: message {id} was published after message {last:?}"));
        }
        self.accepted(id, if body.len() > push_max { Reach::Nobody } else { Reach::Shards });
    }

    /// logic has accepted a push.
    pub(crate) fn accepted(&mut self, id: u32, reach: Reach) {
        self.places.insert(id, self.accepted.len());
        self.accepted.push(Accepted { id, reach, handed: 0 });
    }

    /// A client has read bytes.
    pub(crate) fn client_read(&mut self, now: Time, socket: SocketId, bytes: &[u8]) -> Vec<Heard> {
        let result = self.conn_mut(socket).client_read(bytes);
        let got = result.unwrap_or_else(|what| {
            self.fail(format!("connection {socket}: {what}"));
            Vec::new()
        });
        for got in &got {
            self.read_frames += 1;
            let hash = |trace: &mut Trace| {
                trace.write_u64(socket);
                match got {
                    Heard::Frame(frame) => (frame.op, frame.seq, &frame.body).hash(trace),
                    Heard::Http(status) => status.hash(trace),
                    Heard::Ping(_) | Heard::Pong => trace.write_u8(1),
                    Heard::Close(code) => code.hash(trace),
                }
            };
            self.trace.event(now, hash, || match got {
                Heard::Frame(Frame { op, seq, body, .. }) => {
                    format!("client {socket} reads operation {op} seq {seq} {}", short(body))
                }
                other => format!("client {socket} reads {other:?}"),
            });
        }
        got
    }

    /// Who is in a room.
    pub(crate) fn people(&self, room: &RoomId) -> usize {
        self.conns.iter().filter(|conn| conn.is_open() && conn.is_in(room)).count()
    }

    /// The open connections.
    pub(crate) fn open(&self) -> impl Iterator<Item = (SocketId, &Conn)> {
        self.conns
            .iter()
            .enumerate()
            .filter(|(_, conn)| conn.is_open())
            .map(|(n, conn)| (n as SocketId, conn))
    }

    /// Pushes that comet must refuse.
    pub(crate) fn too_long(&self) -> usize {
        self.accepted.iter().filter(|push| push.reach == Reach::Nobody).count()
    }

    /// How many pushes have not reached everybody they are for, and the first of them in words.
    pub(crate) fn undelivered(&self, shards: usize) -> (u64, String) {
        let mut short = self.accepted.iter().filter_map(|push| {
            let all = match push.reach {
                Reach::Shards => shards,
                Reach::Keys(keys) => keys,
                Reach::Nobody => 0,
            };
            (push.handed < all).then(|| format!("push {} reached {} of {all}", push.id, push.handed))
        });
        let first = short.next();
        (first.is_some() as u64 + short.count() as u64, first.unwrap_or_default())
    }

    /// The counters of a shard are those that the model comes to.
    pub(crate) fn settle_accounts(&mut self, index: usize, shard: &Shard) {
        let stats = shard.stats();
        let drops = |reason| stats.drops.get(&reason).copied().unwrap_or(0);
        let of = &self.shards[index];
        let (slow, closed) = (drops(DropReason::SlowConsumer), drops(DropReason::Closed));
        let least = of.missing + of.failed;
        let most = least + of.doubtful + (of.paced.len() * self.conns.len()) as u64;
        let (absent, delivered) = (of.absent, of.delivered);
        if !(least..=most).contains(&(slow + closed)) {
            let extra = if least == most { String::new() } else { format!(" to {most}") };
            self.fail(format!(
                "shard {index} counts {slow} + {closed} dropped frames (slow, closed), and {least}{extra} were not delivered"
            ));
        } else if drops(DropReason::Absent) != absent {
            self.fail(format!(
                "shard {index} counts {} absent keys, and there were {absent}",
                drops(DropReason::Absent)
            ));
        } else if stats.deliveries != delivered {
            self.fail(format!("shard {index} counts {} deliveries of {delivered}", stats.deliveries));
        }
    }

    // What shards do.

    /// A mail of the front.
    fn mail(&mut self, now: Time, shard: u16, mail: &ToShard, socket: Option<SocketId>) {
        self.current = socket;
        match mail {
            ToShard::Push(push) => {
                let Some(id) = frame_body(push.encoded.tcp()).and_then(push_id) else {
                    return self.fail("a push that nobody made");
                };
                let keys = match &push.to {
                    PushTo::Keys(keys) => Some(keys.len()),
                    PushTo::Room(_) | PushTo::All { .. } => None,
                };
                self.handed(shard, id, keys);
                let origin = push.origin.as_ref().map(|(key, copy)| (key.clone(), frame_seq(copy.tcp())));
                self.push(shard, id, &push.to, push.filter, origin);
            }
            ToShard::Verdict(verdict) => {
                if let (Some(socket), Outcome::Refuse { .. }) = (socket, &verdict.outcome)
                    && self.conn(socket).phase == Phase::Lobby
                {
                    self.conn_mut(socket).close(now);
                }
                if let (Some(socket), Outcome::Open(session) | Outcome::Move { session, .. }) =
                    (socket, &verdict.outcome)
                {
                    self.conn_mut(socket).session = Some(session.clone());
                }
            }
            ToShard::Kick { key, below, .. } => {
                let live = self.live.get(key).and_then(|live| live.last().copied());
                self.kicked = live.filter(|socket| {
                    let conn = self.conn(*socket);
                    let older = below.is_none_or(|below| conn.generation().is_some_and(|own| own < below));
                    conn.shard == shard && older
                });
            }
            ToShard::Reply { header, body, .. } => {
                let same = self.rules.unknown_reply_same && header.op != Op::SEND_MESSAGE;
                let op = if same { header.op } else { header.op.reply() };
                if let Some(socket) = socket
                    && self.conn(socket).is_open()
                {
                    let conn = self.conn_mut(socket);
                    conn.expect_reply(op, header.seq, Some(body.to_vec()), false);
                    conn.asked -= u32::from(header.op != Op::SEND_MESSAGE);
                }
            }
            _ => {}
        }
        self.promised = socket.map_or(0, |socket| self.conn(socket).expected_len());
    }

    /// A part of a push has come to a shard.
    fn handed(&mut self, shard: u16, id: u32, keys: Option<usize>) {
        let Some(place) = self.places.get(&id).copied() else {
            return self.fail(format!("push {id} came to shard {shard} before it was accepted"));
        };
        if self.accepted[place].reach == Reach::Nobody {
            return self.fail(format!("push {id} came to shard {shard}, and is longer than allowed"));
        }
        let of = &mut self.shards[usize::from(shard)];
        if of.last.is_some_and(|last| last >= place) {
            let last = self.accepted[of.last.unwrap_or(0)].id;
            return self
                .fail(format!("push {id} came to shard {shard} after push {last}: twice, or out of order"));
        }
        of.last = Some(place);
        self.accepted[place].handed += keys.unwrap_or(1);
    }

    /// A shard is about to hand out a push.
    fn push(&mut self, shard: u16, id: u32, to: &PushTo, filter: Op, origin: Option<(Key, i32)>) {
        let here = |conn: &&mut Conn| conn.is_open() && conn.shard == shard;
        match to {
            PushTo::Room(room) => {
                for conn in self.conns.iter_mut().filter(here).filter(|conn| conn.is_in(room)) {
                    let own = origin.as_ref().filter(|(key, _)| conn.key() == Some(key));
                    let seq = own.map_or(0, |(_, seq)| *seq);
                    conn.expect_push(id, seq);
                }
            }
            PushTo::All { speed: 0 } => {
                for conn in self.conns.iter_mut().filter(here).filter(|conn| conn.accepts.contains(&filter)) {
                    conn.expect_push(id, 0);
                }
            }
            PushTo::All { .. } => self.shards[usize::from(shard)].paced.push(id),
            PushTo::Keys(keys) => {
                for key in keys {
                    let socket = self.live.get(key).and_then(|live| live.last().copied());
                    match socket.map(|socket| self.conn_mut(socket)).filter(|conn| conn.shard == shard) {
                        Some(conn) if conn.accepts.contains(&filter) => conn.expect_push(id, 0),
                        Some(_) => {}
                        None => self.shards[usize::from(shard)].absent += 1,
                    }
                }
            }
        }
    }

    /// A shard says something.
    fn said(&mut self, now: Time, said: &ToFront) {
        match said {
            ToFront::Login(login) => {
                if let Some(socket) = self.current {
                    let conn = self.conn_mut(socket);
                    conn.arrived = login.arrived;
                    conn.enter(Phase::Lobby, now);
                }
            }
            ToFront::LoginGone(id) => {
                if let Some(conn) = self.conns.iter_mut().find(|conn| conn.id == Some(*id)) {
                    conn.close(now);
                }
            }
            ToFront::Opened { key, .. } => {
                let Some(socket) = self.current else {
                    return self.fail("a connection opened out of nowhere");
                };
                let rules = self.rules;
                self.conn_mut(socket).open(&rules, now);
                self.live.entry(key.clone()).or_default().push(socket);
                self.keys.insert(key.clone());
                self.touched = Some(key.clone());
            }
            ToFront::Ended { key, generation, peer: Some(_), reason, .. } => {
                self.ended(now, key, *generation, *reason == CloseReason::Replaced);
            }
            _ => {}
        }
    }

    fn ended(&mut self, now: Time, key: &Key, generation: Option<Generation>, replaced: bool) {
        let live = self.live.entry(key.clone()).or_default();
        let conns = &self.conns;
        let place = live.iter().position(|socket| conns[*socket as usize].generation() == generation);
        let Some(place) = place else {
            return self.fail(format!("the end of a connection with key {key} that was not open"));
        };
        let socket = live.remove(place);
        let stays = live.iter().map(|socket| &conns[*socket as usize]).max_by_key(|conn| conn.generation());
        let newest = stays.and_then(Conn::generation);
        // Those of one moment get numbers one behind the other.
        let (came, stays_since) =
            (conns[socket as usize].arrived, stays.map_or(now, |conn| conn.arrived.after(ONE_MOMENT)));
        if live.is_empty() {
            self.live.remove(key);
        }
        if replaced && newest <= generation {
            self.fail(format!(
                "key {key}: the login of generation {generation:?} was closed as replaced, and {newest:?} stays"
            ));
        }
        if replaced && stays_since < came {
            self.fail(format!("key {key}: a login that came {came:?} was closed for one of {stays_since:?}"));
        }
        let (current, promised) = (self.current, self.promised);
        let conn = self.conn_mut(socket);
        conn.close(now);
        if current == Some(socket) {
            conn.doubt_replies(promised);
        }
        self.touched = Some(key.clone());
    }

    fn one_per_key(&mut self) {
        if let Some(key) = self.touched.take()
            && let Some(live) = self.live.get(&key)
            && live.len() > 1
        {
            let text = format!("key {key} has {} live connections: {live:?}", live.len());
            self.fail(text);
        }
    }

    fn ticked(&mut self, now: Time, shard: u16) {
        let late = |since: Time, after: Duration| since.after(after).after(LATE) < now;
        let Rules { handshake, tls_handshake, .. } = self.rules;
        let found =
            self.conns.iter().enumerate().filter(|(_, conn)| conn.shard == shard).find_map(|(n, conn)| {
                let what = match conn.phase {
                    // The answer to its upgrade may be all that can be written.
                    Phase::Before(_) | Phase::Lobby if conn.writing || conn.doomed => return None,
                    Phase::Before(_) if conn.is_shaking_hands() => {
                        if !late(conn.since, tls_handshake) {
                            return None;
                        }
                        "has not done its handshake"
                    }
                    Phase::Before(_) if late(conn.since, handshake) => "has not logged in",
                    Phase::Lobby if late(conn.since, handshake) => "waits for logic",
                    Phase::Open if !conn.carrying => {
                        let silence = conn.session.as_ref().map(|session| session.heartbeat)?;
                        if !late(conn.since, silence) {
                            return None;
                        }
                        "is silent"
                    }
                    _ => return None,
                };
                let since = now.since(conn.since);
                Some(format!("connection {n} {what} for {since:?}, and its shard has let the deadline pass"))
            });
        if let Some(what) = found {
            self.fail(what);
        }
    }

    fn act(&mut self, now: Time, shard: u16, action: &Action, socket: Option<SocketId>) {
        let Some(socket) = socket else { return };
        match action {
            Action::Send { run, .. } => {
                let paced = std::mem::take(&mut self.shards[usize::from(shard)].paced);
                let conn = self.conn_mut(socket);
                conn.writing = true;
                let result = conn.sends(run.as_slice(), &paced);
                conn.shake_hands(now);
                self.shards[usize::from(shard)].paced = paced;
                self.check(socket, result);
            }
            // Of an open connection its shard has said so before.
            Action::Finish { .. } | Action::Shut { .. } => {
                let conn = self.conn_mut(socket);
                let is_finish = matches!(action, Action::Finish { .. });
                let untold =
                    |secure: &Secure| secure.is_done && !secure.has_ended && !secure.is_spoiled && is_finish;
                if conn.is_open() {
                    self.fail(format!("connection {socket} is open and its descriptor is shut"));
                } else if conn.secure.as_deref().is_some_and(untold) {
                    self.fail(format!("connection {socket} is ended and its TLS is not"));
                } else if conn.phase != Phase::Closed {
                    conn.close(now);
                }
            }
            Action::Resume { .. } => {
                let conn = self.conn_mut(socket);
                if std::mem::take(&mut conn.carrying) && conn.is_open() {
                    // It was not heard because it was not read.
                    conn.since = now;
                }
                self.unchecked = Some(socket);
            }
            Action::Release { .. } => {
                let conn = self.conn_mut(socket);
                conn.over(now);
                let (missing, doubtful) = (conn.missing, conn.doubtful);
                let of = &mut self.shards[usize::from(shard)];
                of.missing += missing;
                of.doubtful += doubtful;
            }
            Action::Detach { .. } => self.conn_mut(socket).enter(Phase::Moving, now),
            Action::StopAccepting => {}
        }
    }
}

impl Watch for Oracle {
    fn event(&mut self, now: Time, shard: u16, event: Event<'_>) {
        let socket = match &event {
            Event::Received(_, socket, _) | Event::Act(_, Some(socket)) => Some(*socket),
            _ => None,
        };
        let is_secure = socket.is_some_and(|socket| self.conn(socket).secure.is_some());
        let hash = |trace: &mut Trace| words::hash(trace, shard, &event, is_secure);
        self.trace.event(now, hash, || words::line(shard, &event, is_secure));
        if !matches!(
            event,
            Event::Said(_) | Event::Moved(..) | Event::Act(..) | Event::Read(_) | Event::Heard(_)
        ) {
            self.last_event_is_over();
        }
        match event {
            Event::Accepted(id, socket) => {
                let conn = self.conn_mut(socket);
                conn.id = Some(id);
                conn.shard = shard;
                conn.enter(Phase::Before(0), now);
            }
            Event::Refused(socket) => self.conn_mut(socket).enter(Phase::Over, now),
            Event::Received(_, socket, bytes) => {
                self.current = Some(socket);
                let conn = self.conn_mut(socket);
                conn.hand(bytes.len());
                self.promised = self.conn(socket).expected_len();
            }
            Event::Handshake(socket) => {
                self.current = Some(socket);
                self.conn_mut(socket).shake_hands(now);
                self.promised = self.conn(socket).expected_len();
            }
            Event::Read(socket) => {
                let rules = self.rules;
                let result = self.conn_mut(socket).take(&rules);
                self.check(socket, result);
            }
            Event::Heard(socket) => {
                let conn = self.conn_mut(socket);
                if conn.is_open() {
                    conn.since = now;
                }
            }
            Event::Flow(socket, flow) => {
                if flow == Flow::Hold && self.conn(socket).is_open() {
                    self.conn_mut(socket).carrying = true;
                    self.held += 1;
                } else if flow != Flow::Handshake {
                    self.unchecked = Some(socket);
                }
                self.one_per_key();
                self.current = None;
            }
            Event::InputEnded(_, socket, _) | Event::HungUp(_, socket) | Event::TooLate(socket) => {
                self.current = None;
                let conn = self.conn_mut(socket);
                if matches!(conn.phase, Phase::Before(_) | Phase::Lobby) {
                    conn.close(now);
                }
            }
            Event::Sent(_, socket, complete, frames) => {
                self.current = None;
                self.conn_mut(socket).writing = false;
                let of = &mut self.shards[usize::from(shard)];
                *if complete { &mut of.delivered } else { &mut of.failed } += u64::from(frames);
            }
            Event::Mail(mail, socket) => self.mail(now, shard, mail, socket),
            Event::MailDone => {
                if let Some(socket) = self.kicked.take()
                    && self.conn(socket).is_open()
                {
                    self.fail(format!("connection {socket} was kicked and is open"));
                }
                self.one_per_key();
                self.current = None;
            }
            Event::Attaching(socket, state) => {
                self.current = Some(socket);
                self.secure_moves.0 += u64::from(state.tls.is_some());
                self.secure_moves.1 += u64::from(state.tls.as_ref().is_some_and(|tls| tls.has_partial()));
                let conn = self.conn_mut(socket);
                conn.shard = shard;
                conn.session = Some(state.session.clone());
                self.promised = self.conn(socket).expected_len();
            }
            Event::Attached(id, socket) => {
                self.conn_mut(socket).id = Some(id);
                self.one_per_key();
                self.current = None;
            }
            Event::LeftOnTheWay(socket, _) => {
                self.left_on_the_way += 1;
                self.conn_mut(socket).enter(Phase::Over, now);
            }
            Event::Ticked => self.unticked = Some((now, shard)),
            Event::Said(said) => self.said(now, said),
            Event::Moved(..) => {}
            Event::Act(action, socket) => self.act(now, shard, action, socket),
        }
    }
}

impl Oracle {
    /// All that follows from the last event has happened.
    fn last_event_is_over(&mut self) {
        if let Some(socket) = self.unchecked.take() {
            let result = self.conn(socket).check_all_read();
            self.check(socket, result);
        }
        if let Some((now, shard)) = self.unticked.take() {
            self.ticked(now, shard);
        }
    }
}

fn frame_body(frame: &[u8]) -> Option<&[u8]> {
    frame.get(16..)
}

fn frame_seq(frame: &[u8]) -> i32 {
    frame.get(12..16).map_or(0, |bytes| i32::from_be_bytes(bytes.try_into().expect("four bytes")))
}
