//! Values of the command line that have a unit or bounds.

use std::time::Duration;

use crate::message;

/// `20s`, `250ms`, `1m30s`, `2h`: a bare number has no unit and is refused.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 4] = [("ms", 1e-3), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
    let error = || format!("{text:?} is not a duration such as 20s, 250ms or 1m30s");
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
        let number: f64 = rest[..digits].parse().map_err(|_| error())?;
        rest = &rest[digits..];
        let (unit, scale) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(error)?;
        rest = &rest[unit.len()..];
        seconds += number * scale;
    }
    match text.is_empty() {
        true => Err(error()),
        false => Duration::try_from_secs_f64(seconds).map_err(|_| error()),
    }
}

/// A body length that a message of a run fits in.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let (low, high) = (message::SIZE_MIN, message::SIZE_MAX);
    match text.parse() {
        Ok(size) if (low..=high).contains(&size) => Ok(size),
        _ => Err(format!("must be {low} to {high} bytes: a message carries its run, number and time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, ms) in [("20s", 20_000), ("250ms", 250), ("1m30s", 90_000), ("1.5s", 1500), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "20", "s", "1d", "-1s", "1s5"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_message_fits_in_its_size() {
        assert_eq!(size("60"), Ok(60));
        for text in ["46", "1048577", "-1", "x"] {
            assert!(size(text).is_err_and(|why| why.contains("47 to 1048576")), "{text}");
        }
    }
}
