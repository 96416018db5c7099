//! What is wrong with a configuration, each mistake in one line.

use std::{fmt::Display, io, path::PathBuf};

/// Most characters of a value that an error repeats.
const VALUE_CHARS_MAX: usize = 80;

/// Words in the names of keys whose values errors never repeat.
const SECRET_WORDS: [&str; 4] = ["password", "secret", "token", "auth"];

/// Why a configuration was refused. Every message is one line. Nothing is tried again: the process ends before it binds
/// a port, and the operator has to change what the line names.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("{}: cannot read the configuration: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}:{column}: {reason}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line of the error, from 1.
        line: usize,
        /// Column of the error in characters, from 1.
        column: usize,
        /// What the TOML reader said.
        reason: String,
    },
    /// A `--set` is not `key=value`, or a name in its key that should be a section is a value.
    #[error("--set {argument}: {reason}")]
    Set {
        /// What was given, without its value.
        argument: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody knows this key.
    #[error("{key}: unknown key; {hint}")]
    Unknown {
        /// The key, with its sections.
        key: String,
        /// The keys it may have meant.
        hint: String,
    },
    /// A required key is missing.
    #[error("{key}: missing")]
    Missing {
        /// The key, with its sections.
        key: String,
    },
    /// A value has the wrong type, is out of its bounds, or contradicts another key.
    #[error("{key} = {value}: {reason}")]
    Value {
        /// The key, with its sections.
        key: String,
        /// The value as TOML has it. A long one is cut, and a secret one hidden.
        value: String,
        /// What it has to be, with the bound.
        reason: String,
    },
}

impl ConfigError {
    /// A value that its own type accepts but a check over several keys refuses:
    /// `ConfigError::value("logic.node.heartbeat", config.node.heartbeat, "above logic.redis.expire")`.
    pub fn value(key: impl Into<String>, value: impl Display, reason: impl Into<String>) -> Self {
        let key = key.into();
        let value = if is_secret(&key) { "(hidden)".to_owned() } else { shown(&value.to_string()) };
        Self::Value { key: one_line(&key), value, reason: one_line(&reason.into()) }
    }

    /// The key that the error is about, if it is about one.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Unknown { key, .. } | Self::Missing { key } | Self::Value { key, .. } => Some(key),
            Self::Read { .. } | Self::Syntax { .. } | Self::Set { .. } => None,
        }
    }

    /// The text is not TOML. The position comes from the offset that the reader gives.
    pub(super) fn syntax(path: PathBuf, text: &str, error: &toml::de::Error) -> Self {
        let offset = error.span().map_or(text.len(), |span| span.start.min(text.len()));
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
        Self::Syntax { path, line, column, reason: one_line(error.message()) }
    }
}

/// Whether this key holds a secret. Only its last name counts.
pub(super) fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    let name = name.split('[').next().unwrap_or(name).to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// `text` without line breaks and other control characters.
pub(super) fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// `text` in one line and not too long.
fn shown(text: &str) -> String {
    let line = one_line(text);
    match line.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_over_several_keys_reads_like_the_others() {
        let error = ConfigError::value("logic.node.heartbeat", "\"40m\"", "above logic.redis.expire, 30m");
        assert_eq!(error.to_string(), "logic.node.heartbeat = \"40m\": above logic.redis.expire, 30m");
    }

    #[test]
    fn secrets_are_not_repeated() {
        for key in ["discovery.password", "logic.redis.auth", "logic.push.tokens[1]", "auth.jwt.secretFile"] {
            let line = ConfigError::value(key, "hunter2", "refused").to_string();
            assert_eq!(line, format!("{key} = (hidden): refused"));
        }
        assert!(ConfigError::value("logic.auth.mode", "none", "refused").to_string().contains("none"));
    }

    #[test]
    fn a_long_or_broken_value_stays_one_short_line() {
        let line =
            ConfigError::value("a", format!("x\n\u{7}{}", "y".repeat(10_000)), "two\nlines").to_string();
        assert!(!line.chars().any(char::is_control), "{line}");
        assert!(line.starts_with("a = x\\n\\u{7}yyy") && line.ends_with("…: two\\nlines"), "{line}");
        assert!(line.chars().count() < 120, "{}", line.chars().count());
    }
}
