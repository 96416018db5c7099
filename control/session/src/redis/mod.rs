//! The sessions of a cluster in Redis: goim-example's keys and values, with the generation beside them.
//!
//! | key | value |
//! |---|---|
//! | `<prefix>mid_<mid>` | hash: device key → comet; goim's |
//! | `<prefix>key_<key>` | comet; goim's |
//! | `<prefix>gen_<key>` | `<generation> <mid> <comet>` of the last login that Halley stored |
//! | `<prefix>incarnation` | a random name, never deleted: if the name changes, Redis was wiped |
//!
//! The first three live for `redis.expire`. Each change is one script, so nothing comes in between. `gen_` counts only
//! if its comet is the one in `key_`. If they differ, a Go logic has written `key_` and left `gen_`: its login is
//! newer, has no generation and, looked up by key, no user. One case cannot be told apart: one comet gets logins of one
//! key through both a Go logic and ours. Then the comet itself has closed the older connection.
//!
//! A call takes one round trip for up to [`CHUNK`] sessions. Larger calls go out in parts, between which Redis serves
//! others. A key of another type counts as no session: a lookup does not find it, and a change fails.

mod clock;
mod incarnation;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use contract::SessionRef;
use futures_util::future::try_join_all;
use host::telemetry::LogLimit;
use proto::ids::{Generation, Key, Mid, ServerId};
use redis::{Script, ScriptInvocation};
use store::{Redis, RedisConfig, RedisError};
use tokio::sync::watch;
use tracing::{Level, warn};

use self::{clock::StoreClock, incarnation::Incarnation};
use super::{
    Holder, NewSession, Put, Renewal, Sessions, SessionsUnavailable, StoredSession, TAKEN_OVER, UNDECIDED,
    log_from_the_future,
};

/// Most sessions in one script or command. This takes 1 to 2 ms of Redis's time, at 7 to 13 µs for a renewal.
const CHUNK: usize = 128;

/// Limits the lines about users and sessions whose key in Redis has another type, so that they cannot be looked up or
/// renewed.
static BAD_KEYS: LogLimit = LogLimit::new(1, Duration::from_secs(10));

macro_rules! script {
    ($file:literal) => {
        Script::new(concat!(include_str!("common.lua"), include_str!($file)))
    };
}

/// The sessions of a cluster.
pub struct RedisSessions {
    redis: Redis,
    prefix: String,
    ttl_s: u64,
    put: Script,
    end: Script,
    renew: Script,
    of_mids: Script,
    clock: Arc<StoreClock>,
    incarnation: Arc<Incarnation>,
}

impl RedisSessions {
    /// The sessions under `redis.prefix`. They live for `redis.expire`, rounded up to a second. Starts two tasks, which
    /// end with the value: one follows Redis's clock, one checks whether Redis lost something.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(redis: Redis, config: &RedisConfig) -> Self {
        Self::with_ttl(redis, config.data.prefix.clone(), config.data.expire.get())
    }

    fn with_ttl(redis: Redis, prefix: String, ttl: Duration) -> Self {
        RedisSessions {
            clock: StoreClock::start(redis.clone()),
            incarnation: Incarnation::start(redis.clone(), format!("{prefix}incarnation")),
            redis,
            prefix,
            ttl_s: ttl.as_millis().div_ceil(1000) as u64,
            put: script!("put.lua"),
            end: script!("end.lua"),
            renew: script!("renew.lua"),
            of_mids: script!("of_mids.lua"),
        }
    }

    /// True as soon as logins can be stored: Redis's clock was read, from which their generations are made.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.clock.known()
    }

    fn begin<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        let mut call = script.prepare_invoke();
        call.arg(&self.prefix).arg(self.ttl_s);
        call
    }

    async fn renew_some(&self, sessions: &[SessionRef]) -> Result<Vec<Renewal>, RedisError> {
        let mut call = self.begin(&self.renew);
        sessions.iter().for_each(|session| add(&mut call, session));
        let answers: Vec<Vec<Vec<u8>>> = self.redis.script(&call).await?;
        let renewals = answers.into_iter().zip(sessions).map(|(answer, session)| match &answer[..] {
            [server, generation] => Renewal::Superseded { by: holder(server, generation) },
            [] => Renewal::Current,
            // Nobody else holds the session. It lives on, but lookups do not find it until the key is repaired.
            [wrong, ..] => {
                BAD_KEYS.log(Level::WARN, || {
                    warn!("the session of {} cannot be kept in Redis: {}", session.key, text(wrong));
                });
                Renewal::Current
            }
        });
        Ok(renewals.collect())
    }

    async fn keys_some(&self, keys: &[Key]) -> Result<Vec<Option<StoredSession>>, RedisError> {
        let mut get = redis::cmd("MGET");
        keys.iter().for_each(|key| {
            get.arg(format!("{}key_{key}", self.prefix)).arg(format!("{}gen_{key}", self.prefix));
        });
        let found: Vec<Option<Vec<u8>>> = self.redis.command(&get).await?;
        let (pairs, _) = found.as_chunks();
        let sessions = keys.iter().zip(pairs).map(|(key, [server, ours])| {
            let server = text(server.as_ref()?);
            let ours = ours.as_ref().map(|ours| text(ours));
            let mut ours = ours.iter().flat_map(|ours| ours.splitn(3, ' '));
            let (generation, mid) = (ours.next(), ours.next());
            let ours = generation.zip(mid).filter(|_| ours.next() == Some(&server));
            Some(StoredSession {
                mid: ours.and_then(|(_, mid)| mid.parse().ok()).map(Mid),
                key: key.clone(),
                server: ServerId::new(server),
                generation: ours.and_then(|(generation, _)| fence(generation)),
            })
        });
        Ok(sessions.collect())
    }

    async fn servers_some(&self, keys: &[Key]) -> Result<Vec<Option<ServerId>>, RedisError> {
        let mut get = redis::cmd("MGET");
        keys.iter().for_each(|key| {
            get.arg(format!("{}key_{key}", self.prefix));
        });
        let servers: Vec<Option<Vec<u8>>> = self.redis.command(&get).await?;
        Ok(servers.into_iter().map(|server| server.map(|server| ServerId::new(text(&server)))).collect())
    }

    async fn mids_some(&self, mids: &[Mid]) -> Result<Vec<Vec<StoredSession>>, RedisError> {
        let mut call = self.begin(&self.of_mids);
        mids.iter().for_each(|mid| {
            call.arg(mid.0);
        });
        let answers: Vec<Vec<Vec<u8>>> = self.redis.script(&call).await?;
        let sessions = answers.iter().zip(mids).map(|(devices, mid)| {
            let (devices, rest) = devices.as_chunks();
            if let [wrong] = rest {
                BAD_KEYS.log(Level::WARN, || {
                    let error = RedisError::WrongType(text(wrong));
                    warn!("user {mid} is not found by {}mid_{mid}: {error}", self.prefix);
                });
            }
            let session = |[key, server, generation]: &[Vec<u8>; 3]| StoredSession {
                mid: Some(*mid),
                key: Key::new(text(key)),
                server: ServerId::new(text(server)),
                generation: fence(&text(generation)),
            };
            devices.iter().map(session).collect()
        });
        Ok(sessions.collect())
    }
}

