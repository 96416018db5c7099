//! Ids as types, so that bare strings and integers cannot be confused.
//!
//! All of them are cheap to clone and to send, and serialise as the bare value.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Longest room id, bytes. A longer one is refused.
pub const ROOM_ID_LEN_MAX: usize = 128;

/// Longest device key a client may choose, bytes.
pub const KEY_LEN_MAX: usize = 128;

/// What all ids that are strings have.
macro_rules! string_id {
    ($name:ident) => {
        impl $name {
            /// The id as it is on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        /// Lets a map with this key be searched by `&str`.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

/// Device key. It names one device of one user. At most one live connection has it.
///
/// It may be any text. [`Login::parse`](crate::login::Login::parse) checks what a *client* may choose; a key from a
/// backend is only looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

string_id!(Key);

impl Key {
    /// A key of this text.
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        Key(key.into())
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Key::new)
    }
}

/// One comet, `host:port`. This is its value in etcd, the `server` of a session, and the address to which job connects.
/// All three are compared byte by byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(Arc<str>);

string_id!(ServerId);

impl ServerId {
    /// A comet of this text.
    pub fn new(server: impl Into<Arc<str>>) -> Self {
        ServerId(server.into())
    }
}

impl<'de> Deserialize<'de> for ServerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(ServerId::new)
    }
}

/// A room, usually `type://id` such as `live://1000`: 1 to 128 bytes without control characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomId(Arc<str>);

string_id!(RoomId);

/// Why a text is no room id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoomIdError {
    /// A room has a name. Where the wire allows an empty text, it means "no room".
    #[error("a room id may not be empty")]
    Empty,
    /// It has more than [`ROOM_ID_LEN_MAX`] bytes.
    #[error("a room id has at most {ROOM_ID_LEN_MAX} bytes, this one has {len}")]
    TooLong {
        /// Bytes of the refused text.
        len: usize,
    },
    /// It has a control character, which could forge lines in logs and reports.
    #[error("a room id may not contain control characters, byte {at} starts one")]
    ControlCharacter {
        /// Offset of the character, bytes.
        at: usize,
    },
}

impl RoomId {
    /// Takes a room id as it is on the wire.
    ///
    /// # Errors
    /// Empty, longer than 128 bytes, or with a control character.
    pub fn parse(room: &str) -> Result<RoomId, RoomIdError> {
        if room.is_empty() {
            return Err(RoomIdError::Empty);
        }
        if room.len() > ROOM_ID_LEN_MAX {
            return Err(RoomIdError::TooLong { len: room.len() });
        }
        if let Some((at, _)) = room.char_indices().find(|(_, c)| c.is_control()) {
            return Err(RoomIdError::ControlCharacter { at });
        }
        Ok(RoomId(room.into()))
    }

    /// The room `kind://name`, as the HTTP API's `type` and `room` name it.
    ///
    /// # Errors
    /// As [`RoomId::parse`] for the whole id.
    pub fn of(kind: &str, name: &str) -> Result<RoomId, RoomIdError> {
        RoomId::parse(&format!("{kind}://{name}"))
    }

    /// What stands before `://` (`live`); empty when there is no `://`.
    pub fn kind(&self) -> &str {
        self.0.split_once("://").map_or("", |(kind, _)| kind)
    }

    /// What stands after `://` (`1000`); the whole id when there is no `://`.
    pub fn name(&self) -> &str {
        self.0.split_once("://").map_or(&self.0, |(_, name)| name)
    }
}

impl<'de> Deserialize<'de> for RoomId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RoomId::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// User id. 0 is legal and means nobody in particular.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mid(pub i64);

impl fmt::Display for Mid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Orders the logins of one key: the one with the higher generation is newer. Starts at 1; 0 on the wire means "none".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub i64);

impl Generation {
    /// Reads it as messages carry it: 0 means none.
    pub fn from_wire(generation: i64) -> Option<Generation> {
        (generation != 0).then_some(Generation(generation))
    }

    /// Writes it as messages carry it.
    pub fn to_wire(generation: Option<Generation>) -> i64 {
        generation.map_or(0, |generation| generation.0)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn room_id_has_kind_and_name() {
        for (id, kind, name) in
            [("live://1000", "live", "1000"), ("a", "", "a"), ("x://y://z", "x", "y://z"), ("://", "", "")]
        {
            let room = RoomId::parse(id).unwrap();
            assert_eq!((room.kind(), room.name()), (kind, name), "{id}");
        }
        assert_eq!(RoomId::of("live", "1000"), RoomId::parse("live://1000"));
    }

    #[test]
    fn room_id_is_refused_outside_its_bounds() {
        assert_eq!(RoomId::parse(""), Err(RoomIdError::Empty));
        assert!(RoomId::parse(&"r".repeat(128)).is_ok());
        assert_eq!(RoomId::parse(&"r".repeat(129)), Err(RoomIdError::TooLong { len: 129 }));
        for (id, at) in [("a\nb", 1), ("\0", 0), ("é\u{7f}", 2), ("ab\u{85}", 2)] {
            assert_eq!(RoomId::parse(id), Err(RoomIdError::ControlCharacter { at }), "{id:?}");
        }
    }

    #[test]
    fn ids_serialise_as_the_bare_value() {
        let ids = (
            Key::new("k1"),
            RoomId::parse("live://1").unwrap(),
            ServerId::new("h:1"),
            Mid(-3),
            Generation(7),
        );
        let json = serde_json::to_string(&ids).unwrap();
        assert_eq!(json, r#"["k1","live://1","h:1",-3,7]"#);
        let back: (Key, RoomId, ServerId, Mid, Generation) = serde_json::from_str(&json).unwrap();
        assert_eq!(back, ids);
    }

    #[test]
    fn a_bad_room_id_does_not_deserialise() {
        assert!(serde_json::from_str::<RoomId>("\"\"").is_err());
    }

    #[test]
    fn a_map_of_keys_is_searched_by_text() {
        let map = HashMap::from([(Key::new("k1"), 1)]);
        assert_eq!(map.get("k1"), Some(&1));
    }
}
