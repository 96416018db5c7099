//! Collects everything that is wrong with a configuration.

use std::fmt;

use super::{ConfigError, source::Source};

/// Everything that is wrong with a configuration, so that the operator can correct it all at once. Printed, it has a
/// line for each mistake, in the order of the file, with the place if there is one: `halley.toml:12: comet.tcp.bind =
/// …`.
#[derive(Debug, Default)]
pub struct Mistakes {
    source: Source,
    errors: Vec<ConfigError>,
}

impl Mistakes {
    pub(super) fn new(source: Source) -> Self {
        Mistakes { source, errors: Vec::new() }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// Adds a mistake.
    pub fn add(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    /// The value, or none if it is a mistake, which is added.
    pub fn unless<T>(&mut self, result: Result<T, impl Into<ConfigError>>) -> Option<T> {
        result.map_err(|error| self.add(error.into())).ok()
    }

    /// The value, or none if there are mistakes, which are added.
    pub fn all<T>(&mut self, result: Result<T, Vec<ConfigError>>) -> Option<T> {
        result.map_err(|errors| self.extend(errors)).ok()
    }

    /// Adds mistakes that checks over several keys have found. Leaves out those about a key that could not be read,
    /// because the checks saw its default.
    pub fn extend(&mut self, checked: Vec<ConfigError>) {
        let unread: Vec<String> =
            self.errors.iter().filter_map(ConfigError::key).map(str::to_owned).collect();
        let concerns = |error: &ConfigError| {
            let text = error.to_string();
            unread.iter().any(|key| text.contains(key.split('[').next().unwrap_or(key)))
        };
        self.errors.extend(checked.into_iter().filter(|error| !concerns(error)));
    }

    /// The mistakes, without their places.
    pub fn errors(self) -> Vec<ConfigError> {
        self.errors
    }

    /// Adds words to mistakes about unknown keys if `hint` knows the key. True if it knew one.
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

    /// A line for each mistake, in the order of the file. Those without a place come last.
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
