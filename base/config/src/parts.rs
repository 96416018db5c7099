//! Reads a file or section whose keys belong to several owners.
//!
//! A program's file has the sections of its service beside those by which it finds the other services. Each owner has
//! its own struct. A struct with a field for each of these parts makes up the file: it serializes and describes its
//! parts flattened (`#[serde(flatten)]`), and reads them with [`Parts`]. serde's own flattening would lose the places
//! of errors and let unknown keys pass.
//!
//! ```ignore
//! impl<'de> Deserialize<'de> for File {
//!     fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
//!         let mut parts = Parts::of(deserializer)?;
//!         let file = File { service: parts.read()?, cluster: parts.read()? };
//!         parts.end().map(|()| file)
//!     }
//! }
//! ```

use std::marker::PhantomData;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, Visitor},
    forward_to_deserialize_any,
};
use serde_path_to_error::Segment;
use toml::{Table, Value};

/// The keys of a file or section that no part has read yet. `E` is the error of the reader.
#[derive(Debug)]
pub struct Parts<E> {
    unread: Table,
    known: Vec<&'static str>,
    error: PhantomData<E>,
}

impl<E: serde::de::Error> Parts<E> {
    /// Takes all keys.
    ///
    /// # Errors
    /// The value is no section.
    pub fn of<'de, D: Deserializer<'de, Error = E>>(deserializer: D) -> Result<Self, E> {
        let unread = Table::deserialize(deserializer)?;
        Ok(Parts { unread, known: Vec::new(), error: PhantomData })
    }

    /// Reads one part: its keys, which no other part has.
    ///
    /// # Errors
    /// What its keys do not allow, with the place.
    pub fn read<T: DeserializeOwned>(&mut self) -> Result<T, E> {
        let names = names_of::<T>();
        self.known.extend(names);
        let own: Table =
            names.iter().filter_map(|name| Some(((*name).to_owned(), self.unread.remove(*name)?))).collect();
        serde_path_to_error::deserialize(Value::Table(own))
            .map_err(|error| E::custom(Located::of(&error).packed()))
    }

    /// Checks that the parts have read all keys.
    ///
    /// # Errors
    /// No part has this key.
    pub fn end(self) -> Result<(), E> {
        let Some(name) = self.unread.keys().next() else { return Ok(()) };
        let known: Vec<String> = self.known.iter().map(|known| format!("`{known}`")).collect();
        // These are serde's own words, from which the hint is made.
        let message = format!("unknown field `{name}`, expected one of {}", known.join(", "));
        Err(E::custom(Located { path: vec![Place::Key(name.clone())], message }.packed()))
    }
}

/// The keys of a struct.
fn names_of<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Names<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Names<'_> {
        type Error = toml::de::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(Self::Error::custom("a part is a struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            names: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = names;
            Err(Self::Error::custom("only its keys were asked for"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut names: &'static [&'static str] = &[];
    // This never succeeds.
    let _ = T::deserialize(Names(&mut names));
    debug_assert!(!names.is_empty(), "a part is a struct with keys");
    names
}

/// One step of the way to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A key of a section.
    Key(String),
    /// An element of a list.
    Element(usize),
}

/// A message of serde, and the whole path to what it is about, through parts of parts.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) path: Vec<Place>,
    pub(super) message: String,
}

/// Separates the path and the message that are packed into the one text an error of serde can carry. If a key contains
/// this character, which needs an escape in TOML, the error shows it in pieces.
const MARK: char = '\u{1f}';

impl Located {
    pub(super) fn of(error: &serde_path_to_error::Error<toml::de::Error>) -> Located {
        let mut path: Vec<Place> = error
            .path()
            .iter()
            .filter_map(|segment| match segment {
                Segment::Map { key } => Some(Place::Key(key.clone())),
                Segment::Seq { index } => Some(Place::Element(*index)),
                Segment::Enum { .. } | Segment::Unknown => None,
            })
            .collect();
        let message = error.inner().message();
        let Some(packed) = message.strip_prefix(MARK) else {
            return Located { path, message: message.to_owned() };
        };
        let mut places = packed.split(MARK);
        let message = places.next_back().unwrap_or_default().to_owned();
        path.extend(places.filter_map(|place| match place.split_at_checked(1)? {
            ("#", index) => index.parse().ok().map(Place::Element),
            (_, key) => Some(Place::Key(key.to_owned())),
        }));
        Located { path, message }
    }

    fn packed(self) -> String {
        let mut packed = String::new();
        for place in self.path {
            packed.push(MARK);
            packed.push_str(&match place {
                Place::Key(key) => format!(".{key}"),
                Place::Element(index) => format!("#{index}"),
            });
        }
        packed.push(MARK);
        packed + &self.message
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;
    use crate::{Bounded, List, load};

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Service {
        name: String,
        limits: Limits,
    }

    #[derive(Clone, Debug, Default, PartialEq)]
    struct Limits {
        own: Own,
        others: Others,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Own {
        rate: Bounded<1, 10>,
    }

    impl Default for Own {
        fn default() -> Self {
            Own { rate: Bounded::of::<5>() }
        }
    }

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Others {
        ports: List<u16>,
    }

    impl Serialize for Limits {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            (&self.own, &self.others).serialize(serializer)
        }
    }

    impl<'de> Deserialize<'de> for Limits {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let mut parts = Parts::of(deserializer)?;
            let limits = Limits { own: parts.read()?, others: parts.read()? };
            parts.end().map(|()| limits)
        }
    }

    #[derive(Clone, Debug, Default, PartialEq)]
    struct File {
        service: Service,
        cluster: Cluster,
    }

    #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Cluster {
        nodes: Vec<String>,
    }

    impl<'de> Deserialize<'de> for File {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let mut parts = Parts::of(deserializer)?;
            let file = File { service: parts.read()?, cluster: parts.read()? };
            parts.end().map(|()| file)
        }
    }

    fn read(sets: &[&str]) -> Result<File, String> {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        load::<File>(None, &sets, &[]).map(|loaded| loaded.config).map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn parts_read_their_own_keys_and_keep_their_defaults() {
        assert_eq!(read(&[]), Ok(File::default()));
        let file = read(&["name=a", "nodes=[\"b\"]", "limits.rate=7", "limits.ports=1,2"]).unwrap();
        assert_eq!((file.service.name.as_str(), &file.cluster.nodes[..]), ("a", &["b".to_owned()][..]));
        assert_eq!(file.service.limits.own.rate.get(), 7);
        assert_eq!(file.service.limits.others.ports.get(), [1, 2]);
    }

    #[test]
    fn an_error_names_the_key_inside_the_part() {
        let wrong = read(&["limits.rate=11", "limits.ports=[1, 70000]", "nodes=[1]"]).unwrap_err();
        let lines: Vec<&str> = wrong.lines().collect();
        assert_eq!(lines.len(), 3, "{wrong}");
        for key in ["limits.rate = 11", "limits.ports", "nodes[0] = 1"] {
            assert!(lines.iter().any(|line| line.starts_with(key)), "{key} in {wrong}");
        }
    }

    #[test]
    fn a_key_that_no_part_has_is_unknown_and_the_nearest_of_all_parts_is_named() {
        for (set, told) in
            [("nodse=1", "nodes"), ("nmae=1", "name"), ("limits.rtae=1", "rate"), ("limits.port=1", "ports")]
        {
            let wrong = read(&[set]).unwrap_err();
            assert!(wrong.contains(&format!("did you mean {told}?")), "{wrong}");
        }
    }
}
