//! Translates what serde says about a configuration into the operator's words.
//!
//! serde's derived code gives only messages, in fixed forms (`serde::de::Error`): "invalid type: …, expected …",
//! "unknown field `…`, expected one of …", "missing field `…`", "unknown variant `…`, expected one of …". The place
//! comes from `serde_path_to_error`.

use std::collections::BTreeMap;

use toml::Value;

use super::{
    ConfigError,
    error::one_line,
    parts::{Located, Place},
};

/// The elements that were taken out of lists, by the key of the list. The other elements have moved up since.
#[derive(Debug, Default)]
pub(super) struct Removed(BTreeMap<String, Vec<usize>>);

impl Removed {
    /// Notes that an element was taken out, which had become number `index` of its list.
    pub(super) fn note(&mut self, list: String, index: usize) {
        let original = self.original(&list, index);
        let gone = self.0.entry(list).or_default();
        gone.push(original);
        gone.sort_unstable();
    }

    /// The number that an element of the list had in the file.
    fn original(&self, list: &str, index: usize) -> usize {
        let gone = self.0.get(list).map_or(&[][..], Vec::as_slice);
        gone.iter().fold(index, |index, gone| if *gone <= index { index + 1 } else { index })
    }
}

/// Makes key, value and reason of what serde says. `root` is what was read, without what was `removed` before.
pub(super) fn explain(root: &Value, error: &Located, removed: &Removed) -> ConfigError {
    let message = error.message.as_str();
    let mut key = String::new();
    let mut value = Some(root);
    for place in &error.path {
        match place {
            Place::Key(name) => {
                join(&mut key, name);
                value = value.and_then(|value| value.get(name));
            }
            Place::Element(index) => {
                let original = removed.original(&key, *index);
                key.push_str(&format!("[{original}]"));
                value = value.and_then(|value| value.get(*index));
            }
        }
    }
    if let Some(name) = quoted_after(message, "unknown field ") {
        // The path already ends with the name.
        return ConfigError::Unknown { key: one_line(&key), hint: hint(name, &expected_names(message)) };
    }
    if let Some(name) = quoted_after(message, "missing field ") {
        join(&mut key, name);
        return ConfigError::Missing { key: one_line(&key) };
    }
    let reason = match message.rsplit_once(", expected ") {
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

/// The value for an error. Sections are not repeated, since they may hold secrets.
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

/// The known keys that an unknown one may have meant; all of them if none is similar.
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
    if near.is_empty() {
        return format!("known here: {}", known.join(", "));
    }
    let near: Vec<String> = near.into_iter().map(|(_, known)| known.to_owned()).collect();
    format!("did you mean {}?", or(&near))
}

/// Each name in quotes.
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

/// How many letters have to be changed, added, dropped or swapped with the next one until `a` is `b`. Case does not
/// count.
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
mod tests {
    use super::*;

    #[test]
    fn swapped_letters_count_once_and_the_case_does_not() {
        assert_eq!(distance("bind", "bnid"), 1);
        assert_eq!(distance("Bind", "bind"), 0);
        assert_eq!(distance("", "bind"), 4);
        assert_eq!(distance("sndbuf", "rcvbuf"), 3);
    }

    #[test]
    fn the_nearest_names_are_hinted_at_and_otherwise_all() {
        let known = ["bind", "sndbuf", "rcvbuf", "keepalive"];
        assert_eq!(hint("keepAlive", &known), "did you mean keepalive?");
        assert_eq!(hint("cndbuf", &known), "did you mean sndbuf?");
        assert_eq!(hint("ndvbuf", &known), "did you mean rcvbuf or sndbuf?");
        assert_eq!(hint("addr", &known), "known here: bind, sndbuf, rcvbuf, keepalive");
        assert_eq!(hint("addr", &[]), "there are no keys here");
    }
}
