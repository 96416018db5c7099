//! What Redis does in one step. Each script checks before it writes, so that a wrong type or a full memory leaves
//! nothing half done. A full memory stops publishes only. Consumers go on, because otherwise it would stay full.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;
use redis::{FromRedisValue, ParsingError, Script, Value};
use store::{Redis, RedisError};
use uuid::Uuid;

use super::{Topic, entry::EntryId};

/// Removes what every group has acknowledged. A stream that no group consumes keeps everything. So does a stream that
/// went back in time to before the lowest acknowledgement.
const TRIM: &str = r"
    local function numbers(id)
        local ms, seq = string.match(id, '^(%d+)-(%d+)$')
        return tonumber(ms), tonumber(seq)
    end
    local function is_before(a, b)
        local a_ms, a_seq = numbers(a)
        local b_ms, b_seq = numbers(b)
        return a_ms < b_ms or (a_ms == b_ms and a_seq < b_seq)
    end
    local function last_id(stream)
        local info = redis.call('XINFO', 'STREAM', stream)
        for n = 1, #info, 2 do
            if info[n] == 'last-generated-id' then
                return info[n + 1]
            end
        end
    end
    local function trim(stream, acked)
        local lowest
        for _, id in ipairs(redis.call('HVALS', acked)) do
            if not lowest or is_before(id, lowest) then
                lowest = id
            end
        end
        if lowest and not is_before(last_id(stream), lowest) then
            local ms, seq = numbers(lowest)
            redis.call('XTRIM', stream, 'MINID', '=', string.format('%.0f-%.0f', ms, seq + 1))
        end
    end
";

/// KEYS: for each stream concerned the stream, `acked`, `incarnation`. ARGV: most entries of a stream, a new
/// incarnation, then for each entry its stream (counted from 1) and the envelope. Answer: which stream is full, and how
/// many entries wait in it; nothing if all were appended.
static PUBLISH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{TRIM}{}",
        r"
        local most = tonumber(ARGV[1])
        local more = {}
        for n = 3, #ARGV, 2 do
            local stream = tonumber(ARGV[n])
            more[stream] = (more[stream] or 0) + 1
        end
        for stream = 1, #KEYS / 3 do
            local key, acked = KEYS[3 * stream - 2], KEYS[3 * stream - 1]
            local waiting = redis.call('XLEN', key)
            redis.call('HLEN', acked)
            if waiting + more[stream] > most then
                trim(key, acked)
                waiting = redis.call('XLEN', key)
                if waiting + more[stream] > most then
                    return {stream, waiting}
                end
            end
        end
        for stream = 1, #KEYS / 3 do
            local key, acked, incarnation = KEYS[3 * stream - 2], KEYS[3 * stream - 1], KEYS[3 * stream]
            if redis.call('EXISTS', key) == 0 then
                redis.call('SET', incarnation, ARGV[2])
                for _, group in ipairs(redis.call('HKEYS', acked)) do
                    redis.call('HSET', acked, group, '0-0')
                end
            end
        end
        for n = 3, #ARGV, 2 do
            redis.call('XADD', KEYS[3 * tonumber(ARGV[n]) - 2], '*', 'push', ARGV[n + 1])
        end
        return false
        "
    ))
});

