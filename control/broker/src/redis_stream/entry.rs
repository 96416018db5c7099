//! Entries of a stream as Redis sends them.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use redis::Value;

/// Id of an entry, `ms-seq`, as one number in the same order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryId(pub(super) u128);

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0 >> 64, self.0 as u64)
    }
}

/// This text is no id of an entry.
#[derive(Debug)]
pub(super) struct NoId;

impl FromStr for EntryId {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        let (ms, seq) = text.split_once('-').ok_or(NoId)?;
        let parse = |part: &str| part.parse::<u64>().map_err(|_| NoId);
        Ok(EntryId(u128::from(parse(ms)?) << 64 | u128::from(parse(seq)?)))
    }
}

/// An entry. Its bytes are an envelope, or whatever another program has put there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: EntryId,
    pub(super) bytes: Bytes,
}

/// Reads the answer of `XREAD`: the streams that have something, by name, with their entries. None if it is no such
/// answer.
pub(super) fn streams(answer: Value) -> Option<Vec<(String, Vec<Entry>)>> {
    let Value::Array(streams) = answer else {
        return matches!(answer, Value::Nil).then(Vec::new);
    };
    streams
        .into_iter()
        .map(|stream| {
            let [name, entries] = array(stream)?;
            let Value::Array(entries) = entries else { return None };
            let entries = entries.into_iter().map(entry).collect::<Option<_>>()?;
            Some((String::from_utf8(text(name)?).ok()?, entries))
        })
        .collect()
}

/// Reads one entry. The value of its first field is the envelope. We write one field; job judges what others write.
fn entry(value: Value) -> Option<Entry> {
    let [id, fields] = array(value)?;
    let Value::Array(fields) = fields else { return None };
    let bytes = text(fields.into_iter().nth(1)?)?.into();
    let id = std::str::from_utf8(&text(id)?).ok()?.parse().ok()?;
    Some(Entry { id, bytes })
}

fn array<const N: usize>(value: Value) -> Option<[Value; N]> {
    match value {
        Value::Array(values) => values.try_into().ok(),
        _ => None,
    }
}

fn text(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_written_and_compared_as_redis_does() {
        let ids = ["0-0", "0-1", "1795416741000-0", "1795416741000-18446744073709551615", "1795416741001-0"];
        let parsed: Vec<EntryId> = ids.iter().map(|id| id.parse().unwrap()).collect();
        assert!(parsed.is_sorted_by(|a, b| a < b));
        assert_eq!(parsed.iter().map(EntryId::to_string).collect::<Vec<_>>(), ids);
        for text in ["", "1", "-", "1-", "a-1", "1-18446744073709551616"] {
            assert!(text.parse::<EntryId>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_answer_that_is_none_is_told_apart() {
        assert_eq!(streams(Value::Nil), Some(vec![]));
        for answer in [Value::Okay, Value::Array(vec![Value::Nil]), Value::Array(vec![Value::Array(vec![])])]
        {
            assert_eq!(streams(answer), None);
        }
    }
}
