//! The default configuration as a commented TOML file.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::Serialize;
use serde_json::{Map, Value as Json};
use toml::{Table, Value};

use super::ALLOWED;

/// Width of the file, in characters.
const COLUMNS: usize = 100;

/// The default of `T` as a TOML file: every key in the order of its struct, with its doc comment above it. Keys that
/// are unset by default stand there as comments. Read again, the text gives `T::default()`.
///
/// # Panics
/// `T` is no struct, or its default cannot be written as TOML (an integer above 2^63 - 1). A test that calls this once
/// finds both.
pub fn commented_default<T: JsonSchema + Serialize + Default>() -> String {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let schema = schema.as_object().expect("a configuration is a struct");
    let default = Table::try_from(T::default()).expect("the default can be written as TOML");
    let mut document = Document { text: String::new() };
    document.comment(schema);
    document.section("", schema, Some(&default));
    document.text
}

struct Document {
    text: String,
}

impl Document {
    /// Writes the keys of a section. Plain keys come first, as TOML requires. A section without a value becomes a
    /// comment.
    fn section(&mut self, path: &str, schema: &Map<String, Json>, value: Option<&Table>) {
        let empty = Map::new();
        let properties = schema.get("properties").and_then(Json::as_object).unwrap_or(&empty);
        let (sections, keys): (Vec<_>, Vec<_>) = properties
            .iter()
            .filter_map(|(name, schema)| schema.as_object().map(|schema| (name, without_null(schema))))
            .partition(|(name, schema)| is_section(schema, value.and_then(|table| table.get(*name))));
        for (name, schema) in keys {
            let set = value.and_then(|table| table.get(name));
            self.gap();
            self.comment(&schema);
            let line = assignment(name, set.unwrap_or(&example(&schema)));
            self.lines(&line, if set.is_some() { "" } else { "# " });
        }
        for (name, schema) in sections {
            let path = if path.is_empty() {
                bare_or_quoted(name)
            } else {
                format!("{path}.{}", bare_or_quoted(name))
            };
            let table = value.and_then(|table| table.get(name)).and_then(Value::as_table);
            self.gap();
            self.comment(&schema);
            self.lines(&format!("[{path}]"), if table.is_some() { "" } else { "# " });
            if schema.contains_key("properties") {
                self.section(&path, &schema, table);
            } else {
                self.entries(table);
            }
        }
    }

    /// Writes a map. The operator chooses its keys, so they have no comments.
    fn entries(&mut self, table: Option<&Table>) {
        for (name, value) in table.into_iter().flatten() {
            self.lines(&assignment(name, value), "");
        }
    }

    /// Writes the doc comment of a key or section, and what its type adds to it.
    fn comment(&mut self, schema: &Map<String, Json>) {
        if let Some(text) = schema.get("description").and_then(Json::as_str) {
            for line in wrap(text, COLUMNS - 2) {
                self.text.push_str(format!("# {line}").trim_end());
                self.text.push('\n');
            }
        }
        if let Some(allowed) = schema.get(ALLOWED).and_then(Json::as_str) {
            self.lines(&format!("Allowed: {allowed}."), "# ");
        }
        for choice in choices(schema) {
            for (i, line) in wrap(&choice, COLUMNS - 6).iter().enumerate() {
                let bullet = if i == 0 { "# - " } else { "#   " };
                self.text.push_str(&format!("{bullet}{line}\n"));
            }
        }
    }

    /// Writes lines, each after `prefix`.
    fn lines(&mut self, lines: &str, prefix: &str) {
        for line in lines.lines() {
            self.text.push_str(&format!("{prefix}{line}\n"));
        }
    }

    /// An empty line between one key or section and the next.
    fn gap(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }
}

/// The schema of `T` from that of `Option<T>`, with the description of the latter. Other schemas stay unchanged.
fn without_null(schema: &Map<String, Json>) -> Map<String, Json> {
    let alternatives = schema.get("anyOf").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
    let [Json::Object(some), Json::Object(null)] = alternatives else { return schema.clone() };
    if null.get("type").and_then(Json::as_str) != Some("null") {
        return schema.clone();
    }
    let mut some = some.clone();
    if let Some(description) = schema.get("description") {
        some.insert("description".to_owned(), description.clone());
    }
    some
}

/// Whether this key is a `[section]`: a struct or a map.
fn is_section(schema: &Map<String, Json>, value: Option<&Value>) -> bool {
    schema.contains_key("properties")
        || schema.contains_key("additionalProperties")
        || value.is_some_and(Value::is_table)
}

/// Each word that an enum accepts, with its doc comment.
fn choices(schema: &Map<String, Json>) -> Vec<String> {
    let variants = schema.get("oneOf").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
    let variants = variants.iter().filter_map(Json::as_object).chain([schema]);
    let mut choices = Vec::new();
    for variant in variants {
        let description =
            variant.get("description").and_then(Json::as_str).filter(|_| variant.contains_key("const"));
        let words =
            variant.get("enum").and_then(Json::as_array).into_iter().flatten().chain(variant.get("const"));
        for word in words.filter(|word| word.is_string()) {
            choices.push(
                description.map_or_else(|| word.to_string(), |description| format!("{word}: {description}")),
            );
        }
    }
    choices
}

/// A value of the right type to show for a key that is unset.
fn example(schema: &Map<String, Json>) -> Value {
    let types = match schema.get("type") {
        Some(Json::Array(types)) => types.first().and_then(Json::as_str),
        Some(Json::String(one)) => Some(one.as_str()),
        _ => None,
    };
    let minimum = schema.get("minimum").and_then(Json::as_i64);
    match types {
        Some("boolean") => Value::Boolean(false),
        Some("integer") => Value::Integer(minimum.unwrap_or(0)),
        Some("number") => Value::Float(0.0),
        Some("array") => Value::Array(Vec::new()),
        _ => Value::String(String::new()),
    }
}

/// `name = value`. An array that is too long for one line gets one line per element.
fn assignment(name: &str, value: &Value) -> String {
    let name = bare_or_quoted(name);
    let line = format!("{name} = {value}");
    match value {
        Value::Array(elements) if line.chars().count() > COLUMNS => {
            let elements: String = elements.iter().map(|element| format!("    {element},\n")).collect();
            format!("{name} = [\n{elements}]")
        }
        _ => line,
    }
}

/// A key in the form that TOML requires.
fn bare_or_quoted(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { name.to_owned() } else { Value::String(name.to_owned()).to_string() }
}

/// Breaks a doc comment into lines of at most `columns` characters. Empty lines and the beginnings of list elements
/// stay. The further lines of a list element are indented.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut open = false;
    for source in text.lines() {
        let starts_element = source.trim_start().starts_with("- ");
        if source.trim().is_empty() {
            lines.push(String::new());
            open = false;
            continue;
        }
        for (i, word) in source.split_whitespace().enumerate() {
            let joins = open && !(i == 0 && starts_element);
            let line = lines
                .last_mut()
                .filter(|line| joins && line.chars().count() + 1 + word.chars().count() <= columns);
            match line {
                Some(line) => {
                    line.push(' ');
                    line.push_str(word);
                }
                None => {
                    let previous = lines.last().filter(|_| joins);
                    let indented =
                        previous.is_some_and(|line| line.starts_with("- ") || line.starts_with("  "));
                    lines.push(format!("{}{word}", if indented { "  " } else { "" }));
                }
            }
            open = true;
        }
    }
    lines
}

#[cfg(test)]
mod tests;
