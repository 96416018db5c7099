//! The sessions of one process, in memory.
//!
//! A session takes 186 bytes (see the ignored test below; two million sessions, keys of 11 bytes): a slot of 40 bytes
//! by key and one of 24 by user, their share of free slots, and the text of the key, which both maps share with the
//! connection in comet. When a session expires stands in its slot as a second. Every lookup checks it, and sweeps
//! remove what has expired; no session has a timer. Each map is cut into [`PARTS`], so that neither a sweep nor the
//! growth of a table of millions stops the thread for long.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use contract::SessionRef;
use proto::ids::{Generation, Key, Mid, ServerId};
use seam::{Bug, RandomState};
use tokio::time::Instant;

use super::{
    AHEAD, Holder, NewSession, Put, Renewal, Sessions, SessionsUnavailable, StoredSession, TAKEN_OVER,
    UNDECIDED, log_from_the_future,
};
use crate::metrics::SessionMetrics;

/// Parts of each map. One sweep goes over one part.
const PARTS: usize = 64;

/// The sessions of one process.
pub struct MemorySessions {
    /// Seconds a session lives unrenewed, rounded up.
    ttl_s: u32,
    started: Instant,
    /// The wall clock at that time, µs since the epoch. If somebody sets the wall clock later, that changes no order
    /// here.
    started_us: u64,
    metrics: SessionMetrics,
    store: Mutex<Store>,
}

struct Store {
    hasher: RandomState,
    keys: [HashMap<Key, Row, RandomState>; PARTS],
    mids: [HashMap<Mid, Keys, RandomState>; PARTS],
    servers: Servers,
    sessions: usize,
    /// How often the store has lost everything, plus one.
    incarnation: u64,
    /// The part of `keys` that the next sweep goes over.
    sweep_next: usize,
}

/// One session without its key.
#[derive(Clone, Copy)]
struct Row {
    mid: Mid,
    generation: Generation,
    server: u32,
    /// The session is gone from this second on, counted from the store's start.
    expires_s: u32,
}

/// The devices of one user. There is nearly always one. If there are many (user 0 stands for everybody who gave none),
/// removing one stays cheap.
enum Keys {
    One(Key),
    #[expect(clippy::box_collection, reason = "a bare set would triple the size of the usual case")]
    Many(Box<HashSet<Key, RandomState>>),
}

/// Numbers the comets, so that a row needs only four bytes for one. There are few comets, so none is ever forgotten.
#[derive(Default)]
struct Servers {
    numbers: HashMap<ServerId, u32>,
    ids: Vec<ServerId>,
}

impl MemorySessions {
    /// An empty store whose sessions live for `ttl` unless they are renewed. Expired sessions are invisible; their
    /// memory is freed only after [`start_sweeping`](Self::start_sweeping).
    pub fn new(ttl: Duration, metrics: SessionMetrics) -> Self {
        let store = Store {
            hasher: RandomState::new(),
            keys: std::array::from_fn(|_| HashMap::default()),
            mids: std::array::from_fn(|_| HashMap::default()),
            servers: Servers::default(),
            sessions: 0,
            incarnation: 1,
            sweep_next: 0,
        };
        let ttl_s = u32::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(u32::MAX / 2);
        let started_us = seam::wall_micros();
        MemorySessions { ttl_s, started: Instant::now(), started_us, metrics, store: Mutex::new(store) }
    }

