//! The counts in goim's keys: for each comet a hash `<prefix>ol_<comet>` with 64 fields, over which its rooms are
//! spread.
//!
//! goim never removes a field whose rooms have ended; Halley removes it with the next report. A field is written when
//! its rooms have changed, and again before it looks as old as a field of a dead comet.

mod city;
mod field;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use proto::ids::{RoomId, ServerId};
use store::{REFUSALS, Redis, RedisConfig, RedisError};
use tracing::warn;

use super::{CountedRooms, Counts, CountsUnavailable};

/// Fields of a comet's hash, as in goim.
const FIELDS: usize = 64;

/// How long a hash lives that nobody writes, as in goim.
const TTL_S: u64 = 1800;

/// The first report after this time, s, writes a field again even if nothing has changed. Comets report at least every
/// 4 s, and what is 10 s old no longer counts.
const REFRESH_S: u64 = 3;

/// After this time, s, without a report of a comet, this logic forgets what it wrote of it.
const FORGET_S: u64 = 60;

/// The counts of a cluster.
pub struct RedisCounts {
    redis: Redis,
    prefix: String,
    /// What this logic wrote last, for each comet.
    written: Mutex<HashMap<ServerId, Written>>,
}

struct Written {
    at_s: u64,
    fields: [Option<Field>; FIELDS],
}

#[derive(Clone, Copy)]
struct Field {
    /// Hash of its rooms and people.
    content: u64,
    at_s: u64,
}

/// The rooms of one field, in the order in which Go writes them.
type Rooms<'a> = BTreeMap<&'a str, u32>;

impl RedisCounts {
    /// The counts under `redis.prefix`.
    pub fn new(redis: Redis, config: &RedisConfig) -> Self {
        RedisCounts { redis, prefix: config.data.prefix.clone(), written: Mutex::default() }
    }

    fn key(&self, server: &ServerId) -> String {
        format!("{}ol_{server}", self.prefix)
    }

    /// What this logic wrote last of a comet; nothing if that is long ago.
    fn written(&self, server: &ServerId, now_s: u64) -> [Option<Field>; FIELDS] {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.retain(|_, written| now_s.abs_diff(written.at_s) < FORGET_S);
        written.get(server).map_or([None; FIELDS], |written| written.fields)
    }

    fn set_written(&self, server: &ServerId, written: Option<Written>) {
        let mut all = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match written {
            Some(written) => all.insert(server.clone(), written),
            None => all.remove(server),
        };
    }
}

#[async_trait]
impl Counts for RedisCounts {
    async fn write(
        &self,
        server: &ServerId,
        rooms: &HashMap<RoomId, u32>,
        now_s: u64,
    ) -> Result<(), CountsUnavailable> {
        let (key, mut written) = (self.key(server), self.written(server, now_s));
        let (mut set, mut gone) = (redis::cmd("HSET"), redis::cmd("HDEL"));
        set.arg(&key);
        gone.arg(&key);
        let (mut sets, mut left) = (0, 0);
        for (number, rooms) in strewn(rooms).iter().enumerate() {
            if rooms.is_empty() {
                written[number] = None;
                gone.arg(number);
                continue;
            }
            left += 1;
            let field = Field { content: content(rooms), at_s: now_s };
            if written[number]
                .is_some_and(|old| old.content == field.content && now_s.abs_diff(old.at_s) < REFRESH_S)
            {
                continue;
            }
            written[number] = Some(field);
            sets += 1;
            set.arg(number).arg(field::to_json(server.as_str(), rooms, now_s));
        }
        let mut pipe = redis::pipe();
        if left == 0 {
            pipe.cmd("DEL").arg(&key).ignore();
        } else {
            if sets > 0 {
                pipe.add_command(set).ignore();
                pipe.cmd("EXPIRE").arg(&key).arg(TTL_S).ignore();
            }
            // Another logic may have written these fields.
            if left < FIELDS {
                pipe.add_command(gone).ignore();
            }
        }
        let done = self.redis.pipeline::<()>(&pipe).await;
        self.set_written(server, done.is_ok().then_some(Written { at_s: now_s, fields: written }));
        Ok(done?)
    }

    async fn read(&self, servers: &[ServerId]) -> Result<Vec<Option<Vec<CountedRooms>>>, CountsUnavailable> {
        if servers.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for server in servers {
            pipe.cmd("HGETALL").arg(self.key(server));
        }
        let hashes: Vec<redis::RedisResult<HashMap<Vec<u8>, Vec<u8>>>> = self.redis.pipeline(&pipe).await?;
        let counted = hashes.into_iter().zip(servers).map(|(hash, server)| match hash {
            Ok(fields) => Some(fields.values().filter_map(|json| field::of_json(json)).collect()),
            Err(error) => {
                let error = RedisError::from(error);
                REFUSALS.log(tracing::Level::WARN, || {
                    warn!("the online counts of comet {server} cannot be read: {error}");
                });
                None
            }
        });
        Ok(counted.collect())
    }
}

impl From<RedisError> for CountsUnavailable {
    fn from(error: RedisError) -> Self {
        CountsUnavailable(error.to_string())
    }
}

/// The rooms with people in them, by field.
fn strewn(rooms: &HashMap<RoomId, u32>) -> Vec<Rooms<'_>> {
    let mut fields = vec![Rooms::new(); FIELDS];
    for (room, people) in rooms.iter().filter(|(_, people)| **people > 0) {
        let number = city::hash(room.as_str().as_bytes()) as usize % FIELDS;
        fields[number].insert(room.as_str(), *people);
    }
    fields
}

fn content(rooms: &Rooms<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    rooms.hash(&mut hasher);
    hasher.finish()
}
