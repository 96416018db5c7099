//! Reads a file and `--set` arguments into a typed configuration.

use std::path::Path;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{
    ConfigError, Mistakes,
    error::one_line,
    explain::{Removed, explain},
    parts::{Located, Place},
    source::Source,
};

/// A configuration that was read without mistakes.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded<T> {
    /// The configuration.
    pub config: T,
    /// Keys that were there but mean nothing to Halley: goim's own internals. The caller reports them once.
    pub unused: Vec<String>,
}

/// A configuration that was read as far as possible.
#[derive(Debug)]
pub struct Draft<T> {
    /// The configuration. What could not be read has its default here.
    pub config: T,
    /// As [`Loaded::unused`].
    pub unused: Vec<String>,
    /// What could not be read. The caller adds what else is wrong.
    pub mistakes: Mistakes,
}

/// Reads a configuration: the defaults of `T`, then `file`, then each of `sets` (`comet.tcp.bind=127.0.0.1:1`).
///
/// The value of a set is read as TOML, and if it is none, as a string: `a=30` is a number, `a=4m` and `a=:3101` are
/// strings. It replaces what the file says. A list may be one string with commas.
///
/// `unused` names keys, with their sections, that other implementations of the same file format have and this one does
/// not; a key that ends in `.*` stands for the whole section. These keys are taken out and returned.
///
/// # Errors
/// Everything that is wrong, see [`Mistakes`].
pub fn load<T: DeserializeOwned>(
    file: Option<&Path>,
    sets: &[String],
    unused: &[&str],
) -> Result<Loaded<T>, Mistakes> {
    let Draft { config, unused, mistakes } = draft(file, sets, unused)?;
    if mistakes.is_empty() { Ok(Loaded { config, unused }) } else { Err(mistakes) }
}

/// As [`load`], for callers that check more than single keys. It goes on after what cannot be read.
///
/// # Errors
/// A file that is not there or is no TOML, since nothing is left to go on with.
pub fn draft<T: DeserializeOwned>(
    file: Option<&Path>,
    sets: &[String],
    unused: &[&str],
) -> Result<Draft<T>, Mistakes> {
    let (mut table, mut source) = match file {
        Some(path) => Source::read(path)?,
        None => (Table::new(), Source::default()),
    };
    let mut wrong = Vec::new();
    for argument in sets {
        match set(&mut table, argument) {
            Ok(key) => source.is_set(&key),
            Err(error) => wrong.push(error),
        }
    }
    let mut found = Vec::new();
    for pattern in unused {
        take(&mut table, pattern, &mut found);
    }
    let mut mistakes = Mistakes::new(source);
    wrong.into_iter().for_each(|error| mistakes.add(error));
    let mut removed = Removed::default();
    // serde stops at the first thing that it does not understand. Note it, take it out, and read the rest again.
    let config = loop {
        let root = Value::Table(table.clone());
        let error = match serde_path_to_error::deserialize(root.clone()) {
            Ok(config) => break config,
            Err(error) => error,
        };
        let error = Located::of(&error);
        mistakes.add(explain(&root, &error, &removed));
        if !take_out(&mut table, &error.path, &mut removed) {
            return Err(mistakes);
        }
    };
    Ok(Draft { config, unused: found, mistakes })
}

/// Takes what a path leads to out of the table. If it is an element of a list, `removed` notes it, since the elements
/// after it move up. False if the path leads to nothing.
fn take_out(table: &mut Table, path: &[Place], removed: &mut Removed) -> bool {
    let Some((last, before)) = path.split_last() else { return false };
    let [Place::Key(first), before @ ..] = before else {
        return matches!(last, Place::Key(key) if table.remove(key.as_str()).is_some());
    };
    let mut at = table.get_mut(first.as_str());
    let mut list = first.clone();
    for place in before {
        at = match place {
            Place::Key(key) => {
                list.push_str(&format!(".{key}"));
                at.and_then(|value| value.get_mut(key.as_str()))
            }
            Place::Element(index) => {
                list.push_str(&format!("[{index}]"));
                at.and_then(|value| value.get_mut(*index))
            }
        };
    }
    match (at, last) {
        (Some(Value::Table(section)), Place::Key(key)) => section.remove(key.as_str()).is_some(),
        (Some(Value::Array(elements)), Place::Element(index)) if *index < elements.len() => {
            elements.remove(*index);
            removed.note(list, *index);
            true
        }
        _ => false,
    }
}

/// Puts one `key=value` into the table. Returns the key.
fn set(table: &mut Table, argument: &str) -> Result<String, ConfigError> {
    let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
    let refuse = |reason: String| ConfigError::Set { argument: one_line(key), reason };
    if !argument.contains('=') {
        return Err(refuse("write key=value".to_owned()));
    }
    let path = key_path(key).ok_or_else(|| refuse("the key is not names joined by dots".to_owned()))?;
    let value = set_value(value).map_err(|reason| refuse(format!("the value is not TOML: {reason}")))?;
    let (name, sections) = path.split_last().ok_or_else(|| refuse("the key is empty".to_owned()))?;
    let mut at = table;
    for section in sections {
        let next = at.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
        at = next.as_table_mut().ok_or_else(|| refuse(format!("{section} is a value, not a section")))?;
    }
    at.insert(name.clone(), value);
    Ok(path.join("."))
}

/// The names of a dotted key, quoted ones included.
fn key_path(key: &str) -> Option<Vec<String>> {
    // The TOML reader knows what a dotted key is. A line break or a comment would make it see something else.
    if key.contains(['\n', '#', '=']) {
        return None;
    }
    let mut table: Table = toml::from_str(&format!("{key} = 0")).ok()?;
    let mut path = Vec::new();
    loop {
        let (name, value) = table.into_iter().next()?;
        path.push(name);
        match value {
            Value::Table(next) => table = next,
            _ => return Some(path),
        }
    }
}

/// The value of a `--set`: TOML, or else a string.
fn set_value(text: &str) -> Result<Value, String> {
    let trimmed = text.trim();
    let parsed = match toml::from_str::<Table>(&format!("v = {trimmed}")) {
        Ok(mut table) if table.len() == 1 => table.remove("v"),
        Ok(_) => None,
        Err(error) => {
            // In such brackets it is meant to be TOML: an array or an inline table, not an IPv6 address.
            let brackets = [('[', ']'), ('{', '}'), ('"', '"')];
            let quoted =
                brackets.iter().any(|(open, close)| trimmed.starts_with(*open) && trimmed.ends_with(*close));
            if quoted {
                return Err(one_line(error.message()));
            }
            None
        }
    };
    Ok(parsed.unwrap_or_else(|| Value::String(text.to_owned())))
}

/// Takes what `pattern` names out of the table, and adds the keys that were there to `found`.
fn take(table: &mut Table, pattern: &str, found: &mut Vec<String>) {
    let path = pattern.strip_suffix(".*").unwrap_or(pattern);
    let (sections, name) = path.rsplit_once('.').map_or(("", path), |(sections, name)| (sections, name));
    let mut at = table;
    for section in sections.split('.').filter(|section| !section.is_empty()) {
        match at.get_mut(section).and_then(Value::as_table_mut) {
            Some(next) => at = next,
            None => return,
        }
    }
    if let Some(value) = at.remove(name) {
        leaves(path, &value, found);
    }
}

/// Adds the dotted keys under `value`.
fn leaves(path: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Table(table) => {
            for (name, value) in table {
                leaves(&format!("{path}.{name}"), value, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

#[cfg(test)]
mod tests;