#[async_trait]
impl Sessions for RedisSessions {
    /// 0 until Redis's clock was read. Until then nothing can be put.
    fn now_us(&self) -> u64 {
        self.clock.now_us().unwrap_or(0)
    }

    fn incarnation(&self) -> Option<u64> {
        self.incarnation.get()
    }

    async fn put(&self, session: NewSession) -> Result<Put, SessionsUnavailable> {
        if self.clock.now_us().is_none() {
            return Err(SessionsUnavailable::Away("Redis's clock was not read yet".to_owned()));
        }
        let NewSession { mid, key, server, generation: dated } = session;
        let mut call = self.begin(&self.put);
        let generation = Some(dated);
        add(&mut call, &SessionRef { mid, key: key.clone(), server, generation });
        let (what, number, server, of): (String, Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>) =
            self.redis.script(&call).await?;
        let generation = text(&number).parse().map_or(dated, Generation);
        let by = server.zip(of).map(|(server, of)| holder(&server, &of));
        match (&*what, by) {
            ("superseded", Some(by)) => Ok(Put::Superseded { by }),
            ("undecided", Some(by)) => {
                log_from_the_future(&key, generation, self.now_us(), UNDECIDED);
                Ok(Put::Undecided { by })
            }
            (_, previous) => {
                // More than the one that the store adds if two logics gave the same.
                if generation.0 > dated.0.saturating_add(1) {
                    log_from_the_future(&key, generation, self.now_us(), TAKEN_OVER);
                }
                Ok(Put::Stored { previous, generation })
            }
        }
    }

    async fn end(&self, session: &SessionRef) -> Result<bool, SessionsUnavailable> {
        let mut call = self.begin(&self.end);
        add(&mut call, session);
        Ok(self.redis.script(&call).await?)
    }

    async fn renew(&self, sessions: &[SessionRef]) -> Result<Vec<Renewal>, SessionsUnavailable> {
        let mut renewals = Vec::with_capacity(sessions.len());
        // One part after the other. When every comet sends its renewals, batches are large, and a login must not wait
        // for all of them.
        for some in sessions.chunks(CHUNK) {
            renewals.append(&mut self.renew_some(some).await?);
        }
        Ok(renewals)
    }

    async fn sessions_of_keys(
        &self,
        keys: &[Key],
    ) -> Result<Vec<Option<StoredSession>>, SessionsUnavailable> {
        Ok(try_join_all(keys.chunks(CHUNK).map(|keys| self.keys_some(keys))).await?.concat())
    }

    async fn servers_of_keys(&self, keys: &[Key]) -> Result<Vec<Option<ServerId>>, SessionsUnavailable> {
        Ok(try_join_all(keys.chunks(CHUNK).map(|keys| self.servers_some(keys))).await?.concat())
    }

    async fn sessions_of_mids(&self, mids: &[Mid]) -> Result<Vec<Vec<StoredSession>>, SessionsUnavailable> {
        Ok(try_join_all(mids.chunks(CHUNK).map(|mids| self.mids_some(mids))).await?.concat())
    }
}

impl From<RedisError> for SessionsUnavailable {
    fn from(error: RedisError) -> Self {
        match error {
            RedisError::Unknown(_) => SessionsUnavailable::Unknown(error.to_string()),
            _ => SessionsUnavailable::Away(error.to_string()),
        }
    }
}

/// The four arguments of one session.
fn add(call: &mut ScriptInvocation<'_>, session: &SessionRef) {
    let SessionRef { mid, key, server, generation } = session;
    call.arg(key.as_str()).arg(mid.0).arg(server.as_str());
    match generation {
        // No logic gives a negative generation, but a comet might send one.
        Some(generation) => call.arg(generation.0.max(0)),
        None => call.arg(""),
    };
}

fn holder(server: &[u8], generation: &[u8]) -> Holder {
    let generation = text(generation).parse().map_or(Generation(0), Generation);
    Holder { server: ServerId::new(text(server)), generation }
}

fn fence(generation: &str) -> Option<Generation> {
    Generation::from_wire(generation.parse().ok()?)
}

/// What another program wrote need not be UTF-8.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
