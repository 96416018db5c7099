//! Durations as Go writes them.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

use super::{range_in_words, string_schema};

/// A duration read as Go's `time.ParseDuration` reads it: `"1m30s"`, `"1.5h"`, `"250ms"`, units ns, us (µs), ms, s, m, h.
///
/// Never negative, and at most Go's 2^63 - 1 nanoseconds. A number without a unit is refused, except zero. Printed with
/// Go's units but without parts that are zero, as in goim's files: `4m`, not `4m0s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(pub Duration);

/// Why a text is not a duration. The operator has to change the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// There is no unit.
    #[error("needs a unit: \"{0}s\" for seconds, \"{0}ms\" for milliseconds")]
    NoUnit(String),
    /// Go does not know this unit.
    #[error("unknown unit {0:?}: use h, m, s, ms, us or ns")]
    UnknownUnit(String),
    /// It is below zero.
    #[error("must not be negative")]
    Negative,
    /// Above 2^63 - 1 nanoseconds, about 292 years.
    #[error("too long: at most 2562047h")]
    TooLong,
    /// Anything else.
    #[error("not a duration: write it like \"1m30s\" or \"250ms\"")]
    Malformed,
}

impl GoDuration {
    /// Whole seconds.
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// Whole milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Duration> for GoDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

/// Nanoseconds of one unit.
fn unit_ns(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        // Both micro signs, U+00B5 and U+03BC, as in Go.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// Splits off the longest run of digits at the front.
fn leading_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if unsigned == "0" {
            return Ok(Self(Duration::ZERO));
        }
        if unsigned.is_empty() {
            return Err(DurationError::Malformed);
        }
        let mut total: u64 = 0;
        let mut rest = unsigned;
        while !rest.is_empty() {
            let (whole, after_whole) = leading_digits(rest);
            let (fraction, after_number) = match after_whole.strip_prefix('.') {
                Some(after_point) => leading_digits(after_point),
                None => ("", after_whole),
            };
            if whole.is_empty() && fraction.is_empty() {
                return Err(DurationError::Malformed);
            }
            let unit_len =
                after_number.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after_number.len());
            let (unit, next) = after_number.split_at(unit_len);
            if unit.is_empty() {
                return Err(DurationError::NoUnit(rest[..rest.len() - after_number.len()].to_owned()));
            }
            let unit_ns = unit_ns(unit).ok_or_else(|| DurationError::UnknownUnit(unit.to_owned()))?;
            total = part_ns(whole, fraction, unit_ns)
                .and_then(|part| total.checked_add(part))
                .filter(|total| i64::try_from(*total).is_ok())
                .ok_or(DurationError::TooLong)?;
            rest = next;
        }
        if negative && total > 0 {
            return Err(DurationError::Negative);
        }
        Ok(Self(Duration::from_nanos(total)))
    }
}

/// Nanoseconds of `whole.fraction` units. As in Go, digits below a nanosecond are cut off. `None` if it is too long.
fn part_ns(whole: &str, fraction: &str, unit_ns: u64) -> Option<u64> {
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Eighteen digits are more than an hour needs to be exact to a nanosecond, and they fit into u64.
    let fraction = &fraction[..fraction.len().min(18)];
    let digits: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let fraction_ns = digits * u128::from(unit_ns) / 10_u128.pow(fraction.len() as u32);
    whole.checked_mul(unit_ns)?.checked_add(u64::try_from(fraction_ns).ok()?)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos();
        match ns {
            0 => return f.write_str("0s"),
            1..1_000 => return write!(f, "{ns}ns"),
            1_000..1_000_000 => return write_decimal(f, ns, 1_000, "µs"),
            1_000_000..1_000_000_000 => return write_decimal(f, ns, 1_000_000, "ms"),
            _ => {}
        }
        let seconds = self.0.as_secs();
        if seconds >= 3600 {
            write!(f, "{}h", seconds / 3600)?;
        }
        let minutes = seconds / 60 % 60;
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        let below_a_minute = ns % 60_000_000_000;
        if below_a_minute > 0 {
            write_decimal(f, below_a_minute, 1_000_000_000, "s")?;
        }
        Ok(())
    }
}

