//! From a file and `--set` arguments to a typed configuration.

use std::{fs, path::Path};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{ConfigError, error::one_line, explain::explain};

/// A configuration that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded<T> {
    /// The configuration.
    pub config: T,
    /// Keys that were there and mean nothing here: goim's own internals. The caller reports them once.
    pub unused: Vec<String>,
}

/// Reads a configuration: the defaults of `T`, then `file`, then each of `sets` (`comet.tcp.bind=127.0.0.1:1`).
///
/// The value of a set is read as TOML, and as a string where it is none: `a=30` is a number, `a=4m` and `a=:3101` are
/// strings. It replaces what the file says; lists may be one string with commas.
///
/// `unused` names keys that other implementations of the same file format have and this one does not, with their
/// sections; a key that ends in `.*` stands for the whole section. They are taken out and returned.
///
/// # Errors
/// The first thing that is wrong, see [`ConfigError`].
pub fn load<T: DeserializeOwned>(
    file: Option<&Path>,
    sets: &[String],
    unused: &[&str],
) -> Result<Loaded<T>, ConfigError> {
    let mut table = file.map(read).transpose()?.unwrap_or_default();
    for argument in sets {
        set(&mut table, argument)?;
    }
    let mut found = Vec::new();
    for pattern in unused {
        take(&mut table, pattern, &mut found);
    }
    let config = serde_path_to_error::deserialize(Value::Table(table.clone()))
        .map_err(|error| explain(&Value::Table(table), &error))?;
    Ok(Loaded { config, unused: found })
}

fn read(path: &Path) -> Result<Table, ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    // A byte order mark is not TOML, but editors write it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    toml::from_str(text).map_err(|error| ConfigError::syntax(path.to_owned(), text, &error))
}

/// Puts one `key=value` into the table.
fn set(table: &mut Table, argument: &str) -> Result<(), ConfigError> {
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
    Ok(())
}

/// The names of a dotted key, quoted ones included.
fn key_path(key: &str) -> Option<Vec<String>> {
    // The TOML reader knows what a dotted key is; a line break or a comment would let it see something else.
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

/// The value of a `--set`: TOML, or a string.
fn set_value(text: &str) -> Result<Value, String> {
    let trimmed = text.trim();
    let parsed = match toml::from_str::<Table>(&format!("v = {trimmed}")) {
        Ok(mut table) if table.len() == 1 => table.remove("v"),
        Ok(_) => None,
        Err(error) => {
            // Meant to be TOML: an array or an inline table, not an IPv6 address.
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

/// Takes what `pattern` names out of the table and adds the keys that were there to `found`.
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
