//! Errors of Redis, sorted by who can do something about them.

use redis::ErrorKind;

/// Why Redis did not do what it was asked, or did not say that it did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisError {
    /// Redis was not reached, and nothing was sent. The caller may try again later.
    #[error("Redis is away: {0}")]
    Away(String),
    /// Redis hung up or fell silent during a command, which it may have carried out. The caller tries again only if
    /// that is harmless.
    #[error("Redis did not say whether it did it: {0}")]
    Unknown(String),
    /// Redis is starting, or has lost its master. The caller may try again later.
    #[error("Redis is not ready yet: {0}")]
    NotReady(String),
    /// This Redis is a replica. Its connection is given up, and a new one goes to whoever is the master then.
    #[error("Redis takes no writes ({0}): redis.addr must be the master's, or set redis.sentinels")]
    ReadOnly(String),
    /// Too few replicas follow this Redis. Its connection is given up, and a new one goes to whoever is the master
    /// then.
    #[error(
        "Redis takes no writes ({0}): see why its replicas do not follow, or lower min-replicas-to-write"
    )]
    NoReplicas(String),
    /// User or password is wrong. We try again until the operator has corrected it.
    #[error("Redis does not let us in ({0}): check redis.user and redis.auth")]
    Refused(String),
    /// The same of a Sentinel, which has a login of its own.
    #[error("Sentinel {0}: check redis.sentinelUser and redis.sentinelAuth")]
    SentinelRefused(String),
    /// The user may not use this command or this key. Other commands may work. The operator has to allow it.
    #[error("Redis does not allow it ({0}): see what its user may do")]
    Forbidden(String),
    /// Another program wrote another type under one of our keys. Its owner or the operator has to delete the key.
    #[error("a key in Redis has a type that is not ours ({0}): delete it, or set another redis.prefix")]
    WrongType(String),
    /// Redis has no memory or no disk space left. The caller may try again later.
    #[error("Redis is full ({0}): raise maxmemory, or see why it cannot save")]
    Full(String),
    /// Anything else.
    #[error("Redis says: {0}")]
    Other(String),
}

impl RedisError {
    /// Whether the connection is of no use any more.
    pub(super) fn ends_connection(&self) -> bool {
        match self {
            RedisError::ReadOnly(_)
            | RedisError::NoReplicas(_)
            | RedisError::NotReady(_)
            | RedisError::Refused(_)
            | RedisError::SentinelRefused(_) => true,
            // If one command is not allowed, others may be.
            _ => false,
        }
    }

    /// The error for a command that was already on its way.
    pub fn under_way(self) -> Self {
        match self {
            RedisError::Away(text) => RedisError::Unknown(text),
            error => error,
        }
    }

    /// The error for commands that come after the connection broke. Nothing of them was sent.
    pub(super) fn as_reason(&self) -> Self {
        match self.clone() {
            RedisError::Unknown(text) => RedisError::Away(text),
            error => error,
        }
    }

    /// Whether both ask the same of the operator.
    pub fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl From<redis::RedisError> for RedisError {
    fn from(error: redis::RedisError) -> Self {
        // In a pipeline the first error counts.
        let answers = error.clone().into_server_errors();
        let Some((_, answer)) = answers.as_ref().and_then(|answers| answers.first()) else {
            let text = error.to_string();
            return match error.kind() {
                ErrorKind::Io => RedisError::Away(text),
                ErrorKind::AuthenticationFailed => RedisError::Refused(text),
                _ => RedisError::Other(text),
            };
        };
        let code = answer.code();
        let text = format!("{code} {}", answer.details().unwrap_or_default());
        // Before Redis 7 the error of a script is ERR, with the code somewhere in its text.
        let words = if code == "ERR" { &text } else { code };
        let variant = words.split(|c: char| !c.is_ascii_uppercase()).find_map(variant);
        variant.unwrap_or(RedisError::Other)(text)
    }
}

/// What an error code of Redis means.
fn variant(code: &str) -> Option<fn(String) -> RedisError> {
    match code {
        "READONLY" => Some(RedisError::ReadOnly),
        "NOREPLICAS" => Some(RedisError::NoReplicas),
        "LOADING" | "MASTERDOWN" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN" => Some(RedisError::NotReady),
        "WRONGTYPE" => Some(RedisError::WrongType),
        "OOM" | "MISCONF" => Some(RedisError::Full),
        "WRONGPASS" | "NOAUTH" => Some(RedisError::Refused),
        "NOPERM" => Some(RedisError::Forbidden),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a server's answer.
    fn answered(line: &str) -> RedisError {
        let value =
            redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).and_then(|v| v.extract_error());
        value.expect_err("an error").into()
    }

    #[test]
    fn answers_are_sorted_by_who_can_help() {
        type Is = fn(&RedisError) -> bool;
        let cases: [(&str, Is, bool); 14] = [
            (
                "LOADING Redis is loading the dataset in memory",
                |e| matches!(e, RedisError::NotReady(_)),
                true,
            ),
            ("MASTERDOWN Link with MASTER is down", |e| matches!(e, RedisError::NotReady(_)), true),
            ("BUSY Redis is busy running a script.", |e| matches!(e, RedisError::NotReady(_)), true),
            (
                "READONLY You can't write against a read only replica.",
                |e| matches!(e, RedisError::ReadOnly(_)),
                true,
            ),
            (
                "NOREPLICAS Not enough good replicas to write.",
                |e| matches!(e, RedisError::NoReplicas(_)),
                true,
            ),
            ("NOAUTH Authentication required.", |e| matches!(e, RedisError::Refused(_)), true),
            ("WRONGPASS invalid username-password pair", |e| matches!(e, RedisError::Refused(_)), true),
            (
                "NOPERM this user has no permissions to run 'role'",
                |e| matches!(e, RedisError::Forbidden(_)),
                false,
            ),
            ("WRONGTYPE Operation against a key", |e| matches!(e, RedisError::WrongType(_)), false),
            (
                "ERR Error running script (call to f_1): @user_script:1: WRONGTYPE Operation against a key",
                |e| matches!(e, RedisError::WrongType(_)),
                false,
            ),
            ("OOM command not allowed", |e| matches!(e, RedisError::Full(_)), false),
            (
                "MISCONF Redis is configured to save RDB snapshots",
                |e| matches!(e, RedisError::Full(_)),
                false,
            ),
            ("BUSYGROUP Consumer Group name already exists", |e| matches!(e, RedisError::Other(_)), false),
            ("ERR unknown command 'ZOOM'", |e| matches!(e, RedisError::Other(_)), false),
        ];
        for (line, is, ends_connection) in cases {
            let error = answered(line);
            assert!(is(&error), "{line}: {error:?}");
            assert_eq!(error.ends_connection(), ends_connection, "{line}");
        }
    }
}