/// Writes `ns / unit_ns` with as many decimals as it has, and the unit.
fn write_decimal(f: &mut fmt::Formatter<'_>, ns: u128, unit_ns: u128, unit: &str) -> fmt::Result {
    write!(f, "{}", ns / unit_ns)?;
    let below = ns % unit_ns;
    if below > 0 {
        let width = unit_ns.ilog10() as usize;
        let digits = format!("{below:0width$}");
        write!(f, ".{}", digits.trim_end_matches('0'))?;
    }
    f.write_str(unit)
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = GoDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"1m30s\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                text.parse().map_err(E::custom)
            }

            // A bare number is read only to be refused with helpful words.
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<GoDuration, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<GoDuration, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<GoDuration, E> {
                self.visit_str(&number.to_string())
            }
        }

        deserializer.deserialize_any(Text)
    }
}

impl JsonSchema for GoDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "GoDuration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        string_schema(None)
    }
}

/// A [`GoDuration`] in `MIN_MS..=MAX_MS` milliseconds. `MAX_MS = u64::MAX` means no upper bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BoundedDuration<const MIN_MS: u64, const MAX_MS: u64>(Duration);

impl<const MIN_MS: u64, const MAX_MS: u64> BoundedDuration<MIN_MS, MAX_MS> {
    /// Milliseconds known at compile time, for defaults: `BoundedDuration::millis::<250>()`. A duration out of range
    /// does not compile.
    pub const fn millis<const MS: u64>() -> Self {
        const { assert!(MIN_MS <= MS && MS <= MAX_MS, "the duration is out of its own bounds") };
        Self(Duration::from_millis(MS))
    }

    /// Seconds known at compile time, for defaults: `BoundedDuration::secs::<5>()`. A duration out of range does not
    /// compile.
    pub const fn secs<const SECS: u64>() -> Self {
        const { assert!(MIN_MS <= SECS * 1000 && SECS * 1000 <= MAX_MS, "the duration is out of its own bounds") };
        Self(Duration::from_secs(SECS))
    }

    /// A duration known at run time.
    ///
    /// # Errors
    /// The duration is out of range. The words name the bound.
    pub fn new(duration: Duration) -> Result<Self, String> {
        let bound = |ms| GoDuration::millis(ms);
        if duration < Duration::from_millis(MIN_MS) {
            Err(format!("below the minimum {}", bound(MIN_MS)))
        } else if duration > Duration::from_millis(MAX_MS) {
            Err(format!("above the maximum {}", bound(MAX_MS)))
        } else {
            Ok(Self(duration))
        }
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl<const MIN_MS: u64, const MAX_MS: u64> fmt::Display for BoundedDuration<MIN_MS, MAX_MS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        GoDuration(self.0).fmt(f)
    }
}

impl<const MIN_MS: u64, const MAX_MS: u64> Serialize for BoundedDuration<MIN_MS, MAX_MS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const MIN_MS: u64, const MAX_MS: u64> Deserialize<'de> for BoundedDuration<MIN_MS, MAX_MS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(GoDuration::deserialize(deserializer)?.0).map_err(de::Error::custom)
    }
}

