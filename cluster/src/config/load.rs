//! From a file and `--set` arguments to a typed configuration.

use std::{fs, path::Path};

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::{Table, Value};

use super::{ConfigError, error::one_line};

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

/// Turns what serde says into key, value and reason. Its messages have fixed forms (`serde::de::Error`).
fn explain(root: &Value, error: &serde_path_to_error::Error<toml::de::Error>) -> ConfigError {
    let message = error.inner().message();
    let mut key = String::new();
    let mut value = Some(root);
    for segment in error.path() {
        match segment {
            Segment::Map { key: name } => {
                join(&mut key, name);
                value = value.and_then(|value| value.get(name));
            }
            Segment::Seq { index } => {
                key.push_str(&format!("[{index}]"));
                value = value.and_then(|value| value.get(*index));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    if let Some(name) = quoted_after(message, "unknown field ") {
        // The path may or may not end in the name, as the reader saw it as a key already or not.
        if !(key == name || key.ends_with(&format!(".{name}"))) {
            join(&mut key, name);
        }
        return ConfigError::Unknown { key, hint: hint(name, &expected_names(message)) };
    }
    if let Some(name) = quoted_after(message, "missing field ") {
        join(&mut key, name);
        return ConfigError::Missing { key };
    }
    let reason = match message.split_once(", expected ") {
        Some((found, expected))
            if found.starts_with("invalid type: ") || found.starts_with("invalid value: ") =>
        {
            format!("must be {}", plain_type(expected))
        }
        Some((found, _)) if found.starts_with("unknown variant ") => {
            format!("must be {}", or(&quoted(&expected_names(message))))
        }
        _ => message.to_owned(),
    };
    let key = if key.is_empty() { "configuration".to_owned() } else { key };
    ConfigError::value(key, value.map(shown).unwrap_or_default(), reason)
}

/// The value for an error. A section is not repeated: it may hold secrets.
fn shown(value: &Value) -> String {
    match value {
        Value::Table(_) => "{…}".to_owned(),
        Value::Array(elements) if elements.iter().any(Value::is_table) => "[…]".to_owned(),
        value => value.to_string(),
    }
}

/// Adds a name to a dotted key.
fn join(key: &mut String, name: &str) {
    if !key.is_empty() {
        key.push('.');
    }
    key.push_str(name);
}

/// The text between the back quotes that follow `prefix` at the start of a message.
fn quoted_after<'a>(message: &'a str, prefix: &str) -> Option<&'a str> {
    message.strip_prefix(prefix)?.strip_prefix('`')?.split('`').next()
}

/// The names in back quotes after "expected".
fn expected_names(message: &str) -> Vec<&str> {
    let expected = message.rsplit_once(", expected ").map_or("", |(_, expected)| expected);
    expected.split('`').skip(1).step_by(2).collect()
}

/// serde's word for a type, in the operator's words.
fn plain_type(expected: &str) -> &str {
    match expected {
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize" | "isize" => {
            "an integer of fitting size"
        }
        "f32" | "f64" => "a number",
        "a string" => "a string, in quotes",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a section",
        other if other.starts_with("struct ") => "a section",
        other => other,
    }
}

/// Which of the known keys an unknown one may have meant; all of them when none is near.
fn hint(name: &str, known: &[&str]) -> String {
    if known.is_empty() {
        return "there are no keys here".to_owned();
    }
    let far = name.chars().count().max(5) / 3 + 1;
    let mut near: Vec<_> =
        known.iter().map(|known| (distance(name, known), *known)).filter(|(d, _)| *d <= far).collect();
    near.sort_unstable();
    let nearest = near.first().map_or(0, |(d, _)| *d);
    near.retain(|(d, _)| *d <= nearest + 1);
    near.truncate(3);
    match near.is_empty() {
        true => format!("known here: {}", known.join(", ")),
        false => format!(
            "did you mean {}?",
            or(&near.iter().map(|(_, known)| (*known).to_owned()).collect::<Vec<_>>())
        ),
    }
}

fn quoted(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("\"{name}\"")).collect()
}

/// `a, b or c`.
fn or(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [name] => name.clone(),
        [names @ .., last] => format!("{} or {last}", names.join(", ")),
    }
}

/// Letters to change, add, drop or swap with the next until `a` is `b`; the case does not count.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_lowercase(), b.to_lowercase());
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests;
