//! Knows in which lines the keys of a configuration stand.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use toml::{
    Table,
    de::{DeTable, DeValue},
};

use super::{ConfigError, Mistakes};

/// Reads a file as a table, whatever it is for.
///
/// # Errors
/// The file is not there, or is no TOML.
pub fn read_table(path: &Path) -> Result<Table, Mistakes> {
    Source::read(path).map(|(table, _)| table)
}

/// A file, and the line of each key in it that no `--set` replaces. Empty if there is no file.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    path: PathBuf,
    lines: BTreeMap<String, usize>,
}

impl Source {
    /// Reads a file.
    ///
    /// # Errors
    /// The file is not there, or is no TOML. In the second case the error has everything that its reader does not
    /// understand.
    pub(super) fn read(path: &Path) -> Result<(Table, Source), Mistakes> {
        let path = path.to_owned();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(ConfigError::Read { path, source }.into()),
        };
        // A byte order mark is not TOML, but editors write it.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let (spanned, mut errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let mut mistakes = Mistakes::default();
            errors.sort_by_key(|error| error.span().map(|span| span.start));
            let errors = errors.iter().map(|error| ConfigError::syntax(path.clone(), text, error));
            errors.for_each(|error| mistakes.add(error));
            return Err(mistakes);
        }
        let table = toml::from_str(text)
            .map_err(|error: toml::de::Error| ConfigError::syntax(path.clone(), text, &error))?;
        let mut source = Source { path, lines: BTreeMap::new() };
        // Find where each line starts once, so that each key's line can be looked up.
        let starts: Vec<usize> =
            std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        source.note_table("", spanned.get_ref(), &starts);
        Ok((table, source))
    }

    fn note_table(&mut self, section: &str, table: &DeTable<'_>, starts: &[usize]) {
        for (name, value) in table {
            let name_at = name.span().start;
            let name = name.get_ref();
            let key = if section.is_empty() { name.to_string() } else { format!("{section}.{name}") };
            self.lines.insert(key.clone(), line(starts, name_at));
            self.note_value(&key, value.get_ref(), starts);
        }
    }

    fn note_value(&mut self, key: &str, value: &DeValue<'_>, starts: &[usize]) {
        match value {
            DeValue::Table(table) => self.note_table(key, table, starts),
            DeValue::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    let key = format!("{key}[{index}]");
                    self.lines.insert(key.clone(), line(starts, element.span().start));
                    self.note_value(&key, element.get_ref(), starts);
                }
            }
            _ => {}
        }
    }

    /// Notes that a `--set` replaces this key.
    pub(super) fn is_set(&mut self, set: &str) {
        self.lines.retain(|key, _| {
            let below = key.strip_prefix(set);
            below.is_none_or(|below| !(below.is_empty() || below.starts_with(['.', '['])))
        });
    }

    /// `FILE:LINE` of a key that stands in the file.
    pub(super) fn place(&self, key: &str) -> Option<(usize, String)> {
        self.lines.get(key).map(|line| (*line, format!("{}:{line}", self.path.display())))
    }
}

/// The line of an offset, from 1, given where each line starts.
fn line(starts: &[usize], offset: usize) -> usize {
    starts.partition_point(|start| *start <= offset)
}
