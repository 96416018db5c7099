//! Integers with a range.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, Visitor},
};

use super::{ALLOWED, range_in_words};

/// An integer in `MIN..=MAX`. `MAX = u64::MAX` means no upper bound (TOML itself ends at 2^63 - 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Bounded<const MIN: u64, const MAX: u64>(u64);

/// A number outside the range of its [`Bounded`]. The operator has to change the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be {allowed}")]
pub struct OutOfBounds {
    /// The range in words, such as `1 to 65535`.
    pub allowed: String,
}

impl<const MIN: u64, const MAX: u64> Bounded<MIN, MAX> {
    /// A value known at compile time, for defaults: `Bounded::of::<30>()`. A value out of range does not compile.
    pub const fn of<const VALUE: u64>() -> Self {
        const { assert!(MIN <= VALUE && VALUE <= MAX, "the value is out of its own bounds") };
        Self(VALUE)
    }

    /// A value known at run time.
    ///
    /// # Errors
    /// The value is out of range.
    pub fn new(value: u64) -> Result<Self, OutOfBounds> {
        if (MIN..=MAX).contains(&value) {
            Ok(Self(value))
        } else {
            Err(OutOfBounds { allowed: Self::allowed() })
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as `u16`; compiles only where `MAX` fits.
    pub const fn u16(self) -> u16 {
        const { assert!(MAX <= u16::MAX as u64, "MAX does not fit u16") };
        self.0 as u16
    }

    /// The number as `u32`; compiles only where `MAX` fits.
    pub const fn u32(self) -> u32 {
        const { assert!(MAX <= u32::MAX as u64, "MAX does not fit u32") };
        self.0 as u32
    }

    /// The number as `usize`; compiles only where `MAX` fits.
    pub const fn usize(self) -> usize {
        const { assert!(MAX <= usize::MAX as u64, "MAX does not fit usize") };
        self.0 as usize
    }

    fn allowed() -> String {
        range_in_words(MIN, MAX, |n| n.to_string())
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Bounded<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number<const MIN: u64, const MAX: u64>;

        impl<const MIN: u64, const MAX: u64> Visitor<'_> for Number<MIN, MAX> {
            type Value = Bounded<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an integer, {}", Bounded::<MIN, MAX>::allowed())
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
                Bounded::new(value).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
                match u64::try_from(value) {
                    Ok(value) => self.visit_u64(value),
                    Err(_) => Err(E::custom(OutOfBounds { allowed: Bounded::<MIN, MAX>::allowed() })),
                }
            }
        }

        deserializer.deserialize_u64(Number)
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Bounded<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Integer_{MIN}_to_{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX });
        schema.insert(ALLOWED.to_owned(), Self::allowed().into());
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Port = Bounded<1, 65535>;

    #[derive(Debug, Deserialize)]
    struct File {
        port: Port,
    }

    fn read(toml: &str) -> Result<u64, String> {
        toml::from_str::<File>(toml).map(|file| file.port.get()).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn both_ends_of_the_range_are_inside() {
        assert_eq!(read("port = 1"), Ok(1));
        assert_eq!(read("port = 65535"), Ok(65535));
    }

    #[test]
    fn what_is_outside_is_refused_with_the_range() {
        for outside in ["0", "-1", "65536", "9223372036854775807", "-9223372036854775808"] {
            assert_eq!(read(&format!("port = {outside}")), Err("must be 1 to 65535".to_owned()), "{outside}");
        }
    }

    #[test]
    fn another_type_is_refused_with_what_was_expected() {
        let error = read("port = \"3101\"").unwrap_err();
        assert!(error.ends_with("expected an integer, 1 to 65535"), "{error}");
    }

    #[test]
    fn no_upper_bound_reads_as_at_least() {
        assert_eq!(Bounded::<2, { u64::MAX }>::new(1).unwrap_err().to_string(), "must be at least 2");
    }

    #[test]
    fn constants_and_conversions_keep_the_number() {
        const PORT: Port = Port::of::<3101>();
        assert_eq!((PORT.get(), PORT.u16(), PORT.u32(), PORT.usize()), (3101, 3101, 3101, 3101));
        assert_eq!(PORT.to_string(), "3101");
    }
}