    /// Starts the task that frees expired sessions. It goes over all parts once in a sixteenth of the time to live, and
    /// ends with the store.
    pub fn start_sweeping(self: &Arc<Self>) {
        let store: Weak<Self> = Arc::downgrade(self);
        let pause = Duration::from_secs(self.ttl_s.into()) / 16 / PARTS as u32;
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                let Some(store) = store.upgrade() else { return };
                store.sweep();
            }
        });
    }

    /// Loses everything, like a Redis that restarts empty. For tests: the store of a program never does.
    #[cfg(any(test, feature = "conformance", feature = "sim"))]
    pub fn lose_all(&self) {
        let mut store = self.store();
        store.keys.iter_mut().for_each(HashMap::clear);
        store.mids.iter_mut().for_each(HashMap::clear);
        store.sessions = 0;
        store.incarnation += 1;
    }

    /// Frees the expired sessions of the next part.
    fn sweep(&self) {
        let now_s = self.now_s();
        let mut store = self.store();
        let part = store.sweep_next;
        store.sweep_next = (part + 1) % PARTS;
        let expired: Vec<Key> = store.keys[part]
            .iter()
            .filter(|(_, row)| row.expires_s <= now_s)
            .map(|(key, _)| key.clone())
            .collect();
        for key in expired {
            store.remove(&key);
        }
        self.metrics.set_sessions(store.sessions);
    }

    fn now_s(&self) -> u32 {
        // 32 bits are enough for 136 years of uptime.
        self.started.elapsed().as_secs() as u32
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a generation lies so far ahead of the clock that the clock must have been set back since.
fn is_ahead(generation: Generation, now_us: u64) -> bool {
    generation.0 > (now_us + AHEAD.as_micros() as u64) as i64
}

/// Whether a login came just now: it has not waited, and was not dated before the clock was set.
fn comes_now(generation: Generation, now_us: u64) -> bool {
    !is_ahead(generation, now_us) && generation.0 >= now_us.saturating_sub(AHEAD.as_micros() as u64) as i64
}

#[async_trait]
impl Sessions for MemorySessions {
    fn now_us(&self) -> u64 {
        self.started_us + self.started.elapsed().as_micros() as u64
    }

    /// Always 1 in a program, since nothing is lost while the process lives.
    fn incarnation(&self) -> Option<u64> {
        Some(self.store().incarnation)
    }

    async fn put(&self, session: NewSession) -> Result<Put, SessionsUnavailable> {
        let now_s = self.now_s();
        let mut store = self.store();
        let row = store.live(&session.key, now_s);
        let previous = row.map(|row| store.holder(row));
        let mut generation = session.generation;
        if let (Some(row), Some(by)) = (row, &previous)
            && by.generation >= generation
        {
            let now_us = self.now_us();
            let is_same = (by.generation, &by.server, row.mid) == (generation, &session.server, session.mid);
            if by.generation > generation {
                if !is_ahead(by.generation, now_us) || !comes_now(generation, now_us) {
                    if by.generation.0 <= now_us as i64 {
                        return Ok(Put::Superseded { by: by.clone() });
                    }
                    log_from_the_future(&session.key, by.generation, now_us, UNDECIDED);
                    return Ok(Put::Undecided { by: by.clone() });
                }
                log_from_the_future(&session.key, by.generation, now_us, TAKEN_OVER);
            }
            generation = Generation(by.generation.0.saturating_add(i64::from(!is_same)));
        }
        store.insert(NewSession { generation, ..session }, now_s + self.ttl_s);
        self.metrics.set_sessions(store.sessions);
        Ok(Put::Stored { previous, generation })
    }

    async fn end(&self, session: &SessionRef) -> Result<bool, SessionsUnavailable> {
        let now_s = self.now_s();
        let mut store = self.store();
        let Some(row) = store.live(&session.key, now_s) else { return Ok(false) };
        let is_it = match session.generation {
            Some(generation) => row.generation == generation || seam::planted(Bug::UnfencedEnd),
            None => store.servers.id(row.server) == &session.server,
        };
        if is_it {
            store.remove(&session.key);
            self.metrics.set_sessions(store.sessions);
        }
        Ok(is_it)
    }

    async fn renew(&self, sessions: &[SessionRef]) -> Result<Vec<Renewal>, SessionsUnavailable> {
        let now_s = self.now_s();
        let expires_s = now_s + self.ttl_s;
        let now_us = self.now_us();
        let mut store = self.store();
        let renewals =
            sessions.iter().map(|session| store.renew(session, now_us, now_s, expires_s)).collect();
        self.metrics.set_sessions(store.sessions);
        Ok(renewals)
    }

    async fn sessions_of_keys(
        &self,
        keys: &[Key],
    ) -> Result<Vec<Option<StoredSession>>, SessionsUnavailable> {
        let now_s = self.now_s();
        let store = self.store();
        Ok(keys.iter().map(|key| store.live(key, now_s).map(|row| store.session(key, row))).collect())
    }

    async fn servers_of_keys(&self, keys: &[Key]) -> Result<Vec<Option<ServerId>>, SessionsUnavailable> {
        let now_s = self.now_s();
        let store = self.store();
        Ok(keys
            .iter()
            .map(|key| store.live(key, now_s).map(|row| store.servers.id(row.server).clone()))
            .collect())
    }

    async fn sessions_of_mids(&self, mids: &[Mid]) -> Result<Vec<Vec<StoredSession>>, SessionsUnavailable> {
        let now_s = self.now_s();
        let store = self.store();
        Ok(mids.iter().map(|mid| store.of_mid(*mid, now_s)).collect())
    }
}

impl Store {
    fn part_of_key(&self, key: &Key) -> usize {
        self.hasher.hash_one(key) as usize % PARTS
    }

    fn part_of_mid(&self, mid: Mid) -> usize {
        self.hasher.hash_one(mid) as usize % PARTS
    }

    fn live(&self, key: &Key, now_s: u32) -> Option<Row> {
        self.keys[self.part_of_key(key)].get(key).filter(|row| row.expires_s > now_s).copied()
    }

    fn holder(&self, row: Row) -> Holder {
        Holder { server: self.servers.id(row.server).clone(), generation: row.generation }
    }

    fn session(&self, key: &Key, row: Row) -> StoredSession {
        let Holder { server, generation } = self.holder(row);
        let generation = Generation::from_wire(generation.0);
        StoredSession { mid: Some(row.mid), key: key.clone(), server, generation }
    }

    fn of_mid(&self, mid: Mid, now_s: u32) -> Vec<StoredSession> {
        let session = |key: &Key| self.live(key, now_s).map(|row| self.session(key, row));
        match self.mids[self.part_of_mid(mid)].get(&mid) {
            None => Vec::new(),
            Some(Keys::One(key)) => session(key).into_iter().collect(),
            Some(Keys::Many(keys)) => keys.iter().filter_map(session).collect(),
        }
    }

    fn renew(&mut self, session: &SessionRef, now_us: u64, now_s: u32, expires_s: u32) -> Renewal {
        if let Some(row) = self.live(&session.key, now_s) {
            let is_it = match session.generation {
                Some(generation) => row.generation == generation,
                None => self.servers.id(row.server) == &session.server,
            };
            if is_it {
                self.extend(&session.key, expires_s);
                return Renewal::Current;
            }
            let is_newer = |generation| match (is_ahead(generation, now_us), is_ahead(row.generation, now_us))
            {
                (ours, theirs) if ours != theirs => theirs,
                _ => generation > row.generation,
            };
            if !session.generation.is_some_and(is_newer) {
                return Renewal::Superseded { by: self.holder(row) };
            }
        }
        let SessionRef { mid, key, server, generation } = session.clone();
        let generation = generation.unwrap_or(Generation(0));
        self.insert(NewSession { mid, key, server, generation }, expires_s);
        Renewal::Current
    }

    fn extend(&mut self, key: &Key, expires_s: u32) {
        let part = self.part_of_key(key);
        if let Some(row) = self.keys[part].get_mut(key) {
            row.expires_s = expires_s;
        }
    }

    /// Replaces whatever session the key had. The store takes over the new key's text, which the new connection shares.
    fn insert(&mut self, session: NewSession, expires_s: u32) {
        self.remove(&session.key);
        let NewSession { mid, key, server, generation } = session;
        let row = Row { mid, generation, server: self.servers.number(&server), expires_s };
        let part = self.part_of_mid(mid);
        match self.mids[part].get_mut(&mid) {
            None => {
                self.mids[part].insert(mid, Keys::One(key.clone()));
            }
            Some(Keys::Many(keys)) => {
                keys.insert(key.clone());
            }
            Some(one) => {
                if let Keys::One(first) = one {
                    *one = Keys::Many(Box::new(HashSet::from_iter([first.clone(), key.clone()])));
                }
            }
        }
        let part = self.part_of_key(&key);
        self.keys[part].insert(key, row);
        self.sessions += 1;
    }

    fn remove(&mut self, key: &Key) {
        let part = self.part_of_key(key);
        let Some(row) = self.keys[part].remove(key) else { return };
        self.sessions -= 1;
        let part = self.part_of_mid(row.mid);
        let empty = match self.mids[part].get_mut(&row.mid) {
            Some(Keys::Many(keys)) => {
                keys.remove(key);
                keys.is_empty()
            }
            Some(Keys::One(_)) | None => true,
        };
        if empty {
            self.mids[part].remove(&row.mid);
        }
    }
}

impl Servers {
    fn number(&mut self, server: &ServerId) -> u32 {
        *self.numbers.entry(server.clone()).or_insert_with(|| {
            self.ids.push(server.clone());
            (self.ids.len() - 1) as u32
        })
    }

    fn id(&self, number: u32) -> &ServerId {
        &self.ids[number as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        conformance,
        model::{Login, Model, Step, TTL, steps},
    };

    #[tokio::test(start_paused = true)]
    async fn memory_conforms() {
        conformance::run(async || conformance::Subject {
            sessions: Arc::new(MemorySessions::new(TTL, SessionMetrics::default())),
            ttl: TTL,
        })
        .await;
    }

    #[test]
    fn a_slot_is_as_small_as_documented() {
        assert_eq!(size_of::<(Key, Row)>(), 40);
        assert_eq!(size_of::<(Mid, Keys)>(), 24);
    }

    #[tokio::test(start_paused = true)]
    async fn what_expired_is_freed() {
        let sessions = Arc::new(MemorySessions::new(TTL, SessionMetrics::default()));
        sessions.start_sweeping();
        for n in 0..1000 {
            let server = ServerId::new("a:1");
            let key = Key::new(n.to_string());
            let session = NewSession { mid: Mid(n / 2), key, server, generation: Generation(n) };
            sessions.put(session).await.unwrap();
        }
        tokio::time::sleep(TTL / 2).await;
        assert_eq!(sessions.store().sessions, 1000);
        tokio::time::sleep(TTL).await;
        let store = sessions.store();
        assert_eq!(store.sessions, 0);
        assert!(store.keys.iter().all(HashMap::is_empty) && store.mids.iter().all(HashMap::is_empty));
    }

    /// Prints the figure of this module's documentation: `cargo test --release -p halley-session bytes_per_session --
    /// --ignored --nocapture`.
    #[tokio::test]
    #[ignore = "a measurement of the whole process's memory, to be run alone"]
    async fn bytes_per_session() {
        const STEP: i64 = 500_000;
        let sessions = MemorySessions::new(TTL, SessionMetrics::default());
        let rss_anon_kb = || -> i64 {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let mut before = rss_anon_kb();
        for step in 1..=4 {
            for n in (step - 1) * STEP..step * STEP {
                let (key, server) = (Key::new(format!("web_{n:07}")), ServerId::new("127.0.0.1:3109"));
                sessions
                    .put(NewSession { mid: Mid(n), key, server, generation: Generation(n) })
                    .await
                    .unwrap();
            }
            let now = rss_anon_kb();
            println!(
                "{} to {} sessions: {} B each",
                (step - 1) * STEP,
                step * STEP,
                (now - before) * 1024 / STEP
            );
            before = now;
        }
        println!("on average {} B", before * 1024 / (4 * STEP));
    }

    proptest! {
        /// Whatever the order in which the steps of many logins arrive, key and user agree and no old login wins.
        #[test]
        fn no_interleaving_breaks_the_fence(steps in steps(60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let sessions = MemorySessions::new(TTL, SessionMetrics::default());
                let mut model = Model::default();
                for step in steps {
                    let done = match step {
                        Step::Put(l) => {
                            let (key, server) = (l.key(), l.server());
                            let new = NewSession { mid: Mid(l.mid), key, server, generation: Generation(l.generation) };
                            Some(matches!(sessions.put(new).await.unwrap(), Put::Stored { .. }))
                        }
                        Step::End(l, fenced) => Some(sessions.end(&l.reference(fenced)).await.unwrap()),
                        Step::Renew(l, fenced) => Some(sessions.renew(&[l.reference(fenced)]).await.unwrap() == [Renewal::Current]),
                        Step::Wait(seconds) => {
                            tokio::time::advance(Duration::from_secs(seconds.into())).await;
                            sessions.sweep();
                            None
                        }
                    };
                    prop_assert_eq!(done, model.step(step), "{:?}", step);
                    let keys: Vec<Key> = (0..3).map(|key: u8| Key::new(key.to_string())).collect();
                    let servers = sessions.servers_of_keys(&keys).await.unwrap();
                    let expected: Vec<_> = (0..3)
                        .map(|key| model.rows.get(&key).map(|row| ServerId::new(row.1.to_string())))
                        .collect();
                    prop_assert_eq!(servers, expected);
                    let found = sessions.sessions_of_keys(&keys).await.unwrap();
                    let expected: Vec<_> = (0..3)
                        .map(|key| {
                            let (mid, server, generation, _) = *model.rows.get(&key)?;
                            Some(Login { mid, key, server, generation }.stored())
                        })
                        .collect();
                    prop_assert_eq!(found, expected);
                    for mid in 0..3 {
                        let mut found = sessions.sessions_of_mids(&[Mid(mid)]).await.unwrap().remove(0);
                        found.sort_by(|a, b| a.key.cmp(&b.key));
                        let expected: Vec<_> = model.rows.iter().filter(|(_, row)| row.0 == mid)
                            .map(|(&key, &(mid, server, generation, _))| Login { mid, key, server, generation }.stored())
                            .collect();
                        prop_assert_eq!(found, expected);
                    }
                }
                Ok(())
            })?;
        }
    }
}
