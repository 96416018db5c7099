//! All that is wrong with a configuration.

use std::fmt;

use super::{ConfigError, source::Source};

/// Everything that is wrong with a configuration, so that it can be repaired at once. Printed it is a line for each, in the
/// order of the file, with the place in the file where there is one: `halley.toml:12: comet.tcp.bind = …`.
#[derive(Debug, Default)]
pub struct Mistakes {
    source: Source,
    errors: Vec<ConfigError>,
}

impl Mistakes {
    pub(super) fn new(source: Source) -> Self {
        Mistakes { source, errors: Vec::new() }
    }

    /// Nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// Notes one.
    pub fn add(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    /// What was asked for, or none when that is a mistake, which is noted.
    pub fn unless<T>(&mut self, result: Result<T, impl Into<ConfigError>>) -> Option<T> {
        result.map_err(|error| self.add(error.into())).ok()
    }

    /// Adds what was found by looking at several keys. What concerns a key that could not be read is left out: its default
    /// stood in its place.
    pub fn extend(&mut self, checked: Vec<ConfigError>) {
        let unread: Vec<String> =
            self.errors.iter().filter_map(ConfigError::key).map(str::to_owned).collect();
        let concerns = |error: &ConfigError| {
            let text = error.to_string();
            unread.iter().any(|key| text.contains(key.split('[').next().unwrap_or(key)))
        };
        self.errors.extend(checked.into_iter().filter(|error| !concerns(error)));
    }

    /// Each of them, without its place.
    pub fn errors(self) -> Vec<ConfigError> {
        self.errors
    }

    /// Tells more about keys that nobody knows, where `hint` knows them. True when it knew one.
    pub fn explain_unknown(&mut self, hint: impl Fn(&str) -> Option<String>) -> bool {
        let mut knew = false;
        for error in &mut self.errors {
            if let ConfigError::Unknown { key, hint: words } = error
                && let Some(better) = hint(key)
            {
                *words = better;
                knew = true;
            }
        }
        knew
    }

    /// A line for each, in the order of the file; last what does not stand in it.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<(usize, String)> = self.errors.iter().map(|error| self.line(error)).collect();
        lines.sort_by_key(|(line, _)| *line);
        lines.into_iter().map(|(_, text)| text).collect()
    }

    fn line(&self, error: &ConfigError) -> (usize, String) {
        match error.key().and_then(|key| self.source.place(key)) {
            Some((line, place)) => (line, format!("{place}: {error}")),
            None => (usize::MAX, error.to_string()),
        }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for Mistakes {}

impl From<ConfigError> for Mistakes {
    fn from(error: ConfigError) -> Self {
        Mistakes { errors: vec![error], ..Mistakes::default() }
    }
}
