//! Lists that may be written as one string.

use std::{borrow::Cow, fmt, marker::PhantomData, ops::Deref, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, SeqAccess, Visitor},
};

/// A list, in TOML an array or one string with commas: `["a", "b"]` or `"a, b"`. Empty parts between commas are
/// dropped, so `""` is the empty list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct List<T>(Vec<T>);

/// A list of texts.
pub type StringList = List<String>;

impl<T> List<T> {
    /// The elements, in the order given.
    pub fn get(&self) -> &[T] {
        &self.0
    }
}

// Not derived, since that would require `T: Default`.
impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> From<Vec<T>> for List<T> {
    fn from(elements: Vec<T>) -> Self {
        Self(elements)
    }
}

impl<T, A: Into<T>> FromIterator<A> for List<T> {
    fn from_iter<I: IntoIterator<Item = A>>(elements: I) -> Self {
        Self(elements.into_iter().map(Into::into).collect())
    }
}

impl<'de, T> Deserialize<'de> for List<T>
where
    T: Deserialize<'de> + FromStr<Err: fmt::Display>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        one_or_many(deserializer).map(Self)
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("ListOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["array", "string"], "items": generator.subschema_for::<T>() })
    }
}

/// Reads an array of `T`, one string with commas, or one number, which is a list of one.
pub(super) fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + FromStr<Err: fmt::Display>,
{
    struct OneOrMany<T>(PhantomData<T>);

    impl<'de, T> Visitor<'de> for OneOrMany<T>
    where
        T: Deserialize<'de> + FromStr<Err: fmt::Display>,
    {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list, or one string with commas")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(|part| part.parse().map_err(E::custom)).collect()
        }

        // `--set` reads `1000` as a number, whatever the list holds.
        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Vec<T>, E> {
            self.visit_str(&number.to_string())
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Vec<T>, E> {
            self.visit_str(&number.to_string())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(element) = elements.next_element()? {
                list.push(element);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_any(OneOrMany(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct File {
        texts: StringList,
        numbers: List<i64>,
    }

    fn read(toml: &str) -> Result<File, String> {
        toml::from_str(toml).map_err(|e: toml::de::Error| e.message().to_owned())
    }

    #[test]
    fn an_array_and_a_string_with_commas_are_the_same_list() {
        for written in ["[\"a\", \"b\"]", "\"a,b\"", "\" a , b \"", "\",a,,b,\""] {
            assert_eq!(*read(&format!("texts = {written}")).unwrap().texts, ["a", "b"], "{written}");
        }
        assert_eq!(*read("numbers = [1, 2]").unwrap().numbers, [1, 2]);
        assert_eq!(*read("numbers = \"1,2\"").unwrap().numbers, [1, 2]);
    }

    #[test]
    fn one_number_is_a_list_of_one() {
        assert_eq!(*read("numbers = 7").unwrap().numbers, [7]);
        assert_eq!(*read("texts = 1000").unwrap().texts, ["1000"]);
    }

    #[test]
    fn nothing_is_the_empty_list() {
        for written in ["[]", "\"\"", "\" , \""] {
            assert!(read(&format!("texts = {written}")).unwrap().texts.is_empty(), "{written}");
        }
    }

    #[test]
    fn elements_of_another_type_are_refused() {
        assert_eq!(read("numbers = \"1,x\"").unwrap_err(), "invalid digit found in string");
        assert!(read("texts = [1]").is_err());
        assert!(read("texts = true").unwrap_err().ends_with("expected a list, or one string with commas"));
    }
}