/// KEYS: `members`, then for each stream the stream, `acked`, `incarnation`, `epoch`, `owner`. ARGV: the consumer, the
/// time to live of a lease (ms), the group, a new incarnation, then for each stream what to do if the consumer owns it:
/// `trim`, `renew`, or `reset` if it went back in time. `reset` forgets an acknowledgement beyond the end of the
/// stream, because new entries that get ids below it would never be read.
///
/// Answer: how many streams are a member's share, then for each stream its type, if that is not a stream; nothing, if
/// another consumer owns it; otherwise epoch, incarnation, acknowledged id, last id and length.
static HOLD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{TRIM}{}",
        r"
        local consumer, ttl, group, fresh = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
        local time = redis.call('TIME')
        local now = time[1] * 1000 + math.floor(time[2] / 1000)
        -- First, as it takes no memory: behind a write, a full Redis takes the others as well.
        redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ttl)
        -- Heard of in the future, when the clock was set back: whoever lives says so again.
        redis.call('ZREMRANGEBYSCORE', KEYS[1], now + ttl, '+inf')
        redis.call('ZADD', KEYS[1], now, consumer)
        redis.call('PEXPIRE', KEYS[1], 2 * ttl)
        local streams = (#KEYS - 1) / 5
        local share = math.ceil(streams / redis.call('ZCARD', KEYS[1]))
        local owned, mine = {}, 0
        for stream = 1, streams do
            local owner = KEYS[5 * stream + 1]
            if redis.call('GET', owner) == consumer then
                redis.call('PEXPIRE', owner, ttl)
                owned[stream] = true
                mine = mine + 1
            end
        end
        local answer = {share}
        for stream = 1, streams do
            local first = 5 * stream - 3
            local key, acked, incarnation, epoch, owner =
                KEYS[first], KEYS[first + 1], KEYS[first + 2], KEYS[first + 3], KEYS[first + 4]
            local is = redis.call('TYPE', key)['ok']
            local todo = ARGV[4 + stream]
            local last = is == 'stream' and last_id(key) or '0-0'
            if owned[stream] then
                if todo == 'reset' then
                    redis.call('SET', incarnation, fresh)
                    if is_before(last, redis.call('HGET', acked, group) or '0-0') then
                        redis.call('HSET', acked, group, '0-0')
                    end
                end
            elseif mine < share and redis.call('SET', owner, consumer, 'NX', 'PX', ttl) then
                owned[stream] = true
                mine = mine + 1
                redis.call('HINCRBY', epoch, group, 1)
            end
            if is ~= 'none' and is ~= 'stream' then
                answer[stream + 1] = is
            elseif not owned[stream] then
                answer[stream + 1] = false
            else
                redis.call('HSETNX', acked, group, '0-0')
                if is == 'stream' then
                    if todo == 'trim' then
                        trim(key, acked)
                    end
                    redis.call('SET', incarnation, fresh, 'NX')
                end
                answer[stream + 1] = {
                    tonumber(redis.call('HGET', epoch, group) or 0),
                    redis.call('GET', incarnation) or '',
                    redis.call('HGET', acked, group),
                    last,
                    redis.call('XLEN', key),
                }
            end
        end
        return answer
        "
    ))
});

/// KEYS: `owner`, `incarnation`, `acked` of a stream. ARGV: the consumer, its incarnation of the stream, the group, the
/// id. Answer: 1 if the id was stored.
static ACKNOWLEDGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('GET', KEYS[2]) ~= ARGV[2] then
            return 0
        end
        -- First, as it takes no memory: behind it, a full Redis takes the other as well.
        redis.call('HDEL', KEYS[3], ARGV[3])
        redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
        return 1
        ",
    )
});

/// KEYS: `owner` of some streams; or `members`, and `owner` of all streams. ARGV: the consumer.
static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        for _, key in ipairs(KEYS) do
            if redis.call('TYPE', key)['ok'] == 'zset' then
                redis.call('ZREM', key, ARGV[1])
            elseif redis.call('GET', key) == ARGV[1] then
                redis.call('DEL', key)
            end
        end
        ",
    )
});

/// What became of a publish.
pub(super) enum Outcome {
    Published,
    /// Nothing was published, because so many entries wait in this stream.
    Full {
        stream: u32,
        waiting: usize,
    },
}

/// Appends entries, each to its stream, all or none.
pub(super) async fn publish(
    redis: &Redis,
    topic: &Topic,
    entries_max: usize,
    entries: &[(u32, Bytes)],
) -> Result<Outcome, RedisError> {
    let mut publish = PUBLISH.prepare_invoke();
    publish.arg(entries_max).arg(Uuid::new_v4().to_string());
    let mut concerned: Vec<u32> = Vec::new();
    for (stream, bytes) in entries {
        let place = concerned.iter().position(|known| known == stream).unwrap_or_else(|| {
            publish.key(topic.stream(*stream)).key(topic.acked(*stream)).key(topic.incarnation(*stream));
            concerned.push(*stream);
            concerned.len() - 1
        });
        publish.arg(place + 1).arg(&bytes[..]);
    }
    Ok(match redis.script::<Option<(usize, usize)>>(&publish).await? {
        None => Outcome::Published,
        Some((place, waiting)) => Outcome::Full { stream: concerned[place - 1], waiting },
    })
}

/// One consumer of a group.
pub(super) struct Member {
    pub(super) redis: Redis,
    pub(super) topic: Topic,
    pub(super) group: String,
    /// Its name in Redis.
    pub(super) id: String,
}