impl<const MIN_MS: u64, const MAX_MS: u64> JsonSchema for BoundedDuration<MIN_MS, MAX_MS> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Duration_{MIN_MS}_to_{MAX_MS}_ms").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        string_schema(Some(range_in_words(MIN_MS, MAX_MS, |ms| GoDuration::millis(ms).to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(text: &str) -> Result<u128, DurationError> {
        text.parse::<GoDuration>().map(|d| d.0.as_nanos())
    }

    #[test]
    fn reads_what_go_reads() {
        for (text, expected) in [
            ("0", 0),
            ("+0", 0),
            ("-0", 0),
            ("0s", 0),
            ("-0s", 0),
            ("5s", 5_000_000_000),
            ("+5s", 5_000_000_000),
            ("5.0s", 5_000_000_000),
            ("5.s", 5_000_000_000),
            (".5s", 500_000_000),
            ("5.6s", 5_600_000_000),
            ("1.004s", 1_004_000_000),
            ("300ms", 300_000_000),
            ("1.5h", 5_400_000_000_000),
            ("1h15m30.918s", 4_530_918_000_000),
            ("1h1h", 7_200_000_000_000),
            ("2us", 2_000),
            ("12µs", 12_000),
            ("12μs", 12_000),
            ("10ns", 10),
            ("0.3333333333333333333h", 1_200_000_000_000 - 1),
            ("0.100000000000000000000h", 360_000_000_000),
            ("0.9ns", 0),
            ("9223372036854775807ns", i64::MAX as u128),
            ("9223372036s854ms775us807ns", i64::MAX as u128),
        ] {
            assert_eq!(ns(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses_and_says_why() {
        use DurationError::*;
        for (text, expected) in [
            ("", Malformed),
            ("-", Malformed),
            ("+", Malformed),
            ("s", Malformed),
            (".", Malformed),
            (".s", Malformed),
            ("+.s", Malformed),
            (" 5s", Malformed),
            ("--5s", Malformed),
            ("5", NoUnit("5".into())),
            ("90", NoUnit("90".into())),
            ("1.5", NoUnit("1.5".into())),
            ("1m30", NoUnit("30".into())),
            ("5d", UnknownUnit("d".into())),
            ("5 s", UnknownUnit(" s".into())),
            ("1m 30s", UnknownUnit("m ".into())),
            ("5S", UnknownUnit("S".into())),
            ("-5s", Negative),
            ("9223372036854775808ns", TooLong),
            ("9223372036854ms775us808ns", TooLong),
            ("3000000h", TooLong),
            ("99999999999999999999999s", TooLong),
        ] {
            assert_eq!(ns(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn prints_go_units_without_empty_parts() {
        for (text, printed) in [
            ("0", "0s"),
            ("1ns", "1ns"),
            ("1100ns", "1.1µs"),
            ("2200us", "2.2ms"),
            ("250ms", "250ms"),
            ("3300ms", "3.3s"),
            ("60s", "1m"),
            ("90s", "1m30s"),
            ("4m5.001s", "4m5.001s"),
            ("60m", "1h"),
            ("1h5s", "1h5s"),
            ("1h15m30.918s", "1h15m30.918s"),
        ] {
            assert_eq!(text.parse::<GoDuration>().unwrap().to_string(), printed, "{text}");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for exponent in 0..63 {
            for offset in 0..3 {
                let duration = GoDuration(Duration::from_nanos((1 << exponent) + offset * 7));
                assert_eq!(duration.to_string().parse(), Ok(duration));
            }
        }
    }

    #[derive(Debug, Deserialize)]
    struct File {
        plain: Option<GoDuration>,
        bounded: Option<BoundedDuration<100, 60_000>>,
    }

    fn error(toml: &str) -> String {
        toml::from_str::<File>(toml).unwrap_err().message().to_owned()
    }

    #[test]
    fn bare_numbers_are_refused_with_both_ways_to_write_them() {
        assert_eq!(error("plain = 5"), "needs a unit: \"5s\" for seconds, \"5ms\" for milliseconds");
        assert_eq!(error("plain = 1.5"), "needs a unit: \"1.5s\" for seconds, \"1.5ms\" for milliseconds");
        assert_eq!(toml::from_str::<File>("plain = 0").unwrap().plain, Some(GoDuration::secs(0)));
    }

    #[test]
    fn other_types_are_refused() {
        assert!(error("plain = true").ends_with("expected a duration such as \"1m30s\""));
        assert!(error("plain = [\"5s\"]").ends_with("expected a duration such as \"1m30s\""));
    }

    #[test]
    fn a_bound_is_named_when_broken() {
        assert_eq!(error("bounded = \"90s\""), "above the maximum 1m");
        assert_eq!(error("bounded = \"60.000000001s\""), "above the maximum 1m");
        assert_eq!(error("bounded = \"99ms\""), "below the minimum 100ms");
        assert!(error("bounded = 5").starts_with("needs a unit"));
        for inside in ["100ms", "60s"] {
            let file: File = toml::from_str(&format!("bounded = \"{inside}\"")).unwrap();
            assert_eq!(GoDuration(file.bounded.unwrap().get()), inside.parse().unwrap());
        }
    }

    #[test]
    fn constants_hold_what_they_say() {
        const FIVE: BoundedDuration<100, 60_000> = BoundedDuration::secs::<5>();
        assert_eq!(FIVE, BoundedDuration::millis::<5000>());
        assert_eq!(FIVE.get(), Duration::from_secs(5));
    }
}
