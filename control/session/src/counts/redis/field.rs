//! One field's value, as Go's `encoding/json` writes it.

use std::collections::{BTreeMap, HashMap};

use proto::ids::RoomId;
use serde::{Deserialize, Serialize};

use super::{CountedRooms, Rooms};

#[derive(Serialize)]
struct Written<'a> {
    server: &'a str,
    room_count: &'a Rooms<'a>,
    updated: u64,
}

#[derive(Deserialize)]
struct Read {
    /// Go writes `null` for a map that was never created.
    #[serde(default)]
    room_count: Option<BTreeMap<String, i64>>,
    #[serde(default)]
    updated: i64,
}

pub(super) fn to_json(server: &str, rooms: &Rooms<'_>, updated: u64) -> String {
    let json = serde_json::to_string(&Written { server, room_count: rooms, updated });
    escaped_as_in_go(json.expect("texts and numbers can always be written"))
}

/// Escapes what Go escapes too. Outside of texts JSON contains none of these characters.
fn escaped_as_in_go(mut json: String) -> String {
    const ESCAPED: [(char, &str); 5] = [
        ('<', "\\u003c"),
        ('>', "\\u003e"),
        ('&', "\\u0026"),
        ('\u{2028}', "\\u2028"),
        ('\u{2029}', "\\u2029"),
    ];
    for (from, to) in ESCAPED {
        if json.contains(from) {
            json = json.replace(from, to);
        }
    }
    json
}

/// None if neither Halley nor goim wrote it. Leaves out what is no room id.
pub(super) fn of_json(json: &[u8]) -> Option<CountedRooms> {
    let Read { room_count, updated } = serde_json::from_slice(json).ok()?;
    let room = |(room, people): (String, i64)| {
        let people = u32::try_from(people).ok().filter(|people| *people > 0)?;
        Some((RoomId::parse(&room).ok()?, people))
    };
    let rooms: HashMap<RoomId, u32> = room_count.into_iter().flatten().filter_map(room).collect();
    Some(CountedRooms { rooms, updated_s: u64::try_from(updated).unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_written_as_go_writes_it() {
        let rooms = Rooms::from([("live://1000", 2)]);
        assert_eq!(
            to_json("127.0.0.1:3109", &rooms, 1_795_416_741),
            r#"{"server":"127.0.0.1:3109","room_count":{"live://1000":2},"updated":1795416741}"#
        );
        let rooms = Rooms::from([("live://b", 1), ("live://a<&>\u{2028}", 2), ("ä\"", 3)]);
        assert_eq!(
            to_json("a:1", &rooms, 7),
            r#"{"server":"a:1","room_count":{"live://a\u003c\u0026\u003e\u2028":2,"live://b":1,"ä\"":3},"updated":7}"#
        );
        let read = of_json(to_json("a:1", &rooms, 7).as_bytes()).unwrap();
        assert_eq!((read.rooms.len(), read.updated_s), (3, 7));
    }

    #[test]
    fn what_go_writes_is_read_and_the_rest_is_not() {
        let read = |json: &str| of_json(json.as_bytes());
        let counted =
            read(r#"{"server":"go:1","room_count":{"live://1":2,"":5,"x":-1,"y":0},"updated":9}"#).unwrap();
        assert_eq!(counted.rooms, HashMap::from([(RoomId::parse("live://1").unwrap(), 2)]));
        let empty = Some(CountedRooms { rooms: HashMap::new(), updated_s: 9 });
        assert_eq!(read(r#"{"server":"go:1","room_count":null,"updated":9}"#), empty);
        for json in ["", "5", "[]x", r#"{"room_count":{"a":"b"}}"#, "\u{1f}"] {
            assert_eq!(read(json), None, "{json}");
        }
    }
}
