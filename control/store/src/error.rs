//! What goes wrong at Redis, sorted by who can help.

use redis::ErrorKind;

/// Why Redis did not do what it was asked, or did not say that it did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisError {
    /// It was not reached: nothing was sent to it. Retried by the caller, later.
    #[error("Redis is away: {0}")]
    Away(String),
    /// It hung up or was silent under a command, which it may have carried out. Retried by the caller, where that is
    /// harmless.
    #[error("Redis did not say whether it did it: {0}")]
    Unknown(String),
    /// It is starting up, or has lost its master. Retried by the caller, later.
    #[error("Redis is not ready yet: {0}")]
    NotReady(String),
    /// It is a replica. The connection is made again, to whoever is the master by then.
    #[error("Redis takes no writes ({0}): redis.addr must be the master's, or set redis.sentinels")]
    ReadOnly(String),
    /// Too few of its replicas follow it. The connection is made again, to whoever is the master by then.
    #[error(
        "Redis takes no writes ({0}): see why its replicas do not follow, or lower min-replicas-to-write"
    )]
    NoReplicas(String),
    /// It wants another password. Tried again until the operator has repaired it.
    #[error("Redis does not let us in ({0}): check redis.auth")]
    Refused(String),
    /// The user may not use this command, or not this key. Others may work; the operator allows it.
    #[error("Redis does not allow it ({0}): see what its user may do")]
    Forbidden(String),
    /// Somebody else wrote another type under one of our keys. The key's owner or the operator deletes it.
    #[error("a key in Redis has a type that is not ours ({0}): delete it, or set another redis.prefix")]
    WrongType(String),
    /// Its memory or its disk is full. Retried by the caller, later.
    #[error("Redis is full ({0}): raise maxmemory, or see why it cannot save")]
    Full(String),
    /// Anything else.
    #[error("Redis says: {0}")]
    Other(String),
}

impl RedisError {
    /// True when the connection is of no use any more.
    pub(super) fn ends_connection(&self) -> bool {
        match self {
            RedisError::ReadOnly(_)
            | RedisError::NoReplicas(_)
            | RedisError::NotReady(_)
            | RedisError::Refused(_) => true,
            // A command that is not allowed leaves the others.
            _ => false,
        }
    }

    /// The same, of a command that was on its way.
    pub fn under_way(self) -> Self {
        match self {
            RedisError::Away(text) => RedisError::Unknown(text),
            error => error,
        }
    }

    /// Why a connection is gone, to those who come later: nothing of theirs was sent.
    pub(super) fn as_reason(&self) -> Self {
        match self.clone() {
            RedisError::Unknown(text) => RedisError::Away(text),
            error => error,
        }
    }

    /// True when both want the same from the operator.
    pub fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl From<redis::RedisError> for RedisError {
    fn from(error: redis::RedisError) -> Self {
        // Of a pipeline, the first that went wrong.
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
        // Before Redis 7 a script's error is an ERR with the code somewhere in its text.
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