/// What to do with a stream if this member owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Todo {
    Renew,
    /// Renew, and remove what every group acknowledged.
    Trim,
    /// Renew, and give the stream a new incarnation.
    Reset,
}

/// What Redis says about the streams.
#[derive(Debug)]
pub(super) struct Held {
    /// How many streams are this member's share.
    pub(super) share: usize,
    /// Each stream, by number.
    pub(super) streams: Vec<HeldStream>,
}

/// One stream, for one member.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeldStream {
    /// Another member owns it, or nobody does and it is beyond the share.
    NotOwned,
    /// The key is no stream but has this type.
    Foreign(String),
    /// This member owns it.
    Owned(State),
}

/// An owned stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// How often it has changed its owner.
    pub(super) epoch: u64,
    /// Empty if nothing was ever published.
    pub(super) incarnation: String,
    pub(super) acked: EntryId,
    /// Id of the last entry that was ever appended.
    pub(super) last: EntryId,
    /// Entries now.
    pub(super) len: usize,
}

impl Member {
    /// Renews what this member owns, and takes more streams up to its share.
    pub(super) async fn hold(&self, ttl: Duration, todo: &[Todo]) -> Result<Held, RedisError> {
        let mut hold = HOLD.prepare_invoke();
        hold.key(self.topic.members(&self.group));
        hold.arg(&self.id).arg(ttl.as_millis() as u64).arg(&self.group).arg(Uuid::new_v4().to_string());
        for (number, todo) in self.topic.numbers().zip(todo) {
            hold.key(self.topic.stream(number))
                .key(self.topic.acked(number))
                .key(self.topic.incarnation(number));
            hold.key(self.topic.epoch(number)).key(self.topic.owner(number, &self.group));
            hold.arg(match todo {
                Todo::Renew => "renew",
                Todo::Trim => "trim",
                Todo::Reset => "reset",
            });
        }
        let mut answer = self.redis.script::<Vec<Value>>(&hold).await?.into_iter();
        let share = parse(answer.next().unwrap_or(Value::Nil))?;
        Ok(Held { share, streams: answer.map(held_stream).collect::<Result<_, _>>()? })
    }

    /// Stores how far a stream is acknowledged. False if this member no longer owns it.
    pub(super) async fn acknowledge(
        &self,
        stream: u32,
        incarnation: &str,
        id: EntryId,
    ) -> Result<bool, RedisError> {
        let mut acknowledge = ACKNOWLEDGE.prepare_invoke();
        acknowledge.key(self.topic.owner(stream, &self.group));
        acknowledge.key(self.topic.incarnation(stream)).key(self.topic.acked(stream));
        acknowledge.arg(&self.id).arg(incarnation).arg(&self.group).arg(id.to_string());
        self.redis.script(&acknowledge).await
    }

    /// Gives streams back.
    pub(super) async fn release(&self, streams: impl IntoIterator<Item = u32>) -> Result<(), RedisError> {
        let mut release = RELEASE.prepare_invoke();
        release.arg(&self.id);
        for number in streams {
            release.key(self.topic.owner(number, &self.group));
        }
        self.redis.script(&release).await
    }

    /// Gives everything back and leaves the group.
    pub(super) async fn leave(&self) -> Result<(), RedisError> {
        let mut release = RELEASE.prepare_invoke();
        release.arg(&self.id).key(self.topic.members(&self.group));
        for number in self.topic.numbers() {
            release.key(self.topic.owner(number, &self.group));
        }
        self.redis.script(&release).await
    }
}

fn held_stream(value: Value) -> Result<HeldStream, RedisError> {
    match value {
        Value::Nil => Ok(HeldStream::NotOwned),
        Value::Array(_) => {
            let (epoch, incarnation, acked, last, len): (_, _, String, String, _) = parse(value)?;
            let id = |text: &str| {
                text.parse().map_err(|_| {
                    RedisError::Other(format!("{text:?} stands where an id of a stream belongs"))
                })
            };
            Ok(HeldStream::Owned(State { epoch, incarnation, acked: id(&acked)?, last: id(&last)?, len }))
        }
        other => Ok(HeldStream::Foreign(parse(other)?)),
    }
}

fn parse<T: FromRedisValue>(value: Value) -> Result<T, RedisError> {
    T::from_redis_value(value).map_err(|error: ParsingError| redis::RedisError::from(error).into())
}
