//! Sizes in bytes.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

use super::{ALLOWED, range_in_words};

/// A number of bytes in `MIN..=MAX`, written `"64KiB"`, `"1MiB"`, `"4112B"` or as a plain integer of bytes.
///
/// Units are powers of 1024: B, KiB, MiB, GiB. `MAX = u64::MAX` means no upper bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize<const MIN: u64, const MAX: u64>(u64);

/// Why a text is not a size. The operator has to change the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ByteSizeError {
    /// There is no number, or the unit is not one of the four.
    #[error("not a size: write it like \"64KiB\", \"1MiB\" or 65536")]
    Malformed,
    /// Below the smallest allowed.
    #[error("below the minimum {0}")]
    TooSmall(String),
    /// Above the largest allowed.
    #[error("above the maximum {0}")]
    TooBig(String),
}

/// The units, largest first.
const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Prints bytes in the largest unit that leaves no remainder.
fn print(bytes: u64) -> String {
    let (unit, size) = UNITS.into_iter().find(|(_, size)| bytes.is_multiple_of(*size)).unwrap_or(("B", 1));
    if bytes == 0 { "0B".to_owned() } else { format!("{}{unit}", bytes / size) }
}

impl<const MIN: u64, const MAX: u64> ByteSize<MIN, MAX> {
    /// Bytes known at compile time, for defaults: `ByteSize::bytes::<4112>()`. A size out of range does not compile.
    pub const fn bytes<const BYTES: u64>() -> Self {
        const { assert!(MIN <= BYTES && BYTES <= MAX, "the size is out of its own bounds") };
        Self(BYTES)
    }

    /// KiB known at compile time: `ByteSize::kib::<64>()`. A size out of range does not compile.
    pub const fn kib<const KIB: u64>() -> Self {
        const { assert!(MIN <= KIB << 10 && KIB << 10 <= MAX, "the size is out of its own bounds") };
        Self(KIB << 10)
    }

    /// MiB known at compile time: `ByteSize::mib::<1>()`. A size out of range does not compile.
    pub const fn mib<const MIB: u64>() -> Self {
        const { assert!(MIN <= MIB << 20 && MIB << 20 <= MAX, "the size is out of its own bounds") };
        Self(MIB << 20)
    }

    /// A size known at run time.
    ///
    /// # Errors
    /// The size is out of range. The words name the bound.
    pub fn new(bytes: u64) -> Result<Self, ByteSizeError> {
        if bytes < MIN {
            Err(ByteSizeError::TooSmall(print(MIN)))
        } else if bytes > MAX {
            Err(ByteSizeError::TooBig(print(MAX)))
        } else {
            Ok(Self(bytes))
        }
    }

    /// Bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Bytes as `u32`; compiles only where `MAX` fits.
    pub const fn u32(self) -> u32 {
        const { assert!(MAX <= u32::MAX as u64, "MAX does not fit u32") };
        self.0 as u32
    }

    /// Bytes as `usize`; compiles only where `MAX` fits.
    pub const fn usize(self) -> usize {
        const { assert!(MAX <= usize::MAX as u64, "MAX does not fit usize") };
        self.0 as usize
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for ByteSize<MIN, MAX> {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let size = match unit.trim_start() {
            "" => 1,
            unit => UNITS.into_iter().find(|(name, _)| *name == unit).ok_or(ByteSizeError::Malformed)?.1,
        };
        if number.is_empty() {
            return Err(ByteSizeError::Malformed);
        }
        // These are digits only, so a number that does not fit is too big, not malformed.
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(size));
        Self::new(bytes.ok_or_else(|| ByteSizeError::TooBig(print(MAX)))?)
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for ByteSize<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self.0))
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for ByteSize<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for ByteSize<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Size<const MIN: u64, const MAX: u64>;

        impl<const MIN: u64, const MAX: u64> Visitor<'_> for Size<MIN, MAX> {
            type Value = ByteSize<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"64KiB\" or 65536")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Self::Value, E> {
                ByteSize::new(bytes).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Self::Value, E> {
                match u64::try_from(bytes) {
                    Ok(bytes) => self.visit_u64(bytes),
                    Err(_) => Err(E::custom(ByteSizeError::TooSmall(print(MIN)))),
                }
            }
        }

        deserializer.deserialize_any(Size)
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for ByteSize<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("ByteSize_{MIN}_to_{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({ "type": ["string", "integer"] });
        schema.insert(ALLOWED.to_owned(), range_in_words(MIN, MAX, print).into());
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Any = ByteSize<0, { u64::MAX }>;
    type Queue = ByteSize<1024, 1_048_576>;

    #[test]
    fn units_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65536),
            ("4112B", 4112),
            ("64KiB", 64 << 10),
            ("64 KiB", 64 << 10),
            ("1MiB", 1 << 20),
            ("2GiB", 2 << 30),
        ] {
            assert_eq!(text.parse::<Any>().map(Any::get), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn ambiguous_or_broken_text_is_refused() {
        for text in ["", "KiB", "64KB", "64K", "64kib", "-1", "1.5MiB", "1MiB2", "one"] {
            assert_eq!(text.parse::<Any>(), Err(ByteSizeError::Malformed), "{text}");
        }
    }

    #[test]
    fn a_broken_bound_is_named() {
        assert_eq!("1KiB".parse::<Queue>().map(Queue::get), Ok(1024));
        assert_eq!("1MiB".parse::<Queue>().map(Queue::get), Ok(1 << 20));
        assert_eq!("1023".parse::<Queue>().unwrap_err().to_string(), "below the minimum 1KiB");
        for text in ["1048577", "99999999999999999999GiB", "18446744073709551615GiB"] {
            assert_eq!(text.parse::<Queue>().unwrap_err().to_string(), "above the maximum 1MiB", "{text}");
        }
    }

    #[test]
    fn prints_the_largest_exact_unit_and_reads_it_back() {
        for (bytes, printed) in [
            (0, "0B"),
            (1, "1B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (1025, "1025B"),
            (3 << 20, "3MiB"),
            (1 << 40, "1024GiB"),
        ] {
            let size = Any::new(bytes).unwrap();
            assert_eq!(size.to_string(), printed);
            assert_eq!(printed.parse(), Ok(size));
        }
    }

    #[test]
    fn toml_may_hold_a_text_or_an_integer() {
        #[derive(Debug, Deserialize)]
        struct File {
            size: Queue,
        }
        let read = |toml: &str| {
            toml::from_str::<File>(toml).map(|f| f.size.get()).map_err(|e| e.message().to_owned())
        };
        assert_eq!(read("size = 4096"), Ok(4096));
        assert_eq!(read("size = \"4KiB\""), Ok(4096));
        assert_eq!(read("size = -1"), Err("below the minimum 1KiB".to_owned()));
        assert!(read("size = true").unwrap_err().ends_with("expected a size such as \"64KiB\" or 65536"));
    }

    #[test]
    fn constants_hold_what_they_say() {
        const SIZE: Queue = Queue::kib::<64>();
        assert_eq!((SIZE.get(), SIZE.u32(), SIZE.usize()), (65536, 65536, 65536));
        assert_eq!(Queue::mib::<1>(), Queue::bytes::<1_048_576>());
    }
}
